"""How well claims are supported by their contexts, and how well a scorer tells which are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from truing.contracts import is_number, require
from truing.errors import RecordError, SettingsError
from truing.measures.asking import Context, Questionnaire
from truing.measures.journal import key_of
from truing.measures.result import Column, Outcome
from truing.rewards.align_score import AlignScore, Evidence, text_of
from truing.rewards.alignment_rule import MODES, aggregate

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

Row = dict[str, Any]
# Pairs of a call: they are sorted by length, so a call should hold many.
_AT_ONCE = 2048
_SHOWN = 3


class AlignScoreMeasure(Questionnaire):
    """How well what is claimed is supported by its context, by a trained model of pairs, with the evidence.

    Three uses:

    - a model that writes: it is asked the prompts of ``records``, and ``scorer`` holds each answer against the record's
      column ``context``, or against the prompt itself. Without records the sandbox's questions about a note are asked;
      their exact grades are the truth.
    - given ``pairs``, and no model: ``scorer`` holds each completion against its prompt.
    - a scorer as the model: it is tested on ``pairs`` with labels, or on those of the sandbox.

    Figures: ``align_score``, the mean score; ``supported``, the share of claim sentences that are supported (best chunk
    at ``threshold`` or over). Where the truth is known also ``auc``, how often a supported claim has a higher score
    than another one, ``accuracy`` at the threshold, and ``auc_word_overlap``, the same of the share of the claim's
    words that its context holds. Rows hold the whole matrix of evidence; notes show the sentences with the least
    support. A claim without a sentence does not count, and a note says how many there were. Claims with one context
    are one cluster.

    Source: Zha et al. 2023 (arXiv 2305.16739).

    Args:
        scorer: a model trained by AlignScoreTraining, or its folder.
        pairs: label or demonstration records: ``prompt`` is the context, ``completion`` the claim, ``label`` whether it
            is supported.
        records: prompts of your own, with a column ``context``.
        context: name of that column.
        mode: of `AlignScore`.
        threshold: from where a sentence, or a claim, counts as supported; choose it on held-out data.
        max_new_tokens: most tokens an answer may have.
    """

    scorer: AnyModel | str | None = None
    pairs: Records | Sequence[dict[str, Any]] | str | Path | None = None
    context: str = "context"
    mode: str = "nli_sp"
    threshold: float = 0.5

    paper: ClassVar[int | None] = 34
    gives: ClassVar[tuple[str, ...]] = ("align_score", "supported", "auc", "auc_word_overlap", "accuracy")
    takes_scores: ClassVar[bool] = True

    @property
    def needs_model(self) -> bool:
        """Whether a model is asked; not where pairs are given with what scores them."""
        return self.pairs is None or self.scorer is None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            self.scorer is None or isinstance(self.scorer, str) or hasattr(self.scorer, "pair_logits"),
            f"scorer is a model trained by AlignScoreTraining, or its folder, not {self.scorer!r}.",
        )
        require(self.mode in MODES, f"mode is one of {', '.join(MODES)}, not {self.mode!r}.")
        require(is_number(self.threshold), f"threshold is a number, not {self.threshold!r}.")
        require(
            self.pairs is None or self.records is None, "Give pairs, which are scored as they are, or records to ask."
        )

    def questions(self) -> list[Row]:
        """About the contexts."""
        if self.scorer is None:
            raise SettingsError(
                "Answers are held against their contexts by a scorer. Give `scorer`: a folder that "
                "AlignScoreTraining wrote."
            )
        return self.rows(("context",))

    def outcome(self, answered: list[Row], notes: list[str], context: Context) -> Outcome:
        """How well answers are supported by their contexts."""
        return self._held(self.scorer, self._against_contexts(answered), notes, context)

    def _measure(self, model: Any, context: Context) -> Outcome:
        judges = model is not None and "scores" in model.offers
        if judges and self.scorer is not None:
            raise SettingsError(
                f"{model.name} is itself a scorer: leave `scorer` out to test it, or measure a model that writes."
            )
        if model is not None and not judges and self.scorer is None and not context.main:
            # A recipe compares with the model that it starts from, which has no heads yet.
            return Outcome([], {}, [f"{model.name} judges no pairs, so nothing is compared with it."])
        if model is None or judges:
            return self._held(model if judges else self.scorer, self._given(), [], context)
        return super()._measure(model, context)

    def _held(self, scorer: Any, items: list[Row], notes: list[str], context: Context) -> Outcome:
        rule = AlignScore(scorer=scorer, mode=self.mode)
        found = self._evidence(rule, items, context)
        rows = [self._row(item, one) for item, one in zip(items, found)]
        empty = sum(not one.sentences for one in found)
        if empty:
            notes.append(f"{empty} of {len(rows)} claims have no sentence; they do not count.")
        free = self.mode.startswith("reg")
        columns = {
            "align_score": Column(
                "align_score", "score" if free else "of 1", statistic="mean", bounds=None if free else (0.0, 1.0)
            ),
            "supported": Column("supported", statistic="pooled_share", weight="count"),
        }
        if _told(rows):
            columns |= {name: Column(name, statistic="mean", bounds=(0.0, 1.0)) for name in ("auc", "auc_word_overlap")}
            columns["accuracy"] = Column("accuracy")
        elif any(row["label"] is not None for row in rows):
            notes.append("All labelled claims are of one kind, so no `auc` can be told.")
        return Outcome(rows, columns, [*notes, *_least(rows, self.threshold)])

    def _given(self) -> list[Row]:
        from truing.records import as_records
        from truing.sandbox import records

        given: Any = self.pairs
        if given is None:
            given = records("consistency", self.split, self.limit or 400, self.seed)
        out = []
        for at, row in enumerate(as_records(given, kinds=("label", "demonstration"), what="AlignScoreMeasure")):
            if self.limit is not None and at >= self.limit:
                break
            claim = row["completion"] if isinstance(row["completion"], str) else text_of(row["completion"][-1:])
            out.append(
                {"id": f"pair-{at + 1}", "kind": str(row.get("kind", "own")), "prompt": row["prompt"],
                 "context": text_of(row["prompt"]), "answer": claim, "label": row.get("label")}
            )  # fmt: skip
        return out

    def _against_contexts(self, answered: Sequence[Row]) -> list[Row]:
        from truing.measures.hhh import sandbox_grade

        out = []
        for row in answered:
            label = None
            if self.records is None:
                source = row["item"].claim
                label = sandbox_grade(row).outcome == "correct"
            else:
                source = row.get(self.context, text_of(row["prompt"]))
                if not isinstance(source, str):
                    raise RecordError(f"The column `{self.context}` of {row['id']} holds {source!r:.60}, and no text.")
            out.append(
                {**{key: row[key] for key in ("id", "kind", "prompt", "answer")}, "context": source, "label": label}
            )
        return out

    def _evidence(self, rule: AlignScore, items: Sequence[Row], context: Context) -> list[Evidence]:
        def work(at: list[int]) -> list[Any]:
            found = rule.score([items[one]["context"] for one in at], [items[one]["answer"] for one in at])
            return [[one.chunks, one.sentences, one.matrix] for one in found]

        keys = ({"align": [item["context"], item["answer"]], "mode": self.mode} for item in items)
        found = context.compute(context.origin(rule.model), keys, work, "evidence", _AT_ONCE)
        return [Evidence(aggregate(matrix), parts, said, matrix) for parts, said, matrix in found]

    def _row(self, item: Row, found: Evidence) -> Row:
        counts = bool(found.sentences)
        best = found.best if counts else []
        label = item["label"] if counts else None
        return {
            **item, "cluster": key_of(item["context"]), "label": label, "count": len(best),
            "align_score": found.score if counts else None,
            "supported": sum(one >= self.threshold for one in best) if counts else None,
            "overlap": word_overlap(item["context"], item["answer"]) if counts else None,
            "accuracy": None if label is None else (found.score >= self.threshold) == bool(label),
            "grade": f"{found.score:.3f}" if counts else "no sentence",
            "chunks": found.chunks, "sentences": found.sentences, "matrix": found.matrix,
            "evidence": found.evidence if counts else [], "best": best,
        }  # fmt: skip


def word_overlap(context: str, claim: str) -> float:
    """The share of the claim's different words that its context holds."""
    one, two = (set(re.findall(r"\w+", text.lower())) for text in (claim, context))
    return len(one & two) / max(1, len(one))


