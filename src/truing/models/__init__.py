"""What is aligned: weights, tokenizer, modifiers and history, or a remote server that offers the same `generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truing._lazy import lazy

if TYPE_CHECKING:
    from typing import TypeAlias

    from truing.models.loading import load as load
    from truing.models.local import Model
    from truing.models.remote import RemoteModel

    AnyModel: TypeAlias = Model | RemoteModel
else:
    AnyModel = Any

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Model": "truing.models.local",
        "RemoteModel": "truing.models.remote",
        "load": "truing.models.loading",
        "Completion": "truing.models.types",
        "Completions": "truing.models.types",
        "Sampling": "truing.models.types",
        "Usage": "truing.models.types",
        "Step": "truing.models.types",
        "Modifier": "truing.models.modifiers",
        "PromptModifier": "truing.models.modifiers",
        "ActivationModifier": "truing.models.modifiers",
        "LogitsModifier": "truing.models.modifiers",
        "SearchModifier": "truing.models.modifiers",
    },
    extra=["AnyModel"],
)
