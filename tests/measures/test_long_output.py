"""Lengths as ordered, and quality as graded."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.measures.models import Scripted, lines
from tests.shared import DATA
from truing import LongOutput, load, measure
from truing.cli.app import app
from truing.errors import RecordError, SettingsError
from truing.measures.asking import Context
from truing.measures.long_text import QUALITY, bucket, count_words, kept, length_score, quality_scores, required_length
from truing.methods.training.losses.long_ce import LongCE

REAL = DATA / "longwriter/longbench_write.jsonl"


@pytest.mark.parametrize(
    ("written", "score"), [(1000, 100), (1600, 80), (700, 78.571), (500, 50), (4000, 0), (333, 0), (0, 0)]
)
def test_length_scores(written: int, score: float) -> None:
    assert length_score(1000, written) == pytest.approx(score, abs=5e-4)


def test_the_score_falls_on_both_sides_and_faster_for_short_texts() -> None:
    found = [length_score(1000, written) for written in range(300, 4100, 10)]
    top = found.index(100)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert length_score(1000, 1001) == pytest.approx(100, abs=0.1)
    assert length_score(1000, 999) == pytest.approx(100, abs=0.1)
    for times in (1.2, 1.5, 2):
        assert length_score(1000, 1000 / times) < length_score(1000, 1000 * times)
    assert kept(1000, 1600)
    assert kept(1400, 1000)
    assert not kept(1000, 1601)
    assert not kept(0, 100)
    with pytest.raises(ValueError, match="above 0"):
        length_score(0, 5)


@pytest.mark.parametrize(
    ("prompt", "length"),
    [
        ("Write a 1000 words story.", 1000), ("写一篇800字的文章", 800), ("写一篇三千字的小说", 3000),
        ("写两万字", 20000), ("写五百字", 500),
        ("Write 500 words, at most 600 words.", None), ("Write 500 words, yes, 500 words.", 500),
        ("Write something long.", None), ("Write a 2,000 words essay.", 0), ("A 1000-word story", None),
        ("写几千字", None), ("at least 500 and at most 600", None),
    ],
)  # fmt: skip
def test_required_lengths(prompt: str, length: int | None) -> None:
    assert required_length(prompt) == length


def test_words() -> None:
    assert [count_words(text) for text in ("It's 2024, abc123", "第一章 the sea", "", "naïve")] == [2, 5, 0, 0]
    assert [count_words(text, every=True) for text in ("It's 2024, abc123", "第一章 the sea", "naïve")] == [3, 5, 1]
    assert [bucket(length) for length in (499, 500, 20_000, 20_001)] == [
        "0 to 500 words", "500 to 2000 words", "4000 to 20000 words", "over 20000 words",
    ]  # fmt: skip


def test_quality() -> None:
    assert quality_scores([dict.fromkeys(QUALITY, 1)])["total"] == 0
    assert quality_scores([dict.fromkeys(QUALITY, 5)] * 3)["total"] == 100
    with pytest.raises(ValueError, match="no grades"):
        quality_scores([])


def test_long_ce_becomes_the_mean() -> None:
    losses = [torch.tensor([1.0, 2.0]), torch.tensor([0.5] * 4), torch.tensor([3.0])]
    plain, smooth = LongCE(0.0), LongCE(0.9)
    assert [plain(one).item() for one in losses] == pytest.approx([one.mean().item() for one in losses])
    assert [smooth(one).item() for one in losses] == pytest.approx([1.5, 0.65517, 1.30707], abs=1e-5)
    even = LongCE(0.9)
    for _ in range(3):
        assert even(losses[0]).item() == pytest.approx(1.5)
    # Micro-batches with the count of all give one batch of the same records.
    whole = torch.cat(losses)
    assert sum(LongCE()(one, len(whole)).item() for one in losses) == pytest.approx(whole.mean().item())


ORDERS = [{"prompt": f"Write {10 * at} words.", "type": "own"} for at in range(1, 9)]


def writes(times: float) -> Scripted:
    return Scripted(lambda prompt: "word " * round(times * int(prompt.split()[1])), name=f"writes {times}")


def test_a_model_that_writes_as_told() -> None:
    result = measure(LongOutput(records=ORDERS), writes(1), writes(0.5))
    assert result.figures["length_score"].value == 100
    assert result.against["length_score"].value == 50  # type: ignore[index]
    assert result.differences["length_score"].low > 0  # type: ignore[index]
    assert result.figures["near"].value == 1
    assert result.samples[0]["required"] == 10
    assert result.samples[0]["grade"] == "10 of 10 words"
    assert "quality" not in result.figures


def test_orders_without_a_length_and_empty_texts_are_counted() -> None:
    records = [*ORDERS, {"prompt": "Write something long."}, {"prompt": "Write 5 words or 6 words."}]
    result = measure(LongOutput(records=records), Scripted(lambda prompt: "", name="silent"))
    assert result.figures["length_score"].n == 8
    assert result.figures["length_score"].value == 0
    assert "2 of 10 prompts state no single length, and are left out." in result.notes
    assert "8 of 8 texts hold no word that is counted, and score 0." in result.notes
    with pytest.raises(RecordError, match="None of 1 prompts has a required length"):
        measure(LongOutput(records=[{"prompt": "Write."}]), writes(1))


def test_a_judge_grades_quality_and_what_it_does_not_say_is_left_out(tmp_path: Path) -> None:
    def reply(text: str) -> str:
        if "Write 10 words" in text:
            return "It is fine."
        return json.dumps({name: {"reason": "so", "score": 4 if name == "Clarity" else 5} for name in QUALITY})

    judge = Scripted(reply, name="judge")
    for _ in range(2):
        result = LongOutput(records=ORDERS, judge=judge).measure(writes(1), out=tmp_path)
    assert len(judge.asked) == 7 + 3, "the unread one three times, and none again"
    assert lines(tmp_path) == 16
    assert result.figures["quality/clarity"].value == 75
    assert result.figures["quality"].value == pytest.approx((5 * 100 + 75) / 6)
    assert result.figures["overall"].value == pytest.approx((100 + (5 * 100 + 75) / 6) / 2)
    assert result.figures["quality"].n == 7
    assert result.figures["length_score"].n == 8
    assert any("1 of 8 replies of the judge could not be read" in note for note in result.notes)


def test_grades_corrected_by_people() -> None:
    """The judge gives 80 of 100 to all; people gave half of the texts 60 and 40."""
    reply = json.dumps({name: {"reason": "so", "score": 4.2} for name in QUALITY})
    outputs = [{"prompt": f"order {at}", "length": 3, "response": f"a b {at}"} for at in range(12)]
    labels = [{"prompt": row["prompt"], "answer": row["response"], "label": 60 - 20 * (at % 2),
               "label_quality/clarity": 100} for at, row in enumerate(outputs[:6])]  # fmt: skip
    made = LongOutput(outputs=outputs, judge=Scripted(lambda text: reply, name="judge"), labels=labels)
    found = made.measure().figures
    assert found["quality"].value == pytest.approx(80)
    assert found["quality_corrected"].value == pytest.approx(50)
    assert found["quality_judge_error"].value == pytest.approx(30)
    assert found["quality/clarity_corrected"].value == pytest.approx(100)
    assert "quality/accuracy_corrected" not in found
    one = {"id": "order-12", "kind": "own", "prompt": "order 11", "required": 3, "answer": "a b 11"}
    alone = made.graded([one], Context("long_output"))  # has no label, which is about all of them
    assert alone.rows[0]["quality"] == pytest.approx(80)
    assert not alone.figures
    with pytest.raises(SettingsError, match="give the `judge` too"):
        LongOutput(outputs=outputs, labels=labels).measure()
    with pytest.raises(RecordError, match="number from 0 to 100, not 101"):
        made.clone(labels=[{**labels[0], "label": 101}]).measure()


def test_given_outputs_and_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"prompt": "p", "length": length, "response": "word " * 100} for length in (100, 200, 1000, 600)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["measure", "long_output", "--outputs", str(path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["figures"]["length_score"]["value"] == pytest.approx(37.5)
    assert found["figures"]["length_score/0 to 500 words"]["value"] == pytest.approx(75)
    assert found["grids"][0]["title"] == "Length score by required length"


def test_the_sandbox_has_orders_of_known_length() -> None:
    result = measure(LongOutput(limit=6, max_new_tokens=24), load("sandbox/small"))
    assert result.figures["length_score"].n == 6
    for row in result.samples:
        assert row["required"] == required_length(row["prompt"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"records": ORDERS, "outputs": ORDERS}, SettingsError, "not both"),
        ({"outputs": ORDERS}, RecordError, "has its text as `response`"),
        ({"outputs": []}, RecordError, "no order"),
        ({"outputs": [{"prompt": "p", "length": "many", "response": "x"}]}, RecordError, "number of words"),
        ({"outputs": [{"length": 5}]}, RecordError, "an object with a `prompt`"),
        ({"outputs": ORDERS, "judge": 3}, SettingsError, "judge is a model"),
        ({"outputs": ORDERS, "retries": -1}, SettingsError, "retries"),
        ({"outputs": ORDERS, "judge_tokens": 0}, SettingsError, "judge_tokens"),
    ],
)
def test_what_cannot_work(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure(LongOutput(**settings))


@pytest.mark.real_data(REAL)
def test_orders_of_longbench_write() -> None:
    result = measure(LongOutput(records=str(REAL)), Scripted(lambda prompt: "word " * 500, name="five hundred"))
    assert result.figures["length_score"].n == 120
    assert result.figures["length_score/4000 to 20000 words"].value == 0
    rows = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    wanted = np.mean([length_score(row["length"], 500) for row in rows])
    assert result.figures["length_score"].value == pytest.approx(wanted)
    read = [required_length(row["prompt"]) for row in rows]
    right = [one == row["length"] for one, row in zip(read, rows) if one]
    assert np.mean(right) > 0.9


def test_many_texts_are_held_once(tmp_path: Path) -> None:
    rows = 4000
    with (tmp_path / "texts.jsonl").open("w") as file:
        for at in range(rows):
            row = {"prompt": f"Write about {at}.", "length": 5 + at % 30, "response": f"{at} word" * 20}
            file.write(json.dumps(row) + "\n")
    made = LongOutput(outputs=tmp_path / "texts.jsonl")
    made.clone(limit=10).measure()  # what is imported on the way is no part of it
    tracemalloc.start()
    try:
        orders, notes = made._orders()
        for row in orders:
            row["answer"] = row["response"]
        outcome = made.outcome(orders, notes, Context("long_output"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(outcome.rows) == rows
    # Texts take 350 bytes of it.
    assert peak / rows < 1400
