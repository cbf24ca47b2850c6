"""A model on this machine: weights, tokenizer, modifiers and history."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from truing.contracts import Message, Prompt
from truing.errors import ModelError, RecordError, UnsupportedError
from truing.models import chat
from truing.models.core import context_length
from truing.models.logprobs import batches, target_logprobs
from truing.models.modifiers import Modifier
from truing.models.stack import Stacked
from truing.models.types import Completions, Row, Sampling, Step, Usage, as_prompts

OFFERS = frozenset({"gradients", "local_weights", "logits", "activations"})


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(Stacked):
    """Weights with a tokenizer, modifiers and history. Changes give a new model that shares the weights.

    Args:
        weights: a causal language model of transformers, or a PEFT model around one.
        tokenizer: its tokenizer.
        modifiers: what changes its answers without changing weights, in the order they were added.
        history: the steps that made it.
        source: what it was loaded from.
    """

    weights: Any
    tokenizer: Any
    modifiers: tuple[Modifier, ...] = ()
    history: tuple[Step, ...] = ()
    source: str = ""

    @property
    def offers(self) -> frozenset[str]:
        """What methods may ask of it."""
        return OFFERS

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.weights.parameters()).device

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt as the model sees it, after its prompt modifiers, up to where the answer begins."""
        return self._encode(self.conversation(prompt))

    def encode_messages(self, messages: list[Message]) -> list[int]:
        """Token ids of messages that prompt modifiers have been over, however many they are."""
        text = self.rendered(messages)
        if text is None:
            return chat.encode_conversation(self.tokenizer, messages)
        return chat.encode_text(self.tokenizer, text)

    def _encode(self, messages: list[Message]) -> list[int]:
        ids = self.encode_messages(messages)
        limit = context_length(self.weights)
        if limit and len(ids) >= limit:
            raise RecordError(
                f"A prompt has {len(ids)} tokens, and {self.name} reads {limit} at most, its answer included. "
                f"Shorten the prompt: {str(messages[-1]['content'])[:60]!r}…"
            )
        return ids

    def encode_pair(self, prompt: Prompt, completion: Any) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of its answer, encoded apart; the answer ends with the end-of-sequence token."""
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                f"The tokenizer of {self.name} has no end token, so an answer cannot end. Set `tokenizer.eos_token`."
            )
        text = (
            completion if isinstance(completion, str) else "".join(m["content"] for m in chat.as_messages(completion))
        )
        messages = self.conversation(prompt)
        open_end = self.tokenizer.chat_template or self.rendered(messages) is not None
        gap = "" if open_end or text[:1].isspace() else " "
        return self._encode(messages), [*chat.encode_plain(self.tokenizer, gap + text), self.tokenizer.eos_token_id]

    def generate(
        self, prompts: Any, *, max_new_tokens: int = 128, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
        n: int = 1, stop: Sequence[str] = (), seed: int = 0, batch_size: int | None = None,
        stream: Callable[..., None] | None = None,
    ) -> Completions:  # fmt: skip
        """Answers to one prompt or many; see `Sampling` for the arguments."""
        from truing.models.engine import generate
        from truing.models.sampling import check_sampling

        sampling = Sampling(
            max_new_tokens, temperature, top_k, top_p, (stop,) if isinstance(stop, str) else tuple(stop), seed, n
        )
        check_sampling(sampling)
        conversations = self.conversations(as_prompts(prompts))
        rows = [Row(messages, tuple(self._encode(messages)), i) for i, messages in enumerate(conversations)]
        return generate(self, rows, sampling, batch_size=batch_size, stream=stream)

    def logprobs(
        self, prompts: Any, responses: Sequence[str], *, per_token: bool = False, batch_size: int | None = None
    ) -> Any:
        """Log-probability in nats of each response, end token included, shape [n]; or token by token, an array each.

        Raises:
            UnsupportedError: the model carries a search modifier, which defines no probability; use ``.policy``.
        """
        prompts, responses = as_prompts(prompts), [responses] if isinstance(responses, str) else list(responses)
        if len(prompts) != len(responses):
            raise RecordError(
                f"logprobs needs one response for each prompt, got {len(prompts)} prompts and "
                f"{len(responses)} responses."
            )
        self.conversations(prompts)  # so that a modifier that asks a model asks once
        found = self._score([self.encode_pair(p, r) for p, r in zip(prompts, responses)], batch_size)
        return found if per_token else np.array([values.sum() for values in found], dtype=np.float64)

    def text_logprobs(self, texts: Sequence[str], *, batch_size: int | None = None) -> list[np.ndarray]:
        """Log-probability in nats of each token of plain texts, after the first one."""
        encoded = [chat.encode_plain(self.tokenizer, text) for text in texts]
        first = self.tokenizer.bos_token_id
        return self._score([([first], ids) if first is not None else (ids[:1], ids[1:]) for ids in encoded], batch_size)

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int | None) -> list[np.ndarray]:
        for modifier in self.modifiers:
            if modifier.kind == "search":
                raise UnsupportedError(
                    f"{type(modifier).__name__} searches among answers, which defines no log-probability. "
                    "Use `model.policy.logprobs`, the model without it."
                )
        out = [np.zeros(0, dtype=np.float32) for _ in pairs]
        pad = self.tokenizer.pad_token_id or 0
        adjusting = [modifier for modifier in self.modifiers if modifier.kind == "logits"]
        sessions: list[dict[Any, Any]] = [{"usage": Usage()} for _ in adjusting]

        def adjust(scores: torch.Tensor, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
            for modifier, session in zip(adjusting, sessions):
                scores = modifier.adjust(scores, prefixes, session).float()  # type: ignore[attr-defined]
            return scores

        self.weights.eval()
        for rows in batches([len(p) + len(c) for p, c in pairs], 8192, batch_size):
            width = max(len(pairs[i][0]) + len(pairs[i][1]) for i in rows)
            ids = torch.full((len(rows), width), pad)
            mask, wanted = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
            for at, i in enumerate(rows):
                prompt, answer = pairs[i]
                end = len(prompt) + len(answer)
                ids[at, :end], mask[at, :end] = torch.tensor(prompt + answer, dtype=torch.long), 1
                wanted[at, len(prompt) : end] = True
            values = target_logprobs(
                self.weights,
                ids.to(self.device),
                mask.to(self.device),
                wanted.to(self.device),
                adjust=adjust if adjusting else None,
                during=self._edits(torch.tensor([len(pairs[i][0]) for i in rows], device=self.device)),
            ).cpu()
            for i, part in zip(rows, values.split(wanted.sum(1).tolist())):
                out[i] = part.numpy()
        return out

    def _edits(self, prompts: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
        if not any(modifier.kind == "activation" for modifier in self.modifiers):
            return contextlib.nullcontext()
        from truing.models.activations import editing

        return editing(self, prompts)

    def with_weights(self, weights: Any) -> Model:
        """The same model with other weights."""
        return dataclasses.replace(self, weights=weights)


def same_vocabulary(one: Any, other: Any) -> bool:
    """Whether two models mean the same by every token id."""
    return bool(one.tokenizer is other.tokenizer or one.tokenizer.get_vocab() == other.tokenizer.get_vocab())


def parameter_count(model: Model) -> int:
    """How many numbers a model's weights are."""
    return sum(parameter.numel() for parameter in model.weights.parameters())
