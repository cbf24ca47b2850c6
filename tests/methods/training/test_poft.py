"""PoFT as a method: closed forms, the gradient identity, end tokens, missing scores, and noise."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing import SFT
from truing.errors import RecordError, SettingsError
from truing.methods.training import losses
from truing.methods.training.encoding import encode
from truing.methods.training.likelihood_scores import score_likelihood
from truing.methods.training.losses import likelihood
from truing.methods.training.poft import PoFT, PoFTObjective
from truing.methods.training.policy import Scores

HOW = {"batch_size": 4, "learning_rate": 1e-3, "shuffle": False}
TALK = [
    {"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "on the mat"},
    {"role": "user", "content": "the bird?"}, {"role": "assistant", "content": "small"},
]  # fmt: skip


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "step" in row]


def own_scores(model, rows):
    found = model.logprobs([row["prompt"] for row in rows], [row["completion"] for row in rows], per_token=True)
    return [float(one[:-1].mean()) for one in found]


def scores_of(lengths, owners, aligned, characters=None, seed=0, pad=0):
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths) + pad)[None] < torch.tensor(lengths)[:, None]
    tokens = -torch.rand(mask.shape) * 3
    values = {"aligned": torch.tensor(aligned), "characters": torch.tensor(characters or [1.0] * len(aligned))}
    slots = [owners[:at].count(owner) for at, owner in enumerate(owners)]
    return Scores((tokens * mask).requires_grad_(), mask, torch.tensor(owners), torch.tensor(slots), values=values)


def gradient(objective, scores):
    value = sum(term.values.sum() for term in objective.terms(scores))
    return torch.autograd.grad(value, scores.tokens)[0]


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 0.0), (0.3, -2.0), (4.0, 1.0)])
def test_the_gradient_is_that_of_token_mean_cross_entropy_times_beta_tau(beta, gamma):
    scores = scores_of([4, 6, 3], [0, 1, 2], [-1.0, -2.0, -0.5])
    objective = PoFTObjective(beta, gamma)
    content = scores.mask.clone()
    content[torch.arange(3), scores.lengths - 1] = False
    r = (scores.tokens * content).sum(1) / content.sum(1)
    tau = torch.sigmoid(-(beta * (r - scores.values["aligned"]) + gamma)).detach()
    # The end token has no part in r, and the gradient of any other token.
    cross_entropy = -(scores.tokens * scores.mask).sum(1) / content.sum(1)
    (wanted,) = torch.autograd.grad((beta * tau * cross_entropy).sum(), scores.tokens)
    torch.testing.assert_close(gradient(objective, scores), wanted)
    shown = objective.metrics(scores)
    torch.testing.assert_close(shown["tau"], tau)
    torch.testing.assert_close(shown["scores/model"], r)
    (term,) = objective.terms(scores)
    assert term.unit == "row"
    torch.testing.assert_close(term.values, likelihood.poft(r, scores.values["aligned"], beta=beta, gamma=gamma))


def test_padding_changes_nothing_and_turns_are_one_text():
    objective = PoFTObjective()
    tight, loose = (scores_of([4, 4], [0, 1], [-1.0, -2.0], pad=pad, seed=3) for pad in (0, 3))
    with torch.no_grad():
        loose.tokens[:, :4] = tight.tokens
    torch.testing.assert_close(objective.score(tight), objective.score(loose))
    # Two answers of 3 and 5 content tokens weigh by their tokens.
    scores = scores_of([4, 6], [0, 0], [-1.0])
    content = torch.cat([scores.tokens[0, :3], scores.tokens[1, :5]])
    torch.testing.assert_close(objective.score(scores), content.mean()[None])
    by_character = PoFTObjective(normaliser="character")
    scores = scores_of([4, 6], [0, 0], [-1.0], characters=[20.0])
    torch.testing.assert_close(by_character.score(scores), content.sum()[None] / (20 * math.log(2)))


def test_at_the_models_own_scores_the_loss_is_log_two_and_tau_one_half(tmp_path):
    start, rows = toy.model(), toy.demonstrations(8)
    rows = [{**row, "scores": [score - 1.0, score + 1.0]} for row, score in zip(rows, own_scores(start, rows))]
    PoFT(**HOW, max_steps=1).align(start, rows, out=tmp_path / "given")
    PoFT(**HOW, max_steps=1, references=[start]).align(start, toy.demonstrations(8), out=tmp_path / "scored")
    for name in ("given", "scored"):
        first = log_of(tmp_path / name)[0]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["tau"] == pytest.approx(0.5, abs=1e-5)
        assert first["scores/model"] == pytest.approx(first["scores/aligned"], abs=1e-5)
    assert list((tmp_path / "scored" / "scores").glob("*.jsonl"))


def test_the_worked_scores_of_the_page():
    score, aligned = torch.tensor([-1.0]), likelihood.mean_aligned_score(torch.tensor([[-1.1, -0.9, -2.5]]))
    assert likelihood.poft(score, aligned).item() == pytest.approx(0.474077, abs=1e-6)
    assert likelihood.poft_weight(score, aligned).item() == pytest.approx(0.377541, abs=1e-6)


def test_certain_references_give_fine_tuning_and_hopeless_ones_nothing(tmp_path):
    rows = toy.demonstrations(4)  # as many tokens in each answer, so that a mean over rows is one over tokens
    plain, found = toy.model(), {}
    for name, score in (("certain", 60.0), ("hopeless", -60.0)):
        given = [{**row, "mean_aligned_score": score} for row in rows]
        found[name] = PoFT(**HOW, max_steps=2, schedule="constant", max_grad_norm=0).align(
            toy.model(), given, out=tmp_path / name
        )
    wanted = SFT(**HOW, max_steps=2, schedule="constant", max_grad_norm=0).align(toy.model(), rows)
    for name, value in toy.weights_of(wanted).items():
        torch.testing.assert_close(found["certain"].weights.state_dict()[name], value, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found["hopeless"].weights.state_dict()[name], plain.weights.state_dict()[name])
    assert log_of(tmp_path / "hopeless")[0]["grad_norm"] < 1e-12


def test_the_end_is_learned():
    start, rows = toy.model(), toy.demonstrations(8)

    def ends(model):
        found = model.logprobs([r["prompt"] for r in rows], [r["completion"] for r in rows], per_token=True)
        return np.mean([one[-1] for one in found])

    given = [{**row, "mean_aligned_score": 0.0} for row in rows]
    tuned = PoFT(**{**HOW, "batch_size": 8, "learning_rate": 3e-3}, epochs=12).align(start, given)
    assert ends(tuned) > ends(start) + 1


def test_turns_and_as_published():
    start = toy.model()
    row = {"prompt": TALK[:3], "completion": "small", "mean_aligned_score": -1.0}
    found = {}
    for name, how in (("all", {}), ("last", {"turns": "last"}), ("published", {"as_published": True})):
        objective = PoFT(**how).objective()
        rows, _, _ = encode(start, [row], objective, max_length=200, truncate="drop")
        (found[name],) = objective.arrange(rows)
    assert [len(found[name].answers) for name in ("all", "last", "published")] == [2, 1, 1]
    prompt, answer = start.encode_pair(TALK[:3], "small")
    assert found["last"].answers == ((prompt, answer),)
    assert found["published"].answers == (([], prompt + answer),)
    assert found["all"].values == {"aligned": -1.0, "characters": float(len("on the mat") + len("small"))}


def test_the_published_reward_is_over_all_tokens(tmp_path):
    start, rows = toy.model(), toy.demonstrations(4)
    given = [{**row, "mean_aligned_score": -2.0} for row in rows]
    PoFT(**HOW, max_steps=1, as_published=True).align(start, given, out=tmp_path)
    means = []
    for row in rows:
        prompt, answer = start.encode_pair(row["prompt"], row["completion"])
        with torch.no_grad():
            logits = start.weights(torch.tensor([prompt + answer])).logits[0, :-1].log_softmax(-1)
        means.append(logits.gather(1, torch.tensor((prompt + answer)[1:])[:, None]).mean().item())
    first = log_of(tmp_path)[0]
    assert first["scores/model"] == pytest.approx(np.mean(means), abs=1e-4)
    assert first["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-(np.array(means) + 2)))), abs=1e-4)


def test_rows_without_a_score_are_left_out_and_counted(caplog, tmp_path):
    rows = toy.demonstrations(8)
    given = [{**row, "scores": [-1.0, -2.0 if at % 4 else None]} for at, row in enumerate(rows)]
    with caplog.at_level(logging.WARNING, "truing"):
        some = PoFT(**HOW, max_steps=2).align(toy.model(), given, out=tmp_path)
    assert "2 of 8 records lack a score" in caplog.text
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["rows"] == 6
    kept = [row for row in given if None not in row["scores"]]
    wanted = PoFT(**HOW, max_steps=2).align(toy.model(), kept)
    for name, value in toy.weights_of(wanted).items():
        assert torch.equal(some.weights.state_dict()[name], value)


def test_bad_records_and_settings_are_clear():
    rows = toy.demonstrations(4)
    with pytest.raises(RecordError, match="give `references`"):
        PoFT(**PoFT.quick).clone(references=()).align(toy.model(), rows)
    with pytest.raises(RecordError, match=r"Record 3: .*numbers, or null"):
        PoFT().align(toy.model(), [*({**row, "scores": [-1.0]} for row in rows[:2]), {**rows[2], "scores": ["x"]}])
    for bad in (
        {"beta": 0.0}, {"gamma": float("inf")}, {"references": "sandbox/guide"}, {"references": [3]},
        {"normaliser": "word"}, {"turns": "first"}, {"truncate": "end"},
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=next(iter(bad))):
            PoFT(**bad).validate()
    PoFT(truncate="end", as_published=True).validate()


def test_overlap_of_a_reference_with_the_data_is_told(caplog):
    rows = toy.demonstrations(4)
    tuned = SFT(**SFT.quick).align(toy.model(), rows)
    with caplog.at_level(logging.WARNING, "truing"):
        PoFT(**{**PoFT.quick, "references": [tuned]}).align(toy.model(), rows)
    assert "was trained on these records (sft)" in caplog.text


def test_vanished_weights_are_warned_of():
    objective = PoFTObjective()
    assert "2.0%" in objective.verdict([{"tau": 0.01}, {"tau": 0.03}])[0]
    assert objective.verdict([{"tau": 0.05}, {"loss": 1.0}]) == []


def test_spoiled_rows_weigh_less_and_are_learned_less():
    """Half of the rows have a wrong answer; the reference knows the right ones."""
    rows = toy.preferences(16)
    good = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    mixed = [{**one, "completion": rows[at]["rejected"]} if at % 2 else one for at, one in enumerate(good)]
    reference = SFT(learning_rate=5e-3, batch_size=16, epochs=25).align(toy.model(seed=2), good)
    scored = score_likelihood([reference], mixed)
    values = [row["mean_aligned_score"] for row in scored]
    assert min(values[::2]) > max(values[1::2])
    how = {"learning_rate": 5e-3, "batch_size": 16, "epochs": 25}
    prompts = [row["prompt"] for row in rows[1::2]]

    def margin(model):
        right = model.logprobs(prompts, [row["chosen"] for row in rows[1::2]])
        return (right - model.logprobs(prompts, [row["rejected"] for row in rows[1::2]])).mean()

    by_poft, by_sft = PoFT(**how).align(toy.model(), scored), SFT(**how).align(toy.model(), mixed)
    assert margin(by_poft) > margin(by_sft) + 5


def test_the_toy_of_the_page():
    """A two-layer net on 600 points in 10 dimensions, 35 % of the labels flipped; aligned scores of the true rule."""
    torch.manual_seed(0)
    rule = torch.randn(10)
    points, held = torch.randn(600, 10), torch.randn(2000, 10)
    truth, held_truth = (points @ rule > 0).long(), (held @ rule > 0).long()
    flipped = torch.rand(600) < 0.35
    labels = torch.where(flipped, 1 - truth, truth)
    soft = torch.stack([-(points @ rule), points @ rule], 1).mul(2).log_softmax(1)
    aligned = soft.gather(1, labels[:, None])[:, 0]
    accuracy = {}
    for name in ("poft", "sft"):
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(300):
            score = net(points).log_softmax(1).gather(1, labels[:, None])[:, 0]
            loss = likelihood.poft(score, aligned).mean() if name == "poft" else -score.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        accuracy[name] = (net(held).argmax(1) == held_truth).float().mean().item()
    assert accuracy["poft"] > accuracy["sft"] + 0.1, accuracy


def test_losses_are_those_of_the_family():
    scores = scores_of([5], [0], [-1.0])
    sums = losses.sequence_logps(scores.tokens[:, :4], scores.mask[:, :4])
    torch.testing.assert_close(PoFTObjective().score(scores), sums / 4)
