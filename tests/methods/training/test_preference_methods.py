"""IPO, CPO, SimPO and ORPO: each is a loss of the family with its paper's defaults."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing import DPO
from truing.errors import ModelError, SettingsError
from truing.methods.training.preference_methods import CPO, IPO, ORPO, SimPO

HOW = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-3, "warmup_ratio": 0.0}
ALL = (IPO, CPO, SimPO, ORPO)


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "step" in row]


def means(model, rows, side):
    found = model.logprobs([row["prompt"] for row in rows], [row[side] for row in rows], per_token=True)
    return np.array([values.mean() for values in found]), np.array([values.sum() for values in found]), found


@pytest.mark.parametrize(
    ("named", "as_dpo"),
    [
        (IPO(**HOW), DPO(**HOW, loss="ipo", beta=0.1)),
        (IPO(**HOW, summed=True, beta=0.2), DPO(**HOW, loss="ipo_summed", beta=0.2)),
        (CPO(**HOW), DPO(**HOW, loss="cpo", beta=0.1)),
        (CPO(**HOW, nll_weight=0.0, label_smoothing=0.1), DPO(**HOW, loss="cpo_sigmoid", label_smoothing=0.1)),
        (SimPO(**HOW), DPO(**HOW, loss="simpo", beta=2.0, gamma=1.0)),
        (
            SimPO(**HOW, beta=5.0, gamma=2.5, nll_weight=0.5),
            DPO(**HOW, loss={"simpo": 1.0, "sft": 0.5}, beta=5.0, gamma=2.5),
        ),
        (ORPO(**HOW), DPO(**HOW, loss="orpo", beta=0.1)),
    ],
    ids=["ipo", "ipo-summed", "cpo", "cpo-alone", "simpo", "simpo-sft", "orpo"],
)
def test_a_named_method_takes_the_steps_of_dpo_with_its_loss(named, as_dpo):
    rows = toy.preferences(8)
    one, other = named.align(toy.model(), rows), as_dpo.align(toy.model(), rows)
    for name, value in one.weights.state_dict().items():
        assert torch.equal(value, other.weights.state_dict()[name]), name
    assert not torch.equal(
        one.weights.get_input_embeddings().weight, toy.model().weights.get_input_embeddings().weight
    ), "three steps that do something"


@pytest.mark.parametrize("method", ALL)
def test_the_first_loss_is_the_one_worked_out_from_the_model(method, tmp_path):
    rows, start = toy.preferences(6), toy.model()
    method(**{**HOW, "max_steps": 1, "batch_size": 6}).align(start, rows, out=tmp_path)
    (w, w_sum, tokens), (l, l_sum, _) = means(start, rows, "chosen"), means(start, rows, "rejected")
    nll = -np.concatenate(tokens).mean()

    def log_sigmoid(x):
        return -np.logaddexp(0, -x)

    def odds(q):
        return q - np.log1p(-np.exp(q))

    expected = {
        IPO: 25.0,
        CPO: -log_sigmoid(0.1 * (w_sum - l_sum)).mean() + nll,
        SimPO: -log_sigmoid(2 * (w - l) - 1).mean(),
        ORPO: nll - 0.1 * log_sigmoid(odds(w) - odds(l)).mean(),
    }[method]
    assert log_of(tmp_path)[0]["loss"] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("method", ALL)
def test_each_learns_to_prefer_the_chosen_answers(method):
    rows, start = toy.preferences(16), toy.model()
    aligned = method(learning_rate=3e-3, batch_size=8, epochs=4, warmup_ratio=0.0).align(start, rows)
    before = means(start, rows, "chosen")[1] - means(start, rows, "rejected")[1]
    assert (means(aligned, rows, "chosen")[1] - means(aligned, rows, "rejected")[1] > before).all()


def test_no_reference_is_computed_where_none_is_compared_with(monkeypatch):
    from truing.methods.training import reference

    def never(*args, **kwargs):
        raise AssertionError("a reference was computed")

    monkeypatch.setattr(reference, "reference_of", never)
    for method in (CPO, SimPO, ORPO):
        method(max_steps=1, batch_size=4).align(toy.model(), toy.preferences(4))
    with pytest.raises(AssertionError, match="a reference was computed"):
        IPO(max_steps=1, batch_size=4).align(toy.model(), toy.preferences(4))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_likelihood_of_whole_conversations(accumulation, tmp_path):
    """By hand: all tokens of prompt and chosen answer but the first, over all rows of the step together."""
    rows, start = toy.preferences(6), toy.model()
    how = {**HOW, "max_steps": 1, "batch_size": 6 // accumulation, "gradient_accumulation": accumulation}
    ORPO(**how, nll_of_prompt=True).align(start, rows, out=tmp_path)
    total, count = 0.0, 0
    for row in rows:
        prompt, answer = start.encode_pair(row["prompt"], row["chosen"])
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logps = start.weights(ids).logits[0, :-1].log_softmax(-1)
        total -= logps.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    w, l = means(start, rows, "chosen")[0], means(start, rows, "rejected")[0]
    gap = w - np.log1p(-np.exp(w)) - (l - np.log1p(-np.exp(l)))
    expected = total / count + 0.1 * np.logaddexp(0, -gap).mean()
    found = log_of(tmp_path)[0]
    assert found["loss"] == pytest.approx(expected, abs=2e-4)
    assert found["logps/chosen"] == pytest.approx(means(start, rows, "chosen")[1].mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (IPO(beta=-1.0), "beta"),
        (CPO(nll_weight=-0.1), "nll_weight"),
        (CPO(label_smoothing=0.5), "label_smoothing"),
        (SimPO(gamma=float("inf")), "gamma"),
        (SimPO(nll_weight="much"), "nll_weight"),
        (ORPO(beta="a"), "beta"),
        (ORPO(learning_rate=0), "learning_rate"),
    ],
)
def test_settings_that_cannot_work(method, why):
    with pytest.raises(SettingsError, match=why):
        method.align(toy.model(), toy.preferences(4))


def test_ipo_with_another_reference(tmp_path):
    IPO(**{**HOW, "max_steps": 1}, reference=toy.model(seed=5)).align(toy.model(), toy.preferences(4), out=tmp_path)
    assert log_of(tmp_path)[0]["loss"] != pytest.approx(25.0, abs=1e-2)
    from tests import tiny
    from truing.models import Model

    other = Model(tiny.network(vocabulary=300), tiny.tokenizer(size=300), source="other")
    with pytest.raises(ModelError, match="different vocabularies"):
        IPO(reference=other).align(toy.model(), toy.preferences(4))


@pytest.mark.parametrize("method", ALL)
def test_every_setting_is_described(method):
    assert all(method.describe().values())
