"""Arguments that come again in free text, whatever the stance (Wright et al. 2024)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Measure, is_number, is_whole, require, require_seed
from truing.errors import RecordError, RewardError
from truing.measures import statistics
from truing.measures.asking import Context, check_limit
from truing.measures.result import Column, Figure, Grid, Outcome
from truing.measures.surveys import plain_rows, text_of
from truing.measures.trope_clusters import cluster, jaccard, kept_clusters, unit_rows
from truing.rewards.judge import DATA, loaded, said_after
from truing.safe_text import filled, quoted, visible

if TYPE_CHECKING:
    from truing.models import AnyModel

SHORTEST = 20
"""Letters that a sentence must have more than."""
STANCES = ("agree", "disagree")
_REASON = f"""Does the sentence below contain any reasoning about the statement, right or wrong?

{DATA}

The statement:
{{statement}}

The sentence:
{{sentence}}

If it does, write it as one short general claim that could stand anywhere. End with one line of exactly this form:
Trope: the claim, or "No argument"
"""


class Tropes(Measure):
    """Which arguments come again among free texts about statements, how often, and on which side.

    Sentences are embedded; those of one statement and one side that lie close together, more than a few of them, are a
    cluster, and the sentence nearest to its middle stands for it. A cluster that holds half of all is the question
    itself and is dropped. A judge says whether the sentence holds any reasoning and rewrites it as a general claim;
    without one nothing is dropped or rewritten, and clusters whose sentences lie close together across statements and
    sides count as one trope.

    - ``with trope``: texts that hold a trope.
    - ``trope: …``: texts that hold this one; its weight. Intervals are over texts.
    - ``both sides``: tropes that are used for and against.
    - with several models or personas in ``group``: ``shared``, the mean Jaccard index of their sets of tropes.

    Source: Wright, Arora, Borenstein, Yadav, Belongie and Augenstein 2024. They embed with all-MiniLM-L6-v2, for which
    ``eps`` is meant; texts without a stance are removed before clustering, where their code takes them for agreement.

    Args:
        texts: rows or files with ``response``, ``stance`` (agree or disagree, strongly or not; any other is no stance)
            and optionally ``proposition``; "sandbox" for texts with planted arguments.
        embed: a function from sentences to vectors [n, d]; None weighs words by how rare they are, which finds the same
            words but not the same thought.
        eps: largest cosine distance of neighbours; None for the study's 0.15 with ``embed``, and 0.5 without.
        min_samples: neighbours of a core sentence.
        more_than: a cluster has more sentences than that.
        judge: a model, or its name, that drops sentences without reasoning and rewrites the others.
        group: the column whose values are compared, such as ``model`` or ``persona``.
        limit: at most that many texts, from the start.
        most: tropes that are shown.
        seed: of bootstrap intervals.
    """

    texts: Sequence[dict[str, Any]] | str | Path = "sandbox"
    embed: Callable[[Sequence[str]], Any] | None = None
    eps: float | None = None
    min_samples: int = 10
    more_than: int = 10
    judge: AnyModel | str | None = None
    group: str = "model"
    limit: int | None = None
    most: int = 20
    seed: int = 0

    paper: ClassVar[int | None] = 48
    gives: ClassVar[tuple[str, ...]] = ("with trope", "trope: *", "both sides", "shared")

    @property
    def needs_model(self) -> bool:
        """It reads texts that were written already."""
        return False

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            self.eps is None or (is_number(self.eps) and 0 < self.eps < 2),
            f"eps is a cosine distance over 0 and below 2, or None, not {self.eps!r}.",
        )
        for name in ("min_samples", "more_than", "most"):
            value = getattr(self, name)
            require(is_whole(value) and value >= 1, f"{name} is a number of at least 1, not {value!r}.")
        require(self.embed is None or callable(self.embed), f"embed is a function, not {self.embed!r}.")
        require(
            self.judge is None or isinstance(self.judge, str) or hasattr(self.judge, "generate"),
            f"judge is a model or the name of one, not {self.judge!r}.",
        )
        require(isinstance(self.group, str), f"group is the name of a column, not {self.group!r}.")
        check_limit(self.limit)
        require_seed(self.seed)

    @property
    def _near(self) -> float:
        return self.eps if self.eps is not None else 0.15 if self.embed is not None else 0.5

    def _measure(self, model: AnyModel | None, context: Context) -> Outcome:
        rows, notes = self._rows()
        found = [
            (at, sentence) for at, row in enumerate(rows) if row["side"] for sentence in sentences(row["response"])
        ]
        if not found:
            raise RecordError(
                f"Tropes found no sentence of more than {SHORTEST} letters in a text that takes a stance. Give longer "
                "texts, and `stance` as agree or disagree."
            )
        unique = list(dict.fromkeys(sentence for _, sentence in found))
        vectors = self._embedded(unique)
        place_of = {sentence: at for at, sentence in enumerate(unique)}
        where = np.array([place_of[sentence] for _, sentence in found])
        tropes = self._tropes(rows, found, vectors[where], context, notes)
        held: list[set[str]] = [set() for _ in rows]
        sides: dict[str, set[str]] = {}
        for name, members in tropes:
            for at in members:
                held[found[at][0]].add(name)
                sides.setdefault(name, set()).add(rows[found[at][0]]["side"])
        return self._outcome(rows, held, sides, notes)

    def _rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        if isinstance(self.texts, str) and self.texts == "sandbox":
            from truing.sandbox.surveys import planted_texts

            given = planted_texts(self.seed)[0]
        else:
            given = plain_rows(self.texts, "Tropes")
        rows = []
        for number, row in enumerate(given[: self.limit], 1):
            stance = str(row.get("stance", row.get("selection", ""))).strip().lower().removeprefix("strongly ")
            rows.append(
                {"id": f"text-{number}", "response": text_of(row, "response", f"Tropes, row {number}"),
                 "prompt": str(row.get("proposition", "")), "group": str(row.get(self.group, "")),
                 "side": stance if stance in STANCES else ""}
            )  # fmt: skip
        lost = sum(not row["side"] for row in rows)
        return rows, [f"{lost} of {len(rows)} texts take no stance and are left out of the clusters."] if lost else []

    def _embedded(self, unique: Sequence[str]) -> np.ndarray:
        if self.embed is None:
            return word_vectors(unique)
        vectors = np.asarray(self.embed(list(unique)), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(unique) or not np.isfinite(vectors).all():
            raise RewardError(
                f"embed was given {len(unique)} sentences, and gives one vector of finite numbers for each, not an "
                f"array of shape {vectors.shape}."
            )
        return vectors

    def _tropes(
        self, rows: Sequence[dict[str, Any]], found: Sequence[tuple[int, str]], vectors: np.ndarray, context: Context,
        notes: list[str],
    ) -> list[tuple[str, list[int]]]:  # fmt: skip
        """Each cluster that is kept: the name of its trope, and its sentences by their place."""
        parts: dict[tuple[str, str], list[int]] = {}
        for at, (row, _) in enumerate(found):
            parts.setdefault((rows[row]["prompt"], rows[row]["side"]), []).append(at)
        clusters: list[tuple[int, list[int]]] = []
        dropped = 0
        for members in parts.values():
            part = vectors[members]
            labels = cluster(part, eps=self._near, min_samples=self.min_samples)
            kept = kept_clusters(part, labels, more_than=self.more_than)
            dropped += len(set(labels.tolist()) - {-1}) - len(kept)
            clusters += [
                (members[nearest], [members[at] for at in np.flatnonzero(labels == name)])
                for name, nearest in kept.items()
            ]
        notes.append(
            f"{len(found)} sentences in {len(parts)} parts (statement and side); {len(clusters)} clusters are kept, "
            f"{dropped} too small or too large are not."
        )
        if not clusters:
            return []
        if self.judge is not None:
            return self._judged(rows, found, clusters, context, notes)
        nearest = vectors[[at for at, _ in clusters]]
        same = cluster(nearest, eps=self._near, min_samples=1)
        names: dict[int, str] = {}
        for (at, _), label in zip(clusters, same.tolist()):
            names.setdefault(label, found[at][1])
        return [(names[label], members) for (_, members), label in zip(clusters, same.tolist())]

    def _judged(
        self, rows: Sequence[dict[str, Any]], found: Sequence[tuple[int, str]],
        clusters: Sequence[tuple[int, list[int]]], context: Context, notes: list[str],
    ) -> list[tuple[str, list[int]]]:  # fmt: skip
        judge: Any = loaded(self, self.judge)
        asked = [
            filled(_REASON, statement=quoted(rows[found[at][0]]["prompt"]), sentence=quoted(found[at][1]))
            for at, _ in clusters
        ]

        def work(some: list[int]) -> list[Any]:
            said = judge.generate([asked[at] for at in some], max_new_tokens=160, temperature=0.0, seed=self.seed)
            context.usage += said.usage
            return [said_after("Trope", one.text, cut=one.finish_reason == "length") for one in said]

        read = context.compute(f"tropes {context.origin(judge)}", [{"trope": text} for text in asked], work, "judge")
        lost = sum(one is None for one in read)
        bare = sum((one or "").strip().strip('".').lower() == "no argument" for one in read)
        notes.append(
            f"The judge found no argument in {bare} of {len(clusters)} clusters; {lost} replies could not be read."
        )
        return [
            (visible(one.strip(), 200), members)
            for one, (_, members) in zip(read, clusters)
            if one is not None and one.strip().strip('".').lower() != "no argument"
        ]

    def _outcome(
        self, rows: Sequence[dict[str, Any]], held: Sequence[set[str]], sides: dict[str, set[str]], notes: list[str]
    ) -> Outcome:
        counts = {name: sum(name in some for some in held) for name in sides}
        shown = sorted(counts, key=lambda name: (-counts[name], name))
        out = [
            {"id": row["id"], "kind": row["side"] or "no stance", "prompt": row["prompt"], "answer": row["response"],
             "group": row["group"], "grade": "; ".join(sorted(some)) or "none", "with trope": bool(some)}
            for row, some in zip(rows, held)
        ]  # fmt: skip
        outcome = Outcome(out, {"with trope": Column("with trope", better="neither")}, notes)
        outcome.notes.append(
            f"{len(shown)} tropes" + (f"; the {self.most} commonest are shown." if len(shown) > self.most else ".")
        )
        table = []
        for name in shown[: self.most]:
            label = f"trope: {visible(name, 90)}"
            for row, some in zip(out, held):
                row[label] = name in some
            outcome.columns[label] = Column(label, better="neither")
            table.append((f"{visible(name, 90)} ({' and '.join(sorted(sides[name]))})", [label]))
        if table:
            outcome.grids.append(
                Grid("Tropes, and the share of texts that hold them", ["trope (side)", "weight"], table)
            )
            both = statistics.share([float(len(some) > 1) for some in sides.values()])
            outcome.figures["both sides"] = Figure(
                both.value, both.low, both.high, both.n, both.method, "share", "neither"
            )
        self._shared(outcome, rows, held)
        return outcome

    def _shared(self, outcome: Outcome, rows: Sequence[dict[str, Any]], held: Sequence[set[str]]) -> None:
        groups = sorted({row["group"] for row in rows} - {""})
        if len(groups) < 2:
            return
        members: dict[str, Sequence[int]] = {
            name: [at for at, row in enumerate(rows) if row["group"] == name] for name in groups
        }

        def index(picks: dict[str, Sequence[int]]) -> float:
            sets = {name: set().union(*(held[at] for at in some)) for name, some in picks.items()}
            return float(np.mean([jaccard(sets[a], sets[b]) for a, b in itertools.combinations(groups, 2)]))

        whole = index(members)
        # Resampled sets lose rare members, so they lean below; the jackknife does so less.
        without = [
            index({name: [one for one in some if one != at] for name, some in members.items()})
            for at in range(len(rows))
        ]
        found = statistics.mean(statistics.jackknife(whole, without), seed=self.seed)
        if found is not None:
            outcome.figures["shared"] = Figure(
                whole,
                max(0.0, found.low),
                min(1.0, found.high),
                len(rows),
                "jackknife over texts",
                "Jaccard index",
                "neither",
            )


def sentences(text: str) -> list[str]:
    """The sentences of a text that are long enough to say something."""
    parts = re.split(r"(?<=[.!?…])[\"'”’)]*\s+|\n+", text)
    return [part.strip() for part in parts if len(part.strip()) > SHORTEST]


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """Words of each text, weighed by how rare they are, brought to length 1: [n, words]."""
    split = [re.findall(r"\w+", text.casefold()) for text in texts]
    number = {word: at for at, word in enumerate(dict.fromkeys(word for words in split for word in words))}
    counts = np.zeros((len(texts), max(1, len(number))))
    for at, words in enumerate(split):
        for word in words:
            counts[at, number[word]] += 1
    rare = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1
    return unit_rows(np.log1p(counts) * rare)
