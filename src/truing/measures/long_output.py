"""Texts of an ordered length: how near their length is, and how good a judge finds them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import is_number, is_whole, require
from truing.errors import RecordError
from truing.measures import long_text
from truing.measures.asking import Context, Questionnaire
from truing.measures.judging import replies_read
from truing.measures.labelled import Judged
from truing.measures.result import Column, Grid, Outcome
from truing.measures.tables import placed
from truing.records.kinds import shorten
from truing.rewards import aspects as reading
from truing.rewards.judge import loaded

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

DIMENSIONS = {name: f"quality/{name.lower().replace(' ', '_')}" for name in long_text.QUALITY}
LENGTHS = (*(f"{low} to {high} words" for low, high in long_text.BUCKETS), f"over {long_text.BUCKETS[-1][1]} words")
GRADED = ("quality", *DIMENSIONS.values())
SCORES = {name: f"length_score/{name}" for name in LENGTHS}


class LongOutput(Judged, Questionnaire):
    """Whether a model writes as much as it is told to, and how good that is.

    ``length_score`` (S_l) is 100 for a text of the required length, and falls to 0 at four times the length or a third
    of it; with buckets of the required length beside it. With a judge, ``quality`` (S_q) is the mean of six dimensions,
    each graded from 1 to 5 and brought to 0 to 100, whether or not the length was met; ``overall`` is the mean of both.
    ``near`` is the share of texts with a score of 80 at least, which is between 0.71 and 1.6 times the length.

    The required length is a row's ``length``, or what its prompt states (see `long_text.required_length`); prompts that
    state none, or several, are left out and counted. Texts cut by ``max_new_tokens`` score as they are; a note counts
    them. Replies of the judge that cannot be read are asked for again, then left out and counted: of those texts the
    length counts alone. Intervals are by bootstrap over texts.

    Source: Chen et al. 2024, "Minimum Tuning to Unlock Long Output" (arXiv 2410.10210), after LongBench-Write. They ask
    at temperature 0.5 for up to 32,768 tokens, and drop unread grades in silence.

    Args:
        records: prompts of your own, each with ``prompt`` and perhaps ``length`` and ``type``: rows, a file (such as
            LongBench-Write), or a name; None for orders of the sandbox.
        outputs: given texts instead of a model's: the same rows with the text as ``response``.
        judge: a model that grades quality, or its name; None for length alone.
        every_script: count words of all scripts, with accents and digits; else as the reference does, which has
            Chinese characters and plain Latin words only.
        retries: how often a reply of the judge that cannot be read is asked for again.
        judge_tokens: most tokens of such a reply.
        max_new_tokens: most tokens of a text.
        temperature: the paper has 0.5; 0 is greedy.
    """

    outputs: Records | Sequence[dict[str, Any]] | str | Path | None = None
    judge: AnyModel | str | None = None
    every_script: bool = False
    retries: int = 2
    judge_tokens: int = 800
    max_new_tokens: int = 512

    paper: ClassVar[int | None] = 33
    gives: ClassVar[tuple[str, ...]] = (
        "length_score", "near", "overall", *SCORES.values(),
        *(f"{name}{end}" for name in GRADED for end in ("", "_corrected", "_judge_error")),
    )  # fmt: skip

    @property
    def needs_model(self) -> bool:
        """False where the texts are given."""
        return self.outputs is None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.outputs is None or self.records is None, "Give `records` to ask about, or `outputs`, not both.")
        require(
            self.judge is None or isinstance(self.judge, str) or hasattr(self.judge, "generate"),
            f"judge is a model or the name of one, not {self.judge!r}.",
        )
        require(
            self.labels is None or self.judge is not None, "`labels` correct a judge's grades: give the `judge` too."
        )
        require(is_whole(self.retries) and self.retries >= 0, f"retries is 0 or more, not {self.retries!r}.")
        require(
            is_whole(self.judge_tokens) and self.judge_tokens >= 1,
            f"judge_tokens is 1 or more, not {self.judge_tokens!r}.",
        )

    def _measure(self, model: AnyModel | None, context: Context) -> Outcome:
        orders, notes = self._orders()
        if self.outputs is None:
            assert model is not None
            rows, cut = self.answered(model, orders, context)
            notes += cut
        else:
            rows = orders
            for row in rows:
                row["answer"] = _text(row)
        return self.outcome(rows, notes, context)

    def questions(self) -> list[dict[str, Any]]:
        """Orders that state a length."""
        return self._orders()[0]

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """How near the texts are to what was ordered, and their grades."""
        found = self._scored(answered, notes, context)
        return self.corrected(found, "quality", dict.fromkeys(GRADED, (0.0, 100.0)), context)

    def graded(self, answered: list[dict[str, Any]], context: Context) -> Outcome:
        """The same of one text; labels are about all of them."""
        return self._scored(answered, [], context)

    def _scored(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        rows = answered
        for at, row in enumerate(answered):
            text = row["answer"]
            written = long_text.count_words(text, every=self.every_script)
            score = long_text.length_score(row["required"], written)
            # In the place of what it is made from: a million rows of both would not fit.
            rows[at] = {
                "id": row["id"], "kind": row["kind"], "prompt": row["prompt"], "answer": text,
                "required": row["required"], "written": written, "length_score": score,
                SCORES[long_text.bucket(row["required"])]: score, "near": long_text.kept(row["required"], written),
                "grade": f"{written:,} of {row['required']:,} words",
            }  # fmt: skip
        empty = sum(row["written"] == 0 for row in rows)
        if empty:
            notes.append(f"{empty} of {len(rows)} texts hold no word that is counted, and score 0.")
        columns = {"length_score": _mean("length_score"), "near": Column("near")}
        if self.judge is not None:
            notes += self._graded(rows, context)
            columns |= {name: _mean(name) for name in ("quality", "overall", *DIMENSIONS.values())}
        counts = {name: sum(SCORES[name] in row for row in rows) for name in LENGTHS}
        there = [name for name, count in counts.items() if count]
        columns |= {SCORES[name]: _mean(SCORES[name]) for name in there}
        grid = Grid(
            "Length score by required length", ["required (texts)", "length score"],
            [(f"{name} ({counts[name]})", [SCORES[name]]) for name in there],
        )  # fmt: skip
        return Outcome(rows, columns, notes, grids=[grid] if len(there) > 1 else [])

    def _orders(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Orders with their required length, and a note of those without one."""
        if self.records is None and self.outputs is None:
            n = 60 if self.limit is None else self.limit
            found: Iterable[dict[str, Any]] = sandbox_orders(self.split, n, self.seed)
        else:
            found = itertools.islice(_rows(self.records if self.outputs is None else self.outputs), self.limit)
        kept, at = [], 0
        for at, row in enumerate(found, 1):
            length = row.get("length")
            if length is None:
                length = long_text.required_length(_words_of(row["prompt"]))
            elif not is_number(length) or length < 0:
                raise RecordError(f"Order {at}: `length` is a number of words, not {length!r}.")
            if length:
                kind = str(row.get("type", row.get("kind", "own")))
                kept.append({**row, "id": f"order-{at}", "kind": kind, "required": length})
        if not kept:
            raise RecordError(
                f"None of {at} prompts has a required length: a `length`, or one stated as in "
                '"write 500 words". Add one.'
            )
        lost = at - len(kept)
        return kept, [f"{lost} of {at} prompts state no single length, and are left out."] if lost else []

    def _graded(self, rows: list[dict[str, Any]], context: Context) -> list[str]:
        """Adds the judge's grades to the rows; gives notes."""
        judge = loaded(self, self.judge)
        names = list(long_text.QUALITY)
        texts = [
            reading.question(row["prompt"], row["answer"], long_text.QUALITY)
            + "\nPay no heed to whether an order about length was met; that is measured elsewhere. Be strict."
            for row in rows
        ]

        def read(_: int, reply: str, cut: bool) -> dict[str, float] | None:
            scores = reading.read_scores(reply, names, cut=cut)
            if scores is None or any(one.value is None for one in scores.values()):
                return None
            return {name: float(scores[name].value) for name in names}  # type: ignore[arg-type]

        found = replies_read(
            judge, texts, read, context, label="long_output", retries=self.retries, max_new_tokens=self.judge_tokens,
            seed=self.seed,
        )  # fmt: skip
        lost = 0
        for row, grades in zip(rows, found):
            lost += grades is None
            scores = long_text.quality_scores([grades]) if grades else {}
            row["quality"] = scores.get("total")
            row["overall"] = (row["length_score"] + scores["total"]) / 2 if scores else None
            row.update({column: scores.get(name) for name, column in DIMENSIONS.items()})
        if not lost:
            return []
        return [f"{lost} of {len(rows)} replies of the judge could not be read; these texts have no quality."]


