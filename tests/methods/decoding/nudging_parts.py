"""Tiny models that nudge each other, and the rule over token ids, one token at a time."""

from __future__ import annotations

import functools

import torch

from tests import tiny
from truing.methods.decoding import nudging_rules as rules
from truing.methods.decoding import nudging_turns as turns
from truing.models import Model
from truing.models.engine import Engine
from truing.models.modifiers import PromptModifier
from truing.models.sampling import choose, noise_stream
from truing.models.types import Sampling


class Ends(PromptModifier):
    """Ends answers at a string of its own and strips them, as URIAL's plain text does."""

    end: str = " the"

    def messages(self, messages):
        return list(messages)

    def stops(self):
        return (self.end,)

    def clean(self, text, ended):
        return text.strip()


PROMPTS = ["what is the colour of the stone?", "the cat", "look at the small red bird and the mat, what is on the mat?"]
GAMMAS = (0, 0.2, 0.4, 0.6, 1.1)
SPELLED = {"<|end|>", ".", "s", "e", "Ċ"}


@functools.cache
def model(architecture="llama", seed=0, size=320, sharpness=5.0):
    """A tiny model that writes mostly words, and is sure of some of them: others have a score of 0."""
    tokenizer, network = tiny.tokenizer(size), tiny.network(architecture, seed=seed, vocabulary=size)
    spelled = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    useful = torch.tensor([text.startswith("Ġ") or text in SPELLED for text in spelled] + [False] * size)[:size]
    with torch.no_grad():
        # Tied weights were not scaled up when the network was made.
        tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
        network.get_output_embeddings().weight.mul_(useful[:, None] * sharpness * (2 if tied else 1))
    return Model(network, tokenizer, source=f"tiny-{architecture}-{seed}")


def asker(one, prompt, sampling=None, sample=0):
    """What a model writes after answer tokens, by a forward pass over the whole row without any cache."""
    seen = {}

    def top(tokens):
        key = tuple(tokens)
        if key not in seen:
            with torch.inference_mode():
                ids = torch.tensor([[*prompt, *tokens]])
                scores = one.weights(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1]
            token = choose(scores, sampling or Sampling(), [noise_stream(prompt, sample)], len(tokens))[0]
            seen[key] = turns.Top(token, float(scores.float().softmax(1).max()))
        return seen[key]

    return top


def plain(base, guide, prompt, gamma, lookahead, most, sampling=None, sample=0):
    """The rule over one vocabulary, one token at a time, written without the code that it tests."""
    engine = Engine(base)
    ask_base = asker(base, base.encode_prompt(prompt), sampling, sample)
    ask_guide = asker(guide, guide.encode_prompt(prompt))
    end = base.tokenizer.eos_token_id
    out, last, times = [], "", 1
    while len(out) < most:
        proposal = []
        for _ in range(lookahead):
            proposal.append(ask_guide(out + proposal).token)
            if proposal[-1] == end:
                return (out + proposal)[:most]
        words = proposal[:1]
        for token in proposal[1:]:
            starts = base.tokenizer.convert_ids_to_tokens(token).startswith("Ġ")
            if starts and ask_base(out + words).probability >= gamma:
                break
            words.append(token)
        text = engine.text(words)
        times = times + 1 if text == last else 1
        last = text
        if times == 4:
            return out
        out = out + words
        turn = []
        sure = True
        while sure and len(out) < most:
            part = []
            while len(part) < 16 and len(out + part) < most:
                top = ask_base(out + part)
                sure = top.probability >= gamma and top.token != end
                if not sure:
                    break
                part.append(top.token)
            unsure = not sure and top.token != end
            new = engine.text(part)
            whole = sure and len(out + part) >= most
            if part and not unsure and not whole and new in engine.text(turn):
                break
            if part and len(new.split(" ")) > 5 and new in engine.text(out):
                break
            turn, out = turn + part, out + part
    return out[:most]


def expected(base, tokens):
    """Tokens without an end that repeats itself."""
    engine = Engine(base)
    whole = engine.text(tokens)
    text = rules.cut_repeated_suffix(whole)
    if len(text) < len(whole):
        while len(engine.text(tokens[:-1])) >= len(text):
            tokens = tokens[:-1]
    return tokens, text
