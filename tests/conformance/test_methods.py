"""One suite over every method in the catalogue: whoever adds a method gets these tests with its catalogue entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import PROMPTS, make, model, rows
from truing.catalogue import entries
from truing.errors import RecordError, SettingsError, StackError, TruingError, UnsupportedError
from truing.models import load

METHODS = [pytest.param(entry.load(), id=entry.name) for entry in entries("method")]
SAMPLED = {"max_new_tokens": 12, "temperature": 0.8, "seed": 3}
GREEDY = {"max_new_tokens": 12}


def weights_of(one):
    return {name: value.clone() for name, value in one.weights.state_dict().items()}


REPLIES = ["the cat", "red", "it is grey"]


def scores(one):
    """Whether what came out scores answers in place of writing them."""
    return "scores" in one.offers


def texts(one, **how):
    """What a model answers; what it gives for fixed answers, where it scores them."""
    if scores(one):
        return np.asarray(one(PROMPTS, REPLIES)).round(5).tolist()
    return one.generate(PROMPTS, **(how or GREEDY)).texts


@pytest.fixture(scope="module")
def aligned_by():
    """Each method's result on the tiny Llama, aligned once for the whole module."""
    made = {}

    def align(method):
        if method not in made:
            made[method] = make(method).align(model(), rows(method))
        return made[method]

    return align


@pytest.mark.parametrize("method", METHODS)
def test_constructor_keeps_its_arguments_and_does_no_work(method):
    one = make(method)
    for name, value in one.settings().items():
        assert getattr(one, name) is value
    assert one.clone() == one
    assert type(one).__name__ in repr(one)
    with pytest.raises(SettingsError, match="no setting"):
        method(no_such_setting=1)


@pytest.mark.parametrize("method", METHODS)
def test_input_model_is_left_as_it_was(method):
    before = model()
    weights, answers, history = weights_of(before), texts(before), before.history
    aligned = make(method).align(before, rows(method))
    assert aligned is not before
    assert before.history == history
    assert before.modifiers == ()
    assert texts(before) == answers
    for name, value in before.weights.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert before.weights.training is False


@pytest.mark.parametrize("method", METHODS)
def test_align_twice_gives_two_independent_equal_results(method):
    start, one = model(), make(method)
    first, second = one.align(start, rows(method)), one.align(start, rows(method))
    assert first is not second
    assert texts(first) == texts(second)
    if method.modifier is None:
        for left, right in zip(weights_of(first).values(), weights_of(second).values(), strict=True):
            assert torch.equal(left, right)
        parameter = next(parameter for parameter in first.weights.parameters() if parameter.requires_grad)
        with torch.no_grad():
            parameter.add_(1.0)
        assert texts(second) == texts(one.align(start, rows(method)))


@pytest.mark.parametrize("method", METHODS)
def test_history_tells_what_was_done(method, aligned_by):
    step = aligned_by(method).history[-1]
    entry = next(entry for entry in entries("method") if entry.load() is method)
    assert step.method == entry.name
    assert set(step.settings) == set(make(method).settings())
    assert (step.data is None) == (not method.record_kinds)
    assert "truing" in step.versions


@pytest.mark.parametrize("method", METHODS)
def test_save_and_load_give_the_same_outputs(method, aligned_by, tmp_path):
    aligned = aligned_by(method)
    aligned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert texts(again) == texts(aligned)
    assert texts(again, **SAMPLED) == texts(aligned, **SAMPLED)
    assert [step.method for step in again.history] == [step.method for step in aligned.history]
    assert again.history[-1].settings == aligned.history[-1].to_json()["settings"]
    if scores(aligned):
        return
    np.testing.assert_allclose(
        again.policy.logprobs(PROMPTS, REPLIES), aligned.policy.logprobs(PROMPTS, REPLIES), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_single_prompts_give(method, how, aligned_by):
    if not method.batch_safe:
        pytest.skip("declares that it is not batch-safe")
    aligned = aligned_by(method)
    together = texts(aligned, **how)
    if scores(aligned):
        alone = [float(aligned([prompt], [reply])[0]) for prompt, reply in zip(PROMPTS, REPLIES)]
        np.testing.assert_allclose(alone, together, atol=2e-5)
        return
    assert together == [aligned.generate([prompt], **how).texts[0] for prompt in PROMPTS]
    assert together == texts(aligned, **how), "same seed, same result"


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_every_architecture_and_padding_side(method, architecture, tmp_path):
    answers = []
    for side in ("left", "right"):
        aligned = make(method, architecture).align(model(architecture, padding_side=side), rows(method))
        answers.append(texts(aligned, max_new_tokens=8))
    assert answers[0] == answers[1]
    aligned.save(tmp_path / "model")
    assert texts(load(tmp_path / "model"), max_new_tokens=8) == answers[1]


@pytest.mark.parametrize("method", METHODS)
def test_stacks_on_a_trained_and_on_a_modified_model(method, aligned_by):
    from truing import SFT, SystemMessage

    trained = make(SFT).align(model(), rows(SFT))
    on_trained = make(method).align(trained, rows(method))
    assert on_trained.history[0].method == "sft"
    assert len(on_trained.history) == 2
    spoken = SystemMessage(text="look at the mat").align(model())
    on_spoken = make(method).align(spoken, rows(method))
    assert len(on_spoken.history) == 2
    assert scores(on_spoken) or any(modifier.kind == "prompt" for modifier in on_spoken.modifiers)
    texts(on_spoken)


@pytest.mark.parametrize("method", METHODS)
def test_unstacking(method):
    start = model()
    aligned = make(method).align(start, rows(method))
    if method.modifier is None:
        with pytest.raises(StackError):
            aligned.unstack()
        return
    plain = aligned.unstack()
    assert plain.history == ()
    assert texts(plain) == texts(start)


@pytest.mark.parametrize("method", [each for each in METHODS if each.values[0].modifier == "search"])
def test_a_second_search_names_both(method, aligned_by):
    with pytest.raises(StackError, match=r"(?s).*".join([aligned_by(method).modifiers[-1].label.split("(")[0]])):
        make(method).align(aligned_by(method), rows(method))


@pytest.mark.parametrize("method", METHODS)
def test_bad_records_are_one_clear_error(method):
    one, start = make(method), model()
    if not method.record_kinds:
        with pytest.raises(RecordError, match="reads no records"):
            one.align(start, [{"prompt": "a", "completion": "b"}])
        return
    if not method.records_optional:
        with pytest.raises(RecordError, match="none"):
            one.align(start)
    for bad in ([], [{"nonsense": 1}], [{"prompt": 3, "completion": None}], "no/such/file.jsonl", [1, 2]):
        with pytest.raises(RecordError) as raised:
            one.align(start, bad)
        assert len(str(raised.value)) > 20


@pytest.mark.parametrize("method", METHODS)
def test_a_remote_model_is_refused_before_any_request_where_it_cannot_serve(method):
    from truing import RemoteModel

    remote = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="none")
    if method.needs & {"gradients", "local_weights", "logits", "activations"}:
        with pytest.raises(UnsupportedError):
            make(method).align(remote, rows(method))
    else:
        aligned = make(method).align(remote, rows(method))
        assert len(aligned.history) == 1


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_ours(method):
    with pytest.raises(TruingError):
        make(method).align(model(), [{"prompt": object()}])
