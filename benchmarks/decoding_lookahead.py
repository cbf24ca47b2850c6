"""Races look-ahead decoding against the same rules written with `generate`, plain decoding, and one batched best-of-N.

    PYTHONPATH=. OMP_NUM_THREADS=1 python -m benchmarks.decoding_lookahead [--aisteer PYTHON] [--memory PROMPTS]

Forward passes and token positions are counted around the models, on each side alike, and do not depend on the machine.
Times are processor times of one thread, the least of rounds that are interleaved. Outputs are checked before anything
is timed: token for token, and the score of every step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import truing as tr
from benchmarks.engine import high_water
from benchmarks.proving import table
from truing import sandbox

NEW, PROMPTS, ROUNDS = 24, 8, 2


class Grade:
    """The sandbox's grade; ``tells`` says that it lies between 0 and 1. Counts the tokens that it reads."""

    def __init__(self, tells: bool, tokenizer: Any) -> None:
        self.bounds = (0.0, 1.0) if tells else (-float("inf"), float("inf"))
        self._grade, self._tokenizer = tr.SandboxGrade(), tokenizer
        self.texts, self.tokens = 0, 0

    def __call__(self, prompts: Sequence[Any], responses: Sequence[str]) -> Any:
        self.texts += len(responses)
        self.tokens += sum(len(ids) for ids in self._tokenizer(list(responses))["input_ids"])
        return self._grade(prompts, responses)


class Counter:
    """Forward passes of models and the positions they read, padding included."""

    def __init__(self) -> None:
        self.passes, self.positions = 0, 0

    @contextlib.contextmanager
    def watching(self, *models: Any) -> Iterator[None]:
        """Count while it lasts."""

        def count(module: Any, args: Any, kwargs: Any) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            self.passes, self.positions = self.passes + 1, self.positions + ids.numel()

        weights = {id(model.weights): model.weights for model in models}.values()
        hooks = [each.register_forward_pre_hook(count, with_kwargs=True) for each in weights]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@torch.inference_mode()
