"""Reading models: sandbox names, folders, adapters, hub names and remote models; weights from safetensors only."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import logging
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from truing.errors import MissingExtraError, ModelError, TruingError
from truing.models import alignment, provenance
from truing.models.local import Model
from truing.models.notes import Notes
from truing.models.saving import NOTES, quiet
from truing.models.scored import ScoreModel

if TYPE_CHECKING:
    from truing.models import AnyModel

# Where it is installed it warns, whenever peft is imported, that a kernel of its own for CPUs is not.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip
QUANTISED = {"4bit": 4, "8bit": 8}
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclasses.dataclass(frozen=True)
class _How:
    dtype: torch.dtype
    device: str
    trust_remote_code: bool
    functions: tuple[Callable[..., Any], ...]
    bits: int | None = None


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    functions: Sequence[Callable[..., Any]] = (),
    base_url: str | None = None,
) -> AnyModel:
    """A model from a sandbox name, a folder, a hub name, or a remote server.

    Args:
        name: ``sandbox/base``; a folder (transformers' format, a PEFT adapter, or written by `Model.save`);
            ``owner/model`` on the hub; or ``openai/model``, a remote model at ``OPENAI_BASE_URL``.
        dtype: of the weights, whatever the checkpoint's ("float32", "bfloat16", "float16"); unless given float32 on a
            CPU and, where the hardware has it, bfloat16 on a GPU. "4bit" and "8bit" quantise the linear layers while
            they are read, with bitsandbytes; such a model answers, and trains with an adapter.
        device: where to put them ("cpu", "cuda:1"); a GPU if there is one unless given, and under a launcher the one
            that belongs to this process.
        trust_remote_code: run code that comes with the model, and with models that its folder names. Off unless asked.
        functions: functions that a saved model may name, such as its reward. Code is never imported because a file
            names it; rewards in modules that are imported already need not be given.
        base_url: where a remote model is asked, ``/v1`` included, in place of ``OPENAI_BASE_URL``.

    Raises:
        ModelError: nothing can be read under that name, or what is there is damaged; the message says what to do.
        MissingExtraError: "4bit" or "8bit" was asked for, and bitsandbytes is not installed.
    """
    source = str(name)
    if source.startswith("openai/"):
        from truing.models.remote import RemoteModel

        return RemoteModel(source.removeprefix("openai/"), base_url=base_url)
    if base_url is not None:
        raise ModelError(f"`base_url` is for remote models, and {source} is none. Did you mean openai/{source}?")
    how = _how(dtype, device, trust_remote_code, functions)
    if source.startswith("sandbox/"):
        return _named(source, how)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _folder(folder, source, how)
    if folder.is_file():
        raise ModelError(f"{source} is a file. Give the folder that holds the model.")
    if isinstance(name, Path) or not _NAME.fullmatch(source):
        raise ModelError(f"There is no folder {source}.{_hint(source)} Give a folder, a hub name, or sandbox/base.")
    return _named(source, how)


def _how(
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    trust_remote_code: bool,
    functions: Sequence[Callable[..., Any]],
) -> _How:
    ours = f"cuda:{os.environ['LOCAL_RANK']}" if os.environ.get("LOCAL_RANK") else "cuda"
    where = str(device) if device is not None else ours if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(where).type
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"The device {where!r} cannot be used here: {str(error).splitlines()[0][:200]} "
            "Devices: cpu, cuda, cuda:0, mps."
        ) from error
    bits = QUANTISED.get(str(dtype))
    if bits is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError("bitsandbytes", "quantised")
        dtype = None
    if dtype is None:
        dtype = torch.bfloat16 if kind == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    elif not isinstance(dtype, torch.dtype):
        if str(dtype).removeprefix("torch.") not in DTYPES:
            raise ModelError(f"`dtype` is one of {', '.join([*DTYPES, *QUANTISED])}, or None, got {dtype!r}.")
        dtype = DTYPES[str(dtype).removeprefix("torch.")]
    return _How(dtype, where, trust_remote_code, tuple(functions), bits)


# --- names -----------------------------------------------------------------------------------------------------------


def _hint(name: str) -> str:
    from truing.sandbox import NAMES

    names = [f"sandbox/{known}" for known in NAMES]
    close = difflib.get_close_matches(name if "/" in name else f"sandbox/{name}", names, n=1, cutoff=0.75)
    return f" Did you mean {close[0]}?" if close else ""


def _named(name: str, how: _How) -> Any:
    """A model of the sandbox or of the hub; never a folder."""
    if name.startswith("sandbox/"):
        from truing.sandbox import checkpoint

        try:
            place = str(checkpoint(name.removeprefix("sandbox/")))
        except ModelError as error:
            raise ModelError(f"{error}{_hint(name)}") from error
        with quiet():
            return _weights(place, name, how, loads_again=True)
    if not _NAME.fullmatch(name) or ".." in name:
        raise ModelError(f"`{name[:120]}` is no name of a model. A name is owner/model on the hub, or sandbox/base.")
    held = _from_hub(name)
    model = _folder(held, name, how) if held else _weights(name, name, how, loads_again=True)
    assert isinstance(model, (Model, ScoreModel))
    return model


def _from_hub(name: str) -> Path | None:
    """A local copy of a repository that holds an adapter or a model saved by truing; None for plain weights."""
    from transformers.utils.hub import cached_file

    found = None
    for file in (NOTES, "adapter_config.json"):
        with _reading(name):
            found = found or cached_file(
                name, file, local_files_only=_offline(),
                _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )  # fmt: skip
    if not found:
        return None
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    with _reading(name):
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=_offline()))


def _offline() -> bool:
    """Whether the hub's name cannot even be looked up; its library would try for a minute before it says so."""
    from huggingface_hub import constants

    host = urllib.parse.urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or urllib.request.getproxies().get("https"):
        return constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(folder: Path, source: str, how: _How) -> AnyModel:
    if (folder / NOTES).is_file():
        return _saved(folder, source, how)
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, source, how, _base_of_adapter(folder, how))
    if (folder / "config.json").is_file():
        if alignment.in_published_layout(folder):
            with quiet(), _reading(source):
                found: Any = alignment.load_published(folder, source, dtype=how.dtype, device=how.device)
                return found
        with quiet():
            return _weights(str(folder), source, how, loads_again=False)
    places = [f"{inside}{name}" for inside in ("*/", "steps/*/model/") for name in (NOTES, "config.json")]
    inner = sorted({place.parent for pattern in places for place in folder.glob(pattern)})
    hint = f" There is one in {inner[-1]}." if inner else ""
    raise ModelError(
        f"The folder {source} holds no model: no config.json, adapter_config.json or {NOTES}.{hint} A model's folder "
        "has config.json, a tokenizer and safetensors weights."
    )


