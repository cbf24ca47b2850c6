"""Demonstrations that are like what is asked, as examples before it: in-context learning by retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from truing.contracts import Message, Method, is_whole, require, require_whole
from truing.errors import RecordError
from truing.methods.prompting import forms
from truing.methods.prompting.similarity import SIMILARITIES, Index
from truing.methods.prompting.urial import own_turns
from truing.models import chat
from truing.models.core import context_length

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records


class RetrievedDemonstrationsModifier(forms.ExamplesModifier):
    """Puts the demonstrations that are likest to the last message of the user before the conversation, the likest last.

    Args:
        pool: demonstrations, each the messages of user and assistant by turns.
        sizes: of each, in tokens (in characters, where the model has no tokenizer here).
        k: how many.
        budget: most of those tokens or characters that demonstrations may take; None for no limit.
        similarity: "bm25" or "tfidf".
        leave_out_asked: whether a demonstration of the very prompt that is asked is passed over.
    """

    pool: list[list[Message]]
    sizes: list[int]
    k: int = 3
    budget: int | None = None
    similarity: str = "bm25"
    leave_out_asked: bool = True

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return f"RetrievedDemonstrations({self.k} of {len(self.pool):,}, {self.similarity})"

    def messages(self, messages: list[Message]) -> list[Message]:
        """The conversation after its demonstrations; the list given is left as it was."""
        query = next((each["content"] for each in reversed(messages) if each["role"] == "user"), "")
        return self.placed([turn for at in self.chosen(query) for turn in self.pool[at]], messages)

    def chosen(self, query: str) -> list[int]:
        """The numbers of a query's demonstrations, the likest last; one that does not fit makes room for the next."""
        found: list[int] = []
        left = self.budget
        asked = " ".join(query.split())
        for at in self._index().ranked(query):
            if len(found) == self.k:
                break
            if self.leave_out_asked and " ".join(_asked(self.pool[at]).split()) == asked:
                continue
            if left is not None:
                if self.sizes[at] > left:
                    continue
                left -= self.sizes[at]
            found.append(at)
        return found[::-1]

    def _index(self) -> Index:
        # Made in use, and no setting: it is neither saved nor compared.
        held: Index | None = self.__dict__.get("_made")
        if held is None:
            held = self.__dict__["_made"] = Index([_asked(turns) for turns in self.pool], self.similarity)
        return held


def _asked(turns: Sequence[Message]) -> str:
    return next(str(turn["content"]) for turn in reversed(turns) if turn["role"] == "user")


class RetrievedDemonstrations(Method):
    """Show a model the demonstrations that are likest to what is asked, as earlier turns; nothing is trained.

    Likeness is that of the words in the last message of the user and in the last one of a demonstration. The k likest
    come before the conversation, the likest last, nearest to the question. Of equally like ones the first in the
    records is taken, so the same query always sees the same examples. Unlike URIAL's, these prompts have little in
    common, so each query's examples are read anew. It is the stronger in-context baseline of Lin et al. 2024, who
    retrieve by sentence embeddings.

    Args:
        k: how many demonstrations.
        similarity: "bm25", or "tfidf" for the cosine of TF-IDF vectors.
        max_tokens: most tokens that the demonstrations of a prompt may take together; None for half of what a local
            model reads, and no limit for a remote one, of which characters are counted, three a token. One that does
            not fit is passed over for the next.
        leave_out_asked: pass over demonstrations of the very prompt that is asked, whose answer would be given away.
        instruction: a system message before them; "" for none.
        style: "turns", "fenced", "headings" or "auto"; see `URIAL`.

    Example:
        >>> import truing as tr
        >>> shown = tr.RetrievedDemonstrations(k=2).align(tr.load("sandbox/base"), "sandbox/demonstrations")
    """

    k: int = 3
    similarity: str = "bm25"
    max_tokens: int | None = None
    leave_out_asked: bool = True
    instruction: str = ""
    style: str = "auto"

    record_kinds: ClassVar[tuple[str, ...]] = ("demonstration",)
    modifier: ClassVar[str | None] = "prompt"
    paper: ClassVar[int | None] = 6
    quick: ClassVar[dict[str, Any]] = {"k": 2}

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        require(is_whole(self.k) and self.k >= 1, f"k is a number of demonstrations, at least 1, not {self.k!r}.")
        require(
            self.similarity in SIMILARITIES,
            f"similarity is one of {', '.join(SIMILARITIES)}, not {self.similarity!r}.",
        )
        require_whole(self, ("max_tokens",), optional=("max_tokens",))
        require(isinstance(self.leave_out_asked, bool), f"leave_out_asked is true or false: {self.leave_out_asked!r}.")
        require(isinstance(self.instruction, str), f'instruction is a text, "" for none, not {self.instruction!r}.')
        forms.check_style(self.style)

    def _align(self, model: AnyModel, records: Records | None, out: Path | None) -> AnyModel:
        pool = [own_turns([row], type(self).__name__) for row in records or ()]
        for at, turns in enumerate(pool, 1):
            if not any(turn["role"] == "user" for turn in turns):
                raise RecordError(f"Record {at}: a demonstration without a message of a user is like no query.")
        tokenizer = getattr(model, "tokenizer", None)
        sizes = [sum(_size(tokenizer, turn["content"]) for turn in turns) for turns in pool]
        budget = self._budget(model)
        if budget is not None and min(sizes) > budget:
            raise RecordError(
                f"The shortest of {len(pool)} demonstrations takes {min(sizes)} tokens, and {budget} are allowed. "
                "Raise `max_tokens`, or give shorter ones."
            )
        return model.with_modifier(
            RetrievedDemonstrationsModifier(
                pool=pool,
                sizes=sizes,
                k=self.k,
                budget=budget,
                similarity=self.similarity,
                leave_out_asked=self.leave_out_asked,
                instruction=self.instruction,
                style=forms.style_for(model, self.style),
            )
        )

    def _budget(self, model: Any) -> int | None:
        if "local_weights" not in model.offers:
            each = 3 if getattr(model, "tokenizer", None) is None else 1  # characters a token
            return None if self.max_tokens is None else each * self.max_tokens
        limit = context_length(model.weights)
        return self.max_tokens if self.max_tokens is not None else limit // 2 if limit else None


def _size(tokenizer: Any, text: str) -> int:
    """Tokens with a few for the form of a turn; characters where there is no tokenizer."""
    return len(chat.encode_plain(tokenizer, text)) + 8 if tokenizer is not None else len(text) + 24
