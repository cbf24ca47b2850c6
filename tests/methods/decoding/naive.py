"""Look-ahead decoding as the papers write it: one prompt, one sequence and one forward pass at a time, no cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


@dataclasses.dataclass
class Answer:
    """An answer, its score, the candidates of every step, and forward passes made."""

    tokens: list[int]
    score: float
    steps: list[list[tuple[int, float, float, float]]]
    passes: int


class Naive:
    """Reads whole sequences, every time."""

    def __init__(self, model: Any, prompt: Any) -> None:
        self.model, self.prompt, self.passes = model, model.encode_prompt(prompt), 0
        self.conversation = model.conversation(prompt)

    @torch.inference_mode()
    def logprobs(self, tokens: Sequence[int]) -> torch.Tensor:
        self.passes += 1
        ids = torch.tensor([[*self.prompt, *tokens]])
        return self.model.weights(input_ids=ids).logits[0, -1].float().log_softmax(0)

    def greedy(self, tokens: Sequence[int], count: int, ends: Sequence[int]) -> list[int]:
        out: list[int] = []
        while len(out) < count and not (out and out[-1] in ends):
            out.append(int(self.logprobs([*tokens, *out]).argmax()))
        return out


def text_of(model: Any, tokens: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def naive(
    model: Any, prompt: Any, reward: Callable[..., Any], *, k: int, lookahead: int, weight: float, room: int,
    beam: int = 1, cumulative: bool = True, rollout: Any = None,
) -> Answer:  # fmt: skip
    """The rule of both papers under greedy choice."""
    base = Naive(model, prompt)
    roll = base if rollout is None else Naive(rollout, prompt)
    end = model.tokenizer.eos_token_id
    kept: list[tuple[list[int], float, float, bool]] = [([], 0.0, 0.0, False)]
    steps = []
    for _ in range(room):
        if all(finished for *_, finished in kept):
            break
        pool = [hypothesis for hypothesis in kept if hypothesis[3]]
        step = []
        for tokens, total, _, finished in kept:
            if finished:
                continue
            scores = base.logprobs(tokens).tolist()
            for token in sorted(range(len(scores)), key=lambda t: (-scores[t], t))[:k]:
                here = [*tokens, token]
                whole = here if token == end else here + roll.greedy(here, lookahead, [end])
                value = float(reward([base.conversation], [text_of(model, whole)])[0])
                logprob = scores[token]
                summed = (total if cumulative else 0.0) + logprob
                pool.append((here, summed, summed + weight * value, token == end))
                step.append((token, logprob, value, summed + weight * value))
        pool.sort(key=lambda hypothesis: (-hypothesis[2], -hypothesis[1]))
        kept = pool[:beam]
        steps.append(step)
    passes = base.passes + (roll.passes if roll is not base else 0)
    return Answer(kept[0][0], kept[0][2], steps, passes)


def same(completion: Any, expected: Answer, tolerance: float = 2e-4) -> None:
    """Same tokens, and the same numbers wherever the search needed them."""
    assert completion.tokens == expected.tokens
    assert len(completion.trace["steps"]) == len(expected.steps)
    for ours, theirs in zip(completion.trace["steps"], expected.steps):
        assert [token for token, *_ in ours] == [token for token, *_ in theirs]
        for (_, logprob, value, score), (_, logprob_, value_, score_) in zip(ours, theirs):
            np.testing.assert_allclose(logprob, logprob_, atol=tolerance)
            if value is not None:
                np.testing.assert_allclose([value, score], [value_, score_], atol=tolerance)