def _saved(folder: Path, source: str, how: _How) -> AnyModel:
    notes = Notes.read(folder)
    if notes.kind == "remote":
        from truing.models.remote import RemoteModel

        modifiers = notes.modifiers(folder, "cpu", lambda spec: _inner(folder, spec, how), how.functions)
        return RemoteModel.from_address(notes.remote, modifiers=modifiers, history=notes.history)
    with quiet():
        if notes.kind == "adapter":
            model = _adapter(folder, source, how, _named(notes.base, how))
        else:
            model = _weights(str(folder), source, how, loads_again=False)
    modifiers = notes.modifiers(folder, how.device, lambda spec: _inner(folder, spec, how), how.functions)
    return dataclasses.replace(model, modifiers=modifiers, history=notes.history)


def _inner(folder: Path, spec: Any, how: _How) -> AnyModel:
    """A model within a modifier: by its name, or from a folder of its own."""
    if "name" in spec:
        return _named(str(spec["name"]), how)
    key = str(spec["saved"])
    if not re.fullmatch(r"[A-Za-z0-9_-]+", key):
        raise ModelError(f"{folder / NOTES} names a model outside of its folder: {key[:80]!r}.")
    place = folder / "modifiers" / key
    if not (place / NOTES).is_file():
        raise ModelError(f"The model of a modifier is missing: {place}. Save the model again.")
    return _saved(place, str(place), how)


