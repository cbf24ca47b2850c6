"""Cases of simulated coverage: shares, means, and differences of two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.covering import Case, Held, Rng, of
from truing.measures import statistics
from truing.measures.align_score import auc, auc_values
from truing.measures.contrasts import unpaired_test
from truing.measures.pass_rate import pass_at
from truing.measures.radfact import f1_figures
from truing.measures.result import Column, Figure
from truing.measures.run import estimate
from truing.measures.side_effects import distinct

Array = np.ndarray
Make = Callable[[Rng], list[Held]]


def _keys(clusters: int, each: int) -> list[int]:
    return np.repeat(np.arange(clusters), each).tolist()


def _hits(rng: Rng, chances: Any) -> list[float]:
    chances = np.asarray(chances)
    return (rng.random(chances.shape) < chances).astype(float).ravel().tolist()


def _rates(rng: Rng, share: float, alike: float, many: int) -> Array:
    """Each cluster's own share, so that two of its samples correlate by ``alike``."""
    more = (1 - alike) / alike
    return rng.beta(share * more, (1 - share) * more, many)


# --- shares ---------------------------------------------------------------------------------------------------------


def _share(p: float, n: int) -> Make:
    return lambda rng: of(statistics.share(_hits(rng, np.full(n, p))), p)


def _ties(p: float, n: int) -> Make:
    """Half points for verdicts that turn with the order."""

    def make(rng: Rng) -> list[Held]:
        values = rng.choice([0.0, 0.5, 1.0], n, p=[0.7 * (1 - p), 0.3, 0.7 * p])
        return of(statistics.share(values.tolist()), 0.15 + 0.7 * p)

    return make


def _clustered(p: float, clusters: int, each: int, alike: float) -> Make:
    keys = _keys(clusters, each)

    def make(rng: Rng) -> list[Held]:
        rates = _rates(rng, p, alike, clusters)
        return of(statistics.share(_hits(rng, np.repeat(rates, each)), keys), p)

    return make


def _stratified(shares: Sequence[float], n: int) -> Make:
    each, kinds = np.repeat(shares, n), _keys(len(shares), n)
    return lambda rng: of(statistics.stratified_share(_hits(rng, each), kinds), float(np.mean(shares)))


def _pooled(p: float, answers: int, length: float, alike: float) -> Make:
    def make(rng: Rng) -> list[Held]:
        totals = 1 + rng.poisson(length, answers)
        counts = rng.binomial(totals, _rates(rng, p, alike, answers))
        return of(statistics.pooled_share(counts.tolist(), totals.tolist()), p)

    return make


def _paired(ahead: float, behind: float, n: int) -> Make:
    def make(rng: Rng) -> list[Held]:
        drawn = rng.random(n)
        first, second = drawn < ahead, (drawn >= ahead) & (drawn < ahead + behind)
        return of(statistics.difference_of_shares(first.astype(float), second.astype(float)), ahead - behind)

    return make


def _paired_kinds(n: int) -> Make:
    rates = np.array([0.6, 0.5, 0.9, 0.75, 0.4])
    each, kinds = np.repeat(rates, n), _keys(5, n)

    def make(rng: Rng) -> list[Held]:
        drawn = rng.random(len(each))
        first = (drawn < each).astype(float)
        # The second model answers a sixth of them anew, by its own shares.
        second = np.where(rng.random(len(each)) < 1 / 3, rng.random(len(each)) < each - 0.1, first)
        return of(statistics.difference_of_shares(first, second, kinds), 0.1 / 3)

    return make


def _paired_clusters(clusters: int) -> Make:
    keys = _keys(clusters, 3)

    def make(rng: Rng) -> list[Held]:
        rates = np.repeat(_rates(rng, 0.5, 0.3, clusters), 3)
        return of(statistics.difference_of_shares(_hits(rng, rates), _hits(rng, rates * 0.6), None, keys), 0.2)

    return make


def _unpaired(p: float, q: float, n: int, m: int) -> Make:
    def make(rng: Rng) -> list[Held]:
        sides = [Figure(*statistics.share(_hits(rng, np.full(k, s)))[:5]) for s, k in ((p, n), (q, m))]
        return of(unpaired_test(*sides)[0], p - q)

    return make


