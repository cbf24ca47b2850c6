"""The ready recipes of factuality, from start to report, made small."""

from __future__ import annotations

from pathlib import Path

import pytest

from truing.runs import run


def test_radfact_on_four_reports(tmp_path: Path) -> None:
    result = run("radfact", out=tmp_path / "run")
    figures = result.results["radfact"].figures
    assert figures["logical_precision"].value == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert figures["logical_recall"].value == pytest.approx((2 / 3 + 0.5 + 1 + 1) / 4)
    # The sun's box lies elsewhere and the car's covers too much; those of the house and of the boat pass.
    assert figures["grounding_precision"].value == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert figures["spatial_precision"].value == pytest.approx((1 + 0 + 1 + 0) / 4)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "given data" in page
    assert "Precision, recall and F1" in page


def test_alignscore_trains_and_tests(tmp_path: Path) -> None:
    changes = [
        "align_score_training.epochs=1", "align_score_training.encoder.width=16", "align_score.limit=40",
        "align_score_training.records={path: sandbox/consistency, limit: 60}",
    ]  # fmt: skip
    result = run("alignscore", out=tmp_path / "run", overrides=changes)
    assert {"align_score", "supported", "auc", "auc_word_overlap", "accuracy"} <= set(
        result.results["align_score"].figures
    )
    assert (tmp_path / "run" / "report.html").is_file()
    assert result.model().pair_logits([("It rains.", "It rains.")]).shape == (1, 6)
