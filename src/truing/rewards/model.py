"""The score of a reward model: a sequence-classification model of transformers that reads a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from truing.contracts import Prompt, is_number, is_whole, require
from truing.errors import ModelError, RewardError
from truing.models.core import context_length
from truing.rewards import ConfiguredReward


class RewardModel(ConfiguredReward):
    """The score of a sequence-classification model: ``(logit - center) / scale`` of the conversation with its answer.

    The conversation is written by the reward model's own chat template, whichever model answered. Without a template it
    is the plain form of `truing.models.chat` and the end token. Answers of similar length are scored together; a batch
    gives what single answers give. The model is read when first called, from safetensors only, in float32 on a CPU and
    bfloat16 on a GPU.

    Where transformers' classification heads read the score (the last token that is not padding) follows the model's
    own ``config.pad_token_id``; a model without one reads the last token.

    Args:
        model: a folder or hub name, or the pair (weights, tokenizer).
        index: which label is the score; needed where the model has more than one.
        center: subtracted from the logit, so that scores lie around 0.
        scale: what the centred logit is divided by; over 0.
        batch_size: most answers at a time; by default a budget of 8192 tokens.
        device: where a model given by name runs; a GPU if there is one unless given.
    """

    model: Any
    index: int | None = None
    center: float = 0.0
    scale: float = 1.0
    batch_size: int | None = None
    device: str | None = None

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        named = isinstance(self.model, (str, Path)) and bool(str(self.model).strip())
        paired = isinstance(self.model, (tuple, list)) and len(self.model) == 2 and hasattr(self.model[0], "config")
        require(
            named or paired,
            "model is the folder or hub name of a sequence-classification model, or the pair (weights, tokenizer), "
            f"not {type(self.model).__name__}.",
        )
        for name, value in (("center", self.center), ("scale", self.scale)):
            require(is_number(value), f"{name} is a finite number, not {value!r}.")
        require(self.scale > 0, f"scale divides the logit and must be over 0, not {self.scale}.")
        require(
            self.batch_size is None or (is_whole(self.batch_size) and self.batch_size >= 1),
            f"batch_size is a whole number of at least 1, or None, not {self.batch_size!r}.",
        )

    def _score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        weights, tokenizer = self._loaded()
        label = self._label(weights)
        rows = []
        limit = context_length(weights)
        for at, (prompt, response) in enumerate(zip(prompts, responses)):
            rows.append(encode_answered(tokenizer, prompt, response))
            if limit and len(rows[-1]) > limit:
                raise RewardError(
                    f"Row {at} has {len(rows[-1])} tokens with its prompt, and the reward model reads {limit} at most. "
                    "Ask for shorter answers (`max_new_tokens`), or take another reward model."
                )
        return (logits(weights, rows, self.batch_size)[:, label] - self.center) / self.scale

    def _label(self, weights: Any) -> int:
        names = {int(at): str(name) for at, name in weights.config.id2label.items()}
        count = weights.config.num_labels
        if self.index is None:
            require(
                count == 1,
                f"This model has {count} labels ({', '.join(names[at] for at in sorted(names))}): say which one is the "
                "score with `index`.",
            )
            return 0
        require(
            is_whole(self.index) and -count <= self.index < count,
            f"index is the number of a label, 0 to {count - 1} for this model, not {self.index!r}.",
        )
        return self.index

    def _loaded(self) -> tuple[Any, Any]:
        if isinstance(self.model, (tuple, list)):
            return self.model[0], self.model[1]
        held = self.__dict__.get("_held")
        if held is None or held[0] != (self.model, self.device):
            held = self.__dict__["_held"] = ((self.model, self.device), load_scorer(self.model, self.device))
        return held[1]


def load_scorer(name: str | Path, device: str | None = None) -> tuple[Any, Any]:
    """Weights and tokenizer of a sequence-classification model, from safetensors only; code that comes with it is not
    run.

    Raises:
        ModelError: nothing can be read under that name, or what is there has no trained score.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source, folder = str(name), Path(name)
    if not folder.is_dir() and (folder.is_absolute() or source.startswith((".", "~"))):
        raise ModelError(f"There is no folder {source}. Give the folder or hub name of a reward model.")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if where.startswith("cuda") else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        weights, found = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The reward model {source} cannot be loaded: {str(error).splitlines()[0]} A reward model is a folder or "
            "hub name with config.json, a tokenizer and the safetensors weights of a sequence-classification model."
        ) from error
    # transformers fills what a checkpoint lacks with random numbers: a causal model would score at random.
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{source} is no reward model: its weights lack {', '.join(missing[:3])}. "
            "A causal language model has no score; train one, or name a sequence-classification model."
        )
    return weights.to(where).eval(), tokenizer


def logits(
    weights: Any, rows: Sequence[Sequence[int]], batch_size: int | None = None, *,
    types: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:  # fmt: skip
    """Float64 label scores [n, labels] of token ids, n rows scored in batches of similar length.

    Args:
        weights: a sequence-classification model of transformers.
        rows: token ids, at least one in each.
        batch_size: rows at a time; by default a budget of 8192 tokens.
        types: token types of each row, for models that read some.
    """
    import torch

    from truing import progress
    from truing.models.logprobs import batches

    config, device = weights.config.get_text_config(), next(weights.parameters()).device
    out = np.zeros((len(rows), weights.config.num_labels))
    pad, training = config.pad_token_id, weights.training
    weights.eval()
    try:
        with torch.inference_mode(), progress.task("rewards", len(rows)) as bar:
            for chosen in batches([len(row) for row in rows], 8192, batch_size):
                width = max(len(rows[at]) for at in chosen)
                if pad is None:
                    # Heads look for the last token that is not `config.pad_token_id`, and refuse a batch without one:
                    # any id that no row holds will do.
                    taken = {token for at in chosen for token in rows[at]}
                    config.pad_token_id = next(token for token in range(len(taken) + 1) if token not in taken)
                ids = torch.full((len(chosen), width), config.pad_token_id)
                mask = torch.zeros_like(ids)
                more = {} if types is None else {"token_type_ids": torch.zeros_like(ids)}
                for line, at in enumerate(chosen):
                    ids[line, : len(rows[at])], mask[line, : len(rows[at])] = torch.tensor(list(rows[at])), 1
                    if types is not None:
                        more["token_type_ids"][line, : len(rows[at])] = torch.tensor(list(types[at]))
                more = {name: value.to(device) for name, value in more.items()}
                scores = weights(input_ids=ids.to(device), attention_mask=mask.to(device), **more).logits
                out[chosen] = scores.double().cpu().numpy()
                bar.advance(len(chosen))
    finally:
        config.pad_token_id = pad
        weights.train(training)
    return out


def encode_answered(tokenizer: Any, prompt: Prompt, response: str) -> list[int]:
    """Token ids of a conversation with its answer, as a reward model reads it."""
    from truing.models.chat import as_messages, encode_conversation

    messages = [*as_messages(prompt), {"role": "assistant", "content": response}]
    ids = encode_conversation(tokenizer, messages, closed=True)
    ends = not tokenizer.chat_template and tokenizer.eos_token_id is not None
    return [*ids, tokenizer.eos_token_id] if ends else ids
