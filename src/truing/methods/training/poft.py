"""PoFT: fine-tuning that weighs each demonstration by how likely aligned models find it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from truing.contracts import is_number, require
from truing.errors import RecordError, UnsupportedError
from truing.methods.training.encoding import Example, Row
from truing.methods.training.likelihood_scores import check_normaliser, score_likelihood, written
from truing.methods.training.losses import likelihood
from truing.methods.training.method import TrainingMethod, tell
from truing.methods.training.objective import Objective, Term
from truing.methods.training.policy import Scores
from truing.methods.training.sft import TURNS, SFTObjective
from truing.models import Model
from truing.records import Records

# Below this mean weight hardly anything is learned.
_LITTLE = 0.05


def aligned_score(row: dict[str, Any]) -> float | None:
    """The aligned models' mean score of a record: ``mean_aligned_score``, or the mean of ``scores``; None if missing.

    Raises:
        RecordError: one of them is something else than numbers.
    """
    if "mean_aligned_score" in row:
        values = [row["mean_aligned_score"]]
    else:
        values = row.get("scores") or [None]
    if not isinstance(values, list) or any(value is not None and not is_number(value) for value in values):
        raise RecordError(f"scores of aligned models are numbers, or null where one is missing, not {values!r}.")
    return None if None in values else sum(values) / len(values)


class PoFTObjective(Objective):
    """-log sigmoid(beta (r - rbar) + gamma) of each record, r being the model's own length-normalised log-likelihood.

    Args:
        beta, gamma, turns, normaliser, as_published: see `PoFT`.
    """

    record_kind = "demonstration"
    learns = "all"

    def __init__(
        self, beta: float = 1.0, gamma: float = 0.0, *, turns: str = "all", normaliser: str = "token",
        as_published: bool = False,
    ) -> None:  # fmt: skip
        self.beta, self.gamma, self.normaliser, self.as_published = beta, gamma, normaliser, as_published
        self._reading = SFTObjective("last" if as_published else turns)

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """The answers with the aligned models' score; nothing where that is missing, which `PoFT.prepare` counts."""
        score = aligned_score(row)
        if score is None:
            return []
        answers = self._reading.examples(row)[0].answers
        # An empty answer is left out further on, and divides by nothing until then.
        characters = max(1, sum(len(text) for _, text in written(answers)))
        return [Example(answers, {"aligned": score, "characters": float(characters)})]

    def arrange(self, rows: list[Row]) -> list[Row]:
        """As published, the prompt is learned like the answer: all of it is one text."""
        if not self.as_published:
            return rows
        return [Row(row.index, (([], [*row.answers[0][0], *row.answers[0][1]]),), row.values) for row in rows]

    def score(self, scores: Scores) -> Tensor:
        """r of each row, [B].

        Its value is over the text of the answers, as that of the aligned models is. Its gradient holds the end tokens
        too, each with the weight of any token: a model that never learns them does not stop.
        """
        content, ends = scores.mask, torch.zeros(len(scores.owner), device=scores.tokens.device)
        if not self.as_published:
            last = torch.arange(content.shape[1], device=content.device) == scores.lengths[:, None] - 1
            ends = (scores.tokens * last).sum(1)
            content = content & ~last
        sums = (scores.tokens * content).sum(1) + (ends - ends.detach())
        total = torch.zeros(scores.rows, device=sums.device).index_add(0, scores.owner, sums)
        if self.normaliser == "character":
            return total / (scores.values["characters"] * math.log(2))
        counts = torch.zeros_like(total).index_add(0, scores.owner, content.sum(1).to(total.dtype))
        return total / counts.clamp(min=1)

    def terms(self, scores: Scores) -> list[Term]:
        """The loss of each row; the trainer gives the mean over rows, not tokens."""
        losses = likelihood.poft(self.score(scores), scores.values["aligned"], beta=self.beta, gamma=self.gamma)
        return [Term(losses, "row")]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """r, rbar, and tau: the share of a plain fine-tuning gradient that each row keeps."""
        score, aligned = self.score(scores), scores.values["aligned"]
        tau = likelihood.poft_weight(score, aligned, beta=self.beta, gamma=self.gamma)
        return {"tau": tau, "scores/model": score, "scores/aligned": aligned}

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """A warning where the weights have nearly vanished."""
        values = [row["tau"] for row in metrics if "tau" in row]
        mean = sum(values) / len(values) if values else 1.0
        if mean >= _LITTLE:
            return []
        return [
            f"By the end rows counted {mean:.1%} of what they count in plain fine-tuning: the model finds the answers "
            "much likelier than the aligned models do. Take stronger aligned models, or a lower beta or gamma."
        ]