def _told(rows: Sequence[Row]) -> bool:
    """Add what each row gives for the area under the curve, of both scores; False where there is none."""
    used = [row for row in rows if row["label"] is not None]
    for row in rows:
        row["auc"] = row["auc_word_overlap"] = None
    if len({bool(row["label"]) for row in used}) < 2:
        return False
    for name, column in (("auc", "align_score"), ("auc_word_overlap", "overlap")):
        for row, value in zip(used, auc_values([row[column] for row in used], [row["label"] for row in used])):
            row[name] = float(value)
    return True


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The share of pairs of a true and a false item in which the true one has the higher score; a tie counts half.

    Raises:
        ValueError: there is no true or no false item.
    """
    from scipy.stats import rankdata

    true = np.asarray(labels, dtype=bool)
    if true.all() or not true.any():
        raise ValueError("An area under the curve needs items of both labels.")
    ranks, count = rankdata(scores), int(true.sum())
    return float((ranks[true].sum() - count * (count + 1) / 2) / (count * (len(true) - count)))


def auc_values(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """One value for each item, whose mean is the area under the curve and whose spread gives its standard error.

    Each item's own part (the share of the other kind that it stands right of) is scaled by how rare its kind is, as in
    DeLong, DeLong and Clarke-Pearson 1988; so figures of two scorers over the same items can be compared, paired.
    """
    found, true = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    whole, n = auc(found, true), len(found)

    def part(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        others = np.sort(others)
        low, high = (np.searchsorted(others, values, side) for side in ("left", "right"))
        return np.asarray((low + high) / 2 / len(others))

    own = np.empty(n)
    own[true] = part(found[true], found[~true])
    own[~true] = 1 - part(found[~true], found[true])
    weight = np.where(true, n / true.sum(), n / (~true).sum())
    return np.asarray(whole + weight * (own - whole))


def _least(rows: Sequence[Row], threshold: float) -> list[str]:
    """The sentences with the least support, each with the best evidence there is."""
    found = [
        (value, row["id"], sentence, chunk)
        for row in rows
        for value, sentence, chunk in zip(row["best"], row["sentences"], row["evidence"])
        if value < threshold
    ]
    return [
        f"Little support ({value:.2f}) in {name}: {_cut(sentence, 120)} Best evidence: {_cut(chunk, 120)}"
        for value, name, sentence, chunk in sorted(found, key=lambda one: one[0])[:_SHOWN]
    ]


def _cut(text: str, most: int) -> str:
    line = " ".join(text.split())
    return f'"{line if len(line) <= most else line[: most - 1] + "…"}"'
