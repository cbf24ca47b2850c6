"""The GGUF form of control vectors, read and written without its library: what llama.cpp and repeng exchange.

Little-endian, version 3: counts, typed metadata, then tensors' names, shapes, types and offsets, then their values,
each aligned. Only what such a file can hold is read; every size is checked against the file before it is used.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from truing.errors import ModelError
from truing.files import write_atomic

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
MOST_BYTES = 2**30  # a vector for each layer of the largest models is far below
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NAMES = ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "BOOL", "STRING", "ARRAY", "UINT64",
          "INT64", "FLOAT64"]  # fmt: skip
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_FLOATS: dict[int, Any] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
_DIRECTION = re.compile(r"direction\.(\d{1,6})")


def write(path: Path, directions: Mapping[int, np.ndarray], hint: str, extra: Mapping[str, str] | None = None) -> None:
    """Write vectors by layer, whole or not at all.

    Args:
        path: the file.
        directions: float32 [width] by layer; number l moves the output of layer l, counted from 0.
        hint: the kind of model they belong to, ``llama`` say.
        extra: further texts for the metadata.
    """
    texts = {"general.architecture": "controlvector", "controlvector.model_hint": hint}
    metadata = b"".join(_text(key) + struct.pack("<I", _STRING) + _text(value) for key, value in texts.items())
    metadata += _text("controlvector.layer_count") + struct.pack("<II", _UINT32, len(directions))
    for key, value in (extra or {}).items():
        metadata += _text(key) + struct.pack("<I", _STRING) + _text(value)
    heads, values = b"", b""
    for layer, direction in directions.items():
        array = np.ascontiguousarray(direction, dtype="<f4")
        heads += _text(f"direction.{layer}") + struct.pack("<IQIQ", 1, len(array), 0, len(values))
        values += _padded(array.tobytes())
    counts = struct.pack("<IQQ", VERSION, len(directions), 3 + len(extra or {}))
    write_atomic(path, _padded(MAGIC + counts + metadata + heads) + values)


def read(path: Path) -> tuple[dict[str, tuple[str, Any]], dict[int, np.ndarray]]:
    """Metadata as (type, value) by key, and float32 vectors by layer.

    Raises:
        ModelError: it cannot be read, is damaged, or is no file of control vectors.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size:,} bytes, too many for control vectors.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    if content[:4] != MAGIC:
        raise ModelError(f"{path} is no GGUF file.")
    try:
        return _Reader(content).file()
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ModelError(f"{path} is damaged, or holds no control vectors: {str(error)[:200]}.") from None


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 4

    def take(self, form: str) -> Any:
        found = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return found[0] if len(found) == 1 else found

    def text(self) -> str:
        length = self.take("Q")
        if length > len(self.content) - self.at:
            raise ValueError("a text is longer than the file")
        self.at += length
        return self.content[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("IQ")
            if inner == _ARRAY or count > len(self.content) - self.at:
                raise ValueError("a list in the metadata is malformed")
            return [self.value(inner) for _ in range(count)]
        if kind not in _PLAIN:
            raise ValueError(f"a value is of the unknown type {kind}")
        return self.take(_PLAIN[kind])

    def file(self) -> tuple[dict[str, tuple[str, Any]], dict[int, np.ndarray]]:
        version, tensors, keys = self.take("IQQ")
        if version not in (2, 3):
            raise ValueError(f"version {version} of the format is not known")
        metadata: dict[str, tuple[str, Any]] = {}
        for _ in range(keys):
            key, kind = self.text(), self.take("I")
            metadata[key] = (_NAMES[kind] if kind < len(_NAMES) else "?", self.value(kind))
        if metadata.get("general.architecture", ("", ""))[1] != "controlvector":
            raise ValueError("its architecture is not `controlvector`")
        heads = []
        for _ in range(tensors):
            name, rank = self.text(), self.take("I")
            if rank > 4:
                raise ValueError(f"the tensor {name[:40]!r} has {rank} dimensions")
            shape = [self.take("Q") for _ in range(rank)]
            heads.append((name, shape, *self.take("IQ")))
        alignment = metadata.get("general.alignment", ("", ALIGNMENT))[1]
        if type(alignment) is not int or not 0 < alignment <= 2**16:
            raise ValueError("its alignment is malformed")
        start = -(-self.at // alignment) * alignment
        directions: dict[int, np.ndarray] = {}
        for name, shape, kind, offset in heads:
            found = _DIRECTION.fullmatch(name)
            if found is None:
                raise ValueError(f"the tensor {name[:40]!r} is no direction")
            if len(shape) != 1 or kind not in _FLOATS or int(found[1]) in directions:
                raise ValueError(f"`{name}` is not one row of float32 or float16, or stands there twice")
            dtype = _FLOATS[kind]
            if shape[0] * dtype.itemsize > len(self.content) - start - offset:
                raise ValueError(f"`{name}` lies outside of the file")
            directions[int(found[1])] = np.frombuffer(self.content, dtype, shape[0], start + offset).astype("f4")
        return metadata, directions


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % ALIGNMENT)
