"""RAFT: what each round selects and learns, its figures, what stops it, and resuming."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing import SFT
from truing.errors import RewardError, SettingsError, TrainingError
from truing.methods.loops.raft import RAFT, near, plateau, prompt_order
from truing.methods.loops.samples import Sample, distinct, figures_of, ranking_rows, scored
from truing.models import Model
from truing.records import read

HOW = {
    "k": 4, "rounds": 2, "prompts_per_round": 6, "max_new_tokens": 6, "drop_truncated": False, "shortest": 1,
    "learning_rate": 3e-3, "batch_size": 8, "epochs": 2,
}  # fmt: skip


def vowels(prompts, responses):
    return np.array([sum(letter in "aeiou" for letter in text) / (len(text) or 1) for text in responses])


def raft(**changes):
    return RAFT(**{"reward": vowels, **HOW, **changes})


def prompts(n=6):
    return [{"prompt": row["prompt"], "answers": ["grey"]} for row in toy.demonstrations(n)]


def figures(folder):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in found if row["event"] == "round"]


def equal(left, right):
    return all(
        torch.equal(a, b) for a, b in zip(toy.weights_of(left).values(), toy.weights_of(right).values(), strict=True)
    )


def test_the_reward_rises_and_every_round_tells_its_figures(tmp_path):
    start = toy.model()
    before = toy.weights_of(start)
    one = raft(rounds=3, prompts_per_round=24, learning_rate=1e-2)
    aligned = one.align(start, prompts(24), out=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in start.weights.state_dict().items())
    found = figures(tmp_path)
    assert [row["round"] for row in found] == [1, 2, 3]
    asked = [row["prompt"] for row in prompts(24)]
    after, ahead = (
        vowels(None, model.generate(asked, n=8, temperature=1.0, max_new_tokens=6, seed=99).texts)
        for model in (aligned, start)
    )
    assert after.mean() - ahead.mean() > 3 * math.hypot(after.std(), ahead.std()) / math.sqrt(len(after))
    assert found[0]["kl_per_token"] == 0
    assert all(row["kl_per_token"] > 2 * row["kl_error"] > 0 for row in found[1:])
    for row in found:
        assert row["selected_reward"] >= row["reward"]
        assert 0 < row["selected"] <= row["prompts"] == 24
        assert row["samples"] == 96
    assert [step.method for step in aligned.history] in (["raft"], ["RAFT"])
    assert aligned.history[0].settings["reward"] == {"function": "tests.methods.loops.test_raft:vowels"}
    for number in range(3):
        kept = read(tmp_path / f"round-{number}" / "samples.jsonl")
        assert kept.kind == "ranking"
        for row in kept:
            np.testing.assert_allclose(row["scores"], vowels(None, row["completions"]))
            assert row["scores"][row["chosen_index"]] == max(row["scores"]) >= np.mean(row["scores"])


def test_one_sample_is_sft_on_what_the_model_says(tmp_path):
    start = toy.model()
    aligned = raft(k=1, rounds=1).align(start, prompts(), out=tmp_path)
    own = [
        {"prompt": row["prompt"], "completion": row["completions"][0]}
        for row in read(tmp_path / "round-0" / "samples.jsonl")
    ]
    assert len(own) == 6
    how = {name: HOW[name] for name in ("learning_rate", "batch_size", "epochs")}
    assert equal(aligned, SFT(**how).align(start, own))
    (row,) = figures(tmp_path)
    assert row["reward"] == row["selected_reward"]
    asked = {one["prompt"] for one in own}
    answers = {p: start.generate(p, temperature=1.0, max_new_tokens=6, seed=0)[0].text for p in asked}
    assert all(answers[one["prompt"]] == one["completion"] for one in own)


def test_a_constant_for_each_prompt_changes_nothing():
    def moved(prompts, responses):
        return vowels(prompts, responses) + np.array([len(str(prompt)) for prompt in prompts])

    assert equal(
        raft(rounds=1).align(toy.model(), prompts()), raft(rounds=1, reward=moved).align(toy.model(), prompts())
    )


def test_a_large_kl_picks_what_the_start_likes_most_by_comparison(tmp_path):
    start, other = toy.model(), toy.model(seed=2)
    one = raft(kl=1e6)
    answers = other.generate([row["prompt"] for row in prompts()], n=4, temperature=1.0, max_new_tokens=6).grouped()
    groups = one._judged([row["prompt"] for row in prompts()], answers, vowels)
    _, chosen = one._sampled(1, start, other, [row["prompt"] for row in prompts()], vowels, None)
    plain = raft()._sampled(1, start, other, [row["prompt"] for row in prompts()], vowels, None)[1]
    assert [row["completion"] for row in chosen] != [row["completion"] for row in plain]
    drawn = other.generate(
        [row["prompt"] for row in prompts()], n=4, temperature=1.0, max_new_tokens=6, seed=1
    ).grouped()
    for row, group in zip(chosen, drawn):
        cut = [slice(None) if g.finish_reason == "stop" else slice(None, -1) for g in group]
        ratio = [
            sum(
                float(m.logprobs(row["prompt"], [g.text], per_token=True)[0][c].sum()) * s
                for m, s in ((other, 1), (start, -1))
            )
            for g, c in zip(group, cut)
        ]
        assert row["completion"] == group[int(np.argmin(ratio))].text
    assert len(groups) == 6


def test_global_ranking_takes_one_sample_of_each_prompt(tmp_path):
    raft(ranking="global", top_fraction=0.5, rounds=1).align(toy.model(), prompts(), out=tmp_path)
    (row,) = figures(tmp_path)
    assert (row["samples"], row["selected"]) == (6, 3)
    scores = sorted(one["scores"][0] for one in read(tmp_path / "round-0" / "samples.jsonl"))
    assert row["selected_reward"] == pytest.approx(np.mean(scores[3:]))


def test_discards_are_counted_and_never_learned(tmp_path):
    def reward(prompts, responses):
        return np.array([math.nan if "a" in text else float(len(text)) for text in responses])

    raft(reward=reward, forbidden=["e"], shortest=3, rounds=1, k=8).align(toy.model(), prompts(), out=tmp_path)
    (row,) = figures(tmp_path)
    assert set(row["discarded"]) >= {"no_reward", "forbidden"}
    learned = [one["completion"] for one in read(tmp_path / "round-0" / "chosen.jsonl")]
    assert len(learned) == row["selected"] > 0
    assert all(len(text) >= 3 and "a" not in text and "e" not in text for text in learned)
    kept = [text for one in read(tmp_path / "round-0" / "samples.jsonl") for text in one["completions"]]
    assert 0 < len(kept) < 48, "what has no reward is no ranking"
    with pytest.raises(TrainingError, match="No response was kept in the first round: of 24 samples 24 cut off"):
        raft(drop_truncated=True, max_new_tokens=2).align(toy.model(), prompts())
    with pytest.raises(TrainingError, match="no number"):
        raft(reward=lambda p, r: np.full(len(r), math.nan)).align(toy.model(), prompts())


def test_a_reward_is_checked():
    assert np.isnan(scored(lambda p, r: [1.0, math.nan], ["a", "b"], ["x", "y"])).tolist() == [False, True]
    assert scored(lambda p, r: torch.tensor([1.0, math.nan]), ["a", "b"], ["x", "y"])[0] == 1.0
    assert scored(lambda p, r: [1, 2], ["a", "b"], ["x", "y"]).tolist() == [1.0, 2.0]
    for bad in (lambda p, r: [1.0], lambda p, r: [1.0, math.inf], lambda p, r: ["x", "y"], lambda p, r: [[1], [2, 3]]):
        with pytest.raises(RewardError, match="<lambda>"):
            scored(bad, ["a", "b"], ["x", "y"])
    with pytest.raises(SettingsError, match="no reward"):
        raft(reward="no_such").align(toy.model(), prompts())


def test_equal_rewards_teach_nothing_where_a_gap_is_asked_for(tmp_path):
    def first_word(prompts, responses):
        return np.array([float("stone" in str(prompt)) * len(text) for prompt, text in zip(prompts, responses)])

    raft(reward=first_word, min_gap=0.5, rounds=1).align(toy.model(), prompts(), out=tmp_path)
    stones = sum("stone" in row["prompt"] for row in prompts())
    assert figures(tmp_path)[0]["selected"] == stones == 1
    assert near([1.0, 1.2], 0.5)
    assert not near([1.0, 1.5], 0.5)
    assert not near([], 0.0)


def test_another_model_may_respond_and_the_figures_stay_those_of_the_model(tmp_path):
    start, teacher = toy.model(), toy.model("qwen3", seed=5)
    raft(sampler=teacher, rounds=1).align(start, prompts(), out=tmp_path / "off")
    raft(rounds=1).align(start, prompts(), out=tmp_path / "on")
    off, on = figures(tmp_path / "off")[0], figures(tmp_path / "on")[0]
    assert (off["reward"], off["length"]) == (on["reward"], on["length"])
    asked = [row["prompt"] for row in read(tmp_path / "off" / "round-0" / "samples.jsonl")]
    theirs = teacher.generate(asked, n=4, temperature=1.0, max_new_tokens=6, seed=0).grouped()
    for row, group in zip(read(tmp_path / "off" / "round-0" / "samples.jsonl"), theirs):
        assert row["completions"] == [one.text for one in group]


def test_it_stops_where_the_reward_stays(tmp_path):
    assert not plateau([0.1, 0.2], 2)
    assert plateau([0.5, 0.2, 0.3], 2)
    assert not plateau([0.5, 0.2, 0.6], 2)
    assert plateau([0.5, 0.2, 0.6], 2, min_delta=0.2)
    assert not plateau([0.5] * 9, None)
    calls = []

    def flat(prompts, responses):
        calls.append(len(responses))
        return np.zeros(len(responses))

    raft(reward=flat, rounds=5, patience=1, max_steps=1).align(toy.model(), prompts(), out=tmp_path)
    assert calls == [24, 24]
    assert not (tmp_path / "round-1" / "checkpoints").exists()


def test_prompts_come_again_only_after_all_were_asked():
    order = prompt_order(5, 12, seed=1)
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5))
    assert order == prompt_order(5, 12, seed=1) != prompt_order(5, 12, seed=2)


@pytest.mark.parametrize("adapter", [None, {"r": 2}])
def test_a_killed_loop_repeats_no_finished_round(adapter, tmp_path, monkeypatch):
    one, start = raft(rounds=2, adapter=adapter, max_steps=1), toy.model()
    whole = one.align(start, prompts(), out=tmp_path / "whole")
    plain, calls = Model.generate, []

    def dying(self, *args, **how):
        calls.append(how["seed"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, *args, **how)

    monkeypatch.setattr(Model, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        one.align(start, prompts(), out=tmp_path / "killed")
    (tmp_path / "killed" / "round-1").mkdir(exist_ok=True)
    (tmp_path / "killed" / "round-1" / "samples.jsonl").write_text("cut in the mid")
    resumed = one.align(start, prompts(), out=tmp_path / "killed")
    assert len(calls) == 3
    assert equal(whole, resumed)
    assert figures(tmp_path / "whole") == figures(tmp_path / "killed")
    assert equal(whole, one.align(start, prompts(), out=tmp_path / "killed"))
    assert len(calls) == 3


def test_a_16_bit_model_comes_back_in_16_bits():
    start = toy.model()
    half = start.with_weights(toy.model().weights.to(torch.bfloat16))
    aligned = raft(rounds=2, max_steps=1).align(half, prompts(3))
    assert {p.dtype for p in aligned.weights.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.weights.parameters()} == {torch.bfloat16}


def test_figures_and_rows_of_samples():
    groups = [
        [Sample("a b", True, 1.0), Sample("a b", True, math.nan, "no_reward"), Sample("c d e", False, 3.0)],
        [Sample("", True, 0.0, "short"), Sample("x", True, 2.0), Sample("x", True, 2.0)],
    ]
    found = figures_of(groups, [group[:1] for group in groups], [2, None])
    assert (found["reward"], found["selected"], found["selected_reward"]) == (0.5, 1, 3.0)
    assert found["repeated"] == pytest.approx(2 / 6)
    assert found["discarded"] == {"no_reward": 1, "short": 1}
    assert (found["length"], found["selected_length"]) == (1.0, 3.0)
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) == 0
    rows = ranking_rows(["p", "q"], groups, [2, None])
    assert rows[0]["completions"] == ["a b", "c d e"]
    assert rows[0]["chosen_index"] == 1
    assert rows[1]["chosen_index"] is None
    assert rows[1]["discarded"] == ["short", "", ""]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"k": 0}, "k is"), ({"rounds": 1.5}, "rounds"), ({"temperature": 0}, "temperature"),
        ({"ranking": "best"}, "ranking"), ({"top_fraction": 0}, "top_fraction"), ({"kl": -1}, "kl is"),
        ({"forbidden": "#"}, "forbidden"), ({"role_mark": ""}, "role_mark"), ({"sampler": "x"}, "sampler"),
        ({"patience": 0}, "patience"), ({"reward": 3}, "reward"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(bad, why):
    with pytest.raises(SettingsError, match=why):
        raft(**bad).align(toy.model(), prompts(2))
