"""A recipe's text as plain values, with the line of every one of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from truing.errors import RecipeError

Path = tuple[str | int, ...]

MOST_VALUES = 10_000


@dataclasses.dataclass
class Source:
    """What was read, and where each value stands.

    Args:
        name: the recipe's name or file, for messages.
        value: mappings, lists and scalars.
        lines: path to line, counted from 1, or to the words of an override.
    """

    name: str
    value: Any
    lines: dict[Path, int | str]

    def where(self, path: Path) -> str:
        """``quickstart.yaml, line 4``, for the nearest known place at or above the path."""
        for end in range(len(path), -1, -1):
            line = self.lines.get(path[:end])
            if isinstance(line, str):
                return line
            if line is not None:
                return f"{self.name}, line {line}"
        return self.name

    def error(self, path: Path, message: str) -> RecipeError:
        """An error that begins with the place."""
        return RecipeError(f"{self.where(path)}: {message}")


def read_text(text: str, name: str) -> Source:
    """Parse YAML with plain values only.

    Duplicate keys, aliases, tags such as ``!!python/object``, keys that are not words, and several documents in one
    file are errors.

    Raises:
        RecipeError: the text is not such YAML; the message names the line.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise RecipeError(
                f"{name}: a recipe uses no YAML aliases (`*name`). Write the value out where it is needed."
            )
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            source = Source(name, None, {})
            source.value = _plain(node, (), source, loader, [0]) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{name}, line {mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        # A condition such as >= 0.95 without quotes: YAML reads > as the sign of a folded text.
        hint = " Put a text that begins with > or | in quotes." if "chomping or indentation" in problem else ""
        raise RecipeError(f"{place}: this is not readable YAML: {problem}.{hint}") from None
    except RecursionError:
        raise RecipeError(f"{name}: the values are nested too deeply for a recipe.") from None
    except (ValueError, OverflowError) as error:
        # A scalar that looks like a date or a number but is none: 2024-99-99.
        raise RecipeError(f"{name}: a value cannot be read: {error}. Put it in quotes if it is text.") from None
    return source


def _plain(node: yaml.Node, path: Path, source: Source, loader: yaml.SafeLoader, count: list[int]) -> Any:
    source.lines.setdefault(path, node.start_mark.line + 1)
    count[0] += 1
    if count[0] > MOST_VALUES:
        raise source.error(path, f"a recipe may hold {MOST_VALUES:,} values at most. Put data into a file of records.")
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_plain(item, (*path, index), source, loader, count) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            line = key_node.start_mark.line + 1
            if not isinstance(key, str) or not key:
                raise RecipeError(f"{source.name}, line {line}: a key must be a word.")
            if key in values:
                first = source.lines[(*path, key)]
                raise RecipeError(
                    f"{source.name}, line {line}: `{key}` is given twice; the first is on line {first}. Keep one."
                )
            source.lines[(*path, key)] = line
            values[key] = _plain(value_node, (*path, key), source, loader, count)
        return values
    if not isinstance(node, yaml.ScalarNode):
        raise source.error(path, f"the tag `{node.tag}` is not used in recipes. Write plain values.")
    value = loader.construct_object(node)
    if value is not None and not isinstance(value, (str, bool, int, float)):
        return node.value
    return value


def scalar(text: str, what: str) -> Any:
    """The value of one override: YAML, so that ``0.1``, ``true`` and ``[a, b]`` mean what they do in a recipe."""
    return read_text(text, what).value if text.strip() else ""
