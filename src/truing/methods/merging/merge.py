"""Merging: one model out of several with the same structure, by a rule on their weights."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from truing import progress
from truing.contracts import Method, require
from truing.errors import ModelError, UnsupportedError
from truing.methods.merging.streaming import TensorFolder, check_alike, check_structure, merge_folders
from truing.methods.merging.tensor_merge import TensorMerge
from truing.methods.training.method import tell
from truing.models.core import merged
from truing.models.local import Model
from truing.models.notes import Notes
from truing.models.saving import NOTES

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class ModelMerge(Method):
    """Merge the weights of several models into one; no training, no records.

    The models come from one ancestor, fine-tuned apart (the best checkpoint of each domain, say). Tensor by tensor,
    with w_i for the models, w_0 for the ancestor, and offsets d_i = w_i - w_0:

    - linear: the weighted mean, sum a_i w_i / sum a_i.
    - task_arithmetic: w_0 + lam * sum a_i d_i. A negative lam takes a behaviour away.
    - model_stock: t * mean w_i + (1 - t) * w_0, t from the angle between the offsets; nothing to tune. The best of the
      rules in the paper.
    - ties: offsets trimmed to their largest entries, a sign elected, those of that sign averaged.
    - dare: offsets dropped at random and rescaled, then added as in task_arithmetic.
    - slerp: along the arc from the model that comes in to one other.

    A tensor that no model changed stays the ancestor's. A model merged with itself is that model, bit for bit. Weights
    tied in the model are merged once; the dtype and modifiers are those of the model that comes in; adapters are merged
    into a copy of their base first. Alignment need not survive a merge: measure refusals again after it.

    Models named by folders are read tensor by tensor and never held whole. If `align` is given a folder too, and
    ``out``, nothing is held whole: the merged weights are written to ``out/merged`` and loaded from there.

    Args:
        models: what to merge with the model that comes in: models, folders or names.
        rule: "linear", "task_arithmetic", "model_stock", "ties", "dare" or "slerp".
        base: the common ancestor, a model, folder or name; needed for offsets.
        weights: a_i, one for each model, that which comes in first; equal shares unless given. The plain sum of offsets
            of two models is weights=[1, 1].
        lam: scales all offsets (task_arithmetic, ties, dare); 0 gives the ancestor.
        density: share of its largest offsets that ties keeps of each tensor of each model.
        drop: share of offsets that dare drops.
        t: how far slerp goes, from 0, the model that comes in, to 1, the other.
        filter_wise: model_stock takes an angle for each row of a tensor, instead of one for the tensor.
        seed: of what dare drops.
        on_degenerate: what model_stock does where the offsets cancel out and it would divide by zero: "error", or
            "linear" to take the plain mean there. Where they only point away from each other, t is 0, with a warning.

    Source: Lin et al. 2024 (Baichuan alignment), arXiv 2410.14940; rules: Wortsman et al. 2022, Ilharco et al. 2023,
    Jang et al. 2024 (Model Stock), Yadav et al. 2023 (TIES), Yu et al. 2024 (DARE).

    Example:
        ``ModelMerge(models=["out/code"], rule="linear").align(truing.load("out/chat"))``
    """

    needs: ClassVar[frozenset[str]] = frozenset({"local_weights", "models"})
    paper: ClassVar[int | None] = 23

    models: list[Model | str | Path] = dataclasses.field(default_factory=list)
    rule: str = "linear"
    base: Model | str | Path | None = None
    weights: list[float] | None = None
    lam: float = 1.0
    density: float = 0.2
    drop: float = 0.9
    t: float = 0.5
    filter_wise: bool = False
    seed: int = 0
    on_degenerate: str = "error"

    def validate(self) -> None:
        """Raise for a setting that cannot work, and for a model that is not there."""
        super().validate()
        require(
            isinstance(self.models, (list, tuple)),
            f"`models` is a list of models, folders or names, got {self.models!r}.",
        )
        for model in self.models:
            _check_given("models", model)
        if self.base is not None:
            _check_given("base", self.base)
        self._rule().validate()

    def align(
        self,
        model: AnyModel | str | Path,
        records: Records | Sequence[dict[str, Any]] | str | Path | None = None,
        *,
        out: str | Path | None = None,
    ) -> AnyModel:
        """Merge, and give the merged model.

        Args:
            model: the first of the models, or its folder or name.
            records: none are read.
            out: where ``merged`` is written if all models are given as folders; unused otherwise.

        Raises:
            SettingsError: a setting cannot work.
            ModelError: two models do not fit together, or a tensor cannot be merged; the message names it.
            UnsupportedError: one of them is a remote model.
        """
        if not isinstance(model, (str, Path)):
            return super().align(model, records, out=out)
        self.validate()
        _check_given("model", model)
        everyone = [model, *self.models, *([] if self.base is None else [self.base])]
        if out is None or not all(_streams(one) for one in everyone) or _notes(model).packed:
            from truing.models.loading import load

            return super().align(load(model), records, out=out)
        self.check_records(records)
        return self._stream(model, Path(out) / "merged").with_step(self, None)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        assert isinstance(model, Model)  # what offers local weights
        merge, first = self._rule(), _Held(model)
        others = [_opened(one, first) for one in self.models]
        origin = None if self.base is None else _opened(self.base, first)
        for other in [*others, *([] if origin is None else [origin])]:
            check_alike(first, other)
        # An adapter was merged into a copy already.
        target = copy.deepcopy(first.whole) if first.whole is model.weights else first.whole
        parameters = dict(target.named_parameters())
        with torch.no_grad(), progress.task(f"merging {1 + len(others)} models", len(parameters)) as bar:
            for name, parameter in parameters.items():
                tensors = [first.get(name), *(other.get(name) for other in others)]
                parameter.copy_(merge(name, tensors, origin.get(name) if origin is not None else None))
                bar.advance()
        for line in merge.warnings():
            tell(line)
        target.zero_grad(set_to_none=True)
        return model.with_weights(target.requires_grad_(True).eval())

    def _stream(self, model: str | Path, place: Path) -> Model:
        from truing.models.loading import load

        folders = [one for one in (model, *self.models) if not isinstance(one, Model)]
        for one in folders[1:]:
            _tell_left(str(one), len(_notes(one).packed))
        options = {name: value for name, value in self.settings().items() if name != "models"}
        merged = load(merge_folders(folders, place, **options))
        assert isinstance(merged, Model)
        return dataclasses.replace(merged, source=str(model), history=_notes(model).history)

    def _rule(self) -> TensorMerge:
        options = {name: value for name, value in self.settings().items() if name not in ("models", "base")}
        return TensorMerge(count=1 + len(self.models), based=self.base is not None, **options)


# --- models as sources of tensors ------------------------------------------------------------------------------------


class _Held:
    """A model in memory, as `check_alike` and the merge see it: parameters by name, tied ones once."""

    def __init__(self, model: Model) -> None:
        self.name, self.model = model.name, model
        self.whole = _whole(model)
        self.config: dict[str, Any] = self.whole.config.to_dict()
        self.parameters = dict(self.whole.named_parameters())
        self.shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    def get(self, name: str) -> Tensor:
        return self.parameters[name].detach()

    def vocabulary(self) -> dict[str, int]:
        return dict(self.model.tokenizer.get_vocab())


def _whole(model: Model) -> Any:
    """Weights without an adapter; an adapter is merged into a copy."""
    weights = model.weights
    if not hasattr(weights, "peft_config"):
        return weights
    if not hasattr(weights, "merge_and_unload"):
        kind = weights.peft_config[weights.active_adapter].peft_type
        raise ModelError(
            f"{model.name} carries an adapter of type {getattr(kind, 'value', kind)}, which changes no weights and "
            "cannot be merged into its base. Give a model with plain weights or a LoRA adapter."
        )
    return merged(weights)


def _opened(given: Model | str | Path, first: _Held) -> _Held | TensorFolder:
    """Where a participant's tensors come from: memory, or a folder whose tensors are named as those of the first."""
    if isinstance(given, Model):
        _tell_left(given.name, len(given.modifiers))
        return _Held(given)
    if _streams(given):
        folder = TensorFolder(given)
        check_structure(first, folder)
        folder.leave_out([name for name, _ in first.whole.named_buffers()])
        if set(folder.shapes) == set(first.shapes):
            _tell_left(folder.name, len(_notes(given).packed))
            return folder
    # A name, an adapter, or files with names that only transformers can translate.
    from truing.models.loading import load

    model = load(given, dtype=next(iter(first.parameters.values())).dtype, device="cpu")
    if not isinstance(model, Model):
        raise UnsupportedError(f"{given} is a remote model, whose weights cannot be merged.")
    _tell_left(str(given), len(model.modifiers))
    return _Held(model)


