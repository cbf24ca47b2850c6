"""Group relative policy optimisation, on TRL's trainer."""

from __future__ import annotations

from typing import Any, ClassVar

from truing.contracts import require
from truing.methods.rl.losses import SCALES
from truing.methods.rl.method import OnlineMethod

LOSSES = ("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
LEVELS = ("token", "sequence")


class GRPO(OnlineMethod):
    """Sample n answers a prompt, and make those better than their group's mean likelier (group relative policy
    optimisation).

    The advantage of an answer is its reward less the group's mean, by the group's deviation; the loss is the clipped
    objective of every token, plus ``beta`` times an estimate of the KL to the model that comes in. No value model is
    trained. A group whose rewards are all equal teaches nothing; these are counted in the log (``no_signal``). Shao et
    al. 2024 (arXiv 2402.03300), with the variants that TRL knows. Differs from the paper: the deviation is that of a
    sample, plus 1e-4, and the KL estimate carries the probability ratio, which makes its gradient unbiased; both as TRL
    has them.

    Args:
        loss_type: how token losses become one, by TRL's names. "grpo": the mean over answers of each one's mean (the
            paper's; tokens of short answers count more); "dapo", "bnpo": the mean over all tokens; "dr_grpo": their sum
            by ``max_new_tokens``; "cispo", "sapo", "luspo", "vespo": see TRL.
        scale_rewards: "group" divides advantages by the group's deviation, "batch" by that of the step, "none" by
            nothing (Liu et al. 2025, arXiv 2503.20783).
        importance_sampling_level: "token" has a ratio for each token, "sequence" one for each answer (GSPO, Zheng et
            al. 2025, arXiv 2507.18071).

    Example:
        >>> import truing as tr
        >>> from truing.methods.rl.grpo import GRPO
        >>> model = tr.load("sandbox/base")
        >>> better = GRPO(reward="sandbox_grade", learning_rate=3e-4, max_steps=20).align(model, "sandbox/questions")
    """

    loss_type: str = "grpo"
    scale_rewards: str = "group"
    importance_sampling_level: str = "token"

    trainer: ClassVar[str] = "GRPO"

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        for name, known in (
            ("loss_type", LOSSES), ("scale_rewards", SCALES), ("importance_sampling_level", LEVELS),
        ):  # fmt: skip
            value = getattr(self, name)
            require(value in known, f"{name} is one of {', '.join(known)}, not {value!r}.")

    def trl_settings(self) -> dict[str, Any]:
        """Settings of TRL's configuration that are the method's own."""
        return {name: getattr(self, name) for name in ("loss_type", "scale_rewards", "importance_sampling_level")}
