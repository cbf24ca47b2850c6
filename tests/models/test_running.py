"""Answers in flight together: whatever joins, leaves and differs beside them, they are what they are alone."""

from __future__ import annotations

import random

import pytest
import torch

from tests import tiny
from truing.models import Model
from truing.models.engine import Engine
from truing.models.running import Flight, Running
from truing.models.sampling import noise_stream, pick
from truing.models.types import Row, Sampling

PROMPTS = ["the cat", "a red bird sat on the mat", "what is the colour of the stone?", "x", "grey, of course"]
SAMPLINGS = [
    Sampling(12, 0.0),
    Sampling(9, 1.0, seed=3),
    Sampling(12, 1.0, seed=2**62),
    Sampling(5, 0.7, top_p=0.8, seed=3),
    Sampling(12, 1.3, top_k=7, seed=8, stop=("e",)),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny.network(), tiny.tokenizer())


def flight(engine: Engine, text: str, sampling: Sampling, top: int = 0) -> tuple[Row, Flight]:
    row = Row([{"role": "user", "content": text}], tuple(engine.model.encode_prompt(text)))
    return row, Flight(engine.draft(row, sampling), noise_stream(row.tokens), sampling, top)


def test_rows_that_join_and_leave_at_any_step_write_what_they_write_alone(model: Model) -> None:
    engine = Engine(model)
    draw = random.Random(0)
    pairs = [flight(engine, text, draw.choice(SAMPLINGS)) for text in PROMPTS * 4]
    waiting, gone, running = list(pairs), [], None
    while waiting or running.flights:
        for _ in range(draw.randrange(3)):
            if waiting:
                row, new = waiting.pop()
                batch = engine.prefill([row.tokens])
                if running is None:
                    running = Running(batch, [new])
                else:
                    running.join(batch, [new])
        if running is not None and running.flights:
            if draw.random() < 0.15:
                gone.append(draw.choice(running.flights))
                running.leave(gone[-1:])
            if running.flights:
                running.step()
    assert gone
    for row, one in pairs:
        alone = engine.generate([row], one.sampling)[0][0]
        if one in gone:
            assert alone.tokens[: one.written] == one.draft.tokens
            continue
        assert one.draft.completion().tokens == alone.tokens
        assert one.draft.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
        assert (one.draft.text, one.draft.reason) == (alone.text, alone.finish_reason)


def test_seeds_of_rows_stand_for_the_seed_of_the_sampling() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    seeds, streams = [1, 2, 1, 9, 2**62, 0], [5, 5, 5, 7, 7, 7]
    for how in ({}, {"top_k": 9}, {"top_p": 0.7}):
        together = pick(logits, Sampling(temperature=1.0, **how), streams, 4, seeds).tolist()
        alone = [
            int(pick(logits[at : at + 1], Sampling(temperature=1.0, seed=seed, **how), [streams[at]], 4))
            for at, seed in enumerate(seeds)
        ]
        assert together == alone


def test_the_likeliest_tokens_of_each_step_are_noted(model: Model) -> None:
    engine = Engine(model)
    pairs = [flight(engine, text, SAMPLINGS[0], top) for text, top in zip(PROMPTS, (3, 0, 1))]
    running = Running(engine.prefill([row.tokens for row, _ in pairs]), [one for _, one in pairs])
    while running.flights:
        running.step()
    for top, (row, one) in zip((3, 0, 1), pairs):
        assert len(one.likeliest) == (len(one.draft.tokens) if top else 0)
        for at, likeliest in enumerate(one.likeliest):
            scores = engine.prefill([[*row.tokens, *one.draft.tokens[:at]]]).logits[0].log_softmax(0)
            assert [token for token, _ in likeliest] == scores.topk(top).indices.tolist()
            assert [value for _, value in likeliest] == pytest.approx(scores.topk(top).values.tolist(), abs=1e-5)
            # Greedy: the first of them is what was written.
            assert likeliest[0] == (one.draft.tokens[at], pytest.approx(one.draft.logprobs[at], abs=1e-6))


def test_what_happens_between_passes_can_end_a_generation(model: Model) -> None:
    class Enough(Exception):
        pass

    calls = []

    def between() -> None:
        calls.append(None)
        if len(calls) == 4:
            raise Enough

    engine = Engine(model, between=between)
    with pytest.raises(Enough):
        engine.generate([Row([{"role": "user", "content": "x"}], tuple(model.encode_prompt("x")))], Sampling(50))
    assert engine.usage.calls == {"model": 3}
