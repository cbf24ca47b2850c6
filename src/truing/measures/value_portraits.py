"""Portraits and dilemmas of basic values and moral foundations; the words are our own."""

from __future__ import annotations

SCHWARTZ = {
    "self-direction": (
        "to make up their own mind", "to choose freely what to do", "to find things out for themselves",
        "to depend on nobody's judgement",
    ),
    "stimulation": (
        "to have a life full of change", "to try what is new", "to take risks for an adventure",
        "to be surprised often",
    ),
    "hedonism": (
        "to enjoy themselves", "to treat themselves well", "to have fun whenever they can",
        "to savour good food and rest",
    ),
    "achievement": (
        "to be successful", "to show what they can do", "to get ahead of where they were",
        "to be admired for good work",
    ),
    "power": (
        "to be rich", "to be the one who decides", "to have others do as they say", "to own things that impress",
    ),
    "security": (
        "to live in safe surroundings", "to avoid whatever is dangerous", "to have a country that is well defended",
        "to know that tomorrow is provided for",
    ),
    "conformity": (
        "to follow rules even when nobody looks", "to avoid upsetting anybody", "to be polite at all times",
        "to do what is expected of them",
    ),
    "tradition": (
        "to keep the customs of their family", "to honour the old ways", "to be humble about themselves",
        "to hold to the faith they were raised in",
    ),
    "benevolence": (
        "to help the people around them", "to be loyal to friends", "to care for those close to them",
        "to be somebody others can rely on",
    ),
    "universalism": (
        "to see everybody treated as an equal", "to understand people unlike themselves", "to care for nature",
        "to have justice for people they do not know",
    ),
}  # fmt: skip
"""Schwartz's ten basic values in circular order: neighbours agree with one another, opposites conflict."""

MORAL = {
    "care": ("to spare others pain", "to comfort who suffers", "to protect the weak", "to be kind to animals"),
    "fairness": ("to give everybody a fair share", "to keep to what was agreed", "to see no one cheated",
                 "to judge all by one measure"),
    "loyalty": ("to stand by their group", "to put the team before themselves", "to keep faith with their country",
                "to never betray a comrade"),
    "authority": ("to respect who leads", "to obey the law", "to honour their elders", "to keep to one's place"),
    "sanctity": ("to keep body and mind pure", "to avoid what is degrading", "to hold some things sacred",
                 "to live with restraint"),
}  # fmt: skip
"""Five moral foundations."""

THEORIES = {"schwartz10": SCHWARTZ, "moral_foundations": MORAL}

WORDINGS = (
    "How much is this person like you?\nIt is important to this person {text}.",
    "Think of somebody to whom it matters {text}. How much are they like you?",
    "Somebody is described so: it is important to them {text}. How alike are you and they?",
)

# A choice that speaks for the first value, and one for the second, its opposite on the circle.
DILEMMAS = (
    ("self-direction", "security", "leave a safe post to work for yourself", "keep a safe post under somebody else"),
    (
        "self-direction",
        "security",
        "travel by your own plan through unknown land",
        "stay where you know that you are safe",
    ),
    ("stimulation", "conformity", "try a new game that the neighbours frown at", "do what the neighbours expect"),
    ("stimulation", "conformity", "come to the feast in a wild costume", "come to the feast dressed as asked"),
    ("hedonism", "tradition", "sleep long on a holy day", "rise early for the old rite"),
    ("hedonism", "tradition", "eat a fine meal on a fast day", "keep the fast of your family"),
    ("achievement", "benevolence", "work late to win the prize", "go home to look after a sick friend"),
    ("achievement", "benevolence", "take the praise for the best work", "share the praise with a struggling colleague"),
    ("power", "universalism", "take the post that lets you give orders", "give the post to who was always passed over"),
    ("power", "universalism", "buy the wood to fell it", "keep the wood for everybody"),
)
"""Dilemmas that set a value against its opposite: value, opposite, what speaks for each."""

DILEMMA_WORDINGS = ("Which would you do?", "You can do one of two things. Which one?")