# --- means ----------------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[Callable[[Rng, int], Array], float]] = {
    "normal": (lambda rng, n: rng.normal(1, 1, n), 1.0),
    "exponential": (lambda rng, n: rng.exponential(1, n), 1.0),
    "lognormal, sigma 1": (lambda rng, n: rng.lognormal(0, 1, n), float(np.exp(0.5))),
    "grades 1 to 5": (lambda rng, n: rng.choice(np.arange(1.0, 6), n, p=[0.03, 0.07, 0.2, 0.4, 0.3]), 3.87),
    "0 in nine of ten": (lambda rng, n: rng.exponential(1, n) * (rng.random(n) < 0.1), 0.1),
}


def _mean(shape: str, n: int) -> Make:
    draw, truth = SHAPES[shape]
    return lambda rng: of(statistics.mean(draw(rng, n)), truth)


def _bounded(n: int, high: float) -> Make:
    """pass@4 of 8 tries, questions of every difficulty, as the measure takes it."""

    def make(rng: Rng) -> list[Held]:
        passed = rng.binomial(8, rng.beta(high, 1, n))
        rows = [{"id": str(at), "x": pass_at(8, int(one), 4)} for at, one in enumerate(passed)]
        return of(estimate(Column("x", statistic="mean", bounds=(0.0, 1.0)), rows), truth)

    # 1 - E (1 - p)^4 for p of beta(high, 1).
    truth = 1 - high * float(np.prod([k / (high + k) for k in range(1, 5)])) / high
    return make


def _first(n: int, lean: float) -> Make:
    """Who stood first and won in both orders: a half where the two cancel, in six of ten pairs."""

    def make(rng: Rng) -> list[Held]:
        rows = [
            {"id": str(at), "x": one}
            for at, one in enumerate(rng.choice([0.0, 0.5, 1.0], n, p=[0.4 - lean, 0.6, lean]))
        ]
        return of(estimate(Column("x", statistic="mean"), rows), 0.3 + lean)

    return make


def _ratio(n: int) -> Make:
    def make(rng: Rng) -> list[Held]:
        tokens = rng.integers(5, 60, n).astype(float)
        return of(statistics.ratio(rng.gamma(2, 0.2 * tokens / 2), tokens), 0.2)

    return make


def _perplexity(n: int) -> Make:
    def make(rng: Rng) -> list[Held]:
        tokens = rng.integers(10, 60, n).astype(float)
        return of(statistics.mean(rng.normal(2, 0.4, n), tokens, exp=True), float(np.exp(2)))

    return make


def _mean_clusters(clusters: int) -> Make:
    keys = _keys(clusters, 4)

    def make(rng: Rng) -> list[Held]:
        return of(statistics.mean((rng.normal(1, 1, (clusters, 1)) + rng.normal(0, 1, (clusters, 4))).ravel(),
                                  clusters=keys), 1.0)  # fmt: skip

    return make


def _mean_difference(n: int, skew: bool) -> Make:
    def make(rng: Rng) -> list[Held]:
        item = rng.exponential(1, n) if skew else rng.normal(0, 1, n)
        noise = rng.exponential(0.5, (2, n)) if skew else rng.normal(0, 0.5, (2, n))
        return of(statistics.difference_of_means(item + noise[0] + 0.2, item * 0.8 + noise[1]), 0.2 + 0.2 * skew)

    return make


def _perplexity_difference(n: int) -> Make:
    def make(rng: Rng) -> list[Held]:
        tokens, item = rng.integers(10, 60, n).astype(float), rng.normal(2, 0.3, n)
        one, two = item + rng.normal(0, 0.2, n), item + rng.normal(-0.1, 0.2, n)
        return of(statistics.difference_of_means(one, two, tokens, exp=True), float(np.exp(2) - np.exp(1.9)))

    return make


# --- figures that are no mean ---------------------------------------------------------------------------------------


