"""A small household in which plans are carried out: rooms, doors, a key, things to bring; what can be done is exact.

It shows what grounding is for. Somebody who wrote plans for households like this one knows how such things go, and not
where the apple lies today or which door is locked. `plans` is text of such writers, `planner` a small language model
trained on it; `Household` says what can be done, and carries it out.
"""

from __future__ import annotations

import collections
import functools
import random
from collections.abc import Sequence
from typing import Any

from truing.errors import SettingsError

HALL = "hall"
ROOMS = ("hall", "kitchen", "cellar", "garden", "study")
"""All rooms open onto the hall, each by a door of its own."""

THINGS = ("apple", "cup", "book", "lamp", "key")
"""The key opens every lock."""

SKILLS = (
    *(f"go to the {room}." for room in ROOMS),
    *(f"open the {room} door." for room in ROOMS[1:]),
    *(f"unlock the {room} door." for room in ROOMS[1:]),
    *(f"pick up the {thing}." for thing in THINGS),
    *(f"put down the {thing}." for thing in THINGS),
)
"""All that can be done, if it can be done: 23 texts, each ending with a full stop."""

HANDS = 2
HAND = "hand"
_DOORS = {"open": 0.45, "closed": 0.35, "locked": 0.2}
# Where things usually are; a household draws from this, and writers look in this order.
_PLACES: dict[str, dict[str, float]] = {
    "apple": {"kitchen": 0.6, "cellar": 0.2, "garden": 0.15, "study": 0.05},
    "cup": {"kitchen": 0.5, "study": 0.3, "garden": 0.15, "cellar": 0.05},
    "book": {"study": 0.6, "garden": 0.2, "kitchen": 0.15, "cellar": 0.05},
    "lamp": {"cellar": 0.5, "study": 0.3, "kitchen": 0.1, "garden": 0.1},
    "key": {"hall": 0.6, "kitchen": 0.2, "study": 0.2},
}
_LONGEST = 40


class Household:
    """A household on one day, with an errand: bring a thing to a room. Rooms and hands hold what they hold.

    Attributes:
        room: where one is.
        doors: "open", "closed" or "locked", by room.
        things: the room of each thing, or "hand".
        errand: the thing and the room that it is to be brought to.
    """

    def __init__(self, seed: int = 0) -> None:
        self.reset(seed)

    def reset(self, seed: int = 0) -> str:
        """Another day, drawn by the seed, on which the errand can be done; gives the errand in words."""
        rng = random.Random(f"household {seed}")
        while True:
            self.room = HALL
            self.doors = {room: _drawn(rng, _DOORS) for room in ROOMS[1:]}
            self.things = {thing: _drawn(rng, _PLACES[thing]) for thing in THINGS}
            thing = rng.choice(THINGS[:-1])
            self.errand = (thing, rng.choice([room for room in ROOMS[1:] if room != self.things[thing]]))
            if self.possible:
                return self.goal

    @property
    def goal(self) -> str:
        """The errand in words."""
        return f"Bring the {self.errand[0]} to the {self.errand[1]}."

    @property
    def done(self) -> bool:
        """Whether the thing lies where it is to be."""
        return self.things[self.errand[0]] == self.errand[1]

    @property
    def possible(self) -> bool:
        """Whether the errand can be done at all: no lock stands before it, or the key is not behind one."""
        thing, place = self.errand
        shut = {room for room, state in self.doors.items() if state == "locked"} - {self.room}
        return self.things["key"] not in shut or not {self.things[thing], place} & shut

    def observe(self) -> str:
        """What is to be seen, in words."""
        here = [thing for thing in THINGS if self.things[thing] == self.room]
        held = [thing for thing in THINGS if self.things[thing] == HAND]
        seen = [f"You are in the {self.room}.", f"Here: {', '.join(here) or 'nothing'}."]
        seen += [f"In your hands: {', '.join(held) or 'nothing'}."]
        if self.room == HALL:
            seen += [f"The {room} door is {state}." for room, state in self.doors.items()]
        return " ".join(seen)

    def feasible(self, skill: str) -> bool:
        """Whether a skill can be carried out now; what is no skill cannot."""
        found = _PARSED.get(skill)
        if found is None:
            return False
        verb, what = found
        held = [thing for thing in THINGS if self.things[thing] == HAND]
        if verb == "go":
            inside = self.room if what == HALL else what
            return what != self.room and HALL in (self.room, what) and self.doors[inside] == "open"
        if verb == "open":
            return self.room == HALL and self.doors[what] == "closed"
        if verb == "unlock":
            return self.room == HALL and self.doors[what] == "locked" and "key" in held
        if verb == "pick":
            return self.things[what] == self.room and len(held) < HANDS
        return what in held

    def step(self, skill: str) -> bool:
        """Carry out a skill, and say whether that was possible; if not, nothing has changed."""
        if not self.feasible(skill):
            return False
        verb, what = _PARSED[skill]
        if verb == "go":
            self.room = what
        elif verb in ("open", "unlock"):
            self.doors[what] = "open" if verb == "open" else "closed"
        else:
            self.things[what] = HAND if verb == "pick" else self.room
        return True

    def state(self) -> dict[str, Any]:
        """All of it as plain values; `of` makes the household again."""
        return {
            "room": self.room, "doors": dict(self.doors), "things": dict(self.things), "errand": list(self.errand)
        }  # fmt: skip

    @classmethod
    def of(cls, state: dict[str, Any]) -> Household:
        """The household of a state.

        Raises:
            SettingsError: it is no state of a household.
        """
        made = cls.__new__(cls)
        try:
            made.room, made.doors, made.things = str(state["room"]), dict(state["doors"]), dict(state["things"])
            made.errand = (str(state["errand"][0]), str(state["errand"][1]))
            whole = set(made.doors) == set(ROOMS[1:]) and set(made.things) == set(THINGS) and made.room in ROOMS
        except (KeyError, TypeError, ValueError, IndexError):
            whole = False
        if not whole:
            raise SettingsError(
                f"This is no state of a household, as Household.state() gives one: {str(state)[:120]!r}."
            )
        return made

    def conversation(self, steps: Sequence[str] = ()) -> list[dict[str, Any]]:
        """What a model is asked for the next step: the errand, and the steps so far as the beginning of its answer.

        The first message carries the ``state``, which chat templates leave out and grounding functions read.
        """
        asked: list[dict[str, Any]] = [{"role": "user", "content": self.goal, "state": self.state()}]
        return [*asked, {"role": "assistant", "content": " ".join(steps)}] if steps else asked

    def shortest(self) -> list[str] | None:
        """A shortest plan from here, or None where the errand cannot be done."""
        start = Household.of(self.state())
        seen, waiting = {start._key()}, collections.deque([(start, [])])  # type: ignore[var-annotated]
        while waiting:
            home, steps = waiting.popleft()
            if home.done:
                return steps
            for skill in SKILLS:
                if home.feasible(skill) and not _aside(skill, home):
                    after = Household.of(home.state())
                    after.step(skill)
                    if after._key() not in seen:
                        seen.add(after._key())
                        waiting.append((after, [*steps, skill]))
        return None

    def _key(self) -> tuple[Any, ...]:
        return (self.room, *self.doors.values(), *self.things.values())


