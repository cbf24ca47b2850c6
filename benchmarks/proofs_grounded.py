"""Grounded decoding in a household: likely plans that can be carried out, against the language model alone and SayCan.

    PYTHONPATH=. python benchmarks/proofs_grounded.py [--seeds 0 1 2] [--n 100]

Prints tables in Markdown. For each seed a planner (a language model of plans) is trained and runs errands in households
that it has not seen, the same for every method; the next step is asked for until the errand is done or 20 steps are
over. Settings were chosen in households of other numbers (``DEV``).
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.proving import table
from truing import Affordance, GroundedDecoding, SayCan
from truing.measures.statistics import difference_of_shares, share
from truing.models.types import Usage
from truing.sandbox.skills import SKILLS, Household, planner

STEPS = 20
TEST, DEV = 10_000, 50_000
CAN: dict[str, Any] = {"skills": list(SKILLS), "value": "sandbox_feasible"}
GROUNDED = GroundedDecoding(scorers=[Affordance(**CAN)], terminal=["."])
METHODS = {
    "language model alone": GROUNDED.clone(strength=0),
    "language model alone, sampled": GROUNDED.clone(strength=0),
    "language model alone, among the skills": SayCan(skills=list(SKILLS), terminal=["."]),
    "grounded, greedy": GROUNDED,
    "grounded, sampled": GROUNDED,
    "grounded, beam of 3, every prefix": GROUNDED.clone(beam=3),
    "grounded, beam of 3, final only": GROUNDED.clone(beam=3, accumulate="final_only"),
    "SayCan": SayCan(**CAN, terminal=["."]),
}


class Errands:
    """Households with a plan each, carried out step by step, all in one batch.

    Args:
        model: what says the next step.
        homes: the households, which are changed.
        how: arguments of ``generate``.

    Attributes:
        done: whether each errand was done.
        steps: what was tried, for each.
        failed: how many of those could not be carried out.
        usage: what it cost.
    """

    def __init__(self, model: Any, homes: Sequence[Household], **how: Any) -> None:
        self.steps: list[list[str]] = [[] for _ in homes]
        self.failed, self.usage = 0, Usage()
        live = list(range(len(homes)))
        for _ in range(STEPS):
            live = [at for at in live if not homes[at].done]
            if not live:
                break
            asked = [homes[at].conversation(self.steps[at]) for at in live]
            found = model.generate(asked, max_new_tokens=24, **how)
            self.usage += found.usage
            for at, answer in zip(list(live), found):
                skill = answer.text.strip()
                if not skill:  # the model has ended its plan
                    live.remove(at)
                    continue
                self.failed += not homes[at].step(skill)
                self.steps[at].append(skill)
        self.done = [home.done for home in homes]


def agreement(model: Any, homes: Sequence[Household]) -> tuple[dict[str, list[bool]], list[int]]:
    """Whether each method says what SayCan says, in the first states of SayCan's plans; and the household of each."""
    ranked = METHODS["SayCan"].align(model)
    others = {name: one.align(model) for name, one in METHODS.items() if "beam" in name or "greedy" in name}
    found: dict[str, list[bool]] = {name: [] for name in others}
    steps: list[list[str]] = [[] for _ in homes]
    whose: list[int] = []
    for _ in range(8):
        live = [at for at, home in enumerate(homes) if not home.done]
        if not live:
            break
        whose += live
        asked = [homes[at].conversation(steps[at]) for at in live]
        best = [answer.text.strip() for answer in ranked.generate(asked, max_new_tokens=24)]
        for name, other in others.items():
            said = [answer.text.strip() for answer in other.generate(asked, max_new_tokens=24)]
            found[name] += [one == two for one, two in zip(said, best)]
        for at, skill in zip(live, best):
            homes[at].step(skill)
            steps[at].append(skill)
    return found, whose


def grounded(seeds: Sequence[int], out: Path, n: int = 100, start: int = TEST) -> str:
    """Success, steps that could not be carried out, and cost; then how often beams choose as SayCan does."""
    rows, paired, same, costs = [], [], [], []
    for seed in seeds:
        model = planner(seed)
        numbers = range(start + 1000 * seed, start + 1000 * seed + n)
        found = {}
        for name, one in METHODS.items():
            how = {"temperature": 1.0, "seed": seed} if "sampled" in name else {}
            found[name] = Errands(one.align(model), [Household(k) for k in numbers], **how)
        for name, errands in found.items():
            tried = sum(map(len, errands.steps))
            calls, positions = errands.usage.calls, errands.usage.positions
            rows.append(
                [
                    name, seed, percent(share(errands.done)),
                    f"{100 * errands.failed / max(1, tried):.0f} %", f"{tried / n:.1f}",
                ]
            )  # fmt: skip
            costs.append(
                [
                    name, seed, f"{calls['model'] / longest(errands):.1f}", f"{positions['model'] / tried:.0f}",
                    f"{positions.get('grounding', 0) / tried:.0f}",
                ]
            )  # fmt: skip
        alone, ranked = found["language model alone"].done, found["SayCan"].done
        for name in [name for name in found if name.startswith("grounded")]:
            better = difference_of_shares(found[name].done, alone)
            behind = difference_of_shares(found[name].done, ranked)
            paired.append([name, seed, points(better), points(behind)])
        agreed, whose = agreement(model, [Household(k) for k in numbers])
        same += [[name, seed, percent(share(said, whose)), len(said)] for name, said in agreed.items()]
    order = {name: at for at, name in enumerate(METHODS)}

    def sorted_rows(given: list[list[Any]]) -> list[list[Any]]:
        return sorted(given, key=lambda row: (order[row[0]], row[1]))

    heads = (
        ["", "seed", "errands done", "of steps impossible", "steps an errand"],
        ["", "seed", "more errands done than the language model alone", "than SayCan"],
        ["", "seed", "passes of the model a round of steps", "token positions a step", "texts judged a step"],
        ["", "seed", "says what SayCan says", "states"],
    )
    tables = [table(head, sorted_rows(part)) for head, part in zip(heads, (rows, paired, costs, same))]
    return "\n\n".join(tables)


def longest(errands: Errands) -> int:
    """Rounds in which steps were asked for."""
    return max(1, max(map(len, errands.steps)))


def percent(found: Any) -> str:
    """A share with its interval."""
    return f"{100 * found.value:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def points(found: Any) -> str:
    """A difference of shares with its interval."""
    return f"{100 * found.value:+.0f} pp [{100 * found.low:+.0f}, {100 * found.high:+.0f}]"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=100, help="errands")
    parser.add_argument("--dev", action="store_true", help="in the households that settings were chosen in")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    began = time.process_time()
    print(grounded(options.seeds, Path(), options.n, DEV if options.dev else TEST))
    print(f"\n{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
