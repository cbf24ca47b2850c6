"""RadFact as pure functions of verdicts, boxes and counts: what of two lists of phrases follows from the other.

Source: Bannur et al. 2024, "MAIRA-2: Grounded Radiology Report Generation", arXiv 2406.04449, and its metric's code
where the two differ.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np

from truing.records.grounded_text import Box, Phrase

IMAGE_SIZE = 224
THRESHOLD = 0.5
RATIOS = ("logical_precision", "logical_recall", "spatial_precision", "spatial_recall", "grounding_precision",
          "grounding_recall")  # fmt: skip
COUNTS = ("num_candidate_phrases", "num_reference_phrases", "num_candidate_phrases_with_boxes",
          "num_reference_phrases_with_boxes")  # fmt: skip
F1 = ("logical", "spatial", "grounding")
BOXED = tuple(name for name in RATIOS if not name.startswith("logical")) + COUNTS[2:]
"""What a report in plain words has none of."""
ENTAILED, FAILED, NO_BOXES = "spatial_entailment", "no_spatial_entailment", "no_boxes"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a phrase follows from the other report.

    Args:
        entailed: it does.
        evidence: numbers of the phrases of the other report that it follows from.
    """

    entailed: bool
    evidence: tuple[int, ...] = ()


def mask(boxes: Sequence[Box], size: int = IMAGE_SIZE) -> np.ndarray:
    """The pixels of boxes, bool [size, size]: of each from int(min * size) to int(max * size), the end left out."""
    out = np.zeros((size, size), dtype=bool)
    for x, y, u, v in boxes:
        # float64 as it comes: 0.29 * 100 is 28.999…, and pixel 28.
        out[int(x * size) : int(u * size), int(y * size) : int(v * size)] = True
    return out


def box_metrics(boxes: Sequence[Box], true: Sequence[Box], size: int = IMAGE_SIZE) -> dict[str, float]:
    """``iou``, ``precision`` and ``recall`` of the pixels of boxes; NaN where there is nothing to divide by."""
    one, two = mask(boxes, size), mask(true, size)
    both = int((one & two).sum())
    return {
        "iou": _share(both, int((one | two).sum())), "precision": _share(both, int(one.sum())),
        "recall": _share(both, int(two.sum())),
    }  # fmt: skip


def spatial_status(
    phrases: Sequence[Phrase], verdicts: Sequence[Verdict], others: Sequence[Phrase], *, size: int = IMAGE_SIZE,
    threshold: float = THRESHOLD,
) -> list[str]:  # fmt: skip
    """For each phrase whether its boxes follow: "no_boxes", "spatial_entailment" or "no_spatial_entailment".

    They follow where the phrase does, and more than ``threshold`` of their pixels lie in the boxes of its evidence, all
    taken together. A box thinner than a pixel has none, and fails.
    """
    out = []
    for phrase, verdict in zip(phrases, verdicts, strict=True):
        if phrase.boxes is None:
            out.append(NO_BOXES)
            continue
        shown = [box for at in verdict.evidence for box in others[at].boxes or ()]
        covered = verdict.entailed and bool(shown)
        # NaN is not over anything.
        covered = covered and box_metrics(phrase.boxes, shown, size)["precision"] > threshold
        out.append(ENTAILED if covered else FAILED)
    return out


