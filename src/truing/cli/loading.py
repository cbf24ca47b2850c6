"""Models and prompts, as the commands take them."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.runs.schema import Recipe


def load_model(name: str, dtype: str | None = None, device: str | None = None, trust: bool = False) -> AnyModel:
    """A model by its name, with the options of the command line."""
    from truing.models import load

    return load(name, dtype=dtype, device=device, trust_remote_code=trust)


def loader(recipe: Recipe) -> Callable[[str], AnyModel]:
    """What loads a model for its name, each once, with the recipe's options."""

    @functools.cache
    def load(name: str) -> AnyModel:
        return load_model(name, recipe.dtype, recipe.device, recipe.trust_remote_code)

    return load


def prompts_of(given: Iterable[str] | None, file: str | None, system: str | None = None) -> Iterator[Any]:
    """Prompts from the command line, from a file, or from standard input if that is no terminal.

    A file has one prompt a line; a .jsonl file has objects with ``prompt`` (text or messages) or ``messages``. Empty
    lines are no prompts.

    Raises:
        RecordError: there is no prompt, there are two sources of them, or a line cannot be read.
    """
    from truing.errors import RecordError

    words = list(given or ())
    if words and file is not None:
        raise RecordError("Prompts come from the command line or from --file, not from both.")
    if not words and file is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise RecordError("There is no prompt. Write one after the command, or name a file: --file prompts.txt.")
        file = "-"
    found = False
    for number, prompt in enumerate(words or _lines(str(file)), 1):
        try:
            json.dumps(prompt, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RecordError(
                f"Prompt {number} holds characters that are not Unicode text. Write it in UTF-8."
            ) from None
        found = True
        yield with_system(prompt, system)
    if not found:
        raise RecordError(f"{'Standard input' if file == '-' else file} holds no prompt: every line is empty.")


def with_system(prompt: Any, system: str | None) -> Any:
    """The prompt after a system message."""
    if not system:
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *turns]


def _lines(file: str) -> Iterator[Any]:
    from truing.errors import RecordError

    try:
        with contextlib.nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                line = line.rstrip("\r\n")
                if line.strip():
                    yield _prompt(line, f"{file}, line {number}") if file.endswith(".jsonl") else line
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{file} is not text in UTF-8: {error.reason} at byte {error.start}.") from None


def _prompt(line: str, place: str) -> Any:
    from truing.errors import RecordError

    try:
        row = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{place}: this is not JSON: {error}.") from None
    prompt = row if isinstance(row, str) else row.get("prompt", row.get("messages")) if isinstance(row, dict) else None
    if not isinstance(prompt, (str, list)):
        raise RecordError(f"{place}: expected an object with `prompt`: text, or a list of messages.")
    return prompt
