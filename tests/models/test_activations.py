from __future__ import annotations

import pytest
import torch

from tests import tiny
from truing.errors import SettingsError, UnsupportedError
from truing.models.activations import decoder_layers, editing, record
from truing.models.engine import Engine
from truing.models.local import Model
from truing.models.modifiers import ActivationModifier
from truing.models.types import Row, Sampling

SEQUENCES = [[*range(5, 30)], [40, 41], [50], [*range(60, 66)]]


class Push(ActivationModifier):
    """Adds a vector from a position on."""

    vector: torch.Tensor
    where: tuple[int, ...] = (1,)
    start: int = 0

    def layers(self) -> tuple[int, ...]:
        return self.where

    def edit(self, hidden: torch.Tensor, layer: int, positions: torch.Tensor) -> torch.Tensor:
        return hidden + self.vector * (positions >= self.start)[..., None]


def _model(architecture: str, *modifiers: ActivationModifier) -> Model:
    return Model(tiny.network(architecture), tiny.tokenizer(), modifiers)


def _vector(seed: int = 0) -> torch.Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_layers_are_found(architecture: str) -> None:
    layers = decoder_layers(tiny.network(architecture))
    assert len(layers) == 2
    assert all(hasattr(layer, "self_attn") or hasattr(layer, "attention") for layer in layers)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_record_is_what_transformers_reports(architecture: str) -> None:
    model = _model(architecture)
    last = record(model, SEQUENCES, [0])
    everything = record(model, SEQUENCES, [0], "all", batch_size=3)
    assert last.shape == (4, 1, 32)
    assert last.dtype == torch.float32
    for i, sequence in enumerate(SEQUENCES):
        with torch.no_grad():
            hidden = model.weights(torch.tensor([sequence]), output_hidden_states=True).hidden_states[1][0]
        torch.testing.assert_close(everything[i][:, 0], hidden, atol=1e-5, rtol=0)
        torch.testing.assert_close(last[i, 0], hidden[-1], atol=1e-5, rtol=0)


def test_record_stops_early_and_can_be_trained_on() -> None:
    model = _model("llama")
    ran = []
    decoder_layers(model.weights)[1].register_forward_hook(lambda *args: ran.append(1))
    states = record(model, SEQUENCES, [0, -2])
    assert not ran
    assert torch.equal(states[:, 0], states[:, 1])
    weight = torch.zeros(32, requires_grad=True)
    (states[:, 0] @ weight).sum().backward()
    assert weight.grad is not None
    assert record(model, [], [1]).shape == (0, 1, 32)
    assert record(model, [], [1], "all") == []


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("shared", [True, False])
def test_record_reads_shared_prompts_once_and_gives_the_same(architecture: str, shared: bool) -> None:
    model = _model(architecture, Push(vector=_vector(), where=(0,), start=3))
    prompts = [[*range(5, 25)], [40, 41, 42], [50] * 9] if shared else [[5], [40], [50]]
    sequences = [[*prompt, *answer] for prompt in prompts for answer in ([60, 61], [62, 63, 64, 65], [66, 67])]
    starts = [len(prompt) for prompt in prompts for _ in range(3)]
    whole = record(model, sequences, [0, 1], "all")
    core = model.weights.base_model
    ran: list[int] = []
    core.register_forward_pre_hook(lambda _, args, kwargs: ran.append(kwargs["input_ids"].numel()), with_kwargs=True)
    for positions, expected in (
        ("last", [states[-1] for states in whole]),
        (-2, [states[-2] for states in whole]),
        ("mean", [states[start:].mean(0) for states, start in zip(whole, starts)]),
    ):
        ran.clear()
        found = record(model, sequences, [0, 1], positions, prompts=starts)  # type: ignore[call-overload]
        torch.testing.assert_close(found, torch.stack(expected), atol=2e-5, rtol=0)
        assert len(ran) == (2 if shared else 1)
        assert not shared or sum(ran) < 120  # of 198 with each prompt read three times
        parts = record(model, sequences, [0, 1], positions, prompts=starts, batch_size=3)  # type: ignore[call-overload]
        torch.testing.assert_close(parts, found, atol=2e-5, rtol=0)


