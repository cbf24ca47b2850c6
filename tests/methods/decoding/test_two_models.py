"""Proxy tuning, ensembles and contrastive decoding: closed forms, limits, and what a second model costs."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from tests.conformance.examples import PROMPTS, model
from truing import BestOfN, ContrastiveDecoding, Ensemble, Nudging, ProxyTuning, RemoteModel, SystemMessage
from truing.errors import ModelError, RecordError, SettingsError, StackError, UnsupportedError
from truing.methods.decoding.contrastive_decoding import ContrastiveDecodingModifier
from truing.methods.decoding.ensemble import EnsembleModifier
from truing.methods.decoding.proxy_tuning import ProxyTuningModifier
from truing.methods.decoding.two_models import ensemble_step, follow, proxy_tuning_step
from truing.models import Model
from truing.models.engine import Engine
from truing.models.types import Usage

SIDES = {"base": ("llama", 0), "guide": ("qwen3", 7), "untuned": ("gemma", 8)}
HOW = {"max_new_tokens": 10}


@pytest.fixture(scope="module")
def sides():
    return {name: model(architecture, seed) for name, (architecture, seed) in SIDES.items()}


def after(one, tokens):
    """Log-probabilities after a row of tokens, by one pass without a cache."""
    with torch.inference_mode():
        ids = torch.tensor([tokens])
        return one.weights(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].float()


def methods(sides):
    return {
        "proxy": ProxyTuning(guide=sides["guide"], untuned=sides["untuned"], weight=0.7),
        "ensemble": Ensemble(guide=sides["guide"], weight=0.3),
        "contrastive": ContrastiveDecoding(amateur=sides["untuned"], beta=0.6, alpha=0.2),
    }


def formula(name, base, guide, untuned):
    """The three formulas, in probabilities of one position, written apart from the code they test."""
    p, q, r = (scores.double().softmax(0) for scores in (base, guide, untuned))
    if name == "proxy":
        moved = p * (q / r) ** 0.7
        return moved / moved.sum()
    if name == "ensemble":
        return 0.7 * p + 0.3 * q
    moved = torch.where(p >= 0.2 * p.max(), p**1.6 / r**0.6, 0.0)
    return moved / moved.sum()


@pytest.mark.parametrize("name", ["proxy", "ensemble", "contrastive"])
def test_every_position_of_every_row_follows_the_formula(sides, name):
    aligned = methods(sides)[name].align(sides["base"])
    engine = Engine(aligned)
    rows = [aligned.encode_prompt(prompt) for prompt in PROMPTS]
    batch = engine.prefill(rows)
    first = batch.logits
    block = batch.extend([[5, 6, 7], [8], []])
    batch.rollback([len(rows[0]) + 1, len(rows[1]), len(rows[2])])
    branched = batch.select([0, 0, 2])
    branched.append([9, 10, 11])
    seen = [(first[at], row) for at, row in enumerate(rows)]
    seen += [(block[0][at], [*rows[0], *[5, 6, 7][: at + 1]]) for at in range(3)] + [(block[1][0], [*rows[1], 8])]
    seen += [(branched.logits[at], branched.tokens[at]) for at in range(3)]
    for scores, tokens in seen:
        wanted = formula(name, *(after(one, tokens) for one in sides.values()))
        torch.testing.assert_close(scores.double().softmax(0), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["proxy", "ensemble", "contrastive"])
def test_a_second_model_reads_each_prompt_once_and_each_token_once(sides, name):
    aligned = methods(sides)[name].align(sides["base"])
    found = aligned.generate(PROMPTS, n=3, temperature=1.0, **HOW)
    usage = found.usage
    for role in set(usage.calls) - {"model"}:
        assert usage.positions[role] == usage.positions["model"]
        assert usage.calls[role] == usage.calls["model"]
    plain = aligned.policy.generate(PROMPTS[0], **HOW)
    assert plain.usage.positions["model"] == len(aligned.encode_prompt(PROMPTS[0])) + len(plain[0].tokens) - 1


def test_logprobs_are_those_of_generation(sides):
    for name, method in methods(sides).items():
        aligned = method.align(sides["base"])
        for prompt, answer in zip(PROMPTS, aligned.generate(PROMPTS, **HOW)):
            pair = (aligned.encode_prompt(prompt), answer.tokens)
            assert aligned._score([pair], None)[0] == pytest.approx(answer.logprobs, abs=1e-4), name


def test_limits_that_are_other_models(sides):
    base, guide, untuned = sides.values()
    greedy = {name: one.generate(PROMPTS, **HOW).texts for name, one in sides.items()}
    assert len({*greedy["base"], *greedy["guide"]}) > 3
    same = {
        "base": [
            ProxyTuning(guide=guide, untuned=guide), ProxyTuning(guide=guide, untuned=untuned, weight=0.0),
            Ensemble(guide=base), Ensemble(guide=guide, weight=0.0),
            ContrastiveDecoding(amateur=untuned, beta=0.0), ContrastiveDecoding(amateur=untuned, alpha=1.0),
            ContrastiveDecoding(amateur=base),
        ],
        "guide": [Ensemble(guide=guide, weight=1.0), ProxyTuning(guide=guide, untuned=base)],
    }  # fmt: skip
    for name, given in same.items():
        for method in given:
            assert method.align(base).generate(PROMPTS, **HOW).texts == greedy[name], method


def test_an_ensemble_of_three_is_two_ensembles(sides):
    base, guide, untuned = sides.values()
    three = Ensemble(guide=untuned, weight=1 / 3).align(Ensemble(guide=guide).align(base))
    tokens = base.encode_prompt(PROMPTS[0])
    wanted = torch.stack([after(one, tokens).softmax(0) for one in sides.values()]).mean(0)
    torch.testing.assert_close(Engine(three).prefill([tokens]).logits[0].softmax(0), wanted, rtol=0, atol=1e-6)


def test_steps_over_named_tokens_are_the_modifiers(sides):
    def table(scores):
        return {str(at): float(value) for at, value in enumerate(scores.double().softmax(0))}

    torch.manual_seed(0)
    base, guide, untuned = torch.randn(3, 6)
    proxy = proxy_tuning_step(table(base), table(guide), table(untuned))
    moved = (base + guide - untuned).double().softmax(0)
    assert list(proxy.values()) == pytest.approx(moved.tolist(), abs=1e-6)
    mean = ensemble_step(table(base), table(guide))
    assert list(mean.values()) == pytest.approx(((base.softmax(0) + guide.softmax(0)) / 2).tolist(), abs=1e-6)


def test_a_vocabulary_that_is_padded_differently_is_the_same(sides):
    tokens, session = sides["base"].encode_prompt(PROMPTS[0]), {"usage": Usage()}
    wide = Model(tiny.network("qwen3", seed=7, vocabulary=384), sides["base"].tokenizer, source="wide")
    scores = follow(session, "guide", wide, [tokens], 320)
    torch.testing.assert_close(scores[0], after(wide, tokens)[:320], rtol=0, atol=1e-4)
    scores = follow({"usage": Usage()}, "guide", sides["guide"], [tokens], 384)
    assert (scores[0, 320:] == -math.inf).all()
    for method in (Ensemble(guide=wide), ProxyTuning(guide=wide, untuned=wide), ContrastiveDecoding(amateur=wide)):
        assert method.align(sides["base"]).generate(PROMPTS, **HOW)[0].tokens
    for method in methods(sides).values():
        assert max(method.align(wide).generate(PROMPTS[0], **HOW)[0].tokens) < 320


def test_tokens_that_one_model_excludes(sides):
    """Minus infinity is never subtracted from itself."""

    class Never(ContrastiveDecodingModifier):
        def adjust(self, logits, prefixes, session):
            return logits.index_fill(1, torch.arange(0, 320, 2), -math.inf)

    some = sides["guide"].with_modifier(Never(amateur=sides["guide"]))
    for method in (ProxyTuning(guide=some, untuned=some), ContrastiveDecoding(amateur=some, alpha=0.0)):
        scores = Engine(method.align(sides["base"])).prefill([[5, 6, 7]]).logits
        assert not scores.isnan().any()
        assert (scores[0, ::2] == -math.inf).all()
        assert scores[0, 1::2].isfinite().all()
    mixed = Engine(Ensemble(guide=some).align(sides["base"])).prefill([[5, 6, 7]]).logits
    assert mixed.isfinite().all()


def test_dials(sides):
    base = sides["base"]
    for method, value in zip(methods(sides).values(), (0.0, 0.0, 0.0)):
        turned = method.align(base).with_strength(value)
        assert turned.generate(PROMPTS, **HOW).texts == base.generate(PROMPTS, **HOW).texts
    with pytest.raises(SettingsError, match="from 0 to 1"):
        methods(sides)["ensemble"].align(base).with_strength(1.5)


def test_it_stacks_with_prompts_searches_and_each_other(sides):
    base, guide, untuned = sides.values()
    stacked = SystemMessage(text="look at the mat").align(base)
    stacked = ContrastiveDecoding(amateur=untuned).align(Ensemble(guide=guide).align(stacked))
    assert Nudging(guide=guide, lookahead=3).align(stacked).generate(PROMPTS, **HOW).usage.calls["amateur"] > 0
    best = BestOfN(n=2, reward=lambda prompts, texts: [len(text) for text in texts]).align(stacked)
    assert len(best.generate(PROMPTS, **HOW)) == len(PROMPTS)
    nudged = Nudging(guide=guide).align(base)
    with pytest.raises(StackError, match=r"guide\.policy"):
        Ensemble(guide=nudged).align(base)


def test_what_cannot_work_is_one_clear_error_before_any_work(sides):
    base, guide, untuned = sides.values()
    other = Model(tiny.network("llama", vocabulary=300), tiny.tokenizer(300), source="other")
    far = RemoteModel("far", base_url="http://127.0.0.1:9/v1", api_key="")
    for method, role in (
        (Ensemble(guide=other), "guide"), (ProxyTuning(guide=guide, untuned=other), "untuned"),
        (ProxyTuning(guide=other, untuned=guide), "guide"), (ContrastiveDecoding(amateur=other), "amateur"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=f"(?s){role} other.*different vocabularies"):
            method.align(base)
    for method in (Ensemble(guide=far), ProxyTuning(guide=guide, untuned=far), ContrastiveDecoding(amateur=far)):
        with pytest.raises(UnsupportedError, match="openai/far"):
            method.align(base)
    for bad in (
        Ensemble(guide="sandbox/guide"), Ensemble(guide=guide, weight=1.1), Ensemble(guide=guide, weight=math.nan),
        ProxyTuning(guide=guide, untuned=untuned, weight="much"), ProxyTuning(guide=guide, untuned=None),
        ContrastiveDecoding(amateur=untuned, beta=-1), ContrastiveDecoding(amateur=untuned, alpha=2),
    ):  # fmt: skip
        with pytest.raises(SettingsError):
            bad.align(base)


def test_a_second_model_that_reads_less_bounds_the_answer_and_is_named(sides):
    short = Model(tiny.network("opt", seed=3, max_position_embeddings=24), tiny.tokenizer(), source="short")
    modifiers = (
        EnsembleModifier(guide=short), ProxyTuningModifier(guide=sides["guide"], untuned=short),
        ContrastiveDecodingModifier(amateur=short),
    )  # fmt: skip
    for modifier in modifiers:
        aligned = sides["base"].with_modifier(modifier)
        used = len(aligned.encode_prompt("the cat"))
        answer = aligned.generate("the cat", max_new_tokens=200)[0]
        assert answer.finish_reason == "stop" or len(answer.tokens) == 24 - used
        with pytest.raises(RecordError, match=r"(?s)short.* reads 24"):
            aligned.generate("the cat " * 20)
        with pytest.raises(RecordError, match=r"(?s)short.* reads 24"):
            aligned.logprobs(["the cat " * 20], ["red"])
