"""Whatever the catalogue's methods add to a model is served as it answers here, with others beside it."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.examples import PROMPTS, make, model, rows
from tests.serving.test_scheduler import answer_after_reading, run
from truing.catalogue import entries
from truing.models.chat import as_messages
from truing.models.types import Sampling
from truing.serving.jobs import Asked, Job, Read

METHODS = [pytest.param(entry.load(), id=entry.name) for entry in entries("method") if entry.load().modifier]


@pytest.mark.parametrize("method", METHODS)
def test_served_as_it_answers(method):
    plain = model()
    aligned = make(method).align(plain, rows(method))
    how = {"max_new_tokens": 10, "temperature": 0.8, "seed": 3}
    prompts = [as_messages(prompt) for prompt in PROMPTS]

    async def body(scheduler):
        jobs = [
            Job(one, id(one), [Asked(messages)], Sampling(**how), stream=one is aligned)
            for messages in prompts
            for one in (aligned, plain)
        ]
        for one in jobs:
            scheduler.submit(one)
            await asyncio.sleep(0.005)
        found = []
        for one in jobs:
            assert isinstance(await one.next(), Read)
            found.append((await answer_after_reading(one))[0])
        for one, which in ((aligned, found[::2]), (plain, found[1::2])):
            alone = one.generate(prompts, **how)
            assert [(a.text, a.tokens, a.finish_reason) for a in which] == [
                (a.text, a.tokens, a.finish_reason) for a in alone
            ]

    run(body)
