"""Nudging raced against the paper's way of calling two servers, and against plain decoding of the base alone.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python -m benchmarks.decoding_nudging

The models are the sandbox's base and guide, made larger without a change of what they answer: more width, heads and
layers whose outputs are zero. So both cost what models of their size cost (a base of 44M parameters, a guide of a
tenth), and agree as an aligned and an unaligned model of one family do. Answers are checked to be equal first.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.proving import table
from truing import Model, Nudging, load
from truing.methods.decoding import nudging_rules, nudging_turns
from truing.models.chat import encode_plain
from truing.sandbox import items

SIZES = {"base": (768, 6, 2048, 24), "guide": (264, 4, 640, 11)}
MOST = 48
AHEAD = 4  # answers here are short, and what the guide ends within its proposal is all the guide's


def enlarged(model: Model, hidden: int, layers: int, inner: int, heads: int) -> Model:
    """The same function in more numbers: what is added is read, and its outputs are multiplied by zero."""
    old, small = model.weights, model.weights.config
    size = small.hidden_size // small.num_attention_heads
    config = LlamaConfig(
        **{
            **small.to_dict(),
            "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": inner,
            "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": size,
            # A mean over more numbers, of which the new ones are zero.
            "rms_norm_eps": small.rms_norm_eps * small.hidden_size / hidden,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    new = LlamaForCausalLM(config).eval()
    held = old.state_dict()
    shrink = math.sqrt(small.hidden_size / hidden)
    with torch.no_grad():
        for name, value in new.state_dict().items():
            if "o_proj" in name or "down_proj" in name or "embed" in name or "lm_head" in name:
                value.zero_()
            if name not in held:
                continue
            part = held[name] * shrink if "norm" in name else held[name]
            if part.dim() == 2 and "embed" not in name and "o_proj" not in name and "down_proj" not in name:
                value[: part.shape[0]].zero_()
            value[tuple(slice(0, length) for length in part.shape)] = part
    return Model(new, model.tokenizer, source=f"{model.source}-{sum(p.numel() for p in new.parameters()) / 1e6:.0f}M")


class Count:
    """Sequential passes of a model and the positions that they read."""

    def __init__(self) -> None:
        self.calls = self.positions = 0

    @contextlib.contextmanager
    def of(self, model: Model) -> Iterator[None]:
        """Count the passes of the block."""

        def before(module: Any, args: Any, kwargs: Any) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            self.calls += 1
            self.positions += ids.numel()

        hook = model.weights.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def completer(model: Model, prompt: str) -> nudging_rules.Complete:
    """A server of completions with top-1 log-probabilities: every call reads the whole text again."""
    tokenizer, end = model.tokenizer, model.tokenizer.eos_token_id
    ids = model.encode_prompt(prompt)

    def complete(text: str, most: int) -> nudging_rules.Piecewise:
        asked = torch.tensor([[*ids, *encode_plain(tokenizer, text)]])
        with torch.inference_mode():
            out = model.weights.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=most, do_sample=False,
                return_dict_in_generate=True, output_logits=True, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        new = out.sequences[0, asked.shape[1] :].tolist()
        tops = [float(scores[0].float().softmax(0).max()) for scores in out.logits]
        stopped = bool(new) and new[-1] == end
        texts = [tokenizer.decode([token]) for token in (new[:-1] if stopped else new)]
        return nudging_rules.Piecewise([*texts, ""] if stopped else texts, tops, stopped)

    return complete


def naive(base: Model, guide: Model, prompt: str) -> str:
    """The paper's code: calls of 16 tokens, one of the base for each tested word."""
    return nudging_rules.nudging_decode(
        completer(base, prompt), completer(guide, prompt), gamma=0.4, lookahead=AHEAD,
        max_tokens=MOST, count=lambda text: len(encode_plain(base.tokenizer, text)),
    ).text  # fmt: skip