class PoFT(TrainingMethod):
    """Fine-tune on demonstrations of mixed quality, asking the model to find each likelier than aligned models do.

    Aligned models score each answer once, before training (rbar, see `score_likelihood`). The gradient of a record is
    that of fine-tuning, as a mean over its own tokens, times beta * tau with tau = sigmoid(-(beta (r - rbar) + gamma)):
    what aligned models find unlikely (noise) or the model has learned already counts less, and nothing is filtered out.
    tau is under 1 always; AdamW makes up for what all records have in common, so only differences of tau matter.
    Fan et al. 2024, arXiv 2412.12865.

    r and rbar are of the same text. The end token is in no score, and its gradient is that of any other token, so that
    the model learns to stop. A record without a score (null, or too long for a model) is left out and counted.

    Args:
        beta: scale of the difference of scores.
        gamma: added to it; very negative values give plain fine-tuning.
        references: the aligned models, or their names, each with its own tokenizer and template. Empty reads the
            scores from the records: ``mean_aligned_score``, or ``scores``, a list of one for each aligned model.
        normaliser: "token" for nats a token, or "character" for bits a character, which compares tokenizers fairly.
        turns: "all" answers of a conversation are scored and learned as one, or the "last" alone.
        as_published: score and learn all tokens of the conversation, prompt and template too, against scores of the
            last answer, as the published code does.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> method = tr.PoFT(references=["sandbox/guide"], learning_rate=5e-4)
        >>> tuned = method.align(model, "sandbox/demonstrations")
    """

    learning_rate: float = 1e-6
    beta: float = 1.0
    gamma: float = 0.0
    references: list | tuple = ()
    normaliser: str = "token"
    turns: str = "all"
    as_published: bool = False
    max_length: int = 4096
    truncate: str = "drop"
    schedule: str = "cosine"

    record_kinds: ClassVar[tuple[str, ...]] = ("demonstration",)
    paper: ClassVar[int | None] = 57
    quick: ClassVar[dict[str, Any]] = {**TrainingMethod.quick, "references": ["sandbox/guide"]}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_number(self.beta) and self.beta > 0, f"beta is a number over 0, not {self.beta!r}.")
        require(is_number(self.gamma), f"gamma is a finite number, not {self.gamma!r}.")
        fits = isinstance(self.references, (list, tuple))
        fits = fits and all(isinstance(one, str) or hasattr(one, "logprobs") for one in self.references)
        require(fits, f"references is a list of models or names of models, not {self.references!r}.")
        check_normaliser(self.normaliser)
        require(self.turns in TURNS, f"turns is one of {', '.join(TURNS)}, not {self.turns!r}.")
        require(
            self.truncate != "end" or self.as_published,
            "truncate='end' would score an answer that is cut against scores of the whole one. Use 'drop' or 'start'.",
        )

    def objective(self) -> PoFTObjective:
        """The weighted likelihood."""
        return PoFTObjective(
            self.beta, self.gamma, turns=self.turns, normaliser=self.normaliser, as_published=self.as_published
        )

    def check_model(self, model: Any) -> None:
        """Also raise where a reference gives no log-probabilities."""
        super().check_model(model)
        for one in self.references:
            if not isinstance(one, str) and "local_weights" not in getattr(one, "offers", ()):
                raise UnsupportedError(
                    f"{getattr(one, 'name', one)} gives no log-probabilities of texts, so it cannot score answers. "
                    "Load local weights, or put scores into the records."
                )

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """The records with scores, computed where references are given.

        Raises:
            RecordError: no record has a score.
        """
        if self.references:
            for one in self.references:
                _tell_overlap(one, records)
            records = score_likelihood(
                self.references, records, normaliser=self.normaliser, turns=self.turns,
                out=out / "scores" if out is not None else None,
            )  # fmt: skip
        missing = 0
        for at, row in enumerate(records):
            try:
                missing += aligned_score(row) is None
            except RecordError as error:
                raise RecordError(f"Record {at + 1}: {error}") from error
        if missing == len(records):
            why = (
                "each is longer than an aligned model reads, or has no answer"
                if self.references
                else "give `references`, aligned models that score them, or the column `mean_aligned_score` or `scores`"
            )
            raise RecordError(f"None of {len(records):,} records has a score of aligned models: {why}.")
        if missing:
            tell(f"{missing:,} of {len(records):,} records lack a score of an aligned model and are left out.")
        return records


def _tell_overlap(model: Any, records: Records) -> None:
    for step in getattr(model, "history", ()):
        if step.data and step.data.get("fingerprint") == records.fingerprint:
            tell(f"{model.name} was trained on these records ({step.method}): its scores of them are too high.")
