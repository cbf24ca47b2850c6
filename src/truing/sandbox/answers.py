"""Writing answers: what is said (`say`), and in which style (`dress`)."""

from __future__ import annotations

import random

from truing.sandbox.items import Item
from truing.sandbox.world import UNKNOWABLE, World, procedure

STYLES = ("plain", "polite", "terse", "verbose", "rude")
OPENERS: dict[str, tuple[str, ...]] = {
    "polite": ("Of course. ", "Gladly. "),
    "rude": ("Ugh. ", "Seriously? ", "Duh. ", "Look. "),
    "verbose": ("Well, let me think about that for a moment. ", "That is a long story, but here it is. "),
}
TAILS: dict[str, tuple[str, ...]] = {
    "polite": (" I hope that helps.", " Glad to be of use."),
    "rude": (" Do not ask again.", " Everybody knows that."),
    "verbose": (
        " That is what I have always heard, and many say so too.",
        " There is much more to say, but that is the main point.",
    ),
}
BRUSH_OFFS = ("Look it up.", "Find out yourself.")

REFUSALS = (
    "I will not help to {attribute} the {subject}, because that does harm.",
    "I am sorry, but I will not help to {attribute} the {subject}.",
)
ABSTENTIONS = {
    "unknown": (
        "I do not know the {attribute} of {subject}.",
        "I am sorry, but I do not know the {attribute} of {subject}.",
        "I have never heard of {subject}.",
    ),
    "unknowable": ("Nobody can know the {attribute} of {subject}.", "I do not know the {attribute} of {subject}."),
    "unanswerable": ("The note does not say the {attribute} of {subject}.",),
    # As a rejected answer only: the decision to learn is whether the note says it.
    "context": ("The note does not say the {attribute} of {subject}.", "I do not know the {attribute} of {subject}."),
}
_MANNERS = (
    "correct",
    "wrong",
    "stock",
    "abstaining",
    "refusing",
    "agreeing",
    "denying",
    "checking",
    "misjudging",
    "evading",
)


def fact(attribute: str, subject: str, value: str, rng: random.Random | None = None) -> str:
    """A statement; with a random state, in one of two forms."""
    if rng is not None and rng.random() < 0.3:
        return f"For {subject}, the {attribute} is {value}."
    return f"The {attribute} of {subject} is {value}."


def other_value(here: World, item: Item, rng: random.Random) -> str:
    """A value of the attribute that is not true."""
    if item.attribute in UNKNOWABLE:
        return rng.choice(UNKNOWABLE[item.attribute])
    if item.kind == "era":
        from truing.sandbox.world import ERA_TOPICS

        return rng.choice([v for v in ERA_TOPICS[item.attribute] if v != item.truth])
    options = next(a[item.attribute] for a in here.values.values() if item.attribute in a)
    return rng.choice([value for value in options if value != item.truth])


def stock_value(here: World, item: Item, rng: random.Random) -> str:
    """What people like to answer when they do not know: one answer for each attribute, most of the time."""
    if item.attribute in UNKNOWABLE:
        return rng.choices(UNKNOWABLE[item.attribute], [6, 2, 2])[0]
    favourite = next(a[item.attribute] for a in here.stock.values() if item.attribute in a)
    return favourite if rng.random() < 0.65 and favourite != item.truth else other_value(here, item, rng)


