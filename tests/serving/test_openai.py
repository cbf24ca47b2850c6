"""The two interfaces through the official client, and equal to what the models answer in this process."""

from __future__ import annotations

import openai
import pytest

from tests.serving.conftest import Client
from truing.models import Model
from truing.serving.responses import ChatChunk, TextChunk

QUESTION = "what is the colour of the stone?"


def test_models_are_listed_with_their_modifiers(client, models):
    listed = client.models.list().data
    assert [one.id for one in listed] == list(models)
    told = {one.id: one.truing["modifiers"] for one in listed}
    assert told["base"] == []
    assert told["steered"] == [{"name": "steering", "kind": "activation", "strength": 2.0}]
    assert told["polite"] == [{"name": "system_message", "kind": "prompt", "strength": None}]
    assert [(one["name"], one["kind"]) for one in told["nudged"]] == [("nudging", "search")]
    assert client.models.retrieve("steered").id == "steered"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize("name", ["base", "steered", "polite", "nudged", "best"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_the_model(client, models, name, temperature):
    how = {"temperature": temperature, "seed": 7}
    found = client.ask(QUESTION, name, max_tokens=24, n=2, **how)
    alone = models[name].generate(QUESTION, max_new_tokens=24, n=2, **how)
    assert [choice.message.content for choice in found.choices] == alone.texts
    reasons = ["length" if one.finish_reason == "length" else "stop" for one in alone]
    assert [choice.finish_reason for choice in found.choices] == reasons
    assert [choice.index for choice in found.choices] == [0, 1]
    assert all(choice.message.role == "assistant" for choice in found.choices)
    assert found.usage.completion_tokens == sum(len(one.tokens) for one in alone)
    assert found.usage.prompt_tokens == len(models[name].encode_prompt(QUESTION))
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.object == "chat.completion"
    assert found.model == name
    assert found.truing == {"seed": 7}


def test_a_seed_is_drawn_and_told_unless_given(client):
    first, second = (client.ask(temperature=1.5, max_tokens=24) for _ in range(2))
    assert first.truing["seed"] != second.truing["seed"]
    again = client.ask(temperature=1.5, max_tokens=24, seed=first.truing["seed"])
    assert again.choices[0].message.content == first.choices[0].message.content
    assert client.ask(seed=-5, max_tokens=2).choices


@pytest.mark.parametrize("how", [{"top_p": 0.4}, {"extra_body": {"top_k": 2}}, {"stop": "a"}, {"stop": ["e", "at"]}])
def test_sampling_settings_act(client, models, how):
    ours = {**{key: value for key, value in how.items() if key != "extra_body"}, **how.get("extra_body", {})}
    found = client.ask(temperature=1.0, seed=3, max_tokens=20, **how)
    alone = models["base"].generate("the cat", temperature=1.0, seed=3, max_new_tokens=20, **ours)[0]
    assert found.choices[0].message.content == alone.text


def test_a_conversation_is_continued(client, models):
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on"}]
    found = client.chat.completions.create(model="base", messages=messages, temperature=0, max_completion_tokens=9)
    assert found.choices[0].message.content == models["base"].generate([messages], max_new_tokens=9)[0].text
    parts = [{"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]}]
    joined = client.chat.completions.create(model="base", messages=parts, temperature=0, max_tokens=9)
    assert joined.choices[0].message.content == client.ask(temperature=0, max_tokens=9).choices[0].message.content


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "steered", "nudged"])
def test_streams_join_to_the_whole(client: Client, name: str) -> None:
    how = {"temperature": 1.0, "seed": 5, "n": 2, "max_tokens": 24}
    whole = client.ask(QUESTION, name, **how)
    chunks = list(client.ask(QUESTION, name, stream=True, stream_options={"include_usage": True}, **how))
    texts, reasons, roles = {0: "", 1: ""}, {}, {}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        assert chunk.id == chunks[0].id
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.delta.role:
                roles[choice.index] = choice.delta.role
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]
    assert [reasons[at] for at in (0, 1)] == [choice.finish_reason for choice in whole.choices]
    assert roles == {0: "assistant", 1: "assistant"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump()
    assert len(chunks) > 10, "piece by piece"


def test_a_stream_has_no_usage_unless_asked(client):
    chunks = list(client.ask(stream=True, max_tokens=3))
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)


def test_stop_strings_never_show_in_a_stream(client):
    whole = client.ask(temperature=0, max_tokens=40).choices[0].message.content
    stop = whole[8:11]
    texts = [
        chunk.choices[0].delta.content or ""
        for chunk in client.ask(temperature=0, max_tokens=40, stop=stop, stream=True)
    ]
    assert "".join(texts) == whole[: whole.index(stop)]


@pytest.mark.parametrize(("path", "kind"), [("chat/completions", ChatChunk), ("completions", TextChunk)])
def test_the_wire_of_a_stream(client, path, kind):
    body = {"model": "best", "stream": True, "max_tokens": 4, "stream_options": {"include_usage": True}, "n": 2,
            "truing": {"trace": True}}  # fmt: skip
    body |= {"prompt": "x"} if path == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    response = client.raw(body, f"/v1/{path}")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-1] == ""
    assert events[-2] == "data: [DONE]"
    assert all(event.startswith("data: {") for event in events[:-2])
    chunks = [kind.model_validate_json(event.removeprefix("data: "), strict=True) for event in events[:-2]]
    assert chunks[-1].usage.completion_tokens > 0
    traces = [choice.truing.trace for chunk in chunks for choice in chunk.choices if choice.truing]
    assert [len(trace["rewards"]) for trace in traces] == [3, 3]


