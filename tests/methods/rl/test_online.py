"""GRPO and RLOO on tiny models: what they move, what they leave, what they say of input that cannot work."""

from __future__ import annotations

import contextlib
import copy
import json
import sys

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.rl import toy
from truing import Combined, Keyword, SystemMessage
from truing.contracts import Settings
from truing.errors import (
    MissingExtraError,
    ModelError,
    RecordError,
    RewardError,
    SettingsError,
    TrainingError,
    UnsupportedError,
)
from truing.methods.rl import trainer
from truing.methods.rl.grpo import GRPO
from truing.methods.rl.rloo import RLOO
from truing.methods.rl.rollouts import Rollouts, prompt_order
from truing.progress import listening
from truing.rewards.verifiable import Verifiable

pytest.importorskip("trl")
METHODS = [GRPO, RLOO]
QUICK = {**GRPO.quick, "reward": toy.of_length}


class Heard:
    """Keeps what is said, and how far the bars came."""

    def __init__(self):
        self.said, self.done, self.total = [], 0, None

    @contextlib.contextmanager
    def task(self, label, total):
        self.done, self.total = 0, total
        yield self

    def advance(self, steps=1, note=""):
        self.done += steps

    def say(self, text):
        self.said.append(text)


def texts(one):
    return one.generate(toy.PROMPTS, max_new_tokens=8).texts


def rows_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("extra", [{}, {"adapter": {"r": 4}}], ids=["full", "lora"])
def test_the_probability_of_a_rewarded_word_rises(method, extra):
    """One token an answer makes a bandit, whose best policy writes the word always."""
    start, (prompt, *_) = toy.model(), toy.PROMPTS
    with torch.no_grad():
        start.weights.lm_head.weight.mul_(6)
    before = toy.next_word(start, prompt)
    likely = [int(at) for at in before.argsort(descending=True) if before[at].exp() < 0.2]
    at = next(at for at in likely if start.tokenizer.decode([at], skip_special_tokens=True).strip().isalpha())
    word = start.tokenizer.decode([at])
    how = {"learning_rate": 3e-2 if extra else 3e-3, "max_steps": 20, "n": 16, "prompts_per_step": 1}

    def reward(prompts, responses):
        assert set(prompts) == {prompt}
        return [float(text == word) for text in responses]

    made = method(reward=reward, max_new_tokens=1, beta=0.0, schedule="constant", **how, **extra)
    after = toy.next_word(made.align(start, [{"prompt": prompt, "answers": word}]), prompt)
    assert before[at].exp() < 0.2
    assert after[at].exp() > 0.8
    # With a strong pull to the start it moves less.
    held = made.clone(beta=3.0).align(start, [{"prompt": prompt, "answers": word}])
    assert toy.next_word(held, prompt)[at] < after[at]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_whatever_its_padding(method, architecture, tmp_path):
    answers = []
    for side in ("left", "right"):
        start = toy.model(architecture, padding_side=side)
        aligned = method(**{**QUICK, "prompts_per_step": 3}).align(start, toy.QUESTIONS)
        assert start.tokenizer.padding_side == side
        assert any(not torch.equal(v, start.weights.state_dict()[k]) for k, v in toy.weights_of(aligned).items())
        answers.append(texts(aligned))
    assert answers[0] == answers[1]
    from truing.models import load

    aligned.save(tmp_path / "model")
    assert texts(load(tmp_path / "model")) == answers[1]


