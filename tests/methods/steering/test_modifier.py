"""What the modifier does to hidden states: operators, norms, positions, and that nothing stays behind."""

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import PROMPTS
from tests.conformance.examples import model as tiny_model
from truing.errors import SettingsError
from truing.methods.steering.edits import ablate_direction, apply_control, real_positions
from truing.methods.steering.modifier import SteeringModifier
from truing.models.activations import record
from truing.models.chat import encode_plain
from truing.models.engine import Engine
from truing.models.logprobs import head_scores
from truing.models.types import Row, Sampling

HIDDEN = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(1))
PLACES = torch.arange(3).expand(2, 3)


def steering(**changes):
    return SteeringModifier(vectors=VECTOR[None], at=[1], **changes)


def edited(modifier, hidden=HIDDEN, prompts=(2, 2)):
    return modifier.edit_after(hidden, 1, PLACES, torch.tensor(prompts)[:, None])


def test_operators_by_their_formulas():
    unit = VECTOR / VECTOR.norm()
    torch.testing.assert_close(edited(steering(strength=2.0)), HIDDEN + 2 * VECTOR)
    torch.testing.assert_close(edited(steering(strength=2.0)), apply_control(HIDDEN, VECTOR, 2.0))
    half = edited(steering(strength=0.5, operator="project_out"))
    torch.testing.assert_close(half @ unit, HIDDEN @ unit / 2)
    gone = edited(steering(operator="project_out"))
    torch.testing.assert_close(gone, ablate_direction(HIDDEN, VECTOR))
    torch.testing.assert_close(gone @ unit, torch.zeros(2, 3), rtol=0, atol=1e-5)
    put = edited(steering(strength=3.0, operator="project_out_then_add"))
    torch.testing.assert_close(put, gone + 3 * VECTOR, rtol=0, atol=1e-5)
    torch.testing.assert_close(edited(steering(strength=0.0, operator="project_out_then_add")), gone)


def test_norms_are_kept_and_strength_is_relative_where_that_is_asked_for():
    kept = edited(steering(strength=2.0, keep_norm=True))
    torch.testing.assert_close(kept.norm(dim=-1), HIDDEN.norm(dim=-1))
    torch.testing.assert_close(kept, apply_control(HIDDEN, VECTOR, 2.0, keep_norm=True))
    moved = edited(steering(strength=-0.5, relative=True)) - HIDDEN
    torch.testing.assert_close(moved.norm(dim=-1), HIDDEN.norm(dim=-1) / 2)
    torch.testing.assert_close(torch.cosine_similarity(moved, -VECTOR, dim=-1), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("positions", "where"),
    [("all", [1, 1, 1]), ("prompt", [1, 1, 0]), ("answer", [0, 1, 1]), ("last", [0, 1, 0])],
)
def test_positions_are_told_by_the_end_of_the_prompt(positions, where):
    moved = edited(steering(positions=positions)) - HIDDEN
    expected = torch.tensor(where)[None, :, None] * VECTOR
    torch.testing.assert_close(moved, expected.expand(2, 3, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"operator": "project_out"}, {"keep_norm": True}, {"relative": True}])
def test_strength_0_is_bit_identical(changes):
    assert edited(steering(strength=0.0, **changes)) is HIDDEN
    model = tiny_model()
    steered = model.with_modifier(steering(strength=0.0, **changes))
    batch, plain = (Engine(one).prefill([[5, 6, 7], [8]]) for one in (steered, model))
    assert torch.equal(batch.logits, plain.logits)


def test_removing_the_edit_restores_the_model_even_after_an_exception():
    model = tiny_model()
    before = Engine(model).prefill([[5, 6, 7]]).logits
    steered = model.with_modifier(steering(strength=5.0))
    assert not torch.equal(Engine(steered).prefill([[5, 6, 7]]).logits, before)
    assert torch.equal(Engine(steered.without("steering")).prefill([[5, 6, 7]]).logits, before)
    engine = Engine(steered)
    model.weights.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.prefill([[5, 6, 7]])
    model.weights.lm_head._forward_pre_hooks.clear()
    assert torch.equal(Engine(model).prefill([[5, 6, 7]]).logits, before)


def test_the_last_layer_moves_scores_by_the_unembedding_where_no_norm_follows():
    model = tiny_model()
    model.weights.model.norm = torch.nn.Identity()
    steered = model.with_modifier(steering(strength=1.5))
    moved = Engine(steered).prefill([[5, 6, 7]]).logits - Engine(model).prefill([[5, 6, 7]]).logits
    expected = 1.5 * head_scores(model.weights, VECTOR[None])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-3)


