"""How an annotator uses the freedom that written principles leave open (Buyl et al. 2025)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Measure, Reward, is_whole, require, require_seed
from truing.errors import RecordError, UnsupportedError
from truing.measures import discretion_report as report
from truing.measures.asking import Context, check_limit, check_split, own_prompts, search_notes
from truing.measures.discretion_report import Annotators
from truing.measures.journal import identity
from truing.measures.preference import pair_scores, reward_scores
from truing.measures.principle_oracles import SANDBOX, asked_principles, sandbox_principles
from truing.measures.principle_reading import FIRST, annotator, principle_matrix, principle_texts
from truing.measures.principle_tables import ROW_LABELS, against_consensus, classify_rows
from truing.measures.result import Column, Outcome
from truing.rewards.judge import loaded

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class Discretion(Measure):
    """How does an annotator choose where principles agree, and which principle does it follow where they clash?

    A comparison of two responses is a *consensus* where all principles with a view favour the same one, a *conflict*
    where two clash, *indifference* where none has a view. For each annotator (people, a reward, a model, a judge):

    - ``arbitrariness``: of the consensus comparisons, the share in which it goes against them; 50 % is a coin;
    - the *weight* of each principle, in nats: a Bradley-Terry fit of who wins when two clash;
    - ``discrepancy`` to the reference annotator: (1 - Kendall's tau-b) / 2 between the orders of the weights; 0 the
      same order, 0.5 unrelated, 1 reversed. With few clashes noise alone makes it large: read the interval.

    Works on given tables, without a model; or asks a model which of two responses it finds likelier (a `ScoreModel`:
    which it scores higher) on preference records, and takes what principles prefer from an oracle, or in the sandbox
    from its graders. Intervals of shares are exact; those of weights and discrepancies are by bootstrap over
    comparisons, with a tenth of a virtual tie for each pair of principles that clash, so that a principle which wins
    all is finite.

    Source: Buyl, Khalaf, Mayrink Verdun, Monteiro Paes, Vieira Machado and du Pin Calmon, "AI Alignment at Your
    Discretion", 2025 (arXiv 2502.10441).

    Args:
        table: what principles prefer, instead of a model: rows with ``row_id``, ``principle_id``, perhaps ``order``
            (0 or 1), and ``preference`` (1, -1, 0, none) or the probabilities ``prob_A``, ``prob_B``, ``prob_NA``.
        annotators: further annotators by name: a table with ``row_id`` (of records: 0 for the first pair) and a
            preference or probabilities, or "first" for one that prefers the first response always.
        reference: whom the others are compared with; ``human`` is whoever chose in the records.
        principles: texts, or a text file with one a line. Of a ``table`` these are the names of the principles 0, 1, …
        records: preference pairs of your own, with ``principles`` and an ``oracle``; None for the sandbox's.
        oracle: a model that says which response a principle favours, by its probabilities of A, B and NA; or its name.
        orders: in how many orders the oracle sees the two responses: 1 or 2.
        reward: a reward or judge as one more annotator, ``reward``.
        resamples: of the bootstrap.
        limit: at most that many pairs, from the start; None for all, or 400 of the sandbox.
        split: of the sandbox's pairs.
        seed: of the sandbox's pairs and of the bootstrap.
    """

    table: Sequence[dict[str, Any]] | str | Path | None = None
    annotators: dict[str, Any] | None = None
    reference: str = "human"
    principles: Sequence[str] | str | Path | None = None
    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    oracle: AnyModel | str | None = None
    orders: int = 2
    reward: Reward | None = None
    resamples: int = 300
    limit: int | None = None
    split: str = "test"
    seed: int = 0

    paper: ClassVar[int | None] = 9
    gives: ClassVar[tuple[str, ...]] = (
        *ROW_LABELS, "arbitrariness", "discrepancy", "arbitrariness of *", "no opinion of *", "discrepancy of *",
        "weight of * for *", "* over * for *",
    )  # fmt: skip
    takes_scores: ClassVar[bool] = True

    @property
    def needs_model(self) -> bool:
        """Whether a model is asked: not where what principles prefer is given."""
        return self.table is None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_limit(self.limit)
        check_split(self.split)
        require_seed(self.seed)
        require(self.orders in (1, 2), f"orders is 1 or 2, not {self.orders!r}.")
        require(
            is_whole(self.resamples) and 20 <= self.resamples <= 100_000,
            f"resamples is a number from 20 to 100,000, not {self.resamples!r}.",
        )
        require(
            self.annotators is None or (isinstance(self.annotators, dict) and all(map(str, self.annotators))),
            f"annotators is an object of names and tables, not {self.annotators!r:.80}.",
        )
        require(
            self.oracle is None or isinstance(self.oracle, str) or hasattr(self.oracle, "generate"),
            f"oracle is a model or the name of one, not {self.oracle!r}.",
        )
        if self.table is not None:
            for name in ("records", "oracle", "reward"):
                require(getattr(self, name) is None, f"With a `table` nothing is asked: leave `{name}` out.")
        elif self.records is not None or self.oracle is not None or self.principles is not None:
            require(
                self.oracle is not None and self.principles is not None,
                "Your own records need `principles` and an `oracle` that tells which response each favours, or else "
                "a `table`.",
            )

    def _measure(self, model: AnyModel | None, context: Context) -> Outcome:
        return self._given() if self.table is not None or model is None else self._asked(model, context)

    def _given(self) -> Outcome:
        ids, principles, matrix = principle_matrix(self.table)
        ids, matrix = ids[: self.limit], matrix[: self.limit]
        names = [str(one) for one in principles]
        if self.principles is not None:
            texts = principle_texts(self.principles)
            odd = [one for one in principles if not isinstance(one, int) or not 0 <= one < len(texts)]
            if odd:
                raise RecordError(
                    f"Discretion, `principles` names {len(texts)}, and the table has a principle {odd[0]!r}. Name the "
                    "principles 0, 1, … in order."
                )
            names = [texts[one] for one in principles]  # type: ignore[call-overload]
        found: Annotators = {}
        notes: list[str] = []
        for name, source in (self.annotators or {"human": FIRST}).items():
            found[name], more = annotator(source, ids, name)
            notes += more
        self._check_reference(found)
        made = report.figures_of(matrix, found, self.reference, names, self.resamples, self.seed)
        rows = _rows(matrix, found, [{"id": str(one)} for one in ids])
        return dataclasses.replace(made, rows=rows, notes=notes + made.notes)

    def _asked(self, model: AnyModel, context: Context) -> Outcome:
        _require_choices(model)
        pairs = self._pairs()
        matrix, names, notes = self._principles(pairs, context)
        chosen = _preferred(pair_scores(model, pairs, context))
        against = against_consensus(matrix, chosen)
        shown = [{key: pair[key] for key in ("id", "kind", "prompt", "chosen", "rejected")} for pair in pairs]
        column = {"arbitrariness": Column("arbitrariness", better="lower")}
        if not context.main:
            rows = [{**one, "arbitrariness": _counted(value)} for one, value in zip(shown, against)]
            return Outcome(rows, column)
        notes += search_notes("What is preferred", model, context.against)
        found: Annotators = {"human": np.ones(len(pairs)), "model": chosen}
        if context.against is not None:
            _require_choices(context.against)
            found["against"] = _preferred(pair_scores(context.against, pairs, context))
        if self.reward is not None:
            who = identity(self.reward)
            found["reward"] = _preferred(
                reward_scores(self.reward, pairs, context, None if who is None else f"reward {who}")
            )
        for name, source in (self.annotators or {}).items():
            if name in found:
                raise RecordError(
                    f"Discretion has an annotator `{name}` already: name the one in `annotators` otherwise."
                )
            found[name], more = annotator(source, list(range(len(pairs))), name)
            notes += more
        self._check_reference(found)
        made = report.figures_of(matrix, found, self.reference, names, self.resamples, self.seed)
        if self.reference != "model" and "discrepancy of model" in made.figures:
            made.figures["discrepancy"] = made.figures["discrepancy of model"]
        rows = _rows(matrix, found, shown)
        for row, value in zip(rows, against):
            row["arbitrariness"] = _counted(value)
        return dataclasses.replace(made, rows=rows, columns=column, notes=notes + made.notes)

    def _pairs(self) -> list[dict[str, Any]]:
        if self.records is not None:
            return own_prompts(self.records, self.limit, "Discretion", ("preference",))
        from truing.sandbox import records

        found = records("preferences", self.split, self.limit or 400, self.seed)
        return own_prompts(found, self.limit, "Discretion", ("preference",))

    def _principles(self, pairs: list[dict[str, Any]], context: Context) -> tuple[Any, list[str], list[str]]:
        if self.oracle is None:
            return sandbox_principles(pairs), list(SANDBOX), []
        texts = principle_texts(self.principles)
        oracle = loaded(self, self.oracle)
        matrix, unread = asked_principles(oracle, pairs, texts, context, orders=self.orders)
        total = self.orders * len(pairs) * len(texts)
        notes = [f"{unread} of {total} replies of the oracle are none of A, B and NA; they count as no view."]
        split = int((matrix == 0).sum())
        if split:
            notes.append(
                f"{split} of {matrix.size} views of the oracle turned with the order of showing: no view either."
            )
        return matrix, texts, notes if unread else notes[1:]

    def _check_reference(self, found: Annotators) -> None:
        if self.reference not in found:
            raise RecordError(
                f"Discretion compares with the annotator `{self.reference}` (`reference`), and has {', '.join(found)}."
            )


def _require_choices(model: Any) -> None:
    if not {"logits", "scores"} & set(model.offers):
        raise UnsupportedError(
            f"Discretion reads what {model.name} prefers from log-probabilities, which it does not offer. Give its "
            "choices as a table (`annotators`), or use it as a judge (`reward`)."
        )


def _preferred(scores: Sequence[Sequence[float]]) -> Any:
    """The sign of what the first response has more, and no opinion where both have the same."""
    gap = np.array([one - other for one, other in scores])
    return np.where(gap == 0, np.nan, np.sign(gap))


def _counted(value: float) -> bool | None:
    return None if np.isnan(value) else bool(value)


def _rows(matrix: Any, found: Annotators, shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    labels = classify_rows(matrix)
    return [
        {**one, "grade": label, **{f"prefers {name}": None if np.isnan(values[at]) else int(values[at])
                                   for name, values in found.items()}}
        for at, (one, label) in enumerate(zip(shown, labels))
    ]  # fmt: skip
