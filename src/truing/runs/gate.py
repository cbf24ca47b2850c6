"""What a release must pass: conditions on figures, tested with intervals, so that "not enough data" is an answer."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from truing.errors import SettingsError
from truing.near import near

if TYPE_CHECKING:
    from truing.measures.result import Figure, Result

PASSED, FAILED, UNDECIDED, UNMEASURED = "passed", "failed", "not enough data", "not measured"
CODES = {PASSED: 0, FAILED: 1, UNDECIDED: 2, UNMEASURED: 2}
BASE = "base"
"""The word for the model that a run compares its own with."""
EXAMPLES = (
    '">= 0.95", "< 10 %", "between 0.2 and 0.4", "better than base", "not worse than base by 0.02" or '
    '"within 0.1 of base"'
)

Require = Mapping[str, Sequence[str]]
"""Figures, as ``name`` or ``measure.name``, and the conditions on each."""

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%|pp)?"
_SIGNS = {"≥": ">=", "≤": "<="}
_FORMS = (
    ("limit", re.compile(rf"(>=|<=|>|<|≥|≤)\s*{_NUMBER}", re.I)),
    ("between", re.compile(rf"between\s+{_NUMBER}\s+and\s+{_NUMBER}", re.I)),
    ("better", re.compile(rf"better than (\S+)(?:\s+by\s+{_NUMBER})?", re.I)),
    ("not worse", re.compile(rf"not worse than (\S+)\s+by\s+{_NUMBER}", re.I)),
    ("within", re.compile(rf"within\s+{_NUMBER}\s+of (\S+)", re.I)),
)


@dataclasses.dataclass(frozen=True)
class Condition:
    """What one figure must fulfil.

    Args:
        text: as it was written.
        kind: ">=", ">", "<=", "<", "between", "better", "not worse" or "within".
        bounds: the numbers in it: a limit, both ends, or a margin.
        than: the model that it compares with, or empty.
        percent: whether a number was given in percent, which only shares are.
    """

    text: str
    kind: str
    bounds: tuple[float, ...]
    than: str = ""
    percent: bool = False


def parse_condition(text: object) -> Condition:
    """Read a condition such as ``>= 0.95`` or ``not worse than base by 0.02``.

    Raises:
        SettingsError: it is no condition; the message shows the forms that there are.
    """
    if not isinstance(text, str):
        raise SettingsError(f"a condition is text, such as {EXAMPLES}, and not {text!r}.")
    line = " ".join(text.split())
    found = next(((kind, match) for kind, form in _FORMS if (match := form.fullmatch(line))), None)
    if found is None:
        if re.fullmatch(r"not worse than \S+", line, re.I):
            raise SettingsError(
                f"{line!r} says no margin, and no number of items shows that nothing at all was lost. "
                f'Say how much may be: "{line} by 0.02".'
            )
        if line.startswith(("=", "!=")) or re.fullmatch(_NUMBER, line):
            raise SettingsError(
                f'{line!r} asks for one exact value, which no interval can show. Write a limit (">= 0.95"), or '
                '"between 0.9 and 1".'
            )
        raise SettingsError(f"{line!r} is no condition. Write one such as {EXAMPLES}.")
    kind, match = found
    groups = match.groups()
    if kind == "limit":
        sign = _SIGNS.get(groups[0], groups[0])
        made = Condition(line, sign, (_value(*groups[1:]),), percent=groups[2] is not None)
    elif kind == "between":
        ends = _value(*groups[:2]), _value(*groups[2:])
        if not ends[0] < ends[1]:
            raise SettingsError(f"{line!r} holds nothing: the first number must be the smaller one.")
        made = Condition(line, kind, ends, percent=groups[1] is not None or groups[3] is not None)
    elif kind == "within":
        made = Condition(line, kind, (_value(*groups[:2]),), groups[2], groups[1] is not None)
    else:
        margin = _value(*groups[1:]) if groups[1] is not None else 0.0
        made = Condition(line, kind, (margin,), groups[0], groups[2] is not None)
    if made.than and (made.bounds[0] < 0 or (made.bounds[0] == 0 and kind != "better")):
        raise SettingsError(f"{line!r}: a margin is above 0, not {made.bounds[0]:g}.")
    return made


def _value(digits: str, unit: str | None) -> float:
    return float(digits) / 100 if unit else float(digits)


def as_require(value: object) -> dict[str, tuple[str, ...]]:
    """Conditions by figure, from a mapping as a recipe holds it; each is read once, so that a wrong one is found.

    A figure's conditions are one or a list of them; ``{hhh: {harmless: ...}}`` is ``{hhh.harmless: ...}``.

    Raises:
        SettingsError: it is no mapping, or a condition cannot be read.
    """
    if not isinstance(value, Mapping):
        raise SettingsError('it maps figures to conditions, as in `harmless: ">= 0.95"`.')
    found: dict[str, tuple[str, ...]] = {}
    for figure, given in value.items():
        if isinstance(given, Mapping):
            found.update({f"{figure}.{name}": conditions for name, conditions in as_require(given).items()})
            continue
        conditions = list(given) if isinstance(given, (list, tuple)) else [given]
        if not conditions:
            raise SettingsError(f"`{figure}` has no condition. Write one such as {EXAMPLES}.")
        try:
            found[str(figure)] = tuple(parse_condition(condition).text for condition in conditions)
        except SettingsError as error:
            raise SettingsError(f"`{figure}`: {error}") from None
    return found


def check_names(
    require: Require, measures: Mapping[str, Collection[str]], bases: Collection[str], *, strict: bool = True
) -> list[str]:
    """Check what can be known before measuring.

    Args:
        require: figures and conditions.
        measures: the figures that each measure gives, by its label; before measuring a ``*`` in a name stands for what
            the data name, and a measure without names may give any figure.
        bases: names of the model that is compared with; empty where there is none.
        strict: whether these are the figures that were measured, each with its full name.

    Returns:
        The figures that may be there or not, which is known after measuring.

    Raises:
        SettingsError: a figure is none of these, or belongs to several measures, or there is no model to compare with.
    """
    later = []
    for figure, conditions in require.items():
        if _check_name(figure, measures, strict):
            later.append(figure)
        for text in conditions:
            condition = parse_condition(text)
            if condition.than and not bases:
                raise SettingsError(
                    f"`{figure}`: {text!r} compares two models, and there is one only. Add `against: MODEL` or steps."
                )
            if condition.than and condition.than not in bases:
                raise SettingsError(
                    f"`{figure}`: {text!r} names `{condition.than}`, and the run compares with {' or '.join(bases)}."
                )
    return later


def _check_name(figure: str, measures: Mapping[str, Collection[str]], strict: bool) -> bool:
    """Whether only the data tell if there is such a figure."""
    places = places_of(figure, measures)
    if len(places) > 1:
        choices = " or ".join(f"`{label}.{name}`" for label, name in places)
        raise SettingsError(f"`{figure}` is a figure of {len(places)} measures. Say which: {choices}.")
    if places:
        return False
    head, _, own = figure.partition(".")
    behind = {head: own} if head in measures else dict.fromkeys(measures, figure)
    if not strict and any(_may_be(name, form) for label, name in behind.items() for form in measures[label] or "*"):
        return True
    known = [name for names in measures.values() for name in names]
    known += [f"{label}.{name}" for label, names in measures.items() for name in names]
    there = ", ".join(dict.fromkeys(known[: len(known) // 2])) or "none"
    raise SettingsError(f"no measure here gives the figure `{figure}`.{near(figure, known)} Figures: {there}.")


def _may_be(name: str, form: str) -> bool:
    """Whether a form with ``*`` for what the data name covers a figure's name."""
    return "*" in form and bool(re.fullmatch(".+".join(map(re.escape, form.split("*"))), name, re.DOTALL))


