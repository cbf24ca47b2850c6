"""What is not taken: bad bodies, too much of anything, the wrong key, and who may ask at all."""

from __future__ import annotations

import http.client
import json
import socket
import time

import openai
import pytest
import requests

from tests.serving.conftest import Client, error_of, serving
from truing.errors import SettingsError
from truing.serving import Limits, Server

CHAT = {"model": "base", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 2}
TEXT = {"model": "base", "prompt": "the cat", "max_tokens": 2}
DEEP = "[" * 100_000 + "]" * 100_000


def changed(body, **more):
    return {**body, **more}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ("", None, "not JSON"),
        ("{", None, "not JSON"),
        ("\x00", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (DEEP, None, "recursion"),
        ('{"model": "base", "messages": [{"role": "user", "content": ' + DEEP + "}]}", None, "recursion"),
        ('{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}', None, "not JSON"),
        ("[]", None, "object"),
        ("3", None, "object"),
        ({"messages": CHAT["messages"]}, "model", "missing"),
        ({"model": "base"}, "messages", "missing"),
        (changed(CHAT, model=""), "model", "at least 1 character"),
        (changed(CHAT, model=3), "model", "string"),
        (changed(CHAT, messages=[]), "messages", "at least 1"),
        (changed(CHAT, messages="hello"), "messages", "array"),
        (changed(CHAT, messages=[{"role": "king", "content": "x"}]), "messages[0].role", "'user'"),
        (changed(CHAT, messages=[{"role": "user"}]), "messages[0].content", "missing"),
        (changed(CHAT, messages=[{"role": "user", "content": 3}]), "messages[0].content", "string"),
        (changed(CHAT, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
         "messages", "reads text only"),
        (changed(CHAT, messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages", "needs its `text`"),
        (changed(CHAT, messages=[{"role": "assistant", "content": "x", "tool_calls": []}]),
         "messages[0].tool_calls", "tools are not supported"),
        (changed(CHAT, temperature=-0.1), "temperature", "greater than or equal to 0"),
        (changed(CHAT, temperature=1e300), "temperature", "100"),
        (changed(CHAT, temperature="1"), "temperature", "number"),
        (changed(CHAT, temperature=True), "temperature", "number"),
        (json.dumps(CHAT)[:-1] + ', "temperature": NaN}', "temperature", "finite"),
        (json.dumps(CHAT)[:-1] + ', "temperature": 1e999}', "temperature", "finite"),
        (json.dumps(CHAT)[:-1] + ', "n": ' + "9" * 400 + "}", "n", "less than"),
        (json.dumps(CHAT)[:-1] + ', "n": ' + "9" * 40_000 + "}", None, "not JSON"),
        (changed(CHAT, top_p=0), "top_p", "greater than 0"),
        (changed(CHAT, top_k=-1), "top_k", "greater"),
        (changed(CHAT, n=0), "n", "greater"),
        (changed(CHAT, n=33), "n", "33 answers"),
        (changed(CHAT, max_tokens=0), "max_tokens", "greater"),
        (changed(CHAT, max_tokens=201), "max_tokens", "200 is the most"),
        (changed(CHAT, max_completion_tokens=201, max_tokens=201), "max_completion_tokens", "200 is the most"),
        (changed(CHAT, max_completion_tokens=3), "max_tokens", "differ"),
        (changed(CHAT, seed=2**63), "seed", "less than"),
        (changed(CHAT, seed=1.5), "seed", "integer"),
        (changed(CHAT, stop=""), "stop", "at least 1 character"),
        (changed(CHAT, stop=["a"] * 17), "stop", "at most 16"),
        (changed(CHAT, stop=[3]), "stop[0]", "string"),
        (changed(CHAT, logprobs=3), "logprobs", "boolean"),
        (changed(CHAT, top_logprobs=3), "top_logprobs", "needs `logprobs"),
        (changed(CHAT, logprobs=True, top_logprobs=21), "top_logprobs", "20"),
        (changed(CHAT, stream_options={"include_usage": True}), "stream_options", "needs `stream"),
        (changed(CHAT, tools=[]), "tools", "tools are not supported"),
        (changed(CHAT, functions=[]), "functions", "tools are not supported"),
        (changed(CHAT, response_format={"type": "json_schema", "json_schema": {}}), "response_format", "JSON"),
        (changed(CHAT, response_format={"type": "json_object"}), "response_format.type", "not forced into JSON"),
        (changed(CHAT, presence_penalty=0.5), "presence_penalty", "not support"),
        (changed(CHAT, logit_bias={"3": 1}), "logit_bias", "not support"),
        (changed(CHAT, modalities=["audio"]), "modalities[0]", "'text'"),
        (changed(CHAT, tempersture=1), "tempersture", "does not know it"),
        (changed(CHAT, **{"\u202e\x1b[31m": 1}), "[31m", "does not know it"),
        (changed(CHAT, metadata={"a": 1}), "metadata.a", "string"),
        (changed(TEXT, prompt=[]), "prompt", ""),
        (changed(TEXT, prompt=[[]]), "prompt", ""),
        (changed(TEXT, prompt=[3, "a"]), "prompt", ""),
        (changed(TEXT, prompt=[320]), "prompt", "no token 320"),
        (changed(TEXT, prompt=[-1]), "prompt", ""),
        (changed(TEXT, prompt=""), "prompt", "no tokens"),
        (changed(TEXT, prompt=["x"] * 33), "prompt", "33 answers"),
        (changed(TEXT, max_tokens=0), "max_tokens", "needs `echo"),
        (changed(TEXT, best_of=2), "best_of", "not supported"),
        (changed(TEXT, suffix="x"), "suffix", "not support"),
        (changed(TEXT, logprobs=True), "logprobs", "integer"),
        (changed(TEXT, prompt="x " * 400), "prompt", "tokens are taken here"),
        (changed(CHAT, messages=[{"role": "user", "content": "x " * 400}]), "messages", "tokens are taken here"),
        (changed(TEXT, prompt="x" * 100_000), "prompt", "100000 characters"),
        (changed(CHAT, messages=[{"role": "user", "content": "x" * 100_000}]), "messages", "100000 characters"),
        (changed(CHAT, model="nudged", logprobs=True), "logprobs", "searches among answers"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)  # fmt: skip
def test_bad_bodies_are_explained(client: Client, body: object, param: str | None, says: str) -> None:
    path = "/v1/completions" if isinstance(body, dict) and "prompt" in body else "/v1/chat/completions"
    told = error_of(client.raw(body, path))
    assert told["status"] == 400
    assert told["type"] == "invalid_request_error"
    assert (told["param"] or "").startswith(param or "")
    assert (told["param"] is None) == (param is None)
    assert says in told["message"]
    assert len(told["message"]) < 700


def test_harmless_fields_are_taken(client):
    more = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "presence_penalty": 0,
        "frequency_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}, "modalities": ["text"],
        "temperature": None, "n": None, "stop": None, "seed": None, "stream": None, "safety_identifier": "x",
        "prompt_cache_key": "x", "truing": {},
    }  # fmt: skip
    assert client.raw(changed(CHAT, **more)).status_code == 200
    assert client.raw(changed(CHAT, temperature=5e-324)).status_code == 200
    assert client.raw(changed(CHAT, temperature=100, top_p=5e-324)).status_code == 200
    assert client.raw(changed(TEXT, suffix="", best_of=1)).status_code != 500
    text = "\u0000\u202e <|end|> \U0001f600 " + "é" * 20
    assert client.raw(changed(CHAT, messages=[{"role": "user", "content": text, "name": "me"}])).status_code == 200


def test_other_addresses_and_verbs(client):
    for verb, path, status in (("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("PUT", "/v1/models", 405),
                               ("GET", "/docs", 404), ("GET", "/v1/models/x", 404)):  # fmt: skip
        told = error_of(requests.request(verb, client.root + path, timeout=10))
        assert told["status"] == status
    assert requests.get(client.root + "/health", timeout=10).json() == {"status": "ok"}


def test_only_json_is_taken_so_that_web_pages_cannot_ask(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        told = error_of(client.raw(CHAT, **{"Content-Type": kind}))
        assert (told["status"], told["code"]) == (415, "unsupported_media_type")
    assert client.raw(CHAT, **{"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_names_that_are_not_this_machines_are_refused(client):
    strangers = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "")
    for host in (*strangers, "localhost:1", "127.0.0.1", "[::1]:80", "10.0.0.1:80"):
        status = 403 if host in strangers else 200
        assert requests.get(client.root + "/v1/models", headers={"Host": host}, timeout=10).status_code == status, host


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(models):
    limits = Limits(
        body_bytes=2000, body_seconds=0.5, answer_tokens=20, prompt_tokens=30, choices=4, cache_slots=150, seconds=5
    )
    with serving({"base": models["base"]}, limits=limits) as one:
        yield one


def test_large_bodies_are_cut_off_whatever_they_say(strict):
    told = error_of(strict.raw(changed(CHAT, user="x" * 3000)))
    assert (told["status"], told["code"]) == (413, "body_too_large")

    def pieces():
        for _ in range(100):
            yield b" " * 100

    told = error_of(
        requests.post(
            strict.root + "/v1/chat/completions",
            data=pieces(),
            headers={"Content-Type": "application/json"},
            timeout=10,
        )
    )
    assert told["status"] == 413
    assert strict.raw(changed(CHAT, user="x" * 1500)).status_code == 200
    chunked = requests.post(
        strict.root + "/v1/chat/completions", data=iter([json.dumps(CHAT).encode()]), timeout=10,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert chunked.status_code == 200


def test_slow_bodies_are_given_up(strict):
    with socket.create_connection(("127.0.0.1", strict.server.port)) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        began = time.monotonic()
        line.settimeout(10)
        told = line.recv(4000)
    assert b" 408 " in told
    assert time.monotonic() - began < 5


def test_limits_of_prompts_and_answers(strict):
    ask = strict.raw
    told = error_of(ask(changed(CHAT, messages=[{"role": "user", "content": "red stone " * 30}])))
    assert (told["code"], "30 tokens are taken" in told["message"]) == ("context_length_exceeded", True)
    assert error_of(ask(changed(CHAT, max_tokens=21)))["code"] == "too_many_tokens"
    assert error_of(ask(changed(CHAT, n=5)))["code"] == "too_many_choices"
    assert error_of(ask(changed(TEXT, prompt=["a", "b", "c"], n=2), "/v1/completions"))["code"] == "too_many_choices"
    told = error_of(ask(changed(CHAT, messages=[{"role": "user", "content": "a b c d e f g h i"}], n=4, max_tokens=20)))
    assert "slots" in told["message"]
    unlimited = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    found = ask(changed(unlimited, temperature=0)).json()
    assert found["usage"]["completion_tokens"] == 20, "what is not asked for is the limit"


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_asked_for(models):
    key = "a-long-enough-key"
    with serving({"base": models["base"]}, key=key) as client:
        for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": key}, {"Authorization": f"Basic {key}"},
                       {"Authorization": f"Bearer {key}x"}, {"Authorization": "Bearer"}):  # fmt: skip
            response = client.raw(CHAT, **header)
            told = error_of(response)
            assert (told["status"], told["type"], told["code"]) == (401, "authentication_error", "invalid_api_key")
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert key not in response.text
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            assert requests.get(client.root + path, timeout=10).status_code == 401
        assert requests.get(client.root + "/health", timeout=10).status_code == 200
        assert client.raw(CHAT, Authorization=f"Bearer {key}").status_code == 200
        assert client.raw(CHAT, Authorization=f"bearer  {key}").status_code == 200
        # With a key any name will do: a page of another name cannot know it.
        named = requests.get(
            client.root + "/v1/models", headers={"Host": "my.example", "Authorization": f"Bearer {key}"}, timeout=10
        )
        assert named.status_code == 200
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert Client(client.server, key).models.list().data


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1"])
def test_no_key_no_open_door(models, host):
    with pytest.raises(SettingsError, match="anyone who reaches this machine"):
        Server({"base": models["base"]}, host=host, port=0)


def test_an_open_door_that_is_meant(models):
    with Server({"base": models["base"]}, host="0.0.0.0", port=0, open_to_all=True) as server:
        found = requests.get(f"http://127.0.0.1:{server.port}/v1/models", headers={"Host": "my.example"}, timeout=10)
        assert found.status_code == 200


@pytest.mark.parametrize("key", ["", "short", "with a space", "späte-schlüssel", "line\nbreak-key"])
def test_keys_that_are_none(models, key):
    with pytest.raises(SettingsError, match="at least 8"):
        Server({"base": models["base"]}, port=0, key=key)


def test_ports_that_are_taken(models):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}"):
            Server({"base": models["base"]}, port=port)
    with pytest.raises(SettingsError, match="cannot listen"):
        Server({"base": models["base"]}, host="no.such.host.invalid", open_to_all=True)


@pytest.mark.parametrize("changes", [{"waiting": 0}, {"seconds": 0}, {"seconds": float("nan")}, {"choices": 1.5}])
def test_limits_that_cannot_work(models, changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        Server({"base": models["base"]}, port=0, limits=Limits(**changes))


def test_lines_that_are_no_http(client):
    for bad in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 300_000 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", client.server.port)) as line:
            line.settimeout(5)
            try:
                line.sendall(bad)
                line.shutdown(socket.SHUT_WR)
                assert b" 200 " not in line.recv(1000)
            except OSError:
                pass
    held = http.client.HTTPConnection("127.0.0.1", client.server.port, timeout=10)
    held.request("GET", "/health")
    assert held.getresponse().status == 200
    held.close()