@pytest.mark.parametrize("extra", [{}, {"adapter": "lora"}], ids=["full", "lora"])
def test_the_model_that_came_in_is_untouched(extra):
    start = toy.model("gemma")
    start.tokenizer.pad_token = None
    weights, answers = toy.weights_of(start), texts(start)
    configs = copy.deepcopy((start.weights.config.to_dict(), start.weights.generation_config.to_dict()))
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    aligned = GRPO(**QUICK, **extra).align(start, toy.QUESTIONS)
    assert texts(start) == answers
    assert all(torch.equal(value, weights[name]) for name, value in start.weights.state_dict().items())
    assert (start.weights.config.to_dict(), start.weights.generation_config.to_dict()) == configs
    assert start.tokenizer.pad_token is None
    assert not start.weights.training
    assert not aligned.weights.training
    assert all(parameter.requires_grad for parameter in start.weights.parameters())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    # A forward that stayed would make copies of the result compute with the result's own weights.
    for part in (start.weights, aligned.weights, trainer.core_of(aligned.weights)):
        assert "forward" not in part.__dict__
        assert not hasattr(part, "model_tags") or part.model_tags is None
    assert trainer.core_of(aligned.weights).config.to_dict() == configs[0]
    other = copy.deepcopy(aligned.weights)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        assert other(torch.tensor([[5, 6]])).logits.abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_model(method):
    start = toy.model()
    how = {**QUICK, "prompts_per_step": 2, "adapter": "lora"}
    first, second = (toy.weights_of(method(**how, seed=3).align(start, toy.QUESTIONS)) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    other = toy.weights_of(method(**how, seed=4).align(start, toy.QUESTIONS))
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_batches_add_up_to_the_step():
    """Two forward passes of 6 completions give the step of one of 12; loss of GRPO and of RLOO."""
    for method in METHODS:
        how = {**QUICK, "n": 4, "prompts_per_step": 3, "max_steps": 1, "beta": 0.1}
        whole, parts = (
            toy.weights_of(method(**how, batch_size=size).align(toy.model(), toy.QUESTIONS)) for size in (None, 6)
        )
        moved = max(
            float((value - toy.model().weights.state_dict()[name]).abs().max()) for name, value in whole.items()
        )
        # Adam's first step is the sign of the gradient, and some gradients are rounding alone.
        apart = torch.cat([(value - parts[name]).abs().flatten() for name, value in whole.items()])
        assert (apart > 0.1 * moved).float().mean() < 0.01


def test_answers_reach_a_reward_that_checks_them():
    seen = []

    def spy(prompts, responses):
        seen.extend(zip(prompts, responses))
        return [0.1 * len(text) for text in responses]

    total = Combined(rewards=[Verifiable(extract="contains"), spy])
    rows = [
        {"prompt": "the cat", "answers": ["the"]},
        {"prompt": [{"role": "system", "content": "look"}, {"role": "user", "content": "the bird?"}], "answers": ["a"]},
    ]
    GRPO(**{**QUICK, "reward": total, "prompts_per_step": 2}).align(toy.model(), rows)
    assert len(seen) == 2 * 2 * 2
    for row in rows:
        assert any(prompt == row["prompt"] for prompt, _ in seen), "prompts as the records hold them"
    assert all("<|end|>" not in text for _, text in seen)
    with pytest.raises(RecordError, match="none in the column `answers`"):
        GRPO(**{**QUICK, "reward": total}).align(toy.model(), [{"prompt": "q", "chosen": "a", "rejected": "b"}])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "the cat", "completion": "red"},
        {"prompt": "the cat", "chosen": "red", "rejected": "grey"},
        {"prompt": "the cat", "completion": "red", "label": True},
    ],
)
def test_any_record_with_a_prompt_will_do(row):
    aligned = GRPO(**QUICK).align(toy.model(), [row])
    assert aligned.history[-1].data["rows"] == 1


def test_rewards_by_name_and_weight():
    for given, rewards, weights in (
        ({"keyword": {"words": ["red"]}}, None, None),
        ({"sandbox_grade": 2, "sandbox_grade ": 1}, None, None),
        ({"sandbox_grade": 1.0}, ["sandbox_grade"], [1.0]),
    ):
        method = GRPO(**{**QUICK, "reward": given})
        if rewards:
            made = method._reward()
            assert isinstance(made, Combined)
            assert (made.rewards, made.weights) == (rewards, weights)
        elif "keyword" in given:
            assert method._reward() == Keyword(words=["red"])
        else:
            with pytest.raises(SettingsError, match="no reward"):
                method.validate()


