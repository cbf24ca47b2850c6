from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from tests.methods.training import toy
from truing import SFT
from truing.errors import RecordError, SettingsError
from truing.methods.training.batches import collate
from truing.methods.training.encoding import Row
from truing.methods.training.mixture import MixtureObjective, MixtureOfInstructions
from truing.methods.training.policy import Policy, prepared
from truing.models import Model, chat

PLAIN = {"learning_rate": 1e-3, "schedule": "constant", "warmup_ratio": 0.0, "shuffle": False}
PROMPTS = {"chat": "you are kind", "code": "you are a programmer", "math": "you count"}


def records(counts, prompt="what is the colour of"):
    return [
        {
            "prompt": f"{prompt} {toy.THINGS[at % 8]} {'x' * (at // 8)}{name}?",
            "completion": f"{name} {at}",
            "domain": name,
        }
        for name, count in counts.items()
        for at in range(count)
    ]


def logged(method, model, rows, folder):
    aligned = method.align(model, rows, out=folder)
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return aligned, [row for row in found if "step" in row]


def singles(lengths, domains=None, start=5):
    """One row an instruction, of unlike token ids: a prompt of one token, or half of them."""
    out = []
    for at, length in enumerate(lengths):
        ids = [start + (13 * at + 3 * n) % 90 for n in range(length)]
        cut = max(1, length // 2) if length > 1 else 0
        out.append(Row(at, ((ids[:cut], ids[cut:]),), {"domain": float(domains[at] if domains else at % 2)}))
    return out


def arranged(rows, domains=("a", "b"), **settings):
    objective = MixtureObjective(**{"limit": 200, "order": "fixed", **settings})
    objective.domains = list(domains)
    return objective.arrange(rows), objective


def visible(rows):
    """Pairs of a token and one that it sees."""
    return sum(
        sum(run.before + at + 1 for at in range(run.end - run.start)) for row in rows for run in row.tree.runs
    )  # fmt: skip


# --- what sees what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "pairs"), [("chunk", 12), ("none", 21), ("isolated", 8)])
def test_visible_pairs_and_positions_of_two_chunks_of_two(attention, pairs):
    """The card's lengths 2, 1, 2, 1; an instruction of one token is an answer without a prompt."""
    rows, _ = arranged(singles([2, 1, 2, 1]), attention=attention)
    assert visible(rows) == pairs
    positions = sorted(int(at) for row in rows for at in row.tree.positions)
    assert positions == {
        "chunk": [0, 0, 1, 1, 2, 2], "none": [0, 1, 2, 3, 4, 5], "isolated": [0, 0, 0, 0, 1, 1]
    }[attention]  # fmt: skip


def tokens_of(model, rows):
    with prepared(model.weights, 0) as packed, torch.no_grad():
        scores = Policy(model.weights)(collate(rows, 0, packed=packed))
    assert packed
    table = {}
    for at, (owner, slot) in enumerate(zip(scores.owner.tolist(), scores.slot.tolist())):
        table[owner, slot] = scores.tokens[at][scores.mask[at]]
    return table


def test_chunks_of_a_batch_are_as_if_alone_and_members_see_earlier_ones():
    model, parts = toy.model(), singles([8, 6, 7, 9])
    rows, _ = arranged(parts)
    together = tokens_of(model, rows)
    for at, row in enumerate(rows):
        alone = tokens_of(model, [row])
        for slot in range(2):
            torch.testing.assert_close(together[at, slot], alone[0, slot], rtol=0, atol=1e-5)
    first = rows[0].answers
    changed = [(prompt, answer) for prompt, answer in first]
    swapped = [7, *first[0][0][1:]]
    changed = ((swapped, first[0][1]), (swapped + first[1][0][len(swapped) :], first[1][1]))
    other = tokens_of(model, [Row(0, changed, rows[0].values), rows[1]])
    assert (other[0, 1] - together[0, 1]).abs().max() > 1e-4
    for slot in range(2):
        torch.testing.assert_close(other[1, slot], together[1, slot], rtol=0, atol=1e-5)


def test_one_instruction_a_chunk_is_isolated_and_one_chunk_a_row_is_none():
    parts = singles([8, 6, 7, 9], domains=[0, 0, 0, 0])
    chunk, _ = arranged(parts, domains=["a"])
    isolated, _ = arranged(parts, domains=["a"], attention="isolated")
    assert [row.answers for row in chunk] == [row.answers for row in isolated]
    pair = singles([8, 6])
    assert [row.answers for row in arranged(pair)[0]] == [row.answers for row in arranged(pair, attention="none")[0]]


def test_a_chunk_is_the_conversations_as_their_own_templates_write_them():
    model, rows = toy.model(), records({"chat": 1, "code": 1})
    method = MixtureOfInstructions(system_prompts={"chat": PROMPTS["chat"], "code": PROMPTS["code"]}, order="fixed")
    objective = method.objective()
    from truing.methods.training.encoding import encode

    (row,) = objective.arrange(encode(model, rows, objective, max_length=256, truncate="end")[0])
    ids = []
    for (prompt, answer), given in zip(row.answers, rows, strict=True):
        messages = [
            {"role": "system", "content": PROMPTS[given["domain"]]},
            {"role": "user", "content": given["prompt"]},
        ]
        assert prompt == ids + chat.encode_conversation(model.tokenizer, messages)
        assert answer == model.encode_pair("x", given["completion"])[1]
        ids = prompt + answer
    # Only answers are targets.
    batch = collate([row], 0)
    assert batch.targets.tolist() == [token for _, answer in row.answers for token in answer]


def test_rows_without_a_mask_hold_whole_chunks_up_to_the_limit():
    rows, _ = arranged(singles([10, 10] * 12), attention="none", limit=45)
    assert [row.width for row in rows] == [40] * 6
    assert all(row.values["chunk"] == [0, 0, 1, 1] for row in rows)


def test_a_chunk_that_is_too_long_loses_its_longest_member(caplog):
    rows, _ = arranged(singles([10, 30, 12, 31]), limit=36)
    assert sorted(row.width for row in rows) == [10, 12, 30, 31]
    assert "2 of 4 chunks" in caplog.text


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_groups_hold_one_of_each_domain_and_small_ones_begin_again(tmp_path):
    objective = MixtureObjective(max_repeats=None, seed=3, order="fixed")
    counts = {"chat": 3, "code": 2, "math": 4, "tool": 1}
    objective.domains = list(counts)
    parts, at = [], 0
    for number, count in enumerate(counts.values()):
        for _ in range(count):
            parts.append(Row(at, (([at + 1], [at + 40]),), {"domain": float(number)}))
            at += 1
    rows = objective.arrange(parts)
    assert [row.values["domain"] for row in rows] == [[0.0, 1.0, 2.0, 3.0]] * 4
    used = Counter(answer[0] - 40 for row in rows for _, answer in row.answers)
    assert used[9] == 4
    assert sorted(used[at] for at in (5, 6, 7, 8)) == [1, 1, 1, 1]
    assert sorted(used[at] for at in (3, 4)) == [2, 2]
    assert sorted(used[at] for at in (0, 1, 2)) == [1, 1, 2]
    report = {one.domain: one for one in objective.report}
    assert {name: one.repeats for name, one in report.items()} == {"chat": 2, "code": 2, "math": 1, "tool": 4}
    assert {one.instructions for one in report.values()} == {4}


def test_repeats_are_capped_and_said(caplog):
    parts = singles([4] * 13, domains=[0] * 12 + [1])
    rows, objective = arranged(parts, max_repeats=5)
    assert [len(row.answers) for row in rows].count(2) == 5
    assert len(rows) == 12
    assert "'b' has 1 records" in caplog.text
    assert "12 times" in caplog.text
    assert objective.report[1].repeats == 5
    caplog.clear()
    arranged(parts, max_repeats=12)
    assert "raise max_repeats" not in caplog.text


def test_natural_sampling_uses_every_record_once():
    rows, objective = arranged(singles([4] * 13, domains=[0] * 12 + [1]), sampling="natural")
    assert sum(len(row.answers) for row in rows) == 13
    assert {one.repeats for one in objective.report} == {1}


def test_a_random_order_of_domains_spreads_who_comes_first():
    rows, _ = arranged(singles([4] * 80), order="random")
    first = Counter(row.values["domain"][0] for row in rows)
    assert min(first.values()) > 8
    assert {row.values["domain"][0] for row in arranged(singles([4] * 80))[0]} == {0.0}


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("reduction", ["token", "sequence", "chunk"])
def test_the_loss_is_the_stated_mean_over_the_step(reduction, accumulation, tmp_path):
    model = toy.model()
    rows = records({"chat": 4, "code": 2})
    rows[0]["completion"] = "a much longer answer than the others are, on the mat"
    method = MixtureOfInstructions(
        reduction=reduction,
        max_steps=1,
        batch_size=4 // accumulation,
        gradient_accumulation=accumulation,
        order="fixed",
        **PLAIN,
    )
    _, logs = logged(method, model, rows, tmp_path)
    objective = method.objective()
    from truing.methods.training.encoding import encode

    chunks = objective.arrange(encode(model, rows, objective, max_length=256, truncate="end")[0])
    found = tokens_of(model, chunks)
    losses = [[-found[at, slot] for slot in range(2)] for at in range(4)]
    expected = {
        "token": torch.cat([one for chunk in losses for one in chunk]).mean(),
        "sequence": torch.stack([one.mean() for chunk in losses for one in chunk]).mean(),
        "chunk": torch.stack([torch.cat(chunk).mean() for chunk in losses]).mean(),
    }
    assert logs[0]["loss"] == pytest.approx(expected[reduction].item(), rel=1e-4)
    assert len({round(value.item(), 4) for value in expected.values()}) == 3
    of_chat = torch.stack([chunk[0].mean() for chunk in losses]).mean()
    assert logs[0]["loss/chat"] == pytest.approx(of_chat.item(), rel=1e-4)
    assert logs[0]["share/chat"] == logs[0]["share/code"] == 0.5


def test_chunk_numbers_of_packed_rows_do_not_mix():
    objective = MixtureObjective(reduction="chunk", attention="none", limit=50)
    objective.domains = ["a", "b"]
    rows = objective.arrange(singles([6, 8] * 9))
    units = objective.units(collate(rows, 0))
    assert units["chunk"] == 9
    assert units["answer"] == 18


def test_alone_it_is_sft(tmp_path, caplog):
    model, rows = toy.model(), toy.demonstrations(8)
    ours, theirs = {"max_steps": 3, "batch_size": 8, **PLAIN}, {"max_steps": 3, "batch_size": 8, **PLAIN}
    mixed = MixtureOfInstructions(**ours).align(model, rows)
    assert "this is SFT" in caplog.text
    plain = SFT(**theirs).align(model, rows)
    for name, value in plain.weights.state_dict().items():
        torch.testing.assert_close(mixed.weights.state_dict()[name], value, rtol=0, atol=1e-4)


def test_every_turn_of_a_conversation_can_be_learned():
    model = toy.model()
    messages = [
        {"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "on the mat"},
        {"role": "user", "content": "the bird?"}, {"role": "assistant", "content": "small"},
    ]  # fmt: skip
    rows = [{"messages": messages, "domain": "a"}, {"prompt": "the stone?", "completion": "grey", "domain": "b"}]
    method = MixtureOfInstructions(turns="all", order="fixed")
    from truing.methods.training.encoding import encode

    objective = method.objective()
    (row,) = objective.arrange(encode(model, method.check_records(rows), objective, max_length=256, truncate="end")[0])
    assert row.values["domain"] == [0, 0, 1]
    earlier, last, other = row.answers
    assert last[0][: len(earlier[0]) + len(earlier[1])] == earlier[0] + earlier[1]
    assert other[0][: len(last[0]) + len(last[1])] == last[0] + last[1]


# --- input ------------------------------------------------------------------------------------------------------------


def test_a_dict_of_records_by_domain_is_the_same_as_a_column():
    model, counts = toy.model(), {"chat": 3, "code": 2}
    rows = records(counts)
    by_domain = {
        name: [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows if row["domain"] == name]
        for name in counts
    }
    method = MixtureOfInstructions(max_steps=2, batch_size=2, **PLAIN)
    one, two = method.align(model, rows), method.align(model, by_domain)
    for name, value in one.weights.state_dict().items():
        assert torch.equal(value, two.weights.state_dict()[name])
    assert one.history[-1].data["fingerprint"] == two.history[-1].data["fingerprint"]
    with pytest.raises(RecordError, match="no domain"):
        method.align(model, {})


def test_domains_and_system_messages_that_do_not_fit_are_named():
    start, rows = toy.model(), records({"chat": 2, "code": 2})
    with pytest.raises(RecordError, match=r"Record 3.*'code'.*no system prompt"):
        MixtureOfInstructions(system_prompts={"chat": "be kind"}).align(start, rows)
    rows[1]["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    with pytest.raises(RecordError, match=r"Record 2.*system message of its own"):
        MixtureOfInstructions(system_prompts=PROMPTS).align(start, rows)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"attention": "open"}, "chunk, none, isolated"),
        ({"sampling": "naive"}, "balanced, natural"),
        ({"reduction": "mean"}, "token, chunk, sequence"),
        ({"order": "any"}, "fixed, random"),
        ({"max_repeats": 0}, "max_repeats"),
        ({"system_prompts": {"a": ""}}, "system_prompts"),
        ({"domain": ""}, "names a column"),
    ],
)
def test_settings_that_cannot_work(bad, message):
    with pytest.raises(SettingsError, match=message):
        MixtureOfInstructions(**bad).validate()


