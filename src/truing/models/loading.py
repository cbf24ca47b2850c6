"""Reading models: sandbox names, folders and hub names, from safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from truing.errors import ModelError, UnsupportedError
from truing.models.local import Model


def load(
    name: str | Path, *, dtype: torch.dtype | None = None, device: str | None = None, trust_remote_code: bool = False
) -> Model:
    """A model from a sandbox name, a folder in transformers' format, or a hub name.

    Args:
        name: ``sandbox/base``, a folder, or ``owner/model`` on the hub.
        dtype: of the weights; float32 on a CPU and bfloat16 on a GPU unless given.
        device: where to put them; a GPU if there is one unless given.
        trust_remote_code: run code that comes with the model. Off unless asked for.

    Raises:
        ModelError: nothing can be read under that name; the message says why.
        UnsupportedError: an adapter or a remote model, which this version does not read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(name)
    if source.startswith("openai/"):
        raise UnsupportedError(
            f"`{source}` names a remote model, and this version reads local weights only. Give a folder or a hub name."
        )
    place = source
    if source.startswith("sandbox/"):
        from truing.sandbox import checkpoint

        place = str(checkpoint(source.removeprefix("sandbox/")))
    folder = Path(place)
    if not folder.is_dir() and (folder.is_absolute() or source.startswith((".", "~"))):
        raise ModelError(f"There is no folder {source}. Give a folder, a hub name, or sandbox/base.")
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{source} holds a PEFT adapter, which this version does not read. Merge it into its base first."
        )
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = dtype or (torch.bfloat16 if where.startswith("cuda") else torch.float32)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        weights = AutoModelForCausalLM.from_pretrained(place, dtype=kind, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source} cannot be loaded: {str(error).splitlines()[0]} A model is a folder or hub name with "
            "config.json, a tokenizer and safetensors weights."
        ) from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return Model(weights.to(where).eval(), tokenizer, source=source)
