"""How well a claim is supported by a context, by one trained model of pairs (Zha et al. 2023)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from truing.contracts import Prompt, is_number, is_whole, require
from truing.errors import RewardError, SettingsError
from truing.rewards import ConfiguredReward, check_pairs
from truing.rewards.alignment_rule import MODES, TARGET_WORDS, aggregate, chunks, head_values, sentences
from truing.rewards.judge import loaded

if TYPE_CHECKING:
    from pathlib import Path

    from truing.models import AnyModel
    from truing.records import Records

Text = str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was found for one claim; printed, it is the matrix of evidence.

    Args:
        score: the AlignScore; NaN for a claim without a sentence.
        chunks: of the context.
        sentences: of the claim.
        matrix: what the head says of each chunk and sentence, [chunks][sentences].
    """

    score: float
    chunks: list[str]
    sentences: list[str]
    matrix: list[list[float]]

    @property
    def best(self) -> list[float]:
        """Each sentence's value with the chunk that supports it best."""
        return [max(column) for column in zip(*self.matrix)]

    @property
    def evidence(self) -> list[str]:
        """Each sentence's best chunk; the first of equal ones."""
        return [self.chunks[max(range(len(column)), key=column.__getitem__)] for column in zip(*self.matrix)]

    def __str__(self) -> str:
        from truing.safe_text import visible

        def short(text: str, most: int) -> str:
            line = " ".join(visible(text, 400).split())
            return line if len(line) <= most else line[: most - 1] + "…"

        lines = [f"AlignScore {self.score:.3f}" if self.sentences else "AlignScore: the claim has no sentence"]
        for at, sentence in enumerate(self.sentences):
            lines.append(f"{self.best[at]:.3f}  {short(sentence, 100)}")
            order = sorted(range(len(self.chunks)), key=lambda row: -self.matrix[row][at])[:3]
            lines += [
                f"       {self.matrix[row][at]:.3f}  chunk {row + 1}: {short(self.chunks[row], 90)}" for row in order
            ]
        return "\n".join(lines)


