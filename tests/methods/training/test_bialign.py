from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import torch

from tests import tiny
from tests.methods.training import toy
from truing.errors import ModelError, RecordError, SettingsError
from truing.methods.training.bialign import BiAlign, BiAlignObjective
from truing.methods.training.demonstrations import conversation, kshot, preference_consistency, samples_of, subsets
from truing.methods.training.encoding import encode
from truing.methods.training.losses import ranking
from truing.models import Model

PLAIN = {"learning_rate": 1e-3, "schedule": "constant", "warmup_ratio": 0.0, "shuffle": False}


def tasks(n=12):
    colours = [{"prompt": f"colour of {thing}?", "completion": "red", "task": "colour"} for thing in toy.THINGS]
    sizes = [{"prompt": f"size of {thing}?", "completion": "small", "task": "size"} for thing in toy.THINGS]
    return (colours + sizes)[:n] if n < 16 else colours + sizes


def logged(method, model, rows, folder):
    aligned = method.align(model, rows, out=folder)
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return aligned, [row for row in found if "step" in row]


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_groups_hold_one_task_and_each_record_once(seed):
    made = kshot(tasks(16), shots=(2, 4), seed=seed)
    assert made == kshot(tasks(16), shots=(2, 4), seed=seed)
    seen = Counter()
    for sample in made:
        shown = sample["demonstrations"]
        assert 2 <= len(shown) <= 4
        everything = [*(one["prompt"] for one in shown), sample["prompt"]]
        assert len(set(everything)) == len(everything)
        assert {prompt.split()[0] for prompt in everything} == {sample["task"]}
        seen.update(everything)
    assert set(seen) == {row["prompt"] for row in tasks(16)}
    # Only the last group of a task takes what it lacks from others.
    assert sum(count - 1 for count in seen.values()) <= 2 * 4


def test_more_samples_are_more_passes():
    made = kshot(tasks(16), shots=(4, 7), samples=40, seed=1)
    assert len(made) == 40
    assert {len(one["demonstrations"]) for one in made} == {4, 5, 6, 7}
    assert kshot(tasks(16), samples=3, seed=1) != kshot(tasks(16), samples=3, seed=2)


def test_a_task_that_is_too_small_is_named():
    with pytest.raises(RecordError, match=r"`colour` has 3 records.*4 demonstrations and a query"):
        kshot(tasks(3))
    with pytest.raises(RecordError, match="Without a column `task`"):
        kshot([{"prompt": "a", "completion": "b"}])


def test_subsets_are_distinct_ordered_and_uniform_over_the_power_set():
    rng, seen = random.Random(0), Counter()
    for _ in range(2000):
        found = subsets(3, 4, rng)
        assert len(set(found)) == 4
        assert all(list(one) == sorted(set(one)) for one in found)
        seen.update(found)
    assert len(seen) == 8
    assert () in seen
    # Each of the 8 stands in half of the draws.
    assert all(abs(count - 1000) < 5 * (2000 / 4) ** 0.5 for count in seen.values())
    assert sorted(subsets(2, 4, rng)) == [(), (0,), (0, 1), (1,)]
    with pytest.raises(RecordError, match="2 demonstrations have 4 subsets"):
        subsets(2, 5, rng)
    assert len(set(subsets(70, 5, rng))) == 5


def test_a_conversation_has_demonstrations_as_turns():
    shown = [{"prompt": "a?", "completion": "b"}, {"prompt": [{"role": "user", "content": "c?"}], "completion": "d"}]
    assert [(m["role"], m["content"]) for m in conversation(shown, "e?")] == [
        ("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d"), ("user", "e?"),
    ]  # fmt: skip
    with pytest.raises(RecordError, match="system message"):
        conversation(shown, [{"role": "system", "content": "s"}, {"role": "user", "content": "e?"}])
    with pytest.raises(RecordError, match="prompt` and `completion"):
        conversation([{"x": "a"}], "e?")


# --- the objective ----------------------------------------------------------------------------------------------------


