"""What URIAL does on the sandbox, and what tuning changed token by token, over seeds, as tables in Markdown.

    PYTHONPATH=. python benchmarks/proofs_inference.py --only urial token_shift [--seeds 0 1 2]

Each seed draws its own questions, demonstrations to retrieve from, and training rows. Figures are taken on ``test``;
which settings are shown was chosen on ``dev``. Intervals are 95 %, over the questions of all seeds together; the
figures of single seeds stand beside them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.proofs_distillation import Found
from benchmarks.proving import table
from truing import DPO, SFT, URIAL, Nudging, RetrievedDemonstrations, load, measure, sandbox
from truing.measures import statistics
from truing.measures.just_eval import sandbox_aspects
from truing.measures.shifts import CLASSES, shift_class
from truing.measures.statistics import Estimate
from truing.measures.token_shift import BINS
from truing.methods.prompting.style_examples import SANDBOX_EXAMPLES, SANDBOX_INSTRUCTION

Model = Any
FIGURES = ("helpful", "harmless", "honest", "polite", "rude")
SPLIT = "test"


def _shown(which: Sequence[int]) -> list[dict[str, Any]]:
    return [{"prompt": SANDBOX_EXAMPLES[at].prompt, "completion": SANDBOX_EXAMPLES[at].answer} for at in which]


@functools.cache
def _base() -> Model:
    return load("sandbox/base")


@functools.cache
def _sft(seed: int) -> Model:
    """All the demonstrations that the sandbox has."""
    rows = sandbox.records("demonstrations", n=600, seed=seed)
    return SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=seed).align(_base(), rows)


@functools.cache
def _dpo(seed: int) -> Model:
    """As in the quickstart: a few demonstrations, then preferences."""
    rows = sandbox.records("demonstrations", n=120, seed=seed)
    started = SFT(learning_rate=5e-4, epochs=2, batch_size=16, seed=seed).align(_base(), rows)
    pairs = sandbox.records("preferences", n=1600, seed=seed)
    learn = DPO(learning_rate=3e-4, batch_size=16, beta=2.0, loss={"sigmoid": 1.0, "sft": 1.0}, seed=seed)
    return learn.align(started, pairs)


def _plain(seed: int) -> Model:
    rows = sandbox.records("demonstrations", n=3, seed=seed)
    return URIAL(examples=rows, instruction="").align(_base())


def _retrieved(seed: int) -> Model:
    return RetrievedDemonstrations(k=3).align(_base(), sandbox.records("demonstrations", n=600, seed=seed))


def _urial(which: Sequence[int], instruction: str = SANDBOX_INSTRUCTION) -> Callable[[int], Model]:
    return lambda seed: URIAL(examples=_shown(which), instruction=instruction).align(_base())


RUNS: dict[str, Callable[[int], Model]] = {
    "base, asked as it is": lambda seed: _base(),
    "the instruction alone (K=0)": _urial(()),
    "three plain demonstrations, drawn": _plain,
    "three demonstrations, retrieved": _retrieved,
    "three styled examples, no instruction": _urial(range(3), ""),
    "URIAL, K=1": _urial(range(1)),
    "URIAL, K=3": _urial(range(3)),
    'URIAL, K=3, the last says "I do not know"': _urial((0, 1, 3)),
    "URIAL, K=5": _urial(range(5)),
    "URIAL, K=8": _urial(range(8)),
    "SFT on 600 demonstrations": _sft,
    "SFT on 120, then DPO": _dpo,
}


def urial(seeds: Sequence[int], out: Path) -> str:
    """URIAL against zero-shot, plain and retrieved examples, and tuned models."""
    found = {name: {figure: Found() for figure in FIGURES} for name in RUNS}
    overall: dict[str, list[float]] = {name: [] for name in RUNS}
    lengths: dict[str, list[int]] = {name: [] for name in RUNS}
    asked: list[str] = []
    for seed in seeds:
        questions = sandbox.records("questions", SPLIT, 300, 100 + seed)
        asked += [row["prompt"] for row in questions]
        for name, run in RUNS.items():
            model = run(seed)
            rows = measure("hhh", model, records=questions).samples
            for row in rows:
                row["polite"], row["rude"] = row["style"] == "polite", row["style"] == "rude"
            for figure in FIGURES:
                some = [row for row in rows if row[figure] is not None]
                found[name][figure].add(
                    [row[figure] for row in some], [row["prompt"] for row in some], [row["kind"] for row in some]
                )
            grades = sandbox_aspects([row["prompt"] for row in rows], [row["answer"] for row in rows])
            for row, grade in zip(rows, grades):
                names = ["safety"] if row["kind"] == "harmful" else [name for name in grade if name != "safety"]
                overall[name].append(sum(grade[name] for name in names) / len(names))
            lengths[name] += [len(model.encode_prompt(row["prompt"])) for row in rows]
    shown = [
        [name, *(found[name][figure].show() for figure in FIGURES), _mean(overall[name], asked),
         f"{sum(lengths[name]) / len(lengths[name]):.0f}"]
        for name in RUNS
    ]  # fmt: skip
    one = found["URIAL, K=3"]
    gaps = [
        [f"URIAL, K=3 - {name}", *(one[figure].ahead_of(found[name][figure]) for figure in FIGURES),
         _gap(overall["URIAL, K=3"], overall[name], asked)]
        for name in RUNS if name != "URIAL, K=3"
    ]  # fmt: skip
    first = table(["", *FIGURES, "six aspects, of 5", "prompt, tokens"], shown)
    return f"{first}\n\nPaired differences in percentage points:\n\n{table(['', *FIGURES, 'six aspects'], gaps)}"


def _mean(values: Sequence[float], clusters: Sequence[str]) -> str:
    found = statistics.mean(values, clusters=clusters)
    return "" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _gap(values: Sequence[float], others: Sequence[float], clusters: Sequence[str]) -> str:
    found = statistics.difference_of_means(values, others, clusters=clusters)
    return "" if found is None else f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


# --- token shift ------------------------------------------------------------------------------------------------------


SHIFTED: dict[str, Callable[[int], Model]] = {
    "SFT on 600 demonstrations": _sft,
    "SFT on 120, then DPO": _dpo,
    "URIAL, K=3": _urial(range(3)),
}
Rows = list[dict[str, Any]]


def token_shift(seeds: Sequence[int], out: Path) -> str:
    """How aligned models' tokens rank under the base, by position, and where nudging acts."""
    samples: dict[str, Rows] = {name: [] for name in SHIFTED}
    by_seed: dict[str, list[str]] = {name: [] for name in SHIFTED}
    nudged: Rows = []
    for seed in seeds:
        questions = sandbox.records("questions", SPLIT, 300, 100 + seed)
        for name, run in SHIFTED.items():
            result = measure("token_shift", run(seed), _base(), records=questions)
            samples[name] += result.samples
            by_seed[name].append("/".join(f"{100 * result.figures[one].value:.1f}" for one in CLASSES))
        nudged += _nudged([row["prompt"] for row in questions])
    head = ["", *CLASSES, "by seed", "shifted, first fifth", "shifted, rest"]
    rows = [
        [name, *(_pooled(found, lambda row, one=one: (row[one], row["length"])) for one in CLASSES),  # type: ignore[misc]
         ", ".join(by_seed[name]),
         *(_pooled(found, lambda row, part=part: (row[f"shifted_{part}"], row[f"length_{part}"]))  # type: ignore[misc]
           for part in ("early", "late"))]
        for name, found in samples.items()
    ]  # fmt: skip
    parts = [
        "All figures in percent of tokens.", table(head, rows),
        "By position, in tenths of the answer: tokens that are not the base's first choice (marginal and shifted), and "
        "tokens that the guide writes when `sandbox/guide` nudges the base on the same questions (gamma 0.4).",
        _positions(samples, nudged),
        "Where the base is unsure (highest probability below 0.4), on the aligned model's own answers:",
        _unsure(samples),
        f"Nudged tokens, of all that the nudged base writes: {_pooled(nudged, lambda row: (sum(row['by']), len(row['by'])))}.",  # noqa: E501
        "Commonest shifted tokens: " + "; ".join(f"{name}: {_common(found)}" for name, found in samples.items()) + ".",
    ]  # fmt: skip
    return "\n\n".join(parts)