def with_generate(
    model: Any, rollout: Any, prompt: Any, reward: Any, k: int, lookahead: int, weight: float, cumulative: bool
) -> tuple[list[int], list[float]]:
    """The rule as reference repositories write it: a cached step, then `generate` for all candidates, from scratch."""
    ids, conversation = model.encode_prompt(prompt), model.conversation(prompt)
    end, tokens, total = model.tokenizer.eos_token_id, list[int](), 0.0
    scores, cache, new = [], None, ids
    while len(tokens) < NEW and not (tokens and tokens[-1] == end):
        out = model.weights(input_ids=torch.tensor([new]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logprobs, candidates = (part[0] for part in out.logits[:, -1].float().log_softmax(1).topk(k))
        texts = {}
        running = [token for token in candidates.tolist() if token != end]
        if lookahead and running:
            rows = torch.tensor([[*ids, *tokens, token] for token in running])
            made = rollout.weights.generate(
                rows, attention_mask=torch.ones_like(rows), max_new_tokens=lookahead, do_sample=False,
                pad_token_id=model.tokenizer.pad_token_id or end,
            )  # fmt: skip
            for token, row in zip(running, made[:, len(ids) :].tolist()):
                texts[token] = row[: row.index(end)] if end in row else row
        texts = {token: texts.get(token, [*tokens, token]) for token in candidates.tolist()}
        written = [model.tokenizer.decode(row, skip_special_tokens=True) for row in texts.values()]
        values = reward([conversation] * k, written)
        found = [
            (total if cumulative else 0.0) + float(logprob) + weight * float(value)
            for logprob, value in zip(logprobs, values)
        ]
        best = max(range(k), key=found.__getitem__)
        total += float(logprobs[best])
        scores.append(found[best])
        new = [int(candidates[best])]
        tokens += new
    return tokens, scores


def timed(rounds: int, **runs: Callable[[], Any]) -> dict[str, float]:
    """Least processor seconds of each, in turn: other work on the machine only ever adds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}


def agreement(answers: Any, expected: Sequence[tuple[list[int], list[float]]]) -> str:
    """Rows with the same tokens, and the largest difference of a step's score; raises where tokens differ."""
    gap = 0.0
    for one, (tokens, scores) in zip(answers, expected):
        if one.tokens != tokens:
            raise SystemExit(f"Outputs differ:\n{one.tokens}\n{tokens}")
        for step, score, token in zip(one.trace["steps"], scores, tokens):
            for candidate, _, _, ours in step:
                if candidate == token and ours is not None:
                    gap = max(gap, abs(ours - score))
    return f"{len(expected)} of {len(expected)}, scores within {gap:.0e}"


def methods(base: Any, guide: Any) -> dict[str, tuple[Callable[[Any], Any], dict[str, Any]]]:
    """What is raced: how to make it from a reward, and the same for the rule written with `generate`."""
    return {
        "DeAL, k 5, look-ahead 16": (
            lambda reward: tr.DeAL(reward=reward, k=5, lookahead=16, weight=4.0).align(base),
            {"rollout": base, "k": 5, "lookahead": 16, "weight": 4.0, "cumulative": True},
        ),
        "Transfer Q*, k 10, look-ahead 20": (
            lambda reward: tr.TransferQ(reward=reward, rollout=guide, alpha=0.25).align(base),
            {"rollout": guide, "k": 10, "lookahead": 20, "weight": 4.0, "cumulative": False},
        ),
        "Transfer Q*, one model for both": (
            lambda reward: tr.TransferQ(reward=reward, rollout=guide, alpha=0.25).align(guide),
            {"model": guide, "rollout": guide, "k": 10, "lookahead": 20, "weight": 4.0, "cumulative": False},
        ),
    }


def race(aisteer: str | None = None) -> str:
    """All tables, in Markdown."""
    base, guide = tr.load("sandbox/base"), tr.load("sandbox/guide")
    prompts = [row["prompt"] for row in sandbox.records("demonstrations", "dev", n=PROMPTS, seed=0)]
    passes, seconds = [], []
    for name, (make, plain) in methods(base, guide).items():
        for tells in (True, False):
            model = plain.get("model", base)
            rule = {key: value for key, value in plain.items() if key != "model"}
            label = f"{name}{'' if tells else ', reward without bounds'}"
            naive, naive_reward = Counter(), Grade(tells, base.tokenizer)
            with naive.watching(model, rule["rollout"]):
                expected = [with_generate(model, prompt=prompt, reward=naive_reward, **rule) for prompt in prompts]
            emitted = sum(len(tokens) for tokens, _ in expected)
            single, together = Counter(), Counter()
            with single.watching(model, rule["rollout"]):
                for prompt, one in zip(prompts, expected):
                    agreement(make(Grade(tells, base.tokenizer)).generate([prompt], max_new_tokens=NEW), [one])
            reward = Grade(tells, base.tokenizer)
            with together.watching(model, rule["rollout"]):
                same = agreement(make(reward).generate(prompts, max_new_tokens=NEW), expected)
            plainly = model.generate(prompts, max_new_tokens=NEW)
            alone = sum(len(one.tokens) for one in plainly) / emitted  # passes of plain decoding, one prompt at a time
            passes.append([
                label, f"{naive.passes / emitted:.1f}", f"{single.passes / emitted:.2f}",
                f"{naive.passes / single.passes:.1f}", f"{together.passes / emitted:.2f}",
                f"{naive.passes / together.passes:.0f}", f"{alone:.2f}", f"{naive.positions / emitted:.0f}",
                f"{single.positions / emitted:.0f}", f"{naive_reward.texts / emitted:.1f}",
                f"{reward.texts / emitted:.1f}", same,
            ])  # fmt: skip
            print(passes[-1], file=sys.stderr, flush=True)
            seconds.append([label, *times(make, model, rule, tells, base, prompts, plainly, reward.tokens)])
            print(seconds[-1], file=sys.stderr, flush=True)
    head = [
        "", "with `generate`: passes a token", "ours, one prompt at a time", "times fewer", f"ours, {PROMPTS} prompts",
        "times fewer", "plain decoding, one at a time", "positions a token, `generate`", "ours, one at a time",
        "texts rewarded a token, `generate`", "ours", "outputs agree",
    ]  # fmt: skip
    clock = [
        "", "plain decoding, s", "ours, s", "with `generate`, s", "times as fast",
        "best-of-N, as many tokens as ours scores, s",
        "ours / best-of-N", "best-of-N, as many as the rule scores, s", "ours / best-of-N",
    ]  # fmt: skip
    return "\n\n".join([table(head, passes), table(clock, seconds), peer(aisteer, base, prompts)])


def times(
    make: Callable[[Any], Any], model: Any, rule: dict[str, Any], tells: bool, base: Any, prompts: list[Any],
    plainly: Any, asked: int,
) -> list[str]:  # fmt: skip
    """Seconds of one method beside the others, all prompts of a side as it takes them."""
    written = sum(len(one.tokens) for one in plainly)
    ours = make(Grade(tells, base.tokenizer))
    few = max(1, round(asked / written))
    many = rule["k"] * (rule["lookahead"] + 1)
    rivals = {
        f"best_{n}": tr.BestOfN(n=n, reward=Grade(tells, base.tokenizer)).align(model)
        for n in dict.fromkeys((few, many))
    }
    found = timed(
        ROUNDS,
        plain=lambda: model.generate(prompts, max_new_tokens=NEW),
        ours=lambda: ours.generate(prompts, max_new_tokens=NEW),
        naive=lambda: [with_generate(model, prompt=p, reward=Grade(tells, base.tokenizer), **rule) for p in prompts],
        **{name: (lambda rival=rival: rival.generate(prompts, max_new_tokens=NEW)) for name, rival in rivals.items()},
    )
    return [
        f"{found['plain']:.2f}", f"{found['ours']:.2f}", f"{found['naive']:.2f}",
        f"{found['naive'] / found['ours']:.1f}",
        f"{found[f'best_{few}']:.2f} (N = {few})", f"{found['ours'] / found[f'best_{few}']:.2f}",
        f"{found[f'best_{many}']:.2f} (N = {many})", f"{found['ours'] / found[f'best_{many}']:.2f}",
    ]  # fmt: skip


PEER = """
import json, sys, time
import torch
from aisteer360.algorithms.core.steering_pipeline import SteeringPipeline
from aisteer360.algorithms.output_control.deal.control import DeAL
given = json.load(open(sys.argv[1]))
words = given["words"]
def reward(prompt, continuations, params):
    return [sum(word in text for word in words) / len(words) for text in continuations]
deal = DeAL(reward_func=reward, lookahead=10, init_beams=5, topk=3, max_iterations=10)
pipeline = SteeringPipeline(model_name_or_path=given["model"], controls=[deal])
pipeline.steer()
passes = [0]
pipeline.model.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
start, tokens = time.process_time(), 0
for ids in given["prompts"]:
    out = pipeline.generate(input_ids=torch.tensor([ids]), max_new_tokens=given["new"])
    tokens += out.shape[-1]
print(json.dumps({"passes": passes[0], "seconds": time.process_time() - start, "tokens": tokens}))
"""


def peer(python: str | None, base: Any, prompts: list[Any]) -> str:
    """AISteer360's DeAL by segments beside ours, where an environment that has it is given."""
    if python is None:
        return "AISteer360 was not raced: no environment that has it was given (`--aisteer PYTHON`)."
    words = ["please", "happy", "help"]
    with tempfile.TemporaryDirectory() as folder:
        base.save(Path(folder) / "model")
        given = {
            "model": str(Path(folder) / "model"), "words": words, "new": NEW,
            "prompts": [base.encode_prompt(prompt) for prompt in prompts],
        }  # fmt: skip
        (Path(folder) / "given.json").write_text(json.dumps(given), encoding="utf-8")
        (Path(folder) / "peer.py").write_text(PEER, encoding="utf-8")
        command = [python, str(Path(folder) / "peer.py"), str(Path(folder) / "given.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        return f"AISteer360 did not run: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    reward = tr.Keyword(words=words, whole_words=False)
    ours = tr.DeAL(reward=reward, k=5, lookahead=10, beam=3, mode="segment").align(base)
    counter, start = Counter(), time.process_time()
    with counter.watching(base):
        for prompt in prompts:
            ours.generate([prompt], max_new_tokens=NEW)
    return table(
        ["DeAL by segments, one prompt at a time", "passes", "processor seconds"],
        [
            ["AISteer360", theirs["passes"], f"{theirs['seconds']:.2f}"],
            ["ours", counter.passes, f"{time.process_time() - start:.2f}"],
        ],
    )


def memory(count: int, name: str, tells: bool) -> str:
    """Passes of one call over many prompts, and the most memory that this process ever had, in MiB."""
    base, guide = tr.load("sandbox/base"), tr.load("sandbox/guide")
    prompts: list[Any] = []
    for seed in range(1 + count // 300):
        prompts += [row["prompt"] for row in sandbox.records("demonstrations", "dev", n=300, seed=seed)]
    model = methods(base, guide)[name][0](Grade(tells, base.tokenizer))
    before = high_water()
    found = model.generate(prompts[:count], max_new_tokens=NEW)
    return f"{sum(found.usage.calls.values())} passes, peak {high_water()} MiB, before {before} MiB"


def memories(count: int) -> None:
    """Print the memory of each method, each from a process of its own."""
    for name in ("DeAL, k 5, look-ahead 16", "Transfer Q*, k 10, look-ahead 20"):
        for tells in (True, False):
            code = f"from benchmarks.decoding_lookahead import memory; print(memory({count}, {name!r}, {tells}))"
            made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            print(
                f"{name}{'' if tells else ', reward without bounds'}, {count} prompts: {made.stdout.strip()}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aisteer", help="python of an environment that has aisteer360")
    parser.add_argument("--memory", type=int, metavar="PROMPTS", help="measure the memory of one call instead")
    options = parser.parse_args()
    if options.memory:
        memories(options.memory)
    else:
        sys.stdout.write(race(options.aisteer) + "\n")
