"""The four kinds of modifier: small serialisable objects that change what a model does without changing its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from truing.contracts import Message, Settings

if TYPE_CHECKING:
    from truing.models.engine import Engine, Row
    from truing.models.types import Completion, Sampling


class Modifier(Settings):
    """Base of the four kinds.

    Fields are settings (JSON values), tensors, or models. Saving writes settings to ``truing.json``, tensors to
    safetensors, and models to a folder of their own unless they can be loaded by name. ``label`` is what a user sees.
    ``dial`` names the field that says how strongly it acts, or is None: sweeps, `Stacked.with_strength`, the server and
    ``/strength`` in a chat turn that one.
    """

    kind: ClassVar[str] = ""
    dial: ClassVar[str | None] = None

    @property
    def label(self) -> str:
        """A few words for lists and reports."""
        return repr(self)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields that are tensors."""
        return {name: value for name, value in self.settings().items() if isinstance(value, torch.Tensor)}


class PromptModifier(Modifier):
    """Changes the messages before the chat template.

    It may also give the whole conversation another form than the template's (`rendered`), end answers at strings of its
    own (`stops`), and take off what that form leaves at an answer's edges (`clean`).
    """

    kind = "prompt"

    def messages(self, messages: list[Message]) -> list[Message]:
        """The changed conversation; the list given must not be changed in place."""
        raise TypeError(f"{type(self).__name__} defines no messages().")

    def batch(self, conversations: Sequence[list[Message]]) -> list[list[Message]]:
        """Several conversations; one that asks a model overrides this, to ask once."""
        return [self.messages(messages) for messages in conversations]

    def rendered(self, messages: list[Message]) -> str | None:
        """The conversation, after all prompt modifiers, as the plain text that the answer continues; None leaves it to
        the chat template. Where several modifiers give a text, that of the last one counts.
        """
        return None

    def stops(self) -> Sequence[str]:
        """Strings before which an answer ends, besides those that a call asks for."""
        return ()

    def clean(self, text: str, ended: bool) -> str:
        """The answer that a text is.

        Args:
            text: what was written, up to the first stop string.
            ended: False while it is being written: then the beginning of the answer that stands whatever follows.
        """
        return text


class ActivationModifier(Modifier):
    """Changes hidden states after chosen decoder layers, in every forward pass."""

    kind = "activation"

    def layers(self) -> Sequence[int]:
        """Indices of the decoder layers whose output is edited, counted from 0; negative ones count from the end."""
        raise TypeError(f"{type(self).__name__} defines no layers().")

    @property
    def positional(self) -> bool:
        """Whether the edit depends on positions; one that does not spares finding them."""
        return True

    @property
    def by_prompt(self) -> bool:
        """Whether the edit depends on where the prompt ends; such a modifier overrides `edit_after`."""
        return False

    def ready(self) -> Any:
        """What stands in for this modifier in many forward passes; one that can prepare something overrides it."""
        return self

    def edit(self, hidden: torch.Tensor, layer: int, positions: torch.Tensor) -> torch.Tensor:
        """New hidden states, shape [batch, tokens, width], for those of one layer.

        Must be pure, since a layer may run again in recomputation. ``positions`` [batch, tokens] are the true positions
        of the tokens in their rows, padding apart; slots are not positions.
        """
        raise TypeError(f"{type(self).__name__} defines no edit().")

    def edit_after(
        self, hidden: torch.Tensor, layer: int, positions: torch.Tensor, prompts: torch.Tensor
    ) -> torch.Tensor:
        """As `edit`, knowing too how many tokens of each row are its prompt, ``prompts`` [batch, 1]."""
        return self.edit(hidden, layer, positions)


class LogitsModifier(Modifier):
    """Changes next-token scores."""

    kind = "logits"

    @property
    def limit(self) -> int | None:
        """Most tokens of a row that it can judge (those of a second model, say); None where nothing bounds it."""
        return None

    def adjust(self, logits: torch.Tensor, prefixes: Sequence[Sequence[int]], session: dict[Any, Any]) -> torch.Tensor:
        """New scores, shape [rows, vocabulary], for the position after each prefix.

        Args:
            logits: float32 scores of the model, after earlier modifiers.
            prefixes: all token ids of each row so far, prompt included, padding apart.
            session: a dict that lives as long as the generation; keep caches of a second model here, keyed by
                prefix, so that rows may join, leave and roll back.
        """
        raise TypeError(f"{type(self).__name__} defines no adjust().")


class SearchModifier(Modifier):
    """Decides in which order continuations are explored. A model carries one at most.

    ``streams`` says that its search passes answers on by itself, piece by piece, to ``engine.stream`` where there is
    one; of other searches each answer is shown in one piece when it is done.
    """

    kind = "search"
    streams: ClassVar[bool] = False

    def branches(self, sampling: Sampling) -> int:
        """Most rows that the search of one prompt has in flight; so many prompts are searched together as then fit."""
        return sampling.n

    def search(self, engine: Engine, rows: Sequence[Row], sampling: Sampling) -> list[list[Completion]]:
        """For each row, its ``sampling.n`` completions."""
        raise TypeError(f"{type(self).__name__} defines no search().")
