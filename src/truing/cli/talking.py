"""``truing generate``: answers to prompts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import DEVICE, DTYPE, JSON, MAX_NEW_TOKENS, MODEL, SEED, SYSTEM, TEMPERATURE, TRUST

if TYPE_CHECKING:
    from truing.models.types import Completion

CHUNK = 256
"""Prompts that are answered before their answers are printed."""


def generate(
    model: MODEL,
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts.", metavar="[PROMPT]...")] = None,
    file: Annotated[
        str | None, typer.Option(help="Prompts, one a line, or .jsonl; - is standard input.", metavar="FILE")
    ] = None,
    system: SYSTEM = None,
    max_new_tokens: MAX_NEW_TOKENS = 128,
    temperature: TEMPERATURE = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Only the K likeliest tokens; 0 for all.", metavar="K")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens up to this probability.", metavar="P")] = 1.0,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Answers to each prompt.", metavar="N")] = 1,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends an answer; repeat for more.", metavar="TEXT")
    ] = None,
    seed: SEED = 0,
    as_json: JSON = False,
    dtype: DTYPE = None,
    device: DEVICE = None,
    trust_remote_code: TRUST = False,
) -> None:
    """Answer prompts: one as it is written, many in batches.

    With --json every answer is a line: prompt, completion, finish_reason, …

    \b
    Examples:
      truing generate --model sandbox/base "What is the trade of Kama Feindett?"
      truing generate --model out/dpo --file prompts.txt --json > answers.jsonl
      printf 'Hello\\n' | truing generate --model out/dpo --file -
    """
    from truing.cli.loading import load_model, prompts_of
    from truing.cli.text import emit, printable

    asked = prompts_of(prompts, file, system)
    first = list(islice(asked, 2))  # the faults of a command come before its work
    loaded = load_model(model, dtype, device, trust_remote_code)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "n": n,
        "stop": tuple(stop or ()),
        "seed": seed,
    }
    cut = answers = 0
    if len(first) == 1 and n == 1 and not as_json:
        found = loaded.generate(first, **options, stream=_write)
        emit()
        answers, cut = 1, int(found[0].finish_reason == "length")
    else:
        from truing.cli.watching import watching

        for chunk in _chunks(first, asked):
            with watching():
                found = loaded.generate(chunk, **options)
            answers += len(found)
            cut += sum(answer.finish_reason == "length" for answer in found)
            _print(chunk, found, n, as_json)
    if cut:
        note = f"{cut} of {answers} answers ended at {max_new_tokens} tokens" if answers > 1 else "The answer was cut"
        print(printable(f"{note}; --max-new-tokens allows more."), file=sys.stderr)


def _write(prompt: int, sample: int, piece: str) -> None:
    from truing.cli.text import printable

    sys.stdout.write(printable(piece))
    sys.stdout.flush()


def _chunks(first: list[Any], rest: Iterator[Any]) -> Iterator[list[Any]]:
    chunk = [*first, *islice(rest, CHUNK - len(first))]
    while chunk:
        yield chunk
        chunk = list(islice(rest, CHUNK))


def _print(prompts: Sequence[Any], found: Sequence[Completion], n: int, as_json: bool) -> None:
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, one_line, printable

    for place, answer in enumerate(found):
        prompt, sample = prompts[place // n], place % n
        if as_json:
            row = {
                "prompt": prompt,
                "completion": answer.text,
                "finish_reason": answer.finish_reason,
                "tokens": len(answer.tokens) or None,
                **({"sample": sample} if n > 1 else {}),
                **({"trace": answer.trace} if answer.trace else {}),
            }
            emit(json_text(row, indent=None))
            continue
        if sample == 0:
            last = prompt if isinstance(prompt, str) else prompt[-1].get("content", "")
            emit(f"> {one_line(str(last), 200)}")
        emit(printable(f"{sample + 1}: {answer.text}" if n > 1 else answer.text))
        if sample == n - 1:
            emit()