def test_the_log_counts_what_teaches_nothing(tmp_path):
    def flat(prompts, responses):
        return [float(prompt != toy.PROMPTS[0]) * len(text) for prompt, text in zip(prompts, responses)]

    heard = Heard()
    how = {**QUICK, "reward": flat, "n": 3, "prompts_per_step": 3, "max_steps": 2, "beta": 0.1}
    with listening(heard):
        GRPO(**how).align(toy.model(), toy.QUESTIONS, out=tmp_path / "some")
    first, *steps = rows_of(tmp_path / "some")
    last = steps[-1]
    assert first["event"] == "start"
    assert first["prompts"] == 3
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert 1 / 3 <= row["no_signal"] < 1
        assert 0 <= row["clip_fraction"] <= 1
        assert 1 <= row["length"] <= 6
        assert row["kl"] >= 0
        assert row["entropy"] > 0
        assert row["reward_std"] > 0
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[1]["kl"] > 0
    assert steps[1]["seconds"] > steps[0]["seconds"] > 0
    assert last["groups"] == 6
    assert last["groups_without_signal"] == round(sum(row["no_signal"] * 3 for row in steps))
    assert last["steps_without_signal"] == 0
    assert heard.said == []
    assert heard.done == heard.total == 2
    with listening(heard):
        made = GRPO(**{**how, "reward": lambda prompts, texts: [0.1] * len(texts), "beta": 0.0})
        aligned = made.align(toy.model(), toy.QUESTIONS, out=tmp_path / "none")
    assert heard.said[0].startswith("Step 1: all answers to a prompt have the same reward")
    assert heard.said[1].startswith("In 6 of 6 groups")
    assert len(heard.said) == 2
    assert rows_of(tmp_path / "none")[-1]["steps_without_signal"] == 2
    for name, value in toy.model().weights.state_dict().items():
        assert torch.equal(value, aligned.weights.state_dict()[name]), "no signal, no step"


def test_fewer_lines_hold_the_means(tmp_path):
    GRPO(**{**QUICK, "max_steps": 4, "log_every": 2}).align(toy.model(), toy.QUESTIONS, out=tmp_path / "two")
    GRPO(**{**QUICK, "max_steps": 4}).align(toy.model(), toy.QUESTIONS, out=tmp_path / "one")
    one, two = ([row for row in rows_of(tmp_path / name) if "step" in row] for name in ("one", "two"))
    assert [row["step"] for row in two] == [1, 2, 4]
    assert two[2]["reward"] == pytest.approx((one[2]["reward"] + one[3]["reward"]) / 2)


def test_a_prompt_asked_twice_in_a_step_gets_samples_of_its_own():
    rollouts = Rollouts(
        toy.model(), [("a", tuple(toy.model().encode_prompt("a")))], toy.of_length, n=3, max_new_tokens=8,
        temperature=1.0, seed=0,
    )  # fmt: skip
    twice = rollouts.sample(rollouts.model.weights, [0] * 6, 0)
    assert len({tuple(one) for one in twice}) == 6
    assert rollouts.sample(rollouts.model.weights, [0] * 3, 0) == twice[:3]
    assert rollouts.sample(rollouts.model.weights, [0] * 3, 1) != twice[:3]


def test_prompts_are_asked_pass_after_pass():
    order = prompt_order(5, 13, seed=1, shuffle=True)
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5))
    assert order[:5] != order[5:10]
    assert prompt_order(5, 7, seed=1, shuffle=True) == order[:7]
    assert prompt_order(5, 13, seed=2, shuffle=True) != order
    assert prompt_order(3, 5, seed=1, shuffle=False) == [0, 1, 2, 0, 1]


def test_epochs_are_passes_over_the_prompts(tmp_path):
    how = {**QUICK, "max_steps": None, "prompts_per_step": 2}
    GRPO(**how, epochs=2, iterations=2).align(toy.model(), toy.QUESTIONS, out=tmp_path)
    assert len([row for row in rows_of(tmp_path) if "step" in row]) == 2 * 3


