"""The folder of a training: what it is a training of, checkpoints that are whole, and its log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truing.contracts import Method
from truing.errors import RunError
from truing.files import write_atomic
from truing.methods.training.processes import rank, whole
from truing.models.history import plain

MARK = "complete"
STATE = "objective.json"
WEIGHTS = "trained.safetensors"
# What a training may change between two calls and still be the same one.
COSMETIC = frozenset({"save_every", "log_every", "report_to"})


def lasting_settings(method: Method) -> dict[str, Any]:
    """The settings that make a training what it is, as JSON values by name."""
    return {name: plain(value) for name, value in method.settings().items() if name not in COSMETIC}


class TrainingFolder:
    """``<out>/log.jsonl`` and ``<out>/checkpoints/``: ``training.json``, ``checkpoint-N/``, at the end ``finished/``.

    Args:
        out: the folder given to `align`.
        identity: what the training is of, JSON values by name; a folder with another one is refused.

    Raises:
        RunError: the folder holds a training with other settings, records or weights, or cannot be written.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.out, self.checkpoints, self.log_path = out, out / "checkpoints", out / "log.jsonl"
        path = self.checkpoints / "training.json"
        wanted = json.loads(json.dumps(identity))
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except OSError as error:
            raise RunError(
                f"{out} cannot be used as a folder for training: {error.strerror}. Choose another."
            ) from error
        except ValueError as error:
            raise RunError(f"{path} is not readable. Remove {self.checkpoints} to train anew.") from error
        if held is None:
            write_atomic(path, json.dumps(wanted, indent=1))
        elif held != wanted:
            raise RunError(
                f"{out} holds another training: {_differences(held, wanted)}. "
                f"Choose another folder, or remove {self.checkpoints} to train anew."
            )

    def newest(self) -> Path | None:
        """The newest checkpoint that was written whole; what was not is removed."""
        kept = self.prune(keep=2)
        return kept[-1] if kept else None

    def prune(self, keep: int) -> list[Path]:
        """Remove checkpoints that are not whole, and all but the newest ones; give those that stay, the newest last."""
        found: list[tuple[int, Path]] = []
        for place in self.checkpoints.glob("checkpoint-*"):
            number = place.name.rpartition("-")[2]
            if number.isdigit() and (place / MARK).is_file():
                found.append((int(number), place))
            elif rank() == 0:
                shutil.rmtree(place)
        found.sort()
        old, kept = found[: max(0, len(found) - keep)], found[max(0, len(found) - keep) :]
        for _, place in old if rank() == 0 else ():
            # The mark goes first: what is removed in part must not be taken for whole.
            (place / MARK).unlink()
            shutil.rmtree(place)
        return [place for _, place in kept]

    @property
    def finished(self) -> Path | None:
        """The folder of the trained weights, if the training came to its end."""
        place = self.checkpoints / "finished"
        return place if (place / MARK).is_file() else None

    def finish(self, weights: nn.Module) -> None:
        """Keep the trained weights, so that a call killed before its model is saved repeats nothing. The rest goes."""
        place = self.checkpoints / "finished"
        place.mkdir(exist_ok=True)
        save_trained(weights, place)
        (place / MARK).touch()
        self.prune(keep=0)

    def start_log(self, facts: dict[str, Any], step: int) -> float:
        """Begin the log, or cut it back to a step; gives the seconds that it had counted by then."""
        kept, seconds = [json.dumps({"event": "start", **facts})], 0.0
        if step and self.log_path.is_file():
            kept = []
            for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # the last line of a killed call may be cut; its step is trained again
                if row.get("step", 0) <= step:
                    kept.append(line)
                    seconds = row.get("seconds", seconds)
        self.log_path.write_text("\n".join(kept) + "\n", encoding="utf-8")
        return float(seconds)

    def log(self, row: dict[str, Any]) -> None:
        """Add one line."""
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def trained_state(weights: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are trained, by name; tied ones once."""
    return {name: whole(p).contiguous() for name, p in weights.named_parameters() if p.requires_grad}


def save_trained(weights: nn.Module, place: Path) -> None:
    """Write `trained_state`."""
    from safetensors.torch import save_file

    save_file(trained_state(weights), place / WEIGHTS)


def load_trained(weights: nn.Module, place: Path) -> None:
    """Read into the model what `save_trained` wrote."""
    from safetensors.torch import load_file

    restore(weights, load_file(place / WEIGHTS))


def restore(weights: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Set the parameters that are trained to what `trained_state` gave."""
    with torch.no_grad():
        for name, parameter in weights.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state[name])


def _differences(held: dict[str, Any], wanted: dict[str, Any], where: str = "") -> str:
    texts = []
    for key in sorted({*held, *wanted}):
        there, here = held.get(key), wanted.get(key)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            texts.append(_differences(there, here, f"{where}{key}."))
        else:
            texts.append(f"{where}{key} is {there!r} there and {here!r} here")
    return "; ".join(texts)
