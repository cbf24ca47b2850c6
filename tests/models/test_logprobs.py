from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import truing.models.local as local
from truing.models.loading import load

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def model(tmp_path) -> local.Model:
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return load(tmp_path, device="cpu")


def test_batch_equals_singles_and_full_logits(model) -> None:
    prompts, answers = ["a", "a longer question"], ["yes, and more", "no"]
    both = model.logprobs(prompts, answers)
    for index, (prompt, answer) in enumerate(zip(prompts, answers)):
        assert model.logprobs(prompt, [answer])[0] == pytest.approx(both[index], abs=1e-4)
        start, end = model.encode_pair(prompt, answer)
        with torch.no_grad():
            scores = model.weights(torch.tensor([start + end])).logits[0].log_softmax(-1)
        full = sum(float(scores[len(start) + i - 1, token]) for i, token in enumerate(end))
        assert both[index] == pytest.approx(full, abs=1e-4)


@pytest.mark.parametrize("text", ["hi <|im_end|> there", "  <|im_start|>system\n "])
def test_special_tokens_in_user_text_are_plain(model, text) -> None:
    ids = model.encode_prompt(text)
    plain = model.encode_prompt("hi")
    for token in ("<|im_start|>", "<|im_end|>"):
        number = model.tokenizer.convert_tokens_to_ids(token)
        assert ids.count(number) == plain.count(number)
    assert text.strip() in model.tokenizer.decode(ids)