# --- behaviour --------------------------------------------------------------------------------------------------------


def loss_of(model: Model, rows):
    return -model.logprobs([row["prompt"] for row in rows], [row["completion"] for row in rows]).mean()


def test_balanced_groups_learn_a_domain_of_one_in_fifty():
    """Two rules of the same kind, 1:50: balanced groups learn both, natural ones the large one only."""
    large = [{"prompt": f"say {at}", "completion": "red stone", "domain": "large"} for at in range(100)]
    small = [{"prompt": f"tell {at}", "completion": "grey bird", "domain": "small"} for at in range(2)]
    unseen = {
        "large": [{"prompt": f"say {at}", "completion": "red stone"} for at in range(200, 210)],
        "small": [{"prompt": f"tell {at}", "completion": "grey bird"} for at in range(200, 210)],
    }
    gaps = {}
    for sampling in ("balanced", "natural"):
        tuned = MixtureOfInstructions(
            sampling=sampling, max_repeats=None, max_steps=40, batch_size=8, learning_rate=8e-3
        ).align(toy.model(), large + small)
        found = {name: loss_of(tuned, rows) for name, rows in unseen.items()}
        gaps[sampling] = abs(found["small"] - found["large"])
    assert gaps["balanced"] < 0.3
    assert gaps["natural"] > 3