def _adapter(folder: Path, source: str, how: _How, base: Any) -> Model:
    import peft
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    if not isinstance(base, Model) or base.modifiers or hasattr(base.weights, "peft_config"):
        raise ModelError(
            f"The base of the adapter {source} is itself an adapter, or no local model. Merge that one first."
        )
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{source} has no adapter_model.safetensors; adapters are read from safetensors only.")
    with _reading(source):
        tokenizer = base.tokenizer
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=how.trust_remote_code)
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        weights = peft.PeftModel.from_pretrained(base.weights, str(folder), config=config, torch_device=how.device)
        wanted = set(peft.get_peft_model_state_dict(weights, save_embedding_layers=False))
        held = set(load_file(path))
    lacking = sorted(wanted - held)
    if lacking:
        raise ModelError(f"{path} lacks {len(lacking)} tensors, {lacking[0]!r} first. Get the adapter again.")
    return Model(weights.to(how.device).eval(), _with_padding(tokenizer), source=source)


def _base_of_adapter(folder: Path, how: _How) -> AnyModel:
    """The base that a plain PEFT folder names: a hub name, or a path, seen from here or from the folder."""
    import json

    try:
        base = str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder / 'adapter_config.json'} names no base model: {str(error)[:200]}") from error
    for place in (Path(base).expanduser(), folder / base, folder.parent / base):
        if place.is_dir() and place.resolve() != folder.resolve():
            return _folder(place, str(place), how)
    if not _NAME.fullmatch(base):
        raise ModelError(
            f"The adapter in {folder} was trained on the base {base[:200]!r}, and there is no such folder here. Set "
            "`base_model_name_or_path` in adapter_config.json to where the base is now."
        )
    return _named(base, how)


# --- weights ---------------------------------------------------------------------------------------------------------


def _weights(place: str, source: str, how: _How, *, loads_again: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": how.trust_remote_code}
    if place == source and not Path(place).is_dir():
        options["local_files_only"] = _offline()
    with _reading(source):
        config = AutoConfig.from_pretrained(place, **options)
        attention = getattr(config, "_attn_implementation", None)
        if not how.trust_remote_code and "/" in str(attention):
            raise ModelError(
                f"{source} asks for code from the hub ({str(attention)[:80]}). Pass trust_remote_code=True."
            )
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        scores = any(str(kind).endswith("ForSequenceClassification") for kind in config.architectures or ())
        auto: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
        weights, found = auto.from_pretrained(
            place, config=config, dtype=how.dtype, use_safetensors=True, output_loading_info=True,
            **_quantisation(how), **options,
        )  # fmt: skip
    lacking = sorted(found["missing_keys"])
    if lacking:
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"{source} lacks {len(lacking)} of the tensors that its config.json asks for, {lacking[0]!r} first. "
            f"Is it a causal language model ({', '.join(config.architectures or ['unknown'])}), and whole?"
        )
    weights = (weights if how.bits else weights.to(how.device)).eval()
    tokenizer = _with_padding(tokenizer)
    if loads_again:
        provenance.remember(weights, source, tokenizer)
    if scores and getattr(config, alignment.MARK, False):
        return alignment.AlignmentModel(weights, tokenizer, source=source)
    return (ScoreModel if scores else Model)(weights, tokenizer, source=source)


def _quantisation(how: _How) -> dict[str, Any]:
    if how.bits is None:
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=how.bits == 4, load_in_8bit=how.bits == 8, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=how.dtype,
    )  # fmt: skip
    return {"quantization_config": config, "device_map": {"": how.device}}


def _with_padding(tokenizer: Any) -> Any:
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    """What goes wrong while libraries read somebody's files becomes one clear error."""
    try:
        yield
    except TruingError:
        raise
    except Exception as error:
        whole = " ".join(str(error).split())
        text = whole[:300] or type(error).__name__
        remedy = "A model is a folder or hub name with config.json, a tokenizer and safetensors weights."
        if "couldn't connect" in whole or "offline" in whole.lower() or "disk cache" in whole:
            text = (
                f"there is no such folder, the hub cannot be reached, and its cache holds no such model.{_hint(source)}"
            )
            remedy = "Give a folder, sandbox/base, or the name of a model that is in the cache."
        elif "trust_remote_code" in whole or "custom code" in whole:
            remedy = "Pass trust_remote_code=True if you trust its code."
        elif "not a valid model identifier" in whole or "404" in whole:
            remedy = f"There is neither a folder nor a model on the hub of that name.{_hint(source)}"
        raise ModelError(f"{source} cannot be loaded: {text} {remedy}") from error
