"""The measure of support: what is counted, the evidence that is shown, and each of its three uses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.measures.models import Scripted, lines
from tests.rewards.test_align_score import Words
from truing import AlignScoreMeasure, load, measure, sandbox
from truing.errors import SettingsError
from truing.measures.align_score import auc, auc_values, word_overlap

NOTE = "The cat sat. The dog ran."
PAIRS = [
    {"prompt": NOTE, "completion": "The cat sat. The dog ran.", "label": True},
    {"prompt": NOTE, "completion": "The cat sat. A bird sang.", "label": False},
    {"prompt": "The sun set.", "completion": "The sun set.", "label": True},
    {"prompt": "The sun set.", "completion": "", "label": False},
    {"prompt": "It rained.", "completion": "Nobody knew!", "label": False},
]


class Judge(Words):
    """Known values behind what a measure asks of a model."""

    offers = frozenset({"scores"})
    fingerprint = "words"
    modifiers = ()
    history = ()

    def generate(self, *args: Any, **settings: Any) -> None:
        raise AssertionError("it scores")


def test_figures_by_hand() -> None:
    result = AlignScoreMeasure(pairs=PAIRS, scorer=Judge(), threshold=0.9).measure()
    figures = result.figures
    scores = [1, 0.5, 1, 0]
    assert figures["align_score"].value == pytest.approx(np.mean(scores))
    assert figures["supported"].value == pytest.approx(4 / 6)
    assert figures["auc"].value == 1.0
    assert figures["accuracy"].value == 1.0
    assert figures["auc_word_overlap"].value == 1.0
    assert all(figure.n == 4 for name, figure in figures.items() if name != "supported")
    assert "1 of 5 claims have no sentence; they do not count." in result.notes
    assert result.samples[3]["grade"] == "no sentence"
    assert result.model == {}


def test_the_evidence_is_shown() -> None:
    result = AlignScoreMeasure(pairs=PAIRS, scorer=Judge(), threshold=0.9).measure()
    row = result.samples[1]
    assert row["sentences"] == ["The cat sat.", "A bird sang."]
    assert row["chunks"] == [NOTE]
    assert np.array(row["matrix"]) == pytest.approx(np.array([[1, 0]]))
    assert row["evidence"] == [NOTE, NOTE]
    shown = str(result)
    assert 'Little support (0.00) in pair-2: "A bird sang." Best evidence: "The cat sat. The dog ran."' in shown
    assert 'in pair-5: "Nobody knew!"' in shown


def test_without_labels_or_with_one_kind_of_them() -> None:
    told = [{key: row[key] for key in ("prompt", "completion")} for row in PAIRS]
    result = AlignScoreMeasure(pairs=told, scorer=Judge()).measure()
    assert set(result.figures) == {"align_score", "supported"}
    one = AlignScoreMeasure(pairs=[row for row in PAIRS if row["label"]], scorer=Judge()).measure()
    assert "auc" not in one.figures
    assert any("of one kind" in note for note in one.notes)


def test_a_model_that_writes_is_asked_and_held_against_contexts(tmp_path: Any) -> None:
    rows = [{"prompt": f"What of {at}?", "answers": ["x"], "context": f"The cat sat on {at}."} for at in range(4)]
    writer = Scripted(lambda prompt: f"The cat sat on {prompt[8]}." if prompt[8] != "3" else "A bird sang.", name="who")
    judge = Judge()
    what = AlignScoreMeasure(records=rows, scorer=judge)
    result = measure(what, writer, out=tmp_path)
    assert [row["align_score"] for row in result.samples] == pytest.approx([1, 1, 1, 0])
    assert result.samples[0]["context"] == "The cat sat on 0."
    before = (lines(tmp_path), len(judge.asked))
    assert measure(what, writer, out=tmp_path).figures == result.figures
    assert (lines(tmp_path), len(judge.asked)) == before, "a second call asks nobody"
    other = Scripted(lambda prompt: "A bird sang.", name="other")
    compared = measure(what, writer, other)
    assert compared.differences is not None
    assert compared.differences["align_score"].value == pytest.approx(0.75)


def test_a_scorer_is_tested_on_the_sandbox_and_two_are_compared() -> None:
    class Blind(Judge):
        fingerprint = "blind"

        def pair_logits(self, pairs: Any, **how: Any) -> np.ndarray:
            return np.zeros((len(pairs), 6))

    result = measure("align_score", Judge(), Blind(), limit=120)
    assert result.figures["auc"].value > 0.6
    assert result.against is not None
    assert result.differences is not None
    assert result.against["auc"].value == 0.5
    assert result.against["auc"].low <= 0.5 <= result.against["auc"].high
    assert result.differences["auc"].low > 0
    labels = [row["label"] for row in sandbox.records("consistency", "test", 120)]
    assert [row["label"] for row in result.samples] == labels


def test_answers_to_the_sandbox_have_exact_grades() -> None:
    scorer = Judge()
    scorer.offers = frozenset()
    result = measure(AlignScoreMeasure(scorer=scorer, limit=12), load("sandbox/guide"))
    assert {"align_score", "supported"} <= set(result.figures)
    assert all(row["context"] in row["prompt"] for row in result.samples)


@pytest.mark.parametrize(
    ("settings", "model", "why"),
    [
        ({"scorer": 3, "pairs": PAIRS}, None, "scorer is a model"),
        ({"scorer": Judge(), "pairs": PAIRS, "mode": "smart"}, None, "mode is one of"),
        ({"scorer": Judge(), "pairs": PAIRS, "records": PAIRS}, None, "but not|records to ask"),
        ({"scorer": Judge()}, Judge(), "is itself a scorer"),
        ({}, Scripted(str), "held against their contexts by a scorer"),
        ({"scorer": Judge(), "pairs": PAIRS}, Scripted(str), "asks no model"),
        ({}, None, "measures a model"),
        ({"scorer": "sandbox/small", "pairs": PAIRS}, None, "has no heads that judge pairs"),
    ],
)
def test_bad_input_is_one_clear_error(settings: Any, model: Any, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        AlignScoreMeasure(**settings).measure(model)


def test_area_under_the_curve_by_hand_and_by_counting() -> None:
    assert auc([3, 2, 1, 2], [1, 1, 0, 0]) == pytest.approx((2 + 1.5) / 4)
    with pytest.raises(ValueError, match="both labels"):
        auc([1, 2], [1, 1])
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 6, 40), rng.random(40) < 0.3
        if labels.all() or not labels.any():
            continue
        gaps = scores[labels][:, None] - scores[~labels][None]
        assert auc(scores, labels) == pytest.approx(np.mean((gaps > 0) + 0.5 * (gaps == 0)))
        values = auc_values(scores, labels)
        assert values.mean() == pytest.approx(auc(scores, labels))


def test_the_interval_of_the_area_under_the_curve_is_as_wide_as_it_varies() -> None:
    from scipy.stats import norm

    rng, errors, found = np.random.default_rng(1), [], []
    for _ in range(300):
        labels = rng.random(80) < 0.4
        scores = rng.normal(size=80) + labels
        found.append(auc(scores, labels))
        values = auc_values(scores, labels)
        errors.append(values.std(ddof=1) / np.sqrt(80))
    assert np.mean(found) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.15)


def test_word_overlap() -> None:
    assert word_overlap("The cat sat.", "the CAT ran") == pytest.approx(2 / 3)
    assert word_overlap("The cat", "") == 0


def test_through_the_command_line(tmp_path: Any) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in sandbox.records("consistency", "train", 60)))
    run = CliRunner()
    trained = run.invoke(app, ["align", "align-score-training", "--model", "sandbox/small", "--records", str(pairs),
                               "--out", str(tmp_path / "scorer"), "--learning-rate", "0.003", "--epochs", "1",
                               "--encoder", '{"width": 16, "layers": 1, "heads": 2}'])  # fmt: skip
    assert trained.exit_code == 0, trained.output
    tested = run.invoke(app, ["measure", "align-score", "--model", str(tmp_path / "scorer"), "--limit", "40"])
    assert tested.exit_code == 0, tested.output
    assert "auc" in tested.output
    given = run.invoke(
        app, ["measure", "align-score", "--scorer", str(tmp_path / "scorer"), "--pairs", str(pairs), "--json"]
    )
    assert given.exit_code == 0, given.output
    found = json.loads(given.output[given.output.index("{") :])
    assert found["figures"]["align_score"]["n"] == 60
    assert len(found["samples"][0]["matrix"][0]) == len(found["samples"][0]["sentences"])