def one_way(verdicts: Sequence[Verdict], statuses: Sequence[str]) -> dict[str, float]:
    """``logical``, ``spatial`` and ``grounding`` ratios of one direction; how many ``phrases`` and ``boxed`` ones."""
    boxed = [verdict for verdict, status in zip(verdicts, statuses, strict=True) if status != NO_BOXES]
    passed = sum(status == ENTAILED for status in statuses)
    return {
        "logical": _share(sum(verdict.entailed for verdict in verdicts), len(verdicts)),
        "spatial": _share(passed, len(boxed)),
        "grounding": _share(passed, sum(verdict.entailed for verdict in boxed)),
        "phrases": len(verdicts), "boxed": len(boxed),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReportScore:
    """One pair of reports.

    Args:
        values: the six ratios, NaN where undefined, and the four counts.
        candidate: spatial status of each phrase of the candidate.
        reference: likewise of the reference.
    """

    values: dict[str, float]
    candidate: list[str]
    reference: list[str]


def score_report(
    candidate: Sequence[Phrase], reference: Sequence[Phrase], forward: Sequence[Verdict],
    backward: Sequence[Verdict], *, size: int = IMAGE_SIZE, threshold: float = THRESHOLD,
) -> ReportScore:  # fmt: skip
    """The scores of a pair of reports: the candidate's phrases give the precisions, the reference's the recalls.

    Args:
        candidate: what was written.
        reference: what is true.
        forward: a verdict on each of the candidate's phrases, given the reference.
        backward: on each of the reference's, given the candidate.
        size: pixels of a side of the grid.
        threshold: share of own pixels that must be covered, strictly more.
    """
    one = spatial_status(candidate, forward, reference, size=size, threshold=threshold)
    two = spatial_status(reference, backward, candidate, size=size, threshold=threshold)
    values: dict[str, float] = {}
    for verdicts, statuses, kind, name in (
        (forward, one, "precision", "candidate"), (backward, two, "recall", "reference"),
    ):  # fmt: skip
        found = one_way(verdicts, statuses)
        values |= {f"{part}_{kind}": found[part] for part in F1}
        values |= {f"num_{name}_phrases": found["phrases"], f"num_{name}_phrases_with_boxes": found["boxed"]}
    return ReportScore({name: values[name] for name in (*RATIOS, *COUNTS)}, one, two)


def f1(precision: float, recall: float) -> float:
    """2PR / (P + R); 0 where both are 0, NaN where one is."""
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def aggregate(reports: Sequence[Mapping[str, float] | None], *, narrative: bool = False) -> dict[str, float]:
    """Means over reports, each column without its NaN; F1 of those means; how many reports there are.

    Args:
        reports: ``ReportScore.values``; None for one that could not be judged, which is only counted.
        narrative: reports in plain words: what boxes give is 0.
    """
    valid = [report for report in reports if report is not None]
    out: dict[str, float] = {}
    for name in (*RATIOS, *COUNTS):
        found = [value for report in valid if not math.isnan(value := report[name])]
        out[name] = 0.0 if narrative and name in BOXED else float(np.mean(found)) if found else math.nan
    for name in F1:
        out[f"{name}_f1"] = f1(out[f"{name}_precision"], out[f"{name}_recall"])
    return {**out, "num_samples": len(valid), "num_invalid_processed_samples": len(reports) - len(valid)}


def bootstrap(
    reports: Sequence[Mapping[str, float] | None], *, rounds: int = 500, seed: int = 42, narrative: bool = False
) -> dict[str, dict[str, float]]:
    """For each figure of `aggregate` its mean, standard error, median and percentiles over resamples of the reports.

    The standard error is the population's standard deviation over rounds; undefined rounds are left out.

    Args:
        reports: see `aggregate`.
        rounds: of resampling; the published command line always runs 10.
        seed: of NumPy's generator, which draws one index for each report a round.
        narrative: see `aggregate`.
    """
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(rounds):
        picked = rng.choice(len(reports), size=len(reports), replace=True)
        drawn.append(aggregate([reports[at] for at in picked], narrative=narrative))
    out = {}
    for name in drawn[0]:
        found = np.array([round_[name] for round_ in drawn], dtype=np.float64)
        found = found[~np.isnan(found)]
        if not len(found):
            out[name] = dict.fromkeys(("mean", "stderr", "p2.5th", "p25th", "median", "p75th", "p97.5th"), math.nan)
            continue
        ends = np.quantile(found, [0.025, 0.25, 0.5, 0.75, 0.975])
        out[name] = {"mean": float(found.mean()), "stderr": float(found.std()),
                     **dict(zip(("p2.5th", "p25th", "median", "p75th", "p97.5th"), map(float, ends)))}  # fmt: skip
    return out


def normalised(text: str) -> str:
    """A text for comparing: small letters, single spaces, no dashes, without one final . : ! or ?"""
    text = re.sub(r"\s+", " ", text.lower().strip())
    return re.sub(r"[.:!?]$", "", re.sub("[-\u2013\u2014]", "", text))


def match_phrase(text: str, candidates: Sequence[str]) -> int | None:
    """Which of the candidates a quoted phrase is: the first that is equal, normalised, else the one with the longest
    common substring, the first of equal ones. None where no letter is common."""
    wanted, others = normalised(text), [normalised(one) for one in candidates]
    if wanted in others:
        return others.index(wanted)
    best, where = 0, None
    for at, one in enumerate(others):
        size = SequenceMatcher(None, wanted, one, autojunk=False).find_longest_match(0, len(wanted), 0, len(one)).size
        if size > best:
            best, where = size, at
    return where


def _share(count: float, total: float) -> float:
    return count / total if total else math.nan
