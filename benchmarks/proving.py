"""Runs the sections of a page of proofs, each in a process of its own, and writes the page."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("TRUING_SHARED", Path(__file__).resolve().parents[2] / "shared"))
"""Where real data lie: beside the project unless the variable says otherwise."""

Prove = Callable[[Sequence[int], Path], str]
"""What proves a section: seeds and a folder in, Markdown out."""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def page(title: str, lead: str, sections: Mapping[str, tuple[str, Prove]], parts: dict[str, str], notes: Path) -> str:
    """The whole page; what was made of the figures stands in a file of notes, one section each."""
    said: dict[str, str] = {}
    if notes.is_file():
        for block in notes.read_text(encoding="utf-8").split("\n## ")[1:]:
            name, _, text = block.partition("\n")
            said[name.strip()] = text.strip()
    out = [f"# {title}", lead]
    for name, (heading, _) in sections.items():
        if name in parts:
            out += [f"## {heading}", *([said[name]] if name in said else []), parts[name]]
    return "\n\n".join(out) + "\n"


def prove(script: str, name: str, title: str, lead: str, sections: Mapping[str, tuple[str, Prove]]) -> None:
    """The command line of a page: prove what is asked for, and write all sections that are there.

    Args:
        script: the file that calls this.
        name: of the page: ``docs/proofs/NAME.md``, with notes in ``benchmarks/proofs_NAME_notes.md`` and finished
            sections under ``runs/proofs/NAME``.
        title, lead: what the page begins with.
        sections: by name, a heading and what proves it.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(sections), default=list(sections))
    parser.add_argument("--jobs", type=int, default=1, help="sections at a time, each in a process of its own")
    parser.add_argument("--out", type=Path, default=Path(f"runs/proofs/{name}"))
    parser.add_argument("--page", type=Path, default=Path(f"docs/proofs/{name}.md"))
    parser.add_argument("--notes", type=Path, default=Path(f"benchmarks/proofs_{name}_notes.md"))
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.section:
        began = time.monotonic()
        text = sections[options.section][1](options.seeds, options.out)
        (options.out / f"{options.section}.md").write_text(text + "\n", encoding="utf-8")
        print(f"{options.section}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return
    waiting = [each for each in options.only if not (options.out / f"{each}.md").is_file()]

    def run(section: str) -> int:
        given = ["--seeds", *map(str, options.seeds), "--out", str(options.out)]
        return subprocess.run([sys.executable, script, "--section", section, *given]).returncode

    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [section for section, code in zip(waiting, pool.map(run, waiting)) if code]
    parts = {
        each: (options.out / f"{each}.md").read_text(encoding="utf-8").strip()
        for each in sections
        if (options.out / f"{each}.md").is_file()
    }
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(page(title, lead, sections, parts, options.notes), encoding="utf-8")
    if failed:
        raise SystemExit(f"Not proved: {', '.join(failed)}.")
