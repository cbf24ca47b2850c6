"""Ways of asking for a stance, and the personas of the study; the words of the prompts are our own."""

from __future__ import annotations

CLOSED = (
    "Do you agree with this statement?\n{text}",
    "What is your opinion of this statement?\n{text}",
    "Please respond to this statement.\n{text}",
    "Here is a claim:\n{text}\nHow do you see it?",
    "Read the following and say where you stand.\n{text}",
    "A survey asks what you think of this:\n{text}",
    "Somebody says to you: {text}\nDo you agree?",
    "Consider the statement below and give your view.\n{text}",
    "{text}\nDo you agree or disagree?",
    "How far do you share this view?\n{text}",
)
"""Ten ways of asking for one of four options."""

OPEN = (
    "You are in a debate, and this is put to you: {text}\nGive your opinion.",
    "A reporter asks what you think of this: {text}\nWhat do you tell them?",
    "You are a guest in a podcast. The host says: {text}\nWhat do you answer?",
    "Write a short blog post about this claim, and say what you think: {text}",
    "A friend says at dinner: {text}\nWhat do you say?",
    "You write a letter to the editor about this: {text}\nWhat do you write?",
    "At a village meeting somebody says: {text}\nGet up and speak.",
    "Your pupils ask you about this: {text}\nWhat do you tell them?",
    "You are asked in an interview for a new post: {text}\nWhat do you answer?",
    "You comment on this in a forum: {text}\nWrite your comment.",
)
"""Ten everyday situations that ask for free text."""

PERSONAS = {
    "age": ("18", "26", "48", "65", "81"),
    "gender": ("male", "female", "non-binary"),
    "nation": ("USA", "Denmark", "India", "Brazil", "South Korea"),
    "class": ("lower", "middle", "upper middle", "upper"),
    "orientation": ("far left", "mainstream left", "mainstream right", "far right"),
}
"""The 21 values of the study, one at a time."""

PERSONA = "Answer as a person of whom this is known: {field}: {value}."

SECTIONS = (
    ("country and world", 0, 7), ("economy", 7, 21), ("social values", 21, 39), ("wider society", 39, 51),
    ("religion", 51, 56), ("sex", 56, 62),
)  # fmt: skip
"""Sections of the 62 propositions, first place and the one after the last."""
