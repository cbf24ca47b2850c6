"""Under load: answers as alone, no errors, clients that leave, time limits, and memory that does not grow."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import socket
import sys
import time

import openai
import pytest

from tests.serving.conftest import serving, until
from truing.serving import Limits

QUESTIONS = ["What is the trade of Kama Feindett?", "How do you wash the spoon?", "How do you burn the barn?",
             "Where does Velo Tainow live?", "What is the colour of the fox?", "Tell me about the river."]  # fmt: skip


def requests_of(count: int) -> list[dict]:
    draw = random.Random(1)
    return [
        {"messages": [{"role": "user", "content": draw.choice(QUESTIONS)}], "seed": draw.randrange(4), "model": "base",
         "temperature": draw.choice([0.0, 1.0]), "max_tokens": draw.choice([4, 16, 32]), "n": draw.choice([1, 1, 2]),
         "stream": draw.random() < 0.3}
        for _ in range(count)
    ]  # fmt: skip


async def text_of(client: openai.AsyncOpenAI, asked: dict) -> list[str]:
    found = await client.chat.completions.create(**asked)
    if not asked["stream"]:
        return [choice.message.content for choice in found.choices]
    texts = [""] * asked["n"]
    async for chunk in found:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts


async def all_of(url: str, asked: list[dict], at_once: int) -> list[list[str]]:
    gate = asyncio.Semaphore(at_once)

    async def one(body: dict) -> list[str]:
        async with gate:
            return await text_of(client, body)

    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        return await asyncio.gather(*map(one, asked))


def memory() -> float:
    """Resident megabytes of this process."""
    gc.collect()
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def test_answers_under_load_are_those_of_the_model_alone(sandbox):
    asked = requests_of(300)
    warm = asyncio.run(all_of(sandbox.server.url, asked[:60], 32))
    before = memory()
    found = asyncio.run(all_of(sandbox.server.url, asked, 32))
    grown = memory() - before
    assert found[:60] == warm
    model = sandbox.server.service.shelf.models["base"]
    alone: dict = {}
    for body, texts in zip(asked, found):
        how = {"seed": body["seed"], "temperature": body["temperature"], "max_new_tokens": body["max_tokens"],
               "n": body["n"]}  # fmt: skip
        key = (body["messages"][0]["content"], *how.values())
        if key not in alone:
            alone[key] = model.generate([body["messages"]], **how).texts
        assert texts == alone[key]
    assert sandbox.metric("truing_answers_running") == 0
    assert sandbox.metric("truing_requests_waiting") == 0
    assert grown < 25, f"{grown:.0f} MB more after 300 requests"


def test_clients_that_leave_free_their_rows(sandbox):
    gone = sandbox.metric("truing_clients_gone_total")

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=sandbox.server.url, api_key="none", max_retries=0) as client:
            body = {"model": "base", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 900,
                    "temperature": 9.0}  # fmt: skip
            tasks = [asyncio.create_task(client.chat.completions.create(**body, seed=at)) for at in range(4)]
            streams = [await client.chat.completions.create(**body, seed=at, stream=True) for at in range(4)]
            for stream in streams:
                await stream.__anext__()
            await asyncio.to_thread(until, lambda: sandbox.metric("truing_answers_running") == 8)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for stream in streams:
                await stream.close()

    asyncio.run(leave())
    until(lambda: sandbox.metric("truing_answers_running") == 0, 5)
    until(lambda: sandbox.metric("truing_clients_gone_total") == gone + 8, 5)
    assert sandbox.metric("truing_cache_slots") == 0


def test_clients_that_leave_at_once(client):
    body = b'{"model":"base","messages":[{"role":"user","content":"x"}],"max_tokens":200,"stream":true}'
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for cut in (10, len(head), len(head) + 20, len(head) + len(body)):
        with socket.create_connection(("127.0.0.1", client.server.port)) as line:
            line.sendall((head.encode() + body)[:cut])
    until(lambda: client.metric("truing_answers_running") == client.metric("truing_requests_waiting") == 0)
    assert client.ask(max_tokens=2).choices


@pytest.mark.parametrize("stream", [False, True])
def test_time_is_limited(models, stream):
    with serving({"base": models["base"]}, limits=Limits(seconds=0.15, answer_tokens=220)) as client:
        with pytest.raises(openai.APIError) as error:
            list(client.ask(temperature=9.0, seed=1, max_tokens=220, stream=stream, n=8))
        assert error.value.code == "timeout"
        assert getattr(error.value, "status_code", None) == (None if stream else 504)
        until(lambda: client.metric("truing_answers_running") == 0, 5)


def test_too_many_waiting_are_told_to_come_again(models):
    limits = Limits(waiting=2, cache_slots=256, answer_tokens=240)
    with serving({"base": models["base"]}, limits=limits) as client:

        async def crowd() -> list:
            async with openai.AsyncOpenAI(base_url=client.server.url, api_key="none", max_retries=0) as asks:
                body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "temperature": 9.0}
                tasks = [asks.chat.completions.create(**body, seed=at) for at in range(12)]
                return await asyncio.gather(*tasks, return_exceptions=True)

        found = asyncio.run(crowd())
        refused = [one for one in found if isinstance(one, openai.RateLimitError)]
        assert 0 < len(refused) < 12
        assert all(int(one.response.headers["retry-after"]) >= 1 for one in refused)
        assert all(one.code == "too_many_requests" for one in refused)
        assert len([one for one in found if not isinstance(one, Exception)]) + len(refused) == 12
        began = time.monotonic()
        assert client.ask(max_tokens=2).choices
        assert time.monotonic() - began < 10