def test_half_precision_adds_in_float32():
    # In bfloat16 1000 v and v round apart from each other; the sum is rounded once here.
    hidden = HIDDEN.bfloat16()
    expected = (hidden.float() + 1000 * VECTOR).bfloat16()
    assert torch.equal(edited(steering(strength=1000.0), hidden), expected)
    assert edited(steering(keep_norm=True), hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("positions", ["prompt", "answer", "last"])
def test_positions_hold_through_cache_padding_and_roll_back(architecture, positions):
    model = tiny_model(architecture).with_modifier(steering(strength=3.0, positions=positions))
    prompts, answers = [[5, 6, 7, 8], [9], [10, 11]], [[20, 21, 22], [23, 24, 25], [26, 27, 28]]
    batch = Engine(model).prefill(prompts)
    batch.extend([answer[:2] for answer in answers])
    batch.rollback([len(prompt) + 1 for prompt in prompts])
    batch = batch.select([2, 0, 1])
    batch.append([27, 21, 24])
    batch.append([28, 22, 25])
    wholes = [prompts[at] + answers[at] for at in (2, 0, 1)]
    sizes = [len(prompts[at]) for at in (2, 0, 1)]
    alone = [Engine(model).prefill([whole], [size]).logits[0] for whole, size in zip(wholes, sizes)]
    torch.testing.assert_close(batch.logits, torch.stack(alone), rtol=0, atol=2e-5)
    # And in log-probabilities and recorded states.
    states = record(model, wholes, [1], prompts=sizes)
    plain = record(model.without(0), wholes, [1])
    moved = (states - plain)[:, 0]
    expected = 3 * VECTOR if positions == "answer" else torch.zeros(32)
    torch.testing.assert_close(moved, expected.expand(3, 32), rtol=0, atol=1e-4)


@pytest.mark.parametrize("positions", ["prompt", "answer", "last"])
def test_a_batch_gives_what_singles_give_and_logprobs_agree(positions):
    model = tiny_model().with_modifier(
        SteeringModifier(vectors=VECTOR[None], at=[0], strength=4.0, positions=positions)
    )
    together = model.generate(PROMPTS, max_new_tokens=8)
    assert together.texts == [model.generate([prompt], max_new_tokens=8).texts[0] for prompt in PROMPTS]
    rows = [Row(prompt, tuple(model.encode_prompt(prompt)), at) for at, prompt in enumerate(PROMPTS)]
    found = Engine(model).generate(rows, Sampling(max_new_tokens=4))
    for row, (answer,) in zip(rows, found):
        ids = list(answer.tokens)
        scored = model._score([(list(row.tokens), ids)], None)[0]
        np.testing.assert_allclose(scored, answer.logprobs, rtol=0, atol=2e-5)
    everywhere = tiny_model().with_modifier(SteeringModifier(vectors=VECTOR[None], at=[0], strength=4.0))
    assert not np.allclose(everywhere.logprobs(PROMPTS, ["red"] * 3), model.logprobs(PROMPTS, ["red"] * 3), atol=1e-3)


def test_a_second_model_keeps_the_prompt_when_a_row_is_read_anew():
    model = tiny_model().with_modifier(steering(strength=4.0, positions="answer"))
    engine, prompt = Engine(model), [5, 6, 7]
    engine.scores([prompt])
    long = [*prompt, *range(20, 100)]
    found = engine.scores([long])
    expected = Engine(model).prefill([long], [3]).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_padding_is_told_from_position_ids_as_the_reference_does():
    ids = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])
    assert real_positions(ids).tolist() == [[False, False, True, True, True], [True] * 5]


def test_what_cannot_be_edited():
    with pytest.raises(SettingsError, match="does not fit hidden states of width 32"):
        apply_control(HIDDEN, torch.ones(5))
    with pytest.raises(SettingsError, match="no direction"):
        ablate_direction(HIDDEN, torch.zeros(32))
    for changes in ({"operator": "swap"}, {"positions": "first"}, {"strength": float("nan")}):
        with pytest.raises(SettingsError):
            steering(**changes).validate()
    with pytest.raises(SettingsError, match="no layer 7"):
        Engine(tiny_model().with_modifier(SteeringModifier(vectors=VECTOR[None], at=[7])))


def test_label_and_dial():
    modifier = steering(strength=2.0, positions="answer")
    assert modifier.label == "SteeringModifier(at=[1], strength=2.0, positions='answer')"
    turned = tiny_model().with_modifier(modifier).with_strength(-1.0).modifiers[0]
    assert (turned.strength, turned.positions) == (-1.0, "answer")
    assert encode_plain(tiny_model().tokenizer, "cat")