def test_modifiers_stay_and_do_not_act():
    spoken = SystemMessage(text="look at the mat").align(toy.model())
    seen = []

    def reward(prompts, responses):
        seen.extend(prompts)
        return toy.of_length(prompts, responses)

    heard = Heard()
    with listening(heard):
        aligned = GRPO(**{**QUICK, "reward": reward}).align(spoken, toy.QUESTIONS)
    assert "does not act in training" in heard.said[0]
    assert set(seen) <= set(toy.PROMPTS)
    assert [type(one).__name__ for one in aligned.modifiers] == ["SystemMessageModifier"]
    plain = GRPO(**{**QUICK, "reward": reward}).align(toy.model(), toy.QUESTIONS)
    assert all(torch.equal(v, plain.weights.state_dict()[k]) for k, v in aligned.weights.state_dict().items())


def test_it_stacks_on_its_own_adapter():
    once = GRPO(**QUICK, adapter="lora").align(toy.model(), toy.QUESTIONS)
    answers = texts(once)
    twice = RLOO(**QUICK, adapter="lora", beta=0.2).align(once, toy.QUESTIONS)
    assert texts(once) == answers
    assert [step.method for step in twice.history] == [step.method for step in once.history] + [
        twice.history[-1].method
    ]
    assert sum(parameter.requires_grad for parameter in twice.weights.parameters()) > 0


def test_without_trl_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtraError, match=r"needs trl.*pip install 'truing\[rl\]'"):
        GRPO(**QUICK).align(toy.model(), toy.QUESTIONS)


def test_another_trl_is_refused(monkeypatch):
    import trl

    monkeypatch.delattr(trl.RLOOTrainer, "_tokenize_prompts")
    with pytest.raises(UnsupportedError, match="lacks _tokenize_prompts"):
        RLOO(**QUICK).align(toy.model(), toy.QUESTIONS)


def test_nothing_is_reported_to_anybody(monkeypatch):
    from trl.trainer import base_trainer

    def report(**_):
        raise AssertionError("a training was reported")

    monkeypatch.setattr(base_trainer, "send_telemetry", report)
    monkeypatch.delenv("CI", raising=False)
    for method in METHODS:
        method(**{**QUICK, "max_steps": 1}).align(toy.model(), toy.QUESTIONS)


