"""DeAL: decoding-time alignment by look-ahead search with any reward (Huang et al. 2025)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Reward, require
from truing.errors import SettingsError
from truing.methods.decoding.deal_segments import by_segments
from truing.methods.decoding.lookahead import LookaheadMethod, LookaheadModifier
from truing.methods.decoding.lookahead_rule import Choice, Rule, look_ahead
from truing.methods.decoding.lookahead_world import Asking, World
from truing.rewards import reward_from

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.models.types import Completion, Row, Sampling
    from truing.records import Records

MODES = ("token", "segment")


class DeALModifier(LookaheadModifier):
    """Searches for answers by log-probability and the reward of where they lead; more in `DeAL`.

    Args:
        beam: beginnings kept at each step.
        mode: "token", or "segment".
    """

    k: int = 5
    lookahead: int = 32
    weight: float = 1.0
    beam: int = 1
    mode: str = "token"

    def rule(self) -> Rule:
        """Cumulative log-probability, so that beginnings of a beam compete as the paper says."""
        return Rule(k=self.k, lookahead=self.lookahead, weight=self.weight, beam=self.beam)

    def asking(self, world: World, room: int, choice: Choice) -> Asking:
        """The search of one answer."""
        return (look_ahead if self.mode == "token" else by_segments)(self.rule(), world, room, choice)

    def search(self, engine: Any, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row its completions."""
        if self.mode == "segment" and sampling.temperature > 0:
            raise SettingsError(
                "DeAL by segments proposes the likeliest segments and draws none: ask with temperature=0."
            )
        return super().search(engine, rows, sampling)


class DeAL(LookaheadMethod):
    """Choose each token by its log-probability and by what a reward says of where it leads.

    At each step the ``k`` likeliest tokens are candidates; each is continued greedily for ``lookahead`` tokens, and the
    ``beam`` best by ``log P(answer so far) + weight * reward(answer so far and its continuation)`` are kept. One token
    is written, the look-ahead is dropped. Any reward serves, a function or a model, or a weighted sum of them
    (`Combined`), and nothing is trained. The reward reads the answer alone; unfinished continuations are scored as
    `truing.rewards.partial` says, which is also how a reward declares bounds that let the search skip work.

    Log-probability is not divided by length, so that a beam of several prefers short answers. Rewards have scales:
    ``weight`` is per reward, and `Squashed` brings one without bounds into some. At a temperature the token is drawn
    from the softmax of the candidates' scores; a beam draws nothing, and refuses.

    Args:
        reward: what is wanted: a function ``reward(prompts, responses) -> n floats``, or a reward's name with settings.
        k: candidates at each step; 5 to 10 in the paper. With 1 the answer is the greedy one.
        lookahead: tokens of a continuation; 32 in the paper. In mode "segment", tokens of a segment.
        weight: lambda, how much the reward counts; 0 is greedy decoding. There is no value for all rewards.
        beam: beginnings kept at each step.
        mode: "token" is the paper's. "segment" is another published rule: ``k`` whole segments by beam search for each
            of ``beam`` beginnings, kept by reward alone; the best beginning ever seen is the answer, finished or not.

    Source: Huang et al., "DeAL: Decoding-time Alignment for Large Language Models", ACL 2025 (arXiv 2402.06147).

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> harmless = tr.DeAL(reward=tr.SandboxGrade(), k=5, lookahead=16, weight=4.0).align(model)
    """

    paper: ClassVar[int | None] = 12
    quick: ClassVar[dict[str, Any]] = {"k": 3, "lookahead": 4, "weight": 8.0}

    reward: Reward | str | dict[str, Any]
    k: int = 5
    lookahead: int = 32
    weight: float = 1.0
    beam: int = 1
    mode: str = "token"

    def validate(self) -> None:
        """Raise `SettingsError` for a setting that cannot work."""
        super().validate()
        require(self.mode in MODES, f"mode is one of {', '.join(MODES)}, not {self.mode!r}.")
        require(
            self.mode == "token" or self.lookahead > 0,
            "A segment has at least one token: set lookahead to 1 or more in mode 'segment'.",
        )

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        return model.with_modifier(DeALModifier(**{**self.settings(), "reward": reward_from(self.reward)}))


@dataclasses.dataclass(frozen=True)
class Reranked:
    """Scores of finished answers, and the place of the best."""

    scores: list[float]
    best: int


def rerank(log_probs: Sequence[float], rewards: Sequence[float], weight: float) -> Reranked:
    """Finished answers scored once by ``log P + weight * reward``: what look-ahead is compared with.

    Args:
        log_probs: of each whole answer.
        rewards: of each.
        weight: lambda.
    """
    scores = [log_prob + weight * reward for log_prob, reward in zip(log_probs, rewards, strict=True)]
    return Reranked(scores, int(np.argmax(scores)))
