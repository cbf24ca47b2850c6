"""What TRL's trainers compute is what our pure functions say, and what an unpadded model says."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.rl import toy
from truing.methods.rl import trainer
from truing.methods.rl.grpo import GRPO
from truing.methods.rl.losses import group_advantages, grpo_loss, leave_one_out, rloo_loss
from truing.methods.rl.rloo import RLOO
from truing.methods.rl.rollouts import Rollouts

pytest.importorskip("trl")
HOW = {
    "reward": toy.of_length, "n": 4, "prompts_per_step": 3, "max_new_tokens": 7, "learning_rate": 3e-3, "max_steps": 2,
    "iterations": 2, "temperature": 0.8, "schedule": "constant", "max_grad_norm": 0.0,
}  # fmt: skip


def plain_logps(weights, prompt, answer, temperature=0.8):
    """Log-probability of each token of an answer, one row at a time: no padding, no cache."""
    scores = weights(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature
    return scores.float().log_softmax(1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def rows_of(batch):
    for prompt, kept, answer, there in zip(
        batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"]
    ):
        yield prompt[kept.bool()].tolist(), answer[there.bool()].tolist()


def spread(values, width):
    return torch.stack([torch.nn.functional.pad(one, (0, width - len(one))) for one in values])


@contextlib.contextmanager
def recorded(monkeypatch):
    """Loss, batch and plain log-probabilities of every forward pass, and the rewards of every sampling."""
    seen, rewards, drawn = [], [], []
    make, score, sample = trainer.make_trainer, Rollouts.score, Rollouts.sample

    def made(*args, **kwargs):
        one = make(*args, **kwargs)
        plain = one.compute_loss

        def compute_loss(model, inputs, **more):
            width = inputs["completion_ids"].shape[1]
            with torch.no_grad():
                logps = spread([plain_logps(model, *row) for row in rows_of(inputs)], width)
                reference = kwargs["reference"]
                if reference is not None:
                    reference = spread([plain_logps(reference, *row) for row in rows_of(inputs)], width)
            loss = plain(model, inputs, **more)
            seen.append({"loss": loss.item(), "batch": inputs, "logps": logps, "reference": reference})
            return loss

        one.compute_loss = compute_loss
        return one

    def scored(self, rows, step):
        rewards.append(torch.tensor(score(self, rows, step)).reshape(-1, self.n))
        return rewards[-1].ravel().tolist()

    def sampled(self, *args):
        drawn.append(sample(self, *args))
        return drawn[-1]

    monkeypatch.setattr(trainer, "make_trainer", made)
    monkeypatch.setattr(Rollouts, "score", scored)
    monkeypatch.setattr(Rollouts, "sample", sampled)
    yield seen, rewards, drawn


@pytest.mark.parametrize(
    ("loss_type", "beta", "scale"),
    [("grpo", 0.3, "group"), ("dapo", 0.0, "batch"), ("bnpo", 0.3, "none"), ("dr_grpo", 0.3, "group")],
)
def test_two_steps_of_grpo_have_our_loss(loss_type, beta, scale, monkeypatch):
    how = {**HOW, "beta": beta, "loss_type": loss_type, "scale_rewards": scale, "epsilon": 0.1, "epsilon_high": 0.2}
    with recorded(monkeypatch) as (seen, rewards, _):
        GRPO(**how).align(toy.model(), toy.QUESTIONS)
    assert len(rewards) == 1
    assert len(seen) == 2
    assert any(float(kept.min()) == 0 for kept in (one["batch"]["prompt_mask"] for one in seen)), "left padding"
    expected = group_advantages(rewards[0], scale, eps=1e-4, unbiased=True).ravel()
    old = seen[0]["logps"]
    for one in seen:
        batch = one["batch"]
        torch.testing.assert_close(batch["advantages"].sort()[0], expected.sort()[0], atol=1e-5, rtol=1e-5)
        loss = grpo_loss(
            one["logps"], old, batch["completion_mask"], batch["advantages"], one["reference"], beta=beta, epsilon=0.1,
            epsilon_high=0.2, how=loss_type, longest=7,
        )  # fmt: skip
        assert one["loss"] == pytest.approx(loss.item(), abs=2e-5)
    assert abs(seen[1]["loss"] - seen[0]["loss"]) > 1e-3, "a step that does something"
    ratio = (seen[1]["logps"] - old).exp()[seen[1]["batch"]["completion_mask"].bool()]
    assert ((ratio < 0.9) | (ratio > 1.2)).any(), "the clip range acts"


def test_two_steps_of_rloo_have_our_loss(monkeypatch):
    with recorded(monkeypatch) as (seen, rewards, _):
        RLOO(**HOW, beta=0.2).align(toy.model(), toy.QUESTIONS)
    first, second = seen
    mask = first["batch"]["completion_mask"]
    # The first step's reference is the model itself, so that the penalty is 0.
    expected = leave_one_out(rewards[0]).ravel()
    torch.testing.assert_close(first["batch"]["advantages"].sort()[0], expected.sort()[0], atol=1e-5, rtol=1e-5)
    for one in (first, second):
        loss = rloo_loss(one["logps"], first["logps"], mask, one["batch"]["advantages"])
        assert one["loss"] == pytest.approx(loss.item(), abs=2e-5)
    assert abs(second["loss"] - first["loss"]) > 1e-3


def test_the_penalty_of_rloo_is_in_the_reward(monkeypatch):
    how = {**HOW, "iterations": 1, "max_steps": 3, "n": 4, "prompts_per_step": 1, "learning_rate": 1e-2}
    with recorded(monkeypatch) as (seen, rewards, _):
        RLOO(**how, beta=0.5).align(toy.model(), toy.QUESTIONS)
    last = seen[-1]
    penalty = ((last["logps"] - last["reference"]) * last["batch"]["completion_mask"]).sum(1)
    assert penalty.abs().max() > 0.05
    # The rewards are in the order of sampling, the batch is shuffled: every order of them is tried.
    import itertools

    found = [leave_one_out(rewards[-1][0][list(order)] - 0.5 * penalty) for order in itertools.permutations(range(4))]
    assert min(float((one - last["batch"]["advantages"]).abs().max()) for one in found) < 1e-4


@pytest.mark.parametrize("architecture", [*tiny.ARCHITECTURES, "gpt2"])
def test_the_trainer_scores_what_was_sampled_as_the_engine_does(architecture, monkeypatch):
    """Prompts of three lengths are padded on the left in one batch; ratios at the first step are exactly 1 then."""
    start = toy.model(architecture)
    with recorded(monkeypatch) as (seen, _, drawn):
        GRPO(**{**HOW, "temperature": 1.0}, beta=0.1).align(start, toy.QUESTIONS)
    batch = seen[0]["batch"]
    lengths = {len(prompt) for prompt, _ in rows_of(batch)}
    assert len(lengths) == 3
    assert sorted(answer for _, answer in rows_of(batch)) == sorted(drawn[0])
    mask = batch["completion_mask"].bool()
    for at, (prompt, answer) in enumerate(rows_of(batch)):
        plain = plain_logps(start.weights, prompt, answer, 1.0).detach()
        for name in ("old_per_token_logps", "ref_per_token_logps"):
            np.testing.assert_allclose(batch[name][at][mask[at]], plain, atol=2e-5)
        ends = answer.index(1) + 1 if 1 in answer else 7
        assert len(answer) == ends, "an answer stops at the end token, or at the limit"
