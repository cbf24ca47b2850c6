"""What a training will take is known before it starts."""

from __future__ import annotations

import pytest

from tests.methods.training import toy
from truing import DPO, SFT
from truing.errors import RecordError, TrainingError
from truing.methods.training.planning import duration, size


def test_a_plan_counts_what_align_would_do():
    rows = [*toy.preferences(10), {"prompt": "cat " * 400, "chosen": "a", "rejected": "b"}]
    plan = DPO(batch_size=4, epochs=2).plan(toy.model(), rows)
    assert (plan.rows, plan.steps) == (10, 6)
    assert plan.tokens < plan.repeated
    assert plan.longest <= 256
    assert plan.seconds > 0
    assert any("1 of 11 rows" in note for note in plan.notes)
    assert "10 rows" in str(plan)
    assert "6 steps" in str(plan)
    assert DPO(batch_size=4, max_steps=3).plan(toy.model(), rows).steps == 3
    assert DPO(tokens_per_batch=100).plan(toy.model(), rows).steps > 2


def test_memory_grows_with_the_batch_and_shrinks_with_adapters_and_checkpointing():
    def memory(**settings):
        return DPO(**settings).plan(toy.model(), toy.preferences(16)).memory

    assert memory(batch_size=16) > memory(batch_size=2)
    assert memory(batch_size=16, gradient_checkpointing=True) < memory(batch_size=16)
    assert memory(adapter={"type": "lora", "r": 1}, batch_size=2) < memory(batch_size=2)


def test_a_plan_fails_where_align_would():
    with pytest.raises(TrainingError, match="No row is left"):
        SFT(max_length=8).plan(toy.model(), [{"prompt": "cat " * 20, "completion": "a"}])
    with pytest.raises(RecordError):
        DPO().plan(toy.model(), [{"prompt": "a"}])


def test_sizes_and_times_are_for_people():
    assert [size(n) for n in (12, 4_200, 59_000_000, 1.2e9, 7e15)] == [
        "12 bytes",
        "4.2 kB",
        "59 MB",
        "1.2 GB",
        "7000 TB",
    ]
    assert [duration(s) for s in (0.2, 59, 400, 9000)] == ["1 s", "59 s", "7 min", "2.5 h"]
