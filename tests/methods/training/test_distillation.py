from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from tests import tiny
from tests.methods.training import toy
from truing import SFT, SystemMessage, load
from truing.errors import ModelError, SettingsError, TruingError
from truing.methods.training.distillation import DIVERGENCES, Distillation, comparison
from truing.models import Model

PLAIN = {"learning_rate": 1e-3, "schedule": "constant", "warmup_ratio": 0.0, "shuffle": False, "batch_size": 4}


def logged(method, model, rows, folder):
    aligned = method.align(model, rows, out=folder)
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return aligned, [row for row in found if "step" in row]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_teacher_equal_to_the_student_teaches_nothing(divergence, tmp_path):
    # One step: AdamW then makes full steps of the signs of rounding errors.
    method = Distillation(
        teacher=toy.model(), divergence=divergence, sft_weight=0.0, temperature=2.0, max_steps=1, **PLAIN
    )
    _, rows = logged(method, toy.model(), toy.demonstrations(), tmp_path)
    assert rows[0]["loss"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["divergence_per_token"] == pytest.approx(0, abs=1e-6)
    assert rows[0]["grad_norm"] < 1e-4


def by_hand(student, teacher, rows, divergence):
    """Mean over answer tokens of a divergence and of the negative log-likelihood, one conversation at a time."""
    total, nll, count = 0.0, 0.0, 0
    for row in rows:
        prompt, answer = student.encode_pair(row["prompt"], row["completion"])
        ids = torch.tensor([prompt + answer])
        here, there = (model.weights(ids).logits[0, len(prompt) - 1 : -1] for model in (student, teacher))
        total += divergence(there, here).sum().item()
        nll -= here.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item()
        count += len(answer)
    return total / count, nll / count


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("forward_kl", lambda p, q: (p.exp() * (p - q)).sum(-1)),
        ("reverse_kl", lambda p, q: (q.exp() * (q - p)).sum(-1)),
        ("jensen_shannon", None),
    ],
)
def test_the_first_loss_is_the_formula_on_whole_score_tables(name, formula, tmp_path):
    heat, mix = 1.7, 0.3
    student, teacher, rows = toy.model(), toy.model(seed=5), toy.demonstrations(8)

    def divergence(there, here):
        p, q = (scores / heat for scores in (there, here))
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        if formula is not None:
            return heat**2 * formula(p, q)
        middle = (mix * p.exp() + (1 - mix) * q.exp()).log()
        return heat**2 * (mix * (p.exp() * (p - middle)).sum(-1) + (1 - mix) * (q.exp() * (q - middle)).sum(-1))

    method = Distillation(
        teacher=teacher, divergence=name, temperature=heat, mix=mix, sft_weight=0.25, max_steps=1,
        **{**PLAIN, "batch_size": 8},
    )  # fmt: skip
    _, logs = logged(method, student, rows, tmp_path)
    kl, nll = by_hand(student, teacher, rows, divergence)
    assert logs[0]["loss"] == pytest.approx(0.75 * kl + 0.25 * nll, rel=1e-4)


def test_jensen_shannon_is_that_of_trl():
    gkd = pytest.importorskip("trl.experimental.gkd")
    torch.manual_seed(0)
    teacher, student = torch.randn(7, 11), torch.randn(7, 11)
    for mix, heat in ((0.5, 1.0), (0.2, 2.0)):
        theirs = gkd.GKDTrainer.generalized_jsd_loss(
            student[None], teacher[None], beta=mix, temperature=heat, reduction="none"
        )
        ours = comparison("jensen_shannon", mix=mix, temperature=heat)(teacher, student)
        # TRL leaves out the square of the temperature.
        torch.testing.assert_close(ours / heat**2, theirs[0].sum(-1))
    torch.testing.assert_close(
        comparison("jensen_shannon", mix=0.5)(torch.eye(2) * 1e4, torch.eye(2).flip(0) * 1e4),
        torch.full((2,), math.log(2)),
    )


def test_sft_weight_near_one_is_sft():
    rows, model = toy.demonstrations(), toy.model()
    plain = SFT(max_steps=4, **PLAIN).align(model, rows)
    mixed = Distillation(teacher=toy.model(seed=5), sft_weight=1 - 1e-9, max_steps=4, **PLAIN).align(model, rows)
    for name, value in plain.weights.state_dict().items():
        torch.testing.assert_close(mixed.weights.state_dict()[name], value, rtol=0, atol=1e-4)


