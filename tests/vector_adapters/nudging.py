"""nudging.json: table models over text, bigram models over tokens, and single rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from truing.methods.decoding import nudging_rules as rules
from truing.methods.decoding.nudging_turns import Top, token_level_nudging
from truing.methods.decoding.two_models import best, ensemble_step, proxy_tuning_step

Values = dict[str, Any]


class Table:
    """A model that looks up the longest key its text ends with, and counts what it is asked for."""

    def __init__(self, table: dict[str, dict[str, float]]) -> None:
        self.table, self.calls, self.tokens = table, 0, 0

    def __call__(self, text: str, most: int) -> rules.Piecewise:
        self.calls += 1
        pieces: list[str] = []
        tops: list[float] = []
        for _ in range(most):
            key = max((key for key in self.table if (text + "".join(pieces)).endswith(key)), key=len)
            piece = best(self.table[key])
            self.tokens += 1
            tops.append(self.table[key][piece])
            if piece == "<eos>":
                return rules.Piecewise([*pieces, ""], tops, True)
            pieces.append(piece)
        return rules.Piecewise(pieces, tops, False)


def nudging_decode(inputs: Values, given: Values) -> Values:
    base, guide = Table(inputs["base_model"]), Table(inputs["nudging_model"])
    found = rules.nudging_decode(
        base, guide, gamma=given["gamma"], lookahead=given["nudging_lookahead_tokens"],
        chunk=given["base_chunk_tokens"], max_rounds=given["max_rounds"], max_tokens=given["max_total_tokens"],
    )  # fmt: skip
    return {
        "text": found.text, "nudging_words": found.nudging_words, "rounds": found.rounds,
        "stop_reason": found.stop_reason,
        "reference_calls": {
            "base_calls": base.calls, "base_tokens_decoded": base.tokens,
            "nudging_calls": guide.calls, "nudging_tokens_decoded": guide.tokens,
        },
    }  # fmt: skip


def token_level(inputs: Values, given: Values) -> Values:
    def bigram(logits: list[list[float]]) -> Callable[[list[int]], Top]:
        probabilities = torch.tensor(logits, dtype=torch.float64).softmax(1)

        def top(tokens: list[int]) -> Top:
            value, token = probabilities[(inputs["prompt"] + tokens)[-1]].max(0)
            return Top(int(token), float(value))

        return top

    starts, width, most = inputs["token_starts_word"], given["nudging_tokens"], given["max_new_tokens"]
    found = token_level_nudging(
        bigram(inputs["base_bigram_logits"]), bigram(inputs["nudging_bigram_logits"]), starts.__getitem__,
        gamma=given["gamma"], lookahead=width, max_new_tokens=most, equal_is_sure=False,
    )  # fmt: skip
    # What the notebook spends on these rounds: the prompt without its last token, each proposal, one check of it, and
    # one step of both models for each token the base adds; at the end of the budget it stops asking the base.
    base, positions, guide, written = 1, len(inputs["prompt"]) - 1, 1, 0
    pieces = iter([*found.pieces, ("guide", 0)])
    who, count = next(pieces)
    while written < most:
        if written + width > most:
            guide += most - written
            break
        guide, base, positions, written = guide + width, base + 1, positions + width + 1, written + count
        took_over = count < width
        who, count = next(pieces)
        turn = count if who == "base" else 0
        steps = max(0, turn - took_over)
        unsure = written + turn < most
        base, positions, guide = base + steps + unsure, positions + steps + unsure, guide + steps
        written += turn
        if who == "base":
            who, count = next(pieces)
    return {
        "tokens": found.tokens[: most - width], "base_forwards": base, "base_positions": positions,
        "nudging_forwards": guide,
    }  # fmt: skip


def is_uncertain(inputs: Values, given: Values) -> Values:
    top = math.exp(max(inputs["top_logprobs"].values()))
    return {"uncertain": rules.is_uncertain(top, given["gamma"]), "top_prob": top}


def proxy(inputs: Values, given: Values) -> Values:
    found = proxy_tuning_step(inputs["base"], inputs["small_aligned"], inputs["small_base"])
    return {"probabilities": found, "choice": best(found)}


def ensemble(inputs: Values, given: Values) -> Values:
    found = ensemble_step(inputs["base"], inputs["small_aligned"])
    return {"probabilities": found, "choice": best(found)}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "nudging_decode": nudging_decode,
    "cut_repeated_suffix": lambda inputs, given: {"text": rules.cut_repeated_suffix(inputs["text"], **given)},
    "repetition_stop": lambda inputs, given: {"stop": rules.repetition_stop(inputs["new"], inputs["before"], **given)},
    "is_uncertain": is_uncertain,
    "proxy_tuning_step": proxy,
    "ensemble_step": ensemble,
    "token_level_nudging": token_level,
}
