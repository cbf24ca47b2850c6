"""Inspect evaluations of a local model: through truing, through Inspect's own ``hf``, and bare generation.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python -m benchmarks.measures_inspect

What Inspect itself costs a sample is measured with a provider that answers at once, from what was generated before; the
floor of a provider is that and bare generation together. What the provider costs is measured without Inspect: all its
requests at once, from one loop. All ways run in turns in one process. Waiting is the
point, so seconds are those of a clock; processor seconds stand in brackets, since machines are shared. Each way counts
with its least round, since what else a machine does only adds.

The models are the sandbox's base and the same function in more numbers; answers of all ways are checked to be equal.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoding_nudging import enlarged
from benchmarks.proving import table
from truing import Model, load
from truing.frameworks import as_inspect
from truing.models.local import parameter_count
from truing.sandbox import items

SAMPLES, NEW, ROUNDS = 256, 32, 4
SIZES: dict[str, tuple[int, int, int, int] | None] = {"the sandbox's base": None, "enlarged": (384, 6, 1024, 12)}
SETTINGS: dict[str, dict[str, Any]] = {
    "256 at once, plain log": {
        "max_samples": SAMPLES, "max_connections": SAMPLES, "log_realtime": False, "score_display": False,
    },
    "as Inspect is shipped": {},
}  # fmt: skip
Timed = tuple[float, float]


def race() -> str:
    """Markdown tables: seconds of each way, and their ratios."""
    torch.set_num_threads(1)
    rows = []
    for name, shape in SIZES.items():
        base: Any = load("sandbox/base")
        model = enlarged(base, *shape) if shape else base
        with tempfile.TemporaryDirectory() as place:
            model.save(Path(place) / "model")
            for setting, how in SETTINGS.items():
                rows.append([f"{name}, {parameter_count(model) / 1e6:.1f}M", setting, *_raced(model, place, how)])
    return table(
        [
            "model", "Inspect's settings", "bare generation, s", "the provider without Inspect, s",
            "Inspect without a model, s", "truing, s", "hf, s", "the provider / bare", "truing / floor", "hf / truing",
            "equal answers",
        ],
        rows,
    )  # fmt: skip


def _raced(model: Model, place: str, how: dict[str, Any]) -> list[str]:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    kinds = ("fact", "benign", "harmful", "context")
    prompts = [item.prompt for kind in kinds for item in items(kind, n=SAMPLES // len(kinds))]
    known = dict(zip(prompts, model.generate(prompts, max_new_tokens=NEW).texts))
    folder = str(Path(place) / "model")
    models = {
        "nothing": _nothing(known),
        "truing": as_inspect(model, "raced"),
        "hf": get_model("hf/raced", model_path=folder, tokenizer_path=folder, device="cpu", do_sample=False),
    }

    def through(which: str) -> dict[Any, str]:
        samples = [Sample(input=prompt, target="the", id=at) for at, prompt in enumerate(prompts)]
        task = Task(
            dataset=MemoryDataset(samples), solver=generate(), scorer=includes(),
            config=GenerateConfig(max_tokens=NEW, temperature=0.0),
        )  # fmt: skip
        (log,) = eval(task, model=models[which], display="none", log_dir=place, **how)
        if log.status != "success" or not log.samples:
            raise RuntimeError(f"{which}: {log.error}")
        return {sample.id: sample.output.completion for sample in log.samples}

    def alone() -> dict[int, str]:
        async def together() -> list[str]:
            config, api = GenerateConfig(max_tokens=NEW, temperature=0.0), models["truing"].api
            asked = [api.generate([ChatMessageUser(content=prompt)], [], "auto", config) for prompt in prompts]
            return [output.completion for output in await asyncio.gather(*asked)]

        return dict(enumerate(asyncio.run(together())))

    ways: dict[str, Callable[[], Any]] = {
        "bare": lambda: dict(enumerate(model.generate(prompts, max_new_tokens=NEW).texts)),
        "alone": alone,
        **{which: (lambda which=which: through(which)) for which in models},  # type: ignore[misc]
    }
    found = {name: run() for name, run in ways.items()}
    equal = [sum(found["bare"][at] == found[which][at] for at in range(len(prompts))) for which in ("truing", "hf")]
    taken: dict[str, list[Timed]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, run in list(ways.items())[:: -1 if number % 2 else 1]:
            clock, processor = time.perf_counter(), time.process_time()
            run()
            taken[name].append((time.perf_counter() - clock, time.process_time() - processor))

    clock, processor = ({name: min(one[which] for one in taken[name]) for name in ways} for which in (0, 1))

    def ratio(one: str, *others: str) -> str:
        return " ".join(
            form.format(taken[one] / sum(taken[other] for other in others))
            for form, taken in (("{:.2f}", clock), ("({:.2f})", processor))
        )

    return [
        *(f"{clock[name]:.1f} ({processor[name]:.1f})" for name in ways),
        ratio("alone", "bare"),
        ratio("truing", "bare", "nothing"),
        ratio("hf", "truing"),
        f"{equal[0]} and {equal[1]} of {len(prompts)}",
    ]


def _nothing(known: dict[str, str]) -> Any:
    """A model of Inspect that says at once what is known."""
    from inspect_ai.model import GenerateConfig, Model, ModelAPI, ModelOutput, ModelUsage, modelapi

    class Nothing(ModelAPI):
        async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> ModelOutput:
            output = ModelOutput.from_content(self.model_name, known[input[-1].text])
            output.usage = ModelUsage(input_tokens=20, output_tokens=20, total_tokens=40)
            return output

        def max_tokens(self) -> int:
            return NEW

    made: Any = modelapi("nothing")(Nothing)
    config = GenerateConfig()
    return Model(made(model_name="raced", config=config), config)


if __name__ == "__main__":
    print(race())
