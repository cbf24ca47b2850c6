"""Derived prompts against original ones, on a black box of the sandbox behind the real server, over three seeds.

The black box is ``sandbox/base`` in a process of its own, ``truing serve``, and is only ever asked over HTTP: by the
training of the writer, for the examples, and for the answers that count. Settings were chosen on ``dev``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import truing as tr
from benchmarks.proving import table
from truing import sandbox
from truing.measures.result import Figure, Result
from truing.measures.statistics import share
from truing.reports.rows import interval

QUESTIONS = 240
WRITER = {"instruction": "{prompt}", "max_new_tokens": 64}
TRAINING = {
    **WRITER, "response_tokens": 48, "reward": {"sandbox_grade": {"unknown": 0}}, "learning_rate": 5e-4,
    "max_steps": 50,
}  # fmt: skip
# The small base reads an example in its own form: question, answer, question.
QUERY = {**WRITER, "response_tokens": 48, "template": "{derived} {response} {prompt}"}
BASELINES = {"others": {"n": 6, "prompts_per_step": 6}, "greedy": {"n": 3, "prompts_per_step": 12}}
NAMES = {"others": "RLOO", "greedy": "ReMax"}


@contextlib.contextmanager
def served(model: str) -> Iterator[str]:
    """The address of a server that serves one model under the name ``box``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "truing", "serve", f"box={model}", "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+/v1", line)
        if found is None:
            raise SystemExit(f"The server did not start: {line}{process.stderr.read()}")
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


def figure(values: Sequence[float], prompts: Sequence[str]) -> str:
    """A share with its interval."""
    found = share([float(value) for value in values], clusters=list(prompts))
    return interval(Figure(found.value, found.low, found.high, len(values), found.method))


def row(result: Result, name: str, seed: int) -> list[Any]:
    """What a model's answers are worth, and the pairs it wins from the original prompts less those it loses."""
    graded = [
        (one["kind"], one["prompt"], tr.SandboxGrade(grade="helpful")([one["prompt"]], [one["answer"]])[0])
        for one in result.samples
    ]
    notes = [(prompt, value) for kind, prompt, value in graded if kind == "context"]
    return [
        name, seed,
        figure([value for _, _, value in graded], [prompt for _, prompt, _ in graded]),
        interval(result.figures["win_minus_lose"]),
        figure([value for _, value in notes], [prompt for prompt, _ in notes]),
    ]  # fmt: skip


def drift(log: Path, name: str, seed: int) -> list[Any]:
    """The first and the last ten steps of a training, as means."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()][1:]
    found = []
    for part in (lines[:10], lines[-10:]):
        for figure_name in ("reward", "original_reward", "similarity", "kl"):
            found.append(f"{np.mean([one[figure_name] for one in part]):.2f}")
    return [name, seed, *(f"{found[at]} → {found[at + 4]}" for at in range(4))]


def proved(seed: int, url: str, out: Path) -> tuple[list[list[Any]], list[list[Any]]]:
    """Rows of both tables for one seed."""
    box = dataclasses.replace(tr.load("openai/box", base_url=url), concurrency=32, cache=out / "answers")
    rewrite = tr.SFT(learning_rate=1e-3, epochs=2, batch_size=16, seed=seed)
    rewriter = rewrite.align(tr.load("sandbox/base"), sandbox.records("rewrites", n=3000, seed=seed))
    prompts = sandbox.records("questions", n=1000, seed=seed)
    writers, drifts = {"untrained": rewriter}, []
    for baseline, size in BASELINES.items():
        method = tr.DerivedPrompt(responder=box, baseline=baseline, seed=seed, **size, **TRAINING)
        place = out / f"{baseline}-{seed}"
        writers[NAMES[baseline]] = method.align(rewriter, prompts, out=place)
        drifts.append(drift(place / "log.jsonl", NAMES[baseline], seed))
    judge = tr.WinRate(
        judge=tr.SandboxGrade(), records=sandbox.records("questions", "test", QUESTIONS, seed), max_new_tokens=48
    )
    rows = [row(judge.measure(box, box), "original prompts", seed)]
    for name, writer in writers.items():
        for how in ("replace", "example", "turns"):
            aligned = tr.InContextQuery(writer=writer, how=how, seed=seed, **QUERY).align(box)
            rows.append(row(judge.measure(aligned, box), f"{name}, `{how}`", seed))
    return rows, drifts


def derived(seeds: Sequence[int], out: Path) -> str:
    """Win rates of derived prompts against original ones, and how far writers drift in training."""
    rows, drifts = [], []
    with served("sandbox/base") as url:
        for seed in seeds:
            found, moved = proved(seed, url, out / "derived")
            rows += found
            drifts += moved
    names = list(dict.fromkeys(one[0] for one in rows))
    rows.sort(key=lambda one: (names.index(one[0]), one[1]))
    drifts.sort(key=lambda one: (list(NAMES.values()).index(one[0]), one[1]))
    return "\n\n".join(
        (
            table(["writer, how", "seed", "right and courteous", "won less lost", "questions on a note"], rows),
            table(["training", "seed", "reward (x', y')", "reward (x, y')", "similarity", "KL a token"], drifts),
        )
    )


if __name__ == "__main__":
    print(derived([0, 1, 2], Path("runs/proofs/inference")))
