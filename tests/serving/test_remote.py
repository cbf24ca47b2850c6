"""Our own remote model against our own server, and servers before servers."""

from __future__ import annotations

import openai
import pytest

import truing as tr
from tests.models.server import send
from tests.models.server import serving as other_server
from tests.serving.conftest import serving
from truing.errors import ModelError, RemoteError
from truing.methods.prompting.system_message import SystemMessageModifier
from truing.models import RemoteModel

PROMPTS = ["the cat", [{"role": "system", "content": "be"}, {"role": "user", "content": "a red bird"}], "x"]


def test_a_remote_model_of_this_server_answers_as_the_model_does(client, models):
    remote = tr.load("openai/steered", base_url=client.server.url)
    for how in ({}, {"temperature": 1.0, "seed": 5, "top_p": 0.9, "top_k": 20}, {"stop": ["e"]}):
        found = remote.generate(PROMPTS, max_new_tokens=15, **how)
        alone = models["steered"].generate(PROMPTS, max_new_tokens=15, **how)
        assert found.texts == alone.texts
        assert found.usage.completion_tokens == sum(len(one.tokens) for one in alone)
    assert len(remote.generate("x", n=3, temperature=1.0, max_new_tokens=5)) == 3
    pieces = []
    found = remote.generate("the cat", max_new_tokens=15, stream=lambda prompt, sample, piece: pieces.append(piece))
    assert "".join(pieces) == found[0].text == models["steered"].generate("the cat", max_new_tokens=15)[0].text
    assert tr.load("openai/steered@steering=0", base_url=client.server.url).generate("x", max_new_tokens=9).texts == (
        models["base"].generate("x", max_new_tokens=9).texts
    )
    with pytest.raises(RemoteError, match="no model `absent`"):
        tr.load("openai/absent", base_url=client.server.url).generate("x")


def test_an_address_is_for_remote_models_only():
    with pytest.raises(ModelError, match="openai/sandbox/base"):
        tr.load("sandbox/base", base_url="http://127.0.0.1/v1")


def test_a_remote_model_is_passed_on_with_its_modifiers():
    with other_server() as other:
        remote = RemoteModel("tiny", base_url=other.url, max_retries=0)
        models = {"far": remote, "kind": remote.with_modifier(SystemMessageModifier(text="speak"))}
        with serving(models) as client:
            found = client.ask("the cat", "far", n=2, temperature=1.0, seed=4, max_tokens=9, stop=["q"])
            alone = remote.generate("the cat", n=2, temperature=1.0, seed=4, max_new_tokens=9, stop=["q"])
            assert [choice.message.content for choice in found.choices] == alone.texts
            assert found.usage.prompt_tokens == alone.usage.prompt_tokens
            assert found.usage.completion_tokens == alone.usage.completion_tokens
            client.ask("the cat", "kind")
            assert other.requests[-1]["messages"][0] == {"role": "system", "content": "speak"}
            chunks = list(client.ask("a red bird", "far", stream=True, temperature=0))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "A RED BIRD"
            assert chunks[-1].choices[0].finish_reason == "stop"
            for how, param in (({"logprobs": True}, "logprobs"),):
                with pytest.raises(openai.BadRequestError) as error:
                    client.ask("x", "far", **how)
                assert error.value.param == param
            with pytest.raises(openai.BadRequestError, match="conversations only"):
                client.write("x", "far")
            other.script.append(send(400, {"error": {"message": "no such thing"}}))
            with pytest.raises(openai.InternalServerError) as error:
                client.ask("x", "far")
            assert (error.value.status_code, error.value.code) == (502, "upstream_error")
            assert "no such thing" in error.value.message
            assert client.metric("truing_answers_running") == 0


def test_two_models_behind_this_server_nudge_as_they_do_here():
    base, guide = tr.load("sandbox/base"), tr.load("sandbox/guide")
    questions = ["How do you burn the barn?", "What is the trade of Kama Feindett?"]
    with serving({"base": base, "guide": guide}) as client:
        far = [
            RemoteModel(name, base_url=client.server.url, tokenizer=f"sandbox/{name}", max_retries=0)
            for name in ("base", "guide")
        ]
        alone = tr.Nudging(guide=guide, unit="word").align(base).generate(questions, max_new_tokens=24)
        for model, helper in ((base, far[1]), (far[0], guide), far):
            found = tr.Nudging(guide=helper).align(model).generate(questions, max_new_tokens=24)
            assert found.texts == alone.texts
            assert [one.trace["pieces"] for one in found] == [one.trace["pieces"] for one in alone]
