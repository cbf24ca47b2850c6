"""A run with awkward text in it, made by hand: real figures and results, no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from truing.measures.result import Figure, Result
from truing.runs.result import RunResult

NASTY = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "line\u2028separator and \u202eoverride",
    "مرحبا بالعالم",
    "{{ 7 * 7 }} {% raw %}",
    "</bdi></div></body><script>document.title='owned'</script>",
    "nul\x00 and a lone surrogate \ud800",
    "`code` **bold** [link](javascript:alert(1)) | pipe",
]


def figure(value: float, half: float = 0.05, unit: str = "share", better: str = "higher") -> Figure:
    low, high = value - half, value + half
    if unit == "share":
        low, high = max(0.0, low), min(1.0, high)
    return Figure(value, low, high, 200, "Clopper-Pearson" if unit == "share" else "bootstrap", unit, better)


def difference(value: float, half: float = 0.06, unit: str = "share", better: str = "higher") -> Figure:
    return Figure(value, value - half, value + half, 200, "paired bootstrap", unit, better)


def hhh(helpful: float = 0.81, texts: list[str] | None = None) -> Result:
    samples = []
    for index, text in enumerate(texts or [*NASTY, "The stone is grey.", "I can not help with that."]):
        moved = index % 2 == 0
        samples.append(
            {
                "id": f"q{index}", "prompt": f"Question {index}: {text}",
                "kind": "harmful" if index % 3 == 0 else "fact",
                "answer": text, "grade": "correct" if moved else "wrong",
                "against_answer": f"Sure. {text} indeed", "against_grade": "wrong",
            }
        )  # fmt: skip
    return Result(
        name="hhh", model={"name": "after", "history": []},
        figures={"helpful": figure(helpful), "harmless": figure(0.93), "honest": figure(0.5)},
        against={"helpful": figure(0.42), "harmless": figure(0.31), "honest": figure(0.48)},
        differences={"helpful": difference(helpful - 0.42), "harmless": difference(0.62), "honest": difference(0.02)},
        samples=samples, notes=["2 answers reached the length limit.", NASTY[0]],
        usage={"calls": {"model": 812, "guide": 90},
               "positions": {"model": 40210, "guide": 5120}, "completion_tokens": 9000},
        seconds=12.5,
    )  # fmt: skip


def side_effect(name: str, before: float, after: float, unit: str, better: str, half: float) -> Result:
    return Result(
        name=name, model={"name": "after", "history": []}, figures={name: figure(after, half, unit, better)},
        against={name: figure(before, half, unit, better)},
        differences={name: difference(after - before, half, unit, better)},
        seconds=1.5,
    )  # fmt: skip


def run_result(folder: Path, by_step: bool = True) -> RunResult:
    """Lies in a folder as a real run does, apart from the weights."""
    steps: list[dict[str, Any]] = []
    for index, (method, kind) in enumerate([("sft", "demonstration"), ("dpo", "preference"), ("nudging", None)]):
        name = f"{index + 1:02d}-{method}"
        (folder / "steps" / name / "model").mkdir(parents=True)
        data = (
            {
                "source": f"sandbox/{kind}s",
                "kind": kind,
                "rows": 1200,
                "set_aside": 3,
                "notes": {"turns dropped": 2},
                "fingerprint": "9f86d081884c7d65",
            }
            if kind
            else None
        )
        changed = {"beta": 0.1} if method == "dpo" else {"guide": "sandbox/guide"} if method == "nudging" else {}
        steps.append(
            {
                "folder": name, "method": method, "state": "done", "starts": 2 if method == "dpo" else 1, "data": data,
                "seconds": 61.25, "settings": {"learning_rate": 0.0005, "note": NASTY[0], **changed},
                "changed": changed,
                "trained": kind is not None, "finished": "2030-01-01T10:02:00+00:00",
            }
        )  # fmt: skip
        if kind:
            rows = [
                {
                    "step": step,
                    "steps": 80,
                    "loss": 3 / (1 + step / 20),
                    "learning_rate": 5e-4 * (1 - step / 80),
                    "grad_norm": 1.0 + step % 3,
                }
                | ({"rewards/accuracies": 0.5 + step / 200, "rewards/margins": step / 40} if method == "dpo" else {})
                for step in range(1, 81)
            ]
            (folder / "steps" / name / "log.jsonl").write_text(
                "\n".join(json.dumps(row) for row in rows) + '\n{"step": 81, "lo'
            )
    results = {
        "hhh": hhh(),
        "perplexity": side_effect("perplexity", 6.4, 6.9, "perplexity", "lower", 0.2),
        "over_refusal": side_effect("over_refusal", 0.02, 0.12, "share", "lower", 0.03),
        "length": side_effect("length", 8.1, 12.7, "words", "neither", 0.5),
        "kl": side_effect("kl", 0.0, 0.31, "nats per token", "neither", 0.02),
    }
    measures = [
        {
            "label": label,
            "file": f"{label}.json",
            "side_effect": label in ("length", "kl"),
            "state": "done",
            "seconds": 3.2,
        }
        for label in results
    ]
    versions = {"truing": "0.1.0", "python": "3.11.4", "torch": "2.13.0"}
    state = {
        "format": 1, "state": "finished", "name": "example <b>",
        "command": "truing run example --set 'model=a;b'", "seed": 0,
        "recipe": {"model": "sandbox/base", "description": "An example & a test.", "against": None,
                   "report": "report.html"},
        "started": "2030-01-01T10:00:00+00:00", "finished": "2030-01-01T10:04:00+00:00",
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "device": "CPU"},
        "start": {"name": "sandbox/base", "source": "sandbox/base", "fingerprint": "ab12cd34"},
        "steps": steps, "measures": measures,
        "notes": ["`kl` is not shown for remote models."],
        "sessions": [{"started": "2030-01-01T10:00:00+00:00", "pid": 1, "versions": versions, "threads": 1}] * 2,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text("model: sandbox/base\nsteps:\n- sft: {records: sandbox/demonstrations}\n")
    stages = {"01-sft": {"hhh": hhh(0.66)}, "02-dpo": {"hhh": hhh(0.74)}} if by_step else {}
    return RunResult(folder, state, results, stages, folder / "report.html")
