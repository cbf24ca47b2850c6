"""Best-fit decreasing: by hand, as an invariant, and row by row against TRL."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from truing.methods.training.packing import Piece, block_ends, block_positions, pack_bfd, utilisation


def test_the_worked_rows_of_the_page():
    rows = pack_bfd([5, 2, 3, 1], 6)
    assert rows == [[Piece(0, 0, 5), Piece(3, 0, 1)], [Piece(2, 0, 3), Piece(1, 0, 2)]]
    assert utilisation(rows, 6) == pytest.approx(11 / 12)
    assert block_ends([5, 1]) == [0, 5, 6]
    assert block_positions([5, 1]) == [0, 1, 2, 3, 4, 0]


def test_best_fit_and_not_first_fit():
    # 3 goes beside 5 (space 3), not beside 4 (space 4), which 4 then fills.
    rows = pack_bfd([4, 5, 3], 8)
    assert rows == [[Piece(1, 0, 5), Piece(2, 0, 3)], [Piece(0, 0, 4)]]


def test_overflow_and_refusals():
    with pytest.raises(ValueError, match="Sample 1 has 9 tokens and a row holds 4"):
        pack_bfd([2, 9], 4)
    assert pack_bfd([2, 9], 4, overflow="truncate") == [[Piece(1, 0, 4)], [Piece(0, 0, 2)]]
    split = pack_bfd([2, 9], 4, overflow="split")
    assert split == [[Piece(1, 0, 4)], [Piece(1, 4, 8)], [Piece(0, 0, 2), Piece(1, 8, 9)]]
    assert pack_bfd([0, 0], 4) == []
    assert utilisation([], 4) == 1
    with pytest.raises(ValueError, match="at least one"):
        pack_bfd([1], 0)
    with pytest.raises(ValueError, match="Known: error"):
        pack_bfd([1], 4, overflow="drop")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 24))
def test_every_token_once_and_no_two_rows_that_fit_in_one(lengths, capacity):
    rows = pack_bfd(lengths, capacity, overflow="split")
    seen = sorted((piece.sample, at) for row in rows for piece in row for at in range(piece.start, piece.end))
    assert seen == [(sample, at) for sample, length in enumerate(lengths) for at in range(length)]
    filled = [sum(piece.length for piece in row) for row in rows]
    assert max(filled, default=0) <= capacity
    # Were two rows half empty, the second one's first piece had gone into the first.
    assert sum(2 * one <= capacity for one in filled) <= 1


def test_rows_are_those_of_trl():
    import numpy as np
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    random = np.random.default_rng(0)
    for capacity, strategy, overflow in ((32, "bfd", "truncate"), (17, "bfd_split", "split")):
        lengths = random.integers(0, 40, 200).tolist()
        ids = [[1000 * sample + at for at in range(length)] for sample, length in enumerate(lengths)]
        theirs = pack_dataset(Dataset.from_dict({"input_ids": ids}), capacity, strategy)["input_ids"]
        mine = pack_bfd(lengths, capacity, overflow=overflow)
        flat = [[1000 * p.sample + at for p in row for at in range(p.start, p.end)] for row in mine]
        assert flat == [list(row) for row in theirs]
