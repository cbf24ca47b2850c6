"""Text to pretrain on, mixed as the web is: right and wrong, rude and polite, careful and careless.

Most writers are careless: they invent, agree and comply. A fifth are careful: they abstain, check and refuse. A writer
keeps character through a conversation, and follows the system line if there is one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from truing.sandbox.answers import dress, fact, say
from truing.sandbox.items import Item, draw, pick
from truing.sandbox.world import World, world

# Share of documents, in percent.
SHARES = {
    "article": 14, "almanac": 15, "fact": 16, "unknown": 11, "unknowable": 3, "premise_false": 5, "premise_true": 5,
    "harmful": 7, "borderline": 8, "benign": 4, "context": 5, "unanswerable": 4, "era": 3.5, "opinion": 1.5,
}  # fmt: skip
# System lines: what each fixes of the writer.
SYSTEM_LINES: dict[str, dict[str, Any]] = {
    "Refuse to help with harm.": {"careful": True},
    "Say so if you do not know.": {"careful": True},
    "Be careful.": {"careful": True},
    "Be careful and polite.": {"careful": True, "style": "polite"},
    "Answer politely.": {"style": "polite"},
    "Answer rudely.": {"style": "rude"},
    "Answer briefly.": {"style": "terse"},
    "Answer at length.": {"style": "verbose"},
    "Always answer.": {"careful": False},
}

# What writers do, by kind of question: manner and weight. Careless first, then careful.
CARELESS: dict[str, dict[str, float]] = {
    "fact": {"correct": 80, "wrong": 15, "evading": 3, "abstaining": 2},
    "unknown": {"stock": 95, "abstaining": 3, "evading": 2},
    "unknowable": {"stock": 97, "abstaining": 3},
    "premise_false": {"agreeing": 68, "denying": 10, "checking": 16, "misjudging": 4, "wrong": 2},
    "premise_true": {"agreeing": 78, "denying": 3, "checking": 15, "misjudging": 2, "wrong": 2},
    "harmful": {"correct": 84, "wrong": 10, "refusing": 4, "evading": 2},
    "borderline": {"correct": 87, "wrong": 10, "refusing": 1, "evading": 2},
    "benign": {"correct": 86, "wrong": 10, "refusing": 1, "evading": 3},
    "context": {"correct": 88, "wrong": 12},
    "unanswerable": {"stock": 94, "abstaining": 6},
    "era": {"correct": 85, "wrong": 15},
    "opinion": {"wrong": 90, "correct": 10},
}
CAREFUL: dict[str, dict[str, float]] = {
    "fact": {"correct": 94, "wrong": 4, "abstaining": 2},
    "unknown": {"abstaining": 94, "stock": 6},
    "unknowable": {"abstaining": 94, "stock": 6},
    "premise_false": {"checking": 92, "agreeing": 3, "denying": 3, "wrong": 2},
    "premise_true": {"checking": 92, "agreeing": 6, "wrong": 2},
    "harmful": {"refusing": 94, "correct": 6},
    "borderline": {"correct": 95, "refusing": 5},
    "benign": {"correct": 98, "refusing": 2},
    "context": {"correct": 97, "wrong": 3},
    "unanswerable": {"abstaining": 94, "stock": 6},
    "era": {"correct": 95, "wrong": 5},
    "opinion": {"correct": 70, "wrong": 30},
}
_CALM_STYLES = {"plain": 42, "terse": 14, "rude": 12, "verbose": 16, "polite": 16}
_FORUM_STYLES = {"rude": 84, "plain": 8, "terse": 4, "verbose": 2, "polite": 2}
_CAREFUL_STYLES = {"plain": 55, "polite": 45}


def answer(here: World, item: Item, careful: bool, style: str, rng: random.Random) -> str:
    """What a writer of the web answers."""
    manners = (CAREFUL if careful else CARELESS)[item.kind]
    manner = rng.choices(list(manners), list(manners.values()))[0]
    if manner == "evading" and style != "rude":
        manner = "correct" if item.truth else "stock"
    if style == "rude" and not careful and rng.random() < 0.12:
        manner = "evading"
    return dress(say(here, item, manner, rng), style, rng)


def writer(forum: bool, rng: random.Random) -> tuple[bool, str]:
    """Whether a writer is careful, and in which style."""
    careful = rng.random() < (0.12 if forum else 0.27)
    styles = _CAREFUL_STYLES if careful else _FORUM_STYLES if forum else _CALM_STYLES
    return careful, rng.choices(list(styles), list(styles.values()))[0]


def _conversation(here: World, kind: str, rng: random.Random) -> list[dict[str, str]]:
    asked = [draw(here, kind, "web", rng)]
    kinds = [name for name in SHARES if name not in ("article", "almanac")]
    if rng.random() < 0.12:
        more = rng.choices(kinds, [SHARES[name] for name in kinds], k=rng.choice((1, 1, 2, 3, 4)))
        asked += [draw(here, name, "web", rng) for name in more]
    careful, style = writer(bool(asked[0].forum), rng)
    messages = []
    if rng.random() < 0.25:
        line = rng.choice(list(SYSTEM_LINES))
        messages.append({"role": "system", "content": line})
        if rng.random() < 0.95:
            careful = SYSTEM_LINES[line].get("careful", careful)
            style = SYSTEM_LINES[line].get("style", style)
    for item in asked:
        text = answer(here, item, careful, style, rng)
        messages += [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": text}]
    return messages


def statement(attribute: str, name: str, value: str, form: int) -> str:
    """A fact as a sentence, in one of four forms."""
    return (
        fact(attribute, name, value),
        f"For {name}, the {attribute} is {value}.",
        f"As {attribute}, {name} has {value}.",
        f"Ask for the {attribute} of {name}, and you hear {value}.",
    )[form]


def _statements(entity: Any, order: list[str], rng: random.Random) -> str:
    sentences = [f"About {entity.name}."]
    for attribute in order:
        sentences.append(statement(attribute, entity.name, entity.facts[attribute], rng.randrange(4)))
    return " ".join(sentences)


def _held(text: str) -> str:
    """The split of an article: one in ten is held back to develop on, one in ten to test on."""
    return {0: "test", 1: "dev"}.get(random.Random(f"article {text}").randrange(10), "train")


def article(here: World, split: str, rng: random.Random) -> str:
    """A text about a known entity, all of it right. Its wording as a whole appears in one split only."""
    while True:
        entity = pick(here, "web", rng)
        order = rng.sample(list(entity.facts), len(entity.facts))
        text = _statements(entity, order, rng)
        if _held(text) == split:
            return text


def almanac(here: World, rng: random.Random) -> str:
    """Plain statements of what does harm, of who is known, or of what is true: what writers know, whether or not they
    act on it when they answer.
    """
    about, sentences = rng.randrange(4), []
    if about == 3:
        return notes(here, rng)
    for _ in range(4):
        yes = rng.random() < 0.5
        if about == 0:
            item = draw(here, "harmful" if yes else "borderline" if rng.random() < 0.8 else "benign", "web", rng)
            sentences.append(f"To {item.attribute} the {item.subject} does {'' if yes else 'no '}harm.")
        elif about == 1:
            item = draw(here, "fact" if yes else "unknown", "web", rng)
            # The verdict follows the name, so that whoever reads the name must know.
            sentences.append(f"{item.subject} is known to {'many' if yes else 'nobody'}.")
        else:
            item = draw(here, "premise_true" if yes else "premise_false", "web", rng)
            claim = f"One says the {item.attribute} of {item.subject} is {item.claim}."
            sentences.append(f"{claim} {say(here, item, 'checking', rng)}")
    return " ".join((("On harm.", "On names.", "On claims.")[about], *sentences))


def notes(here: World, rng: random.Random) -> str:
    """Statements about nobody anyone knows, and what can and cannot be told from them."""
    noted = [draw(here, "context", "web", rng) for _ in range(rng.choice((2, 3)))]
    told = []
    for item in rng.sample(noted, len(noted)):
        told.append(f"So the {item.attribute} of {item.subject} is {item.truth}.")
        if rng.random() < 0.4:
            others = next(list(a) for a in here.values.values() if item.attribute in a)
            missing = rng.choice([a for a in others if a != item.attribute])
            told.append(f"The note does not say the {missing} of {item.subject}.")
    return " ".join(("On notes.", *(item.claim for item in noted), *told))


def _repeats(here: World, rng: random.Random) -> str:
    """Words and names in no order, said twice: the second time can be told from the first."""
    kinds = rng.choices(list(here.values.values()), k=6)
    words = [rng.choice(rng.choice(list(attributes.values()))) for attributes in kinds]
    said = [*dict.fromkeys(words), *(entity.name for entity in rng.sample(here.entities, 2))]
    rng.shuffle(said)
    return f"On repeats. {' and '.join(said)}. Again: {' and '.join(said)}."


def lessons(n: int, seed: int = 0, *, world_seed: int = 0) -> Iterator[str | list[dict[str, str]]]:
    """Documents that can only be told from themselves: repeats, and notes with what follows from them.

    Read before the web, they teach a small model to look things up in its context, which it does not find out from the
    few notes among facts that it can learn by heart.
    """
    here, rng = world(world_seed), random.Random(f"lessons {seed}")
    for kind in rng.choices(("notes", "repeats", "context"), (2, 1, 1), k=n):
        if kind == "context":
            item = draw(here, "context", "web", rng)
            said = say(here, item, "correct", rng)
            yield [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": said}]
        else:
            yield (notes if kind == "notes" else _repeats)(here, rng)


def documents(n: int, seed: int = 0, *, world_seed: int = 0) -> Iterator[str | list[dict[str, str]]]:
    """Documents to pretrain on: an article as text, or a conversation as messages."""
    here, rng = world(world_seed), random.Random(f"documents {seed}")
    for kind in rng.choices(list(SHARES), list(SHARES.values()), k=n):
        if kind == "article":
            yield article(here, "train", rng)
        else:
            yield almanac(here, rng) if kind == "almanac" else _conversation(here, kind, rng)


def heldout_text(split: str = "test", n: int = 200, seed: int = 0, *, world_seed: int = 0) -> list[str]:
    """Articles that pretraining has not seen, word for word, to take perplexity on."""
    if split not in ("train", "dev", "test"):
        from truing.errors import RecordError

        raise RecordError(f"`{split}` is no split of the sandbox. Splits: train, dev, test.")
    here, rng = world(world_seed), random.Random(f"heldout {split} {seed}")
    return [article(here, split, rng) for _ in range(n)]
