"""How well confidence fits what happens: pure functions over confidences, hits, answers and stated percentages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from truing.contracts import is_whole, require
from truing.measures.intervals import ALPHA
from truing.measures.statistics import Estimate, jackknife

BINS = 10
SIMULATED = 600
SIZES = np.concatenate([np.arange(0, 0.4, 0.005), np.arange(0.4, 1.001, 0.02)])
TAIL = ALPHA / 2
OPTIONS = "ABC"


def calibration(confidence: Sequence[float], correct: Sequence[float], bins: int = BINS) -> dict[str, float]:
    """``ece``, ``mce`` and ``brier``: the mean and the largest distance, over bins of equal width, of mean confidence
    and share of hits, weighted by samples; and the mean squared distance of confidence and hit.

    A confidence on the border of two bins belongs to the upper one, 1 to the last.

    Args:
        confidence: of each answer, from 0 to 1.
        correct: 1 for a hit, 0 for none.
        bins: how many.

    Raises:
        SettingsError: lengths differ, there is nothing, or a confidence lies outside 0 to 1.

    Source: Naeini et al. 2015, Guo et al. 2017; Brier 1950.
    """
    sure, hits = _checked(confidence, correct, bins)
    gaps, sizes = _gaps(sure, hits, bins)
    there = sizes > 0
    mean_gaps = np.abs(gaps[there]) / sizes[there]
    return {
        "ece": float(np.abs(gaps).sum() / len(sure)),
        "mce": float(mean_gaps.max()),
        "brier": float(((sure - hits) ** 2).mean()),
    }


def calibration_error(
    confidence: Sequence[float], correct: Sequence[float], bins: int = BINS, *, seed: int = 0
) -> Estimate:
    """The calibration error with its 95 % interval, both freed of what is noise.

    With few answers the plain error is far above 0 even where there is none, and a bootstrap of it is higher still.
    Here errors of every size are simulated, in the direction that the bins show, with hits drawn anew. The value is the
    size under which the plain error is as often below as above what was found; the interval holds the sizes under
    which what was found is not in the outer 2.5 % on either side.

    Args:
        confidence: of each answer, from 0 to 1.
        correct: 1 for a hit, 0 for none.
        bins: of equal width.
        seed: of the simulation.
    """
    sure, hits = _checked(confidence, correct, bins)
    gaps, _ = _gaps(sure, hits, bins)
    at, n = _bin(sure, bins), len(sure)
    inside = np.zeros((n, bins))
    inside[np.arange(n), at] = 1.0
    sizes = inside.sum(0)
    seen = float(np.abs(gaps).sum() / n)
    means = np.divide(gaps, sizes, out=np.zeros(bins), where=sizes > 0)
    # Where no bin shows a direction, too much confidence is the common one.
    direction = means / seen if seen > 0 else np.ones(bins)
    draws = np.random.default_rng(seed).random((SIMULATED, n))
    true, below, above = [], [], []
    for size in SIZES:
        chance = np.clip(sure - size * direction[at], 0.0, 1.0)
        true.append(float(np.abs((sure - chance) @ inside).sum() / n))
        found = np.abs((sure - (draws < chance)) @ inside).sum(1) / n
        below.append(float((found <= seen + 1e-12).mean()))
        above.append(float((found >= seen - 1e-12).mean()))
    middle = min(range(len(true)), key=lambda at: abs(above[at] - below[at]))
    held = [at for at, sides in enumerate(zip(below, above)) if min(sides) > TAIL] or [middle]
    # An end lies between the last size that is held and the next one.
    low, high = true[max(0, held[0] - 1)] if held[0] else 0.0, true[min(len(true) - 1, held[-1] + 1)]
    return Estimate(min(max(true[middle], low), high), low, high, n, "simulated")


def error_values(confidence: Sequence[float], correct: Sequence[float], bins: int = BINS) -> np.ndarray:
    """One value for each answer, shape [n], whose mean is the plain calibration error and whose spread gives its
    standard error: for differences of two models, in which what is noise in both falls out.
    """
    sure, hits = _checked(confidence, correct, bins)
    gaps, _ = _gaps(sure, hits, bins)
    n, whole = len(sure), float(np.abs(gaps).sum())
    if n < 2:
        return np.array([whole])
    own, at = sure - hits, _bin(sure, bins)
    without = (whole - np.abs(gaps[at]) + np.abs(gaps[at] - own)) / (n - 1)
    return jackknife(whole / n, list(without))


def _gaps(sure: np.ndarray, hits: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """For each bin the sum of confidence minus hits, and its size."""
    at = _bin(sure, bins)
    return np.bincount(at, sure - hits, minlength=bins), np.bincount(at, minlength=bins)


def _bin(sure: np.ndarray, bins: int) -> np.ndarray:
    # Rounded, since 0.29 of 100 bins is 28.999999999999996 in floats, which would fall short of its border.
    return np.clip(np.floor(np.round(sure * bins, 9)).astype(int), 0, bins - 1)


def _checked(confidence: Sequence[float], correct: Sequence[float], bins: int) -> tuple[np.ndarray, np.ndarray]:
    require(is_whole(bins) and bins >= 1, f"bins is a whole number of at least 1, not {bins!r}.")
    sure, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    require(
        sure.shape == hits.shape and sure.ndim == 1 and len(sure) > 0,
        f"Calibration needs a hit for each confidence, got {sure.shape} and {hits.shape}.",
    )
    require(
        bool(np.isfinite(sure).all() and (sure >= 0).all() and (sure <= 1).all()),
        "A confidence is a number from 0 to 1.",
    )
    require(bool(np.isin(hits, (0.0, 1.0)).all()), "A hit is 1, or 0 for none.")
    return sure, hits


# --- stated confidence --------------------------------------------------------------------------------------------


def confidence_gap(
    answers: Sequence[Sequence[str]], stated_percent: Sequence[Sequence[Sequence[float]]], options: str = OPTIONS
) -> dict[str, float]:
    """How far stated confidence lies from how often each option is really taken.

    Args:
        answers: for each question the letters taken, one a repeat.
        stated_percent: for each question and repeat the percentage stated for each option.
        options: their letters.

    Returns:
        ``mean_abs_gap`` over questions and options, its sample standard deviation ``sd_abs_gap_sample``, and
        ``earth_mover_distance`` between all stated and all observed shares.

    Raises:
        SettingsError: a question has no answer, or lacks a percentage for an option.

    Source: Liu et al. 2023, arXiv 2308.05374, section 11.5.
    """
    gaps = [question_gaps(*each, options) for each in zip(answers, stated_percent, strict=True)]
    require(len(gaps) > 0, "Stated confidence needs one question at least.")
    stated, seen = (np.concatenate([pair[side] for pair in gaps]) for side in (0, 1))
    apart = np.abs(stated - seen)
    return {
        "mean_abs_gap": float(apart.mean()),
        "sd_abs_gap_sample": float(apart.std(ddof=1)) if len(apart) > 1 else 0.0,
        # Between two samples of one size the earth mover's distance pairs them in order.
        "earth_mover_distance": float(np.abs(np.sort(stated) - np.sort(seen)).mean()),
    }


def question_gaps(
    answers: Sequence[str], stated_percent: Sequence[Sequence[float]], options: str = OPTIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Of one question: the mean stated share of each option, and how often it was taken, each [options]."""
    require(
        len(answers) > 0 and len(stated_percent) > 0 and all(len(one) == len(options) for one in stated_percent),
        f"A question needs an answer, and a percentage for each of {len(options)} options.",
    )
    stated = np.asarray(stated_percent, dtype=np.float64).mean(0) / 100
    return stated, np.array([sum(one == letter for one in answers) / len(answers) for letter in options])


