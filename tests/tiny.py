"""Tiny randomly initialised models of six architectures and a byte-level tokenizer, made on the spot."""

from __future__ import annotations

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    set_seed,
)

ARCHITECTURES = ("llama", "qwen3", "gemma", "mistral", "gpt_neox", "opt")

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>{% generation %}"
    "{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@functools.cache
def _backend(size: int) -> Tokenizer:
    text = [
        "the cat sat on the mat and looked at the small red bird",
        "what is the colour of the stone? it is grey, of course.",
    ] * 20
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    backend.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    return backend


def tokenizer(size: int = 320, padding_side: str = "left", chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that encodes any text; ``chat`` gives it a chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(size).to_str()),
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        padding_side=padding_side,
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


def network(architecture: str = "llama", seed: int = 0, vocabulary: int = 320, **changes: object) -> torch.nn.Module:
    """A random model of two layers and width 32, in float32 and eval mode. Scaled-up weights give logits that vary."""
    common = {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
    }  # fmt: skip
    configs = {
        "llama": lambda: LlamaConfig(**{**common, "intermediate_size": 64, "num_key_value_heads": 2, **changes}),
        "qwen3": lambda: Qwen3Config(
            **{**common, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, **changes}
        ),
        "gemma": lambda: GemmaConfig(
            **{**common, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, **changes}
        ),
        "mistral": lambda: MistralConfig(
            **{**common, "intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 16, **changes}
        ),
        "gpt_neox": lambda: GPTNeoXConfig(**{**common, "intermediate_size": 64, **changes}),
        "opt": lambda: OPTConfig(**{**common, "ffn_dim": 64, "word_embed_proj_dim": 32, **changes}),
    }
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(configs[architecture](), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.mul_(4)
    return model.eval()
