"""A bandit of one token: the reward is 1 for one word, which the model writes with a known probability."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests import tiny
from truing.models import Model

PROMPTS = ["what is the colour of the stone?", "the cat", "look at the small red bird and the mat, what is on it?"]
QUESTIONS = [{"prompt": prompt, "answers": ["red"]} for prompt in PROMPTS]


def model(architecture: str = "llama", seed: int = 0, padding_side: str = "left") -> Model:
    """A tiny model; "gpt2" has learned positions, which padding on the left must not move."""
    if architecture == "gpt2":
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=None, eos_token_id=1
        )
        network = GPT2LMHeadModel(config).float().eval()
        with torch.no_grad():
            network.transformer.wpe.weight.mul_(20)
    else:
        network = tiny.network(architecture, seed=seed)
    return Model(network, tiny.tokenizer(padding_side=padding_side), source=f"tiny-{architecture}")


def next_word(one: Model, prompt: str) -> torch.Tensor:
    """Log-probabilities of the first token of an answer."""
    with torch.no_grad():
        return one.weights(torch.tensor([one.encode_prompt(prompt)])).logits[0, -1].log_softmax(0)


def weights_of(one: Model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in one.weights.state_dict().items()}


def of_length(prompts: list, responses: list) -> list[float]:
    """A reward that differs among answers: the share of their letters that are vowels, and a little for length."""
    return [sum(letter in "aeiou" for letter in text) / (len(text) + 1) + len(text) / 100 for text in responses]
