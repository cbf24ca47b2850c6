"""The contracts that methods, builders and measures keep: settings, declared properties, and the verb they answer to.

Nothing here imports a heavy library, so that the command line can describe a method without loading one.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Container, Iterable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from typing_extensions import Self, dataclass_transform

from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.near import near

if TYPE_CHECKING:
    import numpy as np

    from truing.measures.result import Result
    from truing.models import AnyModel
    from truing.records import Records

Message = dict[str, Any]
Prompt = str | list[Message]
"""One user turn as a plain string, or a list of ``{"role", "content"}`` messages."""


@dataclass_transform(kw_only_default=True)
class Settings:
    """Base of everything that is configured: a keyword-only dataclass without the decorator.

    A subclass lists its hyperparameters as annotated fields. Its constructor stores each one under its own name and
    does nothing else; so ``repr``, ``clone``, equality, saving, sweeps and the command line need no code per class.
    Values are checked by ``validate``, which the verbs (``align``, ``build``, ``measure``) call before any work.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(kw_only=True, repr=False, eq=False)(cls)
        plain = cls.__dict__["__init__"]

        def init(self: Any, *args: Any, **given: Any) -> None:
            known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
            unknown = [name for name in given if name not in known]
            if unknown:
                raise SettingsError(
                    f"{cls.__name__} has no setting `{unknown[0]}`.{near(unknown[0], known)} "
                    f"Its settings: {', '.join(known) or 'none'}."
                )
            plain(self, *args, **given)

        init.__wrapped__ = plain  # type: ignore[attr-defined]
        init.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
        init.__doc__ = None
        cls.__init__ = init  # type: ignore[method-assign]

    def settings(self) -> dict[str, Any]:
        """Every hyperparameter by name, as given."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def changed(self) -> dict[str, Any]:
        """The hyperparameters that differ from their defaults."""
        out = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is not dataclasses.MISSING:
                default = field.default
            elif field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            else:
                default = dataclasses.MISSING
            if type(value) is not type(default) or value != default:
                out[field.name] = value
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.settings() == other.settings()

    __hash__ = object.__hash__

    def clone(self, **changes: Any) -> Self:
        """A new object with the same settings, some of them changed."""
        values = {
            name: copy.copy(value) if isinstance(value, (list, dict)) else value
            for name, value in self.settings().items()
        }
        return type(self)(**{**values, **changes})

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work. A subclass calls ``super().validate()`` first."""

    @classmethod
    def describe(cls) -> dict[str, str]:
        """What each setting means, read from the ``Args:`` sections of the class and its bases."""
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            texts.update(_argument_texts(base.__dict__.get("__doc__") or ""))
        return {field.name: texts.get(field.name, "") for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _argument_texts(docstring: str) -> dict[str, str]:
    lines = inspect.cleandoc(docstring).splitlines()
    texts: dict[str, str] = {}
    name = ""
    inside = False
    for line in lines:
        if re.match(r"^\w.*:$", line):
            inside = line == "Args:"
            continue
        if not inside:
            continue
        entry = re.match(r"^ {4}(\w+):\s*(.*)$", line)
        if entry:
            name = entry[1]
            texts[name] = entry[2]
        elif name and line.startswith(" " * 8):
            texts[name] += " " + line.strip()
    return texts


def require(condition: bool, message: str) -> None:
    """Raise `SettingsError` with the message unless the condition holds."""
    if not condition:
        raise SettingsError(message)


def is_number(value: object) -> bool:
    """Whether a setting is a finite number; true and false are none."""
    if isinstance(value, bool):
        return False
    # Whole numbers beyond the range of a float are none that a computation could use, and `isfinite` raises for them.
    return (isinstance(value, int) and abs(value) <= sys.float_info.max) or (
        isinstance(value, float) and math.isfinite(value)
    )


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_whole(settings: Settings, names: Iterable[str], optional: Container[str] = ()) -> None:
    """Raise `SettingsError` unless the settings of these names are whole numbers over 0, or None where that may be."""
    for name in names:
        value = getattr(settings, name)
        if value is None and name in optional:
            continue
        require(is_whole(value) and value > 0, f"{name} is a whole number over 0, not {value!r}.")


def require_seed(value: object) -> None:
    """Raise `SettingsError` unless the value can be a seed."""
    require(isinstance(value, int) and 0 <= value < 2**32, f"seed is from 0 to 2**32 - 1, not {value!r}.")


def require_offers(model: AnyModel, needs: Set[str], what: str) -> None:
    """Raise `UnsupportedError` unless a model offers all that something called ``what`` needs."""
    lacking = sorted(needs - model.offers)
    if lacking:
        raise UnsupportedError(
            f"{what} needs {', '.join(lacking).replace('_', ' ')}, which {model.name} does not offer. "
            "Load local weights instead: a folder, a hub name, or sandbox/base."
        )


@runtime_checkable
class Reward(Protocol):
    """What is wanted, as a number: higher is better. Any function of this shape is a reward."""

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """One finite float for each of n prompt and response pairs, shape [n]."""


class Method(Settings):
    """A way to align: ``Method(**hyperparameters).align(model, records) -> model``.

    The input model is left as it was; calling ``align`` twice gives two independent models; what was learned lives on
    the model that comes out. Properties are declared on the class:

    - ``record_kinds``: kinds of record it reads; empty when it reads none.
    - ``records_optional``: it can also work without records.
    - ``needs``: any of "gradients", "local_weights", "logits", "activations", "reference", "reward", "guide", or
      another second model by the name of its setting.
    - ``modifier``: the kind of modifier it adds ("prompt", "activation", "logits", "search"), or None when it trains
      weights.
    - ``paper``: the number of its source paper among the 59 of ``truing papers``, or None for a baseline.
    - ``batch_safe``: a batch of prompts gives what single prompts give.
    - ``quick``: settings under which it runs in seconds on a tiny model; the conformance suite uses them.
    """

    record_kinds: ClassVar[tuple[str, ...]] = ()
    records_optional: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    modifier: ClassVar[str | None] = None
    paper: ClassVar[int | None] = None
    batch_safe: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {}

    def align(
        self,
        model: AnyModel,
        records: Records | Sequence[dict[str, Any]] | str | Path | None = None,
        *,
        out: str | Path | None = None,
    ) -> AnyModel:
        """Align a model and give the aligned one.

        Args:
            model: the model to start from. It answers as before afterwards.
            records: what to learn from: records, a list of rows, a file, or a sandbox name; one of ``record_kinds``.
            out: a folder for checkpoints and logs. Given one, a killed call goes on from its newest checkpoint.

        Raises:
            SettingsError: a hyperparameter cannot work.
            RecordError: records are missing, unwanted, of the wrong kind, or malformed.
            UnsupportedError: the model lacks what the method needs (a remote model has no weights to train).
            StackError: the model already carries a modifier that this one clashes with.
        """
        self.validate()
        self.check_model(model)
        rows = self.check_records(records)
        aligned = self._align(model, rows, Path(out) if out is not None else None)
        return aligned.with_step(self, rows)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        raise UnsupportedError(f"{type(self).__name__} defines no _align.")

    def check_model(self, model: AnyModel) -> None:
        """Raise before any work when the model cannot be given to this method."""
        require_offers(model, self.needs & {"gradients", "local_weights", "logits", "activations"}, type(self).__name__)
        if self.modifier is not None:
            model.check_stack(self.modifier, type(self).__name__)

    def check_records(self, records: Records | Sequence[dict[str, Any]] | str | Path | None) -> Records | None:
        """The records, read and checked, or None where the method reads none."""
        name = type(self).__name__
        if records is None:
            if self.record_kinds and not self.records_optional:
                raise RecordError(f"{name} learns from {' or '.join(self.record_kinds)} records and was given none.")
            return None
        if not self.record_kinds:
            raise RecordError(f"{name} reads no records; call align(model) without them.")
        from truing.records import as_records

        return as_records(records, kinds=self.record_kinds, what=name)


class Builder(Settings):
    """A way to get records: ``Builder(**hyperparameters).build(source, model=…) -> records``."""

    record_kind: ClassVar[str] = ""
    paper: ClassVar[int | None] = None

    def build(self, source: Any, model: AnyModel | None = None, *, out: str | Path | None = None) -> Records:
        """Build records of ``record_kind`` from a source (records, texts, a file), with a model where one is needed."""
        self.validate()
        return self._build(source, model, Path(out) if out is not None else None)

    def _build(self, source: Any, model: AnyModel | None, out: Path | None) -> Records:
        raise UnsupportedError(f"{type(self).__name__} defines no _build.")


class Measure(Settings):
    """A way to know: ``Measure(**hyperparameters).measure(model, against=None) -> Result``.

    A subclass defines ``_measure(model, context)``, which gives an `Outcome` (figures and a row for every sample);
    pairing with ``against``, intervals and differences are shared (see `truing.measures.result`).

    - ``gives``: the names of all figures that it may give, so that a recipe's ``require`` is checked before any work.
      A ``*`` stands for what only the data name ("rating/*"), and ``figure_names`` puts in its place what the settings
      name. A required figure that only such a name covers, and every figure of a class that names none, is checked
      after measuring.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    paper: ClassVar[int | None] = None
    gives: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_model(self) -> bool:
        """Whether a model is asked; False where the settings hold all that is measured (answers, reports, tables)."""
        return True

    def figure_names(self) -> tuple[str, ...]:
        """The figures that it may give with these settings, at most those of ``gives``."""
        return self.gives

    def measure(
        self, model: AnyModel | None = None, against: AnyModel | None = None, *, out: str | Path | None = None
    ) -> Result:
        """Measure a model; with ``against``, also that one, and the paired difference on the same items.

        Args:
            model: the model to measure; None where `needs_model` is false.
            against: a model to compare with, measured on the same items.
            out: a folder in which answers are journaled, so that a killed measure repeats no finished batch.
        """
        from truing.measures.result import run_measure

        self.validate()
        return run_measure(self, model, against, Path(out) if out is not None else None)
