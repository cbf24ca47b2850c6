"""Adapters by configuration: LoRA, DoRA and every other kind of peft that changes layers and not the input."""

from __future__ import annotations

import difflib
from typing import Any

from truing.contracts import require
from truing.errors import SettingsError

# These put vectors of their own before the tokens, or need parts or steps that a setting cannot give.
_OTHERS = {"ADALORA", "ADAPTION_PROMPT", "POLY", "XLORA", "SHADOW", "OSF", "SUPERTUNING", "TRAINABLE_TOKENS"}


def kinds() -> dict[str, type]:
    """The kinds of adapter that can be trained, by their name in lower case, each with peft's class of settings."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {
        kind.value.lower(): config
        for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if not issubclass(config, peft.PromptLearningConfig) and kind.value not in _OTHERS
    }


def adapter_settings(given: Any) -> dict[str, Any] | None:
    """The setting ``adapter`` with its defaults: ``type`` and settings of peft's class for it; None stays None.

    Raises:
        SettingsError: the kind or one of its settings is unknown.
    """
    if given is None:
        return None
    if not isinstance(given, (str, dict)):
        raise SettingsError(f"adapter is None, a kind of adapter, or a dict of its settings, not {given!r}.")
    settings = {"type": given} if isinstance(given, str) else dict(given)
    kind = str(settings.pop("type", "lora")).lower()
    if kind == "dora":
        kind, settings = "lora", {"use_dora": True, **settings}
    known = kinds()
    if kind not in known:
        close = difflib.get_close_matches(kind, [*known, "dora"], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"There is no adapter {kind!r}.{hint} Known: dora, {', '.join(sorted(known))}.")
    fields = known[kind].__dataclass_fields__  # type: ignore[attr-defined]
    for name in settings:
        require(name in fields, f"adapter has no setting {name!r}; see peft.{known[kind].__name__}.")
    defaults: dict[str, Any] = {"target_modules": "all-linear"} if "target_modules" in fields else {}
    if kind == "lora":
        defaults.update(r=16, lora_alpha=32)
    return {"type": kind, **defaults, **settings}


def with_adapter(base: Any, settings: dict[str, Any], task: str) -> Any:
    """A peft model with a fresh adapter on a transformers model.

    Args:
        base: is changed in place, as peft does.
        settings: what `adapter_settings` gave.
        task: peft's name for what the model does.

    Raises:
        SettingsError: peft refuses them, or refuses them for this model.
    """
    import peft

    rest = {name: value for name, value in settings.items() if name != "type"}
    try:
        return peft.get_peft_model(base, kinds()[settings["type"]](**{"task_type": task, **rest}))
    except (TypeError, ValueError, ImportError) as error:
        raise SettingsError(f"adapter: peft refuses these settings of {settings['type']}: {error}") from error
