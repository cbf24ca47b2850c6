"""What a measure of a local model costs beyond the bare batched generation of its answers.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python -m benchmarks.measures_local

Bare generation gets all prompts of the measure at once and does nothing with the answers. The measure grades them,
makes its intervals and its table of samples, and here also saves them and keeps its journal, as a run does. Both in
turns in one process; the ratio is the median of those within rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.decoding_nudging import SIZES, enlarged
from benchmarks.proving import table
from truing import HHH, ExactMatch, JustEval, OverRefusal, load

NEW = 64


def race(rounds: int = 5) -> str:
    """Processor seconds of bare generation and of each measure, and their ratio."""
    torch.set_num_threads(1)
    base = load("sandbox/base")
    rows = []
    for name, model, limit in (("sandbox/base", base, None), ("enlarged", enlarged(base, *SIZES["base"]), 48)):
        for measure in (kind(limit=limit, max_new_tokens=NEW) for kind in (HHH, ExactMatch, OverRefusal, JustEval)):
            found = measure.measure(model)
            prompts = [row["prompt"] for row in found.samples]
            spent: dict[str, list[float]] = {"bare": [], "measure": []}
            for turn in range(rounds):
                with tempfile.TemporaryDirectory() as place:
                    ways = {
                        "bare": lambda: model.generate(prompts, max_new_tokens=NEW),  # noqa: B023
                        "measure": lambda: measure.measure(model, out=Path(place) / "result"),  # noqa: B023
                    }
                    for way in list(ways)[:: -1 if turn % 2 else 1]:
                        began = time.process_time()
                        ways[way]()
                        spent[way].append(time.process_time() - began)
            ratio = statistics.median(b / a for a, b in zip(*spent.values()))
            rows.append(
                [name, found.name, len(prompts), *(f"{min(one):.2f}" for one in spent.values()), f"{ratio:.2f}"]
            )
    return table(["model", "measure", "answers", "bare generation, s", "measure, s", "ratio"], rows)


if __name__ == "__main__":
    print(race())
