"""What a model is made of, written down while it can be trusted: parts, hashes, and its scores after canaries."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.contracts import require_offers, require_seed
from truing.errors import ModelError

if TYPE_CHECKING:
    import torch

    from truing.models import AnyModel

FORMAT = 1
HOOKS = ("_forward_pre_hooks", "_forward_hooks")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A model as it should be; `truing.audit.manifest` makes one.

    Args:
        model: what it was called.
        modules: name of each module to its class.
        forwards: name of each module to the function that runs when it is called.
        hooks: name of each module to the hooks on it; of "(all modules)" to those on every module.
        patched: modules whose own ``forward`` was replaced.
        tensors: name of each parameter and buffer to its type, shape and hash; an empty hash where none was taken.
        stray: tensors that are plain attributes of modules.
        modifiers: of truing's own stack, a label and a hash each.
        configuration, tokenizer: hashes.
        files: of its folder, name to hash; None where it has none.
        canaries: token ids; what the next token is scored after.
        picked: for each canary, the tokens whose scores are kept.
        logprobs: those scores, in nats.
        tolerance: how far a score may be off, in nats; from how much the same scores differ between batches.
        versions: of the software.
    """

    model: str
    modules: dict[str, str]
    forwards: dict[str, str]
    hooks: dict[str, list[str]]
    patched: list[str]
    tensors: dict[str, list[str]]
    stray: list[str]
    modifiers: list[list[str]]
    configuration: str
    tokenizer: str
    files: dict[str, str] | None
    canaries: list[list[int]]
    picked: list[list[int]]
    logprobs: list[list[float]]
    tolerance: float
    versions: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all. Keep it where nobody can write who can write the model."""
        from truing.files import write_atomic

        value = {"truing_manifest": FORMAT, **dataclasses.asdict(self)}
        write_atomic(Path(path), json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read what `save` wrote.

        Raises:
            ModelError: the file is absent, or holds no manifest.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"The manifest {path} cannot be read: {error.strerror or error}.") from None
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} is no manifest, since it is not JSON: {error}.") from None
        fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or value.pop("truing_manifest", None) != FORMAT or set(value) != set(fields):
            raise ModelError(
                f"{path} is no manifest of this version of truing. Write one with `truing audit manifest MODEL --out "
                "FILE` while the model can be trusted."
            )
        wrong = [name for name, item in value.items() if not _fits(fields[name], item)]
        canaries = {len(value[name]) for name in ("canaries", "picked", "logprobs") if name not in wrong}
        if wrong or len(canaries) != 1:
            raise ModelError(f"{path} is a damaged manifest: `{(wrong or ['canaries'])[0]}` is not what it should be.")
        return cls(**value)


def manifest(
    model: AnyModel, folder: str | Path | None = None, *, canaries: int = 16, seed: int = 0, hashes: bool = True
) -> Manifest:
    """Write down what a model is made of.

    Args:
        model: a local model, while it can be trusted.
        folder: where its files lie; they are hashed too.
        canaries: how many token sequences are drawn, after which the next token's scores are kept.
        seed: of the canaries. One that others know lets them behave on these sequences alone.
        hashes: hash weights and buffers; without it only names, types and shapes are kept.

    Raises:
        UnsupportedError: the model has no inner parts to look at, as a remote one.
        ModelError: the folder cannot be read.
    """
    from truing.audit.canaries import draw
    from truing.models.history import versions

    require_seed(seed)
    check_local(model, "A manifest")
    kept = draw(model, canaries, seed)
    return Manifest(
        model=model.name, **parts(model, hashes=hashes), files=None if folder is None else hashed_files(Path(folder)),
        **kept, versions=versions(),
    )  # fmt: skip


def check_local(model: Any, what: str) -> None:
    """Raise `UnsupportedError` for a model without weights of its own or without next-token scores."""
    require_offers(model, {"local_weights", "logits"}, what)


def parts(model: Any, *, hashes: bool = True) -> dict[str, Any]:
    """What a manifest says of a model's inner parts."""
    from truing.models.core import core_of
    from truing.models.fingerprint import canonical

    weights = model.weights
    named = dict(weights.named_modules(remove_duplicate=False))
    known: dict[tuple[int, int, Any], str] = {}
    tokenizer = model.tokenizer
    told = [tokenizer.chat_template, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.get_vocab()]
    return {
        "modules": {name: _class(module) for name, module in named.items()},
        "forwards": {name: _function(type(module).forward) for name, module in named.items()},
        "hooks": dict(_hooks(named)),
        "patched": [name for name, module in named.items() if "forward" in vars(module)],
        "tensors": {
            name: [str(tensor.dtype), str(list(tensor.shape)), _hash(tensor, known) if hashes else ""]
            for name, tensor in _tensors(weights)
        },
        "stray": sorted(_stray(named)),
        "modifiers": [[type(one).__name__, _text_hash(canonical(one))] for one in model.modifiers],
        "configuration": _text_hash(canonical(_told(core_of(weights).config.to_dict()))),
        "tokenizer": _text_hash(canonical(told)),
    }


def hashed_files(folder: Path) -> dict[str, str]:
    """Every file of a folder and below, with its hash.

    Raises:
        ModelError: it is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder, so it holds no files to compare.")
    found = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"The files of {folder} cannot be read: {error}.") from None
    return found


def _hooks(named: dict[str, torch.nn.Module]) -> Iterator[tuple[str, list[str]]]:
    from torch.nn.modules import module as everywhere

    shared = [_function(hook) for kind in HOOKS for hook in getattr(everywhere, f"_global{kind}").values()]
    if shared:
        yield "(all modules)", shared
    for name, module in named.items():
        own = [_function(hook) for kind in HOOKS for hook in getattr(module, kind).values()]
        if own:
            yield name or "(model)", own


def _tensors(weights: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from weights.named_parameters(remove_duplicate=False)
    yield from weights.named_buffers(remove_duplicate=False)


def _stray(named: dict[str, torch.nn.Module]) -> Iterator[str]:
    import torch

    for name, module in named.items():
        yield from (f"{name}.{key}".lstrip(".") for key, held in vars(module).items() if isinstance(held, torch.Tensor))


def _hash(tensor: torch.Tensor, known: dict[tuple[int, int, Any], str]) -> str:
    """Of the numbers; tied weights are read once."""
    from truing.models.fingerprint import canonical

    key = (tensor.data_ptr(), tensor.numel(), tensor.dtype)
    if not tensor.numel() or key not in known:
        known[key] = _text_hash(canonical(tensor))
    return known[key]


def _class(module: torch.nn.Module) -> str:
    return f"{type(module).__module__}:{type(module).__qualname__}"


def _function(function: Any) -> str:
    """What a function is called, and where it was written."""
    inner = getattr(function, "__func__", function)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{getattr(inner, '__module__', '')}:{name}"


def _told(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what says where it was loaded from, and by which version."""
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fits(annotation: str, value: Any) -> bool:
    """Whether a value read from a file has the shape of its field."""
    if annotation.endswith(" | None"):
        return value is None or _fits(annotation.removesuffix(" | None"), value)
    if annotation.startswith("dict["):
        inside = annotation[len("dict[str, ") : -1]
        return isinstance(value, dict) and all(_fits(inside, item) for item in value.values())
    if annotation.startswith("list["):
        return isinstance(value, list) and all(_fits(annotation[5:-1], item) for item in value)
    plain: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    return isinstance(value, plain[annotation]) and not isinstance(value, bool)


def named(sequence: Sequence[int]) -> str:
    """A canary in a few words."""
    return f"token sequence {' '.join(map(str, sequence[:4]))}…"