def places_of(figure: str, measures: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """Where a figure is found: a measure's label and the figure's own name; several where its name is not enough."""
    plain = [(label, figure) for label, names in measures.items() if figure in names]
    if plain:
        return plain
    return [
        (label, figure[len(label) + 1 :])
        for label, names in measures.items()
        if figure.startswith(f"{label}.") and figure[len(label) + 1 :] in names
    ]


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition, tested.

    Args:
        figure: as the requirement names it.
        condition: as it was written.
        status: "passed", "failed", "not enough data" or "not measured".
        measured: the figure, or for a comparison the paired difference to the other model; None if not measured.
        missing: by how much the estimate misses the condition, in the figure's unit; below 0 where it is beyond it.
        surely: by how much it misses at the least, given the interval; None unless failed.
        needed: about how many items would decide, if the estimate stays; None where that is not known.
        why: what is wrong, where it is not measured.
    """

    figure: str
    condition: str
    status: str
    measured: Figure | None = None
    missing: float | None = None
    surely: float | None = None
    needed: int | None = None
    why: str = ""

    @property
    def compares(self) -> bool:
        """Whether the measured figure is a difference."""
        return bool(parse_condition(self.condition).than)

    def words(self) -> str:
        """What was found, in words: how much is missing, or how many items would decide."""
        from truing.measures.show import POINTS, change, interval, number, unit_words

        if self.measured is None:
            return self.why
        unit = self.measured.unit
        found = change(self.measured) if self.compares else interval(self.measured)
        found = f"{found} {unit_words(unit)}".rstrip()

        def amount(value: float) -> str:
            return f"{100 * value:.1f} pp" if unit in ("share", POINTS) else number(value, unit)

        if self.status == FAILED and self.missing is not None and self.surely is not None:
            return f"{found}: misses by {amount(self.missing)}, at least {amount(self.surely)}"
        if self.status == UNDECIDED:
            if self.needed is None:
                return f"{found}: the estimate lies on the limit"
            return f"{found}: about {self.needed:,} items would decide, {self.measured.n:,} were measured"
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        from truing.measures.result import plain_values

        return dict(plain_values({**dataclasses.asdict(self), "words": self.words()}))


@dataclasses.dataclass(frozen=True)
class Gate:
    """All conditions of a run, tested; without any it says nothing."""

    checks: tuple[Check, ...] = ()

    @property
    def status(self) -> str:
        """Of the whole: a failure outweighs what is not decided, and that what passed; empty without conditions."""
        there = [check.status for check in self.checks]
        return next((status for status in (FAILED, UNMEASURED, UNDECIDED, PASSED) if status in there), "")

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 not decided."""
        return CODES[self.status] if self.status else 2

    def counted(self) -> str:
        """``1 failed, 2 passed``."""
        there = [check.status for check in self.checks]
        return ", ".join(f"{there.count(status)} {status}" for status in (FAILED, UNMEASURED, UNDECIDED, PASSED)
                         if status in there)  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"status": self.status, "exit_code": self.exit_code, "checks": [c.to_json() for c in self.checks]}