def sandbox_orders(split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """Orders of the sandbox: questions whose answer shall have a number of words, from 5 to 40."""
    import random

    from truing.sandbox import items

    rng = random.Random(f"orders {split} {seed}")
    out = []
    for item in items("fact", split, n, seed):
        length = rng.randint(5, 40)
        out.append({"prompt": f"{item.prompt} Write {length} words.", "length": length, "type": "fact"})
    return out


def _mean(name: str) -> Column:
    return Column(name, "of 100", "higher", "mean")


def _rows(source: Any) -> Iterator[dict[str, Any]]:
    """Rows with a prompt, from wherever they are, one at a time."""
    from truing.records.reading import raws_of

    rows = raws_of(source) if isinstance(source, (str, Path)) else source
    expected = "an order is an object with a `prompt`"
    none = "There is no order to write to. A row has a `prompt`, and a `length` or states one."
    for place, row in placed(rows, expected, none):
        if not isinstance(row.get("prompt"), (str, list)) or not row["prompt"]:
            raise RecordError(f"{place}: {expected}, not {shorten(row)}.")
        yield row


def _text(row: dict[str, Any]) -> str:
    for name in ("response", "completion", "answer"):
        if isinstance(row.get(name), str):
            return str(row[name])
    raise RecordError(f"{row['id']}: a given output has its text as `response`. It has {', '.join(row)}.")


def _words_of(prompt: Any) -> str:
    """What the user says in a prompt."""
    from truing.models.chat import as_messages

    return "\n".join(str(one["content"]) for one in as_messages(prompt) if one["role"] == "user")
