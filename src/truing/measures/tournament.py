"""Models ranked by knock-out tournaments, one for each prompt, and one fit of ratings over all their matches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Reward, is_number, is_whole, require
from truing.errors import RecordError, SettingsError
from truing.measures import arena_simulation, brackets
from truing.measures.arena_inputs import Entrants, chances_of, entrants_of, trusted_of
from truing.measures.arena_judging import Judging
from truing.measures.arena_report import Board, figures_of
from truing.measures.asking import Asking, Context, ask, cut_note
from truing.measures.brackets import Matches, Play
from truing.measures.hhh import KINDS
from truing.measures.result import Outcome

if TYPE_CHECKING:
    from truing.models import AnyModel

ADVISED = 50


class Tournament(Asking):
    """Rank models by knock-out tournaments: for each prompt a bracket in new random order, its matches judged pair by
    pair, and one Bradley-Terry fit over all matches on the Elo scale.

    A prompt costs one match less than there are models. Figures: ``rating/MODEL``, of mean 1000, ``rank/MODEL``,
    ``win_rate/MODEL``, and ``elo/MODEL``, the online Elo after all matches, which depends on their order and is shown
    beside the others only. Intervals come from resampling prompts, and are at least as wide as the likelihood has
    them. ``first_place`` is how often the answer that was shown first won, ``longer`` how often the longer one did.
    With a ``trusted`` ranking, ``spearman`` is the rank correlation with it.

    It works on given ``answers`` of any number of models, on the measured model with ``models`` that compete with it
    (and ``against``, where it is given), or on given ``probabilities`` by a simulated judge.

    An empty or failed answer loses; equal answers tie without being judged. In a tie the one on the left goes on, and
    each has half a win. A verdict that cannot be read decides nothing: the one on the left goes on, the match counts
    for no rating (the paper counts a tie), and a note says how many there were.

    Source: Son et al. 2025, "Varco Arena" (arXiv 2411.01281).

    Args:
        judge: a `Judge`, or any reward: then the answer with the higher reward wins. Not for ``probabilities``.
        answers: answers of several models to the same prompts: rows, a file, or a folder with a JSONL file for each
            model; see `arena_inputs.entrants_of`.
        probabilities: in place of answers, the probability of each model to beat one fixed reference on each prompt:
            lists by model, or a JSON file. A match is then drawn: two models meet as their odds against the reference
            say (Bradley-Terry).
        judge_accuracy: of the simulated judge, from 0.5: it is turned round in the other matches.
        models: models that compete with the measured one.
        records: prompts of your own for models, instead of questions of all kinds of the sandbox.
        trusted: a ranking to compare with: a figure by model, higher being better, a JSON file of such, or the name of
            a figure that comes with ``probabilities``.
        design: "tournament", or "anchored": every model against the ``anchor`` on every prompt.
        anchor: the model whose rating is 1000; None puts the mean there.
        both_orders: judge each match in both orders, and call a split a tie; else the order is drawn.
        extra_matches: further matches, each between two models whose intervals overlap, where it tells most.
        prior: virtual wins each way between any two models, without which one that won all has no finite rating.
        resamples: of the prompts, for intervals.
        sizes: numbers of prompts at which to compare tournaments with anchored comparison, over ``resamples`` simulated
            draws of each; needs ``probabilities`` and ``trusted``.
        limit: at most that many prompts.
        max_new_tokens: most tokens an answer of a model may have.
    """

    judge: Reward | None = None
    answers: Sequence[dict[str, Any]] | str | Path | None = None
    probabilities: dict[str, Any] | str | Path | None = None
    judge_accuracy: float = 1.0
    models: Sequence[AnyModel] = ()
    trusted: dict[str, float] | str | Path | None = None
    design: str = "tournament"
    anchor: str | None = None
    both_orders: bool = False
    extra_matches: int = 0
    prior: float = 0.1
    resamples: int = 500
    sizes: Sequence[int] = ()
    max_new_tokens: int = 256

    paper: ClassVar[int | None] = 32
    gives: ClassVar[tuple[str, ...]] = (
        "spearman", "rating/*", "rank/*", "win_rate/*", "elo/*", "beats/*/*", "first_place", "longer",
    )  # fmt: skip

    @property
    def needs_model(self) -> bool:
        """False where answers or probabilities are given."""
        return self.answers is None and self.probabilities is None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        given = self.probabilities is not None
        require(
            not (given and self.answers is not None),
            "A tournament has `answers`, which a judge compares, or `probabilities` of winning, not both.",
        )
        require(
            given or (self.judge is not None and (callable(self.judge) or hasattr(self.judge, "prefer"))),
            f"`judge` is a Judge or another reward, got {self.judge!r}.",
        )
        require(not given or self.judge is None, "`probabilities` simulate a judge. Leave `judge` out, or them.")
        require(
            self.needs_model or not self.models,
            "`models` compete with the measured model. Given answers or probabilities hold all that compete.",
        )
        for name, low, high in (("judge_accuracy", 0.5, 1.0), ("prior", 0.0, 100.0)):
            value = getattr(self, name)
            require(is_number(value) and low <= value <= high, f"{name} is from {low:g} to {high:g}, not {value!r}.")
        require(self.design in ("tournament", "anchored"), f"design is tournament or anchored, not {self.design!r}.")
        require(
            self.design == "tournament" or self.anchor is not None,
            "An anchored comparison needs the name of its `anchor`, which every other model meets.",
        )
        require(
            is_whole(self.extra_matches) and self.extra_matches >= 0,
            f"extra_matches is a whole number of at least 0, not {self.extra_matches!r}.",
        )
        require(not self.extra_matches or self.prior > 0, "Choosing matches needs finite ratings: set `prior` above 0.")
        require(
            is_whole(self.resamples) and 50 <= self.resamples <= 10_000,
            f"resamples is a whole number from 50 to 10,000, not {self.resamples!r}.",
        )
        sizes = list(self.sizes)
        require(
            all(is_whole(one) and one >= 1 for one in sizes) and sorted(set(sizes)) == sizes,
            f"sizes are rising numbers of prompts, not {self.sizes!r}.",
        )
        require(
            not sizes or (given and self.trusted is not None and self.prior > 0),
            "`sizes` compare simulated rankings with a trusted one: they need `probabilities`, `trusted` and a prior.",
        )

    def _measure(self, model: AnyModel | None, context: Context) -> Outcome:
        rng = np.random.default_rng(self.seed)
        notes: list[str] = []
        boards: dict[str, dict[str, float]] = {}
        if self.probabilities is not None:
            chances = chances_of(self.probabilities, self.limit)
            strengths, boards = arena_simulation.strengths_of(chances.values), chances.trusted
            names, prompts, tasks = chances.names, [None] * len(strengths), None
            judging, play = None, arena_simulation.simulated(strengths, self.judge_accuracy, rng)
        else:
            found = (
                self._answered(model, context, notes) if self.answers is None else entrants_of(self.answers, self.limit)
            )
            names, prompts, tasks = found.names, found.prompts, found.tasks
            judging = Judging(self.judge, found, context, rng, both_orders=self.both_orders)
            play = judging.play
        self._check(names, len(prompts))
        trusted = None if self.trusted is None else trusted_of(self.trusted, names, boards)
        anchor = None if self.anchor is None else names.index(self.anchor)
        board = Board(
            names, prompts, tasks, self._played(len(names), len(prompts), anchor, play, rng), judging, anchor,
            trusted, self.prior, self.resamples, self.seed,
        )  # fmt: skip
        out = figures_of(board)
        out.notes[:0] = notes
        if len(prompts) < ADVISED:
            out.notes.append(f"{len(prompts)} prompts are few: ratings want {ADVISED} at least.")
        if self.sizes and trusted is not None:
            out.curves = arena_simulation.compared(
                strengths, trusted, self.sizes, draws=self.resamples, accuracy=self.judge_accuracy, prior=self.prior,
                seed=self.seed,
            )  # fmt: skip
        return out

    def _check(self, names: Sequence[str], prompts: int) -> None:
        """Raise before anything is judged where no ranking can come of it."""
        if len(names) < 2:
            raise RecordError(
                f"A tournament needs 2 models at least, and there is {len(names)}: {', '.join(names) or 'none'}. "
                "Add answers of another, or name `models` that compete."
            )
        if prompts < 2:
            raise RecordError(
                f"A tournament needs 2 prompts at least, since its intervals come from resampling them; got {prompts}."
            )
        if self.anchor is not None and self.anchor not in names:
            raise SettingsError(f"The anchor {self.anchor!r} does not compete. Models: {', '.join(names[:20])}.")
        for size in self.sizes:
            require(size <= prompts, f"sizes go up to the {prompts} prompts that there are, not {size}.")

    def _played(self, models: int, prompts: int, anchor: int | None, play: Play, rng: np.random.Generator) -> Matches:
        every = np.arange(prompts)
        if self.design == "anchored" and anchor is not None:
            played = brackets.anchored(models, anchor, every, play)
        else:
            played = brackets.knock_out(brackets.shuffled(prompts, models, rng), play)
        if self.extra_matches:
            played = brackets.play_more(played, models, every, self.extra_matches, play, rng, prior=self.prior)
        return played

    def _answered(self, model: Any, context: Context, notes: list[str]) -> Entrants:
        """What the measured model and those that compete with it say."""
        competing = [model, *([] if context.against is None else [context.against]), *self.models]
        for one in competing:
            if not hasattr(one, "generate"):
                raise SettingsError(f"`models` holds models that answer, not {one!r}.")
        names: list[str] = []
        for one in competing:
            again = sum(name == one.name or name.startswith(f"{one.name} #") for name in names)
            names.append(f"{one.name} #{again + 1}" if again else one.name)
        questions, sampling = self.rows(KINDS), self.sampling()
        prompts = [row["prompt"] for row in questions]
        said = []
        for one in competing:
            answers = ask(one, prompts, sampling, context)
            notes += cut_note(answers, sampling, one.name)
            said.append([answer.text for answer in answers])
        kinds = [str(row["kind"]) for row in questions]
        return Entrants(names, prompts, [list(row) for row in zip(*said)], kinds if len(set(kinds)) > 1 else None)
