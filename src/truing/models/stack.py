"""What a local and a remote model share: modifiers in order, history, and saving. A change gives a new model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from truing.contracts import Message, Method, Prompt, is_number
from truing.errors import SettingsError, StackError
from truing.models import chat
from truing.models.modifiers import Modifier, PromptModifier
from truing.models.types import Step

if TYPE_CHECKING:
    from truing.records import Records


class Stacked:
    """Base of `Model` and `RemoteModel`, which are frozen dataclasses with the fields ``modifiers`` and ``history``."""

    if TYPE_CHECKING:

        @property
        def modifiers(self) -> tuple[Modifier, ...]: ...

        @property
        def history(self) -> tuple[Step, ...]: ...

        @property
        def source(self) -> str: ...

    @property
    def name(self) -> str:
        """A short name for people."""
        source = self.source
        return source.rstrip("/").split("/")[-1] if source.startswith(("/", ".", "~")) else source or "model"

    def __repr__(self) -> str:
        steps = "".join(f", {step.method}" for step in self.history)
        return f"{type(self).__name__}({self.source!r}{steps})"

    @property
    def policy(self) -> Self:
        """The same model without its search modifier."""
        return self._changed(modifiers=tuple(m for m in self.modifiers if m.kind != "search"))

    def with_modifier(self, modifier: Modifier) -> Self:
        """The same model with one more modifier."""
        self.check_stack(modifier.kind, type(modifier).__name__)
        return self._changed(modifiers=(*self.modifiers, modifier))

    def check_stack(self, kind: str, name: str) -> None:
        """Raise `StackError` if a modifier of this kind cannot be added."""
        if kind == "search":
            for modifier in self.modifiers:
                if modifier.kind == "search":
                    raise StackError(
                        f"{name} and {type(modifier).__name__} both decide how answers are searched for; "
                        "a model carries one. Call `unstack()` first."
                    )

    def with_step(self, method: Method, records: Records | None) -> Self:
        """The same model with one more entry in its history."""
        from truing.models.history import step

        return self._changed(history=(*self.history, step(method, records)))

    def unstack(self) -> Self:
        """The model before its last step, where that step added a modifier.

        Raises:
            StackError: the last step trained weights, or is of a method that the catalogue does not know, or there is
                no step.
        """
        from truing.catalogue import find

        if not self.history:
            raise StackError(f"{self.name} has no step to take off.")
        last = self.history[-1].method
        try:
            trained = find(last, kind="method").load().modifier is None
        except SettingsError as error:
            raise StackError(
                f"Whether {last} trained the weights or added a modifier is not known, since the catalogue has no such "
                "method. Register it with `truing.catalogue.register`."
            ) from error
        if trained or not self.modifiers:
            raise StackError(
                f"{last} trained the weights, which cannot be undone. Load the model from before that step."
            )
        return self._changed(modifiers=self.modifiers[:-1], history=self.history[:-1])

    def find_modifier(self, which: str | int | None = None) -> int:
        """Where in the stack a modifier is.

        Args:
            which: its name in the catalogue (``"steering"``), the last one where there are several; or its place; or
                None for the last one that has a dial.

        Raises:
            SettingsError: there is none.
        """
        from truing.models.history import name_of

        names = [name_of(type(modifier)) for modifier in self.modifiers]
        found = [
            at
            for at, (modifier, name) in enumerate(zip(self.modifiers, names))
            if (modifier.dial is not None if which is None else which in (name, at, type(modifier).__name__))
        ]
        if not found:
            wanted = "modifier with a strength" if which is None else f"modifier {which!r}"
            raise SettingsError(f"{self.name} has no {wanted}. It carries: {', '.join(names) or 'none'}.")
        return found[-1]

    def with_strength(self, value: float, which: str | int | None = None) -> Self:
        """The same model with one modifier's dial turned to a value; see `Modifier.dial` and `find_modifier`.

        Raises:
            SettingsError: there is no such modifier, it has no dial, or the value is not finite.
        """
        at = self.find_modifier(which)
        modifier = self.modifiers[at]
        if modifier.dial is None:
            raise SettingsError(f"{modifier.label} has no strength that could be set.")
        if not is_number(value):
            raise SettingsError(f"A strength is a finite number, got {value!r}.")
        changed = modifier.clone(**{modifier.dial: value})
        changed.validate()
        return self._changed(modifiers=(*self.modifiers[:at], changed, *self.modifiers[at + 1 :]))

    def without(self, which: str | int) -> Self:
        """The same model without one of its modifiers; see `find_modifier`. Its history stays as it was."""
        at = self.find_modifier(which)
        return self._changed(modifiers=(*self.modifiers[:at], *self.modifiers[at + 1 :]))

    def conversation(self, prompt: Prompt) -> list[Message]:
        """The messages of a prompt, after the model's prompt modifiers."""
        return self.conversations([prompt])[0]

    def conversations(self, prompts: Sequence[Prompt]) -> list[list[Message]]:
        """The messages of several prompts, after the model's prompt modifiers."""
        found = [chat.as_messages(prompt) for prompt in prompts]
        for modifier in self._prompting:
            found = modifier.batch(found)
        return found

    def rendered(self, messages: list[Message]) -> str | None:
        """The plain text that stands for a conversation in place of the chat template's, where a modifier gives one."""
        for modifier in reversed(self._prompting):
            text = modifier.rendered(messages)
            if text is not None:
                return text
        return None

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings at which its prompt modifiers end an answer."""
        return tuple(dict.fromkeys(text for modifier in self._prompting for text in modifier.stops()))

    def clean(self, text: str, ended: bool = True) -> str:
        """An answer without what its prompt modifiers take off; see `PromptModifier.clean`."""
        for modifier in self._prompting:
            text = modifier.clean(text, ended)
        return text

    @property
    def _prompting(self) -> list[PromptModifier]:
        return [modifier for modifier in self.modifiers if isinstance(modifier, PromptModifier)]

    @property
    def fingerprint(self) -> str:
        """A hash of all that its answers depend on; equal for models that answer alike."""
        from truing.models.fingerprint import fingerprint

        return fingerprint(self)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that `truing.load` reads again, whole or not at all.

        Weights (or an adapter, whose base loads by name) and tokenizer go in transformers' format, modifiers, history
        and versions to ``truing.json``, tensors of modifiers to safetensors. See docs/models.md.

        Args:
            folder: a new or empty folder, or one that holds a saved model, which is replaced.

        Raises:
            ModelError: the folder holds other things or cannot be written, or a modifier holds what cannot be saved
                (a lambda, say); nothing has been written then.
        """
        from truing.models.saving import save

        save(self, Path(folder))

    def _changed(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]