def test_lengths_that_do_not_fit() -> None:
    model = _model("llama")
    for how, message in (
        ({"positions": "mean"}, "give `prompts`"),
        ({"prompts": [1]}, "1 lengths for 2 sequences"),
        ({"positions": "mean", "prompts": [1, 2]}, "a prompt of 2"),
        ({"prompts": [1, 9]}, "a prompt of 9"),
        ({"positions": -3}, "none at -3"),
        ({"positions": 1}, "a place from the end"),
    ):
        with pytest.raises(SettingsError, match=message):
            record(model, [[5, 6, 7], [5, 6]], [0], **how)  # type: ignore[call-overload]


def test_record_sees_edits() -> None:
    plain, pushed = _model("llama"), _model("llama", Push(vector=_vector(), where=(0,), start=1))
    shift = record(pushed, SEQUENCES, [0], "all")[0] - record(plain, SEQUENCES, [0], "all")[0]
    torch.testing.assert_close(shift[0, 0], torch.zeros(32))
    torch.testing.assert_close(shift[1:, 0], _vector().expand(24, 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_edits_act_by_position_in_every_state_of_a_batch(architecture: str) -> None:
    model = _model(architecture, Push(vector=_vector(), where=(0, -1), start=3), Push(vector=_vector(1)))

    def alone(tokens: list[int]) -> torch.Tensor:
        with torch.no_grad(), editing(model):
            return model.weights(torch.tensor([tokens])).logits[0, -1]

    batch = Engine(model).prefill(SEQUENCES)
    batch.extend([[7, 8], [9, 10, 11], [], [12]])
    batch.rollback([26, 3, 1, 7])
    batch.append([1, 2, 3, 4])
    for tokens, logits in zip(batch.tokens, batch.logits):
        torch.testing.assert_close(logits, alone(tokens), atol=1e-5, rtol=0)
    row = Row(None, (5, 6, 7))
    plain = _model(architecture)
    edited, free = (
        Engine(m).generate([row], Sampling(max_new_tokens=8, temperature=1.0))[0][0].logprobs for m in (model, plain)
    )
    assert edited != free


def test_order_and_end_of_edits() -> None:
    class Double(Push):
        def edit(self, hidden: torch.Tensor, layer: int, positions: torch.Tensor) -> torch.Tensor:
            return hidden * 2

    plain = record(_model("llama"), SEQUENCES, [0])
    add, double = Push(vector=_vector(), where=(0,)), Double(vector=_vector(), where=(0,))
    first = _model("llama", add, double)
    torch.testing.assert_close(record(first, SEQUENCES, [0]), (plain + _vector()) * 2, atol=1e-5, rtol=0)
    second = _model("llama", double, add)
    torch.testing.assert_close(record(second, SEQUENCES, [0]), plain * 2 + _vector(), atol=1e-5, rtol=0)
    # No hook is left behind.
    torch.testing.assert_close(record(Model(first.weights, first.tokenizer), SEQUENCES, [0]), plain)


def test_errors() -> None:
    model = _model("llama")
    for layers in ([2], [-3], [True], ["0"]):
        with pytest.raises(SettingsError, match="numbered 0 to 1"):
            record(model, SEQUENCES, layers)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="names no layer"):
        record(model, SEQUENCES, [])
    with pytest.raises(SettingsError, match="Sequence 1 has no tokens"):
        record(model, [[5], []], [0])
    with pytest.raises(SettingsError, match='"last", "mean" or "all"'):
        record(model, SEQUENCES, [0], "first")  # type: ignore[call-overload]
    with pytest.raises(SettingsError, match="no layer 5"), editing(_model("llama", Push(vector=_vector(), where=(5,)))):
        raise AssertionError("editing should not begin")

    class Shrink(Push):
        def edit(self, hidden: torch.Tensor, layer: int, positions: torch.Tensor) -> torch.Tensor:
            return hidden[..., :8]

    with pytest.raises(UnsupportedError, match=r"Shrink\.edit gave shape"):
        Engine(_model("llama", Shrink(vector=_vector()))).prefill(SEQUENCES)
    bare = torch.nn.Module()
    bare.config = tiny.network("llama").config  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match="cannot be told"):
        decoder_layers(bare)
