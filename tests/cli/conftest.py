"""Tiny models on disk, and the command line run inside this process as a shell would run it."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from truing.cli import main


@dataclasses.dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Truing = Callable[..., Done]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slowed by threads, and one in a process of its own gives the same numbers then."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def truing(monkeypatch: pytest.MonkeyPatch) -> Truing:
    """Run a command: ``truing("methods", "--json", stdin="")``; 100 columns wide unless told."""

    def run(*words: object, stdin: str = "", width: int = 100) -> Done:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        monkeypatch.undo()
        return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())

    return run


def shell(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "truing", *map(str, words)],
        capture_output=True, text=True, timeout=120, env=environment, **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny models of one tokenizer, and a third of another."""
    from tests import tiny

    place = tmp_path_factory.mktemp("models")
    made = {}
    for name, seed, size in (("a", 0, 320), ("b", 1, 320), ("other", 2, 300)):
        made[name] = place / name
        tiny.network(seed=seed, vocabulary=size).save_pretrained(made[name])
        tiny.tokenizer(size).save_pretrained(made[name])
    return made