class AlignScore(ConfiguredReward):
    """How well what a response says is supported by its context, by a trained model of pairs.

    The context is split into chunks of about 350 words, the claim into sentences; each sentence counts with the chunk
    that supports it best, and the score is their mean. As a reward it scores each response against its context: the
    column ``context`` of the record that the prompt comes from, or else the text of the prompt itself. Equal pairs are
    computed once, and pairs of similar length of all examples together.

    Scores rank claims within a kind of text. They are no calibrated probabilities: choose a threshold on held-out data.

    Source: Zha, Yang, Li and Hu, "AlignScore: Evaluating Factual Consistency with a Unified Alignment Function", ACL
    2023 (arXiv 2305.16739).

    Args:
        scorer: a model trained by `AlignScoreTraining`, or its folder; a folder with the published checkpoint's
            tensors as safetensors is read too.
        mode: "nli_sp" (probability of "aligned" of three), "bin_sp" (of two) or "reg_sp" (the regression head, not
            bounded), chunk by chunk; "nli", "bin" and "reg" score the whole pair at once.
        column: of records that hold the context, for rewards that are bound to records.
        records: that hold contexts by prompt, for methods that give their reward no records.
        split: a function that gives the sentences of a text, such as ``nltk.sent_tokenize`` (Punkt), which the
            published scores use; None for `truing.rewards.alignment_rule.sentences`.
        target_words: how many words a chunk is meant to have.
        max_length: most tokens of a pair; more lose the end of the chunk.
        empty: the reward of a response without a sentence.
        batch_size: pairs at a time; by default a budget of 8192 tokens.

    Example:
        >>> import truing as tr
        >>> rows = tr.sandbox.records("consistency", n=64)
        >>> scorer = tr.AlignScoreTraining(learning_rate=1e-3, epochs=1).align(tr.load("sandbox/small"), rows)
        >>> evidence = tr.AlignScore(scorer=scorer).score([rows[0]["prompt"]], [rows[0]["completion"]])[0]
        >>> 0 <= evidence.score <= 1
        True
    """

    scorer: AnyModel | str
    mode: str = "nli_sp"
    column: str = "context"
    records: Records | Sequence[dict[str, Any]] | str | Path | None = None
    split: Callable[[str], list[str]] | None = None
    target_words: int = TARGET_WORDS
    max_length: int = 512
    empty: float = 0.0
    batch_size: int | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(
            isinstance(self.scorer, str) or hasattr(self.scorer, "pair_logits"),
            f"scorer is a model trained by AlignScoreTraining, or its folder, not {self.scorer!r}.",
        )
        require(self.mode in MODES, f"mode is one of {', '.join(MODES)}, not {self.mode!r}.")
        require(self.split is None or callable(self.split), f"split is a function of a text, not {self.split!r}.")
        for name in ("target_words", "max_length", "batch_size"):
            value = getattr(self, name)
            fits = (is_whole(value) and value > 0) or (name == "batch_size" and value is None)
            require(fits, f"{name} is a whole number over 0, not {value!r}.")
        require(self.max_length >= 16, f"max_length leaves no room for two texts: {self.max_length}. Give 16 or more.")
        require(is_number(self.empty), f"empty is a finite number, not {self.empty!r}.")
        require(isinstance(self.column, str) and bool(self.column), f"column is a name, not {self.column!r}.")

    def bind(self, records: Records | Sequence[dict[str, Any]] | str | Path) -> AlignScore:
        """The same reward with the contexts of these records, by their prompts; a record without one counts with the
        text of its prompt."""
        self.validate()
        made = self.clone()
        made.__dict__["_contexts"] = self._read(records)
        return made

    def score(self, contexts: Sequence[Text], claims: Sequence[Text]) -> list[Evidence]:
        """The score of each claim against its context, with the matrix that it comes from.

        Args:
            contexts: n texts, or n lists of their sentences.
            claims: n texts, or n lists of their sentences. A claim without a sentence gets NaN.

        Raises:
            SettingsError: a setting cannot work.
            RewardError: there is not one claim for each context, or one is no text.
        """
        self.validate()
        _check(contexts, claims)
        split, whole = self.split or sentences, "_" not in self.mode
        # Texts repeat (one source, many claims); each is split once.
        known: dict[Any, list[str]] = {}

        def parts(text: Text, of: str) -> list[str]:
            key = (of, text if isinstance(text, str) else tuple(text))
            if key not in known:
                if whole:
                    joined = text if isinstance(text, str) else " ".join(text)
                    known[key] = [joined] if joined.strip() or of == "context" else []
                elif of == "context":
                    known[key] = chunks(text, self.target_words, split)
                else:
                    known[key] = split(text) if isinstance(text, str) else [one for one in text if one.strip()]
            return known[key]

        sides = [(parts(context, "context"), parts(claim, "claim")) for context, claim in zip(contexts, claims)]
        values = self.pairs([pair for one, two in sides for pair in itertools.product(one, two)])
        out, at = [], 0
        for one, two in sides:
            size = len(one) * len(two)
            matrix = values[at : at + size].reshape(len(one), len(two))
            at += size
            out.append(Evidence(aggregate(matrix), list(one), list(two), matrix.tolist()))
        return out

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """What the mode's head says of pairs of texts as they are, float64 [n]."""
        model = self.model
        found = model.pair_logits(pairs, max_length=self.max_length, batch_size=self.batch_size)
        values = head_values(found)[self.mode.removesuffix("_sp")]
        if not np.isfinite(values).all():
            raise RewardError(f"{model.name} gives values that are not finite. Check its weights.")
        return values

    @property
    def model(self) -> Any:
        """The scorer, loaded once.

        Raises:
            SettingsError: what the name stands for has no three heads.
        """
        found = loaded(self, self.scorer)
        if not hasattr(found, "pair_logits"):
            raise SettingsError(
                f"{found.name} has no heads that judge pairs. Train some on it: "
                "`truing align align-score-training --model sandbox/base --records sandbox/consistency --out DIR`."
            )
        return found

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        found = self.score([self._context(prompt) for prompt in prompts], responses)
        return [self.empty if one.score != one.score else one.score for one in found]

    def _context(self, prompt: Prompt) -> str:
        known = self.__dict__.get("_contexts")
        if known is None:
            known = self.__dict__["_contexts"] = {} if self.records is None else self._read(self.records)
        text = text_of(prompt)
        return known.get(text, known.get(text_of(prompt, system=False), text))

    def _read(self, records: Any) -> dict[str, str]:
        from truing.records import as_records

        found = {}
        for row in as_records(records, what=type(self).__name__):
            if "prompt" in row and isinstance(row.get(self.column), str):
                found[text_of(row["prompt"])] = row[self.column]
        return found


def text_of(prompt: Prompt, system: bool = True) -> str:
    """The text of a conversation, its messages parted by a blank line."""
    from truing.models.chat import as_messages

    return "\n\n".join(one["content"] for one in as_messages(prompt) if system or one["role"] != "system")


def _check(contexts: Sequence[Text], claims: Sequence[Text]) -> None:
    if isinstance(contexts, str) or isinstance(claims, str):
        raise RewardError("score takes a list of contexts and a list of claims, and was given a string.")
    check_pairs("AlignScore", [""] * len(contexts), [""] * len(claims))
    for name, texts in (("context", contexts), ("claim", claims)):
        for at, text in enumerate(texts):
            parts = [text] if isinstance(text, str) else text
            if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
                raise RewardError(f"AlignScore reads texts or lists of sentences, and {name} {at} is {text!r:.80}.")
