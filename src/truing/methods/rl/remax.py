"""ReMax on TRL's trainer: REINFORCE whose baseline is the reward of the greedy completion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from truing.methods.rl.losses import remax_loss, remax_returns
from truing.methods.rl.rollouts import Rollouts
from truing.models.engine import Engine
from truing.models.types import Row


class GreedyRollouts(Rollouts):
    """Rollouts that also write the greedy completion of each prompt, and score it in the same call.

    After `score`, ``advantages`` holds the reward of each sampled completion less that of its prompt's greedy one.
    """

    def sample(self, weights: Any, rows: Sequence[int], number: int) -> list[list[int]]:
        """Token ids of a completion for each row; see `Rollouts.sample`."""
        tokens = super().sample(weights, rows, number)
        asked = list(dict.fromkeys(self.prompts[row][1] for row in rows))
        greedy = dataclasses.replace(self.sampling, temperature=0.0, top_p=1.0)
        found = Engine(self.model.with_weights(weights)).generate(
            [Row(None, ids, at) for at, ids in enumerate(asked)], greedy
        )
        self._greedy = {ids: one.text for ids, (one,) in zip(asked, found)}
        return tokens

    def score(self, rows: Sequence[int], step: int) -> list[float]:
        """Rewards of the completions that were sampled last; see `Rollouts.score`."""
        groups = rows[:: self.n]
        greedy = [self._greedy[self.prompts[row][1]] for row in groups]
        found = self._rewards([*rows, *groups], [*self._texts, *greedy], step)
        rewards, baseline = found[: len(rows)].reshape(-1, self.n), found[len(rows) :]
        self.advantages = (rewards - baseline[:, None]).ravel().tolist()
        self.tally.add(rewards, baseline)
        same = [text == greedy[at // self.n] for at, text in enumerate(self._texts)]
        self.tally.note({"greedy_reward": baseline.tolist(), "same_as_greedy": [float(one) for one in same]})
        return [float(value) for value in rewards.ravel()]


def remax_trainer(base: Any, rollouts: GreedyRollouts) -> Any:
    """A trainer of TRL for RLOO with ReMax's baseline and a return for each token, in place of its own.

    The loss of a step is the mean over all its tokens, whatever the number of batches it is computed in.
    """

    class ReMaxTrainer(base):
        """TRL's trainer with another objective."""

        _scored: list[torch.Tensor] | None = None

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            if self._scored is not None:
                self._scored.append(found[0])
            return found

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self._scored = []
            found = super()._generate_and_score_completions(inputs)
            # TRL has scored the completions by the policy and, where beta is not 0, by the reference.
            logps, mask = self._scored[0], found["completion_mask"]
            advantages = torch.tensor(rollouts.advantages, dtype=logps.dtype, device=logps.device)
            found["returns"] = remax_returns(logps, self._scored[-1], mask, advantages, beta=self.beta)
            found["tokens"] = mask.sum().clamp(min=1) / self.args.gradient_accumulation_steps
            self._scored = None
            return found

        def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
            mask = inputs["completion_mask"]
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            seen = torch.cat([inputs["prompt_mask"], mask], dim=1)
            logps, entropies, *_ = self._get_per_token_logps_and_entropies(
                model, ids, seen, mask.size(1), compute_entropy=True
            )
            entropy = (entropies * mask).sum() / mask.sum().clamp(min=1)
            self._metrics["train"]["entropy"].append(float(entropy.detach()))
            return remax_loss(logps, inputs["returns"], mask, inputs["tokens"])

    return ReMaxTrainer
