"""Steering against plain decoding, and reading activations against two other ways; prints tables in Markdown.

    PYTHONPATH=. python benchmarks/decoding_steering.py

The other ways are written here after what their sources do, on the same model and texts: repeng runs whole passes with
all hidden states and next-token scores, in batches, and copies each text's state of each layer out; steering-vectors
records by hooks during whole passes, one text at a time. Neither fills the cache here that its own calls fill and never
use. Rounds are interleaved in one process; times are CPU seconds of the whole process, the least of the rounds.
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from benchmarks.proving import table
from truing import load
from truing.measures.sweeping import Choice, option_logprobs
from truing.methods.steering.modifier import SteeringModifier
from truing.models import Model
from truing.models.activations import Edits, decoder_layers, record
from truing.models.engine import Engine
from truing.models.types import Row, Sampling, Usage

TEXTS, SHORTEST, LONGEST, MEAN, LAYER, BATCH = 64, 60, 560, 329, 8, 32
ROUNDS, READINGS = 11, 5


def network(vocabulary: int = 32_000, width: int = 256) -> Any:
    """A random model of 12 layers."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=11 * width // 4, num_hidden_layers=12,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def model(weights: Any) -> Model:
    """Around random weights; the sandbox's tokenizer is not asked anything."""
    return Model(weights, load("sandbox/base").tokenizer, source="random")


