"""A suite of questions in any language: what it asks is in a folder that anyone can write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import require, require_seed, require_whole
from truing.errors import RecordError, SettingsError
from truing.measures import statistics
from truing.measures.asking import Answer, AskAndGrade, Context, asked_for, check_limit, cut_note
from truing.measures.choosing import READINGS, Choice, Chosen, by_probability, choose, picked
from truing.measures.normalise import same_text, says, share_in_script
from truing.measures.questioning import check_judge, said_of
from truing.measures.result import Column, Figure, Grid, Outcome, Result
from truing.measures.suite_files import SuiteFolder, SuiteItem, read_suite
from truing.measures.trust_taxonomy import CONTROL_QUESTION
from truing.models.types import Sampling

if TYPE_CHECKING:
    from truing.models import AnyModel

TOTAL = "total"
OWN_LANGUAGE = 0.5
"""An answer is in the suite's language where more than this share of its letters is of its script."""
REFUSE = "refuse"


class Suite(AskAndGrade):
    """How a model does on a suite: its dimensions, each the mean of its sets, and their mean.

    Items are graded as the suite says: by the probabilities of options (or the written choice), by exact match in any
    script, by a judge's reply to one question, or by whether the answer declines. A figure of a dimension is the
    unweighted mean of its sets, so that a large set does not drown a small one; ``…_by_items`` weighs every item alike.
    ``total`` is the mean of the dimensions. Sets of harmless requests are controls: how often they are refused
    (``over_refusal``, say) stands beside, since a model that refuses everything is safe. An empty answer, and one in
    another language than the suite's, is never counted as safe: it counts for nothing, and ``answered`` and
    ``language_kept`` say how many there are. Intervals are over items within sets.

    Source: Pourbahman et al. 2025 (ELAB), arXiv 2504.12553, for the dimensions of the Persian suite; the formulas are
    ours.

    Args:
        path: the suite's folder, or the name of a ready one: "persian", "english", "sandbox".
        judge: what answers a set's question about an answer: a model, the name of one, or a function of questions,
            prompts and answers that gives True (yes), False, 0.5 (unclear) or None for each. Without one, items whose
            expected behaviour is to refuse are graded by the suite's words that decline.
        reading: of options: "probabilities" (a local model), "written", or "auto": the first where the model has it.
        dimensions: names of those that are asked; None for all.
        limit: at most that many items, by turns from each set; None for all.
        temperature: 0 is greedy.
        max_new_tokens: most tokens an answer may have.
        seed: of the order of options, of sampling, and of bootstrap intervals.
    """

    path: str | Path = "persian"
    judge: Any = None
    reading: str = "auto"
    dimensions: Sequence[str] | None = None
    limit: int | None = None
    temperature: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0

    paper: ClassVar[int | None] = 56
    gives: ClassVar[tuple[str, ...]] = (TOTAL, "answered", "language_kept", "*")

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        from truing.models.sampling import check_sampling

        super().validate()
        require(isinstance(self.path, (str, Path)) and bool(str(self.path)), f"path is a folder, not {self.path!r}.")
        check_judge(self.judge)
        require(self.reading in READINGS, f"reading is {', '.join(READINGS)}, not {self.reading!r}.")
        names = self.dimensions
        listed = names is None or (not isinstance(names, str) and len(names) > 0)
        require(listed, f"dimensions is a list of names, not {names!r}.")
        check_limit(self.limit)
        require_whole(self, ("max_new_tokens",))
        require_seed(self.seed)
        check_sampling(self.sampling())

    def sampling(self) -> Sampling:
        """How answers are sampled."""
        return Sampling(self.max_new_tokens, self.temperature, seed=self.seed)

    def figure_names(self) -> tuple[str, ...]:
        """Those of its dimensions and their sets, where the suite can be read."""
        try:
            suite = read_suite(self.path)
        except RecordError:
            return self.gives
        named = [f"{name}{end}" for name, one in suite.dimensions.items()
                 for end in ("", "_by_items", *(f"_{of}" for of in one.sets))]  # fmt: skip
        return (*named, *self.gives[:-1])

    def questions(self) -> list[dict[str, Any]]:
        """Items, options in writing."""
        suite = read_suite(self.path)
        items = self._chosen(suite)
        self._check_judge(suite, items)
        return [
            {"id": item.id, "kind": item.dimension, "suite": suite, "item": item, "right": _right(suite, item),
             "prompt": _choice(suite, item).listed(self.seed) if _listed(suite, item) else _prompt(suite, item)}
            for item in items
        ]  # fmt: skip

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """Grades of written answers."""
        suite: SuiteFolder = answered[0]["suite"]
        answers = {row["id"]: Answer(row["answer"], row["cut"]) for row in answered}
        items = [row["item"] for row in answered]
        listed = [item for item in items if _listed(suite, item)]
        chosen = [picked(_choice(suite, item), answers[item.id], self.seed) for item in listed]
        return self._graded(suite, items, listed, chosen, answers, notes, context)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        questions = self.questions()
        suite: SuiteFolder = questions[0]["suite"]
        items = [row["item"] for row in questions]
        by_likelihood = by_probability(model, self.reading)
        listed = [item for item in items if _listed(suite, item)]
        asked = [row for row in questions if not (by_likelihood and _listed(suite, row["item"]))]
        answered = asked_for(model, asked, self.sampling(), context)
        notes = cut_note([Answer(row["answer"], row["cut"]) for row in answered], self.sampling(), model.name)
        if not by_likelihood:
            return self.outcome(answered, notes, context)
        choices = [_choice(suite, item) for item in listed]
        chosen, more = choose(model, choices, self.sampling(), context, reading=self.reading, seed=self.seed)
        answers = {row["id"]: Answer(row["answer"], row["cut"]) for row in answered}
        return self._graded(suite, items, listed, chosen, answers, [*more, *notes], context)

    def _graded(
        self, suite: SuiteFolder, items: Sequence[SuiteItem], listed: Sequence[SuiteItem], chosen: Sequence[Chosen],
        answers: dict[str, Answer], notes: list[str], context: Context,
    ) -> Outcome:  # fmt: skip
        rows = {item.id: _row(suite, item) for item in items}
        _choose(suite, listed, chosen, rows)
        free = [item for item in items if item not in listed]
        self._grade(suite, free, [answers[item.id] for item in free], rows, context, notes)
        made = list(rows.values())
        _add_columns(suite, items, made)
        return Outcome(
            made, _columns(suite, items, made), [*notes, *_notes(suite, items, made)], grids=[_grid(suite, items)]
        )

    def _chosen(self, suite: SuiteFolder) -> list[SuiteItem]:
        wanted = list(suite.dimensions) if self.dimensions is None else list(self.dimensions)
        unknown = [name for name in wanted if name not in suite.dimensions]
        if unknown:
            raise SettingsError(
                f"The suite {suite.name} has no dimension `{str(unknown[0])[:60]}`. It has: "
                f"{', '.join(suite.dimensions)}."
            )
        by_set: dict[tuple[str, str], list[SuiteItem]] = {}
        for item in suite.items:
            if item.dimension in wanted:
                by_set.setdefault((item.dimension, item.set), []).append(item)
        turns = [some[at] for at in range(max(map(len, by_set.values()))) for some in by_set.values() if at < len(some)]
        kept = {item.id for item in turns[: self.limit]}
        return [item for item in suite.items if item.id in kept]

    def _check_judge(self, suite: SuiteFolder, items: Sequence[SuiteItem]) -> None:
        """Raise before any work where an item can be graded by nothing."""
        for item in items:
            grade = _set(suite, item).grade
            by_words = grade == "refusal" or (grade == "judge" and self.judge is None and item.expected == REFUSE)
            if grade == "judge" and self.judge is None and item.expected != REFUSE:
                raise SettingsError(
                    f"Item `{item.id}` of the suite {suite.name} is graded by a judge. Give `judge`, or leave the "
                    f"dimension {item.dimension} out (`dimensions`)."
                )
            if by_words and not suite.refusals:
                raise RecordError(
                    f"Item `{item.id}` of the suite {suite.name} is graded by words that decline, and its `refusals` "
                    "names none."
                )

    def _grade(
        self, suite: SuiteFolder, items: Sequence[SuiteItem], answers: Sequence[Answer],
        rows: dict[str, dict[str, Any]], context: Context, notes: list[str],
    ) -> None:  # fmt: skip
        judged: list[tuple[SuiteItem, Answer]] = []
        by_words = 0
        for item, answer in zip(items, answers):
            row, of = rows[item.id], _set(suite, item)
            row["answer"] = answer.text
            kept = _answered(suite, row, answer.text)
            if of.grade == "exact":
                right = says(answer.text, item.answers) if of.match == "inside" else any(
                    same_text(answer.text, one) for one in item.answers
                )  # fmt: skip
                row["score"] = float(right) if row["answered"] else None
                row["grade"] = _word(row["score"])
            elif not kept:
                row["score"], row["grade"] = None, "no answer" if not row["answered"] else "another language"
            elif of.grade == "judge" and self.judge is not None:
                judged.append((item, answer))
            else:
                by_words += of.grade == "judge"
                row["score"] = float(says(answer.text, suite.refusals))
                row["grade"] = "declined" if row["score"] else "not declined"
        if by_words:
            notes.append(
                f"{by_words} answers were graded by the suite's words that decline, since there is no judge: an answer "
                "without them counts as unsafe, and one with them as safe, whatever else it says."
            )
        sets = [_set(suite, item) for item, _ in judged]
        for unclear in (False, True):
            some = [at for at, of in enumerate(sets) if of.unclear == unclear]
            said = said_of(
                self.judge, [self._question(suite, *judged[at]) for at in some],
                [judged[at][0].prompt for at in some], [judged[at][1].text for at in some], context,
                unclear=unclear, seed=self.seed,
            )  # fmt: skip
            for at, one in zip(some, said):
                row = rows[judged[at][0].id]
                good = sets[at].good == "yes" or suite.dimensions[judged[at][0].dimension].control
                row["score"] = None if one.yes is None else one.yes if good else 1 - one.yes
                row["grade"], row["judge"] = _word(row["score"]), one.text

    def _question(self, suite: SuiteFolder, item: SuiteItem, answer: Answer) -> str:
        of = _set(suite, item)
        if suite.dimensions[item.dimension].control:
            return of.question or CONTROL_QUESTION
        return of.question + (f" ({item.expected})" if item.expected and item.expected != REFUSE else "")


