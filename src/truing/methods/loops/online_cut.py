"""CUT in rounds: the model answers, a judge criticises, CUT learns from it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from truing import progress
from truing.contracts import Prompt, is_number, require, require_whole
from truing.errors import RewardError, TruingError
from truing.methods.loops import rounds
from truing.methods.training.checkpoints import TrainingFolder, lasting_settings
from truing.methods.training.cut import CUT
from truing.methods.training.method import tell
from truing.models import Model
from truing.records import Records, as_records, read, write
from truing.rewards import judge as judging
from truing.rewards import name_of
from truing.rewards.replies import Unreadable, said
from truing.safe_text import filled, quoted

Critique = Callable[[Sequence[Prompt], Sequence[str]], Sequence[str]]
"""Judgments in words, one for each prompt and response; one that begins with "perfect" means satisfactory."""

_PROMPTS = ("question", "demonstration", "label", "judgment", "preference", "dispreference", "ranking", "contrast")
# A task of a judge must ask for mistakes alone: praise makes good tokens likelier under the judgment, and unlearned.
_TASK = (
    "Judge the assistant's answer to the conversation below.\n\n{rubric}\n\n"
    "{data}\n\n{conversation}\n\nThe answer to judge:\n{answer}\n\n"
    "If nothing is wrong with it, the judgment is the single word Perfect. Otherwise it names each mistake exactly, "
    "and nothing else: no praise, no summary. End with one line of exactly this form:\nJudgment: J"
)


class Critic(judging.Judge):
    """A model that writes judgments: the word "Perfect", or the exact mistakes of an answer.

    Takes the settings of `truing.rewards.Judge`; the scale is not used. A reply without exactly one line
    ``Judgment: ...`` is asked for again.
    """

    def judgments(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[str]:
        """One judgment for each response, "" where no reply could be read."""
        self.validate()
        slots = {"rubric": self.rubric.strip(), "data": judging.DATA}
        texts = [
            filled(_TASK, conversation=judging.quoted_conversation(prompt), answer=quoted(response), **slots)
            for prompt, response in zip(prompts, responses)
        ]
        return [reply.value or "" for reply in self.asked(texts, lambda row, reply, cut: _judgment(reply, cut))]


def _judgment(reply: str, cut: bool) -> str:
    told = said("Judgment", reply, cut=cut)
    if not isinstance(told, str) or not told:
        raise Unreadable("its judgment is empty, or no text")
    return told


def sandbox_judge(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[str]:
    """Judgments of answers to the sandbox's own questions, from their exact grades.

    Raises:
        RewardError: a prompt is no question of the sandbox.
    """
    from truing.rewards.functions import SandboxGrade
    from truing.sandbox.data import judge
    from truing.sandbox.graders import grade

    items = [SandboxGrade()._item(row, prompt) for row, prompt in enumerate(prompts)]
    return [
        "Perfect." if grade(item, text).helpful else judge(item, text) for item, text in zip(items, responses)
    ]  # fmt: skip


def is_perfect(judgment: str) -> bool:
    """Whether a judgment says that nothing is wrong: it begins with the word "perfect"."""
    return re.match(r"\W*perfect\b", judgment, re.IGNORECASE) is not None


class OnlineCUT(CUT):
    """Rounds of: answer fresh prompts, have the answers judged, learn from the judgments with CUT.

    Of the records only the prompts are used. Every round takes the next ``prompts_per_round`` of them in an order
    drawn from the seed, and starts over when they are used up. A judgment that begins with the word "perfect" is
    positive; of these as many are kept as ``positives`` times the number of negatives. A round without a mistake ends
    the loop. An answer that reached ``max_new_tokens`` is judged and learned, without an end. Xu et al. 2024, arXiv
    2312.14591, section 5.

    With ``out`` each round has a folder ``round-N`` with its judgments and its training; a killed call asks no finished
    round's model or judge again.

    Args:
        judge: a function (prompts, responses) -> judgments; a model, its name, or a `truing.rewards.Judge`, which are
            asked for "Perfect" or the exact mistakes; or "sandbox", the exact grader of the sandbox's questions.
        rounds: how many; the paper's figures rise up to four or five.
        prompts_per_round: how many prompts are answered in a round.
        positives: positive answers kept for each negative one. What a model does not flag of a criticised answer it
            learns, so one that reads judgments poorly wants more: in one run on the sandbox (seed 0, two rounds) honest
            went from 77 to 75 % at 0.25, and to 90 % at 1.
        temperature: of the answers.
        top_p: of the answers.
        max_new_tokens: most tokens of an answer.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> method = tr.OnlineCUT(judge="sandbox", rounds=2, prompts_per_round=200, learning_rate=5e-4)
        >>> aligned = method.align(model, "sandbox/preferences")
    """

    judge: Critique | str
    rounds: int = 4
    prompts_per_round: int = 1000
    positives: float = 0.25
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256

    record_kinds: ClassVar[tuple[str, ...]] = _PROMPTS
    needs = CUT.needs | {"judge"}
    quick: ClassVar[dict[str, Any]] = {**CUT.quick, "rounds": 2, "prompts_per_round": 4, "max_new_tokens": 8}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        from truing.models.sampling import check_sampling
        from truing.models.types import Sampling

        super().validate()
        fits = isinstance(self.judge, str) or callable(self.judge) or hasattr(self.judge, "generate")
        require(fits, f"judge is a function, a model, or the name of one, not {self.judge!r}.")
        require_whole(self, ("rounds", "prompts_per_round"))
        fits = is_number(self.positives) and self.positives >= 0
        require(fits, f"positives is a share of at least 0, not {self.positives!r}.")
        check_sampling(Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p, seed=self.seed))

    def _align(self, model: Any, records: Records | None, out: Path | None) -> Model:
        assert records is not None
        prompts = [row["prompt"] for row in records]
        if out is not None:
            # Refuses a folder of other rounds, whose judgments would be taken for those of this model.
            TrainingFolder(
                out,
                {
                    "method": "OnlineCUT",
                    "model": model.fingerprint,
                    "records": records.fingerprint,
                    "settings": lasting_settings(self),
                },
            )
        judge = _critique(self.judge)
        with progress.task("rounds of OnlineCUT", self.rounds) as bar:
            for number in range(1, self.rounds + 1):
                place = out / f"round-{number}" if out is not None else None
                judged = self._judged(model, self._prompts(prompts, number), judge, number, place)
                if judged is None:
                    tell(f"Round {number}: the judge found no mistake in the answers; the rounds end here.")
                    break
                inner = {name: value for name, value in self.settings().items() if name in CUT().settings()}
                one = CUT(**{**inner, "seed": self.seed + number - 1})
                model = one._align(model, judged, place)
                bar.advance()
        return model

    def _prompts(self, prompts: Sequence[Prompt], number: int) -> list[Prompt]:
        """Those of a round, counted from 1: the next ones in orders that depend on the seed alone."""
        size = min(self.prompts_per_round, len(prompts))
        order = rounds.passes(len(prompts), self.seed)
        return [prompts[at] for at in itertools.islice(order, (number - 1) * size, number * size)]

    def _judged(
        self, model: Model, prompts: Sequence[Prompt], judge: Critique, number: int, place: Path | None
    ) -> Records | None:
        """The judgments that a round learns from, or None where no answer was criticised."""
        held = place / "judgments.jsonl" if place is not None else None
        if held is not None and held.is_file():
            return read(held, kind="judgment")
        answers = model.generate(
            prompts, max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p,
            seed=self.seed + number - 1,
        )  # fmt: skip
        judgments = _asked(judge, prompts, answers.texts)
        rows: list[dict[str, Any]] = []
        for prompt, answer, judgment in zip(prompts, answers, judgments):
            cut = {"unfinished": True} if answer.finish_reason == "length" else {}
            rows.append(
                {
                    "prompt": prompt,
                    "completion": answer.text,
                    "judgment": judgment,
                    "label": is_perfect(judgment),
                    **cut,
                }
            )
        read_ones = [row for row in rows if row["judgment"].strip()]
        if not read_ones:
            raise RewardError(
                f"Round {number}: the judge gave no readable judgment on any of {len(rows)} answers. "
                "Take an abler judge."
            )
        bad = [row for row in read_ones if not row["label"]]
        good = [row for row in read_ones if row["label"]]
        keep = min(len(good), round(self.positives * len(bad)))
        chosen = sorted(np.random.default_rng([self.seed, number]).permutation(len(good))[:keep].tolist())
        unread = f"; {len(rows) - len(read_ones):,} without a readable judgment" if len(read_ones) < len(rows) else ""
        open_ones = sum(row.get("unfinished", False) for row in rows)
        cut_off = f"; {open_ones:,} reached {self.max_new_tokens} tokens" if open_ones else ""
        progress.say(
            f"Round {number}: {len(bad):,} of {len(rows):,} answers criticised, {keep:,} of {len(good):,} perfect ones "
            f"kept{unread}{cut_off}."
        )
        if not bad:
            return None
        judged = as_records([*bad, *(good[at] for at in chosen)], kinds=("judgment",), what=f"round {number}")
        if held is not None:
            write(judged, held)
            return read(held, kind="judgment")
        return judged


def _critique(judge: Any) -> Critique:
    if judge == "sandbox":
        return sandbox_judge
    if isinstance(judge, judging.Judge):
        return Critic(**judge.settings()).judgments
    if isinstance(judge, str) or hasattr(judge, "generate"):
        return Critic(model=judge).judgments
    return cast(Critique, judge)


def _asked(judge: Critique, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[str]:
    """What a judge said, checked: one text for each answer."""
    name = name_of(judge)
    try:
        said: Any = judge(prompts, responses)
    except TruingError:
        raise
    except Exception as error:
        raise RewardError(f"The judge {name} raised {type(error).__name__}: {error}.") from error
    if not isinstance(said, (list, tuple)) or len(said) != len(responses):
        found = f"{len(said)} values" if isinstance(said, (list, tuple)) else type(said).__name__
        raise RewardError(
            f"The judge {name} gave {found} for {len(responses)} answers. It must give one text for each."
        )
    for row, text in enumerate(said):
        if not isinstance(text, str):
            raise RewardError(f"The judge {name} gave {text!r} for row {row}. A judgment is a text.")
    return list(said)
