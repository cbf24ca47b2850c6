"""CUT: learn from written judgments which tokens of an answer to keep, and which to make unlikely."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from truing.contracts import Message, Prompt, is_number, require
from truing.errors import RecordError, TrainingError
from truing.methods.training import losses
from truing.methods.training.batches import Batch
from truing.methods.training.encoding import Example, Row, turn
from truing.methods.training.losses import judged as judged_losses
from truing.methods.training.method import TrainingMethod, tell
from truing.methods.training.objective import Objective, Term, mean_of
from truing.methods.training.policy import Scores
from truing.models import Model, chat
from truing.records import Records

# The instruction comes first, so that the judged and the plain prompt begin alike and that part is computed once.
TEMPLATE = (
    "{instruction}\n\nThe response to this was judged as follows: {judgment}\n\n"
    "Write the response that fits this judgment."
)
# Above this share of flagged tokens a training gets worse, not better.
_MANY = 0.5


def judged_prompt(prompt: Prompt, judgment: str, template: str = TEMPLATE) -> list[Message]:
    """The prompt with a judgment in it: the last user message, filled into the template.

    Args:
        prompt: text or messages.
        judgment: of an answer to it.
        template: holds ``{instruction}`` and ``{judgment}``.

    Raises:
        RecordError: there is no user message that a judgment could stand in.
    """
    messages = chat.as_messages(prompt)
    asked = [at for at, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        raise RecordError("CUT puts the judgment into the last user message, and this prompt has none.")
    at = asked[-1]
    slots = {"instruction": messages[at]["content"], "judgment": judgment}
    # One pass, so that braces inside the instruction or the judgment stay text.
    text = re.sub(r"\{(instruction|judgment)\}", lambda found: slots[found[1]], template)
    return [*messages[:at], {**messages[at], "content": text}, *messages[at + 1 :]]


class CUTObjective(Objective):
    """Likelihood of every answer in its context, and the contrast of criticised answers with and without the judgment.

    A criticised answer is one row with two answers of the same tokens: after the judged prompt, then after the plain
    one. A satisfactory answer stands once, after its plain prompt.

    Args:
        threshold, alpha, gamma, template, praise, contrast_after: see `CUT`.
    """

    record_kind = "judgment"

    def __init__(
        self, threshold: float, alpha: float, gamma: float | None, template: str = TEMPLATE,
        praise: str | None = None, contrast_after: float = 0.0,
    ) -> None:  # fmt: skip
        self.threshold, self.alpha, self.gamma = threshold, alpha, gamma
        self.template, self.praise, self.contrast_after = template, praise, contrast_after

    def examples(self, row: dict[str, Any]) -> list[Example]:
        """One example: the answer after one prompt, or after two."""
        prompt, text = turn(row["prompt"], row["completion"])
        values = {"alpha": _alpha(row, self.alpha), "unfinished": float(bool(row.get("unfinished")))}
        if row["label"]:
            return [Example([(prompt, text)], values)]
        if not row["judgment"].strip():
            raise RecordError(
                "the answer is labelled as not satisfactory, and its judgment is empty. CUT learns from what the "
                "judgment says: write it, or leave the record out."
            )
        contrasted = prompt if self.praise is None else judged_prompt(prompt, self.praise, self.template)
        return [Example([(judged_prompt(prompt, row["judgment"], self.template), text), (contrasted, text)], values)]

    def arrange(self, rows: list[Row]) -> list[Row]:
        """The same answer in both contexts, token for token, and an unfinished one without an end."""
        out = []
        for row in rows:
            answers = list(row.answers)
            # Cut to one length, the two still have the same tokens.
            kept = min(len(answer) for _, answer in answers)
            kept -= int(bool(row.values["unfinished"]) and kept > 1)
            answers = [(prompt, answer[:kept]) for prompt, answer in answers]
            if any(answer != answers[0][1] for _, answer in answers):
                raise TrainingError(
                    f"The answer of record {row.index + 1} has other tokens after the judged prompt than after the "
                    "plain one, so they cannot be compared token by token."
                )
            out.append(Row(row.index, tuple(answers), row.values))
        return out

    def units(self, batch: Batch) -> dict[str, int]:
        """Also the tokens of criticised answers."""
        return {**batch.units, "criticised_token": int(batch.lengths[batch.slot == 1].sum())}

    def _contrast(self, scores: Scores) -> tuple[judged_losses.Contrast, Tensor, Tensor]:
        """The first contrast, log b_t and the mask, of the M criticised answers."""
        plain = (scores.slot == 1).nonzero()[:, 0]
        rows = scores.owner[plain]  # first answers stand in the order of their rows
        tokens, mask = scores.tokens[plain], scores.mask[plain]
        found = judged_losses.cut_contrast(
            scores.tokens[rows], tokens, mask,
            threshold=self.threshold, alpha=scores.values["alpha"][rows], gamma=self.gamma,
        )  # fmt: skip
        return found, tokens, mask

    def terms(self, scores: Scores) -> list[Term]:
        """Second and first contrast of the paper (L2, L1), each a mean over the tokens of the optimiser step."""
        first = scores.slot == 0
        likelihood = Term(-losses.sequence_logps(scores.tokens[first], scores.mask[first]), "token")
        if bool(first.all()) or self.progress < self.contrast_after:
            return [likelihood]
        return [likelihood, Term(self._contrast(scores)[0].loss, "criticised_token")]

    def metrics(self, scores: Scores) -> dict[str, Tensor]:
        """Share of flagged tokens, and log-probability in nats of flagged and of kept ones, of criticised answers."""
        first = scores.slot == 0
        out = {"logps/first": (scores.tokens[first] * scores.mask[first]).sum(1) / scores.lengths[first]}
        if bool(first.all()):
            return out
        found, tokens, mask = self._contrast(scores)
        out["flagged"] = found.flagged[mask].float()
        for name, where in (("flagged", found.flagged), ("kept", mask & ~found.flagged)):
            if bool(where.any()):
                out[f"logps/{name}"] = tokens[where]
        return out

    def verdict(self, metrics: list[dict[str, float]]) -> list[str]:
        """A warning where more than half of the tokens were flagged."""
        share = mean_of(metrics, "flagged")
        if share <= _MANY:
            return []
        return [
            f"By the end {share:.0%} of the tokens of criticised answers were flagged: most of each answer is being "
            "unlearned. Raise the threshold, lower alpha or the learning rate, or look whether the judgments quote the "
            "answers."
        ]


class CUT(TrainingMethod):
    """Learn from judgments in words: unlearn the tokens of an answer that its judgment makes likelier, keep the rest.

    A criticised answer is scored twice: after a prompt that holds the judgment (a_t) and after the plain prompt (b_t).
    Tokens with a_t > threshold * b_t are what the judgment speaks of; they get -alpha w_t log(1 - b_t), all others
    -log b_t (first contrast). The answer is also learned where the judgment stands in the prompt, which is what makes
    the model understand judgments, and satisfactory answers are learned as in fine-tuning (second contrast). The loss
    is the sum of both, each a mean over the tokens of the optimiser step. Xu et al. 2024, arXiv 2312.14591.

    Departures: the paper's text has a fake praise in the plain prompt, its template and code have none (``praise``);
    the code halves the loss, and takes one alpha for a whole batch. Inference needs no judgment. For the paper's
    adapter: ``adapter={"r": 16, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ["gate_proj", "up_proj",
    "down_proj"]}, learning_rate=4e-4``. Prompts are cut from the left where a row is too long; an answer that takes
    more than three quarters of ``max_length`` loses its end, alike in both contexts.

    Records are judgments: ``label`` true is satisfactory, and its judgment is not read. Two more columns are read where
    they are there: ``alpha``, for this record alone, and ``unfinished``, true for an answer that was cut off, whose end
    is then not learned.

    Args:
        threshold: lambda: how much likelier the judgment must make a token that is unlearned; the paper uses 1.1, 1.2.
        alpha: weight of unlearned tokens; the paper uses 0.25 to 1.
        gamma: w_t = a_t ** gamma, a weight without gradient (0.25 to 2 in the paper); None for w_t = 1, as in the code.
        template: the last user message with a judgment, with ``{instruction}`` and ``{judgment}``.
        praise: a judgment, as if the answer were good, for the plain side of the contrast; None for no judgment there.
        contrast_after: share of the training in which the second contrast acts alone. The first one is worth what the
            model understands of judgments: one that was never shown any (a small base) flags at random, and takes 0.5.

    Example:
        >>> import truing as tr
        >>> model = tr.load("sandbox/base")
        >>> aligned = tr.CUT(learning_rate=5e-4).align(model, "sandbox/judgments")
    """

    threshold: float = 1.1
    alpha: float = 1.0
    gamma: float | None = None
    template: str = TEMPLATE
    praise: str | None = None
    contrast_after: float = 0.0
    max_length: int = 2048
    truncate: str = "start"
    schedule: str = "cosine"

    record_kinds: ClassVar[tuple[str, ...]] = ("judgment",)
    paper: ClassVar[int | None] = 22

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            is_number(self.threshold) and self.threshold > 0, f"threshold is a number over 0, not {self.threshold!r}."
        )
        require(is_number(self.alpha) and self.alpha >= 0, f"alpha is a number of at least 0, not {self.alpha!r}.")
        fits = self.gamma is None or (is_number(self.gamma) and self.gamma >= 0)
        require(fits, f"gamma is None or a number of at least 0, not {self.gamma!r}.")
        for slot in ("{instruction}", "{judgment}"):
            fits = isinstance(self.template, str) and self.template.count(slot) == 1
            require(fits, f"template is a text that holds {slot} once, not {self.template!r}.")
        fits = self.praise is None or (isinstance(self.praise, str) and bool(self.praise.strip()))
        require(fits, f"praise is None or a judgment in words, not {self.praise!r}.")
        share = self.contrast_after
        require(is_number(share) and 0 <= share < 1, f"contrast_after is a share from 0 to under 1, not {share!r}.")

    def objective(self) -> CUTObjective:
        """Both contrasts."""
        return CUTObjective(self.threshold, self.alpha, self.gamma, self.template, self.praise, self.contrast_after)

    def prepare(self, model: Model, records: Records, out: Path | None) -> Records:
        """The records as they are, after a word on what cannot be learned from them."""
        for note in _notes(records):
            tell(note)
        return records


def _alpha(row: dict[str, Any], default: float) -> float:
    value = row.get("alpha", default)
    if not is_number(value) or value < 0:
        raise RecordError(f"column `alpha` is a weight of at least 0, not {value!r}.")
    return float(value)


def _notes(rows: Iterable[dict[str, Any]]) -> list[str]:
    criticised = quoting = good = 0
    for row in rows:
        good += bool(row["label"])
        if not row["label"]:
            criticised += 1
            text = turn(row["prompt"], row["completion"])[1].strip()
            # A word or two may well be what the judgment is about.
            quoting += len(text.split()) > 2 and text in row["judgment"]
    notes = []
    if not criticised:
        notes.append(f"All {good:,} answers are labelled satisfactory: without criticism CUT is plain fine-tuning.")
    if quoting:
        notes.append(
            f"{quoting:,} of {criticised:,} judgments quote the whole answer, which makes each of its tokens likelier "
            "and gets them all flagged. Let judgments name the mistakes only."
        )
    return notes
