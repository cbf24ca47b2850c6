"""Figures of a judge, corrected by the labels that people gave a sample of the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.contracts import is_number, require
from truing.errors import RecordError
from truing.measures.asking import Asking, Context
from truing.measures.journal import key_of
from truing.measures.prediction_powered import corrected_mean
from truing.measures.result import Figure, Outcome
from truing.measures.show import POINTS
from truing.measures.tables import placed

WORDS = {"won": 1.0, "tie": 0.5, "lost": 0.0}


class Judged(Asking):
    """Base of measures whose figures come from a judge, and can be corrected by labels of people.

    Args:
        labels: what people say of a random sample of the answers: rows or a file, each with ``prompt``, ``answer`` (and
            ``against_answer`` where two answers are compared) as the measure's own samples have them, and ``label``: a
            number on the figure's scale, or "won", "tie", "lost"; ``label_NAME`` for a figure other than the main one.
            Figures named ``…_corrected`` then hold whatever the judge's errors are (prediction-powered inference).
    """

    labels: Sequence[dict[str, Any]] | str | Path | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        rows = isinstance(self.labels, Sequence) and not isinstance(self.labels, str)
        require(
            self.labels is None
            or isinstance(self.labels, (str, Path))
            or (rows and all(isinstance(row, Mapping) for row in self.labels)),
            f"labels is a file of rows, or rows, each with prompt, answer and label, not {str(self.labels)[:80]!r}.",
        )

    def corrected(
        self, outcome: Outcome, main: str, scales: Mapping[str, tuple[float, float]], context: Context
    ) -> Outcome:
        """The outcome with a corrected figure for each column that has labels.

        Args:
            outcome: of the judge alone.
            main: the column that ``label`` is about.
            scales: the columns that can be labelled, each with its lowest and highest value.
            context: of the measure; labels are about the answers of the model itself, not of one it is compared with.

        Raises:
            RecordError: a label lacks a column or is outside its scale, or too few are of answers at hand.
        """
        if self.labels is None or not context.main:
            return outcome
        pair = any("against_answer" in row for row in outcome.rows)
        known = _read(self.labels, main, scales, pair)
        keys = [_key(row, pair) for row in outcome.rows]
        strange = set(known) - set(keys)
        if strange:
            outcome.notes.append(f"{len(strange)} of {len(known)} labelled answers are none of those judged here.")
        for name, scale in scales.items():
            people = [known.get(key, {}).get(name) for key in keys]
            if any(value is not None for value in people):
                self._correct(outcome, name, people, scale)
        if not any(name.endswith("_corrected") for name in outcome.figures):
            raise RecordError(
                f"No label is of an answer that is judged here. `labels` are matched by prompt and answer, as in the "
                f"samples of the result: `prompt`, `answer`{', `against_answer`' if pair else ''}."
            )
        return outcome

    def _correct(self, outcome: Outcome, name: str, people: Sequence[float | None], scale: tuple[float, float]) -> None:
        rows = list(zip(outcome.rows, people))
        both = [(row, said) for row, said in rows if said is not None and row[name] is not None]
        rest = [row for row, said in rows if said is None and row[name] is not None]
        clusters, others = ([row.get("cluster", row["id"]) for row in side] for side in ([r for r, _ in both], rest))
        found = corrected_mean(
            [float(said) for _, said in both if said is not None], [float(row[name]) for row, _ in both],
            [float(row[name]) for row in rest], clusters=clusters, other_clusters=others, bounds=scale,
        ) if len(both) > 1 else None  # fmt: skip
        if found is None:
            raise RecordError(
                f"A correction of `{name}` needs labels of at least 2 answers to different prompts that the judge's "
                f"reply could be read of; there are {len(both)}. Label some dozens, drawn at random."
            )
        column = outcome.columns[name]
        outcome.figures[f"{name}_corrected"] = Figure(*found.estimate[:5], unit=column.unit, better=column.better)
        unit = POINTS if column.unit == "share" else column.unit
        outcome.figures[f"{name}_judge_error"] = Figure(*found.bias[:5], unit=unit, better="neither")
        lost = sum(said is not None and row[name] is None for row, said in rows)
        outcome.notes.append(
            f"`{name}_corrected`: {found.labelled} of {found.estimate.n} answers have labels, the judge's scores count "
            f"{found.weight:.2f}, and are worth {found.worth:.1f} times as many labels"
            f"{f'; {lost} labelled answers have no readable verdict and do not count' if lost else ''}."
        )


def _read(given: Any, main: str, scales: Mapping[str, tuple[float, float]], pair: bool) -> dict[str, dict[str, float]]:
    """Labels by answer and column; several of one answer are averaged."""
    said: dict[str, dict[str, list[float]]] = {}
    for place, row in _rows(given):
        lacking = [name for name in ("prompt", "answer", *(["against_answer"] if pair else [])) if name not in row]
        values = {name: row.get(f"label_{name}") for name in scales}
        values[main] = values.get(main) if row.get("label") is None else row["label"]
        if lacking or all(value is None for value in values.values()):
            raise RecordError(
                f"{place}: a label has `prompt`, `answer`{', `against_answer`' if pair else ''} and `label` (or "
                f"`label_NAME` for one of {', '.join(scales)}); lacking: {', '.join(lacking) or '`label`'}."
            )
        for name in ("answer", *(["against_answer"] if pair else [])):
            if not isinstance(row[name], str):
                raise RecordError(f"{place}: `{name}` is text, not {row[name]!r}. Write labels as JSON lines.")
        for name, value in values.items():
            if value is not None:
                number = _number(value, scales.get(name), place)
                said.setdefault(_key(row, pair), {}).setdefault(name, []).append(number)
    return {key: {name: sum(some) / len(some) for name, some in row.items()} for key, row in said.items()}


def _number(value: Any, scale: tuple[float, float] | None, place: str) -> float:
    if scale is None:
        raise RecordError(f"{place}: `label` is about a figure that this measure does not show here.")
    number = float(value) if isinstance(value, bool) else value
    if scale == (0.0, 1.0) and isinstance(value, str):
        number = WORDS.get(value.strip().lower(), value)
    if not is_number(number) or not scale[0] <= number <= scale[1]:
        words = ", or won, tie or lost" if scale == (0.0, 1.0) else ""
        raise RecordError(f"{place}: a label is a number from {scale[0]:g} to {scale[1]:g}{words}, not {value!r}.")
    return float(number)


def _rows(given: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(given, (str, Path)):
        return [(f"labels, row {at}", dict(row)) for at, row in enumerate(given, 1)]
    path = Path(given).expanduser()
    if not path.is_file():
        raise RecordError(f"`labels` names {path}, and there is no such file.")
    return list(placed(path, "a label is an object with prompt, answer and label", f"{path} holds no label."))


def _key(row: Mapping[str, Any], pair: bool) -> str:
    return key_of([row["prompt"], row["answer"], row["against_answer"] if pair else None])