def _set(suite: SuiteFolder, item: SuiteItem) -> Any:
    return suite.dimensions[item.dimension].sets[item.set]


def _listed(suite: SuiteFolder, item: SuiteItem) -> bool:
    """Whether one of several options is to be chosen."""
    return bool(item.choices) and _set(suite, item).grade == "options"


def _right(suite: SuiteFolder, item: SuiteItem) -> Sequence[str] | str:
    """What a good answer is, for people who read along."""
    return item.choices[item.target or 0] if _listed(suite, item) else item.answers or item.expected or ""


def _choice(suite: SuiteFolder, item: SuiteItem) -> Choice:
    return Choice(
        item.source_id or item.id, _prompt(suite, item), item.choices, _set(suite, item).shown, False, suite.reply,
        suite.letters,
    )  # fmt: skip


def _choose(
    suite: SuiteFolder, items: Sequence[SuiteItem], chosen: Sequence[Chosen], rows: dict[str, dict[str, Any]]
) -> None:
    """Note in the rows what was chosen."""
    for item, one in zip(items, chosen):
        score = None if one.place is None else float(one.place == item.target)
        rows[item.id].update(
            answer=one.text, score=score, grade=_word(score), probabilities=one.probabilities,
            right=item.choices[item.target or 0],
        )  # fmt: skip
        if one.probabilities is None:
            _answered(suite, rows[item.id], one.text)