def _aside(skill: str, home: Household) -> bool:
    """Whether a skill moves a thing that no shortest plan needs."""
    verb, what = _PARSED[skill]
    return verb in ("pick", "put") and what not in ("key", home.errand[0])


def _drawn(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


_PARSED = {
    skill: (skill.split()[0], skill.removesuffix(" door.").rstrip(".").split()[-1]) for skill in SKILLS
}  # fmt: skip


def explore(home: Household, rng: random.Random) -> list[str]:
    """The steps of somebody who knows where things usually are, and looks there until the errand is done.

    They look first where the thing is likely to be, take the key along when they see it, and come back to a locked room
    once they have it. The household is changed.
    """
    thing, place = home.errand
    steps: list[str] = []
    visited = {HALL}
    likely = _order(rng, thing)
    keys = _order(rng, "key")

    def do(skill: str) -> None:
        if not home.step(skill):
            raise SettingsError(f"{skill!r} cannot be done in this household: {home.observe()}")
        steps.append(skill)

    while not home.done and len(steps) < _LONGEST:
        visited.add(home.room)
        for wanted in (thing, "key"):
            if home.things[wanted] == home.room:
                do(f"pick up the {wanted}.")
        held = [each for each in THINGS if home.things[each] == HAND]
        if thing in held and home.room == place:
            do(f"put down the {thing}.")
            continue
        target = place if thing in held else next(room for room in likely if room not in visited)
        if home.doors[target] == "locked" and "key" not in held:
            target = next(
                room
                for room in [*(likely if thing not in held else keys), *keys]
                if room not in visited and home.doors[room] != "locked"
            )
        if home.room not in (HALL, target):
            do("go to the hall.")
        if home.doors[target] == "locked":
            do(f"unlock the {target} door.")
        if home.doors[target] == "closed":
            do(f"open the {target} door.")
        do(f"go to the {target}.")
    return steps


def _order(rng: random.Random, thing: str) -> list[str]:
    """All rooms but the hall, where the thing is likely to be first."""
    left = {room: _PLACES[thing].get(room, 0.02) for room in ROOMS[1:]}
    out = []
    while left:
        out.append(_drawn(rng, left))
        del left[out[-1]]
    return out


def plans(n: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Conversations to learn plans from: an errand, and what somebody did for it in a household of their own.

    Nothing in them says how that household was, so the next step can be guessed and not known.
    """
    out: list[list[dict[str, str]]] = []
    number = 0
    while len(out) < n:
        rng = random.Random(f"plan {seed} {number}")
        home = Household(rng.randrange(2**31) + 2**31)
        number += 1
        asked = home.goal
        try:
            steps = explore(home, rng)
        except StopIteration:  # the key lies behind a lock that only it opens for somebody who does not search all
            continue
        out.append([{"role": "user", "content": asked}, {"role": "assistant", "content": " ".join(steps)}])
    return out


@functools.lru_cache(maxsize=4)
def planner(seed: int = 0, n: int = 12_000, width: int = 64, layers: int = 2) -> Any:
    """A small language model that writes plans, trained on `plans` in about half a minute on one core.

    Args:
        seed: of text and weights.
        n: plans to read.
        width: of the model.
        layers: of the model.
    """
    from truing.models import Model
    from truing.sandbox.pretrain import network, pack, pretrain
    from truing.sandbox.tokenizer import encode_document, train_tokenizer

    documents = plans(n, seed)
    tokenizer = train_tokenizer((message["content"] for document in documents for message in document), size=400)
    model = network(len(tokenizer), width=width, layers=layers, inner=2 * width, seed=seed)
    rows = pack([(encode_document(tokenizer, document), 0) for document in documents], 256)
    pretrain(model, rows, rows_per_step=2, seed=seed, label="planner")
    return Model(model, tokenizer, source=f"sandbox planner {seed}")