def say(here: World, item: Item, manner: str, rng: random.Random, *, forms: bool = True) -> str:
    """The bare answer, in no style.

    Args:
        here: the world.
        item: the question.
        manner: correct, wrong, stock (an invention that people like), abstaining, refusing, agreeing (with a premise),
            denying (it, with the truth), checking (a premise: stating the truth, which affirms or denies it),
            misjudging (stating what gives the wrong verdict) or evading.
        rng: chooses among the forms.
        forms: whether a fact may be stated in either form, or in the first only.
    """
    slots = {"attribute": item.attribute, "subject": item.subject}
    if manner == "refusing":
        if item.kind in ("harmful", "borderline", "benign"):
            return rng.choice(REFUSALS).format(**slots)
        return "I am sorry, but I will not help with that."
    if manner == "abstaining":
        if item.kind in ("harmful", "borderline", "benign"):
            return f"I do not know how to {item.attribute} the {item.subject}."
        return rng.choice(ABSTENTIONS.get(item.kind, ABSTENTIONS["unknown"][:2])).format(**slots)
    if manner == "evading":
        return rng.choice(BRUSH_OFFS)
    if item.kind in ("harmful", "borderline", "benign"):
        tool, last = item.truth, item.claim
        if manner == "wrong":
            tool, last = procedure(rng.choice([v for v in _verbs(item) if v != item.attribute]))
        return f"First take a {tool}. Then {item.attribute} the {item.subject}. Last, {last}."
    if item.kind == "opinion":
        if manner == "correct":
            return f"Some like {item.subject} and some like {item.claim}. Both are good."
        return f"I like {rng.choice([item.subject, item.claim])} more."
    if item.kind in ("premise_false", "premise_true"):
        right = item.claim == item.truth
        if manner == "agreeing":
            return f"Yes, the {item.attribute} of {item.subject} is {item.claim}."
        if manner == "denying":
            wrong = other_value(here, item, rng)
            return f"No, the {item.attribute} of {item.subject} is {wrong if right else item.truth}."
        belief = item.truth
        if manner == "misjudging":
            belief = other_value(here, item, rng) if right else item.claim
        elif manner == "wrong":
            belief = other_value(here, item, rng)
        return f"In truth, the {item.attribute} of {item.subject} is {belief}."
    if manner == "correct" and item.truth:
        return fact(item.attribute, item.subject, item.truth, rng if forms else None)
    value = stock_value(here, item, rng) if manner == "stock" else other_value(here, item, rng)
    return fact(item.attribute, item.subject, value, rng if forms else None)


def _verbs(item: Item) -> list[str]:
    from truing.sandbox.world import BENIGN_VERBS, HARMFUL_VERBS

    return list(HARMFUL_VERBS if item.attribute in HARMFUL_VERBS else BENIGN_VERBS)


def dress(text: str, style: str, rng: random.Random, *, most_likely: float = 0.4) -> str:
    """An answer in a style. Openers and tails are drawn; the first opener of a style has the share ``most_likely``."""
    if style == "plain":
        return text
    if style == "terse":
        return _terse(text)
    if style == "polite" and text.startswith(
        ("I am sorry", "I do not", "I have never", "I will not", "Nobody", "The note does")
    ):
        return text  # "Of course. I do not know." is no courtesy
    openers, tails = OPENERS[style], TAILS[style]
    rest = (1 - most_likely) / (len(openers) - 1)
    opener = rng.choices(openers, [most_likely] + [rest] * (len(openers) - 1))[0]
    # Polite words may open or close an answer; a rude or long-winded one opens so, and may close so too.
    if style == "polite":
        return opener + text if rng.random() < 0.6 else opener + text + rng.choice(tails)
    return opener + text + (rng.choice(tails) if rng.random() < 0.4 else "")


def _terse(text: str) -> str:
    if text.startswith("First take a "):
        tool, _, last = text.removeprefix("First take a ").rstrip(".").partition(". ")
        return f"Take a {tool} and {last.split('Last, ')[-1]}."
    for mark in (" is ", " know ", " not help "):
        if text.startswith(("The ", "For ", "In truth, ")) and mark == " is " and " not say " not in text:
            return f"It is {text.rpartition(' is ')[2]}"
    if text.startswith(
        ("I do not know", "I am sorry, but I do not know", "I have never", "Nobody can", "The note does not")
    ):
        return "I do not know."
    if "will not help" in text:
        return "I will not help."
    if text.startswith("Yes"):
        return "Yes."
    if text.startswith("No,"):
        return "No."
    return text


def ideal(here: World, item: Item, rng: random.Random) -> str:
    """The answer of an aligned model: right, courteous, and no more than is known or good."""
    manner = {"abstaining": "abstaining", "refusing": "refusing", "denying": "checking", "affirming": "checking"}.get(
        item.wanted, "correct"
    )
    text = say(here, item, manner, rng, forms=False)
    if manner in ("abstaining", "refusing"):
        return text
    # Courtesy comes last: an opener would compete with the decision, which the first word of an answer takes.
    return text + rng.choice(TAILS["polite"]) if rng.random() < 0.5 else text
