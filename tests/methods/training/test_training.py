"""SFT and DPO on tiny models: what they learn, and what must not change."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.training import toy
from truing import DPO, SFT, progress
from truing.errors import ModelError, SettingsError, TrainingError, UnsupportedError
from truing.methods.training.encoding import Example
from truing.methods.training.losses.pairs import LOSSES, MIXTURES

QUICK = {"learning_rate": 3e-3, "batch_size": 8, "epochs": 4, "warmup_ratio": 0.0}


def margins(model):
    rows = toy.preferences(16)
    prompts = [row["prompt"] for row in rows]
    return model.logprobs(prompts, [r["chosen"] for r in rows]) - model.logprobs(prompts, [r["rejected"] for r in rows])


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "step" in row]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_learns_and_padding_side_changes_nothing(architecture, tmp_path):
    results = []
    for side in ("left", "right"):
        start = toy.model(architecture, padding_side=side)
        before, ahead = toy.weights_of(start), margins(start)
        tuned = SFT(**QUICK).align(start, toy.demonstrations(), out=tmp_path / f"sft-{side}")
        aligned = DPO(**QUICK, beta=0.5).align(tuned, toy.preferences(), out=tmp_path / f"dpo-{side}")
        assert all(torch.equal(value, before[name]) for name, value in start.weights.state_dict().items())
        assert not start.weights.training
        assert (margins(aligned) > ahead).all()
        results.append(aligned.logprobs("the cat?", ["it is grey, of course"]))
    np.testing.assert_array_equal(results[0], results[1])
    for name in ("sft-left", "dpo-left"):
        losses = [row["loss"] for row in log_of(tmp_path / name)]
        assert losses[-1] < 0.9 * losses[0]
    last = log_of(tmp_path / "dpo-left")[-1]
    assert last["rewards/accuracies"] == 1.0
    assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"], abs=1e-4)


def test_first_sft_loss_is_the_mean_of_the_models_own_token_logprobs(tmp_path):
    start, rows = toy.model(), toy.demonstrations(8)
    SFT(batch_size=8, max_steps=1).align(start, rows, out=tmp_path)
    found = start.logprobs([r["prompt"] for r in rows], [r["completion"] for r in rows], per_token=True)
    assert log_of(tmp_path)[0]["loss"] == pytest.approx(-np.concatenate(found).mean(), abs=1e-5)


@pytest.mark.parametrize("dropout_of", ["llama", "opt"])
def test_first_dpo_step_is_exactly_at_the_reference(dropout_of, tmp_path):
    changes = {"dropout": 0.3} if dropout_of == "opt" else {"attention_dropout": 0.3}
    start = toy.model(dropout_of, **changes)
    DPO(batch_size=4, max_steps=1).align(start, toy.preferences(8), out=tmp_path)
    row = log_of(tmp_path)[0]
    assert row["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert row["rewards/margins"] == pytest.approx(0, abs=1e-5)
    DPO(batch_size=4, max_steps=1, dropout=True).align(start, toy.preferences(8), out=tmp_path / "with")
    assert abs(log_of(tmp_path / "with")[0]["rewards/margins"]) > 1e-4
    name = "dropout" if dropout_of == "opt" else "attention_dropout"
    aligned = DPO(batch_size=4, max_steps=1).align(start, toy.preferences(8))
    assert any(getattr(module, name, None) == 0.3 for module in aligned.weights.modules())


@pytest.mark.parametrize("method", [SFT(shuffle=False), DPO(shuffle=False, loss={"sigmoid": 1.0, "sft": 0.5})])
def test_accumulated_batches_equal_one_large_batch(method, tmp_path):
    rows = toy.preferences(12) if isinstance(method, DPO) else toy.demonstrations(12)
    rows[1] = {**rows[1], **{key: "grey " * 9 for key in ("chosen", "completion") if key in rows[1]}}
    common = {"learning_rate": 1e-3, "epochs": 2, "schedule": "constant"}
    results = []
    for size, times in ((6, 1), (2, 3)):
        one = method.clone(**common, batch_size=size, gradient_accumulation=times)
        aligned = one.align(toy.model(), rows, out=tmp_path / str(size))
        results.append((toy.weights_of(aligned), log_of(tmp_path / str(size))))
    assert len(results[0][1]) == len(results[1][1]) == 4
    for left, right in zip(results[0][1], results[1][1]):
        assert left["loss"] == pytest.approx(right["loss"], abs=2e-5)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
    for name, value in results[0][0].items():
        torch.testing.assert_close(value, results[1][0][name], atol=1e-4, rtol=1e-3)


def test_lora_trains_an_adapter_on_frozen_weights(tmp_path):
    start = toy.model()
    before, flags = toy.weights_of(start), [p.requires_grad for p in start.weights.parameters()]
    how = {**QUICK, "learning_rate": 1e-2, "adapter": {"r": 4, "lora_alpha": 8}}
    aligned = DPO(**how, beta=0.5).align(start, toy.preferences(), out=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in start.weights.state_dict().items())
    assert [p.requires_grad for p in start.weights.parameters()] == flags
    trained = sum(p.numel() for p in aligned.weights.parameters() if p.requires_grad)
    assert 0 < trained < sum(p.numel() for p in start.weights.parameters())
    assert (margins(aligned) > margins(start)).all()
    assert log_of(tmp_path)[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    with aligned.weights.disable_adapter():
        np.testing.assert_allclose(margins(aligned), margins(start), atol=1e-5)
    again = DPO(**QUICK, beta=0.5).align(aligned, toy.preferences())
    assert not hasattr(again.weights, "peft_config"), "an adapter that was there is merged"
    assert (margins(again) > margins(aligned)).all()
    assert hasattr(aligned.weights, "peft_config")


def test_an_adapters_own_dropout_stays():
    from torch import nn

    from truing.methods.training.policy import without_dropout, working_copy

    given = toy.model("opt", dropout=0.2).weights
    weights = working_copy(given, {"target_modules": "all-linear", "lora_dropout": 0.4}, seed=0)
    with without_dropout(weights):
        rates = {module.p for module in weights.modules() if isinstance(module, nn.Dropout)}
        assert rates == {0.4}
        assert {m.dropout for m in weights.modules() if isinstance(getattr(m, "dropout", None), float)} == {0.0}
    assert {m.dropout for m in weights.modules() if isinstance(getattr(m, "dropout", None), float)} == {0.0, 0.2}


def test_weights_of_16_bits_train_in_32_and_come_back_as_they_were(tmp_path):
    start = toy.model()
    start.weights.to(torch.bfloat16)
    before = toy.weights_of(start)
    aligned = SFT(**{**QUICK, "learning_rate": 1e-4}).align(start, toy.demonstrations(), out=tmp_path)
    again = SFT(**{**QUICK, "learning_rate": 1e-4}).align(start, toy.demonstrations(), out=tmp_path)
    assert {value.dtype for value in aligned.weights.parameters()} == {torch.bfloat16}
    assert all(torch.equal(value, before[name]) for name, value in start.weights.state_dict().items())
    assert all(
        torch.equal(value, again.weights.state_dict()[name]) for name, value in aligned.weights.state_dict().items()
    )
    losses = [row["loss"] for row in log_of(tmp_path)]
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_gives_the_same_training():
    how = {"learning_rate": 1e-3, "max_steps": 3, "batch_size": 4}
    for extra in ({}, {"adapter": "lora"}):
        plain = DPO(**how, **extra).align(toy.model(), toy.preferences(8))
        saved = DPO(**how, **extra, gradient_checkpointing=True).align(toy.model(), toy.preferences(8))
        np.testing.assert_allclose(margins(plain), margins(saved), atol=1e-4)


@pytest.mark.parametrize("loss", sorted({*LOSSES, *MIXTURES} - {"sft"}))
def test_every_pair_loss_trains(loss):
    aligned = DPO(loss=loss, beta=0.5, learning_rate=1e-4, max_steps=2, batch_size=4).align(
        toy.model(), toy.preferences(8)
    )
    assert np.isfinite(margins(aligned)).all()
    assert not np.allclose(margins(aligned), margins(toy.model()), atol=1e-6)


def test_variants_of_the_pair_objective_train(tmp_path):
    how = {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 4}
    outcomes = {}
    for name, extra in {
        "plain": {}, "ld": {"ld_alpha": 0.5}, "wpo": {"wpo": True}, "free": {"reference_free": True},
        "js": {"f_divergence": "js_divergence"}, "other": {"reference": toy.model(seed=5)},
    }.items():  # fmt: skip
        DPO(**how, **extra).align(toy.model(), toy.preferences(8), out=tmp_path / name)
        outcomes[name] = log_of(tmp_path / name)[-1]["loss"]
    assert all(np.isfinite(value) for value in outcomes.values())
    assert len({round(value, 6) for value in outcomes.values()}) == len(outcomes), outcomes


def test_encoding_is_that_of_the_model():
    from truing.methods.training.encoding import encode

    for chat in (True, False):
        one = toy.model()
        one.tokenizer.chat_template = one.tokenizer.chat_template if chat else None
        rows = [{"prompt": "a <|end|> b", "completion": " said"}, {"prompt": "what?", "completion": "it <|user|> is"}]
        found, _, _ = encode(one, rows, SFT().objective(), max_length=200, truncate="end")
        for row, made in zip(rows, found):
            assert made.answers[0] == one.encode_pair(row["prompt"], row["completion"])


def test_turns_of_a_conversation():
    talk = [
        {"role": "user", "content": "the cat?"}, {"role": "assistant", "content": "on the mat"},
        {"role": "user", "content": "the bird?"}, {"role": "assistant", "content": "small and red"},
    ]  # fmt: skip
    row = {"prompt": talk[:3], "completion": "small and red"}
    assert SFT().objective().examples(row) == [Example([(talk[:3], "small and red")])]
    every = SFT(turns="all").objective().examples(row)
    assert every == [Example([(talk[:1], "on the mat"), (talk[:3], "small and red")])]
    assert (
        SFT().objective().examples({"prompt": "the cat?", "completion": talk[1:]})[0].answers[0][1] == "small and red"
    )
    aligned = SFT(turns="all", max_steps=1).align(toy.model(), [{"messages": talk}])
    assert len(aligned.history) == 1


def test_prompt_modifiers_do_not_act_in_training_and_stay():
    from truing.models.modifiers import PromptModifier

    class Shout(PromptModifier):
        def messages(self, messages):
            return [{"role": "system", "content": "look at the mat"}, *messages]

    plain = SFT(max_steps=2).align(toy.model(), toy.demonstrations(4))
    spoken = SFT(max_steps=2).align(toy.model().with_modifier(Shout()), toy.demonstrations(4))
    assert [type(modifier).__name__ for modifier in spoken.modifiers] == ["Shout"]
    for name, value in plain.weights.state_dict().items():
        assert torch.equal(value, spoken.weights.state_dict()[name])


class Listener:
    def __init__(self):
        self.said, self.bars = [], []

    def say(self, text):
        self.said.append(text)

    def task(self, label, total):
        import contextlib

        listener = self

        @contextlib.contextmanager
        def opened():
            bar = type("Bar", (), {"done": 0, "notes": []})()
            bar.notes, bar.label, bar.total = [], label, total

            def advance(steps=1, note=""):
                bar.done += steps
                bar.notes.append(note)

            bar.advance = advance
            listener.bars.append(bar)
            yield bar

        return opened()


def test_bars_count_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path))
    listener = Listener()
    with progress.listening(listener):
        DPO(max_steps=5, batch_size=4).align(toy.model(), toy.preferences(8))
    bars = {bar.label: bar for bar in listener.bars}
    assert bars["DPO"].done == bars["DPO"].total == 5
    assert bars["reference log-probabilities"].done == 8
    assert "loss 0.69" in bars["DPO"].notes[0]
    assert "tokens/s" in bars["DPO"].notes[-1]


def test_what_is_cut_or_left_out_is_counted_and_said():
    rows = [
        {"prompt": "cat " * 60, "chosen": "it is grey", "rejected": "red"},
        {"prompt": "the cat?", "chosen": "grey " * 60, "rejected": "red"},
        {"prompt": "the mat?", "chosen": "", "rejected": "red"},
        {"prompt": "the mat?", "chosen": "grey", "rejected": ""},
        {"prompt": "the mat?", "chosen": "grey", "rejected": "grey"},
    ]
    listener = Listener()
    with progress.listening(listener):
        DPO(max_steps=1, max_length=40).align(toy.model(), rows)
    said = "\n".join(listener.said)
    for part in (
        "1 of 5 rows are longer than 40",
        "1 of 5 rows have a prompt",
        "empty answer",
        "empty rejected",
        "the same",
    ):
        assert part in said, (part, said)
    for truncate, kept in (("start", 4), ("drop", 2)):
        from truing.methods.training.encoding import encode

        found, counts, limit = encode(toy.model(), rows, DPO().objective(), max_length=40, truncate=truncate)
        assert len(found) == kept
        assert limit == 40
        assert counts.rows == 5
        assert all(row.width <= 40 and all(answer for _, answer in row.answers) for row in found)


def test_without_a_listener_warnings_are_logged(caplog):
    with caplog.at_level(logging.WARNING, logger="truing"):
        DPO(max_steps=1).align(toy.model(), [{"prompt": "a?", "chosen": "red", "rejected": "red"}])
    assert "the same" in caplog.text


def test_falling_chosen_answers_are_told_once():
    for loss, told in (("apo_down", 1), ("rpo", 0)):
        listener = Listener()
        with progress.listening(listener):
            DPO(**{**QUICK, "loss": loss, "epochs": 6}, beta=0.5).align(toy.model(), toy.preferences())
        assert sum("less likely than before" in text for text in listener.said) == told


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"prompt": "cat " * 200, "chosen": "a", "rejected": "b"}], "No row is left"),
        ([{"prompt": "cat", "chosen": "", "rejected": "b"}], "No row is left"),
    ],
)
def test_no_row_left_is_one_error(rows, why):
    with pytest.raises(TrainingError, match=why):
        DPO(max_length=50).align(toy.model(), rows)


def test_a_loss_that_is_not_finite_names_its_records_and_keeps_the_checkpoint(tmp_path):
    start = toy.model()
    rows = toy.demonstrations(4)
    with torch.no_grad():
        odd = start.tokenizer("Z", add_special_tokens=False)["input_ids"][0]
        start.weights.get_input_embeddings().weight[odd] = float("nan")
    rows[3] = {"prompt": "Z", "completion": "grey"}
    how = {"batch_size": 1, "shuffle": False, "save_every": 1, "learning_rate": 1e-5}
    with pytest.raises(TrainingError, match=r"not finite at step 4 of 4, with record 4\..*checkpoint-3"):
        SFT(**how).align(start, rows, out=tmp_path)
    assert (tmp_path / "checkpoints" / "checkpoint-3" / "complete").is_file()
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"beta": 0}, "beta"), ({"learning_rate": float("nan")}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"loss": "sigmiod"}, "Did you mean 'sigmoid'"), ({"loss": {"sigmoid": -1}}, "weight"),
        ({"loss": "sft"}, "SFT"),
        ({"gamma": 1.0}, "no effect"), ({"label_smoothing": 0.5}, "label_smoothing"), ({"schedule": "up"}, "schedule"),
        ({"adapter": "loar"}, "lora"), ({"adapter": {"rank": 3}}, "rank"), ({"max_steps": 0}, "max_steps"),
        ({"loss": "exo_pair", "label_smoothing": 0.0}, "exo_pair"), ({"truncate": "middle"}, "truncate"),
        ({"beta": "high"}, "beta"), ({"learning_rate": "fast"}, "learning_rate"), ({"ld_alpha": 2}, "ld_alpha"),
        ({"loss": ["sigmoid"]}, "loss"), ({"f_alpha": None}, "f_alpha"), ({"loss": {}}, "loss"),
        ({"warmup_ratio": 1.0}, "warmup_ratio"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(settings, why):
    with pytest.raises(SettingsError, match=why):
        DPO(**settings).align(toy.model(), toy.preferences(2))


def test_models_that_cannot_be_trained_so():
    start = toy.model()
    start.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        SFT().align(start, toy.demonstrations(2))
    with pytest.raises(ModelError, match="embeddings for 64 only"):
        SFT().align(toy.model(vocabulary=64), toy.demonstrations(2))
    other = toy.model()
    other.tokenizer.add_tokens(["moon"])
    with pytest.raises(ModelError, match="different vocabularies"):
        DPO(reference=other).align(toy.model(), toy.preferences(2))
    picture = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]
    with pytest.raises(UnsupportedError, match=r"Record 2: .*text only"):
        SFT().align(toy.model(), [toy.demonstrations(1)[0], {"prompt": picture, "completion": "a"}])


def test_callers_random_state_is_left_alone():
    start = toy.model()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    SFT(max_steps=1, adapter="lora", dropout=True).align(start, toy.demonstrations(2))
    assert torch.equal(torch.rand(1), expected)
