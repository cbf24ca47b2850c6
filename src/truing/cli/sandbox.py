"""``truing sandbox``: build its models, show its world, and sample what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truing.cli.options import JSON

if TYPE_CHECKING:
    from truing.sandbox import Item

app = typer.Typer(
    help="Build, show and sample the written world that ships with truing.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command()
def build(
    out: Annotated[
        Path | None,
        typer.Option(help="Where to put them; into the installation if left out.", metavar="FOLDER"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="base, small or guide; repeat for more.", metavar="NAME")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="How much to train, relative to the shipped models.", metavar="SHARE")
    ] = 1.0,
) -> None:
    """Train the sandbox's tokenizer and models again, from their seeds.

    \b
    Examples:
      truing sandbox build --out models
      truing sandbox build --out /tmp/quick --only small --scale 0.01
    """
    from truing.cli.text import emit, printable
    from truing.cli.watching import watching
    from truing.errors import ModelError
    from truing.sandbox import NAMES
    from truing.sandbox import build as make

    names = tuple(only or NAMES)
    place = out
    if place is None:
        place = Path(__file__).parent.parent / "sandbox" / "checkpoints"
        there = [name for name in names if (place / name / "model.safetensors").exists()]
        if there:
            raise ModelError(
                f"sandbox/{there[0]} is in this installation already. Name a folder for another one: --out FOLDER."
            )
    try:
        with watching():
            make(place, names=names, scale=scale)
    except OSError as error:
        raise ModelError(f"{place} cannot be written: {error.strerror or error}. Choose another with --out.") from None
    for name in names:
        emit(printable(f"sandbox/{name}" if out is None else str(place / name)))


@app.command()
def show(as_json: JSON = False) -> None:
    """Show the world: what is in it, how it is split, and every kind of question with an ideal answer.

    \b
    Example:
      truing sandbox show
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import columns, emit, styled
    from truing.cli.text import show as put

    found = _profile()
    if as_json:
        emit(json_text(found))
        return
    put(styled("Known, with facts, by split (alignment learns on train; tune on dev, report test)", "bold"))
    table = columns("", "train", "dev", "test", "facts of each")
    for row in found["entities"]:
        table.add_row(
            *(styled(str(row[key])) for key in ("kind", "train", "dev", "test")), styled(", ".join(row["facts"]))
        )
    put(table)
    put(styled("\nNames that nobody knows, and procedures (pairs of verb and object)", "bold"))
    table = columns("", "train", "dev", "test", "")
    for row in (*found["unknown"], *found["procedures"]):
        table.add_row(*(styled(str(row[key])) for key in ("kind", "train", "dev", "test")), "")
    put(table)
    put(styled("\nKinds of question, and what an aligned model does", "bold"))
    table = columns("kind", "wanted", "question and ideal answer")
    for row in found["questions"]:
        table.add_row(styled(row["kind"]), styled(row["wanted"], "green"), styled(row["question"]))
        table.add_row("", "", styled(row["ideal"], "dim"))
    put(table)
    put(styled("\nRecords, each read as sandbox/NAME or sandbox/NAME:SPLIT", "bold"))
    put(styled(", ".join(found["records"])))
    models = [
        f"sandbox/{name}{'' if there else ' (missing: truing sandbox build)'}"
        for name, there in found["models"].items()
    ]
    put(styled("\nModels", "bold"))
    put(styled(", ".join(models)))


def _profile() -> dict[str, Any]:
    import random

    from truing.sandbox import KINDS, items, record_names, world
    from truing.sandbox.answers import ideal

    here = world()
    splits = ("train", "dev", "test")
    entities = []
    for kind in dict.fromkeys(entity.kind for entity in here.entities):
        of = {split: here.of(split, kind) for split in splits}
        entities.append(
            {"kind": kind, **{split: len(of[split]) for split in splits}, "facts": list(of["train"][0].facts)}
        )
    questions = []
    for kind in KINDS:
        item = items(kind, split="dev", n=1)[0]
        questions.append(
            {"kind": kind, "wanted": item.wanted, "control": item.control, "question": item.prompt,
             "ideal": ideal(here, item, random.Random(0))}
        )  # fmt: skip
    return {
        "entities": entities,
        "unknown": [
            {"kind": f"unknown {kind}", **{s: len(of[s]) for s in splits}} for kind, of in here.unknown.items()
        ],
        "procedures": [{"kind": f"{kind} pair", **{s: len(of[s]) for s in splits}} for kind, of in here.pairs.items()],
        "questions": questions,
        "records": list(record_names()),
        "models": models(),
    }


def models() -> dict[str, bool]:
    """Which of the sandbox's models are in this installation."""
    from truing.errors import ModelError
    from truing.sandbox import NAMES, checkpoint

    found = {}
    for name in NAMES:
        try:
            checkpoint(name)
        except ModelError:
            found[name] = False
        else:
            found[name] = True
    return found


@app.command()
def sample(
    name: Annotated[
        str,
        typer.Argument(help="preferences or another set of records (`truing sandbox show`), or items.", metavar="NAME"),
    ],
    kind: Annotated[
        str | None, typer.Option(help="For items: the kind of question, as harmful.", metavar="KIND")
    ] = None,
    split: Annotated[str, typer.Option(help="train, dev or test.", metavar="SPLIT")] = "train",
    n: Annotated[int, typer.Option("-n", min=1, help="How many.", metavar="N")] = 5,
    seed: Annotated[int, typer.Option(help="Of the sample.", metavar="SEED")] = 0,
) -> None:
    """Print records or questions as JSON lines.

    \b
    Examples:
      truing sandbox sample preferences -n 100 > pairs.jsonl
      truing sandbox sample items --kind harmful --split dev
    """
    from truing.cli.text import as_json, emit
    from truing.errors import RecordError
    from truing.sandbox import KINDS, items, records

    rows: list[dict[str, Any]]
    if name == "items":
        if kind is None:
            raise RecordError(
                f"Say which kind of question: `truing sandbox sample items --kind KIND`, of {', '.join(KINDS)}."
            )
        rows = [_item(item) for item in items(kind, split=split, n=n, seed=seed)]
    elif kind is not None:
        raise RecordError(f"--kind is for items: `truing sandbox sample items --kind {kind}`. Records hold all kinds.")
    else:
        rows = records(name.removeprefix("sandbox/"), split=split, n=n, seed=seed)
    for row in rows:
        emit(as_json(row, indent=None))


def _item(item: Item) -> dict[str, Any]:
    return {**item.to_dict(), "wanted": item.wanted}
