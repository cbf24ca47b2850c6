from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tests.models.test_activations import Push
from truing.models.activations import decoder_layers, record
from truing.models.local import Model
from truing.models.narrowing import Passing, narrowed

SEQUENCES = [[*range(5, 30)], [40, 41, 42], [50, 51], [*range(60, 66)]]
PROMPTS = [20, 2, 1, 4]


def _model(architecture: str, attention: str = "sdpa", *modifiers: Push) -> Model:
    weights = tiny.network(architecture)
    weights.set_attn_implementation(attention)  # type: ignore[operator]
    return Model(weights, tiny.tokenizer(), modifiers)


def _sizes(layer: torch.nn.Module) -> list[int]:
    """Fills with how many positions each linear module of a layer is given, in the order of their calls."""
    sizes: list[int] = []
    for module in layer.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:-1].numel()))
    return sizes


def _equal(model: Model, layers: list[int]) -> None:
    whole = record(model, SEQUENCES, layers, "all")
    for positions, expected in (
        ("last", [states[-1] for states in whole]),
        (-2, [states[-2] for states in whole]),
        ("mean", [states[start:].mean(0) for states, start in zip(whole, PROMPTS)]),
    ):
        for prompts in (None, PROMPTS) if positions != "mean" else (PROMPTS,):
            found = record(model, SEQUENCES, layers, positions, prompts=prompts)  # type: ignore[call-overload]
            torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_deepest_layer_runs_where_it_is_read(architecture: str, attention: str) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    for model in (
        _model(architecture, attention),
        _model(architecture, attention, Push(vector=vector, where=(0, 1), start=3)),
    ):
        _equal(model, [0, 1])
        _equal(model, [0])
        first, second = (_sizes(layer) for layer in decoder_layers(model.weights))
        record(model, SEQUENCES, [1], -2)
        assert set(first) == {4 * 25}
        assert second[-1] == 4
        assert sum(second) < 0.6 * sum(first)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_deepest_layer_of_a_shared_prompt_gives_keys_only(architecture: str) -> None:
    model = _model(architecture)
    sequences = [[*range(5, 25), *answer] for answer in ([60, 61], [62, 63, 64, 65], [66])]
    record(model, sequences, [1], prompts=[20] * 3)
    first, second = (_sizes(layer) for layer in decoder_layers(model.weights))
    record(model, sequences, [1], prompts=[20] * 3)
    assert set(first) == {20, 3 * 4}
    assert second[-1] == 3
    assert sum(second) < 0.7 * sum(first)


class _Mixing(torch.nn.Module):
    """Gives each position the mean of those up to it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 3 * hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[:, None]


def test_a_layer_that_mixes_positions_elsewhere_runs_whole() -> None:
    model = _model("llama")
    layer: Any = decoder_layers(model.weights)[1]
    layer.mlp = _Mixing()
    _equal(model, [1])
    sizes = _sizes(layer)
    record(model, SEQUENCES, [1])
    assert set(sizes) == {4 * 25}


def test_a_layer_that_attends_twice_runs_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("llama")
    layer: Any = decoder_layers(model.weights)[1]
    attend = layer.self_attn.forward

    def twice(hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        return attend(attend(hidden_states, **kwargs)[0], **kwargs)

    monkeypatch.setattr(layer.self_attn, "forward", twice)
    _equal(model, [1])


def test_a_layer_without_a_cache_runs_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("llama")
    layer: Any = decoder_layers(model.weights)[1]
    attend = layer.self_attn.forward
    monkeypatch.setattr(layer.self_attn, "forward", lambda *args, cache, **kwargs: attend(*args, **kwargs))
    _equal(model, [1])


def test_unknown_arguments_are_not_cut() -> None:
    layer = decoder_layers(tiny.network("llama"))[0]
    hidden, places = torch.randn(2, 8, 32), torch.tensor([[7], [3]])
    bias = torch.zeros(2, 4, 8, 8)
    rotary = (torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    known = {"cache": Passing(), "attention_mask": None, "position_embeddings": rotary}
    assert narrowed(layer, (hidden,), {**known, "alibi": bias}, places) is None
    assert narrowed(layer, (hidden, bias), known, places) is None
    assert narrowed(layer, (hidden,), {**known, "cache": None}, places) is None
    assert narrowed(layer, (hidden,), known, torch.arange(8).expand(2, 8)) is None
    given = narrowed(layer, (hidden,), known, places)
    assert given is not None
    with torch.no_grad():
        whole = layer(hidden, **known)
        torch.testing.assert_close(layer(*given[0], **given[1])[:, 0], whole[[0, 1], [7, 3]], atol=1e-5, rtol=0)
