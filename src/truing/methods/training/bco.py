"""BCO: a binary classifier of good and bad answers whose logit is the implicit reward."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import RunError, TrainingError
from truing.files import write_atomic
from truing.methods.training import processes
from truing.methods.training.encoding import Example
from truing.methods.training.kto import ThumbMethod, ThumbObjective
from truing.methods.training.losses import unpaired
from truing.methods.training.method import tell
from truing.methods.training.objective import Term
from truing.methods.training.policy import Scores
from truing.methods.training.prompt_matching import Encoder, prompt_weights
from truing.models import Model
from truing.models.history import plain
from truing.records import Records

SHIFTS = ("balanced", "all", "exponential")
_WEIGHT = "density_weight"
_KEPT = "prompt-weights.json"


class BCOObjective(ThumbObjective):
    """BCO's loss with its running shift, which is kept in checkpoints.

    Args:
        beta: see `ThumbObjective`.
        shift: one of `SHIFTS`.
        decay: of "exponential".
    """

    def __init__(self, beta: float, *, shift: str = "balanced", decay: float = 0.95) -> None:
        super().__init__(beta)
        kind = "pooled" if shift == "all" else "balanced"
        self.shift = unpaired.RunningShift(kind, decay if shift == "exponential" else None)

    def example(self, row: dict[str, Any], column: str, good: bool) -> Example:
        """One answer of a row; a bad one with the weight of its prompt."""
        made = super().example(row, column, good)
        return dataclasses.replace(made, values={**made.values, "weight": 1.0 if good else row.get(_WEIGHT, 1.0)})

    def label_notes(self, good: int, bad: int) -> list[str]:
        """No line; labels of one kind alone are an error.

        Raises:
            TrainingError: no answer is good, or none is bad.
        """
        if good and bad:
            return []
        raise TrainingError(
            f"BCO learns to tell good answers from bad ones, and all {good + bad:,} are {'good' if good else 'bad'}. "
            f"Add {'bad' if good else 'good'} ones, or use {'SFT on these' if good else 'KTO on one kind alone'}."
        )

    def terms(self, scores: Scores) -> list[Term]:
        """The loss of each row, once the shift has taken them in."""
        assert scores.reference is not None
        policy, labels = self.sequence_logps(scores.tokens, scores.mask), self.labels(scores)
        rewards = unpaired.implicit_rewards(policy.detach(), scores.reference, self.beta)
        # A shift that took in what is not finite would never recover; the trainer names the record, from the loss.
        if torch.isfinite(rewards).all():
            self.shift.update(rewards, labels, self.total)
        self.threshold = self.shift.value / self.beta
        values = unpaired.bco(
            policy, scores.reference, labels, self.shift.value, beta=self.beta, weights=scores.values["weight"]
        )
        return [Term(values)]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Also the shift, as "shift", in units of reward."""
        return {**super().metrics(scores), "shift": torch.tensor([self.shift.value])}

    def state(self) -> dict[str, Any]:
        """The running shift."""
        return {"shift": self.shift.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved shift."""
        self.shift.load(state["shift"])


class BCO(ThumbMethod):
    """Learn from thumbs up and down by training a classifier of answers whose logit is the implicit reward.

    -log s(r - d) for a good answer, -log s(d - r) for a bad one, r = beta times the log-ratio of policy to reference.
    The shift d is a running average of rewards without gradient; with it the loss is closest to DPO's, which it bounds.
    Unlike KTO's, the gradient does not fade for answers that are very wrong: at r - d = -4 it is 55 times as large. It
    follows mislabelled answers as eagerly. Preferences are read too: chosen is a thumb up, rejected a thumb down. Jung
    et al. 2024 (arXiv 2404.04656).

    Where good and bad answers come from different kinds of prompt, ``match_prompts`` weighs each bad answer by how much
    likelier its prompt is among good answers than among bad ones. The weights are found once, before training, from all
    prompts (at least 50 distinct ones of each kind), by cross-validated logistic regression on embeddings. They can
    only help where the two kinds of prompt overlap, and they make the loss noisier, since a few bad answers then count
    up to 10 times. A line says how well the prompts are told apart.

    Args:
        shift: "balanced", (mean reward of good answers + mean reward of bad ones) / 2 over all that was seen, as in the
            paper; "all", the mean over all answers, as in TRL's former trainer, which lies closer to the kind that is
            more common; "exponential", the balanced one with a memory that fades, for a policy that moves far.
        decay: of "exponential": what each batch leaves of what came before it.
        match_prompts: None, True to embed prompts with the model itself (mean of the last layer's hidden states), or a
            function of texts that gives an array [n, d].
        min_density_ratio: least weight of a bad answer under ``match_prompts``.
        max_density_ratio: greatest one.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.BCO(beta=0.5).align(model, "sandbox/labels")
    """

    learning_rate: float = 5e-7
    shift: str = "balanced"
    decay: float = 0.95
    match_prompts: bool | Encoder | None = None
    min_density_ratio: float = 0.5
    max_density_ratio: float = 10.0

    paper: ClassVar[int | None] = 45

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(self.shift in SHIFTS, f"shift is one of {', '.join(SHIFTS)}, not {self.shift!r}.")
        fits = is_number(self.decay) and 0 < self.decay < 1
        require(fits, f"decay is a number between 0 and 1, not {self.decay!r}.")
        matching = self.match_prompts
        require(
            matching is None or isinstance(matching, bool) or callable(matching),
            f"match_prompts is None, True, or a function that embeds texts, not {matching!r}.",
        )
        bounds = self.min_density_ratio, self.max_density_ratio
        fits = all(map(is_number, bounds)) and 0 <= bounds[0] <= bounds[1] and bounds[1] > 0
        require(
            fits, f"min_density_ratio is 0 or more and at most max_density_ratio, not {bounds[0]!r} to {bounds[1]!r}."
        )

    def objective(self) -> BCOObjective:
        """The loss with its shift."""
        return BCOObjective(self.beta, shift=self.shift, decay=self.decay)

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """The records, with the weight of each prompt where prompts are matched."""
        records = super().prepare(model, records, out)
        if _WEIGHT in records.dataset.column_names:
            records = dataclasses.replace(records, dataset=records.dataset.remove_columns([_WEIGHT]))
        if not self.match_prompts:
            return records
        with processes.first_alone():
            weights, note = self._weights(model, records, out)
        tell(note)
        return dataclasses.replace(records, dataset=records.dataset.add_column(_WEIGHT, weights))

    def _weights(self, model: Model, records: Records, out: Path | None) -> tuple[list[float], str]:
        """One weight a record; kept in ``out``, since another machine's last bit would make it another training."""
        names = ("match_prompts", "min_density_ratio", "max_density_ratio", "max_length", "seed")
        of = [plain(getattr(self, name)) for name in names]
        key = hashlib.sha256(f"{model.fingerprint} {records.fingerprint} {of}".encode()).hexdigest()
        path = out / _KEPT if out is not None else None
        if path is not None and path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["key"] == key:
                return kept["weights"], kept["note"]
        pairs = records.kind == "preference"
        prompts = [row["prompt"] for row in records]
        labels = [True] * len(prompts) + [False] * len(prompts) if pairs else [row["label"] for row in records]
        weights, note = prompt_weights(
            model,
            prompts * 2 if pairs else prompts,
            labels,
            encoder=None if isinstance(self.match_prompts, bool) else self.match_prompts,
            low=self.min_density_ratio,
            high=self.max_density_ratio,
            limit=self.max_length,
            seed=self.seed,
        )
        weights = weights[: len(prompts)]
        if path is not None:
            try:
                write_atomic(path, json.dumps({"key": key, "note": note, "weights": weights}))
            except OSError as error:
                raise RunError(f"{out} cannot be used as a folder for training: {error.strerror}.") from error
        return weights, note
