"""Values of settings from text (a command line) or plain data (a recipe), parsed by the annotation of the field."""

from __future__ import annotations

import ast
import json
import math
from typing import Any

from truing.errors import SettingsError

_LISTS = {"list", "tuple", "set", "frozenset", "Sequence", "Iterable", "List", "Tuple"}
_DICTS = {"dict", "Mapping", "Dict"}


class _NoFit(Exception):
    """The value does not fit one branch of an annotation."""


def parse_value(field_type: Any, value: Any, where: str) -> Any:
    """A value that fits an annotation.

    Args:
        field_type: a type, or an annotation as text (``"float | None"``); the text is read, never evaluated.
        value: text from a command line, or what YAML or JSON gave. A type that truing does not know takes any value.
        where: what to call the place in an error (``--beta``).

    Raises:
        SettingsError: the value does not fit.
    """
    name = field_type.__name__ if type(field_type) is type else str(field_type)
    try:
        tree = ast.parse(name.strip(), mode="eval").body
    except SyntaxError:
        return value
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return parse_value(tree.value, value, where)
    try:
        return _fit(tree, value)
    except _NoFit:
        raise SettingsError(f"{where} takes {name}, not {value!r}.") from None


def _fit(node: ast.expr, value: Any) -> Any:
    branches = _branches(node)
    if len(branches) > 1:
        # Plain text fits `str` always, so that branch is asked last.
        for branch in sorted(branches, key=lambda branch: _name(branch) == "str"):
            try:
                return _fit(branch, value)
            except _NoFit:
                continue
        raise _NoFit
    name = _name(node)
    if isinstance(node, ast.Subscript):
        return _subscripted(name, node.slice, value)
    if name == "None":
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        raise _NoFit
    if name == "bool":
        return _bool(value)
    if name in ("int", "float"):
        return _number(name, value)
    if name == "str":
        if isinstance(value, str):
            return value
        raise _NoFit
    if name in _LISTS:
        return _list(name, None, value)
    if name in _DICTS:
        return _dict(None, value)
    return value


def _branches(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_branches(node.left), *_branches(node.right)]
    if isinstance(node, ast.Subscript) and _name(node) in ("Optional", "Union"):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [*inner, *([ast.Constant(None)] if _name(node) == "Optional" else [])]
    return [node]


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.id if isinstance(node, ast.Name) else ""


def _subscripted(name: str, inner: ast.expr, value: Any) -> Any:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        for part in parts:
            choice = ast.literal_eval(part)
            if (type(value) is type(choice) and value == choice) or (isinstance(value, str) and value == str(choice)):
                return choice
        raise _NoFit
    if name == "Annotated":
        return _fit(parts[0], value)
    if name in _LISTS:
        return _list(name, parts, value)
    if name in _DICTS:
        return _dict(parts, value)
    return value


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = value.lower() if isinstance(value, str) else ""
    if text in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return text in ("true", "yes", "on", "1")
    raise _NoFit


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _NoFit
    try:
        number = float(value)
        if name == "float":
            return number
        if isinstance(value, str):
            return int(value)
    except (ValueError, OverflowError):
        raise _NoFit from None
    if not math.isfinite(number) or number != int(number):
        raise _NoFit
    return int(value)


def _list(name: str, parts: list[ast.expr] | None, value: Any) -> Any:
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = _json(value)
        else:
            value = [item.strip() for item in value.split(",")] if value.strip() else []
    if not isinstance(value, (list, tuple)):
        raise _NoFit
    items = list(value)
    if parts:
        fixed = name in ("tuple", "Tuple") and not (len(parts) == 2 and _name(parts[1]) == "Ellipsis")
        if fixed and len(items) != len(parts):
            raise _NoFit
        items = [_fit(parts[index] if fixed else parts[0], item) for index, item in enumerate(items)]
    makers = {"tuple": tuple, "Tuple": tuple, "set": set, "frozenset": frozenset}
    return makers.get(name, list)(items)


def _dict(parts: list[ast.expr] | None, value: Any) -> dict[Any, Any]:
    if isinstance(value, str):
        value = _json(value)
    if not isinstance(value, dict):
        raise _NoFit
    if not parts or len(parts) != 2:
        return value
    return {_fit(parts[0], key): _fit(parts[1], item) for key, item in value.items()}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _NoFit from None