def one_at_a_time(base: Model, guide: Model, prompt: str) -> list[int]:
    """The rule over tokens with a pass over the whole row for every question."""

    def asker(model: Model) -> Callable[[list[int]], nudging_turns.Top]:
        ids = model.encode_prompt(prompt)

        def top(tokens: list[int]) -> nudging_turns.Top:
            with torch.inference_mode():
                scores = model.weights(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, -1].float().softmax(0)
            return nudging_turns.Top(int(scores.argmax()), float(scores.max()))

        return top

    text = base.tokenizer.decode
    starts = nudging_turns.word_starts(base.tokenizer.convert_ids_to_tokens, lambda ids: text(list(ids)))
    ends = frozenset({base.tokenizer.eos_token_id})
    return nudging_turns.token_level_nudging(
        asker(base), asker(guide), starts, lookahead=AHEAD, max_new_tokens=MOST, ends=ends
    ).tokens


def race(n: int = 24, rounds: int = 3) -> str:
    """Markdown: passes and positions for each emitted token, and seconds as a ratio to plain decoding."""
    torch.set_num_threads(1)
    small = {name: load(f"sandbox/{name}") for name in SIZES}
    base, guide = (enlarged(small[name], *SIZES[name]) for name in SIZES)
    kinds = ("fact", "premise_false", "unknown", "harmful")
    prompts = [item.prompt for kind in kinds for item in items(kind, split="test", n=n // len(kinds))]
    for name, one in (("base", base), ("guide", guide)):
        wanted = small[name].generate(prompts, max_new_tokens=MOST).texts
        assert one.generate(prompts, max_new_tokens=MOST).texts == wanted, f"the enlarged {name} answers otherwise"
    method = Nudging(guide=guide, gamma=0.4, lookahead=AHEAD)
    by_token, by_word = (method.clone(unit=unit).align(base) for unit in ("token", "word"))
    found = by_token.generate(prompts, max_new_tokens=MOST)
    assert [answer.tokens for answer in found] == [one_at_a_time(base, guide, prompt) for prompt in prompts]
    words = by_word.generate(prompts, max_new_tokens=MOST)
    assert [answer.text.strip() for answer in words] == [naive(base, guide, prompt) for prompt in prompts]

    def ours(model: Model, size: int) -> Callable[[], int]:
        return lambda: sum(
            len(answer.tokens) for start in range(0, n, size)
            for answer in model.generate(prompts[start : start + size], max_new_tokens=MOST)
        )  # fmt: skip

    def reference() -> int:
        return sum(len(encode_plain(base.tokenizer, naive(base, guide, prompt))) + 1 for prompt in prompts)

    sides: dict[str, Callable[[], int]] = {
        "plain decoding of the base, batch 1": ours(base, 1),
        "nudging, by token, batch 1": ours(by_token, 1),
        "nudging, by word, batch 1": ours(by_word, 1),
        "the paper's calls of 16 tokens, batch 1": reference,
        "plain decoding of the base, batch 8": ours(base, 8),
        "nudging, by token, batch 8": ours(by_token, 8),
        "nudging, by word, batch 8": ours(by_word, 8),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    counts: dict[str, tuple[Count, Count, int]] = {}
    for turn in range(rounds):
        for name, side in sides.items():
            if side is reference and turn:
                continue
            big, little = Count(), Count()
            with big.of(base), little.of(guide):
                began = time.process_time()
                emitted = side()
                seconds[name].append((time.process_time() - began) / emitted)
            counts[name] = (big, little, emitted)
    rows = []
    for name, (big, little, emitted) in counts.items():
        plain = f"plain decoding of the base, {name.split(', ')[-1]}"
        ratio = statistics.median(seconds[name]) / statistics.median(seconds[plain])
        rows.append([
            name, f"{big.calls / emitted:.2f}", f"{big.positions / emitted:.1f}", f"{little.calls / emitted:.2f}",
            f"{little.positions / emitted:.1f}", f"{1e3 * statistics.median(seconds[name]):.1f}", f"{ratio:.2f}",
        ])  # fmt: skip
    share = sum(answer.trace["nudged_share"] * len(answer.tokens) for answer in found)
    share /= sum(len(answer.tokens) for answer in found)
    head = [
        "side", "base passes", "positions", "guide passes", "positions", "ms a token (processor)", "to plain decoding",
    ]  # fmt: skip
    return "\n\n".join([
        f"{base.source} and {guide.source}, {n} questions, gamma 0.4, one thread; passes and positions (padding "
        f"included) for each emitted token. {100 * share:.1f} % of the tokens come from the guide. Tokens equal those "
        "of one question at a time, words those of the paper's calls, in every row.",
        table(head, rows),
    ])  # fmt: skip


if __name__ == "__main__":
    print(race())
