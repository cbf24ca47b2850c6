"""CUT as a method: what it divides by, what flows where, what it refuses; a copy task with a criticised token."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from tests.methods.training import toy
from truing import SFT
from truing.errors import RecordError, SettingsError, TrainingError
from truing.methods.training.cut import CUT, TEMPLATE, CUTObjective, judged_prompt
from truing.methods.training.encoding import Row, encode
from truing.methods.training.policy import Scores

ROWS = [
    {"prompt": "the cat?", "completion": "the cat is red", "judgment": "it is grey", "label": False},
    {"prompt": "the bird?", "completion": "small and red", "judgment": "", "label": True},
    {"prompt": "what is the colour of the stone?", "completion": "red", "judgment": "not red: grey", "label": False},
    {"prompt": "who sat on the mat?", "completion": "it is grey, of course", "judgment": "good", "label": True},
]
PLAIN = (0.03, 0.94, 0.93, 0.99, 0.03, 0.85)
JUDGED = (0.82, 0.94, 0.76, 0.99, 0.02, 0.89)


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "step" in row]


def judged_logps(model, rows):
    prompts = [judged_prompt(row["prompt"], row["judgment"]) for row in rows]
    return model.logprobs(prompts, [row["completion"] for row in rows], per_token=True)


def plain_logps(model, rows):
    return model.logprobs([r["prompt"] for r in rows], [r["completion"] for r in rows], per_token=True)


def scores_of(*answers, slots, owners, alpha=1.0):
    width = max(len(one) for one in answers)
    tokens = torch.zeros(len(answers), width)
    mask = torch.zeros(len(answers), width, dtype=torch.bool)
    for at, one in enumerate(answers):
        tokens[at, : len(one)] = torch.tensor(one).log()
        mask[at, : len(one)] = True
    alphas = torch.full((max(owners) + 1,), alpha) if isinstance(alpha, float) else torch.tensor(alpha)
    return Scores(
        tokens.requires_grad_(), mask, torch.tensor(owners), torch.tensor(slots), values={"alpha": alphas}
    )  # fmt: skip


def test_terms_of_the_worked_answer():
    # A satisfactory answer stands between, so that second answers and rows do not line up.
    scores = scores_of((0.5, 0.5), JUDGED, PLAIN, slots=[0, 0, 1], owners=[0, 1, 1])
    likelihood, contrast = CUTObjective(1.1, 1.0, 1.0).terms(scores)
    assert (likelihood.unit, contrast.unit) == ("token", "criticised_token")
    assert contrast.values.item() / 6 == pytest.approx(0.639758, abs=1e-6)
    np.testing.assert_allclose(
        likelihood.values.tolist(), [2 * np.log(2), -np.log(JUDGED).sum()], rtol=1e-5
    )  # fmt: skip
    shown = CUTObjective(1.1, 1.0, 1.0).metrics(scores)
    assert shown["flagged"].mean().item() == pytest.approx(1 / 6)
    assert shown["logps/flagged"].tolist() == pytest.approx([np.log(0.03)])


def test_gradients_of_the_contrast_reach_the_plain_context_alone():
    scores = scores_of(JUDGED, PLAIN, slots=[0, 1], owners=[0, 0])
    likelihood, contrast = CUTObjective(1.1, 0.5, 1.0).terms(scores)
    (of_contrast,) = torch.autograd.grad(contrast.values.sum(), scores.tokens, retain_graph=True)
    (of_likelihood,) = torch.autograd.grad(likelihood.values.sum(), scores.tokens)
    assert not of_contrast[0].any()
    b = torch.tensor(PLAIN)
    wanted = -torch.ones(6)
    wanted[0] = 1.0 * JUDGED[0] * b[0] / (1 - b[0])  # alpha w_t b / (1 - b), alpha from the record
    torch.testing.assert_close(of_contrast[1], wanted)
    torch.testing.assert_close(of_likelihood, torch.stack([-torch.ones(6), torch.zeros(6)]))


def test_alpha_is_one_for_each_record():
    both = scores_of(JUDGED, JUDGED, PLAIN, PLAIN, slots=[0, 0, 1, 1], owners=[0, 1, 0, 1], alpha=[1.0, 0.0])
    found = CUTObjective(1.1, 1.0, None).terms(both)[1].values.tolist()
    assert found[0] - found[1] == pytest.approx(-np.log(1 - 0.03), abs=1e-5)
    rows = [{**ROWS[0], "alpha": 0.25}, ROWS[0]]
    objective = CUT(alpha=0.75).objective()
    assert [objective.examples(row)[0].values["alpha"] for row in rows] == [0.25, 0.75]
    with pytest.raises(RecordError, match="Record 2: column `alpha`"):
        CUT().align(toy.model(), [ROWS[0], {**ROWS[0], "alpha": -1.0}])


@pytest.mark.parametrize("threshold", [1.1, 1e30])
def test_the_first_loss_is_the_formula_over_the_models_own_logprobs(threshold, tmp_path):
    start = toy.model()
    bad, good = [row for row in ROWS if not row["label"]], [row for row in ROWS if row["label"]]
    a, b, fine = judged_logps(start, bad), plain_logps(start, bad), plain_logps(start, good)
    second = -np.concatenate([*a, *fine]).mean()
    likely, tokens = np.concatenate(a), np.concatenate(b)
    flagged = likely - tokens > np.log(threshold)
    assert flagged.any() == (threshold < 2)
    first = -np.where(flagged, np.log1p(-np.exp(tokens)), tokens).mean()
    for size, times in ((4, 1), (2, 2)):
        method = CUT(threshold=threshold, batch_size=size, gradient_accumulation=times, max_steps=1, shuffle=False)
        method.align(start, ROWS, out=tmp_path / str(size))
        row = log_of(tmp_path / str(size))[0]
        assert row["loss"] == pytest.approx(first + second, abs=2e-5)
        assert row["flagged"] == pytest.approx(flagged.mean(), abs=1e-6)


def test_without_criticism_it_is_fine_tuning_and_says_so(caplog):
    rows = [{**row, "judgment": "", "label": True} for row in ROWS]
    how = {"learning_rate": 1e-3, "batch_size": 2, "epochs": 2, "schedule": "cosine"}
    with caplog.at_level(logging.WARNING, "truing"):
        found = toy.weights_of(CUT(**how).align(toy.model(), rows))
    assert "plain fine-tuning" in caplog.text
    plain = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    wanted = toy.weights_of(SFT(**how).align(toy.model(), plain))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_the_first_contrast_can_wait():
    objective = CUT(contrast_after=0.5).objective()
    scores = scores_of(JUDGED, PLAIN, slots=[0, 1], owners=[0, 0])
    counts = []
    for objective.progress in (0.0, 0.49, 0.5, 1.0):
        counts.append(len(objective.terms(scores)))
    assert counts == [1, 1, 2, 2]


def test_the_judgment_goes_into_the_last_user_message_as_text():
    talk = [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "{judgment} {x}"},
        {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why {judgment}?"},
    ]  # fmt: skip
    made = judged_prompt(talk, "no {instruction}", "Q {instruction} J {judgment}")
    assert made[:3] == talk[:3]
    assert made[3] == {"role": "user", "content": "Q why {judgment}? J no {instruction}"}
    assert judged_prompt("a", "b")[0]["content"] == TEMPLATE.replace("{instruction}", "a").replace("{judgment}", "b")
    with pytest.raises(RecordError, match="last user message"):
        judged_prompt([{"role": "system", "content": "be brief"}], "b")


def test_praise_stands_on_the_plain_side_only():
    bad, good = (CUT(praise="Perfect.").objective().examples(row)[0].answers for row in ROWS[:2])
    assert bad[1][0] == judged_prompt("the cat?", "Perfect.")
    assert good == [("the bird?", "small and red")]


@pytest.mark.parametrize("long_answer", [False, True])
@pytest.mark.parametrize("truncate", ["start", "end"])
def test_both_contexts_keep_the_same_answer_tokens(truncate, long_answer):
    start = toy.model()
    prompt, text = ("the cat " * 30, "it is grey") if not long_answer else ("the cat?", "it is grey " * 30)
    row = {"prompt": prompt, "completion": text, "judgment": "the cat is red", "label": False}
    objective = CUT().objective()
    limit = 60 if truncate == "start" or not long_answer else 120
    if truncate == "end" and not long_answer:
        with pytest.raises(TrainingError, match="No row is left"):
            encode(start, [row], objective, max_length=limit, truncate=truncate)
        return
    rows, _, _ = encode(start, [row], objective, max_length=limit, truncate=truncate)
    (judged, first), (plain, second) = objective.arrange(rows)[0].answers
    assert first == second
    whole = start.encode_pair(prompt, text)
    assert first == whole[1][: len(first)]
    assert long_answer or first == whole[1], "an answer that fits stays whole"
    assert len(judged) + len(first) <= limit
    assert len(plain) + len(first) <= limit
    assert judged[-1:] == plain[-1:], "the end of the prompt, where the answer begins, stays"


def test_an_unfinished_answer_has_no_end():
    start = toy.model()
    objective = CUT().objective()
    rows = [ROWS[0], {**ROWS[0], "unfinished": True}, {**ROWS[1], "unfinished": True}]
    found = objective.arrange(encode(start, rows, objective, max_length=200, truncate="start")[0])
    end = start.tokenizer.eos_token_id
    assert [row.answers[0][1][-1] == end for row in found] == [True, False, False]
    assert found[1].answers[1][1] == found[0].answers[1][1][:-1]


def test_different_tokens_in_the_two_contexts_are_an_error():
    row = Row(4, (([1], [2, 3]), ([5], [2, 4])), {"alpha": 1.0, "unfinished": 0.0})
    with pytest.raises(TrainingError, match="record 5"):
        CUT().objective().arrange([row])


def test_bad_records_and_settings_are_named():
    with pytest.raises(RecordError, match=r"Record 2: .*judgment is empty"):
        CUT().align(toy.model(), [ROWS[0], {**ROWS[0], "judgment": " \n"}])
    for bad in (
        {"threshold": 0}, {"alpha": -0.1}, {"gamma": -1.0}, {"gamma": "x"}, {"template": "{instruction}"},
        {"template": "{judgment}"}, {"template": "{instruction} {judgment} {judgment}"}, {"praise": ""},
        {"contrast_after": 1.0}, {"alpha": float("nan")},
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=next(iter(bad))):
            CUT(**bad).validate()


def test_judgments_that_quote_the_answer_are_counted(caplog):
    quoting = {**ROWS[0], "judgment": "you wrote: the cat is red. wrong"}
    with caplog.at_level(logging.WARNING, "truing"):
        CUT(**CUT.quick).align(toy.model(), [quoting, ROWS[0], ROWS[1]])
    assert "1 of 2 judgments quote the whole answer" in caplog.text


def test_too_many_flags_are_warned_of():
    objective = CUT().objective()
    assert "60%" in objective.verdict([{"flagged": 0.7}, {"flagged": 0.5}, {"loss": 1.0}])[0]
    assert objective.verdict([{"flagged": 0.5}]) == []
    assert objective.verdict([{"loss": 1.0}]) == []


def test_the_criticised_token_falls_and_the_others_do_not():
    """Each answer repeats the thing and gives it a colour; the judgment names the colour."""
    rows = []
    for thing in toy.THINGS:
        row = {"prompt": f"{thing}?", "completion": f"the {thing} is grey", "judgment": "", "label": True}
        rows += [row, {**row, "completion": f"the {thing} is red", "judgment": "not red", "label": False}]
    bad = rows[1::2]
    demonstrations = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    start = SFT(learning_rate=5e-3, batch_size=16, epochs=50, warmup_ratio=0.0).align(toy.model(), demonstrations)
    how = {"learning_rate": 4e-3, "batch_size": 16, "epochs": 35, "warmup_ratio": 0.0}
    before, after = plain_logps(start, bad), plain_logps(CUT(**how).align(start, rows), bad)
    # Each answer ends with the one token of the colour, and the end token.
    wrong = [np.exp([one[-2] for one in found]).mean() for found in (before, after)]
    others = [np.exp(np.concatenate([one[:-2] for one in found])).mean() for found in (before, after)]
    assert wrong[0] > 0.3
    assert wrong[1] < 0.1
    assert others[1] > others[0]
