"""Continuations as a tree behind a row: the numbers of separate rows, in one pass over what they do not share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import model as tiny_model
from truing.models import LogitsModifier
from truing.models import tree as trees
from truing.models.engine import Engine
from truing.models.tree import branch_logprobs

PROMPTS = [[9, 30, 41, 77, 12], [5, 6], list(range(40, 62))]
BRANCHES = [
    [[70, 71, 72], [70, 71, 73, 74], [70], [90, 91, 92, 93, 94], [70, 71]],
    [[20, 21], [20, 21, 22, 23], [8, 8, 8]],
    [[1]],
]


def apart(model, prompt, branch):
    """The log-probability of one continuation, from a row of its own."""
    scores = Engine(model).prefill([prompt]).extend([branch])[0]
    first = Engine(model).prefill([prompt]).logits[0].double().log_softmax(0)[branch[0]]
    rest = [scores[at].double().log_softmax(0)[token] for at, token in enumerate(branch[1:])]
    return float(first + sum(rest))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_numbers_of_separate_rows_in_one_pass(architecture):
    model = tiny_model(architecture)
    engine = Engine(model)
    batch = engine.prefill(PROMPTS)
    calls, positions = engine.usage.calls["model"], engine.usage.positions["model"]
    found = branch_logprobs(batch, BRANCHES)
    assert engine.usage.calls["model"] == calls + 1
    # 70, 71, 73 and 90 to 93; 20 to 22 and 8, 8: each beginning once, and no last token.
    assert engine.usage.positions["model"] == positions + 7 + 5
    for prompt, row, values in zip(PROMPTS, BRANCHES, found):
        np.testing.assert_allclose(values, [apart(model, prompt, branch) for branch in row], atol=2e-5)
    batch.append([50, 51, 52])  # the batch is as it was
    again = engine.prefill([[*prompt, token] for prompt, token in zip(PROMPTS, (50, 51, 52))])
    torch.testing.assert_close(batch.logits, again.logits, atol=2e-5, rtol=0)


def test_windows_that_end_within_the_tree():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, set_seed

    from truing.models import Model

    set_seed(1)
    mixed = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            head_dim=8, num_key_value_heads=2, sliding_window=5, max_position_embeddings=128, eos_token_id=1,
            pad_token_id=0,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ).eval()  # fmt: skip
    for model in (Model(mixed, tiny.tokenizer()), Model(tiny.network("mistral", sliding_window=4), tiny.tokenizer())):
        long = [[*range(30, 39)], [*range(30, 36), 7, 8]]
        for values, row, prompt in zip(
            branch_logprobs(Engine(model).prefill(PROMPTS[:2]), [long, long]), [long, long], PROMPTS
        ):
            np.testing.assert_allclose(values, [apart(model, prompt, branch) for branch in row], atol=2e-5)


class Ban(LogitsModifier):
    """Takes out what came before."""

    def adjust(self, logits, prefixes, session):
        out = logits.clone()
        for row, prefix in enumerate(prefixes):
            out[row, list(prefix)[-2:]] -= 3.0
        return out


def test_logits_modifiers_see_the_path_of_each_token():
    model = tiny_model().with_modifier(Ban())
    found = branch_logprobs(Engine(model).prefill(PROMPTS), BRANCHES)
    for prompt, row, values in zip(PROMPTS, BRANCHES, found):
        np.testing.assert_allclose(values, [apart(model, prompt, branch) for branch in row], atol=2e-5)


def test_rows_in_place_of_a_tree_where_a_model_or_memory_asks_for_them(monkeypatch):
    model = tiny_model("qwen3")
    whole = branch_logprobs(Engine(model).prefill(PROMPTS), BRANCHES)
    monkeypatch.setattr(trees, "MASKED", ())
    engine = Engine(model)
    rows = branch_logprobs(engine.prefill(PROMPTS), BRANCHES)
    assert engine.usage.calls["model"] == 2
    monkeypatch.setattr(trees, "NUMBERS", 320 * 3 * 4)
    engine = Engine(model)
    parts = branch_logprobs(engine.prefill(PROMPTS), BRANCHES)
    assert engine.usage.calls["model"] > 2
    for one, two, three in zip(whole, rows, parts):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=0)
        torch.testing.assert_close(one, three, atol=2e-5, rtol=0)
