"""Which goals, criteria and risks a run has evidence for: maps from surveys, walked leaf by leaf.

A leaf is covered for training when a step used one of its methods or learned from records with its tag, and for
evaluation when one of its figures was measured, with an interval. An untagged data set never counts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from truing.errors import SettingsError

if TYPE_CHECKING:
    from truing.measures.result import Figure
    from truing.runs.result import RunResult

MAPS = ("goals", "outer-inner", "pipeline", "trustworthiness", "bidirectional", "post-training", "multimodal")
"""Names of the maps, in the order they are shown."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One goal, criterion or risk.

    Args:
        path: ``map/branch/leaf``; what records are tagged with.
        name: what it is called.
        parts: names of the branches that it stands in, the outermost first.
        methods: methods whose use in a step is evidence.
        figures: ``measure`` or ``measure.figure`` of the results that are.
        records: sets of the sandbox that carry its tag.
        settings: settings of a step that are evidence when they are given.
        tagged: whether records may carry it as a tag.
        why: why nothing in truing can show it.
    """

    path: str
    name: str
    parts: tuple[str, ...]
    methods: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tagged: bool = False
    why: str = ""

    @property
    def ways(self) -> str:
        """What would be evidence, in words."""
        ways = [
            *([f"measure {', '.join(self.figures)}"] if self.figures else []),
            *([f"a step with {', '.join(self.methods)}"] if self.methods else []),
            *([f"a step with `{name}`" for name in self.settings]),
            *([f"records tagged {self.path}"] if self.tagged else []),
        ]
        return " or ".join(ways) or self.why


@dataclasses.dataclass(frozen=True)
class Map:
    """A map: what it is about, and its leaves in order."""

    name: str
    title: str
    paper: int
    about: str
    leaves: tuple[Leaf, ...]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Why a leaf counts as covered.

    Args:
        kind: "training" or "evaluation".
        label: the step or the figure.
        figure: the value with its interval, for a figure.
    """

    kind: str
    label: str
    figure: Figure | None = None


@dataclasses.dataclass(frozen=True)
class Covered:
    """A leaf and the evidence that a run has for it."""

    leaf: Leaf
    evidence: tuple[Evidence, ...]

    @property
    def state(self) -> str:
        """ "evidence"; "missing", where truing could show it; "outside", where it cannot."""
        return "evidence" if self.evidence else "outside" if self.leaf.why else "missing"


@dataclasses.dataclass(frozen=True)
class Card:
    """A map walked for one run.

    Args:
        map: the map.
        covered: one for each of its leaves, in order.
        remarks: what must be said of the whole.
    """

    map: Map
    covered: tuple[Covered, ...]
    remarks: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Leaves with evidence."""
        return sum(one.state == "evidence" for one in self.covered)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "map": self.map.name, "title": self.map.title, "paper": self.map.paper, "covered": self.count,
            "leaves": [
                {
                    "path": one.leaf.path, "name": one.leaf.name, "parts": list(one.leaf.parts), "state": one.state,
                    "evidence": [
                        {"kind": each.kind, "label": each.label,
                         **({} if each.figure is None else {"figure": dataclasses.asdict(each.figure)})}
                        for each in one.evidence
                    ],
                    "ways": one.leaf.ways,
                }
                for one in self.covered
            ],
            "remarks": list(self.remarks),
        }  # fmt: skip


@functools.cache
def maps() -> tuple[Map, ...]:
    """All maps."""
    import yaml

    found = []
    for name in MAPS:
        text = resources.files("truing").joinpath(f"data/coverage/{name}.yaml").read_text(encoding="utf-8")
        value = yaml.safe_load(text)
        leaves = tuple(_leaves(value["nodes"], name, ()))
        found.append(Map(name, value["title"], value["paper"], value["about"], leaves))
    return tuple(found)


def _leaves(nodes: Sequence[dict[str, Any]], path: str, parts: tuple[str, ...]) -> Iterator[Leaf]:
    for node in nodes:
        given = dict(node)
        here = f"{path}/{given.pop('id')}"
        if "nodes" in given:
            yield from _leaves(given["nodes"], here, (*parts, given["name"]))
        else:
            lists: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
            }
            yield Leaf(path=here, parts=parts, **lists)


@functools.cache
def tags() -> tuple[str, ...]:
    """All that records may be tagged with."""
    return tuple(leaf.path for one in maps() for leaf in one.leaves if leaf.tagged)


def cards(run: RunResult | None = None, names: Sequence[str] = ()) -> list[Card]:
    """The maps walked for a run; without one, nothing is covered.

    Args:
        run: a finished run.
        names: of the maps wanted; all by default.

    Raises:
        SettingsError: there is no such map.
    """
    unknown = [name for name in names if name not in MAPS]
    if unknown:
        raise SettingsError(f"There is no map `{unknown[0][:60]}`. There are: {', '.join(MAPS)}.")
    wanted = [one for one in maps() if not names or one.name in names]
    return [_card(one, run) for one in wanted]


def _card(one: Map, run: RunResult | None) -> Card:
    covered = tuple(Covered(leaf, () if run is None else tuple(_evidence(leaf, run))) for leaf in one.leaves)
    return Card(one, covered, tuple(_remarks(one, covered, run)))


def _evidence(leaf: Leaf, run: RunResult) -> Iterator[Evidence]:
    steps = run.state["steps"]
    for number, (step, spec) in enumerate(zip(steps, run.recipe.get("steps") or [{}] * len(steps)), 1):
        data = spec.get("records") or {}
        source = str(data.get("path", "")).partition(":")[0]
        if (
            step["method"] in leaf.methods
            or leaf.path in (data.get("tags") or ())
            or source in leaf.records
            or any(spec.get("settings", {}).get(name) for name in leaf.settings)
        ):
            yield Evidence("training", f"step {number}, {step['method'].replace('_', ' ')}")
    for label, result in run.results.items():
        for name, figure in result.figures.items():
            if result.name in leaf.figures or f"{result.name}.{name}" in leaf.figures:
                yield Evidence("evaluation", f"{label}.{name}" if name != label else name, figure)


def _remarks(one: Map, covered: Sequence[Covered], run: RunResult | None) -> Iterator[str]:
    if run is None:
        return
    if one.name == "bidirectional":
        halves = [
            any(each.evidence for each in covered if each.leaf.path.split("/")[1] in part)
            for part in (("specify", "integrate"), ("cognition", "behaviour"))
        ]
        if halves[0] != halves[1]:
            what = "people understand, question or adapt to the model" if halves[0] else "the model was aligned"
            yield f"One-directional: nothing shows that {what}."
    measured = {result.name for result in run.results.values()}
    # Measures of a run are of its last model, so they come after every step.
    trained = any(step.get("trained") for step in run.state["steps"])
    if one.name == "post-training" and trained and not {"over_refusal", "hhh"} <= measured:
        yield "Alignment unverified: weights were changed, and `hhh` and `over_refusal` were not both measured after."
