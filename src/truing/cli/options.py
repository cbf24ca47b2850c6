"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
MODEL = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="sandbox/base, a folder, a hub name, or openai/NAME for a server.", metavar="MODEL"
    ),
]
DTYPE = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, float16, 8bit or 4bit; by the device if left out.", metavar="TYPE"),
]
DEVICE = Annotated[
    str | None, typer.Option(help="cpu, cuda, …; a GPU, if there is one, if left out.", metavar="DEVICE")
]
TRUST = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
MAX_NEW_TOKENS = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.", metavar="N")]
TEMPERATURE = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token always.", metavar="T")]
SEED = Annotated[int, typer.Option(min=0, help="Of the sampling.", metavar="SEED")]
SYSTEM = Annotated[str | None, typer.Option(help="A system message before the conversation.", metavar="TEXT")]
