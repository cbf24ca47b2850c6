"""What online training samples: prompts in their order, answers by truing's own engine, and a reward for each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from truing.contracts import Prompt, Reward
from truing.errors import ModelError, RecordError, RewardError, TrainingError, UnsupportedError
from truing.models import Model
from truing.models.engine import Engine
from truing.models.types import Row, Sampling
from truing.records import Records
from truing.rewards import checked


def encode_prompts(
    model: Model, records: Records, request: Callable[[Prompt], Prompt] | None = None
) -> tuple[list[tuple[Prompt, tuple[int, ...]]], int]:
    """Each prompt as the records hold it with its token ids, and how many were left out for want of room.

    Args:
        model: gives the chat format and the limit; its prompt modifiers are not applied.
        records: of any kind with a prompt.
        request: what the model is asked in place of a prompt; the prompt itself unless given.

    Raises:
        ModelError: the tokenizer has no end token.
        RecordError, UnsupportedError: a prompt cannot be read by this model; the record is named.
        TrainingError: no prompt is left.
    """
    from truing.models import chat

    if model.tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {model.name} has no end token, so an answer cannot end. Set `tokenizer.eos_token`."
        )
    limit = Engine(model).limit
    kept: list[tuple[Prompt, tuple[int, ...]]] = []
    for number, row in enumerate(records, 1):
        try:
            asked = row["prompt"] if request is None else request(row["prompt"])
            ids = chat.encode_conversation(model.tokenizer, chat.as_messages(asked))
        except (RecordError, UnsupportedError) as error:
            raise type(error)(f"Record {number}: {error}") from error
        if limit is None or len(ids) < limit:
            kept.append((row["prompt"], tuple(ids)))
    if not kept:
        raise TrainingError(f"No prompt is left: all {len(records):,} are longer than the {limit} tokens of the model.")
    return kept, len(records) - len(kept)


def prompt_order(count: int, wanted: int, seed: int, shuffle: bool = True) -> list[int]:
    """The numbers of ``wanted`` prompts in the order they are asked: pass after pass over all, each in a new order."""
    order: list[int] = []
    while len(order) < wanted:
        order += np.random.default_rng([seed, len(order)]).permutation(count).tolist() if shuffle else range(count)
    return order[:wanted]


@dataclasses.dataclass
class Tally:
    """What was sampled since the last line of the log, and of all groups so far how many taught nothing.

    Args:
        rewards: of each completion.
        lengths: tokens of each completion, its end token included.
        ended: completions that ended by themselves.
        equal: groups, among those of this tally, whose rewards are all the same.
        groups: all groups of the training.
        groups_without_signal: those of them whose rewards are all the same.
        steps_without_signal: samplings in which all groups are like that.
        more: further figures of each completion, by name.
    """

    rewards: list[float] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)
    ended: int = 0
    equal: int = 0
    since: int = 0
    groups: int = 0
    groups_without_signal: int = 0
    steps_without_signal: int = 0
    more: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, rewards: np.ndarray, baseline: np.ndarray | None = None) -> None:
        """Count the rewards of one sampling, shape [groups, n], and what they are compared with, if not each other."""
        compared = rewards if baseline is None else np.column_stack([rewards, baseline])
        same = int((compared.max(1) == compared.min(1)).sum())
        self.rewards += rewards.ravel().tolist()
        self.equal += same
        self.since += len(rewards)
        self.groups += len(rewards)
        self.groups_without_signal += same
        self.steps_without_signal += same == len(rewards)

    def note(self, figures: Mapping[str, Sequence[float]]) -> None:
        """Keep further figures, whose means the log shows."""
        for name, values in figures.items():
            self.more.setdefault(name, []).extend(values)

    def flush(self) -> dict[str, float]:
        """The figures since the last call; empty where nothing was sampled since."""
        if not self.rewards:
            return {}
        found = {
            "reward": float(np.mean(self.rewards)),
            "reward_std": float(np.std(self.rewards)),
            "no_signal": self.equal / self.since,
            "length": float(np.mean(self.lengths)),
            "ended": self.ended / len(self.lengths),
            **{name: float(np.mean(values)) for name, values in self.more.items() if values},
        }
        self.more = {}
        self.rewards, self.lengths, self.ended, self.equal, self.since = [], [], 0, 0, 0
        return found

    def totals(self) -> dict[str, int]:
        """The counts over the whole training."""
        return {
            "groups": self.groups,
            "groups_without_signal": self.groups_without_signal,
            "steps_without_signal": self.steps_without_signal,
        }

    def resume(self, totals: dict[str, Any]) -> None:
        """Go on from the counts that a line of the log holds."""
        for name in self.totals():
            setattr(self, name, int(totals.get(name, 0)))


class Rollouts:
    """Samples groups of completions and scores them.

    Answers come from truing's stepping engine: as whoever uses the model would sample them, each group from one
    prefill, ending at the model's own end tokens. Noise is a function of (seed, sampling, prompt, sample), so a resumed
    training draws what the undisturbed one drew.

    Args:
        model: without modifiers; the weights in training take the place of its own.
        prompts: each with its token ids.
        reward: what is wanted.
        n: completions of a group.
        max_new_tokens: most tokens of a completion.
        temperature: they are sampled at.
        seed: of the noise.
        top_p: they are sampled from the smallest set of tokens of this probability.
    """

    def __init__(
        self, model: Model, prompts: Sequence[tuple[Prompt, tuple[int, ...]]], reward: Reward, *, n: int,
        max_new_tokens: int, temperature: float, seed: int, top_p: float = 1.0,
    ) -> None:  # fmt: skip
        self.model, self.prompts, self.reward, self.n = model, prompts, reward, n
        self.sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
        self.seed, self.tally = seed, Tally()
        self._texts: list[str] = []

    def ids(self, rows: Sequence[int]) -> list[list[int]]:
        """Token ids of prompts, by their numbers."""
        return [list(self.prompts[row][1]) for row in rows]

    def sample(self, weights: Any, rows: Sequence[int], number: int) -> list[list[int]]:
        """Token ids of a completion for each row, end token included.

        Args:
            weights: of the policy; they are in eval mode afterwards.
            rows: numbers of prompts, each group's n times in a row.
            number: which sampling of the training it is.
        """
        engine = Engine(self.model.with_weights(weights))
        asked = [self.prompts[row][1] for row in rows[:: self.n]]
        drawn: dict[tuple[int, ...], list[Any]] = {}
        # A prompt that is asked twice in one step gets samples of its own for each group.
        counts = Counter(asked)
        for times in sorted(set(counts.values())):
            unique = [ids for ids in counts if counts[ids] == times]
            how = dataclasses.replace(self.sampling, n=times * self.n, seed=(self.seed << 30) + number)
            found = engine.generate([Row(None, ids, at) for at, ids in enumerate(unique)], how)
            drawn.update(zip(unique, found))
        completions = [drawn[ids].pop(0) for ids in asked for _ in range(self.n)]
        self._texts = [one.text for one in completions]
        self.tally.lengths += [len(one.tokens) for one in completions]
        self.tally.ended += sum(one.finish_reason == "stop" for one in completions)
        return [one.tokens for one in completions]

    def score(self, rows: Sequence[int], step: int) -> list[float]:
        """Rewards of the completions that were sampled last.

        Raises:
            RewardError: the reward raised, or gave something other than finite numbers.
        """
        rewards = self._rewards(rows, self._texts, step)
        self.tally.add(rewards.reshape(-1, self.n))
        return rewards.tolist()

    def _rewards(self, rows: Sequence[int], texts: Sequence[str], step: int) -> np.ndarray:
        try:
            found = checked(self.reward, [self.prompts[row][0] for row in rows], texts)
        except RewardError as error:
            raise RewardError(f"Step {step}: {error}") from error
        # A reward may tell more of the answers that it scored last, for the log.
        figures = getattr(self.reward, "figures", None)
        if figures is not None:
            self.tally.note({name: values[: len(self._texts)] for name, values in figures().items()})
        return found
