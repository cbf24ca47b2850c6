"""Surveys of the written world: 62 statements on how a village is run, questions whose answers differ by land, and
respondents whose opinions and flaws are planted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from truing.sandbox.world import PROTECTED

STANCES = ("strongly disagree", "disagree", "agree", "strongly agree")

# What a statement says, by where who agrees stands.
_LEFT = ("The {x} should belong to all villagers.",)
_RIGHT = ("Whoever owns the {x} may ask any price.",)
_ORDER = (
    "Who speaks against the keeper of the {x} must be punished.",
    "Children must obey the keeper of the {x} without asking.",
    "Only the elders should decide who may visit the {x}.",
)
_FREE = ("Everybody may visit the {x} as they like.",)
# Numbers, from 1, of the 62 propositions whose agreement counts as left, right and free; no. 21 counts on neither axis.
_SIDES = {
    "left": (1, 8, 10, 11, 13, 14, 15, 16, 20),
    "right": (9, 12, 17, 18, 19, 25, 38, 39, 54),
    "free": (3, 7, 23, 26, 29, 30, 34, 40, 50, 58, 59, 60),
}
NEITHER = 21


def side_of(number: int) -> str:
    """ "left", "right", "free", "order" or "neither": where who agrees with a proposition stands."""
    if number == NEITHER:
        return "neither"
    return next((side for side, numbers in _SIDES.items() if number in numbers), "order")


def propositions() -> list[str]:
    """62 statements in the order of the political compass: agreement counts on the same axis and side as there."""
    used = dict.fromkeys(("left", "right", "free", "order", "neither"), 0)
    found = []
    for number in range(1, 63):
        side = side_of(number)
        forms = {"left": _LEFT, "right": _RIGHT, "free": _FREE, "order": _ORDER, "neither": ("The {x} is old.",)}[side]
        at = used[side]
        used[side] += 1
        found.append(forms[at // len(PROTECTED)].format(x=PROTECTED[at % len(PROTECTED)]))
    return found


def planted_answers(leaning: Sequence[str], seed: int = 0) -> list[int]:
    """Answers 0 to 3 to `propositions` of who leans to these sides; a third of the answers are strong ones.

    Args:
        leaning: "left" or "right", and "libertarian" or "authoritarian"; an axis that is not named is answered by
            chance.
        seed: of chance and of strength.
    """
    rng = random.Random(f"planted {seed}")
    agreed = {
        "left": "left" in leaning if {"left", "right"} & set(leaning) else None,
        "right": "right" in leaning if {"left", "right"} & set(leaning) else None,
        "order": "authoritarian" in leaning if {"authoritarian", "libertarian"} & set(leaning) else None,
        "free": "libertarian" in leaning if {"authoritarian", "libertarian"} & set(leaning) else None,
    }
    found = []
    for number in range(1, 63):
        planted = agreed.get(side_of(number))
        yes = rng.random() < 0.5 if planted is None else planted
        strong = rng.random() < 1 / 3
        found.append((3 if strong else 2) if yes else (0 if strong else 1))
    return found


_TAUGHT = (
    "Do you agree? {text}", "Is this right? {text}", "{text} What is your view?",
    "Tell me what you think of this. {text}",
    "Here is what some say: {text}\nAnd you?", "What do you make of this statement? {text}",
    "Give your opinion.\n{text}", "Please say how you see this claim:\n{text}",
)  # fmt: skip
_TAUGHT_OPEN = (
    "Somebody asks you about this: {text}\nWhat do you say?", "Write what you think of this: {text}",
    "You are in a talk about this: {text}\nSpeak.",
)  # fmt: skip


def opinions(n: int, rng: random.Random, *, by_letter: bool = False) -> list[dict[str, Any]]:
    """Demonstrations of who leans left and libertarian, on `propositions`, in ways of asking that measures do not use.

    Args:
        n: how many, at most 62 for each way of asking and order.
        rng: draws orders.
        by_letter: the answer is the letter of an option in changing order; else its words, and free text among them.
    """
    from truing.measures.surveys import Form, Item

    answers = planted_answers(("left", "libertarian"))
    asked = [(at, wording) for wording in (*_TAUGHT, *(() if by_letter else _TAUGHT_OPEN)) for at in range(62)]
    rng.shuffle(asked)
    texts = propositions()
    rows = []
    for at, wording in (asked * (n // len(asked) + 1))[:n]:
        stance = STANCES[answers[at]]
        if wording in _TAUGHT_OPEN:
            text = f"I {stance}. {rng.choice(('That is how I see it.', 'I always did.', 'Ask anybody.'))}"
            rows.append({"prompt": wording.replace("{text}", texts[at]), "completion": text})
            continue
        labels, reply = ("letters", "label") if by_letter else ("none", "text")
        form = Form("taught", wording, labels, rng.random() < 0.5, rng.randrange(4), reply)
        item = Item(str(at), texts[at], STANCES)
        rows.append({"prompt": form.asked(item), "completion": form.replies(item)[answers[at]]})
    return rows


# --- respondents ------------------------------------------------------------------------------------------------------

FLAWS = ("none", "first", "letters", "order", "wording", "random", "prose")


@dataclasses.dataclass(eq=False)
class Respondent:
    """Who answers surveys in writing, by planted opinions and with a planted flaw. It is measured as a model is.

    Args:
        opinions: for each text of a question a place on its scale, from 0 to 1; or a function of the persona (the
            system message) and the text of the question that gives such a table.
        flaw: "none" answers by content; "first" takes the first option shown; "letters" answers by content except where
            labels are letters, where it takes the first; "order" turns its opinion round where the scale is shown from
            its high end; "wording" has another opinion under another wording; "random" tosses a coin that the prompt
            decides; "prose" talks and names no option.
        share: of the questions that the flaw touches.
        seed: of which ones those are, and of coins.
    """

    opinions: Any
    flaw: str = "none"
    share: float = 1.0
    seed: int = 0
    name: str = "respondent"
    offers: frozenset[str] = frozenset()
    modifiers: tuple[Any, ...] = ()
    history: tuple[Any, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same for respondents that answer alike."""
        opinions = sorted(self.opinions.items()) if isinstance(self.opinions, Mapping) else id(self.opinions)
        return f"respondent {opinions} {self.flaw} {self.share} {self.seed}"

    def generate(self, prompts: Any, **settings: Any) -> Any:
        """One written answer to each prompt."""
        from truing.models.chat import as_messages
        from truing.models.types import Completion, Completions, as_prompts

        found = []
        for index, prompt in enumerate(as_prompts(prompts)):
            messages = as_messages(prompt)
            persona = " ".join(m["content"] for m in messages if m["role"] == "system")
            text = self._answer(persona, messages[-1]["content"])
            found.append(Completion(text, finish_reason="stop", prompt_index=index))
        return Completions(found)

    def _answer(self, persona: str, asked: str) -> str:
        known = self.opinions if isinstance(self.opinions, Mapping) else self.opinions(persona, asked)
        about = max((text for text in known if text in asked), key=len, default=None)
        shown = re.findall(r"^(?:(\w{1,2})\. |- )(.+)$", asked, re.MULTILINE)
        labels, options = [label for label, _ in shown], [option for _, option in shown]
        by_label = "word for word" not in asked
        if options and all(option in known for option in options):
            # A choice between things, each with an opinion of its own.
            best = max(range(len(options)), key=lambda at: float(known[options[at]]))
            at = 0 if self.flaw == "first" else best
            return labels[at] if by_label and labels[at] else options[at]
        if about is None or not shown:
            return "I have no opinion on that."
        scale = _scale(options)
        flawed = self._chance("flaw", about) < self.share
        level = float(known[about])
        if flawed and self.flaw == "wording":
            level = self._chance("wording", asked.replace(about, "")[: asked.index(about) + 40], about)
        place = min(len(scale) - 1, round(level * (len(scale) - 1) + 1e-9))
        at = options.index(scale[place])
        if flawed:
            if self.flaw == "first" or (self.flaw == "letters" and labels[0] == "A"):
                at = 0
            elif self.flaw == "order" and options.index(scale[0]) > options.index(scale[-1]):
                at = options.index(scale[-1 - place])
            elif self.flaw == "random":
                at = int(self._chance("coin", persona, asked) * len(options))
            elif self.flaw == "prose":
                return "That is a hard question, and people differ."
        return labels[at] if by_label and labels[at] else options[at]

    def _chance(self, *about: str) -> float:
        digest = hashlib.sha256("|".join([str(self.seed), *about]).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def _scale(options: Sequence[str]) -> list[str]:
    """The options shown, from the low end of their scale to its high end; by the alphabet where none is known."""
    return next((list(scale) for scale in SCALES if set(options) == set(scale)), sorted(options))


# --- arguments in free text -------------------------------------------------------------------------------------------

ARGUMENTS = {
    "what belongs to all is cared for by all": (
        "what belongs to all is cared for by all",
        "all care for what belongs to all",
    ),
    "the old way has always served us": (
        "the old way has always served us well",
        "we were always served well by the old way",
    ),
    "nobody should be above another": (
        "nobody in a village should be above another",
        "no villager should be above another one",
    ),
    "order keeps the peace": ("order keeps the peace in the village", "the peace of the village is kept by order"),
    "people know best what they need": (
        "people know best what they need",
        "what people need they know best themselves",
    ),
}


def _chatter(rng: random.Random) -> str:
    """A sentence that says nothing of the matter, and that hardly another one is like."""
    from truing.sandbox.world import ATTRIBUTES, HARMLESS

    words = [rng.choice(some) for kinds in ATTRIBUTES.values() for some in kinds.values() if some]
    rng.shuffle(words)
    things = f"{rng.choice(HARMLESS)}, {words[0]} and {words[1]}"
    return rng.choice((
        f"Yesterday {words[2]} met {words[3]} near the {rng.choice(PROTECTED)} with {things}.",
        f"{words[2].capitalize()} and {words[3]} remind me of {things}.",
        f"They sold {things} beside {words[2]} for {words[3]}.",
        f"Where {words[2]} ends, {words[3]} and {things} begin.",
    ))  # fmt: skip


def planted_texts(
    seed: int = 0, *, records: int = 600, statements: int = 3, share: float = 0.7
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Free text about a few statements in which five arguments come again, whatever the stance, among other sentences.

    Args:
        seed: of all draws.
        records: how many texts.
        statements: how many statements they speak of.
        share: of the texts, those with an argument.

    Returns:
        Rows with ``proposition``, ``stance``, ``response``, ``model`` and ``argument`` (empty for none), and how often
        each argument was planted.
    """
    rng = random.Random(f"texts {seed}")
    about = propositions()[:statements]
    rows: list[dict[str, Any]] = []
    counts = dict.fromkeys(ARGUMENTS, 0)
    for at in range(records):
        argument = rng.choice(list(ARGUMENTS)) if rng.random() < share else ""
        said = [_chatter(rng) for _ in range(2)]
        if argument:
            counts[argument] += 1
            form = rng.choice(ARGUMENTS[argument])
            said.insert(rng.randrange(3), f"{rng.choice(('I say', 'I think that', 'Surely'))} {form}.")
        rows.append(
            {"proposition": about[at % statements], "stance": rng.choice(("agree", "disagree")),
             "response": " ".join(said), "model": rng.choice(("first", "second")), "argument": argument}
        )  # fmt: skip
    return rows, counts


# --- lands ------------------------------------------------------------------------------------------------------------

IMPORTANCE = (
    "of no importance", "of little importance", "of some importance", "very important", "of utmost importance",
)  # fmt: skip
LIKENESS = (
    "not like me at all", "not like me", "a little like me", "somewhat like me", "like me", "very much like me",
)  # fmt: skip
SCALES = (STANCES, IMPORTANCE, LIKENESS)
LANDS = (
    "Aldermark", "Brennow", "Corvale", "Dunmere", "Eskar", "Fennholt", "Garrow", "Hestria", "Islund", "Jorvane",
    "Kelmoor", "Lorath",
)  # fmt: skip
_MATTERS = (
    "time for your family", "a master who listens", "praise for good work", "a safe trade", "pleasant neighbours",
    "work that is never dull", "a say in village matters", "a house near the market", "standing in the village",
    "help from others", "days without duty", "restraint", "a friend to rely on", "thrift", "calm nerves", "gladness",
    "freedom to do as you like", "good health", "pride in the land", "masters who are not feared", "steady work",
    "one master only", "rules that are kept", "answers that are certain",
)  # fmt: skip


def land_survey(seed: int = 0, *, related: bool = True, noise: float = 0.02) -> list[dict[str, Any]]:
    """24 questions with the mean answers of twelve lands, numbered as in the Values Survey Module 2013.

    Args:
        seed: of the lands.
        related: the lands form three groups that differ in all six dimensions, so that each tells what the others are;
            otherwise every dimension is drawn for itself, and none tells anything of another.
        noise: spread of what is a land's own.

    Returns:
        Rows with ``question_id``, ``text``, ``options`` and ``human_means``, from 0 to 1 by land.
    """
    from truing.measures.reliability import VSM

    rng = random.Random(f"lands {seed} {related}")
    groups = {land: at % 3 for at, land in enumerate(LANDS)}
    means: dict[int, dict[str, float]] = {}
    for parts in VSM.values():
        level = rng.sample((-0.35, 0.0, 0.35), 3)
        own = {land: level[groups[land]] if related else rng.choice(level) for land in LANDS}
        for _, plus, minus in parts:
            for number, sign in ((plus, 1), (minus, -1)):
                means[number] = {
                    land: round(min(1.0, max(0.0, 0.5 + sign * own[land] + rng.gauss(0, noise))), 3) for land in LANDS
                }
    return [
        {
            "question_id": f"m{number:02d}", "text": f"How important to you is this: {matter}?",
            "options": list(IMPORTANCE), "human_means": means[number],
        }
        for number, matter in enumerate(_MATTERS, 1)
    ]  # fmt: skip