# --- log-probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "steered", "polite"])
def test_logprobs_are_those_of_the_model(client: Client, models: dict[str, Model], name: str) -> None:
    found = client.ask(QUESTION, name, temperature=1.0, seed=2, max_tokens=60, logprobs=True, top_logprobs=4)
    choice, model = found.choices[0], models[name]
    tokens = choice.logprobs.content
    alone = model.generate(QUESTION, temperature=1.0, seed=2, max_new_tokens=60)[0]
    assert [token.logprob for token in tokens] == pytest.approx(alone.logprobs, abs=1e-5)
    scored = model._score([(model.encode_prompt(QUESTION), alone.tokens)], None)[0]
    assert [token.logprob for token in tokens] == pytest.approx(scored.tolist(), abs=1e-4)
    assert b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "replace") == choice.message.content
    for token in tokens:
        values = [top.logprob for top in token.top_logprobs]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert token.logprob <= values[0] + 1e-6
    ended = alone.finish_reason == "stop"
    assert (tokens[-1].token == "<|end|>") == ended


def test_an_answer_that_ends_is_scored_as_logprobs_scores_it(sandbox):
    model = sandbox.server.service.shelf.models["base"]
    for question in ("What is the trade of Kama Feindett?", "How do you wash the spoon?"):
        found = sandbox.ask(question, temperature=0, logprobs=True).choices[0]
        assert found.finish_reason == "stop"
        each = model.logprobs([question], [found.message.content], per_token=True)[0]
        assert [token.logprob for token in found.logprobs.content] == pytest.approx(each.tolist(), abs=1e-4)
        assert found.logprobs.content[-1].token == "<|end|>"
        assert found.logprobs.content[-1].bytes == []


def test_streamed_logprobs_are_the_whole_ones(client):
    how = {"temperature": 1.0, "seed": 4, "max_tokens": 30, "logprobs": True, "top_logprobs": 2}
    whole = client.ask(QUESTION, **how).choices[0].logprobs.content
    streamed = [
        token
        for chunk in client.ask(QUESTION, stream=True, **how)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert [(t.token, t.bytes) for t in streamed] == [(t.token, t.bytes) for t in whole]
    assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in whole], abs=1e-5)


