"""REINFORCE leave-one-out, on TRL's trainer."""

from __future__ import annotations

from typing import Any, ClassVar

from truing.methods.rl.method import OnlineMethod


class RLOO(OnlineMethod):
    """Sample n answers a prompt, and make those better than the mean of the others likelier (REINFORCE leave-one-out).

    The advantage of an answer is its reward less the mean of the other n - 1 rewards; the KL to the model that comes in
    is part of the reward, ``- beta`` times the sum over tokens of the log-probability ratio. The loss is the clipped
    objective of whole answers, which without further ``iterations`` is the plain policy gradient. Differs from GRPO: no
    division by the deviation, and an answer is one action, so that long answers do not count less by the token.
    Ahmadian et al. 2024 (arXiv 2402.14740).

    Args:
        normalize_advantages: bring the advantages of a step to mean 0 and deviation 1.

    Example:
        >>> import truing as tr
        >>> from truing.methods.rl.rloo import RLOO
        >>> model = tr.load("sandbox/base")
        >>> better = RLOO(reward="sandbox_grade", learning_rate=3e-4, max_steps=20).align(model, "sandbox/questions")
    """

    beta: float = 0.05
    normalize_advantages: bool = False

    trainer: ClassVar[str] = "RLOO"

    def trl_settings(self) -> dict[str, Any]:
        """Settings of TRL's configuration that are the method's own."""
        return {"normalize_advantages": bool(self.normalize_advantages)}