def test_the_square_of_the_temperature_keeps_gradients_their_size():
    torch.manual_seed(1)
    teacher, start = torch.randn(50, 40), torch.randn(50, 40)
    sizes = []
    for heat in (10.0, 20.0, 40.0):
        student = start.clone().requires_grad_()
        comparison("forward_kl", temperature=heat)(teacher, student).sum().backward()
        sizes.append(student.grad.norm().item())
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.1)


def test_a_student_comes_close_to_its_teacher():
    rows = toy.demonstrations(8)
    teacher = SFT(max_steps=30, learning_rate=3e-3, batch_size=8).align(toy.model(seed=2), rows)
    start = toy.model("qwen3", seed=3)
    student = Distillation(
        teacher=teacher, sft_weight=0.0, max_steps=60, learning_rate=3e-3, batch_size=8, divergence="reverse_kl"
    ).align(start, rows)

    def distance(model):
        return by_hand(model, teacher, rows, DIVERGENCES["forward_kl"])[0]

    assert distance(student) < 0.1 * distance(start)


def test_embeddings_padded_to_another_size_do_not_matter():
    scores = torch.randn(4, 9)
    padded = torch.cat([scores, torch.full((4, 3), 50.0)], 1)
    assert comparison("forward_kl")(padded, scores).abs().max() < 1e-6
    assert comparison("forward_kl")(scores, padded).abs().max() < 1e-6


def test_an_adapter_learns_from_a_teacher_with_an_adapter():
    rows = toy.demonstrations(4)
    teacher = SFT(max_steps=2, adapter={"r": 2}, **PLAIN).align(toy.model(), rows)
    before = copy.deepcopy(teacher.weights.state_dict())
    student = Distillation(teacher=teacher, max_steps=2, adapter={"r": 2}, **PLAIN).align(toy.model(seed=4), rows)
    assert all(torch.equal(value, before[name]) for name, value in teacher.weights.state_dict().items())
    assert student.weights.peft_config


def test_a_killed_run_does_not_go_on_with_another_teacher(tmp_path):
    rows = toy.demonstrations(4)
    first = Distillation(teacher=toy.model(seed=1), max_steps=2, **PLAIN).align(toy.model(), rows, out=tmp_path)
    again = Distillation(teacher=toy.model(seed=1), max_steps=2, **PLAIN).align(toy.model(), rows, out=tmp_path)
    for name, value in first.weights.state_dict().items():
        assert torch.equal(value, again.weights.state_dict()[name])
    with pytest.raises(TruingError, match=r"another training: reference"):
        Distillation(teacher=toy.model(seed=2), max_steps=2, **PLAIN).align(toy.model(), rows, out=tmp_path)


def test_teachers_that_cannot_teach_are_refused():
    rows = toy.demonstrations(4)
    strange = Model(tiny.network(vocabulary=300), tiny.tokenizer(size=300), source="strange")
    with pytest.raises(ModelError, match=r"different vocabularies.*SFT"):
        Distillation(teacher=strange).align(toy.model(), rows)
    spoken = SystemMessage(text="be kind").align(toy.model())
    with pytest.raises(ModelError, match="SystemMessage"):
        Distillation(teacher=spoken).align(toy.model(), rows)
    with pytest.raises(SettingsError, match=r"truing\.load"):
        Distillation(teacher="sandbox/base").align(toy.model(), rows)
    with pytest.raises(TypeError, match="teacher"):
        Distillation()
    from truing import RemoteModel

    remote = RemoteModel("nobody", base_url="http://127.0.0.1:9/v1", api_key="none")
    with pytest.raises(ModelError, match="no local weights"):
        Distillation(teacher=remote).align(toy.model(), rows)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"divergence": "kl"}, "forward_kl"),
        ({"temperature": 0}, "temperature"),
        ({"mix": 1.0}, "mix"),
        ({"sft_weight": 1}, "use SFT"),
        ({"sft_weight": -0.1}, "sft_weight"),
    ],
)
def test_settings_that_cannot_work(bad, message):
    with pytest.raises(SettingsError, match=message):
        Distillation(teacher=toy.model(), **bad).validate()


def test_an_aligned_sandbox_model_teaches_an_unaligned_one(tmp_path):
    teacher, student = load("sandbox/guide"), load("sandbox/small")
    method = Distillation(teacher=teacher, sft_weight=0.0, learning_rate=5e-4, max_steps=12, batch_size=16)
    _, logs = logged(method, student, "sandbox/demonstrations", tmp_path)
    assert logs[-1]["divergence_per_token"] < 0.6 * logs[0]["divergence_per_token"]
