"""Our entry in the neutral preference race.

    PYTHONPATH=. python race_dpo.py --challenger benchmarks.training:challenger

The race hands over a model, a frozen copy of it, a tokenizer and records, and takes the time between two yields.
Everything below goes through `DPO.align`, as a user would call it: metrics, logging and the finite-loss check are on.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from truing import DPO, progress
from truing.models import Model


class _Handover:
    """Gives each step's loss to the race, and lets the training wait until the race has looked at its clock."""

    def __init__(self) -> None:
        self.steps: queue.Queue[dict[str, float] | BaseException | None] = queue.Queue()
        self.go = threading.Semaphore(0)

    def log(self, row: dict[str, float]) -> None:
        self.steps.put({"loss": row["loss"]})
        self.go.acquire()


def challenger(
    model: Any, ref_model: Any, tokenizer: Any, records: list[Any], args: Any, **more: Any
) -> Iterator[dict[str, float]]:
    """Train with `DPO`, and yield the loss of each step.

    The reference is computed before the first step, in which its time therefore falls; the time is printed to standard
    error, since a race that leaves out the first steps as warm-up leaves it out too.
    """
    from truing.methods.training import reference, trainer

    os.environ["TRUING_CACHE"] = tempfile.mkdtemp()  # an earlier run's reference must not save this one its pass

    # The race joins plain strings; chat marks would add tokens that its own count does not know.
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    start = Model(model, tokenizer, source="race")
    method = DPO(
        learning_rate=args.lr, batch_size=args.batch, beta=0.1, max_steps=args.steps, max_length=1024,
        schedule="constant",
        warmup_ratio=0.0, shuffle=False, seed=args.seed, **more,
    )  # fmt: skip
    handover = _Handover()
    plain_log, plain_reference = trainer.ObjectiveTrainer.log, reference.reference_logps

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        plain_log(self, logs, start_time)
        if "grad_norm" in logs:
            handover.log(logs)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = plain_reference(*given, **named)
        spent = time.perf_counter() - began
        print(f"reference pass: {spent:.2f} s, {spent / len(records):.4f} s a pair", file=sys.stderr)
        return found

    def work() -> None:
        try:
            with progress.listening(progress.SilentListener()):
                method.align(start, records)
            handover.steps.put(None)
        except BaseException as error:  # handed to the race, which raises it where it waits
            handover.steps.put(error)

    trainer.ObjectiveTrainer.log = log  # type: ignore[method-assign]
    reference.reference_logps = timed
    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
        while (step := handover.steps.get()) is not None:
            if isinstance(step, BaseException):
                raise step
            yield step
            handover.go.release()
    finally:
        trainer.ObjectiveTrainer.log = plain_log  # type: ignore[method-assign]
        reference.reference_logps = plain_reference


def lora(
    model: Any, ref_model: Any, tokenizer: Any, records: list[dict[str, str]], args: Any
) -> Iterator[dict[str, float]]:
    """The same with LoRA of rank 16 on all linear layers."""
    yield from challenger(model, ref_model, tokenizer, records, args, adapter={"r": 16, "lora_alpha": 32})
