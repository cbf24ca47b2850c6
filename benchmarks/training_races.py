"""Races against TRL beside the neutral one: fine-tuning packed and padded, pairs of equal length, token ids.

    PYTHONPATH=. python benchmarks/training_races.py [--case sft equal tokens] [--rounds 2]

Each side runs in a process of its own, in turns. Times are CPU seconds of one thread, since machines are shared; each
variant counts with its fastest round. Ratios are TRL's time through ours, for the same records.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

CASES = {
    "sft": ("trl_padded", "trl_packed", "truing"),
    "equal": ("trl", "truing"),
    "tokens": ("trl", "truing"),
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def tokenizer_of(words: list[str]) -> Any:
    """One token a word, so that lengths are what they are meant to be."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(["<pad>", "<s>", "</s>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def network(vocabulary: int, seed: int) -> Any:
    """The Llama of the neutral race: hidden 320, 6 layers, 8 heads of which 4 hold keys."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=320, intermediate_size=864, num_hidden_layers=6, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def texts(case: str, count: int, seed: int) -> tuple[list[str], list[dict[str, str]]]:
    """A vocabulary, and records with log-normal lengths or with equal ones."""
    draw = random.Random(seed)
    words = [f"w{at}" for at in range(4093)]

    def text(mean: int) -> str:
        length = mean if case == "equal" else int(min(max(draw.lognormvariate(0, 0.6) * mean, 8), 4 * mean))
        return " ".join(draw.choices(words, k=length))

    rows = [{"prompt": text(120) + " ", "chosen": text(100), "rejected": text(100)} for _ in range(count)]
    return words, rows


def run(case: str, variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """One side of one race, in this process."""
    import torch

    torch.set_num_threads(1)
    words, rows = texts(case, 2000 if case == "tokens" else options.batch * options.steps, options.seed)
    tokenizer = tokenizer_of(words)
    weights = network(len(tokenizer), options.seed)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stamps: list[float] = []
    losses: list[float] = []
    began = time.process_time()
    if variant == "truing":
        _truing(case, weights, tokenizer, rows, options, stamps, losses)
    else:
        _trl(case, variant, weights, tokenizer, rows, options, stamps, losses)
    spent = time.process_time() - began
    steps = [b - a for a, b in itertools.pairwise(stamps)][options.warmup :]
    return {
        "seconds": spent if case == "tokens" else sum(steps), "losses": losses,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024,
    }  # fmt: skip


def _truing(
    case: str, weights: Any, tokenizer: Any, rows: list[dict[str, str]], options: argparse.Namespace,
    stamps: list[float], losses: list[float],
) -> None:  # fmt: skip
    from truing import DPO, SFT
    from truing.methods.training import trainer
    from truing.models import Model

    os.environ["TRUING_CACHE"] = tempfile.mkdtemp()
    tokenizer.chat_template = TEMPLATE
    how = {
        "learning_rate": 1e-5, "batch_size": options.batch, "max_steps": options.steps, "max_length": 1024,
        "schedule": "constant", "warmup_ratio": 0.0, "shuffle": False, "seed": options.seed,
    }  # fmt: skip
    method: Any = SFT(**how) if case == "sft" else DPO(**how)
    start = Model(weights, tokenizer, source="race")
    if case == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    if case == "tokens":
        # What happens before the first step, but for the reference and the copy of the weights.
        from truing.methods.training.batches import BatchOrder
        from truing.methods.training.encoding import digest

        records = method.check_records(rows)
        encoded, _, _ = method._encoded(start, records, method.objective())
        digest(encoded)
        BatchOrder([len(row.tree.tokens) for row in encoded], options.batch, 0, True)
        return
    plain = trainer.ObjectiveTrainer.log

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        plain(self, logs, start_time)
        if "grad_norm" in logs:
            stamps.append(time.process_time())
            losses.append(logs["loss"])

    def fit(self: Any, facts: dict[str, Any]) -> None:
        stamps.append(time.process_time())
        plain_fit(self, facts)

    plain_fit = trainer.ObjectiveTrainer.fit
    trainer.ObjectiveTrainer.log, trainer.ObjectiveTrainer.fit = log, fit  # type: ignore[method-assign]
    method.align(start, rows)


def _trl(
    case: str, variant: str, weights: Any, tokenizer: Any, rows: list[dict[str, str]], options: argparse.Namespace,
    stamps: list[float], losses: list[float],
) -> None:  # fmt: skip
    import copy

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Steps(TrainerCallback):
        def on_train_begin(self, *given: Any, **named: Any) -> None:
            stamps.append(time.process_time())

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
            if "loss" in logs:
                stamps.append(time.process_time())
                losses.append(logs["loss"])

    common = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": options.batch, "max_steps": options.steps,
        "learning_rate": 1e-5, "lr_scheduler_type": "constant", "max_length": 1024, "bf16": False, "logging_steps": 1,
        "gradient_checkpointing": False, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True,
        "seed": options.seed,
    }  # fmt: skip
    trainer: Any
    if case == "sft":
        data = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])
        packed = variant == "trl_packed"
        if packed:
            # As many records in a step: rows of 1,024 tokens hold several.
            common["per_device_train_batch_size"] = max(1, round(options.batch * 220 / 1024))
            common["max_steps"] = -1
            common["num_train_epochs"] = 1
        config = SFTConfig(**common, packing=packed, completion_only_loss=True)
        trainer = SFTTrainer(model=weights, args=config, train_dataset=data, processing_class=tokenizer)
    else:
        trainer = DPOTrainer(
            model=weights, ref_model=copy.deepcopy(weights), args=DPOConfig(**common, beta=0.1),
            train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        )  # fmt: skip
    if case == "tokens":
        return
    trainer.add_callback(Steps())
    trainer.train()


def main() -> None:
    """Race, and print a line a variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child, options)))
        return
    given = [
        text for name in ("batch", "steps", "warmup", "seed") for text in (f"--{name}", str(getattr(options, name)))
    ]
    for case in options.case:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES[case]}
        for _ in range(options.rounds):
            for name in CASES[case]:
                done = subprocess.run(
                    [sys.executable, __file__, *given, "--child", case, name], capture_output=True, text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
                )  # fmt: skip
                if done.returncode:
                    raise SystemExit(f"{case} {name} failed:\n{done.stderr[-3000:]}")
                found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
        ours = min(one["seconds"] for one in found["truing"])
        for name, rounds in found.items():
            best = min(one["seconds"] for one in rounds)
            memory = sorted(one["memory"] for one in rounds)[len(rounds) // 2]
            first = f", first loss {rounds[0]['losses'][0]:.5f}" if rounds[0]["losses"] else ""
            print(
                f"{case:<8}{name:<12}{best:>8.2f} CPU s  {best / ours:>5.2f} times truing's  {memory:>7.0f} MB{first}"
            )


if __name__ == "__main__":
    main()
