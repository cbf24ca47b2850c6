"""What AlignScore and RadFact find: a small scorer trained in minutes against baselines, in the sandbox and on the
Pascal RTE challenges, and RadFact with judges whose verdicts are known.

Each seed draws its own training rows, weights and test items. Intervals are 95 %: over the items of all seeds together,
those with one context as one cluster. Differences are paired, on the same items.
"""

from __future__ import annotations

import functools
import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import SHARED, table
from truing import AlignScore, AlignScoreTraining, ConsistencyPairs, RadFact, load, sandbox
from truing.measures import statistics
from truing.measures.align_score import auc_values, word_overlap
from truing.measures.radfact_judging import same_phrase
from truing.measures.show import interval, number

DATA = SHARED / "data"
Rows = list[dict[str, Any]]
TRAIN, TEST = 3000, 500
SMALL = {"learning_rate": 2e-3, "epochs": 6, "batch_size": 16, "encoder": {}}


class Areas:
    """Areas under the curve of several ways over the same items, added seed by seed."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.clusters: list[str] = []
        self.by_seed: dict[str, list[float]] = {}

    def add(self, rows: Rows, scores: dict[str, Sequence[float]]) -> None:
        """The scores of one seed's items."""
        labels = [row["label"] for row in rows]
        self.clusters += [row["prompt"] for row in rows]
        for name, found in scores.items():
            values = auc_values(found, labels)
            self.values.setdefault(name, []).extend(values.tolist())
            self.by_seed.setdefault(name, []).append(float(values.mean()))

    def table(self, best: str) -> str:
        """Each way's area, what the first is ahead of it, and the areas of single seeds."""
        lines = []
        for name, values in self.values.items():
            found = statistics.mean(values, clusters=self.clusters)
            assert found is not None
            area = f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
            ahead = ""
            if name != best:
                gap = statistics.difference_of_means(self.values[best], values, clusters=self.clusters)
                assert gap is not None
                ahead = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
            lines.append([name, area, ahead, ", ".join(f"{100 * one:.1f}" for one in self.by_seed[name])])
        return table(["AUC, %", "all seeds", f"{best} is ahead by", "by seed"], lines)


def pairs_overlap(context: str, claim: str) -> float:
    """The share of the claim's different pairs of words that its context holds."""
    sides = []
    for text in (claim, context):
        words = re.findall(r"\w+", text.lower())
        sides.append(set(itertools.pairwise(words)))
    return len(sides[0] & sides[1]) / max(1, len(sides[0]))


def scored(scorer: Any, rows: Rows, mode: str) -> list[float]:
    """AlignScore of rows."""
    rule = AlignScore(scorer=scorer, mode=mode)
    return [one.score for one in rule.score([row["prompt"] for row in rows], [row["completion"] for row in rows])]


@functools.cache
def sandbox_scorer(seed: int, shuffled: bool = False) -> Any:
    """A new encoder, trained on pairs of the sandbox; with shuffled labels there is nothing to learn."""
    rows = sandbox.records("consistency", "train", TRAIN, seed)
    if shuffled:
        rng = np.random.default_rng(seed)
        said = [rows[at] for at in rng.permutation(len(rows))]
        kept = ("label", "verdict", "support", "head")
        rows = [{**row, **{key: other[key] for key in kept}} for row, other in zip(rows, said)]
    return AlignScoreTraining(**SMALL, seed=seed).align(load("sandbox/small"), rows)


def alignscore(seeds: Sequence[int], out: Path) -> str:
    """A scorer trained on the sandbox's notes against baselines, on notes about names that it has not seen."""
    areas, quiet = Areas(), Areas()
    base = load("sandbox/base")
    for seed in seeds:
        rows = sandbox.records("consistency", "test", TEST, 100 + seed)
        likelihood = base.logprobs([row["prompt"] for row in rows], [row["completion"] for row in rows], per_token=True)
        scores: dict[str, Sequence[float]] = {
            "trained, three-way head": scored(sandbox_scorer(seed), rows, "nli_sp"),
            "trained, binary head": scored(sandbox_scorer(seed), rows, "bin_sp"),
            "trained, regression head": scored(sandbox_scorer(seed), rows, "reg_sp"),
            "trained, three-way head, whole pair": scored(sandbox_scorer(seed), rows, "nli"),
            "word overlap": [word_overlap(row["prompt"], row["completion"]) for row in rows],
            "overlap of pairs of words": [pairs_overlap(row["prompt"], row["completion"]) for row in rows],
            "mean log-likelihood under sandbox/base": [float(one.mean()) for one in likelihood],
        }
        areas.add(rows, scores)
        quiet.add(rows, {"trained on shuffled labels": scored(sandbox_scorer(seed, True), rows, "nli_sp")})
    nothing = quiet.table("trained on shuffled labels")
    return f"{areas.table('trained, three-way head')}\n\nWith nothing to learn:\n\n{nothing}"


# --- Pascal RTE ------------------------------------------------------------------------------------------------------


def rte(name: str) -> Rows:
    """Pairs of one file of the challenges, as label records."""
    found = []
    for pair in ElementTree.parse(DATA / "rte" / f"{name}.xml").getroot().iter("pair"):
        said = (pair.get("value") or pair.get("entailment") or "").upper()
        texts = [(pair.findtext(tag) or "").strip() for tag in ("t", "h")]
        found.append({"prompt": texts[0], "completion": texts[1], "label": said in ("TRUE", "YES")})
    return found


