"""``truing serve`` in a process of its own: what it says, how it stops, and what it refuses."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import requests

from tests import tiny
from tests.cli.conftest import shell, truing  # noqa: F401
from tests.serving.conftest import steering
from truing.models import Model

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "steered"
    # Room enough for an answer that is still being written when the server is told to stop.
    Model(tiny.network(max_position_embeddings=2048), tiny.tokenizer()).with_modifier(steering(2.0)).save(place)
    return place


@contextlib.contextmanager
def started(*words: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and address, once it takes requests."""
    process = subprocess.Popen(
        [sys.executable, "-m", "truing", "serve", *map(str, words), "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **environment},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+/v1", line)
        assert found, line + process.stderr.read()
        yield process, found[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_stop_finishes_what_runs_and_refuses_what_is_new(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a-key-of-a-file\n")
    words = (folder, "weak=steered@steering=0.5", "--max-tokens", 2000, "--key-file", file, "--host", "0.0.0.0")
    with started(*words, TRUING_SERVE_KEY="another-key") as (process, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        for key in ("", "another-key"):
            assert (
                requests.get(url + "/models", headers={"Authorization": f"Bearer {key}"}, timeout=10).status_code == 401
            )
        client = openai.OpenAI(base_url=url, api_key="a-key-of-a-file", max_retries=0, timeout=60)
        assert [one.id for one in client.models.list()] == ["steered", "weak"]
        body = {"model": "steered", "messages": [{"role": "user", "content": "the cat"}], "seed": 1}
        alone = client.chat.completions.create(**body, max_tokens=600, temperature=9.0)
        kept = requests.Session()
        assert kept.get(url.removesuffix("/v1") + "/health", timeout=10).status_code == 200
        whole: list = []
        asking = threading.Thread(
            target=lambda: whole.append(client.chat.completions.create(**body, max_tokens=600, temperature=9.0))
        )
        asking.start()
        stream = client.chat.completions.create(**body, max_tokens=600, temperature=9.0, stream=True)
        first = next(stream)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
            client.chat.completions.create(**body, max_tokens=2)
        texts = [first.choices[0].delta.content or "", *(chunk.choices[0].delta.content or "" for chunk in stream)]
        asking.join()
        assert "".join(texts) == whole[0].choices[0].message.content == alone.choices[0].message.content
        assert process.wait(20) == 0
        assert process.stderr.read() == "Ctrl-C stops.\nStopped.\n"


def test_a_stop_does_not_wait_for_ever(folder: Path) -> None:
    with started(folder, "--stop-after", 1, TRUING_SERVE_KEY="") as (process, url):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        body = {"messages": [{"role": "user", "content": "x"}], "seed": 1, "n": 16, "temperature": 50.0}
        stream = client.chat.completions.create(model="steered", **body, max_tokens=2000, stream=True)
        next(stream)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 10
        stream.close()


def test_a_recipe_is_run_first_and_its_run_is_served(tmp_path: Path) -> None:
    recipe = tmp_path / "calm.yaml"
    recipe.write_text("model: sandbox/guide\nsteps:\n  - system_message: {text: Answer politely.}\nmeasures: []\n")
    words = [sys.executable, "-m", "truing", "serve"]
    process = subprocess.Popen(
        [*words, str(recipe), "again=runs/calm", "--port", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )  # fmt: skip
    said = ""
    try:
        while "Serving" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert "is a recipe: it is run first" in said
        url = re.search(r"http://\S+/v1", said)[0]
        told = requests.get(url + "/models", timeout=10).json()["data"]
        assert [one["id"] for one in told] == ["calm", "again"]
        assert told[0]["truing"] == told[1]["truing"]
        assert told[0]["truing"]["modifiers"][0]["name"] == "system_message"
        assert (tmp_path / "runs" / "calm" / "run.json").is_file()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_what_cannot_be_served_is_said_at_once(truing, folder, tmp_path) -> None:  # noqa: F811
    for words, says in (
        (["nowhere/at/all"], "no folder"),
        ([f"a={folder}", f"a={folder}"], "Two models"),
        ([folder, "--host", "0.0.0.0"], "anyone who reaches this machine"),
        ([folder, "--key-file", tmp_path / "none"], "cannot be read"),
        ([f"a={folder}", "b=a@nudging=1"], "no modifier 'nudging'"),
        ([], "MODEL"),
    ):
        done = truing("serve", *words)
        assert done.code == 2, (words, done.err)
        assert says in done.err
        assert "Traceback" not in done.err
    (tmp_path / "empty").write_text("\n")
    assert "holds no key" in truing("serve", folder, "--key-file", tmp_path / "empty").err
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "run.json").write_text('{"format": 1, "state": "running", "command": "truing run x"}')
    assert "not finished" in truing("serve", unfinished).err


def test_without_the_extra_it_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ImportError('absent')\n")
    done = subprocess.run(
        [sys.executable, "-m", "truing", "serve", str(folder)], capture_output=True, text=True, timeout=60,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(tmp_path), *map(os.path.abspath, sys.path)])},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'truing[serve]'" in done.stderr


def test_the_help_loads_no_server() -> None:
    code = (
        "import sys, truing.cli.app, truing.serving; "
        "sys.exit(any(name in sys.modules for name in ('fastapi', 'uvicorn', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, env=ENVIRONMENT).returncode == 0
    assert "--key-file" in shell("serve", "--help").stdout