def judge(require: Require, results: Mapping[str, Result], left_out: Mapping[str, str] | None = None) -> Gate:
    """Test every condition against the results of a run.

    A condition on a value passes where the whole 95 % interval fulfils it, fails where none of it does, and else there
    is not enough data. One on the difference to the other model is tested in the same way on the interval of the
    paired difference, in the direction that the figure calls better. So each answer "passed" or "failed" is wrong with
    a chance of 2.5 % at most, where the truth lies on the limit, and less elsewhere.

    Args:
        require: figures and conditions.
        results: by the measure's label.
        left_out: why a measure was not carried out, by label.
    """
    known = {label: list(result.figures) for label, result in results.items()}
    checks = []
    for figure, conditions in require.items():
        places = places_of(figure, known)
        for text in conditions:
            if len(places) == 1:
                label, name = places[0]
                checks.append(_tested(figure, parse_condition(text), results[label], name))
            else:
                checks.append(Check(figure, text, UNMEASURED, why=_why(figure, places, results, left_out or {})))
    return Gate(tuple(checks))


def _why(
    figure: str, places: Sequence[tuple[str, str]], results: Mapping[str, Result], left_out: Mapping[str, str]
) -> str:
    if places:
        return f"it is a figure of several measures: {' and '.join(f'{label}.{name}' for label, name in places)}."
    label, _, name = figure.partition(".")
    for note in [note for result in results.values() for note in result.notes]:
        if note.startswith((f"`{figure}` is not shown", f"`{name}` is not shown")):
            return note
    for known, why in left_out.items():
        if label == known or figure == known:
            return why
    try:
        check_names({figure: ()}, {label: list(result.figures) for label, result in results.items()}, ())
    except SettingsError as error:
        return str(error)
    return "it was not measured."


