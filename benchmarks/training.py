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
from collections.abc import Callable, Iterator
from typing import Any

from truing import DPO, progress
from truing.models import Model


class _Handover:
    """Gives each step's loss to the race, and lets the training wait until the race has looked at its clock."""

    def __init__(self) -> None:
        self.steps: queue.Queue[dict[str, float] | BaseException | None] = queue.Queue()
        self.go = threading.Semaphore(0)
        self.parts: dict[str, float] = {}

    def log(self, row: dict[str, float]) -> None:
        self.steps.put({"loss": row["loss"], **self.parts})
        self.parts.clear()
        self.go.acquire()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose seconds count as a part of the step; those of a part inside it count there only."""

        def timed(*given: Any, **named: Any) -> Any:
            began, inside = time.perf_counter(), sum(self.parts.values())
            try:
                return function(*given, **named)
            finally:
                spent = time.perf_counter() - began - (sum(self.parts.values()) - inside)
                self.parts[name] = self.parts.get(name, 0.0) + spent

        return timed


def challenger(
    model: Any, ref_model: Any, tokenizer: Any, records: list[Any], args: Any, **more: Any
) -> Iterator[dict[str, float]]:
    """Train with `DPO`, and yield the loss of each step.

    The reference is computed before the first step, in which its time therefore falls; the time is printed to standard
    error, since a race that leaves out the first steps as warm-up leaves it out too.
    """
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    from truing.methods.training import policy, reference, trainer

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
    parts: list[tuple[Any, str, str]] = [
        (trainer.ObjectiveTrainer, "compute_loss", "objective"), (policy.Policy, "forward", "forward"),
        (policy, "target_logps", "head forward"), (trainer.ObjectiveTrainer, "_collate", "data"),
        (trainer.ObjectiveTrainer, "_watch", "metrics"), (Accelerator, "backward", "backward"),
        (AcceleratedOptimizer, "step", "optimiser"),
    ]  # fmt: skip
    held = [(where, name, getattr(where, name)) for where, name, _ in parts]

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        plain_log(self, logs, start_time)
        if "grad_norm" in logs:
            handover.log(logs)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        found = plain_reference(*given, **named)
        spent = time.process_time() - began
        print(f"reference pass: {spent:.2f} CPU s, {spent / len(records):.4f} a pair", file=sys.stderr)
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
    for where, name, label in parts:
        setattr(where, name, handover.wrap(label, getattr(where, name)))
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
        for where, name, function in held:
            setattr(where, name, function)


def lora(
    model: Any, ref_model: Any, tokenizer: Any, records: list[dict[str, str]], args: Any
) -> Iterator[dict[str, float]]:
    """The same with LoRA of rank 16 on all linear layers."""
    yield from challenger(model, ref_model, tokenizer, records, args, adapter={"r": 16, "lora_alpha": 32})
