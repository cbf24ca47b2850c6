"""A real server of tiny models in a thread, and the official client."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests
import torch

from tests import tiny
from tests.models.parts import letters
from truing.methods.decoding.best_of_n import BestOfNModifier
from truing.methods.decoding.nudging import NudgingModifier
from truing.methods.prompting.system_message import SystemMessageModifier
from truing.methods.steering.modifier import SteeringModifier
from truing.models import Model, load
from truing.serving import Limits, Server


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small are slowed by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def steering(strength: float = 0.0, seed: int = 0) -> SteeringModifier:
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(seed))
    return SteeringModifier(vectors=vector, at=[1], strength=strength)


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """One set of weights with several modifiers, and a guide."""
    base = Model(tiny.network(), tiny.tokenizer(), source="tiny/base")
    guide = Model(tiny.network(seed=1), base.tokenizer, source="tiny/guide")
    return {
        "base": base,
        "guide": guide,
        "steered": base.with_modifier(steering(2.0)),
        "polite": base.with_modifier(SystemMessageModifier(text="look at the mat")),
        "nudged": base.with_modifier(NudgingModifier(guide=guide, gamma=0.3, lookahead=4)),
        "best": base.with_modifier(BestOfNModifier(n=3, reward=letters)),
    }


class Client(openai.OpenAI):
    """The official client, and plain HTTP beside it."""

    def __init__(self, server: Server, key: str = "none") -> None:
        super().__init__(base_url=server.url, api_key=key, max_retries=0, timeout=60)
        self.server = server
        self.root = server.url.removesuffix("/v1")

    def ask(self, text: str = "the cat", model: str = "base", **more: Any) -> Any:
        return self.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)

    def write(self, prompt: Any = "the cat", model: str = "base", **more: Any) -> Any:
        return self.completions.create(model=model, prompt=prompt, **more)

    def raw(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> requests.Response:
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return requests.post(
            self.root + path, timeout=60, data=data, headers={"Content-Type": "application/json", **headers}
        )

    def metric(self, name: str) -> float:
        page = requests.get(self.root + "/metrics", timeout=60).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.split("{")[0].split()[0] == name)


@contextlib.contextmanager
def serving(models: dict[str, Any], **how: Any) -> Iterator[Client]:
    with Server(models, port=0, **how) as server:
        yield Client(server)


@pytest.fixture(scope="session")
def client(models: dict[str, Model]) -> Iterator[Client]:
    with serving(models, limits=Limits(answer_tokens=200)) as one:
        yield one


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Client]:
    with serving({"base": load("sandbox/base")}) as one:
        yield one


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def error_of(response: requests.Response) -> dict[str, Any]:
    found = response.json()
    assert set(found) == {"error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    return dict(found["error"], status=response.status_code)