def _streams(given: Model | str | Path) -> bool:
    """Whether it is a folder of whole weights."""
    if isinstance(given, Model):
        return False
    folder = Path(given).expanduser()
    plain = (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()
    return plain and _notes(given).kind == "full"


def _notes(given: Model | str | Path) -> Notes:
    folder = Path(str(given)).expanduser()
    return Notes.read(folder) if (folder / NOTES).is_file() else Notes("full", ())


def _tell_left(name: str, count: int) -> None:
    if count:
        tell(f"Merging takes the weights of {name} alone; its {count} modifiers stay behind.")


def _check_given(setting: str, given: Any) -> None:
    if isinstance(given, Model):
        return
    remote = hasattr(given, "offers") or str(given).startswith("openai/")
    if remote:
        raise UnsupportedError(
            f"{getattr(given, 'name', given)} in `{setting}` is a remote model, whose weights cannot be merged. Give a "
            "folder, a hub name, or sandbox/base."
        )
    named = isinstance(given, (str, Path)) and bool(str(given).strip())
    require(named, f"`{setting}` takes a model, a folder or a name, got {given!r}.")
    folder = Path(given).expanduser()
    name = isinstance(given, str) and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", given)
    if not name and not folder.is_dir():
        raise ModelError(
            f"There is no folder {given}, named in `{setting}`. Give a folder, a hub name, or sandbox/base."
        )
