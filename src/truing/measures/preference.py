"""How often a model, or a reward, ranks chosen above rejected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Measure, Reward
from truing.measures.asking import Context, check_limit, check_split, own_prompts, search_notes, without_search
from truing.measures.journal import identity
from truing.measures.result import Column, Outcome

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class PreferenceAccuracy(Measure):
    """How often the chosen answer of a pair is ranked above the rejected one; a tie counts half.

    - ``preference_accuracy``: by log-probability under the model; by its score where it is a `ScoreModel`.
    - ``implicit_accuracy``, with a language model to compare with: by the implicit reward of DPO, the log-ratio of the
      model to that one, which takes away what was likely to begin with.
    - ``margin``, likewise: the mean difference of the two log-ratios, in nats.
    - ``reward_accuracy``, with a reward: by that reward, whatever the model.

    A search modifier is left out.

    Args:
        records: preference records: records, rows, a file or a name; held-out ones, not those learned from. None
            for pairs of the sandbox.
        reward: a reward to be tested on the same pairs.
        normalise: divide log-probabilities by the number of tokens, so that length alone does not decide.
        limit: at most that many pairs, from the start; None for all, or 400 of the sandbox.
        split: of the sandbox's pairs: "dev" to tune on, "test" to report.
        seed: of the sandbox's pairs and of bootstrap intervals.
    """

    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    reward: Reward | None = None
    normalise: bool = False
    limit: int | None = None
    split: str = "test"
    seed: int = 0
    needs = frozenset({"logits"})
    takes_scores: ClassVar[bool] = True
    gives: ClassVar[tuple[str, ...]] = ("preference_accuracy", "implicit_accuracy", "margin", "reward_accuracy")

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_limit(self.limit)
        check_split(self.split)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        if self.records is None:
            from truing.sandbox import records

            found: Any = records("preferences", self.split, self.limit or 400, self.seed)
        else:
            found = self.records
        pairs = own_prompts(found, self.limit, "PreferenceAccuracy", ("preference",))
        notes = search_notes("`preference_accuracy`", model, context.against)
        mine = pair_scores(model, pairs, context, normalise=self.normalise)
        rows = [
            {**_shown(pair), "chosen_score": chosen, "rejected_score": rejected,
             "preference_accuracy": _ahead(chosen, rejected), "grade": _grade(chosen, rejected)}
            for pair, (chosen, rejected) in zip(pairs, mine)
        ]  # fmt: skip
        columns = {"preference_accuracy": Column("preference_accuracy")}
        if context.against is not None and not _scores_only(model) and not _scores_only(context.against):
            others = pair_scores(context.against, pairs, context, normalise=self.normalise)
            for row, own, other in zip(rows, mine, others):
                chosen, rejected = own[0] - other[0], own[1] - other[1]
                row.update(implicit_accuracy=_ahead(chosen, rejected), margin=chosen - rejected)
            columns["implicit_accuracy"] = Column("implicit_accuracy", null=0.5)
            columns["margin"] = Column("margin", "nats per token" if self.normalise else "nats", "higher", "mean",
                                       null=0.0)  # fmt: skip
        if self.reward is not None and context.main:
            who = identity(self.reward)
            origin = None if who is None else f"reward {who}"
            for row, (chosen, rejected) in zip(rows, reward_scores(self.reward, pairs, context, origin)):
                row.update(reward_accuracy=_ahead(chosen, rejected))
            columns["reward_accuracy"] = Column("reward_accuracy")
        return Outcome(rows, columns, notes)


def pair_scores(
    model: Any, pairs: list[dict[str, Any]], context: Context, *, normalise: bool = False
) -> list[tuple[float, float]]:
    """What a model gives the chosen and the rejected answer of each pair: log-probabilities in nats, or its scores
    where it is a `ScoreModel`. A search modifier is left out.

    Args:
        model: a language model with log-probabilities, or one that scores.
        pairs: rows with ``prompt``, ``chosen`` and ``rejected``.
        context: of the measure.
        normalise: divide log-probabilities by the number of tokens.
    """
    if _scores_only(model):
        found = reward_scores(model, pairs, context, context.origin(model))
        return [(chosen, rejected) for chosen, rejected in found]
    policy = without_search(model)

    def work(rows: list[int]) -> list[Any]:
        prompts = [pairs[row]["prompt"] for row in rows for _ in range(2)]
        texts = [pairs[row][side] for row in rows for side in ("chosen", "rejected")]
        found = policy.logprobs(prompts, texts, per_token=True)
        sums = [[float(values.sum(dtype="float64")), len(values)] for values in found]
        return [[*sums[2 * at], *sums[2 * at + 1]] for at in range(len(rows))]

    keys = [{"pair": [pair["prompt"], pair["chosen"], pair["rejected"]]} for pair in pairs]
    found = context.compute(context.origin(policy), keys, work, model.name, 32)
    return [(a / n, b / m) if normalise else (a, b) for a, n, b, m in found]


def reward_scores(
    reward: Reward, pairs: list[dict[str, Any]], context: Context, origin: str | None
) -> list[list[float]]:
    """What a reward gives the chosen and the rejected answer of each pair, journaled where it has an origin."""
    from truing.rewards import checked

    def work(rows: list[int]) -> list[Any]:
        prompts = [pairs[row]["prompt"] for row in rows]
        sides = [
            checked(reward, prompts, [as_text(pairs[row][side]) for row in rows]) for side in ("chosen", "rejected")
        ]
        return [[float(one), float(two)] for one, two in zip(*sides)]

    keys = [{"reward": [pair["prompt"], pair["chosen"], pair["rejected"]]} for pair in pairs]
    if origin is None:
        return [pair for start in range(0, len(pairs), 64) for pair in work(list(range(len(pairs)))[start:][:64])]
    return context.compute(origin, keys, work, "reward")


def _scores_only(model: Any) -> bool:
    return "scores" in model.offers


def as_text(answer: Any) -> str:
    """An answer as plain text; of messages, what the last one says."""
    if isinstance(answer, str):
        return answer
    from truing.models.chat import as_messages

    return str(as_messages(answer)[-1]["content"])


def _ahead(chosen: float, rejected: float) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)


def _grade(chosen: float, rejected: float) -> str:
    return "tie" if chosen == rejected else "chosen above" if chosen > rejected else "rejected above"


def _shown(pair: dict[str, Any]) -> dict[str, Any]:
    return {key: pair[key] for key in ("id", "kind", "prompt", "chosen", "rejected")}
