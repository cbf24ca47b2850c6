from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from truing.errors import ModelError, SettingsError
from truing.models.sampling import check_sampling, choose, noise_stream, truncate, uniform
from truing.models.types import Sampling


def _splitmix(state: int) -> int:
    """SplitMix64's output for a state, in plain integers, as published."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_hash_is_splitmix64() -> None:
    # The first three outputs of the reference generator seeded with 1234567 (prng.di.unimi.it, splitmix64.c).
    golden = 0x9E3779B97F4A7C15
    assert [_splitmix(1234567 + i * golden) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    seed, sample, step = 11, 3, 5
    key = _splitmix(_splitmix(_splitmix(seed) ^ sample) ^ step)
    expected = [((_splitmix((key + t * golden) % 2**64) >> 12) + 0.5) * 2.0**-52 for t in range(40)]
    assert uniform(1, 40, seed, [sample], step)[0].tolist() == expected


def test_noise_belongs_to_its_place() -> None:
    whole = uniform(3, 50, 7, [0, 1, 0], [4, 4, 9])
    assert torch.equal(whole[1], uniform(1, 50, 7, [1], 4)[0])
    ids = torch.tensor([[49, 3, 17]])
    assert torch.equal(uniform(1, 3, 7, [0], 9, ids)[0], whole[2, ids[0]])
    assert len(torch.cat([whole, uniform(1, 50, 8, [0], 4)]).unique()) == 200


def test_uniform_is_uniform() -> None:
    draws = uniform(50, 2000, 2**63 - 1, range(50), 0).flatten().numpy()
    assert 0 < draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    # Neighbours in every direction are independent.
    grid = draws.reshape(50, 2000)
    assert abs(np.corrcoef(grid[:, 1:].ravel(), grid[:, :-1].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(grid[1:].ravel(), grid[:-1].ravel())[0, 1]) < 0.015


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), [0, 1, 2, 3, 4]),
        (Sampling(temperature=0.5), [0, 1, 2, 3, 4]),
        (Sampling(temperature=1.0, top_k=3), [0, 1, 2]),
        (Sampling(temperature=1.0, top_p=0.75), [0, 1, 2]),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling, kept: list[int]) -> None:
    p = np.array([0.4, 0.3, 0.2, 0.07, 0.03])
    rows = 20_000
    logits = torch.tensor(np.log(p), dtype=torch.float32).expand(rows, 5)
    counts = np.bincount(choose(logits, sampling, range(rows), 3), minlength=5)
    expected = np.zeros(5)
    expected[kept] = p[kept] ** (1 / sampling.temperature)
    expected /= expected.sum()
    assert counts[expected == 0].sum() == 0
    assert stats.chisquare(counts[kept], expected[kept] * rows).pvalue > 1e-3


def test_greedy_takes_the_largest() -> None:
    assert choose(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), Sampling(), [0, 0]) == [1, 0]


def test_truncation_draws_what_the_whole_row_would() -> None:
    # Noise goes by token id, so a cut changes a draw only where it removes the winner.
    logits = torch.randn(300, 100, generator=torch.Generator().manual_seed(0)) * 2
    free = choose(logits, Sampling(temperature=0.8), range(300), 1)
    cut = Sampling(temperature=0.8, top_k=20, top_p=0.9)
    survivors = truncate(logits, cut) > -math.inf
    got = choose(logits, cut, range(300), 1)
    agree = [a == b for row, (a, b) in enumerate(zip(free, got)) if survivors[row, a]]
    assert len(agree) > 150
    assert all(agree)
    assert all(survivors[row, token] for row, token in enumerate(got))


def test_truncate_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    assert (truncate(p, Sampling(temperature=1.0, top_p=0.5)) > -math.inf).tolist() == [[True, False, False, False]]
    assert (truncate(p, Sampling(temperature=1.0, top_p=0.51)) > -math.inf).tolist() == [[True, True, False, False]]
    # Top-p is taken of what top-k leaves: 0.5 / 0.75 is two thirds.
    both = truncate(p, Sampling(temperature=1.0, top_k=2, top_p=0.66))
    assert (both > -math.inf).tolist() == [[True, False, False, False]]
    # Temperature comes first: at 0.5 the first token has 0.25 / 0.345.
    assert (truncate(p, Sampling(temperature=0.5, top_p=0.7)) > -math.inf).sum() == 1
    assert torch.equal(truncate(p, Sampling(temperature=2.0)), p / 2)


def test_ties_keep_the_lowest_ids() -> None:
    flat = torch.zeros(2, 2000)
    flat[1, 7] = 1
    for sampling, count in ((Sampling(temperature=1.0, top_k=5), 5), (Sampling(temperature=1.0, top_p=0.5), 1000)):
        kept = truncate(flat, sampling) > -math.inf
        assert kept[0].nonzero()[:, 0].tolist() == list(range(count))
        assert kept[1, 7]


def test_a_wide_nucleus_needs_the_whole_vocabulary() -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1))
    kept = truncate(logits, Sampling(temperature=1.0, top_p=0.95)) > -math.inf
    for row, keep in zip(logits.double().softmax(1), kept):
        ordered = row.sort(descending=True).values.cumsum(0)
        assert int(keep.sum()) == int((ordered < 0.95).sum()) + 1
        assert row[keep].min() >= row[~keep].max()


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"top_k": -1},
        {"n": 0},
        {"n": 1.0},
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 0.5},
        {"stop": ("",)},
        {"stop": "word"},
        {"stop": (3,)},
    ],
)
def test_bad_values_are_named(changes: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(changes))):
        check_sampling(Sampling(**changes))


def test_good_values_pass() -> None:
    check_sampling(Sampling(1, 0, 0, 1, ("x",), 2**63 - 1, 3))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers(temperature: float, bad: float) -> None:
    logits = torch.zeros(2, 6)
    logits[1, 4] = bad
    with pytest.raises(ModelError, match="no token can be chosen"):
        choose(logits, Sampling(temperature=temperature), [0, 0])
    logits[1] = -math.inf
    with pytest.raises(ModelError, match="no token can be chosen"):
        choose(logits, Sampling(temperature=temperature, top_k=2), [0, 0])


def test_prompts_draw_noise_of_their_own() -> None:
    streams = {noise_stream(prompt, sample) for prompt in ([1, 2], [12], [2, 1], []) for sample in range(3)}
    assert len(streams) == 12
    assert noise_stream((1, 2), 1) == noise_stream([1, 2], 1)
    first, second = (uniform(1, 2000, 0, [noise_stream(prompt)], 0)[0] for prompt in ([1, 2], [12]))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
