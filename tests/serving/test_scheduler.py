"""Who joins, who leaves, who waits: the thread that runs the models, driven from an event loop without HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time

import pytest

from tests.serving.conftest import steering, until
from truing.methods.decoding.proxy_tuning import ProxyTuningModifier
from truing.models.modifiers import ActivationModifier, LogitsModifier, PromptModifier, SearchModifier
from truing.models.types import Sampling
from truing.serving.jobs import Asked, Job, Piece, Read, Rejected
from truing.serving.limits import Limits
from truing.serving.scheduler import Scheduler


class Slow(SearchModifier):
    """Writes greedily, a forward pass a token, and counts them."""

    passes = 0

    def search(self, engine, rows, sampling):
        out = []
        for row in rows:
            batch = engine.prefill([row.tokens])
            for _ in range(min(engine.room(row, sampling), sampling.max_new_tokens)):
                type(self).passes += 1
                batch.append([int(batch.logits.argmax())])
            out.append([engine.completion(row, batch.tokens[0][len(row.tokens) :], sampling)] * sampling.n)
        return out


class Counts(PromptModifier):
    """Notes how many conversations it sees at a time; refuses a word."""

    seen: list[int]

    def batch(self, conversations):
        self.seen.append(len(conversations))
        if any("refuse" in messages[-1]["content"] for messages in conversations):
            raise ValueError("text of a prompt")
        return [list(messages) for messages in conversations]


class Breaks(LogitsModifier):
    """Raises once it is asked for the third token."""

    def adjust(self, logits, prefixes, session):
        session["calls"] = session.get("calls", 0) + 1
        if session["calls"] >= 3:
            raise RuntimeError(" ".join(["text", "of", "a", "prompt"]))
        return logits


def run(body, **limits):
    """Run an async test body with a scheduler of its own."""

    async def within():
        scheduler = Scheduler(Limits(**limits))
        scheduler.start()
        try:
            await asyncio.wait_for(body(scheduler), 60)
        finally:
            await asyncio.to_thread(scheduler.stop)
            assert not scheduler._thread.is_alive()

    asyncio.run(within())


def job(model, text="the cat", key=None, **more):
    how = {name: more.pop(name) for name in list(more) if name in {f.name for f in dataclasses.fields(Sampling)}}
    sampling = Sampling(**{"max_new_tokens": 12, "temperature": 1.0, "seed": 3, **how})
    return Job(model, key or id(model), [Asked([{"role": "user", "content": text}])], sampling, **more)


async def answer(one):
    """Its completions, in order."""
    assert isinstance(await one.next(), Read)
    return await answer_after_reading(one)


async def answer_after_reading(one):
    done = {}
    while len(done) < one.choices:
        piece = await one.next()
        if piece.done is not None:
            done[piece.choice] = piece.done
    return [done[choice] for choice in sorted(done)]


def test_many_at_once_are_what_each_is_alone(models):
    texts = [f"{word} {n}" for n in range(6) for word in ("the cat", "a red bird", "what is the colour of")]
    hows = [{"n": 2}, {"temperature": 0.0}, {"seed": 9, "top_p": 0.8}, {"stop": ("e",)}, {"max_new_tokens": 30}]
    proxy = ProxyTuningModifier(guide=models["guide"], untuned=models["steered"], weight=0.5)
    steered = [models["base"], models["base"].with_modifier(proxy), models["steered"].with_strength(-4.0)]

    async def body(scheduler):
        jobs = [job(steered[at % 3], text, **hows[at % 5]) for at, text in enumerate(texts)]
        for at, one in enumerate(jobs):
            scheduler.submit(one)
            if at % 4 == 0:
                await asyncio.sleep(0.01)
        found = await asyncio.gather(*map(answer, jobs))
        for one, answers in zip(jobs, found):
            how = {name: getattr(one.sampling, name) for name in ("temperature", "seed", "n", "stop", "top_p")}
            alone = one.model.generate([one.prompts[0].messages], max_new_tokens=one.sampling.max_new_tokens, **how)
            assert [a.tokens for a in answers] == [a.tokens for a in alone]
            assert one.completion_tokens == sum(len(a.tokens) for a in alone)
        assert scheduler.running == scheduler.waiting == scheduler.slots == 0
        assert scheduler._lanes == {}
        # Together they take far fewer steps than one after another.
        assert scheduler.steps < sum(one.completion_tokens for one in jobs) / 1.5

    run(body)


def test_given_up_rows_are_freed_before_the_next_step(models):
    async def body(scheduler):
        long, short = job(models["base"], max_new_tokens=200, n=4), job(models["base"], "x", max_new_tokens=60)
        scheduler.submit(long)
        assert isinstance(await long.next(), Read)
        await asyncio.to_thread(until, lambda: scheduler.running == 4)
        scheduler.submit(short)
        await asyncio.to_thread(until, lambda: scheduler.running == 5)
        long.cancel()
        await asyncio.to_thread(until, lambda: scheduler.running == 1)
        found = (await answer(short))[0]
        assert found.tokens == models["base"].generate("x", max_new_tokens=60, temperature=1.0, seed=3)[0].tokens
        steps = scheduler.steps
        await asyncio.sleep(0.1)
        assert scheduler.steps == steps, "nothing goes on for nobody"
        waiting = job(models["base"])
        waiting.cancel()
        scheduler.submit(waiting)
        await asyncio.to_thread(until, lambda: scheduler.waiting == 0)

    run(body)


def test_the_budget_of_slots_is_kept_and_nobody_starves(models):
    seen = []

    async def body(scheduler):
        size = len(models["base"].encode_prompt("the cat")) + 12
        jobs = [job(models["base"] if at % 2 else models["steered"], seed=at) for at in range(20)]
        for one in jobs:
            scheduler.submit(one)

        async def watch():
            while True:
                seen.append(scheduler.slots)
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        found = await asyncio.gather(*map(answer, jobs))
        watching.cancel()
        assert max(seen) <= 4 * size
        for one, answers in zip(jobs, found):
            alone = one.model.generate("the cat", temperature=1.0, seed=one.sampling.seed, max_new_tokens=12)
            assert answers[0].tokens == alone[0].tokens
        large = job(models["base"], n=5)
        scheduler.submit(large)
        with pytest.raises(Rejected, match="slots of the cache"):
            await large.next()

    run(body, cache_slots=4 * (len(models["base"].encode_prompt("the cat")) + 12))


def test_lanes_are_bounded(models):
    most = []

    async def body(scheduler):
        variants = [models["base"].with_modifier(steering(float(at))) for at in range(6)]
        jobs = [job(model, max_new_tokens=20, temperature=0.0) for model in variants]
        for one in jobs:
            scheduler.submit(one)
        pending = [asyncio.create_task(answer(one)) for one in jobs]
        while not all(one.done() for one in pending):
            most.append(len(scheduler._lanes))
            await asyncio.sleep(0.001)
        for model, one in zip(variants, pending):
            assert one.result()[0].tokens == model.generate("the cat", max_new_tokens=20)[0].tokens

    run(body, lanes=2)
    assert max(most) == 2


def test_too_many_waiting_are_sent_away(models):
    async def body(scheduler):
        gate = threading.Event()

        class Waits(PromptModifier):
            def messages(self, messages):
                gate.wait(20)
                return messages

        first = job(models["base"].with_modifier(Waits()))
        scheduler.submit(first)
        await asyncio.to_thread(until, lambda: scheduler.waiting == 0)
        others = [job(models["base"], seed=at) for at in range(3)]
        for one in others:
            scheduler.submit(one)
        with pytest.raises(Rejected) as error:
            scheduler.submit(job(models["base"]))
        assert error.value.status == 429
        assert 1 <= int(error.value.headers["Retry-After"]) <= 60
        gate.set()
        for one in (first, *others):
            await answer(one)
        scheduler.submit(last := job(models["base"]))
        await answer(last)

    run(body, waiting=3)


def test_running_answers_go_on_while_a_search_runs(models):
    Slow.passes = 0

    async def body(scheduler):
        search = job(models["base"].with_modifier(Slow()), max_new_tokens=200, temperature=0.0)
        scheduler.submit(search)
        await asyncio.to_thread(until, lambda: Slow.passes > 0)
        plain = job(models["base"], max_new_tokens=30)
        scheduler.submit(plain)
        found = (await answer(plain))[0]
        assert Slow.passes < 190, "it did not wait for the search"
        assert found.tokens == models["base"].generate("the cat", max_new_tokens=30, temperature=1.0, seed=3)[0].tokens
        told = (await answer(search))[0]
        assert told.tokens == models["base"].generate("the cat", max_new_tokens=200)[0].tokens

    run(body)


def test_a_search_that_nobody_waits_for_ends_at_its_next_pass(models):
    Slow.passes = 0

    async def body(scheduler):
        model = models["base"].with_modifier(Slow())
        search, second = (job(model, text, max_new_tokens=200) for text in ("the cat", "x"))
        third = job(model, max_new_tokens=5, temperature=0.0)
        for one in (search, second, third):
            scheduler.submit(one)
        await asyncio.to_thread(until, lambda: Slow.passes > 3)
        search.cancel()
        second.cancel()
        found = (await answer(third))[0]
        assert len(found.tokens) == 5
        assert Slow.passes < 150

    run(body)


def test_searches_with_equal_settings_run_together(models):
    groups = []

    class Groups(SearchModifier):
        def search(self, engine, rows, sampling):
            groups.append((len(rows), sampling.seed))
            return engine.generate(rows, sampling)

    async def body(scheduler):
        model = models["base"].with_modifier(Groups())
        first = job(models["base"].with_modifier(Slow()), max_new_tokens=60)
        scheduler.submit(first)
        jobs = [job(model, f"x {at}", seed=at % 2) for at in range(6)]
        for one in jobs:
            scheduler.submit(one)
        await answer(first)
        for one in jobs:
            alone = models["base"].generate(
                [one.prompts[0].messages], max_new_tokens=12, temperature=1.0, seed=one.sampling.seed
            )
            assert (await answer(one))[0].tokens == alone[0].tokens
        assert sorted(groups) == [(3, 0), (3, 1)]

    run(body)


def test_prompt_modifiers_see_all_that_is_new_and_one_bad_prompt_stops_no_other(models):
    async def body(scheduler):
        seen = []
        counting = models["base"].with_modifier(Counts(seen=seen))
        scheduler.submit(first := job(models["base"].with_modifier(Slow()), max_new_tokens=40))
        jobs = [job(counting, text) for text in ("a", "b", "refuse", "c")]
        for one in jobs:
            scheduler.submit(one)
        await answer(first)
        for one, text in zip(jobs, "ab-c"):
            if text == "-":
                with pytest.raises(ValueError):
                    await one.next()
            else:
                await answer(one)
        assert seen == [4, 1, 1, 1, 1]

    run(body)


def test_errors_reach_those_they_concern_and_the_log_has_no_text(models, caplog):
    async def body(scheduler):
        broken = job(models["base"].with_modifier(Breaks()))
        fine = job(models["base"])
        scheduler.submit(broken)
        scheduler.submit(fine)
        with pytest.raises(RuntimeError):
            await answer(broken)
        await answer(fine)
        assert scheduler.running == 0
        scheduler.submit(again := job(models["base"]))
        await answer(again)

    run(body)
    assert "RuntimeError" in caplog.text
    assert "adjust" in caplog.text
    assert "text of a prompt" not in caplog.text


def test_an_error_reaches_the_answers_that_ended_in_its_step(models):
    gate = threading.Event()

    class Waits(PromptModifier):
        def messages(self, messages):
            gate.wait(20)
            return messages

    async def body(scheduler):
        first = job(models["base"].with_modifier(Waits()))
        scheduler.submit(first)
        await asyncio.to_thread(until, lambda: scheduler.waiting == 0)
        broken = models["base"].with_modifier(Breaks())
        # Read together: the scores after their second tokens are the third ones, and the first job needs no more.
        both = [job(broken, max_new_tokens=size) for size in (2, 9)]
        for one in both:
            scheduler.submit(one)
        gate.set()
        for one in both:
            with pytest.raises(RuntimeError):
                await answer(one)
        await answer(first)

    run(body)


class Edges(ActivationModifier):
    """Moves the states behind the prompt alone."""

    def layers(self):
        return [1]

    @property
    def by_prompt(self):
        return True

    def edit_after(self, hidden, layer, positions, prompts):
        return hidden + 3.0 * (positions >= prompts)[..., None]


class Plain(PromptModifier):
    """Writes the conversation without the template, and ends answers at a letter."""

    def messages(self, messages):
        return list(messages)

    def rendered(self, messages):
        return "say: " + messages[-1]["content"]

    def stops(self):
        return ["e"]

    def clean(self, text, ended):
        return text.lstrip()


@pytest.mark.parametrize("modifier", [Edges(), Plain()], ids=lambda one: type(one).__name__)
def test_whatever_a_modifier_may_say_is_heard(models, modifier):
    async def body(scheduler):
        model = models["base"].with_modifier(modifier)
        jobs = [job(model, text, n=2, stream=at % 2) for at, text in enumerate(("the cat", "a red bird", "x"))]
        for one in jobs:
            scheduler.submit(one)
            await asyncio.sleep(0.01)
        # All of them first: hooks on one set of weights are for one thread at a time.
        for one, answers in zip(jobs, [await answer(one) for one in jobs]):
            alone = model.generate([one.prompts[0].messages], max_new_tokens=12, temperature=1.0, seed=3, n=2)
            assert [(a.text, a.tokens) for a in answers] == [(a.text, a.tokens) for a in alone]

    run(body)


def test_echoed_prompts_are_prompts_to_the_end(models):
    model = models["base"].with_modifier(Edges())

    async def body(scheduler):
        ids = tuple(model.encode_prompt("the cat"))
        sampling = Sampling(max_new_tokens=12, temperature=0.0)
        one = Job(model, 1, [Asked(tokens=ids)], sampling, logprobs=True, echo=True)
        scheduler.submit(one)
        read = await one.next()
        found = (await answer_after_reading(one))[0]
        assert found.tokens == model.generate("the cat", max_new_tokens=12)[0].tokens
        plain = models["base"]._score([(list(ids[:1]), list(ids[1:]))], None)[0]
        assert [token.logprob for token in read.prompts[0][1:]] == pytest.approx(plain.tolist(), abs=1e-4)

    run(body)


def test_a_stop_tells_whoever_waits(models):
    async def body(scheduler):
        long = job(models["base"], max_new_tokens=220)
        scheduler.submit(long)
        await long.next()
        await asyncio.to_thread(scheduler.stop)
        with pytest.raises(Rejected, match="stopping"):
            await answer_after_reading(long)

    run(body)


def test_a_stop_tells_whoever_waits_for_a_search(models):
    Slow.passes = 0

    async def body(scheduler):
        search = job(models["base"].with_modifier(Slow()), max_new_tokens=200)
        scheduler.submit(search)
        await asyncio.to_thread(until, lambda: Slow.passes > 3)
        await asyncio.to_thread(scheduler.stop)
        with pytest.raises(Rejected, match="stopping"):
            await answer(search)

    run(body)


def test_pieces_are_sent_as_they_come_and_only_to_streams(models):
    async def body(scheduler):
        stream = job(models["base"], max_new_tokens=30, stream=True, logprobs=True, top=1)
        whole = job(models["base"], max_new_tokens=30, logprobs=True)
        began = time.monotonic()
        for one in (stream, whole):
            scheduler.submit(one)
        pieces = {0: [], 1: []}
        for at, one in enumerate((stream, whole)):
            await one.next()
            while not pieces[at] or pieces[at][-1].done is None:
                piece = await one.next()
                assert isinstance(piece, Piece)
                pieces[at].append(piece)
        assert time.monotonic() - began < 30
        assert len(pieces[0]) > 5
        assert len(pieces[1]) == 1
        assert "".join(piece.text for piece in pieces[0]) == pieces[1][0].done.text
        tokens = [token for piece in pieces[0] for token in piece.tokens]
        assert [token.id for token in tokens] == pieces[1][0].done.tokens == [token.id for token in pieces[1][0].tokens]
        assert all(len(token.top) == 1 for token in tokens)

    run(body)
