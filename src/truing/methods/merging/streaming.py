"""Merging folders tensor by tensor: memory stays at one tensor of each model, however large the models are."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from truing import progress
from truing.errors import ModelError, SettingsError
from truing.methods.merging.tensor_merge import TensorMerge
from truing.methods.training.method import tell

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py")
NOT_COPIED = frozenset(
    {INDEX, "pytorch_model.bin.index.json", "adapter_config.json", "truing.json", "trainer_state.json"}
)
STRUCTURE = (
    "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "hidden_activation", "activation_function", "tie_word_embeddings", "rope_theta", "rotary_pct", "sliding_window",
)  # fmt: skip
"""What of a configuration changes the meaning of weights, mostly without showing in their shapes."""
HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
REOPEN = 4 << 20  # bytes read from one file before its mapping, whose pages count as memory, is opened anew
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def merge_folders(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    rule: str = "linear",
    base: str | Path | None = None,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    density: float = 0.2,
    drop: float = 0.9,
    t: float = 0.5,
    filter_wise: bool = False,
    seed: int = 0,
    on_degenerate: str = "error",
    max_shard: int | str = "2GB",
) -> Path:
    """Merge models in folders into a new folder, reading and writing one tensor at a time.

    Every file is checked, and every name, shape, structure and vocabulary compared, before the first tensor is read.
    Configuration and tokenizer are those of the first folder; tensors keep its dtypes, and those of whole numbers (old
    models store masks) are taken from it as they are. What is written is whole or not there.

    Args:
        folders: models in transformers' format with safetensors weights, in one file or in shards.
        out: the folder to make; it must not exist.
        rule, base, weights, lam, density, drop, t, filter_wise, seed, on_degenerate: see `ModelMerge`; here ``weights``
            has one number for each of ``folders``.
        max_shard: most bytes of one written file, a number or a text such as "2GB" or "500MB".

    Returns:
        The folder that was made.

    Raises:
        SettingsError: the rule and its settings do not fit the folders.
        ModelError: a folder holds no whole model, two do not fit together, a tensor cannot be merged, or ``out`` exists
            or cannot be written.
    """
    if isinstance(folders, (str, Path)):
        raise SettingsError(f"`folders` is a list of folders, got the one {str(folders)!r}.")
    merge = TensorMerge(
        rule=rule, count=len(folders), based=base is not None, weights=weights, lam=lam, density=density, drop=drop,
        t=t, filter_wise=filter_wise, seed=seed, on_degenerate=on_degenerate,
    )  # fmt: skip
    merge.validate()
    limit = _bytes(max_shard)
    place = Path(os.path.abspath(Path(out).expanduser()))
    if place.exists():
        raise ModelError(f"{out} exists already. Choose a new folder for the merged model, or remove that one.")
    models = [TensorFolder(folder) for folder in folders]
    origin = TensorFolder(base) if base is not None else None
    for other in [*models[1:], *([origin] if origin else [])]:
        check_alike(models[0], other)
    partial = place.parent / f".{place.name}.{secrets.token_hex(4)}.partial"
    try:
        partial.mkdir(parents=True)
        _write(partial, merge, models, origin, limit)
        for pattern in COPIED:
            for file in sorted(models[0].folder.glob(pattern)):
                if file.name not in NOT_COPIED and file.is_file():
                    shutil.copyfile(file, partial / file.name)
        partial.rename(place)
    except OSError as error:
        raise ModelError(f"{out} cannot be written: {error.strerror or error}. Nothing was kept.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for line in merge.warnings():
        tell(line)
    return place


# --- reading ---------------------------------------------------------------------------------------------------------


class TensorFolder:
    """The tensors of a model's folder by name, memory-mapped and read when asked for.

    Args:
        folder: in transformers' format, with ``model.safetensors`` or an index of shards.

    Raises:
        ModelError: there is no whole model in safetensors, or it is quantised.
    """

    def __init__(self, folder: str | Path) -> None:
        self.name = str(folder)
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ModelError(f"There is no folder {self.name}.")
        if (self.folder / "adapter_config.json").is_file():
            raise ModelError(f"{self.name} holds an adapter. Load it with truing.load, and merge the model.")
        if not (self.folder / "config.json").is_file():
            raise ModelError(f"{self.name} holds no model: it has no config.json.")
        self.config = _config(self.folder)
        if self.config.get("quantization_config"):
            raise ModelError(
                f"{self.name} is quantised, and such weights cannot be merged. Give the unquantised model."
            )
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._read_headers()
        self._drop_tied()
        self._open: dict[Path, tuple[Any, int]] = {}

    @property
    def names(self) -> list[str]:
        """The names of its tensors, in the order of the files; one of two tied ones."""
        return list(self.files)

    def get(self, name: str) -> Tensor:
        """A tensor, mapped from its file; keep it no longer than needed."""
        path = self.files[name]
        handle, used = self._open.pop(path, (None, 0))
        size = self.size_of(name)
        if handle is None or used + size > REOPEN:
            handle, used = safe_open(path, framework="pt"), 0
        self._open[path] = (handle, used + size)
        tensor: Tensor = handle.get_tensor(name)
        return tensor

    def leave_out(self, names: Collection[str]) -> None:
        """Forget tensors of these names."""
        for name in set(names) & set(self.files):
            del self.files[name], self.shapes[name], self.dtypes[name]

    def size_of(self, name: str) -> int:
        """The size of a tensor in bytes."""
        return _size(self.shapes[name], self.dtypes[name])

    def vocabulary(self) -> dict[str, int] | None:
        """Token to id, or None where the folder holds no tokenizer."""
        if not any((self.folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
            return None
        from transformers import AutoTokenizer

        try:
            vocabulary = AutoTokenizer.from_pretrained(str(self.folder), trust_remote_code=False).get_vocab()
        except Exception as error:  # whatever a library finds wrong with somebody's files
            raise ModelError(f"The tokenizer in {self.name} cannot be read: {str(error)[:200]}") from error
        return dict(vocabulary)

    def _read_headers(self) -> None:
        listed = self._listed()
        for path in dict.fromkeys(listed.values()) if listed else [self.folder / SINGLE]:
            if not path.is_file():
                raise ModelError(f"{self.name} lacks {path.name}: its weights must be safetensors, and whole.")
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (a handle, not a mapping)
                        if listed and listed.get(name) != path:
                            continue
                        part = file.get_slice(name)
                        if part.get_dtype() not in DTYPES:
                            raise ModelError(f"{path}: {name} is of {part.get_dtype()}, which cannot be merged.")
                        self.files[name] = path
                        self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), DTYPES[part.get_dtype()]
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path} cannot be read: {str(error)[:200]}. Get the model again.") from error
        lacking = sorted(set(listed) - set(self.files))
        if lacking:
            raise ModelError(f"{self.name} lacks {len(lacking)} tensors that its index lists, {lacking[0]!r} first.")

    def _listed(self) -> dict[str, Path]:
        """Which file holds which tensor, as the index says; empty without one."""
        path = self.folder / INDEX
        if (self.folder / SINGLE).is_file() or not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            if not all(re.fullmatch(r"[\w.-]+\.safetensors", file) for file in found.values()):
                raise ValueError("it names files outside of the folder, or of another kind")
            return {str(name): self.folder / file for name, file in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} is damaged ({str(error)[:200]}). Get the model again.") from error

    def _drop_tied(self) -> None:
        """Leave out an output head that is the embedding under a second name: tied weights are merged once."""
        inputs = [name for name in self.files if name.endswith(EMBEDDINGS)]
        if self.config.get("tie_word_embeddings") and inputs:
            self.leave_out([name for name in self.files if name.endswith(HEADS)])


def _config(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        # With the defaults of its class, which the file leaves out.
        return dict(AutoConfig.from_pretrained(str(folder), trust_remote_code=False).to_dict())
    except Exception:  # an architecture with code of its own: what its file says is compared
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{folder / 'config.json'} cannot be read: {str(error)[:200]}.") from error
        return found if isinstance(found, dict) else {}


# --- what fits together ----------------------------------------------------------------------------------------------


def check_alike(first: Any, other: Any) -> None:
    """Raise unless two models have the same structure, tensors and vocabulary.

    Args:
        first: what has ``name``, ``config`` (a dict), ``shapes`` (by tensor name) and ``vocabulary()``.
        other: another such thing.

    Raises:
        ModelError: they differ; the message says in what.
    """
    pair = _pair(first, other)
    check_structure(first, other)
    rows = [next((s[0] for n, s in each.shapes.items() if n.endswith(EMBEDDINGS)), None) for each in (first, other)]
    if rows[0] != rows[1]:
        raise ModelError(
            f"{pair}: their vocabularies differ, {rows[0]} tokens and {rows[1]}. Bring both to one tokenizer first."
        )
    lacking = sorted(set(first.shapes) ^ set(other.shapes))
    if lacking:
        where = first.name if lacking[0] in first.shapes else other.name
        raise ModelError(f"{pair}: {len(lacking)} tensors are in one of them only, {lacking[0]!r} of {where} first.")
    for name, shape in first.shapes.items():
        if other.shapes[name] != shape:
            raise ModelError(f"{pair}: {name} has the shape {list(shape)} and {list(other.shapes[name])}.")
    ours, theirs = first.vocabulary(), other.vocabulary()
    if ours is not None and theirs is not None and ours != theirs:
        differing = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
        token = differing[0]
        raise ModelError(
            f"{pair}: their vocabularies differ in {len(differing)} tokens; {token!r} is {ours.get(token, 'absent')} "
            f"in the one and {theirs.get(token, 'absent')} in the other. Bring both to one tokenizer first."
        )


def check_structure(first: Any, other: Any) -> None:
    """Raise where two configurations give weights another meaning; see `check_alike`."""
    one, two = (dict(each.config, rope_theta=_theta(each.config)) for each in (first, other))
    for key in STRUCTURE:
        if key in one and key in two and one[key] != two[key]:
            raise ModelError(
                f"{_pair(first, other)}: `{key}` is {one[key]!r} in the one and {two[key]!r} in the other."
            )


def _pair(first: Any, other: Any) -> str:
    return f"{first.name} and {other.name} cannot be merged"


def _theta(config: dict[str, Any]) -> Any:
    inner = config.get("rope_parameters")
    return config.get("rope_theta", inner.get("rope_theta") if isinstance(inner, dict) else None)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(
    partial: Path, merge: TensorMerge, models: Sequence[TensorFolder], origin: TensorFolder | None, limit: int
) -> None:
    first = models[0]
    shards = _plan(first, limit)
    many = len(shards) > 1
    names = [f"model-{at:05d}-of-{len(shards):05d}.safetensors" if many else SINGLE for at in range(1, len(shards) + 1)]
    with progress.task(f"merging {len(models)} models", len(first.names)) as bar:
        for file, held in zip(names, shards):
            with (partial / file).open("wb") as stream:
                stream.write(_header(first, held))
                for name in held:
                    _write_tensor(stream, _merged(merge, name, models, origin))
                    bar.advance()
    if many:
        total = sum(first.size_of(name) for name in first.names)
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, held in zip(names, shards) for name in held},
        }
        (partial / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _merged(merge: TensorMerge, name: str, models: Sequence[TensorFolder], origin: TensorFolder | None) -> Tensor:
    if not models[0].dtypes[name].is_floating_point:
        return models[0].get(name)
    return merge(name, [model.get(name) for model in models], origin.get(name) if origin else None)


def _plan(first: TensorFolder, limit: int) -> list[list[str]]:
    """The tensors of each file to be written, those of wide types first, so that all are aligned."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in first.names:
        size = first.size_of(name)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return [sorted(names, key=lambda name: -first.dtypes[name].itemsize) for names in shards]


def _header(first: TensorFolder, names: Sequence[str]) -> bytes:
    """The head of a safetensors file: the length of a JSON text in 8 bytes, and the text, padded to whole 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        end = at + first.size_of(name)
        entries[name] = {
            "dtype": NAMES[first.dtypes[name]], "shape": list(first.shapes[name]), "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(stream: IO[bytes], tensor: Tensor) -> None:
    flat = tensor.contiguous().reshape(-1)
    if flat.numel():
        stream.write(flat.view(torch.uint8).numpy().data)


def _size(shape: Sequence[int], dtype: torch.dtype) -> int:
    count = dtype.itemsize
    for length in shape:
        count *= length
    return count


def _bytes(given: int | str) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", str(given), re.IGNORECASE)
    size = int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if size <= 0:
        raise SettingsError(f"`max_shard` is a size such as 2GB, 500MB, or a number of bytes, got {given!r}.")
    return size
