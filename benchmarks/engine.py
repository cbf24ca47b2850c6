"""Races the stepping engine against transformers' own `generate`, and its roll-back and branching against re-reading.

Every pair of times comes from one run, interleaved, so that ratios hold on a busy machine. Run:
``OMP_NUM_THREADS=1 python -m benchmarks.engine``.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests import tiny
from transformers import LlamaConfig, LlamaForCausalLM

from truing.models import shared_cache
from truing.models.cache import Rows
from truing.models.engine import Engine
from truing.models.local import Model
from truing.models.types import Row, Sampling


def race(rounds: int, **runs: Callable[[], Any]) -> dict[str, float]:
    """Median CPU seconds of each, run in turn; processor time, since other work may share the machine."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def model(layers: int, width: int, vocabulary: int) -> Model:
    """A random Llama that never ends by itself."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width * 3, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=2048,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    made = tiny.tokenizer()
    made.eos_token = None
    return Model(LlamaForCausalLM(config).eval(), made)


def prompts(count: int, shortest: int, longest: int, vocabulary: int) -> list[list[int]]:
    """Random ids, lengths spread evenly."""
    draw = torch.Generator().manual_seed(0)
    sizes = [shortest + (longest - shortest) * i // max(1, count - 1) for i in range(count)]
    return [torch.randint(5, vocabulary, (size,), generator=draw).tolist() for size in sizes]


def decoding(
    made: Model, rows: list[list[int]], new: int, rounds: int, sampled: bool, ends: list[int] | None = None
) -> None:
    """Engine against `generate`, both to text, and whether greedy answers agree.

    The engine gives the log-probability of every token besides, and `generate` does not.
    """
    made.weights.generation_config.eos_token_id = ends
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    asked = [Row(None, tuple(row), i) for i, row in enumerate(rows)]
    sampling = Sampling(max_new_tokens=new, temperature=1.0 if sampled else 0.0)
    options = {"do_sample": True, "top_k": 0} if sampled else {"do_sample": False}

    def ours() -> list[list[int]]:
        return [row[0].tokens for row in Engine(made, batch_size=len(rows)).generate(asked, sampling)]

    def theirs() -> list[list[int]]:
        with torch.inference_mode():
            out = made.weights.generate(ids, attention_mask=mask, max_new_tokens=new, **options)
        answers = out[:, width:].tolist()
        made.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return answers

    times = race(rounds, ours=ours, theirs=theirs)
    agree = "" if sampled else f", rows that agree {sum(a == b for a, b in zip(ours(), theirs()))}/{len(rows)}"
    until = "answers of 1 to" if ends else "all of"
    print(
        f"{'sampled' if sampled else 'greedy'}, {len(rows)} rows, prompts up to {width}, {until} {new} tokens: "
        f"engine {times['ours']:.2f} s, generate {times['theirs']:.2f} s, ratio {times['theirs'] / times['ours']:.2f}"
        f"{agree}"
    )


def verifying(made: Model, rows: list[list[int]], rounds: int) -> None:
    """Eight rounds of verify-then-roll-back against reading everything anew each time."""
    blocks = [[7 + i % 9] * 6 for i in range(len(rows))]

    def ours() -> torch.Tensor:
        batch = Engine(made).prefill(rows)
        for _ in range(8):
            batch.extend(blocks)
            batch.rollback([len(row) - i % 5 for i, row in enumerate(batch.tokens)])
        return batch.logits

    def anew() -> torch.Tensor:
        engine = Engine(made)
        batch = engine.prefill(rows)
        for _ in range(8):
            now = [row + block for row, block in zip(batch.tokens, blocks)]
            batch = engine.prefill([row[: len(row) - i % 5] for i, row in enumerate(now)])
        return batch.logits

    times = race(rounds, ours=ours, anew=anew)
    gap = float((ours() - anew()).abs().max())
    print(
        f"verify and roll back 8 times, {len(rows)} rows: {times['ours']:.2f} s, reading anew {times['anew']:.2f} s, "
        f"ratio {times['anew'] / times['ours']:.2f}, scores differ by {gap:.1e} at most"
    )


SAMPLES, STEPS = 16, 32


@contextlib.contextmanager
def copies() -> Iterator[None]:
    """Within it, each row has all it holds to itself."""
    held = shared_cache.NUMBERS
    shared_cache.NUMBERS = 2**62
    try:
        yield
    finally:
        shared_cache.NUMBERS = held


def held_bytes(*found: Rows) -> int:
    """Bytes of the memory that caches hold, each piece of it once."""
    pieces = {}
    for cache in found:
        states = [part for layer in cache.layers for part in layer.held]
        states += [*cache.share.store.keys, *cache.share.store.values] if cache.share is not None else []
        pieces.update((part.untyped_storage().data_ptr(), part.untyped_storage().nbytes()) for part in states)
    return sum(pieces.values())


def sampled(made: Model, prompt: list[int]) -> tuple[list[float], torch.Tensor, int]:
    """Processor seconds of each of the last steps of some samples of one prompt, their scores, and bytes held."""
    start = Engine(made).prefill([prompt])
    batch = start.select([0] * SAMPLES)
    times = []
    for step in range(STEPS):
        begin = time.process_time()
        batch.append([5 + (7 * step + row) % 1000 for row in range(SAMPLES)])
        times.append(time.process_time() - begin)
    return times[2:], batch.logits, held_bytes(start._cache, batch._cache)


def peak(how: str) -> None:
    """Print the most memory that the process had while it sampled, and before, in MiB."""
    made, prompt = model(12, 256, 2048), prompts(1, 1000, 1000, 2048)[0]
    Engine(made).prefill([prompt])
    before = high_water()
    with copies() if how == "copies" else contextlib.nullcontext():
        sampled(made, prompt)
    print(high_water() - before, before)


def high_water() -> int:
    """The most memory that this process ever had, in MiB. `getrusage` would count what its parent had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def sharing(rounds: int) -> None:
    """Samples of one long prompt, whose beginning is stored once, against copies of it."""
    made, prompt = model(12, 256, 2048), prompts(1, 1000, 1000, 2048)[0]
    times: dict[str, list[float]] = {"shared": [], "copies": []}
    scores, sizes = {}, {}
    for _ in range(rounds):
        for name in times:
            with copies() if name == "copies" else contextlib.nullcontext():
                found, scores[name], sizes[name] = sampled(made, prompt)
            times[name] += found
    steps = {name: statistics.median(values) for name, values in times.items()}
    peaks = {
        name: subprocess.run(
            [sys.executable, "-m", "benchmarks.engine", "--peak", name], capture_output=True, text=True, check=True
        ).stdout.split()
        for name in times
    }
    gap = float((scores["shared"] - scores["copies"]).abs().max())
    for name in times:
        print(
            f"{SAMPLES} samples of a prompt of {len(prompt)}, 12 layers, width 256, {name}: "
            f"{1000 * steps[name]:.1f} ms a step, caches hold {sizes[name] / 2**20:.0f} MiB, "
            f"peak of the process {peaks[name][0]} MiB above {peaks[name][1]}"
        )
    print(f"ratio {steps['copies'] / steps['shared']:.2f}, scores differ by {gap:.1e} at most")


def main() -> None:
    """All races."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=("shared", "copies"))
    parser.add_argument("--only-sharing", action="store_true", help="the race of shared beginnings alone")
    options = parser.parse_args()
    rounds = options.rounds
    if options.peak:
        peak(options.peak)
        return
    sharing(rounds)
    if options.only_sharing:
        return
    small = model(4, 128, 2048)
    decoding(small, prompts(64, 8, 24, 2048), 60, rounds, sampled=False)
    decoding(small, prompts(64, 8, 24, 2048), 60, rounds, sampled=True)
    decoding(small, prompts(16, 200, 600, 2048), 60, rounds, sampled=False)
    decoding(small, prompts(64, 8, 24, 2048), 60, rounds, sampled=True, ends=list(range(100, 200)))
    small.weights.generation_config.eos_token_id = None
    verifying(small, prompts(16, 200, 300, 2048), rounds)


if __name__ == "__main__":
    main()
