"""The 59 papers behind truing, and which of them work today."""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources

from truing.catalogue import ENTRIES
from truing.coverage import MAPS


@dataclasses.dataclass(frozen=True)
class Paper:
    """One row of ``truing papers``.

    Args:
        number: 1 to 59.
        short: a short title.
        title: the full title.
        arxiv: its arXiv number, or None.
        year: of its latest version known here.
        becomes: what it is in truing.
        works_when: what must be seen before the row counts as working.
        entries: ``kind:name`` of everything that the row needs: of the catalogue, or a map of the coverage card
            (``coverage:goals``).
    """

    number: int
    short: str
    title: str
    arxiv: str | None
    year: int | None
    becomes: str
    works_when: str
    entries: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Entries that are not there yet."""
        known = {f"{entry.kind}:{entry.name}" for entry in ENTRIES} | {f"coverage:{name}" for name in MAPS}
        return tuple(name for name in self.entries if name not in known)

    @property
    def state(self) -> str:
        """ "works" when every entry it needs is in the catalogue, else "planned"."""
        return "works" if self.entries and not self.missing else "planned"

    @property
    def url(self) -> str | None:
        """Where to read it."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


@functools.cache
def papers() -> tuple[Paper, ...]:
    """All 59 rows, in order."""
    import yaml

    text = resources.files("truing").joinpath("data/papers.yaml").read_text(encoding="utf-8")
    return tuple(Paper(**{**row, "entries": tuple(row["entries"])}) for row in yaml.safe_load(text))
