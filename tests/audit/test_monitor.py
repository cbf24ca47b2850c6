from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.measures.models import Scripted, small
from truing.audit import Monitor
from truing.audit.monitor import Bounds, movements
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.measures.activation_attack_defences import attached, monitor_alarms
from truing.methods.steering.modifier import SteeringModifier
from truing.models import Model
from truing.models.activations import record

WORDS = ("cat", "mat", "bird", "stone", "colour", "red cat", "small mat", "grey bird", "old stone", "big cat")
PROMPTS = [f"{opening} the {word}{end}" for opening in ("what is", "look at", "where sat") for word in WORDS
           for end in ("?", " of course", " on the mat")]  # fmt: skip


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_movements_are_the_plain_formula_whatever_the_batch(architecture: str) -> None:
    model = Model(tiny.network(architecture), tiny.tokenizer())
    vector = torch.linspace(-1, 1, 32)
    steered = model.with_modifier(SteeringModifier(vectors=vector[None], at=[0], strength=0.5))
    prompts, answers = ["what is the cat?", "mat"], ["it sat.", "the small red bird looked at the stone"]
    steps, along = movements(steered, prompts, answers, None, {1: vector, 0: -2 * vector})
    for at, (prompt, answer) in enumerate(zip(prompts, answers)):
        asked, said = steered.encode_pair(prompt, answer)
        states = record(steered, [[*asked, *said]], [0, 1], "all")[0][1:]
        step = (states[:, 1] - states[:, 0]).norm(dim=1).mean()
        assert steps[at, 1] == pytest.approx(float(step), rel=1e-4)
        unit = vector / vector.norm()
        assert along[at].tolist() == pytest.approx(
            [float((states[:, 1] @ unit).mean()), -float((states[:, 0] @ unit).mean())], rel=1e-3, abs=1e-4
        )
    alone = movements(steered, prompts[:1], answers[:1], [-1])[0]
    assert alone[0, 0] == pytest.approx(steps[0, 1], rel=1e-5)
    clean = movements(model, prompts, answers, [0])[0]
    assert abs(clean[0, 0] - steps[0, 0]) > 1e-3


def test_bounds_keep_the_share_of_false_alarms() -> None:
    rng = np.random.default_rng(0)
    flagged = []
    for _ in range(40):
        values = rng.standard_t(3, size=(200, 5))
        bounds = Bounds.of(values, 0.05)
        fresh = rng.standard_t(3, size=(500, 5))
        flagged.append(float((bounds.deviation(fresh) > bounds.most).mean()))
    assert 0.03 < float(np.mean(flagged)) < 0.06
    # Too few to promise so little: what the worst of them did is allowed.
    values = rng.normal(size=(8, 2))
    few = Bounds.of(values, 0.001)
    assert few.most == few.deviation(values[1::2]).max()
    constant = Bounds.of(np.ones((10, 2)), 0.1)
    assert constant.deviation(np.ones((1, 2)))[0] == 0
    assert constant.deviation(np.full((1, 2), 1.1))[0] > constant.most


def test_a_monitor_flags_what_was_attached_however_it_was_attached() -> None:
    model = small()
    answers = model.generate(PROMPTS, max_new_tokens=6).texts
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    monitor = Monitor(known={1: vector}, false_alarms=0.05).calibrate(model, PROMPTS[:60], answers[:60])
    quiet = monitor.check(model, PROMPTS[60:], answers[60:])
    assert sum(alarm.flagged for alarm in quiet) <= 9
    for way in ("modifier", "hook"):
        with attached(model, 0, 3 * vector, way) as attacked:
            said = attacked.generate(PROMPTS[60:], max_new_tokens=6).texts
            loud = monitor.check(attacked, PROMPTS[60:], said)
        assert all("norm" in alarm.by for alarm in loud)
        assert min(alarm.norm for alarm in loud) > monitor.norms.most
    with attached(model, 1, 3 * vector, "modifier") as attacked:
        assert all("projection" in alarm.by for alarm in monitor.check(attacked, PROMPTS[60:], answers[60:]))
    plain = Monitor().calibrate(model, PROMPTS[:20], answers[:20]).check(model, PROMPTS[:1], answers[:1])
    assert plain[0].projection == 0


def test_flags_of_an_audit_come_from_the_other_half() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(400, 3))
    flags = monitor_alarms(clean, [clean, clean + 50], 0.05, 0)
    assert 0.01 < float(np.mean(flags[0])) < 0.1
    assert all(flags[1])
    # Half of the clean ones off by far: they are bounds for the others alone.
    assert monitor_alarms(clean, [clean], 0.05, 0) == [flags[0]]


def test_bad_input() -> None:
    model = small()
    with pytest.raises(SettingsError, match="false_alarms is a share"):
        Monitor(false_alarms=0).calibrate(model, PROMPTS, PROMPTS)
    with pytest.raises(RecordError, match="8 generations at least, got 3"):
        Monitor().calibrate(model, PROMPTS[:3], PROMPTS[:3])
    with pytest.raises(RecordError, match="one answer for each prompt, got 9 and 8"):
        Monitor().calibrate(model, PROMPTS[:9], PROMPTS[:8])
    with pytest.raises(SettingsError, match="There is no layer 7"):
        Monitor(layers=[7]).calibrate(model, PROMPTS[:9], PROMPTS[:9])
    with pytest.raises(SettingsError, match="that of layer 1 is not"):
        Monitor(known={1: torch.zeros(32)}).calibrate(model, PROMPTS[:9], PROMPTS[:9])
    remote: Any = Scripted(str.upper)
    with pytest.raises(UnsupportedError, match="needs activations, which scripted does not offer"):
        Monitor().calibrate(remote, PROMPTS, PROMPTS)
