"""What a check found."""

from __future__ import annotations

import dataclasses
from typing import Any

from truing.safe_text import inert


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as the manifest says.

    Args:
        kind: "hook", "patched forward", "module", "tensor", "stray tensor", "modifier", "configuration", "tokenizer",
            "file" or "canary".
        where: the module, tensor, file or canary.
        what: what differs.
    """

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check looked at, and what it found.

    Args:
        findings: empty where all is as it was.
        checked: how many of each kind of thing were compared.
    """

    findings: tuple[Finding, ...]
    checked: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __add__(self, other: Report) -> Report:
        return Report((*self.findings, *other.findings), {**self.checked, **other.checked})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ok": self.ok,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "checked": dict(self.checked),
        }

    def __str__(self) -> str:
        looked = ", ".join(f"{count:,} {what}" for what, count in self.checked.items())
        if self.ok:
            return f"Nothing has changed: {looked} compared."
        many = len(self.findings)
        head = f"{many} {'thing is' if many == 1 else 'things are'} not as the manifest says ({looked} compared)."
        # Names come from models and files.
        return inert("\n".join([head, *(f"  {finding}" for finding in self.findings)]))
