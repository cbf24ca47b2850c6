"""Answers of remote judges are on disk as they arrive: after kill -9 none is paid for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.models.server import Server, send, serving
from truing.measures.run import measure
from truing.models import RemoteModel
from truing.models.remote_cache import AnswerCache

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from truing import Judge, RemoteModel, measure
rows = [{"prompt": f"question {at}", "chosen": "good", "rejected": "bad"} for at in range(12)]
judge = Judge(model=RemoteModel("tiny", base_url=sys.argv[1], concurrency=int(sys.argv[3]), max_retries=0))
print(measure("judge_agreement", judge=judge, records=rows, out=sys.argv[2]).figures["accuracy"].value)
"""


def verdict(body: dict[str, Any]) -> dict[str, Any]:
    text = body["messages"][-1]["content"]
    best = "A" if "Answer A:\n> good" in text else "B"
    message = {"role": "assistant", "content": f"Better: {best}"}
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }  # fmt: skip


class Desk:
    """Answers verdicts until so many requests are there, and then holds every one back."""

    def __init__(self, server: Server, holds_after: int) -> None:
        self.server, self.left = server, holds_after
        self.held, self.open = threading.Event(), threading.Event()
        self.answered: list[str] = []
        server.script = [self.act] * 1000
        self.lock = threading.Lock()

    def act(self, handler: Any, body: dict[str, Any]) -> None:
        with self.lock:
            self.left -= 1
            holds = self.left < 0
        if holds:
            self.held.set()
            self.open.wait(60)
        try:
            send(200, verdict(body))(handler, body)
        except OSError:
            return  # whoever asked was killed
        with self.lock:
            self.answered.append(asked(body))


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def start(url: str, out: Path, concurrency: int) -> subprocess.Popen[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENAI_API_KEY": ""}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, url, str(out), str(concurrency)], env=surroundings, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_judgment_is_paid_for_twice_after_a_kill(tmp_path: Path, concurrency: int) -> None:
    with serving() as server:
        desk = Desk(server, holds_after=9)
        process = start(server.url, tmp_path, concurrency)
        assert desk.held.wait(60), process.communicate()[1]
        # An answer may still be on its way into the file; the journal of whole batches knows none of them.
        until = time.monotonic() + 30
        while len(kept(tmp_path)) < 9 and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before = list(desk.answered)
        assert len(kept(tmp_path)) == 9 == len(before)
        assert not list(tmp_path.glob("*.jsonl"))
        first = [asked(body) for body in server.requests]
        desk.left = 1000
        desk.open.set()
        again = start(server.url, tmp_path, concurrency)
        out, err = again.communicate(timeout=120)
        assert again.returncode == 0, err
        assert float(out) == 1.0
        second = [asked(body) for body in server.requests[len(first) :]]
    assert not set(second) & set(before), "what was answered before the kill is not asked again"
    assert len(second) == 24 - 9
    assert len(first) - len(before) <= concurrency, "only what was on its way is asked twice"


def kept(folder: Path) -> dict[str, Any]:
    import sqlite3

    file = folder / "remote" / "answers.sqlite"
    if not file.is_file():
        return {}
    with sqlite3.connect(file) as held:
        try:
            return dict(held.execute("SELECT key, answer FROM answers").fetchall())
        except sqlite3.OperationalError:  # the table is about to be made
            return {}


def test_remote_models_of_measures_are_kept_beside_the_journal(tmp_path: Path) -> None:
    with serving() as server:
        model = RemoteModel("tiny", base_url=server.url)
        rows = [{"prompt": f"question {at}", "answers": ["x"]} for at in range(3)]
        measure("length", model, records=rows, out=tmp_path)
        assert len(kept(tmp_path)) == 3
        own = RemoteModel("tiny", base_url=server.url, cache=tmp_path / "own", extra={"top_k": 3})
        measure("length", own, records=rows, out=tmp_path)
        assert len(kept(tmp_path)) == 3, "a model with a cache of its own keeps it"
        pairs = [{"prompt": f"question {at}", "chosen": "good", "rejected": "bad"} for at in range(3)]
        server.script = [lambda handler, body: send(200, verdict(body))(handler, body)] * 6
        for _ in range(2):
            found = measure("judge_agreement", model, records=pairs, out=tmp_path)
        assert found.figures["accuracy"].value == 1
        assert len(kept(tmp_path)) == 9
        assert len(server.requests) == 3 + 3 + 6
    assert AnswerCache(tmp_path / "absent").held(["x"]) == {}
    assert not (tmp_path / "absent").exists(), "asking makes no file"
