"""Whether a model is made of what its manifest says: hooks, wrapped and patched modules, tensors, modifiers, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.audit.manifests import Manifest, check_local, hashed_files, parts
from truing.audit.report import Finding, Report

if TYPE_CHECKING:
    from truing.models import AnyModel


def integrity(model: AnyModel, manifest: Manifest, folder: str | Path | None = None, *, hashes: bool = True) -> Report:
    """Compare a model, as it stands in memory, with its manifest; nothing is computed by the model.

    It finds what is attached to the modules that will run: hooks, also those on all modules, wrapped or replaced
    modules, a ``forward`` put over the class's own, extra or changed parameters and buffers, tensors kept as plain
    attributes, modifiers on the stack, and extra or changed files. It does not find what a serving program adds after
    it, nor code changed inside a function of the same name; `truing.audit.consistency` asks the model itself.

    Args:
        model: a local model.
        manifest: from `truing.audit.manifest`, made while the model could be trusted.
        folder: where the model's files lie; compared if the manifest has files.
        hashes: compare the numbers in weights and buffers, which reads them all.

    Raises:
        UnsupportedError: the model has no inner parts to look at, as a remote one.
        ModelError: the folder cannot be read.
    """
    check_local(model, "The check of a model's parts")
    found = parts(model, hashes=hashes)
    findings = [
        *_keys("module", manifest.modules, found["modules"]),
        *_values("module", manifest.modules, found["modules"], "is {} and was {}"),
        *_values("patched forward", manifest.forwards, found["forwards"], "runs {} and ran {}"),
        *(
            Finding("patched forward", name or "(model)", "its own forward was replaced")
            for name in found["patched"]
            if name not in manifest.patched
        ),
        *_hooks(manifest.hooks, found["hooks"]),
        *_keys("tensor", manifest.tensors, found["tensors"]),
        *_tensors(manifest.tensors, found["tensors"]),
        *(
            Finding("stray tensor", name, "is kept outside parameters and buffers")
            for name in found["stray"]
            if name not in manifest.stray
        ),
        *_modifiers(manifest.modifiers, found["modifiers"]),
    ]
    for kind in ("configuration", "tokenizer"):
        if found[kind] != getattr(manifest, kind):
            findings.append(Finding(kind, manifest.model, "has changed"))
    checked = {"modules": len(manifest.modules), "tensors": len(manifest.tensors)}
    if folder is not None and manifest.files is not None:
        files = hashed_files(Path(folder))
        findings += [
            *_keys("file", manifest.files, files),
            *_values("file", manifest.files, files, "has changed"),
        ]
        checked["files"] = len(manifest.files)
    return Report(tuple(findings), checked)


def _keys(kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
    for name in now:
        if name not in before:
            yield Finding(kind, name or "(model)", "was not there")
    for name in before:
        if name not in now:
            yield Finding(kind, name or "(model)", "is gone")


def _values(kind: str, before: Mapping[str, str], now: Mapping[str, str], text: str) -> Iterator[Finding]:
    for name, value in now.items():
        if before.get(name, value) != value:
            yield Finding(kind, name or "(model)", text.format(value, before[name]))


def _tensors(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for name, (dtype, shape, digest) in now.items():
        old_dtype, old_shape, old_digest = before.get(name, (dtype, shape, digest))
        if (dtype, shape) != (old_dtype, old_shape):
            yield Finding("tensor", name, f"is {dtype} of shape {shape} and was {old_dtype} of shape {old_shape}")
        elif digest and old_digest and digest != old_digest:
            yield Finding("tensor", name, "holds other numbers")


def _hooks(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    for name in {**before, **now}:
        old, new = list(before.get(name, ())), list(now.get(name, ()))
        for hook in new:
            if hook in old:
                old.remove(hook)
            else:
                yield Finding("hook", name, f"{hook} runs with it")
        for hook in old:
            yield Finding("hook", name, f"{hook} ran with it and is gone")


def _modifiers(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> Iterator[Finding]:
    for at in range(max(len(before), len(now))):
        old, new = ((side[at] if at < len(side) else None) for side in (before, now))
        if old == new:
            continue
        where = f"modifier {at + 1}"
        if old is None and new is not None:
            yield Finding("modifier", where, f"{new[0]} was not there")
        elif new is None and old is not None:
            yield Finding("modifier", where, f"{old[0]} is gone")
        elif new is not None and old is not None:
            same = new[0] == old[0]
            yield Finding("modifier", where, f"{new[0]} has other values" if same else f"is {new[0]} and was {old[0]}")
