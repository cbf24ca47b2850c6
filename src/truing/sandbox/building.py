"""Building the sandbox's tokenizer and models from the seed."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truing import progress
from truing.errors import ModelError
from truing.sandbox.corpus import documents, lessons
from truing.sandbox.data import records

TOKENIZER_DOCUMENTS = 40_000


@dataclass(frozen=True)
class Plan:
    """One model: its shape, and how many tokens it reads of the web, and of lessons before that."""

    width: int
    layers: int
    inner: int
    tokens: int
    lessons: int
    seed: int


PLANS = {
    "base": Plan(width=128, layers=4, inner=384, tokens=2_400_000, lessons=450_000, seed=0),
    "small": Plan(width=96, layers=3, inner=256, tokens=1_800_000, lessons=500_000, seed=1),
}
GUIDE = {"demonstrations": 3000, "epochs": 2, "rate": 1e-3, "batch": 16, "seed": 7}


def build(
    out: str | Path, *, names: Sequence[str] = ("base", "small", "guide"), scale: float = 1.0
) -> dict[str, float]:
    """Train the tokenizer and the models, and write each to its folder ``out/NAME`` once it is whole.

    Documents, order and first weights follow from fixed seeds, so one machine with one number of threads makes the same
    files again.

    Args:
        out: an existing or new folder.
        names: which models; the guide needs small, which is read from ``out`` if it is not named.
        scale: how much text and how many demonstrations, relative to the shipped models (0.01 for a quick try).

    Returns:
        Seconds by step.

    Raises:
        ModelError: a name is unknown, scale is not over 0, or the guide's small model is missing.
    """
    place = Path(out)
    unknown = [name for name in names if name not in (*PLANS, "guide")]
    if unknown or not names:
        raise ModelError(f"The sandbox's models are base, small and guide, not {', '.join(unknown) or 'none'}.")
    if not scale > 0:
        raise ModelError(f"scale is how much text to read relative to the shipped models, over 0; got {scale!r}.")
    if "guide" in names and "small" not in names and not (place / "small" / "model.safetensors").exists():
        raise ModelError(f"The guide is made from small, and {place / 'small'} is not there. Name small too.")
    place.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def timed(label: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        seconds[label] = time.perf_counter() - begin
        progress.say(f"{label}: {seconds[label]:.0f} s")
        return result

    tokenizer = timed("tokenizer", make_tokenizer)
    made: dict[str, Any] = {}
    for name, plan in PLANS.items():
        if name in names:
            smaller = replace(plan, tokens=max(20_000, int(plan.tokens * scale)), lessons=int(plan.lessons * scale))
            made[name] = timed(name, functools.partial(make_model, smaller, tokenizer, name))
            save(made[name], tokenizer, place / name)
    if "guide" in names:
        guide = timed("guide", lambda: make_guide(made.get("small") or _load(place / "small"), tokenizer, scale))
        save(guide, tokenizer, place / "guide")
    return seconds


def make_tokenizer() -> Any:
    """The tokenizer, from documents that the models do not read."""
    from truing.sandbox.tokenizer import train_tokenizer

    def texts() -> Any:
        for document in documents(TOKENIZER_DOCUMENTS, seed=99):
            yield document if isinstance(document, str) else "\n".join(message["content"] for message in document)

    return train_tokenizer(texts())


def make_model(plan: Plan, tokenizer: Any, label: str = "model") -> Any:
    """Pretrain one model."""
    from truing.sandbox.pretrain import examples_of, network, pack, pretrain
    from truing.sandbox.tokenizer import encode_document

    # No document is as short as five tokens, so this many are always enough.
    def read(source: Any, tokens: int) -> Any:
        texts = source(tokens // 5, seed=plan.seed)
        return pack(examples_of((encode_document(tokenizer, text) for text in texts), tokens), 256)

    model = network(len(tokenizer), width=plan.width, layers=plan.layers, inner=plan.inner, seed=plan.seed)
    first = read(lessons, plan.lessons) if plan.lessons else []
    pretrain(model, read(documents, plan.tokens), first=first, seed=plan.seed, label=f"pretraining {label}")
    return model


def make_guide(small: Any, tokenizer: Any, scale: float = 1.0) -> Any:
    """Align the small model on demonstrations; it is changed in place."""
    from truing.sandbox.pretrain import tune

    count = max(32, int(GUIDE["demonstrations"] * scale))
    examples = []
    for row in records("demonstrations", n=count, seed=int(GUIDE["seed"])):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        examples.append((prompt + answer, len(prompt)))
    tune(
        small,
        examples,
        epochs=int(GUIDE["epochs"]),
        rate=float(GUIDE["rate"]),
        batch=int(GUIDE["batch"]),
        seed=int(GUIDE["seed"]),
    )
    return small


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model in float16, whole or not at all: a folder of that name appears when every file is there."""
    import torch

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        half = type(model)(model.config)
        half.load_state_dict(model.state_dict())
        half.to(torch.float16).save_pretrained(staging, safe_serialization=True)
        tokenizer.save_pretrained(staging)
        settings = json.loads((staging / "generation_config.json").read_text())
        settings.update(max_new_tokens=128, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
        (staging / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        staging.chmod(0o755)
        old = folder.with_name(f".{folder.name}-old-{random.getrandbits(32):08x}")
        if folder.exists():
            os.replace(folder, old)
        os.replace(staging, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, use_safetensors=True)