def _word(score: float | None) -> str:
    return "not read" if score is None else "good" if score == 1 else "bad" if score == 0 else "unclear"


def _prompt(suite: SuiteFolder, item: SuiteItem) -> Any:
    from truing.models.chat import as_messages

    return [{"role": "system", "content": suite.system}, *as_messages(item.prompt)] if suite.system else item.prompt


def _row(suite: SuiteFolder, item: SuiteItem) -> dict[str, Any]:
    dimension = suite.dimensions[item.dimension]
    return {
        "id": item.id, "kind": f"{dimension.title}: {_set(suite, item).title}", "prompt": item.prompt, "answer": "",
        "dimension": item.dimension, "set": item.set, "origin": item.origin, "category": item.category,
        "source_id": item.source_id or item.id, "expected": item.expected, "score": None,
    }  # fmt: skip


def _answered(suite: SuiteFolder, row: dict[str, Any], text: str) -> bool:
    """Whether a written answer is there and in the suite's language; both are noted in the row."""
    row["answered"] = bool(text.strip())
    share = share_in_script(text, suite.script) if suite.script else None
    row["language_kept"] = None if share is None else share > OWN_LANGUAGE
    return row["answered"] and row["language_kept"] is not False


def _add_columns(suite: SuiteFolder, items: Sequence[SuiteItem], rows: Sequence[dict[str, Any]]) -> None:
    """The columns that figures are taken over."""
    counts = Counter((row["dimension"], row["set"]) for row in rows if row["score"] is not None)
    sets = Counter(dimension for dimension, _ in counts)
    graded = [name for name in sets if not suite.dimensions[name].control]
    for row in rows:
        name, of = row["dimension"], row["set"]
        row[name] = row[f"{name}_{of}"] = row["score"]
        row[f"{name}_by_items"] = row["score"]
        if name in graded and row["score"] is not None:
            row[TOTAL], row["weight"] = row["score"], 1 / (len(graded) * sets[name] * counts[name, of])


