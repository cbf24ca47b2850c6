"""A file is written whole, or the old one stays."""

from __future__ import annotations

import pytest

from truing.files import write_atomic


def test_a_file_is_written_with_its_folders_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "notes.json"
    write_atomic(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_where_writing_fails_the_old_file_stays(tmp_path):
    path = tmp_path / "notes.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text(encoding="utf-8") == "old"


def test_pieces_make_one_file_or_none(tmp_path):
    path = tmp_path / "notes.json"
    write_atomic(path, iter(["one ", "é\n", "two"]))
    assert path.read_text(encoding="utf-8") == "one é\ntwo"

    def broken():
        yield "half"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_atomic(path, broken())
    assert path.read_text(encoding="utf-8") == "one é\ntwo"
