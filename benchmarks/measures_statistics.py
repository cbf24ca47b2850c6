"""Bootstrap intervals of many rows, raced against SciPy's bootstrap of as many resamples.

PYTHONPATH=src:. OMP_NUM_THREADS=1 python -m benchmarks.measures_statistics
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.proving import table
from truing.measures import statistics

ROWS, RESAMPLES, TAKEN = 100_000, 10_000, 500


def race(rounds: int = 3) -> str:
    """Processor seconds of each estimate, and of SciPy's percentile bootstrap of the same mean."""
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=ROWS),
        "heavy-tailed": rng.lognormal(0, 2, ROWS),
        "share": (rng.random(ROWS) < 0.3).astype(float),
    }
    weights = rng.integers(1, 50, ROWS).astype(float)
    clusters = np.repeat(np.arange(ROWS // 4), 4).tolist()
    drawn, statistics.DRAWS = statistics.DRAWS, RESAMPLES
    rows = []
    try:
        for name, found in values.items():
            ways: dict[str, Callable[[], Any]] = {
                "mean": lambda x=found: statistics.mean(x),  # type: ignore[misc]
                "weighted": lambda x=found: statistics.mean(x, weights),  # type: ignore[misc]
                "clusters of 4": lambda x=found: statistics.mean(x, clusters=clusters),  # type: ignore[misc]
                "difference": lambda x=found: statistics.difference_of_means(x, np.roll(x, 1)),  # type: ignore[misc]
            }
            seconds = {way: min(_timed(run)[0] for _ in range(rounds)) for way, run in ways.items()}
            theirs, interval = _timed(lambda x=found: _scipy(x))  # type: ignore[misc]
            mine = statistics.mean(found)
            assert mine is not None
            rows.append(
                [name, *(f"{taken:.2f}" for taken in seconds.values()), f"{theirs * RESAMPLES / TAKEN:.0f}",
                 f"{theirs * RESAMPLES / TAKEN / seconds['mean']:.0f}", f"{mine.low:.4f} to {mine.high:.4f}",
                 f"{interval.low:.4f} to {interval.high:.4f}"]
            )  # fmt: skip
    finally:
        statistics.DRAWS = drawn
    head = ["values", *ways, "SciPy, mean", "ratio", "truing's interval", f"SciPy's, of {TAKEN}"]
    return (
        f"{RESAMPLES:,} resamples of {ROWS:,} rows, processor seconds, the least of {rounds}; SciPy's are of {TAKEN} "
        f"resamples, times {RESAMPLES // TAKEN}.\n\n{table(head, rows)}"
    )


def _scipy(values: np.ndarray) -> Any:
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=TAKEN, batch=50, method="percentile", rng=np.random.default_rng(1)
    )
    return found.confidence_interval


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


if __name__ == "__main__":
    print(race())