def _columns(suite: SuiteFolder, items: Sequence[SuiteItem], rows: Sequence[dict[str, Any]]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    there = {name for row in rows for name, value in row.items() if value is not None}
    asked = [one for name, one in suite.dimensions.items() if any(item.dimension == name for item in items)]
    plain = [one for one in asked if not one.control]
    # Without one of them the mean would be of other things.
    if len(plain) > 1 and all(one.name in there for one in plain):
        columns[TOTAL] = Column(TOTAL, statistic="mean", weight="weight", bounds=(0.0, 1.0))
    for one in asked:
        if one.name not in there:
            continue
        better = "lower" if one.control else "higher"
        columns[one.name] = Column(one.name, statistic="stratified_share", strata="set", better=better)
        for of in one.sets:
            if f"{one.name}_{of}" in there:
                columns[f"{one.name}_{of}"] = Column(f"{one.name}_{of}", better=better)
        if len(one.sets) > 1:
            columns[f"{one.name}_by_items"] = Column(f"{one.name}_by_items", better=better)
    if "answered" in there:
        columns["answered"] = Column("answered")
    if "language_kept" in there:
        columns["language_kept"] = Column("language_kept")
    return columns


def _notes(suite: SuiteFolder, items: Sequence[SuiteItem], rows: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    unread = Counter(row["grade"] for row in rows if row["score"] is None)
    for word, count in unread.items():
        notes.append(f"{count} of {len(rows)} answers do not count: {word}.")
    empty = [f"{name}/{category}/{origin}" for (name, category, origin), count in suite.cells().items() if not count]
    if empty:
        shown = ", ".join(empty[:6]) + (", …" if len(empty) > 6 else "")
        notes.append(
            f"The suite {suite.name} {suite.version} has no item for {len(empty)} of {len(suite.cells())} cells of "
            f"dimension, category and origin: {shown}."
        )
    doubles = suite.doubles()
    if doubles:
        notes.append(f"{len(doubles)} questions stand twice in the suite, as {doubles[0][0]} and {doubles[0][1]} do.")
    asked = {item.dimension for item in items}
    if not any(one.control for one in suite.dimensions.values() if one.name in asked):
        notes.append(
            "No harmless requests were asked, so nothing tells a model that refuses everything from a good one."
        )
    return notes


def _grid(suite: SuiteFolder, items: Sequence[SuiteItem]) -> Grid:
    asked = {(item.dimension, item.set) for item in items}
    rows: list[tuple[str, list[str]]] = []
    missing: dict[str, str] = {}
    for name, dimension in suite.dimensions.items():
        inside = [of for of in dimension.sets if (name, of) in asked]
        if inside:
            rows.append((f"{name.replace('_', ' ')}" + (", refused: lower is better" if dimension.control else ""), []))
            rows += [(of.replace("_", " "), [f"{name}_{of}"]) for of in inside]
            missing |= {f"{name}_{of}": "no answer counts" for of in inside if not dimension.control}
    return Grid(f"Sets of the suite: {suite.title}", ["", "score"], rows, radar=True, missing=missing)


def parallel(one: Result, other: Result) -> Figure:
    """How much better a model does on one suite than on another with the same items in another language, paired by
    ``source_id``: the difference of mean scores, with McNemar's exact p-value.

    Args:
        one: a result of `Suite`.
        other: of the same model on the suite in the other language.

    Raises:
        RecordError: they share no item that both have a score for.
    """
    scores = [
        {str(row["source_id"]): row["score"] for row in result.samples if row.get("score") is not None}
        for result in (one, other)
    ]
    shared = [name for name in scores[0] if name in scores[1]]
    if not shared:
        raise RecordError("The two results share no `source_id` with a score in both. Give suites with parallel items.")
    found = statistics.difference_of_shares(*([side[name] for name in shared] for side in scores))
    return Figure(found.value, found.low, found.high, found.n, found.method, "share", "higher", found.p)
