"""ReMax: returns and loss at values worked by hand, and the trainer that computes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from truing.methods.rl import losses, remax

ONE = torch.ones(1, 1, dtype=torch.float64)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_one_token_at_the_values_of_the_page():
    logps = f64([-0.7]).requires_grad_()
    returns = losses.remax_returns(logps, f64([-0.9]), ONE, f64(1.0), beta=0.05)
    assert returns.item() == pytest.approx(1 - 0.05 * 0.2)
    loss = losses.remax_loss(logps, returns, ONE)
    assert loss.item() == pytest.approx(0.7 * 0.99)
    loss.backward()
    # The returns are constants: the log-ratio in them has no gradient.
    assert logps.grad.item() == pytest.approx(-0.99)


def test_each_token_is_charged_for_what_comes_from_it_on():
    logps, reference = f64([-1.0, -0.5, -2.0]), f64([-1.2, -0.5, -1.5])
    found = losses.remax_returns(logps, reference, torch.ones(1, 3), f64(0.2), beta=0.05)
    torch.testing.assert_close(found, f64([0.2 + 0.05 * 0.3, 0.2 + 0.05 * 0.5, 0.2 + 0.05 * 0.5]))
    halved = losses.remax_returns(logps, reference, torch.ones(1, 3), f64(0.2), beta=0.05, gamma=0.5)
    last = 0.2 + 0.05 * 0.5
    torch.testing.assert_close(halved, f64([-0.05 * 0.2 + 0.25 * last, 0.5 * last, last]))


def test_nothing_is_learned_where_policy_is_reference_and_sample_as_good_as_greedy():
    logps = f64([-1.0, -2.0], [-0.3, -4.0]).requires_grad_()
    returns = losses.remax_returns(logps, logps.detach(), torch.ones(2, 2), f64(0.0, 0.0), beta=0.05)
    losses.remax_loss(logps, returns, torch.ones(2, 2)).backward()
    assert (logps.grad == 0).all()


def test_without_a_beta_it_is_reinforce_with_a_baseline():
    logps, reference = f64([-1.0, -0.5]).requires_grad_(), f64([-3.0, -9.0])
    returns = losses.remax_returns(logps, reference, torch.ones(1, 2), f64(-0.4), beta=0.0)
    assert returns.tolist() == [[-0.4, -0.4]]
    losses.remax_loss(logps, returns, torch.ones(1, 2)).backward()
    torch.testing.assert_close(logps.grad, f64([0.2, 0.2]))


def test_padding_has_no_gradient_and_changes_nothing():
    short, mask = f64([-0.2, -0.3]), torch.ones(1, 2)
    padded = torch.cat([short, f64([-7.0])], 1).requires_grad_()
    longer = torch.tensor([[1.0, 1.0, 0.0]])
    ours = losses.remax_returns(padded, f64([-0.4, -0.1, -50.0]), longer, f64(-0.5), beta=0.05)
    alone = losses.remax_returns(short, f64([-0.4, -0.1]), mask, f64(-0.5), beta=0.05)
    torch.testing.assert_close(ours[:, :2], alone)
    loss = losses.remax_loss(padded, ours, longer)
    torch.testing.assert_close(loss, losses.remax_loss(short, alone, mask))
    loss.backward()
    assert padded.grad[0, 2] == 0
    nothing = losses.remax_returns(short, short, torch.zeros(1, 2), f64(3.0))
    assert (nothing == 0).all()
    assert losses.remax_loss(short, nothing, torch.zeros(1, 2)) == 0


@pytest.fixture
def toy():
    pytest.importorskip("trl")
    from tests.methods.rl import toy

    return toy


class Spy:
    """Keeps what the trainer gives to the loss, and what is sampled and how it is scored."""

    def __init__(self, monkeypatch):
        self.losses, self.samples, self.advantages = [], [], []
        plain, score = losses.remax_loss, remax.GreedyRollouts.score
        sample = remax.GreedyRollouts.sample

        def remax_loss(logps, returns, mask, tokens=None):
            self.losses.append([one.detach().clone() for one in (logps, returns, mask)] + [float(tokens)])
            return plain(logps, returns, mask, tokens)

        def spy_score(rollouts, rows, step):
            found = score(rollouts, rows, step)
            self.advantages.append(list(rollouts.advantages))
            return found

        def spy_sample(rollouts, weights, rows, number):
            found = sample(rollouts, weights, rows, number)
            self.samples.append(found)
            return found

        monkeypatch.setattr(remax, "remax_loss", remax_loss)
        monkeypatch.setattr(remax.GreedyRollouts, "score", spy_score)
        monkeypatch.setattr(remax.GreedyRollouts, "sample", spy_sample)


def trained(toy, **how):
    from truing import DerivedPrompt

    given = {
        "responder": lambda prompts: [str(one) for one in prompts], "reward": toy.of_length, "max_steps": 1,
        "instruction": "{prompt}", "prompts_per_step": 2, "n": 2, "max_new_tokens": 6, "learning_rate": 1e-2,
    }  # fmt: skip
    return DerivedPrompt(**{**given, **how})


def test_the_trainer_computes_the_returns_of_the_page(toy, monkeypatch):
    """Log-probabilities of both models by their own forward passes, and rewards by the reward itself."""
    spy, start = Spy(monkeypatch), toy.model()
    rows = toy.QUESTIONS[:1]
    beta, temperature = 0.3, 1.5
    method = trained(toy, beta=beta, temperature=temperature, max_steps=3, prompts_per_step=1, n=3)
    method.align(start, rows)
    moved = 0.0
    for (logps, returns, mask, tokens), samples, advantages in zip(spy.losses, spy.samples, spy.advantages):
        assert tokens == sum(map(len, samples))
        assert len(samples) == 3
        prompt = start.encode_prompt(rows[0]["prompt"])
        with torch.no_grad():
            for ids, advantage in zip(samples, advantages):
                whole = torch.tensor([prompt + ids])
                scores = start.weights(whole).logits[0, len(prompt) - 1 : -1] / temperature
                reference = scores.log_softmax(1).gather(1, torch.tensor(ids)[:, None])[:, 0]
                # TRL shuffles a step: a sample is in the row whose returns are what they should be.
                found = []
                for ours, back, seen in zip(logps, returns, mask):
                    if int(seen.sum()) == len(ids):
                        ratio = ours[: len(ids)] - reference
                        expected = advantage - beta * ratio.flip(0).cumsum(0).flip(0)
                        found.append((float((expected - back[: len(ids)]).abs().max()), float(ratio.abs().max())))
                gap, ratio = min(found)
                assert gap < 1e-4
                moved = max(moved, ratio)
    assert moved > 0.01, "the penalty was tested on a policy that had moved"


def test_a_step_in_parts_is_the_step_in_one(toy):
    whole, parts = (
        toy.weights_of(
            trained(toy, prompts_per_step=3, n=4, beta=0.1, batch_size=size).align(toy.model(), toy.QUESTIONS)
        )
        for size in (None, 4)
    )
    start = toy.weights_of(toy.model())
    moved = max(float((value - start[name]).abs().max()) for name, value in whole.items())
    apart = torch.cat([(value - parts[name]).abs().flatten() for name, value in whole.items()])
    # Adam's first step is the sign of the gradient, and some gradients are rounding alone.
    assert moved > 0
    assert (apart > 0.1 * moved).float().mean() < 0.01


def test_samples_that_are_the_greedy_text_teach_nothing_and_cost_no_second_answer(toy):
    asked = []

    def responder(prompts):
        asked.extend(prompts)
        return [str(one) for one in prompts]

    start = toy.model()
    aligned = trained(toy, temperature=1e-4, responder=responder, beta=0.5, max_steps=2).align(start, toy.QUESTIONS)
    for name, value in toy.weights_of(aligned).items():
        assert torch.equal(value, start.weights.state_dict()[name]), name
    assert len(asked) == len(set(asked)) <= len(toy.QUESTIONS)


def test_the_greedy_text_is_the_baseline(toy, monkeypatch):
    spy, start = Spy(monkeypatch), toy.model()
    heard = []

    def reward(prompts, responses):
        heard.append(list(responses))
        return toy.of_length(prompts, responses)

    trained(toy, reward=reward, responder=lambda prompts: list(prompts)).align(start, toy.QUESTIONS)
    greedy = dict(zip(heard[0], toy.of_length([], heard[0])))
    alone = [one.text for one in start.generate(toy.PROMPTS, max_new_tokens=6)]
    values = [greedy[text.strip()] for text in alone if text.strip() in greedy]
    assert values
    texts = [start.tokenizer.decode(ids, skip_special_tokens=True) for ids in spy.samples[0]]
    for at, (text, advantage) in enumerate(zip(texts, spy.advantages[0])):
        own = toy.of_length([], [text.strip()])[0] if text.strip() else 0.0
        assert any(math.isclose(own - value, advantage, abs_tol=1e-9) for value in values), at
    assert np.isfinite(spy.advantages[0]).all()
