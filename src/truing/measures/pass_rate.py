"""Whether one of k tries is right, and whether all of them are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Reward, is_number, is_whole, require
from truing.measures.asking import BATCH, Answer, AskAndGrade, Asking, Context, cut_note, with_answer
from truing.measures.exact_match import check_answers
from truing.measures.journal import key_of
from truing.measures.result import Column, Outcome

if TYPE_CHECKING:
    from truing.models import AnyModel

KINDS = ("fact", "context", "benign")
ASKED = ("id", "kind", "sampling", "answer", "words", "cut", "tries")
"""What a question has besides the columns of its record."""


class PassRate(Asking, AskAndGrade):
    """How often at least one of k sampled answers passes (pass@k), and how often all k do (pass^k).

    Every question is answered ``samples`` times. From the number that passed both are estimated without bias for every
    k up to ``samples``; the figure is the mean over questions, its interval a bootstrap over questions, since samples
    of one question are no independent evidence about others. Rows that share a prompt are one cluster.

    On the sandbox: facts, notes and benign requests, graded by its exact graders, whatever the style.

    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1, for pass@k; Yao et al. 2024 (arXiv 2406.12045), section 3, for
    pass^k.

    Args:
        records: prompts of your own instead of the sandbox's questions.
        reward: what grades an answer; one that compares with right answers is bound to ``records``. None: `Verifiable`
            on records of your own (``answers``), the exact graders on the sandbox's.
        threshold: an answer passes whose reward is above it.
        samples: answers to each question.
        ks: the numbers of tries to show, each from 1 to ``samples``.
        temperature: above 0, since greedy answers are all equal.
    """

    gives: ClassVar[tuple[str, ...]] = ("pass@*", "pass^*")

    reward: Reward | None = None
    threshold: float = 0.5
    samples: int = 8
    ks: Sequence[int] = (1, 4, 8)
    temperature: float = 1.0

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.reward is None or callable(self.reward), f"reward is a reward, not {self.reward!r}.")
        require(is_number(self.threshold), f"threshold is a finite number, not {self.threshold!r}.")
        require(is_whole(self.samples) and self.samples >= 1, f"samples is a number from 1, not {self.samples!r}.")
        require(
            isinstance(self.ks, Sequence) and len(self.ks) > 0 and all(is_whole(k) for k in self.ks),
            f"ks is a list of whole numbers, not {self.ks!r}.",
        )
        wrong = [k for k in self.ks if not 1 <= k <= self.samples]
        require(
            not wrong,
            f"ks are numbers of tries among {self.samples} samples, and {wrong} cannot be estimated from them. Raise "
            "`samples`, or give smaller `ks`.",
        )
        require(
            self.temperature > 0 or self.samples == 1,
            "Greedy answers to one question are all equal: give a `temperature` above 0, or `samples=1`.",
        )

    def figure_names(self) -> tuple[str, ...]:
        """Those of `ks`."""
        return tuple(self._names())

    def _names(self) -> list[str]:
        ks = sorted(set(self.ks))
        return [f"pass@{k}" for k in ks] + [f"pass^{k}" for k in ks if k > 1]

    def questions(self) -> list[dict[str, Any]]:
        """Each to be answered ``samples`` times."""
        sampling = dataclasses.replace(self.sampling(), n=self.samples)
        questions = [{**row, "sampling": sampling} for row in self.rows(KINDS)]
        self._grader(questions)
        return questions

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        questions = self.questions()
        tries = self._tries(model, [row["prompt"] for row in questions], context)
        notes = cut_note([one for some in tries for one in some], self.sampling(), model.name)
        return self.outcome([with_answer(row, some) for row, some in zip(questions, tries)], notes, context)

    def outcome(self, answered: list[dict[str, Any]], notes: list[str], context: Context) -> Outcome:
        """How many of the tries passed."""
        from truing.rewards import checked

        reward = self._grader(answered)
        flat = [(row["prompt"], one.text) for row in answered for one in row["tries"]]
        values = checked(reward, [prompt for prompt, _ in flat], [text for _, text in flat])
        rows = []
        for at, row in enumerate(answered):
            some = row["tries"]
            scores = values[at * self.samples : (at + 1) * self.samples]
            passed = int((scores > self.threshold).sum())
            rows.append(
                {
                    **{key: row[key] for key in ("id", "kind", "prompt")}, "cluster": key_of(row["prompt"]),
                    "answer": some[0].text, "passed": passed, "grade": f"{passed} of {self.samples}",
                    "tries": [{"answer": one.text, "reward": float(score)} for one, score in zip(some, scores)],
                    **{f"pass@{k}": pass_at(self.samples, passed, k) for k in self.ks},
                    **{f"pass^{k}": pass_all(self.samples, passed, k) for k in self.ks if k > 1},
                }
            )  # fmt: skip
        columns = {name: Column(name, statistic="mean", bounds=(0.0, 1.0)) for name in self._names()}
        return Outcome(rows, columns, notes)

    def _grader(self, questions: Sequence[dict[str, Any]]) -> Reward:
        from truing.rewards.functions import SandboxGrade
        from truing.rewards.verifiable import Verifiable, bound

        if self.reward is not None:
            own = [{key: value for key, value in row.items() if key not in ASKED} for row in questions]
            return self.reward if self.records is None else bound(self.reward, own)
        if self.records is None:
            return SandboxGrade(grade="wanted")
        for row in questions:
            check_answers(row, "PassRate")
        return Verifiable().bind([{"prompt": row["prompt"], "answers": row["answers"]} for row in questions])

    def _tries(self, model: Any, prompts: Sequence[Any], context: Context) -> list[list[Answer]]:
        """The answers to each prompt, `samples` each; the prompt is computed once for all of them."""
        sampling = dataclasses.replace(self.sampling(), n=self.samples)
        settings = {name: value for name, value in dataclasses.asdict(sampling).items() if name != "seed"}
        acting = context.journal.kept(model)

        def work(rows: list[int]) -> list[Any]:
            answers = acting.generate([prompts[row] for row in rows], seed=sampling.seed, **settings)
            context.usage += answers.usage
            found: list[list[Any]] = [[] for _ in rows]
            for one in answers:
                found[one.prompt_index].append([one.text, one.finish_reason == "length"])
            return found

        keys = [{"ask": prompt, **settings, "seed": sampling.seed} for prompt in prompts]
        most = getattr(model, "at_once", max(1, BATCH // self.samples))
        found = context.compute(context.origin(model), keys, work, model.name, most)
        return [[Answer(*one) for one in some] for some in found]


def pass_at(n: int, passed: int, k: int) -> float:
    """The chance that at least one of k tries passes, drawn without replacement from n of which so many passed.

    1 - C(n - passed, k) / C(n, k): its mean over draws of n is 1 - (1 - p)^k.
    """
    return 1.0 - math.comb(n - passed, k) / math.comb(n, k)


def pass_all(n: int, passed: int, k: int) -> float:
    """The chance that all of k tries pass: C(passed, k) / C(n, k), whose mean over draws of n is p^k."""
    return math.comb(passed, k) / math.comb(n, k)