def _distinct(n: int) -> Make:
    weights = 1 / np.arange(1, 200)
    weights /= weights.sum()

    def values(rng: Rng) -> list[float]:
        texts = [" ".join(f"w{word}" for word in rng.choice(199, rng.integers(4, 12), p=weights)) for _ in range(n)]
        return distinct(texts, 1) or []

    truth = float(np.mean([np.mean(values(np.random.default_rng(at))) for at in range(300)]))
    return lambda rng: of(statistics.mean(values(rng)), truth)


def _auc(n: int, gap: float, clusters: bool = False) -> Make:
    from scipy import special

    truth = float(special.ndtr(gap / np.sqrt(2)))

    def make(rng: Rng) -> list[Held]:
        labels = np.arange(n) % 2 == 0
        scores = rng.normal(0, 1, n) + gap * labels
        keys = None
        if clusters:
            shared = np.repeat(rng.normal(0, 0.7, n // 2), 2)
            scores = np.sqrt(1 - 0.49) * (scores - gap * labels) + shared + gap * labels
            keys = _keys(n // 2, 2)
        rows = [{"id": str(at), "x": float(v), **({"cluster": keys[at]} if keys else {})}
                for at, v in enumerate(auc_values(scores, labels))]  # fmt: skip
        return of(estimate(Column("x", statistic="mean", bounds=(0.0, 1.0)), rows), truth)

    assert auc([1, 0], [1, 0]) == 1
    return make


def _radfact(n: int) -> Make:
    def reports(rng: Rng, n: int) -> list[dict[str, Any]]:
        rows = []
        for _ in range(n):
            good = rng.beta(6, 3)
            said, held = 1 + rng.poisson(4), 1 + rng.poisson(4)
            rows.append({"logical_precision": rng.binomial(said, good) / said,
                         "logical_recall": rng.binomial(held, 0.8 * good) / held})  # fmt: skip
        return rows

    precision, recall = 6 / 9, 0.8 * 6 / 9
    truth = 2 * precision * recall / (precision + recall)
    return lambda rng: of(f1_figures(reports(rng, n), ["logical"], 0)["logical_f1"], truth)


def cases() -> list[Case]:
    """Shares, means and differences."""
    share = "share (exact): accuracy, harmless, win rate without ties, ..."
    clustered = "share, clustered: several answers a prompt"
    kinds = "stratified share: helpful, capability, suites"
    pooled = "pooled share: tokens, sentences, phrases"
    paired = "paired difference of shares"
    mean = "mean (bootstrap): margins, lengths, grades"
    change = "paired difference of means"
    return [
        Case(share, "n 100, 0.8", _share(0.8, 100)),
        Case(share, "n 400, 0.5", _share(0.5, 400)),
        Case(share, "n 20, 0.9", _share(0.9, 20), hard="small", why="a"),
        Case(share, "n 200, 0.995", _share(0.995, 200), hard="extreme", why="a"),
        Case("share with ties: win rate of both orders", "n 100, 30 % ties, 0.57", _ties(0.6, 100), why="b"),
        Case(clustered, "40 x 5, 0.7, alike by 0.3", _clustered(0.7, 40, 5, 0.3)),
        Case(clustered, "100 x 2, 0.5, alike by 0.6", _clustered(0.5, 100, 2, 0.6)),
        Case(clustered, "10 x 4, 0.9, alike by 0.5", _clustered(0.9, 10, 4, 0.5), hard="small", why="a"),
        Case(kinds, "4 kinds of 50: 0.9, 0.6, 0.75, 0.5", _stratified((0.9, 0.6, 0.75, 0.5), 50)),
        Case(kinds, "7 kinds of 20: 0.8 to 0.5", _stratified(np.linspace(0.8, 0.5, 7).tolist(), 20)),
        Case(kinds, "4 kinds of 15, 0.99 each", _stratified((0.99,) * 4, 15), hard="extreme"),
        Case(kinds, "4 kinds of 5, 0.6 each", _stratified((0.6,) * 4, 5), hard="small"),
        Case(pooled, "60 answers of about 20, 0.2, alike by 0.1", _pooled(0.2, 60, 20, 0.1)),
        Case(pooled, "150 answers of about 4, 0.7, alike by 0.3", _pooled(0.7, 150, 4, 0.3)),
        Case(pooled, "10 answers of about 10, 0.1, alike by 0.2", _pooled(0.1, 10, 10, 0.2), hard="small"),
        Case(paired, "n 200, 20 % and 10 % discordant", _paired(0.2, 0.1, 200)),
        Case(paired, "n 60, 30 % and 20 % discordant", _paired(0.3, 0.2, 60)),
        Case(paired, "n 20, 20 % and 5 % discordant", _paired(0.2, 0.05, 20), hard="small", why="c"),
        Case(paired, "n 100, 1 % and 1 % discordant", _paired(0.01, 0.01, 100), hard="extreme", why="c"),
        Case(f"{paired}, stratified", "5 kinds of 40", _paired_kinds(40)),
        Case(f"{paired}, stratified", "5 kinds of 8", _paired_kinds(8), hard="small", why="c"),
        Case(f"{paired}, clustered", "60 x 3, alike by 0.3", _paired_clusters(60)),
        Case(f"{paired}, clustered", "12 x 3, alike by 0.3", _paired_clusters(12), hard="small"),
        Case("difference of two figures without shared items", "0.8 of 100, 0.7 of 150", _unpaired(0.8, 0.7, 100, 150)),
        Case(
            "difference of two figures without shared items",
            "0.95 of 20, 0.8 of 20",
            _unpaired(0.95, 0.8, 20, 20),
            hard="small",
            why="a",
        ),
        Case(mean, "n 60, normal", _mean("normal", 60)),
        Case(mean, "n 100, grades 1 to 5", _mean("grades 1 to 5", 100)),
        Case(mean, "n 100, exponential", _mean("exponential", 100)),
        Case(mean, "n 8, normal", _mean("normal", 8), hard="small"),
        Case(mean, "n 15, exponential", _mean("exponential", 15), hard="small"),
        Case(mean, "n 100, lognormal, sigma 1", _mean("lognormal, sigma 1", 100), hard="extreme"),
        Case(mean, "n 60, 0 in nine of ten, else exponential", _mean("0 in nine of ten", 60), hard="extreme", why="d"),
        Case("mean within bounds: pass@k, F1 of words", "n 80, pass@4", _bounded(80, 0.6)),
        Case(
            "mean within bounds: pass@k, F1 of words", "n 20, pass@4 near 1", _bounded(20, 4), hard="extreme", why="f"
        ),
        Case("first place: judge_agreement", "n 80, 0.6", _first(80, 0.3)),
        Case("ratio of sums: KL, token shift", "60 answers of 5 to 60 tokens", _ratio(60)),
        Case("ratio of sums: KL, token shift", "10 answers", _ratio(10), hard="small"),
        Case("perplexity", "40 texts of 10 to 60 tokens", _perplexity(40)),
        Case("mean, clustered", "40 x 4, half of the variance shared", _mean_clusters(40)),
        Case("mean, clustered", "8 x 4", _mean_clusters(8), hard="small"),
        Case(change, "n 60, normal", _mean_difference(60, False)),
        Case(change, "n 60, exponential", _mean_difference(60, True)),
        Case(change, "n 10, exponential", _mean_difference(10, True), hard="small"),
        Case("difference of perplexities", "40 texts", _perplexity_difference(40)),
        Case("distinct n-grams", "40 answers", _distinct(40), 450),
        Case("area under the curve: AlignScore", "n 100, 0.76", _auc(100, 1.0)),
        Case("area under the curve: AlignScore", "50 x 2 of one context, 0.76", _auc(100, 1.0, True)),
        Case("area under the curve: AlignScore", "n 30, 0.98", _auc(30, 3.0), hard="extreme", why="f"),
        Case("F1 of mean precision and recall: RadFact", "60 reports, 0.59", _radfact(60)),
        Case("F1 of mean precision and recall: RadFact", "10 reports", _radfact(10), hard="small"),
    ]