def test_importing_the_methods_loads_no_trl():
    import subprocess

    code = (
        "import sys, truing.methods.rl.grpo, truing.methods.rl.rloo\n"
        "print([name for name in ('trl', 'transformers.trainer', 'peft') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_reward_that_is_not_finite_is_named():
    def odd(prompts, responses):
        return [float("nan") if row == 1 else 1.0 for row in range(len(responses))]

    with pytest.raises(RewardError, match=r"Step 1: The reward .*odd gave nan for row 1, whose answer is"):
        GRPO(**{**QUICK, "reward": odd}).align(toy.model(), toy.QUESTIONS)
    with pytest.raises(RewardError, match=r"Step 1: The reward len raised TypeError"):
        GRPO(**{**QUICK, "reward": len}).align(toy.model(), toy.QUESTIONS)
    with pytest.raises(RewardError, match=r"needs|shape|numbers"):
        GRPO(**{**QUICK, "reward": lambda prompts, texts: [1.0]}).align(toy.model(), toy.QUESTIONS)


def test_a_loss_that_is_not_finite_stops_the_training():
    start = toy.model()
    with torch.no_grad():
        start.weights.lm_head.weight[7] = 60.0
        start.weights.model.norm.weight.mul_(1e38)
    with pytest.raises((TrainingError, ModelError)) as raised:
        GRPO(**QUICK).align(start, toy.QUESTIONS)
    assert "finite" in str(raised.value) or "NaN" in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"n": 1}, "n is 2 or more: a completion is compared"),
        ({"n": 0}, "whole number"), ({"temperature": 0}, "at 0 all completions"), ({"learning_rate": 0}, "over 0"),
        ({"beta": -1}, "0 or more"), ({"epsilon": 1.0}, "under 1"), ({"epsilon_high": 0}, "epsilon_high"),
        ({"batch_size": 3, "n": 4}, "divides the 4 completions"), ({"max_steps": 1.5}, "max_steps"),
        ({"schedule": "up"}, "schedule"), ({"seed": -1}, "seed"), ({"adapter": "lore"}, "adapter"),
        ({"adapter": {"rank": 3}}, "adapter has no setting 'rank'"), ({"warmup_ratio": 1}, "warmup_ratio"),
        ({"reward": "no_such"}, "no reward `no_such`"), ({"reward": 3}, "A reward is a function"),
        ({"reward": {"pattern": {"pattern": "("}}}, "no regular expression"), ({"iterations": 0}, "iterations"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
def test_settings_that_cannot_work(method, wrong, why):
    with pytest.raises(SettingsError, match=why):
        method(**{**QUICK, **wrong}).align(toy.model(), toy.QUESTIONS)


def test_settings_of_grpo_that_cannot_work():
    for wrong in ({"loss_type": "ppo"}, {"scale_rewards": True}, {"importance_sampling_level": "word"}):
        with pytest.raises(SettingsError, match="is one of"):
            GRPO(**QUICK, **wrong).validate()


def test_models_and_records_that_cannot_work(monkeypatch):
    endless = toy.model()
    endless.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        GRPO(**QUICK).align(endless, toy.QUESTIONS)
    with pytest.raises(RecordError, match="none"):
        GRPO(**QUICK).align(toy.model())
    long = {"prompt": "bird " * 400, "answers": "a"}
    with pytest.raises(TrainingError, match="No prompt is left: all 1 are longer than the 256 tokens"):
        GRPO(**QUICK).align(toy.model(), [long])
    heard = Heard()
    with listening(heard):
        GRPO(**QUICK).align(toy.model(), [*toy.QUESTIONS, long])
    assert heard.said == ["1 of 4 prompts leave no room for an answer and are left out."]
    image = {"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}], "answers": "a"}
    with pytest.raises(UnsupportedError, match=r"Record 2: .*text only"):
        GRPO(**QUICK).align(toy.model(), [toy.QUESTIONS[0], image])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnsupportedError, match="one process"):
        GRPO(**QUICK).align(toy.model(), toy.QUESTIONS)


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_described(method):
    assert issubclass(method, Settings)
    assert [name for name, text in method.describe().items() if not text] == []


@pytest.mark.parametrize("extra", [{}, {"adapter": "lora"}], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing_else(extra):
    plain, again = (
        GRPO(**QUICK, **extra, gradient_checkpointing=on).align(toy.model(), toy.QUESTIONS) for on in (False, True)
    )
    for name, value in toy.weights_of(plain).items():
        torch.testing.assert_close(value, toy.weights_of(again)[name], atol=1e-5, rtol=1e-4)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in again.weights.modules())
    hooks = [hook for part in again.weights.modules() for hook in part._forward_hooks.values()]
    assert hooks == []
    assert [hook for part in again.weights.modules() for hook in part._forward_pre_hooks.values()] == []


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_may_be_the_model_without_its_adapter(method, monkeypatch):
    """Quantised weights have no twin: TRL then switches the adapter off, which is the same reference."""
    made = method(**{**QUICK, "max_steps": 3, "learning_rate": 1e-2}, adapter="lora", beta=2.0)
    twin = toy.weights_of(made.align(toy.model(), toy.QUESTIONS))
    free = toy.weights_of(made.clone(beta=0.0).align(toy.model(), toy.QUESTIONS))
    monkeypatch.setattr(trainer, "frozen_twin", lambda weights: None)
    switched = toy.weights_of(made.align(toy.model(), toy.QUESTIONS))
    for name, value in twin.items():
        torch.testing.assert_close(value, switched[name], atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(value, free[name], atol=1e-3) for name, value in twin.items())


def test_quantised_weights_want_an_adapter():
    start = toy.model()
    start.weights.is_quantized = True
    with pytest.raises(UnsupportedError, match="adapter='lora'"):
        GRPO(**QUICK).align(start, toy.QUESTIONS)
    assert trainer.frozen_twin(start.weights) is None
