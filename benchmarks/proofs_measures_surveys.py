"""What the survey measures find where something was planted, and where nothing was, as tables in Markdown.

Respondents with planted opinions and flaws answer in writing; a model of the sandbox is taught opinions and read by
probabilities. Every seed draws its own opinions, flawed questions, lands and texts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import SHARED, table
from truing import SFT, CulturalAlignment, MultipleChoice, PoliticalCompass, Tropes, ValueOrientation, load, sandbox
from truing.measures import reliability, statistics
from truing.measures.political_axes import pct_axes
from truing.measures.result import Figure, Result
from truing.measures.value_portraits import SCHWARTZ
from truing.sandbox.surveys import LANDS, Respondent, land_survey, planted_answers, planted_texts, propositions

REAL = SHARED / "data"


def _shown(figure: Figure | None, scale: float = 1.0) -> str:
    if figure is None:
        return "none"
    return f"{scale * figure.value:.2f} [{scale * figure.low:.2f}, {scale * figure.high:.2f}]"


def _verdict(result: Result, test: str) -> str:
    return next((note.split(":")[0].split(" ", 1)[1] for note in result.notes if note.startswith(test)), "not tested")


# --- cultural alignment -----------------------------------------------------------------------------------------------


def _lands(seed: int, related: bool = True) -> tuple[list[dict[str, Any]], Any]:
    rows = land_survey(seed, related=related)

    def opinions(persona: str, asked: str) -> dict[str, float]:
        land = next((name for name in LANDS if name in persona), LANDS[seed % len(LANDS)])
        return {row["text"]: row["human_means"][land] for row in rows}

    return rows, opinions


def cultural_alignment(seeds: Sequence[int], out: Path) -> str:
    """Three tests of a survey on respondents with a planted flaw each, one without, and models of the sandbox."""
    lines = []
    for seed in seeds:
        rows, opinions = _lands(seed)
        plain = opinions("", "")
        loose, apart = _lands(seed, related=False)
        subjects: list[tuple[str, Any, Any]] = [
            ("nothing planted", Respondent(opinions), rows),
            ("first option shown, half of the questions", Respondent(opinions, "first", 0.5, seed), rows),
            ("turned round when the scale is, half", Respondent(opinions, "order", 0.5, seed), rows),
            ("first option under letters, half", Respondent(opinions, "letters", 0.5, seed), rows),
            ("coin tosses", Respondent(opinions, "random", 1.0, seed), rows),
            ("ignores the persona", Respondent(plain), rows),
            ("dimensions unrelated", Respondent(apart), loose),
        ]
        if seed == seeds[0]:
            subjects.append(("sandbox/guide, by probabilities", load("sandbox/guide"), rows))
        for name, who, survey in subjects:
            result = CulturalAlignment(survey=survey, permutations=1000, seed=seed).measure(who)
            worst = max((f for n, f in result.figures.items() if n.startswith("shift: ")), key=lambda f: f.value)
            first = next(n for n in result.figures if n.startswith("agreement: "))
            near = next(note for note in result.notes if "forms find" in note)
            lines.append([
                seed, name, _shown(result.figures[first]), near.split(";")[0], _shown(worst),
                _shown(result.figures["between countries"]), _verdict(result, "Stability"),
                _shown(result.figures.get("few dimensions: model")), _verdict(result, "Extrapolability"),
                _shown(result.figures.get("spread of personas")), _shown(result.figures.get("own country nearest")),
                _verdict(result, "Steerability"),
            ])  # fmt: skip
    head = ["seed", "planted", "plain score, one form", "nearest land", "largest shift", "between lands", "stability",
            "few dimensions", "extrapolability", "spread", "own land", "steerability"]  # fmt: skip
    return "\n\n".join([table(head, lines), _null(seeds)])


def _null(seeds: Sequence[int], runs: int = 200) -> str:
    """How p-values of a random answerer are spread."""
    from scipy import stats

    lines = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        paired = [reliability.paired_p(rng.normal(size=24).tolist(), permutations=400, seed=at) for at in range(runs)]
        grouped = [
            reliability.format_effect(rng.random(40).tolist(), ["a", "b"] * 20, permutations=400, seed=at)["p"]
            for at in range(runs)
        ]
        whole = [
            reliability.format_effect(rng.integers(1, 6, 40).tolist(), ["a", "b"] * 20, permutations=400, seed=at)["p"]
            for at in range(runs)
        ]
        lines.append([seed, *(f"{100 * np.mean(np.array(p) < 0.05):.1f} %, {stats.kstest(p, 'uniform').pvalue:.2f}"
                              for p in (paired, grouped, whole))])  # fmt: skip
    return (
        f"A random answerer, {runs} runs: share of p-values below 0.05, and Kolmogorov-Smirnov p of uniformity.\n\n"
        + table(["seed", "paired", "two groups", "two groups, ratings 1 to 5"], lines)
    )


# --- political compass ------------------------------------------------------------------------------------------------


@functools.cache
def _taught(seed: int, by_letter: bool) -> Any:
    name = "opinions_by_letter" if by_letter else "opinions"
    rows = sandbox.records(name, seed=seed)
    return SFT(learning_rate=3e-3, epochs=8, batch_size=16, seed=seed).align(load("sandbox/small"), rows)


def political_compass(seeds: Sequence[int], out: Path) -> str:
    """Planted leanings: by respondents, and by models taught in words and by letter."""
    lines = []
    for seed in seeds:
        for leaning in (("left", "libertarian"), ("right", "authoritarian"), ()):
            answers = planted_answers(leaning, seed)
            opinions = {text: answer / 3 for text, answer in zip(propositions(), answers)}
            for flaw in ("none", "first", "wording"):
                result = PoliticalCompass(open=[], labels="letters", seed=seed).measure(
                    Respondent(opinions, flaw, 0.5 if flaw == "wording" else 1.0, seed)
                )
                lines.append(
                    _compass(
                        seed,
                        f"respondent, {' '.join(leaning) or 'no leaning'}; flaw: {flaw}",
                        pct_axes(answers),
                        result,
                    )
                )
        truth = pct_axes(planted_answers(("left", "libertarian")))
        taught, lettered = _taught(seed, False), _taught(seed, True)
        lines.append(
            _compass(seed, "model taught in words, asked in words", truth, PoliticalCompass(seed=seed).measure(taught))
        )
        by_letter = PoliticalCompass(labels="letters", open=[], seed=seed)
        lines.append(_compass(seed, "model taught in words, asked for letters", truth, by_letter.measure(taught)))
        lines.append(_compass(seed, "model taught by letter, asked for letters", truth, by_letter.measure(lettered)))
    own = PoliticalCompass(open=[]).measure(load("sandbox/small"))
    lines.append(_compass("", "sandbox/small, taught nothing", {"economic": math.nan, "social": math.nan}, own))
    real = REAL / "political_compass" / "political_compass_questions.txt"
    if real.is_file():
        study = PoliticalCompass(propositions=real, open=[]).measure(load("sandbox/guide"))
        lines.append(
            _compass("", "sandbox/guide on the 62 real propositions", {"economic": math.nan, "social": math.nan}, study)
        )
    head = ["seed", "who", "planted", "economic", "social", "economic, free text", "agreement, %", "total variation, %"]
    return table(head, lines)


def _compass(seed: Any, name: str, truth: dict[str, float], result: Result) -> list[Any]:
    figures = result.figures
    planted = "" if math.isnan(truth["economic"]) else f"{truth['economic']}, {truth['social']}"
    return [
        seed, name, planted, _shown(figures.get("economic")), _shown(figures.get("social")),
        _shown(figures.get("economic open")), _shown(figures.get("agreement"), 100),
        _shown(figures.get("total_variation"), 100),
    ]  # fmt: skip


# --- values -----------------------------------------------------------------------------------------------------------


def value_orientation(seeds: Sequence[int], out: Path) -> str:
    """A planted profile on the circle, a flawed respondent, and persona statements of real data."""
    names = list(SCHWARTZ)
    lines = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        top = int(rng.integers(len(names)))
        opinions = {
            text: min(1.0, max(0.0, (math.cos(2 * math.pi * (at - top) / 10) + 1) / 2 + float(rng.normal(0, 0.08))))
            for at, name in enumerate(names)
            for text in SCHWARTZ[name]
        }
        for flaw, share in (("none", 1.0), ("first", 1.0), ("wording", 1.0), ("random", 1.0)):
            result = ValueOrientation(choices=False, seed=seed).measure(Respondent(opinions, flaw, share, seed))
            found = {name: result.figures[f"value: {name}"] for name in names}
            best = max(found, key=lambda name: found[name].value)
            inside = sum(found[name].low > 0 or found[name].high < 0 for name in names)
            lines.append([
                seed, f"{names[top]} highest; flaw: {flaw}", f"{best} {_shown(found[best])}", f"{inside} of 10",
                _shown(result.figures.get("profile by wording")), _shown(result.figures.get("circle")),
                _shown(result.figures["agreement"], 100),
            ])  # fmt: skip
    for name in ("base", "guide"):
        result = ValueOrientation().measure(load(f"sandbox/{name}"))
        found = {name: result.figures[f"value: {name}"] for name in names}
        best = max(found, key=lambda name: found[name].value)
        lines.append([
            "", f"sandbox/{name}", f"{best} {_shown(found[best])}",
            f"{sum(f.low > 0 or f.high < 0 for f in found.values())} of 10",
            _shown(result.figures.get("profile by wording")),
            _shown(result.figures.get("circle")), _shown(result.figures["agreement"], 100),
        ])  # fmt: skip
    head = ["seed", "planted", "highest value found", "values off 0", "profile by wording", "circle", "agreement, %"]
    return "\n\n".join([table(head, lines), _personas()])


def _personas() -> str:
    folder = REAL / "persona_evals"
    if not folder.is_dir():
        return f"The persona statements are not at `{folder}`."
    files = [folder / f"{name}.jsonl" for name in ("agreeableness", "openness", "risk-averse", "interest-in-science")]
    lines = []
    for reading in ("letters", "none"):
        result = ValueOrientation(portraits=files, labels=reading, limit=200).measure(load("sandbox/base"))
        for path in files:
            lines.append([
                path.stem, "letters" if reading == "letters" else "words",
                _shown(result.figures[f"value: {path.stem}"]),
                _shown(result.figures.get(f"{path.stem} over wordings")), _shown(result.figures["agreement"], 100),
            ])  # fmt: skip
    head = ["persona", "answer", "over statements", "over wordings", "agreement, %"]
    return "Real persona statements (50 each), sandbox/base, which cannot have read what they speak of:\n\n" + table(
        head, lines
    )


# --- multiple choice and tropes ---------------------------------------------------------------------------------------


def multiple_choice(seeds: Sequence[int], out: Path) -> str:
    """What a model knows, and what nobody knows."""
    lines = []
    for name in ("base", "small", "guide"):
        for seed in seeds:
            result = MultipleChoice(limit=240, seed=seed).measure(load(f"sandbox/{name}"))
            figures = [
                result.figures[one] for one in ("accuracy", "accuracy_by_token", "accuracy_by_byte", "accuracy_unknown")
            ]
            lines.append([f"sandbox/{name}", seed, *(_shown(one, 100) for one in figures)])
    return table(["model", "seed", "known names, %", "by token", "by byte", "unknown names (chance is 25)"], lines)


def tropes(seeds: Sequence[int], out: Path) -> str:
    """Planted arguments among chatter, and chatter alone."""
    lines = []
    for seed in seeds:
        for share in (0.7, 0.0):
            rows, counts = planted_texts(seed, share=share)
            result = Tropes(texts=rows).measure()
            shown = [name for name in result.figures if name.startswith("trope: ")]
            kept = {row["argument"] for row, text in zip(rows, result.samples) if text["with trope"]}
            right = sum(bool(row["argument"]) == bool(text["with trope"]) for row, text in zip(rows, result.samples))
            exact = statistics.share([float(right > at) for at in range(len(rows))])
            lines.append([
                seed,
                f"{sum(bool(count) for count in counts.values())} arguments in {sum(counts.values())} of {len(rows)}",
                len(shown), len(kept - {""}), "yes" if "" in kept else "no",
                f"{100 * exact.value:.1f} [{100 * exact.low:.1f}, {100 * exact.high:.1f}]",
                _shown(result.figures.get("both sides"), 100),
            ])  # fmt: skip
    head = [
        "seed",
        "planted",
        "tropes found",
        "arguments found",
        "chatter taken for one",
        "texts told right, %",
        "on both sides, %",
    ]
    return table(head, lines)
