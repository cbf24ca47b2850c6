"""Training in several processes: who this one is, and what all of them do together.

A launcher (``accelerate launch``, ``torchrun``) starts the same program in every process; each calls ``align`` with the
same model and records, and each gets the same aligned model. Only the first one writes and speaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from truing import progress


def world() -> int:
    """Processes that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def joined(on: torch.device) -> Iterator[None]:
    """Join the other processes before the block, where there are any; all but the first are silent in it.

    Args:
        on: where the model lies, which decides how processes talk.
    """
    if world() == 1:
        yield
        return
    from accelerate import PartialState

    if on.type == "cpu":
        # Both are read by transformers and accelerate, and without them a launcher's own switch is ignored.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    PartialState(cpu=on.type == "cpu")
    with contextlib.nullcontext() if rank() == 0 else progress.listening(progress.SilentListener()):
        yield


def wait() -> None:
    """Until every process is here."""
    if world() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block before the others, which find what it wrote."""
    if rank() != 0:
        wait()
    yield
    if rank() == 0:
        wait()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if world() == 1:
        return values
    from accelerate import PartialState
    from torch import distributed

    summed = values.to(PartialState().device, copy=True)
    distributed.all_reduce(summed)
    return summed.to(values.device)


def gathered(value: Any) -> list[Any]:
    """What each process gives, in order of rank; anything that can be pickled."""
    if world() == 1:
        return [value]
    from torch import distributed

    out: list[Any] = [None] * world()
    distributed.all_gather_object(out, value)
    return out


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter that may be sharded over processes, whole; all processes must ask for it."""
    from torch.distributed.tensor import DTensor

    held = parameter.detach()
    return held.full_tensor() if isinstance(held, DTensor) else held