def raced(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """CPU seconds of each way in each round, and what each gave; every second round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {name: run() for name, run in ways.items()}
    for number in range(rounds):
        for name, run in list(ways.items())[:: -1 if number % 2 else 1]:
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return seconds, found


def least(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The least CPU seconds of each way, and what each gave."""
    seconds, found = raced(ways, rounds)
    return {name: min(times) for name, times in seconds.items()}, found


# --- decoding -------------------------------------------------------------------------------------------------------


def naive(weights: Any, rows: Sequence[Sequence[int]], tokens: int, layers: Sequence[int], move: torch.Tensor) -> Any:
    """transformers' ``generate`` with a hook on each layer, a row at a time."""
    hooks = [decoder_layers(weights)[at].register_forward_hook(lambda _, args, out: out + move) for at in layers]
    try:
        with torch.inference_mode():
            return [
                weights.generate(torch.tensor([list(row)]), max_new_tokens=tokens, do_sample=False, eos_token_id=None)[
                    0, len(row) :
                ].tolist()
                for row in rows
            ]
    finally:
        for hook in hooks:
            hook.remove()


def decoding(name: str, plain: Model, tokens: int = 48, batch: int = 8) -> list[list[str]]:
    """Rows of the table: seconds and counts of plain and of steered decoding, the same number of tokens each."""
    config = plain.weights.config
    rows = [Row(None, tuple(range(3 + at, 19 + at)), at) for at in range(batch)]
    vector = torch.randn(1, config.hidden_size, generator=torch.Generator().manual_seed(0))
    middle, depth = config.num_hidden_layers // 2, config.num_hidden_layers
    every = {"vectors": vector.expand(depth, -1).clone(), "at": list(range(depth)), "strength": 0.3}
    one = {"vectors": vector, "at": [middle], "strength": 0.3}
    steered = {
        "one layer": one, "every layer": every, "one layer, answer only": {**one, "positions": "answer"},
        "one layer, projected out": {**one, "operator": "project_out"},
    }  # fmt: skip

    def run(one: Model) -> Callable[[], tuple[Any, Usage]]:
        def decode() -> tuple[Any, Usage]:
            engine = Engine(one)
            engine.ends = frozenset()
            return [list(row[0].tokens) for row in engine.generate(rows, Sampling(max_new_tokens=tokens))], engine.usage

        return decode

    ways = {"plain": run(plain)}
    ways |= {label: run(plain.with_modifier(SteeringModifier(**how))) for label, how in steered.items()}
    rounds, found = raced(ways, ROUNDS)
    seconds = {label: min(times) for label, times in rounds.items()}
    expected = naive(plain.weights, [row.tokens for row in rows], tokens, [middle], 0.3 * vector[0])
    assert found["one layer"][0] == expected, "steered tokens differ from those of a hook on generate"
    out = []
    for label, (_, usage) in found.items():
        ratio = statistics.median(mine / other for mine, other in zip(rounds[label], rounds["plain"]))
        each = 1000 * seconds[label] / (tokens * batch)
        added = "" if label == "plain" else f"{added_to_a_step(plain, steered[label], batch) / (each * batch):.2%}"
        out.append([name, label, usage.calls["model"], usage.positions["model"], f"{each:.2f}", f"{ratio:.3f}", added])
    return out


@torch.inference_mode()
def added_to_a_step(plain: Model, how: dict[str, Any], batch: int) -> float:
    """CPU milliseconds that hooks and edits take in one step, run alone: what a busy machine hides in the whole."""
    edits, config = Edits(plain.with_modifier(SteeringModifier(**how))), plain.weights.config
    hidden, layer = torch.randn(batch, 1, config.hidden_size), torch.nn.Identity()
    places = {"position_ids": torch.full((batch, 1), 20)}
    prompts = torch.full((batch,), 16)

    def step() -> None:
        with edits.on(prompts):
            for _, hook in edits._hooks:
                layer(hidden)
                hook(layer, (), places, hidden)

    return min(timeit.repeat(step, number=200, repeat=7)) * 5


# --- reading --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def repeng_like(weights: Any, texts: Sequence[Sequence[int]], layers: Sequence[int]) -> np.ndarray:
    """[texts, layers, width]."""
    kept: list[list[np.ndarray]] = [[] for _ in layers]
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(text)) + list(text) for text in part])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in part])
        out = weights(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        for row in range(len(part)):
            for place, layer in enumerate(layers):
                kept[place].append(out.hidden_states[layer + 1][row, -1].float().numpy().copy())
    return np.stack([np.stack(rows) for rows in kept], 1)


@torch.inference_mode()
def steering_vectors_like(weights: Any, texts: Sequence[Sequence[int]], layers: Sequence[int]) -> np.ndarray:
    """[texts, layers, width]."""
    rows = []
    for text in texts:
        states: dict[int, torch.Tensor] = {}

        def keep(layer: int, states: dict[int, torch.Tensor] = states) -> Callable[..., None]:
            return lambda _, args, out: states.__setitem__(layer, out.detach())

        hooks = [decoder_layers(weights)[at].register_forward_hook(keep(at)) for at in layers]
        weights(input_ids=torch.tensor([list(text)]), use_cache=False)
        for hook in hooks:
            hook.remove()
        rows.append(np.stack([states[at][0, -1].float().numpy() for at in layers]))
    return np.stack(rows)


def reading(plain: Model) -> str:
    """One layer and all of them, by each way."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(SHORTEST, LONGEST, (TEXTS,), generator=generator).tolist()
    assert round(sum(sizes) / TEXTS) == MEAN
    texts = [torch.randint(3, 32_000, (size,), generator=generator).tolist() for size in sizes]
    out = []
    for label, layers, some in (("8th of 12", [LAYER - 1], texts), ("layers 1 to 11", list(range(11)), texts[:BATCH])):
        ways = {
            "as repeng": lambda layers=layers, some=some: repeng_like(plain.weights, some, layers),
            "as steering-vectors": lambda layers=layers, some=some: steering_vectors_like(plain.weights, some, layers),
            "truing": lambda layers=layers, some=some: record(plain, some, layers).numpy(),
        }
        seconds, found = least(ways, READINGS)
        for way, states in found.items():
            gap = float(np.abs(states - found["truing"]).max())
            assert gap < 1e-4, f"{way} differs by {gap}"
            ratio = seconds[way] / seconds["truing"]
            out.append([label, len(some), way, f"{seconds[way]:.2f}", f"{ratio:.1f}", f"{gap:.1e}"])
    return table(["layers", "texts", "way", "CPU s", "times truing's", "largest difference"], out)


def sharing(plain: Model) -> str:
    """Pairs of answers to one prompt: each prompt read once, or with each answer."""
    generator = torch.Generator().manual_seed(2)

    def draw(size: int) -> list[int]:
        return torch.randint(3, 32_000, (size,), generator=generator).tolist()

    out = []
    for prompt, answer in ((200, 40), (100, 100), (20, 100)):
        prompts = [draw(prompt) for _ in range(12)]
        pairs = [[*one, *draw(answer)] for one in prompts for _ in range(2)]
        starts = [prompt] * len(pairs)
        ways = {
            "apart": lambda pairs=pairs: record(plain, pairs, [LAYER - 1]),
            "given prompts": lambda pairs=pairs, starts=starts: record(plain, pairs, [LAYER - 1], prompts=starts),
        }
        seconds, found = least(ways, 2)
        gap = float((found["apart"] - found["given prompts"]).abs().max())
        assert gap < 1e-4, f"shared prompts differ by {gap}"
        out.append([
            prompt, answer, *(f"{each:.2f}" for each in seconds.values()),
            f"{seconds['apart'] / seconds['given prompts']:.2f}", f"{gap:.1e}",
        ])  # fmt: skip
    return table(["prompt", "answer", "CPU s, apart", "CPU s, given prompts", "times", "largest difference"], out)


def sweeping(base: Model) -> str:
    """17 strengths with what lies below the edit computed once, and one strength at a time."""
    strengths = [at / 2 for at in range(-8, 9)]
    choices = [Choice(tuple(range(3 + at, 23 + at)), 12, ((30 + at,), (40 + at,), (50 + at,))) for at in range(40)]
    out = []
    for layer in range(4):
        vector = torch.randn(1, 128, generator=torch.Generator().manual_seed(layer))
        steered = base.with_modifier(SteeringModifier(vectors=vector, at=[layer]))

        def one_by_one(steered: Model = steered) -> list[np.ndarray]:
            parts = [option_logprobs(steered, 0, [strength], choices) for strength in strengths]
            return [np.concatenate(rows) for rows in zip(*parts)]

        ways = {
            "at once": lambda steered=steered: option_logprobs(steered, 0, strengths, choices),
            "one by one": one_by_one,
        }
        seconds, found = least(ways, 3)
        gap = max(float(np.abs(one - two).max()) for one, two in zip(*found.values()))
        assert gap < 1e-4, f"the sweep differs by {gap}"
        usages = []
        for some in ([strengths], [[strength] for strength in strengths]):
            usage = Usage()
            for part in some:
                option_logprobs(steered, 0, part, choices, usage)
            usages.append(usage)
        costs = [f"{usage.positions['model']:,}" for usage in usages]
        out.append([
            layer, *costs, *(f"{each:.2f}" for each in seconds.values()),
            f"{seconds['one by one'] / seconds['at once']:.1f}", f"{gap:.1e}",
        ])  # fmt: skip
    heading = ["layer", "positions, at once", "one by one", "CPU s, at once", "one by one", "times", "difference"]
    return table(heading, out)


def race() -> str:
    """All tables."""
    torch.set_num_threads(1)
    wide, base = model(network()), load("sandbox/base")
    decoded = decoding("12 layers of 256, vocabulary 32,000", wide) + decoding("sandbox/base, 4 layers of 128", base)
    heading = ["model", "way", "calls", "positions", "CPU ms a token", "times plain", "hooks and edits alone"]
    return "\n\n".join([
        f"Steering and plain decoding, 8 rows, 48 tokens each, the least of {ROUNDS} rounds, and the median of the "
        "ratios within a round; tokens of one steered layer equal those of a hook on transformers' `generate`.",
        table(heading, decoded),
        f"Reading states of the last position, {SHORTEST} to {LONGEST} tokens a text ({MEAN} on average), 12 layers of "
        f"256, vocabulary 32,000. repeng's batches of {BATCH} texts in the order given are padded to the longest.",
        reading(wide),
        "Two answers to each of 12 prompts, lengths in tokens, states of the 8th layer.",
        sharing(wide),
        "Log-probabilities of 3 options after 40 texts at 17 strengths, sandbox/base; a position that part of the "
        "layers read counts as that part.",
        sweeping(base),
    ])  # fmt: skip


if __name__ == "__main__":
    print(race())
