"""Derived prompts: train a writer, by reward, to rewrite prompts so that another model answers them better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing import progress
from truing.contracts import Prompt, Reward, is_number, require, require_whole
from truing.errors import RecordError, RewardError
from truing.measures.journal import Journal, key_of
from truing.methods.prompting.deriving import INSTRUCTION, cleaned, question_of, similarity, unfit, with_question
from truing.methods.prompting.writers import ask, check_slots, check_writer
from truing.methods.rl.method import OnlineMethod
from truing.methods.rl.remax import GreedyRollouts, remax_trainer
from truing.methods.rl.rollouts import Rollouts
from truing.rewards import checked
from truing.rewards.verifiable import bound
from truing.safe_text import filled

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

BASELINES = ("greedy", "others")
READS = ("derived", "original")


class DerivedPrompt(OnlineMethod):
    """Train a prompt writer: make those rewritten prompts likelier whose answers, by another model, a reward likes.

    The writer is the model that comes in; it must follow instructions well enough to rewrite at all. It is asked the
    ``instruction`` with a prompt x in it and samples a derived prompt x'; the responder, which is only ever asked and
    may be remote, answers it with y'; the reward of (x', y') less ``beta`` times the log-probability ratio to the
    writer that came in is what rises. With the trained writer use `truing.InContextQuery`.

    ``baseline="greedy"`` is ReMax, as in the paper: the reward is compared with that of the writer's greedy text, and
    each token has a return of its own, the difference less ``beta`` times the sum of the log-ratios from it on. With
    "others" n texts of a prompt are compared with each other (RLOO): n gradients for n responses, and no greedy text.

    Only the last message of the user is derived; the responder and the reward see the turns before it as they are. Each
    conversation that ends with x' is answered once: equal texts of a step, the greedy text where it was sampled too,
    and texts that come again later ask nobody. In a folder answers are kept in ``responses/``, and x, x', y', both
    rewards and the likeness of x and x', so that a killed training asks for none again; and they can be read.

    The log shows beside the reward: ``similarity`` of x and x' (the cosine of their word counts), ``original_reward``
    (of (x, y'), or of (x', y') where the reward reads the original), ``copies``, and ``unusable``, the share of texts
    that `truing.InContextQuery` would not use. A rising reward with falling similarity and original reward says that
    the writer asks for something else that is easier to answer well: raise ``beta``, or let the reward read "original".

    Li et al. 2025 (arXiv 2409.01552). Differs: steps hold several prompts, since one makes a very noisy gradient; and
    texts are drawn and scored at temperature 1 from the whole distribution, where the paper names temperature 0 (at
    which ReMax has no gradient) with top_p 0.9.

    Args:
        responder: the model that answers derived prompts: local, remote, or a function from a list of prompts to as
            many answers.
        instruction: what the writer is asked, with ``{prompt}`` where the prompt goes.
        baseline: "greedy" or "others".
        reads: which prompt the reward is given with the answer: "derived" or "original". Rewards that know the records'
            answers need "original".
        top_p: texts are drawn from the smallest set of tokens of this probability. Under 1 they are still scored by the
            whole distribution, which is a little off-policy, and said.
        response_tokens: most tokens of an answer of the responder.
        response_temperature: of the responder.
        max_words: a derived prompt of more words counts as unusable in the log.

    Example:
        >>> import truing as tr
        >>> box = tr.load("openai/gpt-4.1-mini")
        >>> writer = tr.load("my-org/instruct")
        >>> trained = tr.DerivedPrompt(responder=box, reward={"judge": {"model": "openai/gpt-4.1"}}).align(
        ...     writer, "prompts.jsonl")
    """

    responder: AnyModel | Callable[[list[Prompt]], list[str]]
    instruction: str = INSTRUCTION
    baseline: str = "greedy"
    reads: str = "derived"
    n: int = 1
    beta: float = 0.05
    epochs: float = 2.0
    max_new_tokens: int = 1024
    top_p: float = 1.0
    response_tokens: int = 1024
    response_temperature: float = 0.0
    max_words: int = 400

    needs = frozenset({"gradients", "local_weights", "reward", "responder"})
    paper: ClassVar[int | None] = 24
    trainer: ClassVar[str] = "RLOO"
    quick: ClassVar[dict[str, Any]] = {
        "max_steps": 2, "prompts_per_step": 2, "max_new_tokens": 6, "response_tokens": 6, "learning_rate": 1e-3,
        "instruction": "{prompt}",
    }  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_writer("responder", self.responder, "sandbox/base")
        check_slots("instruction", self.instruction, ("prompt",))
        for name, known in (("baseline", BASELINES), ("reads", READS)):
            value = getattr(self, name)
            require(value in known, f"{name} is one of {', '.join(known)}, not {value!r}.")
        require(is_number(self.top_p) and 0 < self.top_p <= 1, f"top_p is over 0 and at most 1, not {self.top_p!r}.")
        warm = self.response_temperature
        require(is_number(warm) and warm >= 0, f"response_temperature is 0 or more, not {warm!r}.")
        require_whole(self, ("response_tokens", "max_words"))

    def _check_group(self) -> None:
        if self.baseline == "others":
            require(self.n > 1, "n is 2 or more with baseline='others': a text is compared with the others.")
            return
        require(self.n * self.prompts_per_step > 1, "a step holds 2 texts or more: raise prompts_per_step or n.")
        require(
            self.iterations == 1,
            f"iterations is 1 with baseline='greedy', which has no ratio that could be clipped, not {self.iterations}.",
        )

    def check_model(self, model: Any) -> None:
        """Also raise where the responder cannot be asked."""
        super().check_model(model)
        check_key = getattr(self.responder, "check_key", None)
        if check_key is not None:
            check_key()

    def _departures(self) -> list[str]:
        if self.top_p == 1:
            return []
        return [
            f"Texts are drawn with top_p {self.top_p} and scored by the whole distribution, so gradients are a little "
            "off-policy. top_p 1 has none of that."
        ]

    def _request(self, prompt: Prompt) -> Prompt:
        asked = question_of(prompt)
        if asked is None:
            raise RecordError("the prompt has no message of a user with text, so there is nothing to derive from.")
        return filled(self.instruction, prompt=asked)

    def _scorer(self, records: Records, out: Path | None) -> Responded:
        return Responded(self, bound(self._reward(), records), Journal(None if out is None else out / "responses"))

    def _rollouts(self, *given: Any, **how: Any) -> Rollouts:
        kind = GreedyRollouts if self.baseline == "greedy" else Rollouts
        return kind(*given, **how, top_p=self.top_p)

    def _variant(self, base: Any, rollouts: Any) -> Any:
        return remax_trainer(base, rollouts) if self.baseline == "greedy" else base


class Responded:
    """The reward of a derived prompt: what a responder answers to it, scored. Texts that come again cost nothing.

    Args:
        how: settings of the training.
        reward: scores answers.
        journal: where pairs are kept.
    """

    def __init__(self, how: DerivedPrompt, reward: Reward, journal: Journal) -> None:
        self.how, self.reward, self.journal = how, reward, journal
        self._other = "original" if how.reads == "derived" else "derived"
        self._last: list[dict[str, Any]] = []
        self._unreadable = False

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Rewards of derived prompts, shape [n].

        Args:
            prompts: the original ones.
            responses: what the writer wrote for each.
        """
        derived = [cleaned(text, question_of(prompt) or "") for prompt, text in zip(prompts, responses)]
        keys = [key_of([prompt, text]) for prompt, text in zip(prompts, derived)]
        known = self.journal.known("pairs")
        new = {key: pair for key, pair in zip(keys, zip(prompts, derived)) if key not in known}
        if new:
            self.journal.add("pairs", dict(zip(new, self._found(list(new.values())))))
        self._last = [known[key] for key in keys]
        return np.array([one["reward"] for one in self._last])

    def figures(self) -> dict[str, list[float]]:
        """Further figures of what was scored last, a value for each."""
        others = [one["other_reward"] for one in self._last]
        return {
            **({f"{self._other}_reward": others} if None not in others else {}),
            "similarity": [one["similarity"] for one in self._last],
            "copies": [float(one["unfit"] == "copy") for one in self._last],
            "unusable": [float(one["unfit"] not in ("", "copy")) for one in self._last],
        }

    def _found(self, pairs: Sequence[tuple[Prompt, str]]) -> list[dict[str, Any]]:
        """Answers and rewards for pairs of a prompt and its derived one, all asked at once."""
        how = self.how
        asked = [with_question(prompt, text) for prompt, text in pairs]
        # No server takes an empty message; the answer to nothing is nothing.
        answers = self._answers([one if text.strip() else None for one, (_, text) in zip(asked, pairs)])
        read = {"derived": asked, "original": [prompt for prompt, _ in pairs]}
        rewards = checked(self.reward, read[how.reads], answers)
        others = self._for_the_log(read[self._other], answers)
        out = []
        for at, (prompt, text) in enumerate(pairs):
            question = question_of(prompt) or ""
            out.append(
                {
                    "prompt": prompt, "derived": text, "response": answers[at],
                    "reward": float(rewards[at]), "other_reward": others[at],
                    "similarity": similarity(question, text), "unfit": unfit(question, text, how.max_words),
                }
            )  # fmt: skip
        return out

    def _answers(self, asked: Sequence[Prompt | None]) -> list[str]:
        """What the responder says to each conversation; "" for None. Only what is new is asked."""
        how, keys = self.how, [None if one is None else key_of(one) for one in asked]
        known = self.journal.known("answers")
        new = {key: one for key, one in zip(keys, asked) if key is not None and one is not None and key not in known}
        if new:
            texts = list(new.values())
            said = ask(
                how.responder, texts, (texts,), max_new_tokens=how.response_tokens,
                temperature=how.response_temperature, seed=how.seed,
            )  # fmt: skip
            # On disk before they are scored: a reward that fails costs no answer.
            self.journal.add("answers", {key: text for key, (text, _) in zip(new, said)})
        return ["" if key is None else str(known[key]) for key in keys]

    def _for_the_log(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float | None]:
        """Rewards with the other prompt; a reward that cannot read that one ends no training, and is said once."""
        if self._unreadable:
            return [None] * len(answers)
        try:
            return [float(value) for value in checked(self.reward, prompts, answers)]
        except RewardError as error:
            self._unreadable = True
            progress.say(f"The log has no {self._other}_reward: {error}")
            return [None] * len(answers)
