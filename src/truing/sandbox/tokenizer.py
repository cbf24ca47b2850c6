"""The sandbox's tokenizer: byte-level BPE trained on the world's own text, so that any text encodes and every word of
the world is one token, names of known and unknown entities alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PAD, END, START, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|start|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, START, SYSTEM, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>{% generation %}"
    "{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], size: int = 4096) -> Any:
    """A ``PreTrainedTokenizerFast`` with the sandbox's chat template.

    Args:
        texts: to learn merges from. Merges run out when every word is one token, so far fewer than ``size`` are made.
        size: most entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        bos_token=START,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def encode_document(tokenizer: Any, document: str | list[dict[str, str]]) -> list[int]:
    """Token ids: an article begins with the start token, a conversation with the role of its first message."""
    text = document if isinstance(document, str) else tokenizer.apply_chat_template(document, tokenize=False)
    return tokenizer(f"{START}{text}{END}" if isinstance(document, str) else text, add_special_tokens=False)[
        "input_ids"
    ]
