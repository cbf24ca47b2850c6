"""What loops of training share: a folder for each round, the newest weights, and 32 bits from round to round."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from truing.methods.training.checkpoints import MARK, load_trained
from truing.models import Model
from truing.models.core import merged


def round_folder(out: Path | None, number: int) -> Path | None:
    """Where a round keeps its things."""
    return None if out is None else out / f"round-{number}"


def _finished(out: Path, number: int) -> Path:
    return out / f"round-{number}" / "checkpoints" / "finished"


def newest_finished(out: Path | None) -> int:
    """The highest number of a round whose trained weights are there; -1 where none is."""
    if out is None:
        return -1
    numbers = [int(place.name[6:]) for place in out.glob("round-*") if place.name[6:].isdigit()]
    return max((number for number in numbers if (_finished(out, number) / MARK).is_file()), default=-1)


def restored(start: Model, out: Path, number: int) -> Model:
    """The model after a finished round, of a loop that trains all weights."""
    weights = copy.deepcopy(merged(start.weights)).requires_grad_(True)
    load_trained(weights, _finished(out, number))
    return start.with_weights(weights.eval())


def forget(out: Path | None, number: int) -> None:
    """Remove the weights of a round that a later one was trained from; its records and figures stay."""
    if out is None or number < 0 or not _finished(out, number).is_dir():
        return
    # The mark goes first: what is removed in part must not be taken for whole.
    (_finished(out, number) / MARK).unlink(missing_ok=True)
    shutil.rmtree(_finished(out, number))


def widened(model: Model) -> Model:
    """The model in 32 bits, so that small changes add up over rounds; itself where it is."""
    if model.weights.dtype == torch.float32:
        return model
    return model.with_weights(copy.deepcopy(merged(model.weights)).float())


def narrowed(model: Model, dtype: torch.dtype) -> Model:
    """The model that a loop gives back, in the type of the one that came in; its weights are the loop's own."""
    return model if model.weights.dtype == dtype else model.with_weights(model.weights.to(dtype).eval())


def passes(count: int, seed: int) -> Iterator[int]:
    """Numbers of records without end: pass after pass over all, each in a new order."""
    for turn in itertools.count():
        yield from np.random.default_rng([seed, turn]).permutation(count).tolist()