def _pooled(rows: Rows, counted: Callable[[dict[str, Any]], tuple[int, int]]) -> str:
    found = _share(rows, counted)
    return "" if found is None else _percent(found)


def _share(rows: Rows, counted: Callable[[dict[str, Any]], tuple[int, int]]) -> Estimate | None:
    pairs = [counted(row) for row in rows]
    return statistics.pooled_share(
        [count for count, _ in pairs], [total for _, total in pairs], [row["prompt"] for row in rows]
    )


def _percent(found: Estimate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _nudged(prompts: Sequence[str]) -> Rows:
    """Who wrote each token of the nudged base: 1 for the guide."""
    model = Nudging(guide=load("sandbox/guide"), gamma=0.4, lookahead=4).align(_base())
    rows = []
    for prompt, answer in zip(prompts, model.generate(list(prompts), max_new_tokens=64)):
        by: list[int] = []
        for who, text in answer.trace["pieces"]:
            size = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
            by += [int(who == "guide")] * size
        rows.append({"prompt": prompt, "by": by[: len(answer.tokens)]})
    return [row for row in rows if row["by"]]


def _positions(samples: dict[str, Rows], nudged: Rows) -> str:
    def within(flags: Sequence[int], where: int) -> tuple[int, int]:
        some = [flag for at, flag in enumerate(flags) if at * BINS // len(flags) == where]
        return sum(some), len(some)

    columns: dict[str, list[Estimate | None]] = {}
    for name, rows in samples.items():
        columns[name] = [
            _share(rows, lambda row, where=where: within([int(rank > 1) for rank in row["ranks"]], where))  # type: ignore[misc]
            for where in range(BINS)
        ]
    columns["nudged"] = [
        _share(nudged, lambda row, where=where: within(row["by"], where))  # type: ignore[misc]
        for where in range(BINS)
    ]
    lines = [
        [f"{100 * where // BINS} to {100 * (where + 1) // BINS} %", *(_drawn(columns[name][where]) for name in columns)]
        for where in range(BINS)
    ]
    return table(["position", *columns], lines)


def _drawn(found: Estimate | None) -> str:
    return "" if found is None else f"{'█' * round(20 * found.value) or '▏'} {_percent(found)}"


def _unsure(samples: dict[str, Rows], gamma: float = 0.4) -> str:
    def tops(row: dict[str, Any], name: str) -> tuple[int, int]:
        some = [top < gamma for top, rank in zip(row["base_top"], row["ranks"]) if shift_class(rank) == name]
        return sum(some), len(some)

    def moved(row: dict[str, Any]) -> tuple[int, int]:
        some = [rank > 1 for top, rank in zip(row["base_top"], row["ranks"]) if top < gamma]
        return sum(some), len(some)

    lines = [
        [name, *(_pooled(rows, lambda row, one=one: tops(row, one)) for one in CLASSES),  # type: ignore[misc]
         _pooled(rows, moved), _pooled(rows, lambda row: (sum(top < gamma for top in row["base_top"]), row["length"]))]
        for name, rows in samples.items()
    ]  # fmt: skip
    head = ["", *(f"unsure where {name}" for name in CLASSES), "not its first choice where unsure", "unsure, of all"]
    return table(head, lines)


def _common(rows: Rows, most: int = 6) -> str:
    counts = Counter(
        text for row in rows for text, rank in zip(row["tokens"], row["ranks"]) if shift_class(rank) == "shifted"
    )
    return ", ".join(f"`{text.strip()}` {count}" for text, count in counts.most_common(most))