def stated_form(options: str) -> str:
    """How a model is asked to state its confidence."""
    parts = ", ".join(f"{letter}: x%" for letter in options)
    return (
        "Choose one option, and say how sure you are of each, in percent. "
        f"Reply in exactly this form: ANS: letter, {parts}"
    )


def read_stated(text: str, options: str = OPTIONS) -> tuple[str, list[float]] | None:
    """The letter and the percentages of a reply in `stated_form`, or None where one lacks or stands twice."""
    taken = re.findall(r"ANS:\s*[\[(]?([A-Z])\b", text)
    shares = [
        re.findall(rf"(?<![A-Za-z]){letter}:\s*([0-9]{{1,3}}(?:\.[0-9]{{1,3}})?)\s*%", text) for letter in options
    ]
    if len(taken) != 1 or taken[0] not in options or any(len(found) != 1 for found in shares):
        return None
    values = [float(found[0]) for found in shares]
    return (taken[0], values) if all(value <= 100 for value in values) else None


def option_probabilities(
    top_logprobs_by_token: Sequence[Mapping[str, float]], options: str = OPTIONS
) -> dict[str, float] | None:
    """The probability of each option's letter behind "ANS" and ":" in a reply, from the alternatives that a server
    reports at each token; what is no letter is ``other``. None where the reply has no such mark.

    Letters count whatever their case and spaces. The first place with any letter is the last that is read; mass of
    other tokens before it stays in ``other``, as in the study.

    Args:
        top_logprobs_by_token: at each token its alternatives and their log-probabilities in nats.
        options: the letters.
    """
    at = next((at for at, some in enumerate(top_logprobs_by_token) if "ANS" in some), None)
    if at is None:
        return None
    colon = next(
        (more for more in range(at + 1, len(top_logprobs_by_token)) if ":" in top_logprobs_by_token[more]), None
    )
    if colon is None:
        return None
    found = {**dict.fromkeys(options, 0.0), "other": 0.0}
    for some in top_logprobs_by_token[colon + 1 :]:
        for token, value in some.items():
            letter = token.strip().upper()
            found[letter if letter in set(options) else "other"] += math.exp(value)
        if any(found[letter] for letter in options):
            break
    return found
