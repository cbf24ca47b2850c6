"""urial.json: top lists, prompts as plain text, cleaned answers, means of aspects, and ratios of shifts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from truing.measures import shifts
from truing.methods.prompting.forms import as_text, without_last_fence
from truing.rewards.aspects import aspect_means

Values = dict[str, Any]


def token_shift_position(inputs: Values, given: Values) -> Values:
    base, aligned = (
        [(each["token_id"], each["logit"]) for each in inputs[name]]
        for name in ("base_top_tokens", "aligned_top_tokens")
    )
    found = shifts.likeness(base, aligned, given["top_k"])
    return {
        "jaccard": found.jaccard, "weighted_sum": found.weighted_sum, "KL": found.kl, "top_rank": found.top_rank,
        "top_prob": found.top_prob, "bi_top_prob": found.bi_top_prob, "nDCG": found.ndcg,
        "position_class": shifts.shift_class(found.top_rank + 1),
    }  # fmt: skip


def render_prompt(inputs: Values, given: Values) -> Values:
    messages = [{"role": "system", "content": inputs["system"]}] if inputs.get("system") else []
    for at, text in enumerate(inputs["messages"]):
        messages.append({"role": ("user", "assistant")[at % 2], "content": text})
    return {"prompt": as_text(messages, "fenced" if given["style"].startswith("fenced") else "headings")}


def means(inputs: Values, given: Values) -> Values:
    return {f"{name}_mean": value for name, value in aspect_means(inputs["scores"], not_applicable=5).items()}


def shift_ratios(inputs: Values, given: Values) -> Values:
    logits = torch.tensor(inputs["base_logits"], dtype=torch.float64)
    found = shifts.ranks(logits, torch.tensor(inputs["aligned_tokens"])).tolist()
    return {"ranks": found, **shifts.shift_ratios(found)}


FUNCTIONS: dict[str, Callable[[Values, Values], Values]] = {
    "token_shift_position": token_shift_position,
    "render_prompt": render_prompt,
    "clean_output": lambda inputs, given: {"text": without_last_fence(inputs["text"])},
    "aspect_means": means,
    "shift_ratios": shift_ratios,
}
