"""Modifiers and a reward for tests of saving: one with every kind of setting, one that bans tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from truing.catalogue import Entry
from truing.contracts import Settings
from truing.models import LogitsModifier, PromptModifier, SearchModifier


class Says(PromptModifier):
    """A text before the conversation, and any other setting."""

    text: str = ""
    value: Any = None

    def messages(self, messages):
        return [{"role": "system", "content": self.text}, *messages]


class Bans(LogitsModifier):
    """Bans tokens by a tensor of scores."""

    scores: Any

    def adjust(self, logits, prefixes, session):
        return logits + self.scores.to(logits.device)


class Best(SearchModifier):
    """The best of two answers, by a reward."""

    reward: Any

    def search(self, engine, rows, sampling):
        import dataclasses

        wider = dataclasses.replace(sampling, n=2 * sampling.n)
        out = []
        for row, group in zip(rows, engine.generate(rows, wider)):
            scores = self.reward([row.prompt] * len(group), [answer.text for answer in group])
            out.append([group[at] for at in np.argsort(-np.asarray(scores), kind="stable")[: sampling.n]])
        return out


class Words(Settings):
    """A reward with a setting."""

    words: Any = ()

    def __call__(self, prompts, responses):
        return np.array([float(sum(word in text for word in self.words)) for text in responses])


def letters(prompts, responses):
    """A reward: the number of letters."""
    return np.array([float(len(text)) for text in responses])


def shaped_otherwise(questions, answers):
    """A reward whose parameters have other names."""
    return np.array([float(len(text)) for text in answers])


ENTRIES = (
    Entry("says", "modifier", "tests.models.parts:Says", "A text before the conversation."),
    Entry("bans", "modifier", "tests.models.parts:Bans", "Banned tokens."),
    Entry("best", "modifier", "tests.models.parts:Best", "The best of two."),
    Entry("words", "reward", "tests.models.parts:Words", "Words."),
)
