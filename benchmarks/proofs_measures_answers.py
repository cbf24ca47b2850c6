"""Exact match and pass rates: what a respondent with a planted chance of being right is found to be, as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import table
from truing import ExactMatch, MultipleChoice, PassRate, load
from truing.measures.result import Figure
from truing.models.types import Completion, Completions, Usage

FORMS: tuple[Callable[[str], str], ...] = (str, str.upper, "the {}.".format, '  "{}"!'.format)
"""Ways to write a right answer that make no difference to exact match."""
DRAWS = 100
KS = (1, 4, 8)


@dataclasses.dataclass(eq=False)
class Planted:
    """A respondent that is right on each question with its own chance, in any form; else another name.

    Args:
        chances: of each question, by its prompt.
        seed: of its answers.
    """

    chances: dict[str, float]
    seed: int
    name: str = "planted"
    offers: frozenset[str] = frozenset()
    modifiers: tuple[Any, ...] = ()
    history: tuple[Any, ...] = ()

    def generate(self, prompts: Any, *, n: int = 1, **settings: Any) -> Completions:
        found = []
        for index, prompt in enumerate(prompts):
            # Of each question by itself, so that batches do not matter.
            rng = np.random.default_rng([self.seed, int(prompt)])
            for right in rng.random(n) < self.chances[prompt]:
                text = FORMS[rng.integers(len(FORMS))](_answer(prompt)) if right else "green something"
                found.append(Completion(text, finish_reason="stop", prompt_index=index))
        return Completions(found, Usage(calls={"model": 1}))


def _answer(prompt: str) -> str:
    return f"green name{prompt}"


def _asked(n: int) -> list[dict[str, Any]]:
    return [{"prompt": str(at), "answers": ["another", _answer(str(at))]} for at in range(n)]


def _chances(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Questions' chances: all alike, or easy and hard ones."""
    return np.full(n, 0.3) if kind == "all 0.3" else rng.beta(0.5, 1.0, n)


def _planted(kind: str) -> dict[str, float]:
    """What pass@k and pass^k are over endless questions of a kind, by simulation of a million."""
    p = _chances(kind, 1_000_000, np.random.default_rng(1234))
    return {**{f"pass@{k}": float(1 - ((1 - p) ** k).mean()) for k in KS},
            **{f"pass^{k}": float((p**k).mean()) for k in KS[1:]}}  # fmt: skip


def _shown(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def pass_rates(seeds: Sequence[int], out: Path) -> str:
    """Planted chances of being right, eight tries each: what is found, and how often intervals hold the truth."""
    n, lines = 100, []
    grade: dict[str, Any] = {"reward": _right, "records": _asked(n), "samples": 8, "ks": KS}
    for kind in ("all 0.3", "beta (0.5, 1)"):
        truth = _planted(kind)
        held: dict[str, list[bool]] = {name: [] for name in truth}
        firsts: dict[str, list[str]] = {name: [] for name in truth}
        for draw in range(DRAWS * len(seeds)):
            seed = seeds[draw % len(seeds)] * 1_000_000 + draw
            rng = np.random.default_rng(seed)
            chances = dict(zip(map(str, range(n)), _chances(kind, n, rng).tolist()))
            figures = PassRate(**grade).measure(Planted(chances, seed)).figures
            for name, value in truth.items():
                held[name].append(figures[name].low <= value <= figures[name].high)
                if draw < len(seeds):
                    firsts[name].append(_shown(figures[name]))
        lines += [
            [kind, name, f"{100 * value:.1f}", *firsts[name], f"{100 * np.mean(held[name]):.1f} % of {len(held[name])}"]
            for name, value in truth.items()
        ]
    return table(["chances", "figure", "planted, %", *(f"seed {seed}, %" for seed in seeds), "intervals that hold it"],
                 lines)  # fmt: skip


def _right(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    from truing.measures.exact_match import match

    return [float(match(said, [_answer(prompt)])[0]) for prompt, said in zip(prompts, responses)]


def exact_match(seeds: Sequence[int], out: Path) -> str:
    """A planted share of right answers in many forms, then what models of the sandbox write beside what they know."""
    lines = []
    for share in (0.0, 0.35, 0.9, 1.0):
        shown, held = [], []
        for draw in range(DRAWS * len(seeds)):
            seed = seeds[draw % len(seeds)] * 1_000_000 + draw
            model = Planted(dict.fromkeys(map(str, range(200)), share), seed)
            figures = ExactMatch(records=_asked(200)).measure(model).figures
            one = figures["exact_match"]
            # A wrong answer shares one of two words with the right one.
            held.append((one.low <= share <= one.high, figures["f1"].low <= 0.5 + share / 2 <= figures["f1"].high))
            if draw < len(seeds):
                shown.append(_shown(one))
        each = [f"{100 * np.mean(part):.1f} %" for part in zip(*held)]
        lines.append([f"{100 * share:.0f}", *shown, *each])
    first = table(["planted, %", *(f"seed {seed}, %" for seed in seeds), "intervals that hold it", "of F1"], lines)
    rows = []
    for name in ("base", "small", "guide"):
        for seed in seeds:
            model = load(f"sandbox/{name}")
            wrote = ExactMatch(limit=120, seed=seed).measure(model)
            # Facts alone are asked by options too.
            facts = [row["exact_match"] for row in wrote.samples if row["kind"] == "fact"]
            knows = MultipleChoice(limit=len(facts), kinds=["fact"], seed=seed).measure(model).figures["accuracy"]
            many = PassRate(limit=60, samples=8, ks=[1, 8], seed=seed).measure(model).figures
            said = [wrote.figures["exact_match"], *(many[each] for each in ("pass@1", "pass@8", "pass^8"))]
            rows.append([f"sandbox/{name}", seed, _shown(knows), f"{100 * np.mean(facts):.1f}", *map(_shown, said)])
    head = ["model", "seed", "facts by probability, %", "the same in writing, %", "with notes, %", "pass@1, %",
            "pass@8, %", "pass^8, %"]  # fmt: skip
    return f"{first}\n\n{table(head, rows)}"