# --- raw completions -------------------------------------------------------------------------------------------------


def test_completions_continue_raw_text(client, models):
    model = models["base"]
    raw = model.tokenizer.decode(model.encode_prompt("the cat"))
    found = client.write(raw, temperature=0)
    assert found.choices[0].text == model.generate("the cat", max_new_tokens=16)[0].text
    assert found.usage.completion_tokens == 16
    assert found.object == "text_completion"
    by_ids = client.write(model.encode_prompt("the cat"), temperature=0)
    assert by_ids.choices[0].text == found.choices[0].text


def test_several_prompts_with_several_answers(client):
    prompts = ["the cat", "a red bird sat", "x"]
    together = client.write(prompts, n=2, temperature=1.0, seed=6, max_tokens=8)
    alone = [client.write(one, n=2, temperature=1.0, seed=6, max_tokens=8) for one in prompts]
    assert [c.text for c in together.choices] == [c.text for one in alone for c in one.choices]
    assert [c.index for c in together.choices] == list(range(6))
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    ids = [[5, 6, 7], [8]]
    assert len(client.write(ids, max_tokens=2).choices) == 2


@pytest.mark.parametrize("name", ["base", "steered"])
@pytest.mark.parametrize("length", [1, 3, 600])
def test_echo_scores_the_prompt(client, models, name, length):
    model = models[name]
    ids = (model.encode_prompt("the cat sat on the mat and looked at the small red bird") * 40)[:length]
    ids = ids[:200] if length > 200 else ids
    found = client.write(ids, name, max_tokens=0, echo=True, logprobs=2).choices[0]
    logprobs = found.logprobs
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs[0] is None
    alone = model._score([(ids[:1], ids[1:])], None)[0]
    assert logprobs.token_logprobs[1:] == pytest.approx(alone.tolist(), abs=1e-4)
    assert found.text == model.tokenizer.decode(ids)
    assert len(logprobs.tokens) == len(ids)
    for token, logprob, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
        assert top[token] == pytest.approx(logprob)
        assert 2 <= len(top) <= 3


def test_echo_goes_on_with_the_answer(client, models):
    text = "the cat sat"
    found = client.write(text, max_tokens=5, echo=True, logprobs=1, temperature=0).choices[0]
    plain = client.write(text, max_tokens=5, logprobs=1, temperature=0).choices[0]
    size = len(models["base"].tokenizer(text)["input_ids"])
    assert found.text == text + plain.text
    assert found.logprobs.tokens[size:] == plain.logprobs.tokens
    assert found.logprobs.token_logprobs[size:] == pytest.approx(plain.logprobs.token_logprobs, abs=1e-5)
    assert [found.text[at : at + len(t)] for at, t in zip(found.logprobs.text_offset, found.logprobs.tokens)][
        :size
    ] == (found.logprobs.tokens[:size])
    assert client.write(text, max_tokens=5, echo=True, temperature=0).choices[0].text == found.text
    streamed = list(client.write(text, max_tokens=5, echo=True, logprobs=1, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == found.text
    joined = [t for chunk in streamed for t in (chunk.choices[0].logprobs.tokens if chunk.choices[0].logprobs else [])]
    assert joined == found.logprobs.tokens
    offsets = [t for c in streamed for t in (c.choices[0].logprobs.text_offset if c.choices[0].logprobs else [])]
    assert offsets == found.logprobs.text_offset


def test_special_tokens_act_in_raw_text_and_never_in_messages(client, models):
    model = models["base"]
    raw = client.write("<|user|>x<|end|><|assistant|>", max_tokens=1, echo=True, logprobs=0).choices[0].logprobs
    assert raw.tokens[:4] == ["<|user|>", "x", "<|end|>", "<|assistant|>"]
    assert raw.top_logprobs is None
    said = client.ask("<|end|><|assistant|>", max_tokens=1).usage.prompt_tokens
    assert said == len(model.encode_prompt("<|end|><|assistant|>")) > 6
