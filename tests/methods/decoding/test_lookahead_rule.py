"""The rule of look-ahead on worlds small enough to list, and the estimates of a value."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from truing.errors import ModelError, SettingsError
from truing.methods.decoding.deal import rerank
from truing.methods.decoding.deal_segments import by_segments
from truing.methods.decoding.exact_values import decoding_policy, tilted, token_values
from truing.methods.decoding.lookahead_rule import Choice, Rule, look_ahead
from truing.methods.decoding.lookahead_tree import likeliest
from truing.methods.decoding.lookahead_values import Mean, Released, SelfNormalised, effective_sample_size
from truing.methods.decoding.lookahead_world import Table, answered
from truing.models.sampling import uniform
from truing.models.types import Sampling


def bigrams(seed: int, vocabulary: int, end: int | None = None):
    """A world whose next token depends on the last one, and its log-probabilities."""
    draw = np.random.default_rng(seed)
    logs = torch.tensor(draw.normal(size=(vocabulary + 1, vocabulary)) * 2).log_softmax(1)
    values, ids = (part.tolist() for part in likeliest(logs, vocabulary))

    def last(tokens):
        return tokens[-1] if tokens else vocabulary

    def is_whole(tokens):
        return bool(tokens) and tokens[-1] == end

    table = Table(
        lambda tokens: list(zip(ids[last(tokens)], values[last(tokens)])),
        lambda tokens, number: ids[last(tokens)][0],
        is_whole,
    )
    return table, logs.tolist()


def logprob(logs, tokens):
    return sum(logs[before][token] for before, token in zip([len(logs) - 1, *tokens], tokens))


def hashed(tokens):
    return math.sin(sum((at + 1) * 37.7 * (token + 1) for at, token in enumerate(tokens)))


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_that_holds_everything_finds_the_best_of_all_sequences(seed):
    table, logs = bigrams(seed, 3)
    rule = Rule(k=3, lookahead=3, weight=2.0, beam=27)
    # What the look-ahead adds past three tokens does not count.
    found = answered(look_ahead(rule, table, 3), lambda tokens: hashed(tokens[:3]))
    best = max(itertools.product(range(3), repeat=3), key=lambda y: logprob(logs, y) + 2.0 * hashed(y))
    assert found.best.tokens == best
    assert found.best.score == pytest.approx(logprob(logs, best) + 2.0 * hashed(best))


@pytest.mark.parametrize("seed", range(4))
def test_limits_and_invariances(seed):
    table, logs = bigrams(seed, 6, end=0)

    def run(reward, **changes):
        settings = {"k": 4, "lookahead": 3, "weight": 3.0, **changes}
        return answered(look_ahead(Rule(**settings), table, 8), reward)

    greedy = []
    while len(greedy) < 8 and not (greedy and greedy[-1] == 0):
        greedy.append(int(np.argmax(logs[greedy[-1] if greedy else 6])))
    assert list(run(hashed, weight=0.0).best.tokens) == greedy
    assert list(run(hashed, k=1).best.tokens) == greedy
    assert list(run(lambda tokens: 0.7).best.tokens) == greedy
    for beam in (1, 3):
        moved = run(lambda tokens: hashed(tokens) + 5.0, beam=beam)
        assert moved.best.tokens == run(hashed, beam=beam).best.tokens
    found = run(hashed)
    for step in found.steps:
        assert step.kept[0].score == max(each.score for each in step.candidates)
        for each in step.candidates:
            assert each.score == pytest.approx(logprob(logs, each.tokens) + 3.0 * hashed(each.rollouts[0].whole))
            if each.finished:
                assert each.rollouts[0].tokens == []
    assert found.best.logprobs == pytest.approx(
        [logs[a][b] for a, b in zip([6, *found.best.tokens], found.best.tokens)]
    )


@pytest.mark.parametrize("keyword", [2, 3, 4])
def test_coverage_is_never_below_that_of_greedy(keyword):
    for seed in range(6):
        table, _logs = bigrams(seed, 6, end=0)

        def holds(tokens):
            return float(keyword in tokens)

        greedy = answered(look_ahead(Rule(6, 6, 0.0), table, 6), holds).best
        searched = answered(look_ahead(Rule(6, 6, 50.0), table, 6), holds).best
        assert holds(searched.tokens) >= holds(greedy.tokens)
        # Of six tokens and reachable in one step from anywhere, so it is found.
        assert holds(searched.tokens) == 1.0


def test_reranking_finished_answers():
    found = rerank([-1.2, -0.9, -2.6], [0.0, 0.0, 1.0], 2.0)
    assert found.scores == pytest.approx([-1.2, -0.9, -0.6])
    assert found.best == 2
    with pytest.raises(ValueError, match="argument 2"):
        rerank([-1.0], [0.0, 1.0], 1.0)


def test_a_finished_answer_keeps_its_score_and_competes():
    # Ending at once pays at first; the other beginning overtakes it later.
    table = Table(
        lambda tokens: [(0, math.log(0.6)), (1, math.log(0.4))] if not tokens else [(1, 0.0)],
        lambda tokens, number: 1,
        lambda tokens: tokens[-1:] == (0,) or len(tokens) == 3,
    )
    rule = Rule(k=2, lookahead=0, weight=1.0, beam=2)
    found = answered(look_ahead(rule, table, 5), lambda tokens: float(len(tokens) == 3))
    assert found.best.tokens == (1, 1, 1)
    assert found.best.score == pytest.approx(math.log(0.4) + 1)
    assert [each.tokens for each in found.steps[1].kept] == [(0,), (1, 1)]


def test_equal_scores_go_to_the_likelier_and_then_to_the_first():
    table = Table(lambda tokens: [(7, -0.5), (3, -1.0), (4, -1.0)], lambda tokens, number: 0)
    rule = Rule(k=3, lookahead=0, weight=1.0)
    assert answered(look_ahead(rule, table, 1), lambda tokens: {7: 0.0, 3: 0.5, 4: 0.5}[tokens[0]]).best.tokens == (7,)
    assert answered(look_ahead(rule, table, 1), lambda tokens: {7: 0.0, 3: 0.9, 4: 0.9}[tokens[0]]).best.tokens == (3,)


def test_all_candidates_at_minus_infinity_is_an_error():
    table = Table(lambda tokens: [(1, -math.inf), (2, -math.inf)], lambda tokens, number: 0)
    with pytest.raises(ModelError, match="all candidates are -inf"):
        answered(look_ahead(Rule(2, 1, 1.0), table, 2), hashed)
    some = Table(lambda tokens: [(1, 0.0), (2, -math.inf)], lambda tokens, number: 0)
    found = answered(look_ahead(Rule(2, 1, 1.0), some, 2), lambda tokens: float(2 in tokens) * 1e9)
    assert found.best.tokens == (1, 1)


def test_drawn_tokens_follow_the_softmax_of_scores():
    logits, values, alpha = [1.0, 0.5, 0.0, -1.0], [0.2, 0.9, -0.3, 5.0], 0.7
    order = np.argsort(-np.array(logits)).tolist()
    table = Table(lambda tokens: [(token, logits[token]) for token in order], lambda tokens, number: 0)
    rule = Rule(3, 0, 1 / alpha, cumulative=False)
    drawn = [
        answered(look_ahead(rule, table, 1, Choice(Sampling(temperature=1.0), stream)), lambda t: values[t[0]])
        .best.tokens[0]
        for stream in range(4000)
    ]  # fmt: skip
    candidates, chances = decoding_policy(logits, values, alpha, 3)
    assert candidates == [0, 1, 2]
    counts = np.bincount(drawn, minlength=4)
    assert counts[3] == 0
    for token, chance in zip(candidates, chances):
        assert counts[token] / 4000 == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 4000))
    # Top-k acts among the candidates.
    cut = Choice(Sampling(temperature=1.0, top_k=1), 5)
    assert answered(look_ahead(rule, table, 1, cut), lambda t: values[t[0]]).best.tokens == (1,)


def test_noise_is_the_one_of_plain_sampling():
    shifts = Choice(Sampling(temperature=0.5, seed=3), 11).shifts(4, [2, 9])
    noise = uniform(1, 10, 3, [11], 4)[0]
    assert shifts == pytest.approx([-math.log(-math.log(noise[2])), -math.log(-math.log(noise[9]))])


def test_mean_and_weights():
    rewards, baselines = [0.2, 1.0, -0.5, 0.7], [0.1, 0.1, 0.3, 0.9]
    estimate = SelfNormalised(beta=0.5)
    assert Mean().value(rewards, ()) == pytest.approx(0.35)
    weights = estimate.weights(rewards, baselines)
    assert weights.sum() == pytest.approx(1)
    assert weights == pytest.approx(tilted(np.zeros(4), np.array(rewards) - baselines, 0.5))
    assert estimate.value(rewards, baselines) == pytest.approx(0.81812422)
    # One rollout has weight 1; equal differences weigh alike; constants do not matter, however large.
    assert estimate.value([0.4], [3.0]) == 0.4
    assert estimate.weights(rewards, np.array(rewards) - 0.3) == pytest.approx([0.25] * 4)
    assert estimate.weights(np.array(rewards) + 1e3, baselines) == pytest.approx(weights)
    assert estimate.weights(rewards, np.array(baselines) - 1e3) == pytest.approx(weights)
    assert effective_sample_size([0.25] * 4) == pytest.approx(4)
    assert effective_sample_size([1.0, 0.0]) == 1.0
    # A better ratio lowers the published code's value where rewards are negative.
    assert Released().value([-1.0], [-2.0]) < Released().value([-1.0], [-1.0])


def test_rounding_never_carries_a_mean_past_its_rewards():
    assert Mean().value([0.1] * 3, ()) == 0.1
    assert SelfNormalised(beta=0.1).value([0.7] * 7, list(range(7))) == 0.7
    assert Mean().interval([0.0, 0.2], [1.0, 0.4]) == pytest.approx((0.1, 0.7))
    assert SelfNormalised(beta=0.1).interval([0.0, 0.2], [1.0, 0.4]) == (0.0, 1.0)


def test_values_on_a_tree_and_what_rollouts_make_of_them():
    chances = {"0": 0.3, "1": 0.6}
    reward = {"00": 0.0, "01": 1.0, "10": 0.2, "11": 0.7}
    baseline = {"00": 1.0, "01": 0.0, "10": 0.5, "11": 0.5}
    beta, draw, n = 0.5, np.random.default_rng(0), 200_000
    for first, chance in chances.items():
        logs = np.log([1 - chance, chance])
        r, b = ([given[first + second] for second in "01"] for given in (reward, baseline))
        values = token_values(logs, r, b, beta)
        assert values.aligned == pytest.approx({"0": 0.760004, "1": 0.601525}[first], abs=1e-6)
        assert values.plain == pytest.approx(chance * r[1] + (1 - chance) * r[0])
        assert values.reweighted == pytest.approx(values.aligned)
        assert values.aligned > values.soft > values.plain  # the KL that the aligned model pays lies between
        # Rollouts of the model that was aligned with the other reward, weighed: they estimate the same value.
        drawn = (draw.random(n) < tilted(logs, b, beta)[1]).astype(int)
        estimated = SelfNormalised(beta=beta).value(np.array(r)[drawn], np.array(b)[drawn])
        assert estimated == pytest.approx(values.aligned, abs=0.01)
        assert Mean().value(np.array(r)[drawn], ()) == pytest.approx(values.transferred, abs=0.01)


def test_segments_are_kept_by_reward_and_the_best_ever_seen_is_the_answer():
    table, logs = bigrams(3, 5)

    def reward(tokens):
        return -abs(len(tokens) - 4) + 0.1 * hashed(tokens)

    rule = Rule(k=3, lookahead=2, weight=0.0, beam=2)
    found = answered(by_segments(rule, table, 8), reward)
    assert len(found.steps) == 4
    seen = [each for step in found.steps for each in step.candidates]
    assert found.best.score == max(each.value for each in seen)
    assert len(found.best.tokens) == 4
    # The first proposals are the likeliest segments, up to the width of the beam search.
    beams = sorted(itertools.product(range(5), repeat=2), key=lambda y: -logprob(logs, y))
    firsts = sorted({y[:1] for y in beams}, key=lambda y: -logprob(logs, y))[:3]
    expected = [y for y in beams if y[:1] in firsts][:3]
    assert [each.tokens for each in found.steps[0].candidates] == expected
    for step in found.steps:
        ranked = sorted(step.candidates, key=lambda each: -each.value)
        assert [each.tokens for each in step.kept] == [each.tokens for each in ranked[:2]]


def test_ties_of_the_likeliest_go_to_lower_ids():
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0], [0.0] * 5, [5.0, 4.0, 3.0, 2.0, 1.0]])
    values, ids = likeliest(scores, 2)
    assert ids.tolist() == [[1, 2], [0, 1], [0, 1]]
    assert values.tolist() == [[3.0, 3.0], [0.0, 0.0], [5.0, 4.0]]
    assert likeliest(scores, 9)[1].tolist()[0] == [1, 2, 3, 0, 4]


def test_a_beam_draws_nothing():
    from truing.methods.decoding.lookahead_rule import check_choice

    with pytest.raises(SettingsError, match="beam of 2 keeps the best"):
        check_choice(Sampling(temperature=0.5), 2)
