"""Preferences of the HH-RLHF set, read as they are, on a tiny model."""

from __future__ import annotations

import json

import pytest

from tests.methods.training import toy
from tests.shared import DATA
from truing import DPO, records
from truing.methods.training.encoding import encode

FILE = DATA / "hh_rlhf/harmless_base.jsonl"


@pytest.mark.real_data(FILE)
def test_every_pair_is_encoded_or_counted_and_a_model_learns_some(tmp_path):
    rows = records.read(FILE)
    start = toy.model(max_position_embeddings=2048)
    for truncate in ("end", "start", "drop"):
        found, counts, limit = encode(start, rows, DPO().objective(), max_length=512, truncate=truncate)
        assert limit == 512
        assert len(found) + counts.left_out == counts.rows == len(rows)
        assert all(row.width <= limit for row in found)
    some = rows.select([row.index for row in found[:16]])
    DPO(learning_rate=3e-3, epochs=6, batch_size=8, warmup_ratio=0.0, max_length=512).align(start, some, out=tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][1:]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert log[-1]["rewards/accuracies"] + log[-2]["rewards/accuracies"] >= 1.5
