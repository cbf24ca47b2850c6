"""A model and rewards for the tests of look-ahead."""

from __future__ import annotations

import functools
import hashlib

from tests.conformance.examples import model as tiny_model


@functools.cache
def model(architecture="llama", seed=0):
    return tiny_model(architecture, seed)


def noisy(prompts, responses):
    """A number in [0, 1) that looks random, and is the same for the same answer."""
    return [int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12 for text in responses]


class Bounded:
    """A reward that says what it can give."""

    bounds = (0.0, 1.0)

    def __init__(self, reward):
        self.reward, self.texts = reward, 0

    def __call__(self, prompts, responses):
        self.texts += len(responses)
        return self.reward(prompts, responses)
