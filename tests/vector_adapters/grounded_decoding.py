"""grounded-decoding.json: bigram models over words, phrases with values, hazards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from truing.methods.decoding import grounded_rules as rules
from truing.methods.decoding.grounded_scorers import Grounding
from truing.methods.decoding.saycan import skill_scores
from truing.rewards.grounding import FLOOR, Affordance, Avoid, pixel_affordance

Values = dict[str, Any]
PROMPT = "do it"


def said(words: Sequence[str]) -> str:
    """Words as text, each with a space behind it, so that no word begins another one."""
    return "".join(f"{word} " for word in words)


def phrases(inputs: Values, floor: float = FLOOR) -> Affordance:
    return Affordance(skills={said(each["tokens"]): each["value"] for each in inputs["phrases"]}, floor=floor)


class Bigrams:
    """A language model of words that looks at the last one, as a source of scores and as the way to text."""

    def __init__(self, inputs: Values, given: Values) -> None:
        self.words: list[str] = inputs["vocabulary"]
        self.logits = {word: torch.tensor(row, dtype=torch.float64) for word, row in inputs["lm_bigram_logits"].items()}
        self.terminal, self.rows = given.get("terminal", []), [[]]  # type: list[str], list[list[int]]

    def after(self, tokens: Sequence[int]) -> torch.Tensor:
        return self.logits[self.words[tokens[-1]] if tokens else "<s>"]

    def start(self) -> list[torch.Tensor]:
        return [self.after(row) for row in self.rows]

    def advance(self, rows: Sequence[int], blocks: Sequence[list[int]], keep: Sequence[int]) -> list[torch.Tensor]:
        begun = [self.rows[row][:kept] for row, kept in zip(rows, keep)]
        self.rows = [[*row, *block] for row, block in zip(begun, blocks)]
        return [
            torch.stack([self.after([*row, *block[: at + 1]]) for at in range(len(block))])
            for row, block in zip(begun, blocks)
        ]

    def text(self, before: str, tokens: Sequence[int], token: int) -> tuple[str, str | None]:
        return before + said([self.words[token]]), "stop" if self.words[token] in self.terminal else None

    def silent(self, token: int) -> bool:
        return False

    def beginning(self, letters: frozenset[str], count: int) -> torch.Tensor:
        return torch.tensor([word[0] in letters for word in self.words])

    def draft(self, text: str, rest: str, room: int) -> list[int]:
        return [self.words.index(word) for word in rest.split()][:room]


def searched(inputs: Values, given: Values) -> tuple[rules.Hypothesis, list[str], rules.Rule]:
    model = Bigrams(inputs, given)
    scorers: list[Any] = [phrases(inputs)] if inputs.get("phrases") else []
    if inputs.get("hazards"):
        scorers.append(Avoid(words=inputs["hazards"], epsilon=inputs.get("epsilon", FLOOR)))
    rule = rules.Rule(
        width=given.get("beam", 1),
        every_prefix=given.get("grounding_accumulation", "every_prefix") == "every_prefix",
        strict=False,
    )
    group = rules.Group(
        PROMPT, model, [rules.Hypothesis([], "", 0.0, 0.0, np.zeros(len(scorers)))],
        lambda scores, step: scores.log_softmax(0), 1.0, given["max_tokens"],
    )  # fmt: skip
    rules.decode([group], model, Grounding(scorers, [PROMPT], 1e-300, lambda calls, texts: None), rule)
    return group.over[0], [model.words[token] for token in group.over[0].tokens], rule


def grounded_step(inputs: Values, given: Values) -> Values:
    scores, posterior = rules.grounded_scores(inputs["lm_logits"], inputs["grounding"])
    plain, _ = rules.grounded_scores(inputs["lm_logits"], [])
    return {
        "scores": scores.tolist(), "choice": int(scores.argmax()), "ungrounded_choice": int(plain.argmax()),
        "posterior": posterior.tolist(),
    }  # fmt: skip


def prefix_grounding(inputs: Values, given: Values) -> Values:
    found = phrases(inputs, given.get("floor", FLOOR)).partial([PROMPT], [said(inputs["prefix"])])
    return {"value": float(found[0])}


def greedy_decode(inputs: Values, given: Values) -> Values:
    one, words, _ = searched(inputs, given)
    return {
        "tokens": words,
        "steps": [
            {
                "token": word, "lm_log_prob": step["logprob"], "score": step["score"],
                "grounding": float(np.exp(sum(step["grounding"]))),
            }
            for word, step in zip(words, one.steps)
        ],
    }  # fmt: skip


def beam_decode(inputs: Values, given: Values) -> Values:
    one, words, rule = searched(inputs, given)
    return {
        "tokens": words, "lm_log_prob": one.logprob, "grounding_log": one.grounding, "score": rule.total(one)
    }  # fmt: skip


def skill_scoring(inputs: Values, given: Values) -> Values:
    model = Bigrams(inputs, given)
    logprobs = []
    for skill in inputs["skills"]:
        ids = [model.words.index(word) for word in skill["tokens"]]
        logprobs.append(sum(float(model.after(ids[:at]).log_softmax(0)[word]) for at, word in enumerate(ids)))
    scores = skill_scores(np.array(logprobs), np.array([skill["value"] for skill in inputs["skills"]]))
    return {
        "skills": [{"lm_log_prob": lm, "score": float(score)} for lm, score in zip(logprobs, scores)],
        "choice": int(scores.argmax()), "ungrounded_choice": int(np.argmax(logprobs)),
    }  # fmt: skip


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "grounded_step": grounded_step,
    "prefix_grounding": prefix_grounding,
    "greedy_decode": greedy_decode,
    "beam_decode": beam_decode,
    "skill_scoring": skill_scoring,
    "pixel_affordance": lambda inputs, given: {"value": pixel_affordance(inputs["pick_map"], inputs["place_map"])},
}
