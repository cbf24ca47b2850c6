"""D2O: its objective at known points, own samples and their drops, rounds with a fixed reference, resuming."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.methods.training import toy
from truing import DPO
from truing.errors import ModelError, RecordError, RunError, SettingsError, TrainingError
from truing.methods.training import self_samples
from truing.methods.training.d2o import D2O, D2OObjective, own_samples
from truing.methods.training.encoding import Row
from truing.methods.training.policy import Scores
from truing.methods.training.self_samples import SelfSampler, instructed, merged
from truing.models import Model

QUICK = {"learning_rate": 1e-3, "batch_size": 4, "warmup_ratio": 0.0, "online_after": None}
SAMPLING = {"max_new_tokens": 6, "drop_truncated": False}


def rows(n=6, samples=True):
    made = []
    for at, row in enumerate(toy.preferences(n)):
        own = [row["chosen"], "the cat", "small and red", "of course"][: 1 + at % 4]
        made.append({"prompt": row["prompt"], "rejected": [row["rejected"], "red"][: 1 + at % 2]})
        if samples:
            made[-1]["self_responses"] = own
    return made


def log_of(folder):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in found if "step" in row]


def scores(values, negative, owner, slot, reference=None):
    tokens = torch.tensor(values)[:, None].requires_grad_()
    return tokens, Scores(
        tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor(owner), torch.tensor(slot),
        reference=torch.tensor(values if reference is None else reference),
        values={"negative": torch.tensor(negative)},
    )  # fmt: skip


def ragged(reference=None):
    """Two rows, slot by slot: own, own, bad and own, bad, bad."""
    return scores(
        [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2],
        reference,
    )  # fmt: skip


def test_at_the_reference_the_loss_is_log_two_and_gradients_are_known():
    tokens, found = ragged()
    (term,) = D2OObjective(alpha=0.3, beta=0.2).terms(found)
    assert term.unit == "negative"
    assert term.values.tolist() == pytest.approx([math.log(2)] * 3)
    term.values.sum().backward()
    # The second row has one sample and two bad answers, so its sample is pulled twice.
    assert tokens.grad[:, 0].tolist() == pytest.approx([-0.05, -0.2, -0.05, 0.15, 0.15, 0.15])


def test_the_page_values_and_the_instance_variant():
    own = ([1.0, -1.0, -1.0, -2.0], [0.0, 0.0, 0.0, 1.0], [0] * 4, [0, 1, 2, 3], [0.0] * 4)
    (term,) = D2OObjective().terms(scores(*own)[1])
    assert term.values.item() == pytest.approx(0.613282, abs=1e-6)
    (each,) = D2OObjective(instance_level=True).terms(scores(*own)[1])
    known = [math.log1p(math.exp(-(0.1 * ratio + 0.2))) for ratio in (1, -1, -1)]
    assert each.values.item() == pytest.approx(sum(known) / 3, abs=1e-6)
    assert term.values.item() < each.values.item()
    metrics = D2OObjective().metrics(scores(*own)[1])
    assert metrics["rewards/margins"].item() == pytest.approx(1 / 6)
    assert metrics["weights"].item() == pytest.approx(1 / (1 + math.exp(1 / 6)))
    assert metrics["logratio/self"].tolist() == [1.0, -1.0, -1.0]
    assert (metrics["logratio/negative"].item(), metrics["samples"].item()) == (-2.0, 3.0)


def test_verdict_warns_of_what_is_lost():
    one = D2OObjective()
    good = {"weights": 0.3, "logps/negative": -9.0, "logratio/self": 0.2}
    assert one.verdict([good]) == []
    assert "minus infinity" in one.verdict([{**good, "logps/negative": -math.inf}])[0]
    assert "weight of the gradients" in one.verdict([{**good, "weights": 1e-4}])[0]
    assert "away from itself" in one.verdict([{**good, "logratio/self": -5.0}])[0]


def test_one_sample_with_equal_weights_is_dpo():
    pairs = toy.preferences(8)
    bad = [{"prompt": r["prompt"], "rejected": [r["rejected"]], "self_responses": [r["chosen"]]} for r in pairs]
    how = {"learning_rate": 1e-3, "batch_size": 4, "max_steps": 3}
    ours = D2O(alpha=0.2, beta=0.2, **how).align(toy.model(), bad)
    theirs = DPO(beta=0.2, **how).align(toy.model(), pairs)
    for left, right in zip(toy.weights_of(ours).values(), toy.weights_of(theirs).values(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_it_learns_and_batches_of_any_size_give_the_same_step(tmp_path):
    start = toy.model()
    aligned = D2O(**QUICK, epochs=6, alpha=1.0, beta=1.0).align(start, rows(), out=tmp_path / "whole")
    first, last = log_of(tmp_path / "whole")[0], log_of(tmp_path / "whole")[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert last["rewards/margins"] > 0.5
    assert last["logratio/negative"] < -0.5
    assert last["weights"] < first["weights"]
    assert len(aligned.history) == 1
    steps = []
    for size, times in ((6, 1), (2, 3)):
        how = {**QUICK, "batch_size": size, "gradient_accumulation": times, "max_steps": 1, "shuffle": False}
        D2O(**how, reference_minus=toy.model(seed=1)).align(start, rows(), out=tmp_path / str(size))
        steps.append(log_of(tmp_path / str(size))[0])
    assert steps[0]["loss"] == pytest.approx(steps[1]["loss"], abs=1e-5)
    assert steps[0]["grad_norm"] == pytest.approx(steps[1]["grad_norm"], rel=1e-4)


def test_minus_scores_own_samples_and_plus_scores_bad_answers(tmp_path):
    start, other, data = toy.model(), toy.model(seed=3), rows(4)
    asked = [(r["prompt"], text, kind) for r in data for kind in ("self_responses", "rejected") for text in r[kind]]
    gap = start.logprobs([a[0] for a in asked], [a[1] for a in asked]) - other.logprobs(
        [a[0] for a in asked], [a[1] for a in asked]
    )
    for name, kind, ratio in (
        ("reference_minus", "self_responses", "logratio/self"),
        ("reference_plus", "rejected", "logratio/negative"),
    ):
        how = {**QUICK, "max_steps": 1, name: other}
        D2O(**how).align(start, data, out=tmp_path / name)
        row = log_of(tmp_path / name)[0]
        mean = sum(g for g, one in zip(gap, asked) if one[2] == kind) / sum(one[2] == kind for one in asked)
        assert row[ratio] == pytest.approx(mean, abs=1e-3)
        assert row["logratio/negative" if name == "reference_minus" else "logratio/self"] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ModelError, match="reference_plus"):
        D2O(reference_plus=Model(other.weights, toy.tiny.tokenizer(size=300), source="x")).align(start, data)


def test_without_beta_nothing_is_sampled_and_the_loss_is_that_of_npo(tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "generate", lambda *_, **__: pytest.fail("sampled"))
    start, other = toy.model(), toy.model(seed=3)
    data = rows(4, samples=False)
    D2O(**QUICK, max_steps=1, beta=0.0, alpha=0.5, reference_plus=other).align(start, data, out=tmp_path)
    asked = [(r["prompt"], text) for r in data for text in r["rejected"]]
    ratio = torch.tensor(
        start.logprobs([a[0] for a in asked], [a[1] for a in asked])
        - other.logprobs([a[0] for a in asked], [a[1] for a in asked])
    )
    known = torch.nn.functional.softplus(0.5 * ratio).mean().item()
    assert log_of(tmp_path)[0]["loss"] == pytest.approx(known, rel=1e-4)


def test_fewer_samples_a_step_pass_each_sample_once():
    own = [([1], [at, 9]) for at in range(2, 9)]
    row = Row(5, (*own, ([1], [20, 9]), ([1], [21, 9])), {"negative": [0.0] * 7 + [1.0] * 2})
    parts = D2OObjective(per_step=3).arrange([row])
    assert [len(part.answers) - 2 for part in parts] == [3, 2, 2]
    assert [answer for part in parts for answer in part.answers[:-2]] == own
    assert all(part.answers[-2:] == row.answers[-2:] and part.index == 5 for part in parts)
    assert all(sum(part.values["negative"]) == 2 for part in parts)
    assert D2O(per_step=2, epochs=1, batch_size=2)._steps([*map(dict, rows(4))]) == 3  # 1, 1, 2 and 2 rows of 1 to 4


def test_samples_are_asked_with_instructions_that_leave_no_trace(monkeypatch):
    seen = []
    plain = Model.generate

    def watch(self, prompts, **how):
        seen.extend(prompts)
        return plain(self, prompts, **how)

    monkeypatch.setattr(Model, "generate", watch)
    data = rows(3, samples=False)
    found = SelfSampler(k=4, **SAMPLING).build(data, toy.model())
    assert len(seen) == 12
    assert {len({str(one[0]) for one in seen[at : at + 4]}) for at in (0, 4, 8)} == {4}
    assert all(one[0]["role"] == "system" and one[0]["content"] in self_samples.INSTRUCTIONS for one in seen)
    assert [one["prompt"] for one in found] == [one["prompt"] for one in data]
    assert all(own_samples(one) for one in found)
    again = SelfSampler(k=4, **SAMPLING).build(data, toy.model())
    assert [own_samples(one) for one in again] == [own_samples(one) for one in found]
    seen.clear()
    SelfSampler(k=4, instructions=[], **SAMPLING).build(data, toy.model())
    assert seen == [[{"role": "user", "content": one["prompt"]}] for one in data]
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the bird?"}]
    assert instructed(system, "Be kind.")[0]["content"] == "Be kind.\n\nBe brief."
    assert system[0]["content"] == "Be brief."


def drawing(texts):
    """Gives these samples, text and whether cut off, for every prompt."""
    return lambda self, model, prompts: [list(texts) for _ in prompts]


def test_what_is_dropped_is_counted_and_an_equal_bad_answer_is_told_of(monkeypatch, caplog):
    texts = [("fine", False), (" fine ", False), ("", False), ("  ", False), ("cut", True), ("red", False)]
    monkeypatch.setattr(SelfSampler, "_sample", drawing(texts))
    data = [{"prompt": "the bird?", "rejected": ["red", "grey"]}]
    found = SelfSampler(k=6).build(data, toy.model())
    assert own_samples(found[0]) == ["fine", "red"]
    assert found.notes == {
        "sampled": 6, "repeated": 1, "empty": 2, "cut off": 1, "equal to a rejected answer": 1, "kept": 2,
        "records without samples": 0,
    }  # fmt: skip
    assert "1 of 6 own samples are equal to a rejected answer; they stay" in caplog.text
    assert "2 empty, 1 cut off, 1 repeated" in caplog.text
    assert own_samples(SelfSampler(k=6, drop_rejected=True).build(data, toy.model())[0]) == ["fine"]
    assert own_samples(SelfSampler(k=6, drop_truncated=False).build(data, toy.model())[0]) == ["fine", "cut", "red"]
    monkeypatch.setattr(SelfSampler, "_sample", drawing([("", False)]))
    caplog.clear()
    with pytest.raises(TrainingError, match="No row is left"):
        D2O(**QUICK).align(toy.model(), data)
    assert "1 of 1 records have no own sample" in caplog.text


def test_a_killed_sampling_repeats_at_most_one_call(tmp_path, monkeypatch):
    monkeypatch.setattr(self_samples, "_CHUNK", 2)
    data = rows(6, samples=False)
    whole = SelfSampler(k=2, **SAMPLING).build(data, toy.model())
    plain, calls = SelfSampler._sample, []

    def dying(self, model, prompts):
        calls.append(list(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, model, prompts)

    monkeypatch.setattr(SelfSampler, "_sample", dying)
    with pytest.raises(KeyboardInterrupt):
        SelfSampler(k=2, **SAMPLING).build(data, toy.model(), out=tmp_path)
    with (tmp_path / "self-samples.part.jsonl").open("a") as file:
        file.write('\n{"prompt": "cut in the mi')
    resumed = SelfSampler(k=2, **SAMPLING).build(data, toy.model(), out=tmp_path)
    assert calls[3:] == [calls[2]]
    assert [dict(one) for one in resumed] == [dict(one) for one in whole]
    assert {place.name for place in tmp_path.iterdir()} == {"self-samples.json", "self-samples.jsonl"}
    assert len(SelfSampler(k=2, **SAMPLING).build(data, toy.model(), out=tmp_path)) == 6
    assert len(calls) == 4
    with pytest.raises(RunError, match="other settings"):
        SelfSampler(k=3, **SAMPLING).build(data, toy.model(), out=tmp_path)
    with pytest.raises(RunError, match="other records"):
        SelfSampler(k=2, **SAMPLING).build(data[:5], toy.model(), out=tmp_path)


def test_new_and_old_samples_take_turns():
    assert merged(["a", "b"], ["c", "a ", "d"], 3) == ["a", "c", "b"]
    assert merged([], ["c", "d"], 5) == ["c", "d"]
    assert merged(["a"], [], 5) == ["a"]
    assert merged(["x", "y", "z"], ["1", "2", "3"], 4) == ["x", "1", "y", "2"]


ONLINE = {
    **QUICK, **SAMPLING, "learning_rate": 3e-3, "k": 3, "max_steps": 6, "online_after": 2, "resample_every": 2,
    "batch_size": 2,
}  # fmt: skip


def test_online_rounds_sample_the_policy_and_keep_the_reference(tmp_path, monkeypatch):
    start, data = toy.model(), rows(6, samples=False)
    sampled = []
    build = SelfSampler._build

    def watch(self, source, model, out):
        sampled.append((len(source), torch.equal(model.weights.lm_head.weight, start.weights.lm_head.weight)))
        return build(self, source, model, out)

    monkeypatch.setattr(SelfSampler, "_build", watch)
    aligned = D2O(**ONLINE).align(start, data, out=tmp_path)
    assert sampled == [(6, True), (4, False), (4, False)]
    logged = log_of(tmp_path)
    assert [(row["step"], row["steps"]) for row in logged] == [(at, 6) for at in range(1, 7)]
    assert len(aligned.history) == 1
    assert aligned.history[0].settings["online_after"] == 2
    # A round that began with its own policy as the reference would begin at 0.
    assert logged[2]["logratio/negative"] < -0.01
    rates = [row["learning_rate"] for row in logged]
    assert rates[0] == pytest.approx(3e-3 * 5 / 6)
    assert rates[5] == pytest.approx(3e-3 / 6)
    again = D2O(**ONLINE).align(start, data)
    assert all(torch.equal(a, b) for a, b in zip(toy.weights_of(aligned).values(), toy.weights_of(again).values()))


@pytest.mark.parametrize("adapter", [None, {"r": 2}])
def test_a_killed_online_training_repeats_no_finished_round(adapter, tmp_path, monkeypatch):
    start, data, one = toy.model(), rows(6, samples=False), D2O(**{**ONLINE, "max_steps": 4}, adapter=adapter)
    whole = one.align(start, data, out=tmp_path / "whole")
    build, calls = SelfSampler._sample, []

    def dying(self, model, prompts):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return build(self, model, prompts)

    monkeypatch.setattr(SelfSampler, "_sample", dying)
    with pytest.raises(KeyboardInterrupt):
        one.align(start, data, out=tmp_path / "killed")
    resumed = one.align(start, data, out=tmp_path / "killed")
    assert len(calls) == 3
    for left, right in zip(whole.weights.state_dict().values(), resumed.weights.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    strip = ("seconds", "tokens_per_second")
    logs = [
        [{k: v for k, v in r.items() if k not in strip} for r in log_of(tmp_path / name)]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    assert len(one.align(start, data, out=tmp_path / "killed").history) == 1
    assert len(calls) == 3
    if adapter is None:
        kept = {place.parent.parent.name for place in (tmp_path / "whole").glob("round-*/checkpoints/finished")}
        assert kept == {"round-1"}, "only the newest round keeps its weights"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"alpha": 0}, "alpha"), ({"beta": -1}, "beta"), ({"k": 0}, "k is"), ({"temperature": 0}, "temperature"),
        ({"online_after": 0}, "online_after"), ({"resample_every": None}, "resample_every"),
        ({"per_step": 0}, "per_step"),
        ({"instructions": "Be kind."}, "instructions"), ({"instance_level": True, "beta": 0}, "instance_level"),
        ({"tokens_per_batch": 99}, "max_steps"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(bad, why):
    with pytest.raises(SettingsError, match=why):
        D2O(**bad).align(toy.model(), rows(2))


def test_samples_of_ones_own_must_be_texts():
    data = rows(2)
    data[1]["self_responses"] = "one text"
    with pytest.raises(RecordError, match="self_responses"):
        D2O(**QUICK).align(toy.model(), data)