def test_rows_are_the_whole_text_and_the_target_after_each_subset():
    model, objective = toy.model(), BiAlignObjective(1.0, 1.0)
    rows = samples_of(tasks(8), n_subsets=4, shots=(2, 3))
    encoded = objective.arrange(encode(model, rows, objective, max_length=256, truncate="drop")[0])
    for row, sample in zip(encoded, rows):
        whole = model.encode_prompt(conversation(sample["demonstrations"], sample["prompt"]))
        target = model.encode_pair("x", sample["completion"])[1]
        start, rest = row.answers[0]
        assert len(start) == 1
        assert start + rest == whole + target
        for (prompt, answer), subset in zip(row.answers[1:], sample["subsets"], strict=True):
            shown = [sample["demonstrations"][at] for at in subset]
            assert prompt == model.encode_prompt(conversation(shown, sample["prompt"]))
            assert answer == target
    without_kl = BiAlignObjective(0.0, 1.0).arrange(encode(model, rows, objective, max_length=256, truncate="drop")[0])
    assert [row.answers for row in without_kl] == [row.answers[1:] for row in encoded]
    without_ranks = BiAlignObjective(1.0, 0.0)
    plain = without_ranks.arrange(encode(model, rows, objective, max_length=256, truncate="drop")[0])
    assert [row.answers for row in plain] == [row.answers[:1] for row in encoded]


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_the_first_loss_is_the_formula_on_whole_score_tables(reduction, tmp_path):
    student, teacher, data = toy.model(), toy.model(seed=5), tasks(8)
    method = BiAlign(
        teacher=teacher, shots=(2, 3), rank_weight=0.7, kl_weight=0.4, kl_reduction=reduction, max_steps=1,
        batch_size=16, seed=3, **PLAIN,
    )  # fmt: skip
    _, logs = logged(method, student, data, tmp_path)
    rows = samples_of(data, n_subsets=4, shots=(2, 3), seed=3)
    divergence, tokens, scores = 0.0, 0, {"student": [], "teacher": []}
    for row in rows:
        ids = torch.tensor([
            student.encode_prompt(conversation(row["demonstrations"], row["prompt"]))
            + student.encode_pair("x", row["completion"])[1]
        ])  # fmt: skip
        here, there = (model.weights(ids).logits[0, :-1].log_softmax(-1) for model in (student, teacher))
        divergence += (there.exp() * (there - here)).sum().item()
        tokens += ids.shape[1] - 1
        prompts = [
            conversation([row["demonstrations"][at] for at in subset], row["prompt"]) for subset in row["subsets"]
        ]
        for name, model in (("student", student), ("teacher", teacher)):
            scores[name].append(model.logprobs(prompts, [row["completion"]] * 4))
    table = {name: torch.tensor([list(one) for one in found]) for name, found in scores.items()}
    rank = ranking.bialign_ranking(table["student"], table["teacher"]).mean().item()
    kl = divergence / (tokens if reduction == "token" else len(rows))
    assert logs[0]["loss"] == pytest.approx(0.4 * kl + 0.7 * rank, rel=1e-4)
    assert logs[0]["ranking_loss"] == pytest.approx(rank, rel=1e-4)
    assert logs[0]["score_range"] == pytest.approx(ranking.score_range(table["student"]).mean().item(), rel=1e-4)
    best = (table["student"].argmax(1) == table["teacher"].argmax(1)).float().mean().item()
    assert logs[0]["consistency/best"] == pytest.approx(best)


def test_a_teacher_equal_to_the_student_leaves_the_ranking_only(tmp_path):
    model = toy.model()
    _, logs = logged(BiAlign(teacher=model, shots=(2, 3), max_steps=1, **PLAIN), model, tasks(8), tmp_path)
    assert logs[0]["divergence_per_token"] == pytest.approx(0, abs=1e-6)
    assert logs[0]["consistency/best"] == logs[0]["consistency/worst"] == 1
    # In the right order, and not equally spaced.
    assert 0 < logs[0]["ranking_loss"] < 2


def test_without_ranks_it_is_distillation_of_the_whole_text(tmp_path):
    student, teacher = toy.model(), toy.model(seed=5)
    method = BiAlign(teacher=teacher, shots=(2, 3), rank_weight=0.0, max_steps=2, **PLAIN)
    aligned, logs = logged(method, student, tasks(8), tmp_path)
    assert "ranking_loss" not in logs[0]
    assert logs[0]["loss"] == pytest.approx(logs[0]["loss"], rel=1e-6)
    both = BiAlign(teacher=teacher, shots=(2, 3), rank_weight=1e-9, max_steps=2, **PLAIN)
    other, _ = logged(both, student, tasks(8), tmp_path / "both")
    for name, value in aligned.weights.state_dict().items():
        torch.testing.assert_close(other.weights.state_dict()[name], value, rtol=0, atol=2e-4)


