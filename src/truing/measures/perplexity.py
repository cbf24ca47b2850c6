"""Perplexity on held-out text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Measure
from truing.errors import RecordError
from truing.measures.asking import Context, check_limit, check_split, search_notes, without_search
from truing.measures.result import Column, Outcome
from truing.models.core import context_length
from truing.models.local import same_vocabulary

if TYPE_CHECKING:
    from truing.models import AnyModel


class Perplexity(Measure):
    """Perplexity on held-out text: the exponential of the mean negative log-likelihood of a token.

    The mean is over all tokens; the bootstrap resamples whole documents. Models with different tokenizers count
    different tokens, so their perplexities cannot be compared; a note says so. A search modifier is left out.

    Args:
        texts: a list of texts, or a text file in UTF-8 in which blank lines part the documents; None for articles of
            the sandbox that no model has seen word for word.
        limit: at most that many documents; None for 200 articles, or all texts.
        split: of the sandbox's articles: "dev" to tune on, "test" to report.
        seed: of the articles and of bootstrap intervals.
    """

    gives: ClassVar[tuple[str, ...]] = ("perplexity",)
    texts: Path | Sequence[str] | str | None = None
    limit: int | None = None
    split: str = "test"
    seed: int = 0
    needs = frozenset({"logits"})

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_limit(self.limit)
        check_split(self.split)

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        policy = without_search(model)
        texts = self.documents(policy)

        def work(rows: list[int]) -> list[Any]:
            found = policy.text_logprobs([texts[row] for row in rows])
            return [[-float(values.sum(dtype="float64")), len(values)] for values in found]

        found = context.compute(context.origin(policy), [{"text": text} for text in texts], work, model.name, 32)
        rows = [
            {"id": f"text-{at + 1}", "text": text, "nll": total / tokens if tokens else None, "tokens": tokens}
            for at, (text, (total, tokens)) in enumerate(zip(texts, found))
        ]
        notes = search_notes("`perplexity`", model)
        short = sum(not tokens for _, tokens in found)
        if short:
            notes.append(f"{short} texts hold a single token, which nothing predicts; they do not count.")
        if context.against is not None and not same_vocabulary(policy, context.against):
            notes.append(
                f"{model.name} and {context.against.name} cut text into different tokens, so their perplexities "
                "cannot be compared."
            )
        column = Column("nll", "perplexity", "lower", "exp_mean", weight="tokens")
        return Outcome(rows, {"perplexity": column}, notes)

    def documents(self, model: Any) -> list[str]:
        """The texts, each short enough for the model.

        Raises:
            RecordError: there is none, one cannot be read, or one is too long.
        """
        texts = self._read()
        _check_lengths(model, texts)
        return texts

    def _read(self) -> list[str]:
        if self.texts is None:
            from truing.sandbox import heldout_text

            return heldout_text(self.split, self.limit or 200, self.seed)
        if isinstance(self.texts, (str, Path)):
            try:
                whole = Path(self.texts).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise RecordError(f"{str(self.texts)[:200]} cannot be read as text in UTF-8: {error}.") from None
            found = [part.strip() for part in re.split(r"\n\s*\n", whole)]
        else:
            found = list(self.texts)
            wrong = next((at for at, text in enumerate(found) if not isinstance(text, str)), None)
            if wrong is not None:
                raise RecordError(f"Perplexity reads texts, and number {wrong + 1} is {type(found[wrong]).__name__}.")
        found = [text for text in found if text.strip()][: self.limit]
        if not found:
            raise RecordError("Perplexity was given no text.")
        return found


def _check_lengths(model: Any, texts: Sequence[str]) -> None:
    most = context_length(model.weights)
    for at, text in enumerate(texts):
        # A token has at least one letter, so most texts need no look.
        if most and len(text) >= most:
            count = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
            if count >= most:
                raise RecordError(
                    f"Text {at + 1} has {count} tokens, and {model.name} reads {most} at most, its start included. "
                    "Part it into shorter texts (by blank lines in a file)."
                )
