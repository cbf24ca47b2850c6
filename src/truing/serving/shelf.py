"""The models that a server offers, by name, and their variants: other strengths, or without a modifier."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.errors import ModelError, SettingsError, TruingError, UnsupportedError
from truing.models.history import name_of
from truing.serving.jobs import Rejected

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_TURN = re.compile(r"@([A-Za-z_][A-Za-z0-9_]*)=(off|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$")
REMEMBERED = 64  # variants kept ready


@dataclasses.dataclass(frozen=True)
class Turns:
    """What is changed about a model's modifiers.

    Args:
        strength: by name of a modifier, what its dial is set to.
        without: names of modifiers that are taken off.
    """

    strength: tuple[tuple[str, float], ...] = ()
    without: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.strength or self.without)

    def __add__(self, other: Turns) -> Turns:
        strength = {**dict(self.strength), **dict(other.strength)}
        return Turns(tuple(strength.items()), tuple(dict.fromkeys((*self.without, *other.without))))


def split_turns(text: str) -> tuple[str, Turns]:
    """A name, and the turns that are written after it as ``@steering=2`` or ``@nudging=off``."""
    strength: dict[str, float] = {}
    without: list[str] = []
    while found := _TURN.search(text):
        text = text[: found.start()]
        if found[2] == "off":
            without.insert(0, found[1])
        else:
            strength = {found[1]: float(found[2]), **strength}
    return text, Turns(tuple(strength.items()), tuple(without))


def turned(model: Any, turns: Turns) -> Any:
    """The model with other strengths, and without some of its modifiers.

    Raises:
        SettingsError: it has no such modifier, or that one has no strength.
    """
    for which, value in turns.strength:
        model = model.with_strength(value, which)
    for which in turns.without:
        model = model.without(which)
    return model


@dataclasses.dataclass(frozen=True)
class Offered:
    """One model that is offered, or a variant of it.

    Args:
        name: that it is asked by.
        model: who answers.
        key: equal for what is one model.
        base: the offered name that it comes from; for metrics, which must not grow with what clients write.
        switched: it is not what the server lists.
    """

    name: str
    model: Any
    key: Any
    base: str
    switched: bool = False


class Shelf:
    """Models by name.

    Args:
        models: name to model, at least one.
        switching: requests may turn modifiers.
    """

    def __init__(self, models: Mapping[str, Any], switching: bool = True) -> None:
        if not models:
            raise SettingsError("A server needs at least one model.")
        for name, model in models.items():
            if not NAME.fullmatch(split_turns(name)[0]):
                raise SettingsError(
                    f"`{name}` cannot be the name of a served model: letters, digits and . _ - / only. Give another: "
                    "NAME=MODEL."
                )
            if "scores" in getattr(model, "offers", ()):
                raise UnsupportedError(
                    f"{model.name} scores answers and writes none, so it cannot be served. Use it as a reward: "
                    "`BestOfN(reward=...)`, and serve that."
                )
        self.models = dict(models)
        self.switching = switching
        self._variants: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def find(self, asked: str, turns: Turns = Turns()) -> Offered:
        """The model of a name, turned as its name and the request say.

        Raises:
            Rejected: there is none of this name, or it has no such modifier or strength.
        """
        name, written = (asked, Turns()) if asked in self.models else split_turns(asked)
        if name not in self.models:
            known = ", ".join(self.models)
            shown = "".join(c for c in name if c.isprintable())[:80]
            raise Rejected(f"There is no model `{shown}` here. Models: {known}.", 404, "model", "model_not_found")
        both = written + turns
        if not both:
            return Offered(name, self.models[name], (name, both), name)
        if not self.switching:
            raise Rejected(
                "This server does not let requests turn modifiers. Ask for a model as it is listed.", 400,
                "model" if written else "truing", "switching_off",
            )  # fmt: skip
        key = (name, both)
        if key not in self._variants:
            self._variants[key] = self._turned(self.models[name], written, turns)
            if len(self._variants) > REMEMBERED:
                self._variants.popitem(last=False)
        self._variants.move_to_end(key)
        return Offered(asked, self._variants[key], key, name, switched=True)

    def _turned(self, model: Any, written: Turns, turns: Turns) -> Any:
        for param, some in (
            ("model", Turns(written.strength)),
            ("truing.strength", Turns(turns.strength)),
            ("model", Turns((), written.without)),
            ("truing.without", Turns((), turns.without)),
        ):
            try:
                model = turned(model, some)
            except TruingError as error:
                raise Rejected(str(error)[:600], 400, param, "unknown_modifier") from None
        return model

    def about(self) -> list[dict[str, Any]]:
        """What `/v1/models` says of each."""
        out = []
        for name, model in self.models.items():
            modifiers = []
            for modifier in model.modifiers:
                dial = modifier.dial
                strength = getattr(modifier, dial) if dial is not None else None
                modifiers.append(
                    {
                        "name": name_of(type(modifier)),
                        "kind": modifier.kind,
                        "strength": float(strength) if isinstance(strength, (int, float)) else None,
                    }
                )
            out.append({"name": name, "modifiers": modifiers})
        return out


def offered(specs: Sequence[str], read: Callable[[str], Any]) -> dict[str, Any]:
    """Models from what the command line says, each ``[NAME=]MODEL[@MODIFIER=STRENGTH|@MODIFIER=off]``.

    Args:
        specs: MODEL is anything that ``read`` takes, or the NAME of an earlier one, whose weights are then shared.
        read: from a MODEL to a model; asked once for each.

    Raises:
        SettingsError: two have one name, or a name cannot be used.
    """
    models: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for spec in specs:
        name, what = _name(spec)
        what, turns = (what, Turns()) if what in models or Path(what).exists() else split_turns(what)
        if what in models:
            model = models[what]
        else:
            if what not in sources:
                sources[what] = read(what)
            model = sources[what]
        name = name or (what if NAME.fullmatch(what) and not Path(what).is_dir() else _short(what)) + spec[len(what) :]
        if name in models:
            raise SettingsError(f"Two models would be served as `{name}`. Give them names: NAME=MODEL.")
        models[name] = turned(model, turns)
    return models


def _name(spec: str) -> tuple[str | None, str]:
    found = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", spec, re.DOTALL)
    return (found[1], found[2]) if found and "@" not in found[1] else (None, spec)


def _short(what: str) -> str:
    """A name for a folder: its last part that says something."""
    parts = [part for part in Path(what).expanduser().resolve().parts if part not in ("model", "/")]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(parts[-1]).stem if what.endswith((".yaml", ".yml")) else parts[-1])
    if not name.strip("-."):
        raise ModelError(f"{what} has no name that a model could be served by. Give one: NAME={what}.")
    return name.strip("-.")
