"""DPO on real preferences, read as they are: does it rank held-out pairs better than before?

    PYTHONPATH=. python benchmarks/real_input.py [FILE] [--model NAME] [--train 300] [--test 300]

FILE is preference data in any form that `truing.records.read` knows; by default the HH-RLHF harmless split under
``$TRUING_SHARED`` (or ``../shared``). Without ``--model`` the start is a small randomly initialised Llama with a
byte-level tokenizer, which knows nothing: it first learns the chosen answers (SFT), then the preference. Prints a
markdown table of accuracies with exact 95 % intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proving import SHARED
from truing import DPO, SFT, records
from truing.methods.training.encoding import encode
from truing.models import Model, load

DEFAULT = SHARED / "data/hh_rlhf/harmless_base.jsonl"


def random_llama(texts: list[str], seed: int = 0) -> Model:
    """A Llama of about 2 million random weights; its tokenizer is learned from the training texts alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, alphabet = ["<|pad|>", "<|end|>"], pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2048, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>")
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=160, intermediate_size=432, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return Model(LlamaForCausalLM(config).eval(), tokenizer, source="random Llama")


def margins(model: Model, rows: list[dict[str, Any]]) -> np.ndarray:
    """log p(chosen) - log p(rejected) of each row, in nats."""
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (model.logprobs(prompts, [row[key] for row in rows]) for key in ("chosen", "rejected"))
    return np.asarray(chosen - rejected)


def line(name: str, margin: np.ndarray) -> str:
    """A row of the table: a tie is half a success, which the exact interval rounds down."""
    from scipy.stats import binomtest

    right, ties, n = int((margin > 0).sum()), int((margin == 0).sum()), len(margin)
    interval = binomtest(right, n).proportion_ci(method="exact")
    note = f" ({ties} ties)" if ties else ""
    share, bounds = 100 * (right + ties / 2) / n, f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
    return f"| {name} | {share:.1f} %{note} | {bounds} | {n} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default=str(DEFAULT))
    parser.add_argument("--model", help="a name for truing.load; a random Llama without it")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--beta", type=float, default=0.1)
    given = parser.parse_args()
    if not Path(given.file).is_file():
        print(f"{given.file} is not there. Give a file of preferences.", file=sys.stderr)
        return 2
    began = time.monotonic()
    every = records.read(given.file, kind="preference")
    print(f"{len(every):,} pairs read in {time.monotonic() - began:.1f} s", file=sys.stderr)
    rest, test = every.split(len(every) // 2, seed=0)
    limit = given.max_length

    def short(part: records.Records, n: int) -> records.Records:
        """The first n pairs that fit whole."""
        rows, _, _ = encode(start, part, DPO().objective(), max_length=limit, truncate="drop")
        return part.select([row.index for row in rows[:n]])

    if given.model:
        start = load(given.model)
    else:
        texts = [
            str(row[key])
            for row in rest.select(range(min(2000, len(rest))))
            for key in ("prompt", "chosen", "rejected")
        ]
        start = random_llama(texts)

    train, held = short(rest, given.train), list(short(test, given.test))
    if not given.model:
        shown = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in train]
        start = SFT(learning_rate=1e-3, epochs=2, max_length=limit).align(start, shown)
    how = {"learning_rate": given.learning_rate, "epochs": given.epochs, "beta": given.beta, "max_length": limit}
    began = time.monotonic()
    aligned = DPO(**how).align(start, train)
    seconds = time.monotonic() - began
    before, after = margins(start, held), margins(aligned, held)
    seen = margins(aligned, list(train)) - margins(start, list(train))
    print(f"{start.name}, {len(train)} training pairs of at most {limit} tokens, {how}, DPO took {seconds:.0f} s\n")
    print("| | preference accuracy | exact 95 % interval | pairs |\n| --- | --- | --- | --- |")
    print(line("held out, log-probability, before DPO", before))
    print(line("held out, log-probability, after DPO", after))
    print(line("held out, implicit reward (chance is 50 %)", after - before))
    print(line("training pairs, implicit reward", seen))
    flipped = int(((before <= 0) & (after > 0)).sum()), int(((before > 0) & (after <= 0)).sum())
    from scipy.stats import binomtest

    p = binomtest(flipped[0], sum(flipped)).pvalue if sum(flipped) else 1.0
    print(f"\nOn the same pairs: {flipped[0]} now right, {flipped[1]} now wrong (exact McNemar p = {p:.2g}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