def plain_texts() -> list[str]:
    """Texts of the corpora, one a file, without marks of parts of speech."""
    found = []
    for path in sorted((DATA / "corpora").glob("*/*.txt")):
        text = " ".join(path.read_text(encoding="latin-1").split())
        found.append(re.sub(r"/\S+", "", text) if re.search(r"\w/[a-z]{2}", text[:300]) else text)
    return found


def alignscore_rte(seeds: Sequence[int], out: Path) -> str:
    """A new encoder trained on pairs made from plain English texts, then on the 967 development pairs of RTE-1 and
    RTE-2, against overlap on their 1,600 test pairs."""
    if not (DATA / "rte").is_dir():
        return "The data are not here."
    develop, texts = rte("rte1_dev") + rte("rte2_dev"), plain_texts()
    tests = {"RTE-1": rte("rte1_test"), "RTE-2": rte("rte2_test")}
    areas = {name: Areas() for name in (*tests, "both")}
    for seed in seeds:
        made = ConsistencyPairs(n=6000, seed=seed).build(texts)
        shape = {"width": 128, "dropout": 0.1, "vocabulary": 8000}
        shared = {"batch_size": 16, "max_length": 160, "seed": seed}
        first = AlignScoreTraining(learning_rate=1e-3, epochs=2, encoder=shape, **shared).align(
            load("sandbox/small"), made
        )
        tuned = AlignScoreTraining(learning_rate=1e-4, epochs=3, **shared).align(first, develop)
        both: dict[str, list[float]] = {}
        for name, rows in tests.items():
            scores = {
                "trained": scored(tuned, rows, "bin"),
                "trained on made pairs alone": scored(first, rows, "bin"),
                "word overlap": [word_overlap(row["prompt"], row["completion"]) for row in rows],
                "overlap of pairs of words": [pairs_overlap(row["prompt"], row["completion"]) for row in rows],
                "length of the claim": [-float(len(row["completion"].split())) for row in rows],
            }
            areas[name].add(rows, scores)  # type: ignore[arg-type]
            for key, found in scores.items():
                both.setdefault(key, []).extend(found)
        areas["both"].add([row for rows in tests.values() for row in rows], both)  # type: ignore[arg-type]
    return "\n\n".join(f"{name}:\n\n{one.table('trained')}" for name, one in areas.items())


# --- RadFact ---------------------------------------------------------------------------------------------------------

FIGURES = ("logical_precision", "logical_recall", "logical_f1", "spatial_precision", "grounding_precision")


def radfact(seeds: Sequence[int], out: Path) -> str:
    """Planted errors, judges against exact verdicts, and reports without any error."""
    from truing.sandbox.reports import reports

    rows: Rows = [row for seed in seeds for row in reports("test", 80, 100 + seed)]
    rows = [{**row, "id": f"{row['id']}-{at}"} for at, row in enumerate(rows)]
    bare = [
        {key: _bare(row[key]) if key != "id" else row[key] for key in ("id", "candidate", "reference")} for row in rows
    ]
    same = [{**row, "candidate": row["reference"]} for row in bare]
    judges: dict[str, tuple[Rows, Any]] = {
        "exact verdicts": (rows, None),
        "scorer of the table above, from 0.5": (bare, sandbox_scorer(seeds[0])),
        "equal text only": (bare, same_phrase),
        "reports held against themselves, equal text": (same, same_phrase),
        "reports held against themselves, scorer": (same, sandbox_scorer(seeds[0])),
    }
    lines = []
    for name, (given, judge) in judges.items():
        result = RadFact(reports=given, judge=judge).measure()
        agree: list[float] = []
        for row, sample in zip(rows, result.samples):
            told = [one["entailed"] for side in ("candidate", "reference") for one in row[side]]
            if "themselves" not in name:
                agree.append(float(np.mean([a == one["entailed"] for a, one in zip(told, sample["phrases"])])))
        found = statistics.mean(agree) if agree else None
        found = found and statistics.bounded(found, (0.0, 1.0), len(agree))
        right = (
            "" if found is None else f"{number(found.value, 'share')} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        )
        lines.append([name, *(interval(result.figures[one]) for one in FIGURES), right])
    planted = {kind: sum(row["planted"][kind] for row in rows) for kind in rows[0]["planted"]}
    shown = ", ".join(f"{kind} {count}" for kind, count in planted.items())
    return f"Planted in {len(rows)} reports, phrases: {shown}.\n\n" + table(
        ["judge", *(one.replace("_", " ") for one in FIGURES), "verdicts as they should be"], lines
    )


def _bare(phrases: Rows) -> Rows:
    return [{"text": one["text"], "boxes": one["boxes"]} for one in phrases]


SECTIONS: dict[str, tuple[str, Callable[[Sequence[int], Path], str]]] = {
    "alignscore": ("AlignScore in the sandbox", alignscore),
    "alignscore_rte": ("AlignScore on the RTE challenges", alignscore_rte),
    "radfact": ("RadFact", radfact),
}
"""What a page of proofs takes from here."""