def _tested(figure: str, condition: Condition, result: Result, name: str) -> Check:
    """A condition on a figure that is there."""
    found = result.figures[name]
    if condition.than:
        change = (result.differences or {}).get(name)
        if change is None:
            return _unmeasured(figure, condition, "it was not compared with another model.")
        if found.better not in ("higher", "lower") and condition.kind != "within":
            hint = f'write "within {condition.bounds[0] or 0.1:g} of {condition.than}"'
            return _unmeasured(figure, condition, f"a change of it is neither good nor bad; {hint}.")
        measured, allowed = _rounded(change, found), _margins(condition, found)
    else:
        measured, allowed = found, _range(condition)
    if condition.percent and found.unit not in ("share", "points"):
        return _unmeasured(figure, condition, f"it is in {found.unit}, and only shares are in percent.")
    limits = [bound for bound in condition.bounds if not condition.than and found.unit == "share"]
    if any(not 0 <= bound <= 1 for bound in limits):
        return _unmeasured(figure, condition, "a share is from 0 to 1: write 0.95 or 95 %.")
    if not math.isfinite(measured.value + measured.low + measured.high):
        return _unmeasured(figure, condition, "it has no finite value and interval.")
    low, high, open_low, open_high = allowed
    above = measured.low > low if open_low else measured.low >= low
    below = measured.high < high if open_high else measured.high <= high
    short = measured.high <= low if open_low else measured.high < low
    over = measured.low >= high if open_high else measured.low > high
    status = PASSED if above and below else FAILED if short or over else UNDECIDED
    missing = max(low - measured.value, measured.value - high)
    surely = max(low - measured.high, measured.low - high) if status == FAILED else None
    return Check(figure, condition.text, status, measured, missing, surely, _needed(measured, low, high, status))


def _rounded(change: Figure, figure: Figure) -> Figure:
    """A difference in the figure's unit; one that equal models show too, whose last digits differ, holds 0."""
    from truing.reports.rows import ROUNDING

    low, high = change.low, change.high
    if abs(change.value) <= ROUNDING * max(1.0, abs(figure.value)):
        low, high = min(low, 0.0), max(high, 0.0)
    return dataclasses.replace(change, low=low, high=high, unit=figure.unit, better=figure.better)


def _needed(measured: Figure, low: float, high: float, status: str) -> int | None:
    if status != UNDECIDED:
        return None
    from truing.measures.power import more_items

    crossed = [bound for bound in (low, high) if math.isfinite(bound) and measured.low <= bound <= measured.high]
    exact = measured.method.startswith("Clopper-Pearson")
    sizes = [
        more_items(measured.value, measured.low, measured.high, bound, measured.n, exact=exact) for bound in crossed
    ]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) and known else None


def _unmeasured(figure: str, condition: Condition, why: str) -> Check:
    return Check(figure, condition.text, UNMEASURED, why=why)


Allowed = tuple[float, float, bool, bool]
"""From where to where a value may lie, and whether each end itself is not allowed."""


def _range(condition: Condition) -> Allowed:
    if condition.kind == "between":
        return (*condition.bounds, False, False)  # type: ignore[return-value]
    bound = condition.bounds[0]
    if condition.kind.startswith(">"):
        return bound, math.inf, condition.kind == ">", False
    return -math.inf, bound, False, condition.kind == "<"


def _margins(condition: Condition, figure: Figure) -> Allowed:
    """The differences that are allowed, model minus other."""
    margin = condition.bounds[0]
    if condition.kind == "within":
        return -margin, margin, False, False
    least = margin if condition.kind == "better" else -margin
    strict = condition.kind == "better"
    return (least, math.inf, strict, False) if figure.better == "higher" else (-math.inf, -least, False, strict)
