"""DeAL, Transfer Q*, ARGS and controlled decoding on tiny models, against plain loops without caches."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.conformance.examples import PROMPTS, like_the_cat
from tests.conformance.examples import model as tiny_model
from tests.methods.decoding.lookahead_parts import Bounded, model, noisy
from tests.methods.decoding.naive import Naive, naive, same, text_of
from truing import ARGS, AnswerLength, Combined, ControlledDecoding, DeAL, Keyword, TransferQ
from truing.errors import SettingsError
from truing.models import LogitsModifier, load
from truing.models.sampling import noise_stream, pick
from truing.models.types import Sampling

SHORT = {"max_new_tokens": 7}


@functools.cache
def sure():
    """A model that is sure of most tokens, as trained ones are."""
    one = tiny_model()
    with torch.no_grad():
        one.weights.get_output_embeddings().weight.mul_(4)
    return one


REWARDS = {
    "unbounded": noisy, "bounded": Bounded(noisy), "letters": Bounded(like_the_cat),
    "coverage": Keyword(words=["k", "a", "course"], whole_words=False),
    "mixture": Combined(rewards=[Keyword(words=["the", "k"]), AnswerLength(target=3)], weights=[1.0, -0.5]),
}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(tiny.ARCHITECTURES), st.sampled_from(sorted(REWARDS)), st.sampled_from([1, 2, 4]),
    st.sampled_from([0, 1, 5]), st.sampled_from([0.0, 0.5, 3.0, 20.0]), st.sampled_from([1, 1, 2]),
    st.sampled_from([None, "qwen3", "mistral"]),
)  # fmt: skip
def test_what_comes_out_is_what_the_plain_rule_gives(architecture, reward, k, lookahead, weight, beam, other):
    base, how = model(architecture), {"k": k, "lookahead": lookahead}
    if other is None:
        method = DeAL(reward=REWARDS[reward], weight=weight, beam=beam, **how)
        plain = {"weight": weight, "beam": beam}
    else:
        method = TransferQ(reward=REWARDS[reward], rollout=model(other, 7), alpha=1 / (weight or 1.0), **how)
        plain = {"weight": 1 / (1 / (weight or 1.0)), "cumulative": False, "rollout": model(other, 7)}
    found = method.align(base).generate(PROMPTS[:2], **SHORT)
    for prompt, one in zip(PROMPTS, found):
        same(one, naive(base, prompt, REWARDS[reward], room=7, **how, **plain))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_bounds_leave_out_work_and_nothing_else(temperature):
    how = {**SHORT, "temperature": temperature, "seed": 4}
    free, bounded = Bounded(noisy), Bounded(noisy)
    free.bounds = (-math.inf, math.inf)
    whole = DeAL(reward=free, k=5, lookahead=6, weight=0.5).align(sure()).generate(PROMPTS, **how)
    pruned = DeAL(reward=bounded, k=5, lookahead=6, weight=0.5).align(sure()).generate(PROMPTS, **how)
    assert [one.tokens for one in pruned] == [one.tokens for one in whole]
    assert 0 < bounded.texts < free.texts / 2
    assert pruned.usage.positions["model"] < whole.usage.positions["model"]
    skipped = [value for one in pruned for step in one.trace["steps"] for _, _, value, _ in step if value is None]
    assert skipped
    for one, other in zip(pruned, whole):
        for ours, theirs in zip(one.trace["steps"], other.trace["steps"]):
            for (token, _, value, score), expected in zip(ours, theirs):
                assert token == expected[0]
                assert value is None or (value, score) == pytest.approx(expected[2:], abs=1e-5)


def test_a_weight_of_zero_and_one_candidate_are_greedy_at_the_price_of_greedy():
    greedy = model().generate(PROMPTS, **SHORT)
    for settings_ in ({"weight": 0.0}, {"k": 1, "weight": 9.0}):
        found = DeAL(reward=Bounded(noisy), lookahead=5, **settings_).align(model()).generate(PROMPTS, **SHORT)
        assert [one.tokens for one in found] == [one.tokens for one in greedy]
        for one, other in zip(found, greedy):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
        assert found.usage.calls == greedy.usage.calls
        assert found.usage.positions["model"] <= greedy.usage.positions["model"] + len(PROMPTS)


def test_far_fewer_passes_than_the_plain_rule():
    for reward, fewer in ((Bounded(noisy), 18), (noisy, 6)):
        how = {"k": 4, "lookahead": 6, "weight": 0.5}
        found = DeAL(reward=reward, **how).align(sure()).generate(PROMPTS[:1], **SHORT)
        plain = naive(sure(), PROMPTS[0], reward, room=7, **how)
        same(found[0], plain)
        assert found.usage.calls["model"] * fewer < plain.passes


def test_a_batch_gives_what_single_prompts_give_and_samples_differ():
    deal = DeAL(reward=noisy, k=4, lookahead=4, weight=3.0).align(model())
    how = {**SHORT, "temperature": 1.0, "seed": 2}
    together = deal.generate(PROMPTS, **how, n=3)
    alone = [one for prompt in PROMPTS for one in deal.generate([prompt], **how, n=3)]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.prompt_index for one in together] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [one.tokens for one in deal.generate(PROMPTS, **how, n=3, batch_size=1)] == [one.tokens for one in together]
    assert len({tuple(one.tokens) for one in together[:3]}) == 3
    assert deal.generate(PROMPTS, **how).texts == [group[0].text for group in together.grouped()]
    greedy = deal.generate(PROMPTS, **SHORT, n=2)
    assert [one.tokens for one in greedy[::2]] == [one.tokens for one in greedy[1::2]]


def test_no_look_ahead_is_args_and_own_rollouts_are_controlled_decoding():
    args = ARGS(reward=noisy, k=4, weight=5.0).align(model()).generate(PROMPTS, **SHORT)
    for other in (
        TransferQ(reward=noisy, rollout=model("qwen3", 7), k=4, lookahead=0, alpha=0.2),
        DeAL(reward=noisy, k=4, lookahead=0, weight=5.0),
    ):
        assert other.align(model()).generate(PROMPTS, **SHORT).texts == args.texts
    for n in (1, 3):
        own = {"reward": noisy, "k": 3, "lookahead": 3, "alpha": 0.2, "n": n}
        controlled = ControlledDecoding(**own).align(model()).generate(PROMPTS, **SHORT)
        transferred = TransferQ(rollout=model(), **own).align(model()).generate(PROMPTS, **SHORT)
        assert [one.tokens for one in controlled] == [one.tokens for one in transferred]
        # The very model: its caches serve both, and nothing runs twice.
        assert controlled.usage.calls == transferred.usage.calls


def test_alpha_without_end_keeps_to_the_model_and_constants_do_not_matter():
    rollout = model("qwen3", 7)
    greedy = model().generate(PROMPTS, **SHORT)
    far = TransferQ(reward=noisy, rollout=rollout, k=4, lookahead=3, alpha=1e9).align(model())
    assert far.generate(PROMPTS, **SHORT).texts == greedy.texts
    how = {"rollout": rollout, "k": 4, "lookahead": 3, "alpha": 0.1}
    plain = TransferQ(reward=noisy, **how).align(model())
    moved = TransferQ(reward=lambda p, r: [7.0 + value for value in noisy(p, r)], **how).align(model())
    for sampled in ({}, {"temperature": 1.0, "seed": 1}):
        assert moved.generate(PROMPTS, **SHORT, **sampled).texts == plain.generate(PROMPTS, **SHORT, **sampled).texts


def drawn_rollouts(one, tokens, count, length, room_prompt, end):
    """Rollouts by plain sampling, each with its own noise, one whole forward pass a token."""
    out = []
    for number in range(count):
        stream = noise_stream((*room_prompt, -1 - number), noise_stream(room_prompt, 0))
        rest = []
        while len(rest) < length and not (rest and rest[-1] == end):
            scores = one.logprobs([*tokens, *rest])[None]
            how = Sampling(temperature=1.0, seed=0)
            rest += pick(scores, how, [stream], len(tokens) + len(rest)).tolist()
        out.append(rest)
    return out


@pytest.mark.parametrize("baseline", ["reward", "implicit"])
def test_indirect_transfer_is_the_weighted_mean_of_drawn_rollouts(baseline):
    base, other, beta, alpha, n, ahead = model(), model("qwen3", 7), 0.3, 0.1, 4, 3
    given = like_the_cat if baseline == "reward" else "implicit"
    method = TransferQ(
        reward=noisy, rollout=other, k=3, lookahead=ahead, n=n, alpha=alpha, beta=beta, baseline_reward=given
    )
    found = method.align(base).generate(PROMPTS[1], max_new_tokens=4)[0]
    mine, its = Naive(base, PROMPTS[1]), Naive(other, PROMPTS[1])
    end, tokens = base.tokenizer.eos_token_id, []
    for step in found.trace["steps"]:
        scores = mine.logprobs(tokens)
        expected = {}
        for token in scores.topk(3).indices.tolist():
            whole = [*tokens, token]
            tails = [[]] if token == end else drawn_rollouts(its, whole, n, ahead, mine.prompt, end)
            rewards = np.array(noisy([], [text_of(base, whole + tail) for tail in tails]))
            if baseline == "reward":
                subtracted = np.array(like_the_cat([], [text_of(base, whole + tail) for tail in tails])) / beta
            else:
                subtracted = np.array(
                    [
                        sum(
                            float(its.logprobs(whole + tail[:at])[t] - mine.logprobs(whole + tail[:at])[t])
                            for at, t in enumerate(tail)
                        )
                        for tail in tails
                    ]
                )
            weights = np.exp(rewards / beta - subtracted)
            expected[token] = float(weights @ rewards / weights.sum())
        for token, _logprob, value, score in step:
            assert value == pytest.approx(expected[token], abs=1e-4)
            assert score == pytest.approx(float(scores[token]) + expected[token] / alpha, abs=1e-3)
        tokens.append(max(step, key=lambda each: each[3])[0])
    assert found.tokens == tokens


def test_equal_rewards_make_indirect_transfer_direct():
    how = {"reward": noisy, "rollout": model("qwen3", 7), "k": 3, "lookahead": 3, "alpha": 0.1, "n": 3}
    direct = TransferQ(**how).align(model()).generate(PROMPTS, **SHORT)
    equal = TransferQ(**how, baseline_reward=noisy).align(model()).generate(PROMPTS, **SHORT)
    assert equal.texts == direct.texts


def test_the_published_code_weighs_without_normalising():
    how = {"reward": lambda p, r: [value - 5.0 for value in noisy(p, r)], "rollout": model("qwen3", 7), "k": 2}
    released = TransferQ(**how, lookahead=2, baseline_reward=like_the_cat, estimate="released").align(model())
    one = released.generate(PROMPTS[1], max_new_tokens=1)[0]
    text = Naive(model("qwen3", 7), PROMPTS[1])
    for token, _, value, _ in one.trace["steps"][0]:
        whole = [token, *text.greedy([token], 2, [model().tokenizer.eos_token_id])]
        answer = text_of(model(), whole)
        reward, base = noisy([], [answer])[0] - 5.0, float(like_the_cat([], [answer])[0])
        assert value == pytest.approx(math.exp(0.5 * (reward - base)) * reward, abs=1e-5)


def test_segments_on_a_model():
    deal = DeAL(reward=noisy, k=3, lookahead=3, beam=2, mode="segment").align(model())
    found = deal.generate(PROMPTS, **SHORT)
    for one in found:
        assert one.trace["value"] == max(value for step in one.trace["steps"] for _, _, value, _ in step)
        assert one.trace["value"] == pytest.approx(noisy([], [one.text])[0])
    assert found.texts == [deal.generate([prompt], **SHORT).texts[0] for prompt in PROMPTS]
    with pytest.raises(SettingsError, match="draws none"):
        deal.generate(PROMPTS, temperature=1.0, max_new_tokens=3)


def test_stop_strings_end_answers_and_rollouts():
    asked = []

    def watching(prompts, responses):
        asked.extend(responses)
        return noisy(prompts, responses)

    plain = DeAL(reward=noisy, k=4, lookahead=5, weight=3.0).align(model()).generate(PROMPTS[2], **SHORT)[0]
    stop = plain.text[3]
    found = DeAL(reward=watching, k=4, lookahead=5, weight=3.0).align(model()).generate(PROMPTS[2], **SHORT, stop=stop)
    assert stop not in found[0].text
    assert asked
    assert not any(stop in text for text in asked)


def test_each_text_is_scored_once_and_finished_ones_as_answers():
    class Partial:
        def __init__(self):
            self.whole, self.beginnings = [], []

        def __call__(self, prompts, responses):
            self.whole += responses
            return noisy(prompts, responses)

        def partial(self, prompts, texts):
            self.beginnings += texts
            return noisy(prompts, texts)

    reward = Partial()
    tiny_with_ends = model()
    end = tiny_with_ends.tokenizer.eos_token_id

    class Ends(LogitsModifier):
        def adjust(self, logits, prefixes, session):
            logits = logits.clone()
            logits[:, end] = logits.max(1).values - 0.1
            return logits

    found = (
        DeAL(reward=reward, k=3, lookahead=4, weight=2.0)
        .align(tiny_with_ends.with_modifier(Ends()))
        .generate(PROMPTS[0], max_new_tokens=5)
    )
    assert reward.whole
    assert reward.beginnings
    assert len(set(reward.whole)) == len(reward.whole)
    assert len(set(reward.beginnings)) == len(reward.beginnings)
    assert found[0].trace["rewarded"] == len(reward.whole) + len(reward.beginnings)


def test_look_ahead_stops_where_the_models_positions_end():
    short = tiny.network("llama", max_position_embeddings=24)
    small = dataclasses.replace(model(), weights=short)
    prompt = "the cat sat on"
    room = 24 - len(small.encode_prompt(prompt))
    assert 2 < room < 20
    found = DeAL(reward=noisy, k=3, lookahead=50, weight=2.0).align(small).generate(prompt, max_new_tokens=50)[0]
    assert len(found.tokens) == room
    assert found.finish_reason == "length"
    transferred = TransferQ(reward=noisy, rollout=small, k=3, lookahead=50, alpha=0.2).align(model())
    assert len(transferred.generate(prompt, max_new_tokens=4)[0].tokens) == 4


def test_the_dial_is_the_weight_and_models_are_saved_with_it(tmp_path):
    transferred = TransferQ(
        reward={"keyword": {"words": ["k", "course"], "whole_words": False}}, rollout=model("qwen3", 7), k=4,
        lookahead=3, alpha=1.0,
    ).align(model())  # fmt: skip
    stronger = transferred.with_strength(20.0)
    assert stronger.modifiers[-1].weight == 20.0
    direct = TransferQ(reward=transferred.modifiers[-1].reward, rollout=model("qwen3", 7), k=4, lookahead=3, alpha=0.05)
    assert stronger.generate(PROMPTS, **SHORT).texts == direct.align(model()).generate(PROMPTS, **SHORT).texts
    assert transferred.with_strength(0.0).generate(PROMPTS, **SHORT).texts == model().generate(PROMPTS, **SHORT).texts
    with pytest.raises(SettingsError, match="weight is a finite number of at least 0"):
        transferred.with_strength(-1.0)
    stronger.save(tmp_path / "model")
    again = load(tmp_path / "model")
    found, expected = again.generate(PROMPTS, **SHORT), stronger.generate(PROMPTS, **SHORT)
    assert [one.trace for one in found] == [one.trace for one in expected]
    assert found.usage.calls == expected.usage.calls


def test_a_mixture_weighed_by_the_user_moves_from_one_goal_to_the_other():
    goals = [Keyword(words=["k"], whole_words=False), AnswerLength(target=1)]

    def reached(weights):
        reward = Combined(rewards=goals, weights=weights)
        texts = DeAL(reward=reward, k=8, lookahead=3, weight=30.0).align(model()).generate(PROMPTS, **SHORT).texts
        return [float(np.mean(goal(PROMPTS, texts))) for goal in goals]

    first, second = reached([1.0, 0.0]), reached([0.0, 1.0])
    assert first[0] >= second[0]
    assert second[1] >= first[1]
    assert first != second


def test_a_reward_that_reads_a_world_looks_at_it_once():
    class Weather:
        looked = 0

        def observe(self, prompts):
            Weather.looked += 1
            assert len(prompts) == len(PROMPTS)
            return noisy

        def __call__(self, prompts, responses):
            raise AssertionError("asked without looking")

    found = DeAL(reward=Weather(), k=3, lookahead=3, weight=2.0).align(model()).generate(PROMPTS, **SHORT)
    assert Weather.looked == 1
    assert (
        found.texts == DeAL(reward=noisy, k=3, lookahead=3, weight=2.0).align(model()).generate(PROMPTS, **SHORT).texts
    )
