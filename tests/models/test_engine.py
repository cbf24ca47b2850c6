"""Plain decoding against the simplest loop there is: no cache, no batch, one row at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.models.answers import Draft
from truing.models.engine import Engine
from truing.models.local import Model
from truing.models.modifiers import LogitsModifier, PromptModifier, SearchModifier
from truing.models.sampling import choose, noise_stream
from truing.models.types import Completion, Row, Sampling

PROMPTS = ["hi", "what is the colour of the stone?", "the cat sat on the mat and looked", ""]
ROWS = [
    Row(None, tuple(ids), index) for index, ids in enumerate([[*range(5, 45)], [60, 61, 62], [70], [*range(80, 104)]])
]


def make(architecture: str = "llama", *modifiers: Any, side: str = "left", **changes: Any) -> Model:
    return Model(tiny.network(architecture, **changes), tiny.tokenizer(padding_side=side), modifiers)


def naive(weights: Any, tokens: Sequence[int], sampling: Sampling, sample: int = 0) -> tuple[list[int], list[float]]:
    out: list[int] = []
    logprobs: list[float] = []
    while len(out) < sampling.max_new_tokens and (not out or out[-1] != 1):
        with torch.no_grad():
            logits = weights(torch.tensor([[*tokens, *out]])).logits[:, -1]
        out += choose(logits, sampling, [noise_stream(tokens, sample)], len(out))
        logprobs.append(float(logits.log_softmax(-1)[0, out[-1]]))
    return out, logprobs


class Script(LogitsModifier):
    """Makes a model write given tokens after a prompt of so many."""

    tokens: list[int]
    start: int

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        logits = logits.clone()
        for row, prefix in enumerate(prefixes):
            at = len(prefix) - self.start
            if 0 <= at < len(self.tokens):
                logits[row, self.tokens[at]] += 1000
        return logits


def scripted(text: str, stop: Sequence[str] = (), **options: Any) -> tuple[Completion, list[str]]:
    """What comes of a text that the model is made to write, and the pieces that were streamed."""
    model = make()
    tokens = [*model.tokenizer(text, add_special_tokens=False)["input_ids"], 1]
    model = model.with_modifier(Script(tokens=tokens, start=len(model.encode_prompt("hi"))))
    pieces: list[str] = []
    options.setdefault("max_new_tokens", 60)
    [found] = model.generate("hi", stop=stop, stream=lambda p, s, piece: pieces.append(piece), **options)
    assert found.tokens == tokens[: len(found.tokens)]
    return found, pieces


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batches_are_the_naive_loop(architecture: str, temperature: float) -> None:
    model = make(architecture)
    sampling = Sampling(max_new_tokens=12, temperature=temperature, seed=5)
    found = Engine(model).generate(ROWS, sampling)
    for row, [answer] in zip(ROWS, found):
        tokens, logprobs = naive(model.weights, row.tokens, sampling)
        assert answer.tokens == tokens
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert answer.finish_reason == ("stop" if tokens[-1] == 1 else "length")
        assert answer.prompt_index == row.index


@pytest.mark.parametrize("sampling", [Sampling(20, 1.0, n=3, seed=9), Sampling(20, 0.7, 40, 0.9, n=3, seed=2**63 - 1)])
def test_samples_do_not_depend_on_company(sampling: Sampling) -> None:
    model = make("mistral")
    together = Engine(model).generate(ROWS, sampling)
    assert len({tuple(answer.tokens) for answer in together[0]}) == 3
    for size in (1, 2, 5):
        again = Engine(model, batch_size=size).generate(ROWS, sampling)
        assert [[a.tokens for a in row] for row in again] == [[a.tokens for a in row] for row in together]
    for row, answers in zip(ROWS, together):
        [alone] = Engine(model).generate([row], dataclasses.replace(sampling, n=1))
        assert alone[0].tokens == answers[0].tokens
        assert naive(model.weights, row.tokens, sampling, 2)[0] == answers[2].tokens


def test_seeds_and_samples_differ() -> None:
    model = make()
    first, second = (model.generate("hi", temperature=1.0, seed=seed, max_new_tokens=20) for seed in (0, 1))
    assert first.texts != second.texts
    assert first.texts == model.generate("hi", temperature=1.0, seed=0, max_new_tokens=20).texts


def test_the_tokenizers_padding_side_is_irrelevant() -> None:
    left, right = (make(side=side).generate(PROMPTS, max_new_tokens=12).texts for side in ("left", "right"))
    assert left == right
    assert left == [make().generate(prompt, max_new_tokens=12).texts[0] for prompt in PROMPTS]


def test_completions_in_prompt_order_with_usage() -> None:
    model = make()
    found = model.generate(PROMPTS, n=2, temperature=1.0, max_new_tokens=6, batch_size=3)
    assert [answer.prompt_index for answer in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    usage = found.usage
    assert usage.prompt_tokens == sum(len(model.encode_prompt(prompt)) for prompt in PROMPTS)
    assert usage.completion_tokens == sum(len(answer.tokens) for answer in found)
    # Every prompt is read once; every token but the last of an answer is read once.
    assert usage.positions == {"model": usage.prompt_tokens + usage.completion_tokens - len(found)}
    assert usage.seconds > 0
    one = model.generate("hi", max_new_tokens=6)
    assert one.usage.calls == {"model": len(one[0].tokens)}


def test_nothing_asked_nothing_answered() -> None:
    assert make().generate([]) == []
    assert Engine(make()).generate([], Sampling()) == []


def test_ends() -> None:
    model = make()
    free = model.generate("hi", max_new_tokens=10)[0]
    assert free.finish_reason == "length"
    assert len(free.tokens) == 10
    model.weights.generation_config.eos_token_id = [1, free.tokens[3]]
    ended = model.generate("hi", max_new_tokens=10)[0]
    assert ended.finish_reason == "stop"
    assert ended.tokens == free.tokens[: free.tokens.index(free.tokens[3]) + 1]
    assert ended.text == Engine(model).text(ended.tokens[:-1])
    found, _ = scripted("one two")
    assert (found.text, found.finish_reason, found.tokens[-1]) == ("one two", "stop", 1)


def test_positions_run_out() -> None:
    model = make(max_position_embeddings=32)
    [[answer]] = Engine(model).generate([Row(None, tuple(range(5, 33)))], Sampling(max_new_tokens=50))
    assert (len(answer.tokens), answer.finish_reason) == (4, "length")
    with pytest.raises(RecordError, match="Prompt 3 has 32 tokens"):
        Engine(model).generate([Row(None, (5,) * 32, 3)], Sampling())
    with pytest.raises(RecordError, match="Prompt 4 has no tokens"):
        Engine(model).generate([Row(None, (), 4)], Sampling())


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (["sat on"], "the cat "),
        (["t on the m"], "the cat sa"),  # across several tokens
        (["mat", "cat"], "the "),  # the first of two
        (["dog"], "the cat sat on the mat"),
        (["matt"], "the cat sat on the mat"),  # only the beginning of a stop string
        (["the"], ""),
    ],
)
def test_stop_strings(stop: list[str], text: str) -> None:
    found, pieces = scripted("the cat sat on the mat", stop)
    assert found.text == text
    assert "".join(pieces) == text
    assert found.finish_reason == "stop"
    ended = stop[0] not in ("dog", "matt")
    assert (found.tokens[-1] != 1) == ended
    # Nothing is written after the token that completed the stop string.
    assert not ended or not any(s in Engine(make()).text(found.tokens[:-1]) for s in stop)


def test_streamed_pieces_are_whole_and_certain() -> None:
    text = "naïve 🙂 日本語 — done"
    found, pieces = scripted(text)
    assert found.text == text
    assert "".join(pieces) == text
    assert len(pieces) > 8
    assert not any("\ufffd" in piece for piece in pieces)
    # Cut inside a character: what cannot be read is part of the text, and comes last.
    found, pieces = scripted("🙂", max_new_tokens=2)
    assert found.finish_reason == "length"
    assert "".join(pieces) == found.text
    found, pieces = scripted("abcabd", ["abd"])
    assert "".join(pieces) == found.text == "abc"
    assert pieces == ["abc"]  # "a" and "ab" might have begun the stop string


def test_streams_are_numbered() -> None:
    parts: dict[tuple[int, int], str] = {}

    def stream(prompt: int, sample: int, piece: str) -> None:
        parts[prompt, sample] = parts.get((prompt, sample), "") + piece

    found = make().generate(PROMPTS, n=2, temperature=1.0, max_new_tokens=8, stream=stream)
    for at, answer in enumerate(found):
        assert parts.get((at // 2, at % 2), "") == answer.text


@pytest.mark.parametrize("changes", [{"temperature": -1}, {"n": 0}, {"top_p": 0}, {"seed": -1}, {"batch_size": 0}])
def test_bad_settings_before_any_work(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        make().generate(PROMPTS, **changes)


class Lift(LogitsModifier):
    """Raises the score of the token that follows the last one in the vocabulary."""

    amount: float = 3.0

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        session["calls"] = session.get("calls", 0) + 1
        lift = torch.zeros_like(logits)
        for row, prefix in enumerate(prefixes):
            lift[row, (prefix[-1] + 1) % logits.shape[1]] = self.amount
        return logits + lift


class Double(LogitsModifier):
    """Doubles scores."""

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        assert "calls" not in session
        return logits * 2


def test_logits_modifiers_act_in_order_and_everywhere() -> None:
    plain = make()
    engine = Engine(make("llama", Lift(), Double()))

    def alone(tokens: list[int]) -> torch.Tensor:
        logits = Engine(plain).prefill([tokens]).logits
        return Double().adjust(Lift().adjust(logits, [tokens], {}), [tokens], {})[0]

    batch = engine.prefill([row.tokens for row in ROWS])
    blocks = [[7, 8, 9], [], [4], [5, 6]]
    for row, block, scores in zip(ROWS, blocks, batch.extend(blocks)):
        for at in range(len(block)):
            torch.testing.assert_close(scores[at], alone([*row.tokens, *block[: at + 1]]), atol=1e-4, rtol=0)
    batch.rollback([41, 2, 2, 25])
    for tokens, logits in zip(batch.tokens, batch.logits):
        torch.testing.assert_close(logits, alone(tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [None, 1])
def test_logprobs_under_logits_modifiers_are_those_of_generation(batch_size: int | None) -> None:
    model = make("qwen3", Lift(), Double())
    rows = [Row(None, tuple(model.encode_prompt(prompt)), i) for i, prompt in enumerate(PROMPTS)]
    answers = [row[0] for row in Engine(model).generate(rows, Sampling(8, 1.0))]
    pairs = [(list(row.tokens), answer.tokens) for row, answer in zip(rows, answers)]
    for scored, answer in zip(model._score(pairs, batch_size), answers):
        assert scored == pytest.approx(answer.logprobs, abs=1e-4)
    free = model.with_weights(model.weights)
    free = dataclasses.replace(free, modifiers=())
    assert np.abs(model.logprobs(PROMPTS, ["yes"] * 4) - free.logprobs(PROMPTS, ["yes"] * 4)).min() > 0.1


class Beam(SearchModifier):
    """The most likely of a few continuations, kept `width` at a time."""

    width: int = 3

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        out = []
        for row in rows:
            batch, totals = engine.prefill([row.tokens]), torch.zeros(1)
            for _ in range(engine.room(row, sampling)):
                scores = totals[:, None] + batch.logits.log_softmax(1)
                totals, best = scores.flatten().topk(self.width)
                parents, tokens = best // scores.shape[1], best % scores.shape[1]
                batch = batch.select(parents.tolist())
                batch.append(tokens.tolist())
            tokens = batch.tokens[int(totals.argmax())][len(row.tokens) :]
            out.append([engine.completion(row, tokens, sampling, total=float(totals.max()))])
        return out


def test_a_search_on_the_engine() -> None:
    model = make("llama", Beam())
    pieces: list[tuple[int, int, str]] = []
    found = model.generate(PROMPTS, max_new_tokens=4, stream=lambda *piece: pieces.append(piece))
    assert [answer.prompt_index for answer in found] == [0, 1, 2, 3]
    assert sorted(pieces) == [(i, 0, answer.text) for i, answer in enumerate(found) if answer.text]
    greedy = model.policy.generate(PROMPTS, max_new_tokens=4)
    for answer, other in zip(found, greedy):
        if len(other.tokens) == len(answer.tokens) == 4:
            assert answer.trace["total"] >= sum(other.logprobs or []) - 1e-4
    assert found.usage.calls["model"] >= 16
    with pytest.raises(SettingsError, match=r"Beam\.search gave \[1\] completions"):
        model.generate("hi", n=2, max_new_tokens=2)
    with pytest.raises(UnsupportedError, match=r"model\.policy\.logprobs"):
        model.logprobs("hi", "yes")


class Polite(PromptModifier):
    """Asks for manners."""

    def messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"role": "system", "content": "Be polite."}, *messages]


class Show(SearchModifier):
    """Answers nothing, and keeps what it was given."""

    seen: list[Any]

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        self.seen.extend(rows)
        return [[engine.completion(row, [], sampling, "empty")] for row in rows]


def test_searches_are_given_the_conversation() -> None:
    seen: list[Row] = []
    model = make("llama", Polite(), Show(seen=seen))
    [answer] = model.generate("hi")
    assert seen[0].prompt == [{"role": "system", "content": "Be polite."}, {"role": "user", "content": "hi"}]
    assert list(seen[0].tokens) == model.encode_prompt("hi")
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", [], "empty")


class Contrast(LogitsModifier):
    """Adds the log-probabilities of a guide."""

    guide: Any

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        if "guide" not in session:
            session["guide"] = Engine(self.guide, session["usage"], "guide")
        return logits + session["guide"].scores(prefixes).log_softmax(1)


def test_a_guide_that_follows() -> None:
    guide = make("qwen3", seed=3)
    model = make("llama", Contrast(guide=guide))
    found = model.generate(PROMPTS[:2], max_new_tokens=6)
    for prompt, answer in zip(PROMPTS, found):
        tokens = model.encode_prompt(prompt)
        for token in answer.tokens:
            with torch.no_grad():
                mine, its = (m.weights(torch.tensor([tokens])).logits[0, -1] for m in (model, guide))
            assert int((mine + its.log_softmax(0)).argmax()) == token
            tokens = [*tokens, token]
    assert found.usage.calls["guide"] == found.usage.calls["model"]
    assert found.usage.positions["guide"] == found.usage.positions["model"]
    scored = model._score([(model.encode_prompt(p), a.tokens) for p, a in zip(PROMPTS, found)], None)
    for values, answer in zip(scored, found):
        assert values == pytest.approx(answer.logprobs, abs=1e-4)


def test_drafts_know_their_end() -> None:
    engine = Engine(make())
    draft = engine.draft(Row(None, (5, 6)), Sampling(max_new_tokens=3))
    assert isinstance(draft, Draft)
    assert [draft.push(token) for token in (40, 41, 42)] == [False, False, True]
    assert draft.completion().logprobs is None
    assert (draft.reason, draft.completion().finish_reason) == ("length", "length")
    cut = engine.completion(Row(None, (5,), 2), [40, 1, 50], Sampling(), "guide stopped", who=["guide"])
    assert (cut.tokens, cut.finish_reason, cut.prompt_index, cut.trace) == ([40, 1], "stop", 2, {"who": ["guide"]})


def test_generation_leaves_no_trace_on_the_weights() -> None:
    model = make("llama", Lift())
    model.weights.train()
    before = {name: value.clone() for name, value in model.weights.state_dict().items()}
    model.generate("hi", max_new_tokens=3)
    assert not model.weights.training
    assert all(torch.equal(value, before[name]) for name, value in model.weights.state_dict().items())
    model.weights(torch.tensor([[5, 6]])).logits.sum().backward()


def test_edits_of_a_model_do_not_reach_a_guide_on_its_weights() -> None:
    from tests.models.test_activations import Push

    plain = make()
    push = Push(vector=torch.randn(32, generator=torch.Generator().manual_seed(0)))
    model = dataclasses.replace(plain, modifiers=(push, Contrast(guide=plain)))
    [answer] = model.generate("hi", max_new_tokens=5)
    [scored] = model._score([(model.encode_prompt("hi"), answer.tokens)], None)
    assert scored == pytest.approx(answer.logprobs, abs=1e-4)
