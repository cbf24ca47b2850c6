"""What page 36 asks of a right implementation, beyond single rules: the fast way is the plain way, token for token."""

from __future__ import annotations

import functools
import math
import random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.methods.decoding.nudging_parts import PROMPTS, asker, expected, model, plain
from truing import Nudging, load
from truing.errors import RecordError
from truing.methods.decoding import nudging_rules as rules
from truing.methods.decoding import nudging_turns as turns
from truing.methods.decoding.nudging import _side
from truing.models import Model, chat
from truing.models.engine import Engine
from truing.models.types import Sampling
from truing.sandbox import items


def by_word(base, guide, prompt, gamma, lookahead, most, sampling=None, sample=0):
    """The rule over two tokenizers, one question a forward pass over the whole row; its answer and why it stopped."""
    engine, small = Engine(base), Engine(guide)
    ids, read = base.encode_prompt(prompt), guide.encode_prompt(prompt)
    one = turns.Answer(turns.Draft(engine.text, engine.ends, most), most)
    rule = turns.nudge_by_word(one, turns.Settings(gamma, lookahead), _side(engine, ids), _side(small, read))
    stopped = turns.answered(rule, {"base": asker(base, ids, sampling, sample), "guide": asker(guide, read)})
    return expected(base, one.tokens), stopped


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("unit", ["token", "word"])
def test_a_sampled_base_of_every_architecture(architecture, unit):
    base, guide = model(architecture, 4), model("gpt_neox" if architecture == "llama" else "llama", 11)
    how = {"temperature": 0.9, "top_k": 30, "seed": 5, "n": 2}
    for gamma in (0.1, 0.4):
        aligned = Nudging(guide=guide, gamma=gamma, lookahead=4, unit=unit).align(base)
        found = aligned.generate(PROMPTS[:2], max_new_tokens=14, **how)
        sampling = Sampling(max_new_tokens=14, **how)
        for at, answer in enumerate(found):
            given = (base, guide, PROMPTS[at // 2], gamma, 4, 14, sampling, at % 2)
            wanted = expected(base, plain(*given)) if unit == "token" else by_word(*given)[0]
            assert (answer.tokens, answer.text) == wanted


@functools.cache
def sandbox():
    """Base, guide, and one question of several kinds each."""
    kinds = ("fact", "unknown", "premise_false", "harmful", "benign")
    return load("sandbox/base"), load("sandbox/guide"), [items(kind, split="dev", n=1)[0].prompt for kind in kinds]


@pytest.mark.parametrize("gamma", [0.0, 0.4, 0.9, 1.1])
def test_the_sandbox_token_for_token(gamma):
    base, guide, prompts = sandbox()
    found = Nudging(guide=guide, gamma=gamma, lookahead=4).align(base).generate(prompts, max_new_tokens=24)
    for prompt, answer in zip(prompts, found):
        assert (answer.tokens, answer.text) == expected(base, plain(base, guide, prompt, gamma, 4, 24))
    how = {"temperature": 1.0, "top_p": 0.9, "seed": 3}
    found = Nudging(guide=guide, gamma=gamma, lookahead=4).align(base).generate(prompts, max_new_tokens=24, **how)
    for prompt, answer in zip(prompts, found):
        tokens = plain(base, guide, prompt, gamma, 4, 24, Sampling(max_new_tokens=24, **how))
        assert (answer.tokens, answer.text) == expected(base, tokens)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 0.9, 1.1])
def test_the_sandbox_word_for_word(gamma):
    """Also against the rule of the paper's API version, over texts and with its calls."""
    base, guide, prompts = sandbox()
    aligned = Nudging(guide=guide, gamma=gamma, lookahead=4, unit="word").align(base)
    how = {"temperature": 1.0, "seed": 3}
    for sampling in (None, Sampling(max_new_tokens=24, **how)):
        found = aligned.generate(prompts, max_new_tokens=24, **(how if sampling else {}))
        for prompt, answer in zip(prompts, found):
            wanted, stopped = by_word(base, guide, prompt, gamma, 4, 24, sampling)
            assert ((answer.tokens, answer.text), answer.trace["stopped"]) == (wanted, stopped)
            if sampling is None:
                paper = rules.nudging_decode(
                    completions(base, prompt), completions(guide, prompt), gamma=gamma, lookahead=4
                )
                if answer.trace["stopped"] == "guide stopped":
                    assert answer.text.strip() == paper.text