def test_the_student_comes_to_prefer_what_its_teacher_prefers():
    student, teacher, data = toy.model("qwen3", seed=3), toy.model(seed=5), tasks(16)
    samples = kshot(data, shots=(2, 3), samples=8, seed=1)
    aligned = BiAlign(
        teacher=teacher, max_steps=30, batch_size=8, seed=1, learning_rate=5e-3, kl_weight=0.1
    ).align(student, samples)  # fmt: skip
    # The subsets that were trained on: training draws them with its seed.
    before, after = (preference_consistency(one, teacher, samples, seed=1) for one in (student, aligned))
    assert after.pairs.value > before.pairs.value + 0.2
    assert after.pairs.low > 0.5
    itself = preference_consistency(teacher, teacher, samples)
    assert itself.best.value == itself.worst.value == itself.pairs.value == 1


# --- vocabularies, bad input ------------------------------------------------------------------------------------------


def test_across_vocabularies_only_the_ranking_is_learned(tmp_path):
    strange = Model(tiny.network("gpt_neox", vocabulary=300), tiny.tokenizer(size=300), source="strange")
    with pytest.raises(ModelError, match=r"different vocabularies.*kl_weight=0"):
        BiAlign(teacher=strange, shots=(2, 3)).align(toy.model(), tasks(8))
    method = BiAlign(teacher=strange, shots=(2, 3), kl_weight=0.0, max_steps=2, batch_size=2, seed=4, **PLAIN)
    _, logs = logged(method, toy.model(), tasks(8), tmp_path)
    assert set(logs[0]) >= {"ranking_loss", "score_range"}
    assert "divergence_per_token" not in logs[0]
    # The teacher read the samples with its own tokenizer.
    rows = samples_of(tasks(8), n_subsets=4, shots=(2, 3), seed=4)
    assert strange.encode_prompt(rows[0]["prompt"]) != toy.model().encode_prompt(rows[0]["prompt"])
    scored = method._scored(rows)
    prompts = [
        conversation([rows[0]["demonstrations"][at] for at in one], rows[0]["prompt"]) for one in rows[0]["subsets"]
    ]
    expected = strange.logprobs(prompts, [rows[0]["completion"]] * 4)
    assert scored[0]["teacher_scores"] == pytest.approx(list(expected), abs=1e-3)


def test_samples_that_are_too_long_are_left_out_and_said(tmp_path, caplog):
    data = [*kshot(tasks(8), shots=(2, 2), samples=6), *kshot(tasks(8), shots=(6, 6), samples=2)]
    method = BiAlign(teacher=toy.model(seed=5), max_length=60, max_steps=1, batch_size=8, **PLAIN)
    logged(method, toy.model(), data, tmp_path)
    assert "2 of 8 rows" in caplog.text
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["rows"] == 6


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_subsets": 1}, "n_subsets"),
        ({"n_subsets": 20}, "16 subsets"),
        ({"shots": (5, 4)}, "least number first"),
        ({"shots": 4}, "shots"),
        ({"rank_weight": -1}, "rank_weight"),
        ({"rank_weight": 0.0, "kl_weight": 0.0}, "nothing is learned"),
        ({"kl_reduction": "mean"}, "token, sample"),
        ({"samples": 0}, "samples"),
        ({"truncate": "end"}, "cannot be compared"),
    ],
)
def test_settings_that_cannot_work(bad, message):
    with pytest.raises(SettingsError, match=message):
        BiAlign(teacher=toy.model(), **bad).validate()


def test_samples_that_cannot_be_read_are_named():
    start = toy.model()
    good = kshot(tasks(8), shots=(2, 3))
    with pytest.raises(RecordError, match=r"Record 2.*demonstrations"):
        BiAlign(teacher=start).align(start, [good[0], {**good[1], "demonstrations": "none"}])
    with pytest.raises(RecordError, match=r"Record 1.*1 demonstrations have 2 subsets"):
        BiAlign(teacher=start).align(start, [{**good[0], "demonstrations": good[0]["demonstrations"][:1]}])
