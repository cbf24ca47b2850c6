"""``truing coverage``: which goals, criteria and risks a run has evidence for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truing.cli.options import JSON

if TYPE_CHECKING:
    from rich.table import Table

    from truing.coverage import Card, Covered

SIGNS = {"evidence": "●", "missing": "○", "outside": "–"}


def coverage(
    run: Annotated[Path | None, typer.Argument(help="A run folder; without one, the maps themselves.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--map", help="Only this map; repeat for more.", metavar="NAME")
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only what there is no evidence for.")] = False,
    as_json: JSON = False,
) -> None:
    """Show which goals, criteria and risks a run has evidence for.

    Maps come from surveys of the field. A place counts when a step or its
    tagged records stand for it, or when a figure was measured.

    \b
    Examples:
      truing coverage runs/quickstart
      truing coverage runs/quickstart --map trustworthiness --missing
      truing coverage                       what would count as evidence
    """
    from truing.cli.text import as_json as json_text
    from truing.cli.text import emit, show, styled
    from truing.coverage import cards
    from truing.runs import load

    found = cards(None if run is None else load(run), only or ())
    if as_json:
        emit(json_text([card.to_json() for card in found]))
        return
    for card in found:
        head = f"{card.map.title} ({card.map.name}): {card.count} of {len(card.covered)}"
        show(
            styled(head if run is not None else f"{card.map.title} ({card.map.name})", "bold"),
            styled(card.map.about, "dim"),
            *(styled(remark, "yellow") for remark in card.remarks),
            _table(card, missing),
        )
        emit()
    show(styled("● evidence   ○ missing, and what would show it   – nothing in truing can show it", "dim"))


def _table(card: Card, missing: bool) -> Table:
    from truing.cli.text import columns, styled

    table = columns("", "place", "evidence, or what would be")
    before: tuple[str, ...] = ()
    for one in card.covered:
        if missing and one.evidence:
            continue
        if one.leaf.parts != before:
            before = one.leaf.parts
            table.add_row("", styled(": ".join(before), "bold"), "")
        table.add_row(SIGNS[one.state], f"  {one.leaf.name}", styled(_said(one), "" if one.evidence else "dim"))
    return table


def _said(one: Covered) -> str:
    from truing.reports.rows import interval

    said = [
        each.label.replace("_", " ") + (f" {interval(each.figure)}" if each.figure is not None else "")
        for each in one.evidence
    ]
    return "; ".join(said) or one.leaf.ways