def completions(one, prompt):
    """What a server of completions answers: texts of greedy tokens, the whole text read anew for each."""
    ids, end, ask = one.encode_prompt(prompt), one.tokenizer.eos_token_id, asker(one, one.encode_prompt(prompt))

    def complete(text, most):
        tokens, pieces, tops = chat.encode_plain(one.tokenizer, text), [], []
        for _ in range(most):
            top = ask(tokens)
            tops.append(top.probability)
            if top.token == end:
                return rules.Piecewise([*pieces, ""], tops, True)
            pieces.append(one.tokenizer.decode([top.token]))
            tokens = [*tokens, top.token]
        return rules.Piecewise(pieces, tops, False)

    assert ids
    return complete


@pytest.mark.parametrize("unit", ["token", "word"])
def test_a_guide_starts_only_where_the_base_is_unsure_or_stopped(unit):
    base, guide, prompts = sandbox()
    starts = 0
    for gamma in (0.6, 0.95):
        aligned = Nudging(guide=guide, gamma=gamma, lookahead=4, unit=unit).align(base)
        for prompt, answer in zip(prompts, aligned.generate(prompts, max_new_tokens=24)):
            ask, written = asker(base, base.encode_prompt(prompt)), ""
            for who, text in answer.trace["pieces"]:
                if who == "guide" and written:
                    top = ask(chat.encode_plain(base.tokenizer, written))
                    assert top.probability < gamma or top.token == base.tokenizer.eos_token_id
                    starts += 1
                written += text
    assert starts


def test_the_share_of_nudged_tokens_falls_with_gamma():
    base, guide, prompts = sandbox()
    for unit in ("token", "word"):
        shares = []
        for gamma in (0.0, 0.3, 0.6, 0.9, 1.1):
            found = Nudging(guide=guide, gamma=gamma, lookahead=3, unit=unit).align(base)
            answers = found.generate(prompts, max_new_tokens=24)
            nudged = sum(answer.trace["nudged_share"] * len(answer.tokens) for answer in answers)
            shares.append(nudged / sum(len(answer.tokens) for answer in answers))
        assert shares == sorted(shares)
        assert shares[0] < 0.5 < shares[-1]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.4, 0.6]))
def test_lookahead_changes_the_cost_alone_where_the_base_takes_over_within_it(seed, gamma):
    chance = random.Random(seed)
    rows = [[[chance.gauss(0, 2) for _ in range(9)] for _ in range(9)] for _ in range(2)]

    def chain(scores):
        table = [[math.exp(value) for value in row] for row in scores]
        return lambda tokens: turns.Top(
            (row := table[tokens[-1] if tokens else 1]).index(max(row)), max(row) / sum(row)
        )

    base, guide = map(chain, rows)

    def nudged(lookahead):
        return turns.token_level_nudging(
            base, guide, lambda token: token % 2 == 0, gamma=gamma, lookahead=lookahead, max_new_tokens=24
        )

    short = nudged(5)
    whole = sum(count for _, count in short.pieces)
    assume(whole == len(short.tokens) == 24)
    assume(all(count < 5 for who, count in short.pieces[:-1] if who == "guide"))
    for lookahead in (6, 9, 16):
        assert nudged(lookahead).tokens[:20] == short.tokens[:20]


def test_a_larger_guide_is_told_of_once_and_works(caplog):
    big = Model(tiny.network("llama", seed=3, intermediate_size=640), tiny.tokenizer(), source="big")
    small = Model(tiny.network("llama", seed=4), tiny.tokenizer(), source="small")
    aligned = Nudging(guide=big).align(small)
    aligned.generate(PROMPTS, max_new_tokens=5)
    told = [record.message for record in caplog.records]
    assert len(told) == 1
    assert "big has" in told[0]
    assert "times the parameters of small" in told[0]
    caplog.clear()
    Nudging(guide=small).align(big)
    assert not caplog.records


@pytest.mark.parametrize("unit", ["token", "word"])
def test_a_prompt_too_long_names_the_model_that_cannot_read_it(unit):
    long = Model(tiny.network("llama", seed=3), tiny.tokenizer(), source="long")
    short = Model(tiny.network("opt", seed=4, max_position_embeddings=32), tiny.tokenizer(), source="short")
    for base, guide in ((long, short), (short, long)):
        with pytest.raises(RecordError, match=r"(?s)short reads 32 at most"):
            Nudging(guide=guide, unit=unit).align(base).generate("the cat " * 20)


def test_gradients_and_modes_are_left_alone():
    base, guide = model("llama", 3), model("qwen3", 7)
    Nudging(guide=guide).align(base).generate(PROMPTS[0], max_new_tokens=4)
    assert torch.is_grad_enabled()
    assert not base.weights.training
    assert all(parameter.grad is None for parameter in guide.weights.parameters())
