"""Remote models against a real local server: answers, retries, the cache, streams, modifiers, errors, saving."""

from __future__ import annotations

import email.utils
import json
import sqlite3
import threading
import time

import pytest

from tests.models import parts
from tests.models.server import answer, hang_up, send, serving, stream, text_of
from truing import catalogue
from truing.contracts import Method
from truing.errors import ModelError, RecordError, RemoteError, SettingsError, StackError, UnsupportedError
from truing.models import RemoteModel, load
from truing.models.remote_cache import AnswerCache
from truing.models.types import Step

KEY = "sk-secret-of-mine"
SOON = {"Retry-After": "0"}
BUSY = send(429, {"error": {"message": "slow down", "code": "rate_limit"}}, SOON)
BROKEN = send(500, {"error": {"message": "out of memory"}}, SOON)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", list(parts.ENTRIES))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serving() as one:
        yield one


@pytest.fixture
def remote(server):
    return RemoteModel("tiny", base_url=server.url, api_key=KEY)


class Speak(Method):
    """Adds a text before the conversation."""

    modifier = "prompt"

    def _align(self, model, records, out):
        return model.with_modifier(parts.Says(text="speak"))


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answers_in_prompt_order_with_what_they_cost(remote, server):
    prompts = ["the cat", [{"role": "system", "content": "be"}, {"role": "user", "content": "a red bird"}], "x"]
    found = remote.generate(prompts)
    assert found.texts == ["THE CAT", "A RED BIRD", "X"]
    assert [item.prompt_index for item in found] == [0, 1, 2]
    assert all(item.finish_reason == "stop" and item.logprobs is None and item.tokens == [] for item in found)
    assert found.usage.calls == {"model": 3}
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (2 + 4 + 1, 2 + 3 + 1)
    assert found.usage.positions == {"model": 7 + 6}
    assert found.usage.seconds > 0
    assert remote.generate("alone").texts == ["ALONE"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_what_is_sent(remote, server):
    remote.generate("the cat", max_new_tokens=7, temperature=0.5, top_p=0.9, top_k=4, stop="END", seed=11)
    remote.generate("the cat")
    assert server.requests == [
        {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 7, "temperature": 0.5,
         "top_p": 0.9, "top_k": 4, "stop": ["END"], "seed": 11},
        {"model": "tiny", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 128, "temperature": 0.0,
         "seed": 0},
    ]  # fmt: skip


def test_extra_fields_add_change_and_take_out(server):
    extra = {"seed": None, "max_tokens": None, "max_completion_tokens": 5, "chat_template_kwargs": {"think": False}}
    RemoteModel("tiny", base_url=server.url, extra=extra).generate("x")
    assert server.requests[0] == {
        "model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": 0.0,
        "max_completion_tokens": 5, "chat_template_kwargs": {"think": False},
    }  # fmt: skip


def test_samples_have_seeds_of_their_own_and_are_the_same_again(remote, server):
    found = remote.generate(["a", "b"], n=3, temperature=1.0, seed=4)
    assert [item.prompt_index for item in found] == [0, 0, 0, 1, 1, 1]
    assert len(set(found.texts)) == 6
    assert found.texts[0] == "A #4", "the first sample has the seed itself"
    assert remote.generate(["a", "b"], n=3, temperature=1.0, seed=4).texts == found.texts
    assert remote.generate(["a"], n=2, temperature=1.0, seed=4).texts == found.texts[:2]
    assert not set(remote.generate(["a"], n=3, temperature=1.0, seed=5).texts) & set(found.texts)


def test_equal_requests_are_sent_once(remote, server):
    found = remote.generate(["a", "b", "a"], n=2)
    assert found.texts == ["A", "A", "B", "B", "A", "A"]
    assert [item.prompt_index for item in found] == [0, 0, 1, 1, 2, 2]
    assert len(server.requests) == 2
    assert found.usage.calls == {"model": 2}


@pytest.mark.parametrize(
    ("changes", "text", "reason"),
    [
        ({"finish_reason": "length"}, "X", "length"),
        ({"finish_reason": "max_tokens"}, "X", "length"),
        ({"finish_reason": "eos"}, "X", "stop"),
        ({"finish_reason": None}, "X", "stop"),
        ({"finish_reason": "content_filter"}, "X", "content_filter"),
        ({"message": {"role": "assistant", "content": None}}, "", "stop"),
        ({"message": {"role": "assistant", "content": None, "refusal": "I will not."}}, "I will not.", "stop"),
        ({"message": {"content": [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]}}, "in parts",
         "stop"),
        ({"message": {"content": "one STOP two"}}, "one ", "stop"),
    ],
)  # fmt: skip
def test_answers_of_every_form(changes, text, reason, remote, server):
    server.script = [lambda handler, body: send(200, answer(body, **changes))(handler, body)]
    found = remote.generate("x", stop=["STOP"])
    assert (found.texts, found[0].finish_reason) == ([text], reason)


def test_an_answer_without_usage_counts_no_tokens(remote, server):
    server.script = [lambda h, body: send(200, {**answer(body), "usage": None})(h, body)]
    usage = remote.generate("x").usage
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == ({"model": 1}, 0, 0)


def test_the_limit_on_requests_in_flight(server):
    server.slow = 0.05
    prompts = [f"p{at}" for at in range(12)]
    assert len(RemoteModel("tiny", base_url=server.url, concurrency=3).generate(prompts)) == 12
    assert server.most == 3


# --- trying again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        BUSY, BROKEN, send(408, {}, SOON), send(409, {}, SOON), send(503, b"<html>busy</html>", SOON),
        send(200, b"{not json"), send(200, {"choices": []}), send(200, {}), send(200, []), send(200, b"null"),
        send(200, {"error": {"message": "overloaded"}}), send(200, {"choices": [{}]}), send(200, {"choices": "x"}),
        hang_up(b""), hang_up(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"),
    ],
    ids=[
        "429", "500", "408", "409", "503", "no json", "no choices", "empty", "list", "null", "error in 200",
        "no message", "choices of text", "hung up", "hung up half-way",
    ],
)  # fmt: skip
def test_what_may_succeed_later_is_tried_again(trouble, server):
    server.script = [trouble]
    remote = RemoteModel("tiny", base_url=server.url, max_retries=1)
    assert remote.generate("x").texts == ["X"]
    assert len(server.requests) == 2


def test_waits_are_what_the_server_asks_for(server):
    remote = RemoteModel("tiny", base_url=server.url, max_retries=2)
    # A date has whole seconds, so up to one of them is lost.
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    for headers, least in (
        ({"Retry-After": date}, 0.5),
        ({"Retry-After": "0.7"}, 0.7),
        ({"retry-after-ms": "600"}, 0.6),
    ):
        server.script, server.times = [send(429, {}, headers)], []
        remote.generate("x")
        assert least <= server.times[1] - server.times[0] < least + 3


def test_a_wait_of_hours_is_an_error_at_once(server):
    server.script = [send(429, {"error": {"message": "come back tomorrow"}}, {"Retry-After": "36000"})]
    with pytest.raises(RemoteError, match="429: come back tomorrow"):
        RemoteModel("tiny", base_url=server.url).generate("x")
    assert len(server.requests) == 1


def test_waits_double_with_chance():
    from truing.models.remote_client import Client

    client = Client("http://127.0.0.1:9/v1", "", 4, 1.0)
    waits = [client._wait(ValueError(), attempt) for attempt in range(8)]
    assert all(0.75 * 0.5 * 2**at <= wait <= 1.25 * 0.5 * 2**at for at, wait in enumerate(waits[:6]))
    assert all(wait <= 37.5 for wait in waits)
    assert client._wait(ValueError(), 3) != client._wait(ValueError(), 3)
    client.close()


@pytest.mark.parametrize(
    ("act", "match", "asked"),
    [
        (send(401, {"error": {"message": "bad key"}}), "401: bad key.*OPENAI_API_KEY", 1),
        (send(403, {"error": {"message": "not yours"}}), "403: not yours.*key", 1),
        (send(404, {"error": {"message": "no such model"}}), "404: no such model.*'tiny'.*/v1", 1),
        (send(400, {"error": {"message": "unknown field seed"}}), "400: unknown field seed.*extra=", 1),
        (send(422, {"detail": [{"msg": "too long"}]}), "422: .*too long", 1),
        (send(418, b"I am a teapot"), "418: I am a teapot", 1),
        (send(429, {"error": {"message": "pay", "code": "insufficient_quota"}}, SOON), "429: pay.*no quota", 1),
        (BUSY, r"429 \(3 tries\): slow down.*concurrency", 3),
        (BROKEN, r"500 \(3 tries\): out of memory.*log", 3),
        (send(500, {"error": {"message": f"key {KEY} \x1b[31m\n" + "x" * 900}}, SOON), r"key \*\*\*  ?\[31m x{10}", 3),
    ],
)
def test_errors_say_what_the_server_said_and_what_to_do(act, match, asked, server):
    server.script = [act] * 5
    with pytest.raises(RemoteError, match=match) as raised:
        RemoteModel("tiny", base_url=server.url, api_key=KEY, max_retries=2).generate("x")
    assert len(server.requests) == asked
    assert KEY not in str(raised.value)
    assert len(str(raised.value)) < 700


def test_answers_that_cannot_be_read_to_the_end(server):
    server.script = [send(200, b"<html>hello</html>")]
    with pytest.raises(RemoteError, match=r"cannot be read: no JSON: '<html>hello</html>'.*OpenAI-compatible"):
        RemoteModel("tiny", base_url=server.url, max_retries=0).generate("x")
    with pytest.raises(RemoteError, match="404"):
        RemoteModel("tiny", base_url=server.url.removesuffix("/v1"), max_retries=0).generate("x")


def test_no_server_and_a_slow_one(server):
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9/v1 cannot be reached.*Is the server running"):
        RemoteModel("tiny", base_url="http://127.0.0.1:9/v1", max_retries=0).generate("x")
    server.slow = 0.6
    with pytest.raises(RemoteError, match=r"no answer within 0\.2 seconds.*timeout"):
        RemoteModel("tiny", base_url=server.url, max_retries=0, timeout=0.2).generate("x")


def test_a_failure_stops_the_rest_at_once_and_keeps_what_was_answered(server, tmp_path):
    def refuse_bad(handler, body):
        refused = send(401, {"error": {"message": "no"}})
        (refused if "bad" in text_of(body).lower() else send(200, answer(body)))(handler, body)

    server.script = [refuse_bad] * 50
    server.slow = 0.05
    remote = RemoteModel("tiny", base_url=server.url, concurrency=2, cache=tmp_path)
    began = time.monotonic()
    with pytest.raises(RemoteError, match="401"):
        remote.generate(["good", "bad", *[f"later {at}" for at in range(40)]])
    assert time.monotonic() - began < 5
    asked = len(server.requests)
    assert asked < 10
    server.script = []
    remote.generate(["good"])
    assert len(server.requests) == asked, "what was answered before the failure is kept"


def test_who_waits_to_try_again_is_woken_when_another_fails(server):
    def act(handler, body):
        late = send(429, {}, {"Retry-After": "60"})
        (late if body["messages"][0]["content"] == "wait" else send(401, {}))(handler, body)
        if body["messages"][0]["content"] == "wait":
            first.set()

    first = threading.Event()

    def after_first(handler, body):
        first.wait(5)
        act(handler, body)

    server.script = [lambda h, b: (act if b["messages"][0]["content"] == "wait" else after_first)(h, b)] * 2
    began = time.monotonic()
    with pytest.raises(RemoteError, match="401"):
        RemoteModel("tiny", base_url=server.url).generate(["wait", "fail"])
    assert time.monotonic() - began < 10


# --- the cache -------------------------------------------------------------------------------------------------------


def test_nothing_is_paid_for_twice(server, tmp_path):
    def remote(**changes):
        return RemoteModel(**{"model": "tiny", "base_url": server.url, "cache": tmp_path / "kept", **changes})

    how = {"n": 2, "temperature": 1.0}
    found = remote().generate(["a", "b"], **how)
    assert len(server.requests) == 4
    again = remote(api_key="another", timeout=5, concurrency=1).generate(["b", "a"], **how)
    assert len(server.requests) == 4
    assert again.texts == found.texts[2:] + found.texts[:2]
    assert again.usage.calls == {}
    assert again.usage.completion_tokens == found.usage.completion_tokens
    asked = 4
    for model, more in (
        (remote(), {**how, "seed": 1}), (remote(), {**how, "temperature": 0.5}), (remote(model="other"), how),
        (remote(), {**how, "max_new_tokens": 3}), (remote(extra={"min_p": 0.1}), how), (remote(), {**how, "stop": "x"}),
    ):  # fmt: skip
        model.generate(["a"], **more)
        asked += 2
        assert len(server.requests) == asked
    remote().generate("a", n=3, temperature=1.0)
    assert len(server.requests) == asked + 1
    with sqlite3.connect(tmp_path / "kept" / "answers.sqlite") as held:
        rows = held.execute("SELECT key, answer FROM answers").fetchall()
    assert len(rows) == asked + 1
    assert not any(KEY in "".join(row) for row in rows)


def test_a_damaged_row_in_the_cache_is_asked_again(server, tmp_path):
    remote = RemoteModel("tiny", base_url=server.url, cache=tmp_path)
    remote.generate("a")
    for damage in ("{", "[]", '{"text": 3}', "", b"\xff"):
        asked = len(server.requests)
        with sqlite3.connect(tmp_path / "answers.sqlite") as held:
            held.execute("UPDATE answers SET answer = ?", (damage,))
        held.close()
        assert remote.generate("a").texts == ["A"]
        assert len(server.requests) == asked + 1
        assert remote.generate("a").texts == ["A"]
        assert len(server.requests) == asked + 1


def test_a_file_that_is_no_cache_is_not_written_over(server, tmp_path):
    (tmp_path / "answers.sqlite").write_text("my thesis " * 100)
    with pytest.raises(RemoteError, match=r"cannot be read: .*answers\.sqlite: file is not a database.*another cache"):
        RemoteModel("tiny", base_url=server.url, cache=tmp_path).generate("a")
    assert server.requests == []
    assert (tmp_path / "answers.sqlite").read_text().startswith("my thesis")


def test_threads_and_processes_share_a_cache(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    first, second = AnswerCache(tmp_path), AnswerCache(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: (first, second)[at % 2].put(str(at), {"text": f"é{at}"}), range(80)))
    assert AnswerCache(tmp_path).held(map(str, range(1000))) == {str(at): {"text": f"é{at}"} for at in range(80)}
    assert first.get("absent") is None
    first.close()
    second.close()


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteError, match="cannot be kept"):
        RemoteModel("tiny", base_url=server.url, cache=tmp_path / "file").generate("a")


# --- streams ---------------------------------------------------------------------------------------------------------


def test_pieces_join_to_the_answer(remote, server, tmp_path):
    pieces = []
    found = remote.generate("the cat", stream=lambda *piece: pieces.append(piece))
    assert pieces == [(0, 0, letter) for letter in "THE CAT"]
    assert found.texts == ["THE CAT"]
    assert found[0].finish_reason == "stop"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (5, 7)
    assert server.requests[0]["stream_options"] == {"include_usage": True}


def test_streams_of_several_prompts_with_a_stop_string_and_a_cache(server, tmp_path):
    remote = RemoteModel("tiny", base_url=server.url, cache=tmp_path)
    for _ in range(2):
        heard: dict = {}
        found = remote.generate(
            ["one CUT two", "none", "one CUT two"], stop=["CUT"],
            stream=lambda prompt, sample, piece, heard=heard: heard.setdefault((prompt, sample), []).append(piece),
        )  # fmt: skip
        assert found.texts == ["ONE ", "NONE", "ONE "]
        assert {key: "".join(pieces) for key, pieces in heard.items()} == {
            (0, 0): "ONE ", (1, 0): "NONE", (2, 0): "ONE "
        }  # fmt: skip
    assert len(server.requests) == 2


def test_a_stream_that_breaks_off(server):
    remote = RemoteModel("tiny", base_url=server.url, max_retries=1)
    server.script = [lambda handler, body: stream(handler, body, upto=0)]
    assert remote.generate("the cat", stream=lambda *piece: None).texts == ["THE CAT"], "nothing was shown yet"
    server.script = [lambda handler, body: stream(handler, body, upto=3)]
    with pytest.raises(RemoteError, match="broke off in the middle of an answer"):
        remote.generate("the cat", stream=lambda *piece: None)


def test_a_stream_is_refused_as_an_answer_is(server):
    server.script = [BUSY, send(401, {"error": {"message": "bad key"}})]
    with pytest.raises(RemoteError, match=r"401 \(2 tries\): bad key"):
        RemoteModel("tiny", base_url=server.url).generate("x", stream=lambda *piece: None)


# --- modifiers and methods -------------------------------------------------------------------------------------------


def test_prompt_modifiers_apply(remote, server):
    remote.with_modifier(parts.Says(text="speak up")).generate("x")
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "speak up"}, {"role": "user", "content": "x"}
    ]  # fmt: skip


def test_a_search_is_given_a_remote_engine(remote, server):
    best = remote.with_modifier(parts.Best(reward=parts.letters))
    pieces = []
    found = best.generate(["a", "b"], temperature=1.0, stream=lambda *piece: pieces.append(piece))
    assert len(server.requests) == 4
    assert [item.prompt_index for item in found] == [0, 1]
    assert [len(text) for text in found.texts] == [max(len(text_of(b)) for b in server.requests)] * 2
    assert pieces == [(0, 0, found.texts[0]), (1, 0, found.texts[1])]
    assert found.usage.calls == {"model": 4}
    assert best.policy.modifiers == ()
    with pytest.raises(StackError, match="Best and Best"):
        best.with_modifier(parts.Best(reward=parts.letters))


def test_what_acts_inside_a_model_is_refused_before_any_request(remote, server):
    for kind in ("activation", "logits"):
        with pytest.raises(UnsupportedError, match=f"Method acts on {kind}.*openai/tiny"):
            remote.check_stack(kind, "Method")
    with pytest.raises(UnsupportedError, match="Bans"):
        remote.with_modifier(parts.Bans(scores=None))
    for call in (
        lambda: remote.logprobs(["a"], ["b"]), lambda: remote.text_logprobs(["a"]), lambda: remote.encode_prompt("a"),
        lambda: remote.with_weights(None),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match="answers only"):
            call()
    assert remote.offers == frozenset()
    assert server.requests == []


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"model": ""}, "has a name"),
        ({"base_url": "localhost:8000"}, "http://localhost"),
        ({"base_url": 8000}, "http://localhost"),
        ({"base_url": "http://me:pass@host/v1"}, "api_key"),
        ({"base_url": "http://host/v1?key=1"}, "api_key"),
        ({"max_retries": -1}, "max_retries"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "long"}, "timeout"),
        ({"extra": {"stream": True}}, "stream"),
        ({"extra": {"x": {1, 2}}}, "JSON"),
    ],
)
def test_settings_that_cannot_work(given, match):
    with pytest.raises(SettingsError, match=match) as raised:
        RemoteModel(**{"model": "tiny", **given})
    assert "pass@" not in str(raised.value)


def test_sampling_and_prompts_are_checked_before_any_request(remote, server):
    with pytest.raises(SettingsError, match="temperature"):
        remote.generate("x", temperature=-1)
    with pytest.raises(RecordError, match="role"):
        remote.generate([{"role": "wizard", "content": "x"}])
    with pytest.raises(RecordError, match="cannot be sent"):
        remote.generate("\ud800")
    assert remote.generate([]).texts == []
    assert server.requests == []


def test_the_surroundings_give_address_and_key(server, monkeypatch):
    with pytest.raises(RemoteError, match="OPENAI_API_KEY"):
        RemoteModel("tiny").generate("x")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    RemoteModel("tiny").generate("x")
    RemoteModel("tiny", api_key="").generate("x")
    assert [told["authorization"] for told in server.headers] == [f"Bearer {KEY}", "Bearer none"]
    assert repr(RemoteModel("tiny", api_key=KEY)) == "RemoteModel('openai/tiny')"


# --- saving ----------------------------------------------------------------------------------------------------------


def test_a_saved_remote_model_comes_back_without_its_key(server, tmp_path, monkeypatch):
    steps = (Step("best_of_n", {"n": 2}),)
    remote = RemoteModel("tiny", base_url=server.url, api_key=KEY, timeout=7, extra={"min_p": 0.5}, history=steps)
    best = remote.with_modifier(parts.Says(text="be")).with_modifier(parts.Best(reward=parts.letters))
    best.save(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["README.md", "truing.json"]
    assert all(KEY not in path.read_text() for path in (tmp_path / "m").iterdir())
    again = load(tmp_path / "m")
    assert again.generate("a", temperature=1.0).texts == best.generate("a", temperature=1.0).texts
    assert (again.history, again.modifiers, again.timeout, again.extra) == (steps, best.modifiers, 7, {"min_p": 0.5})
    assert again.fingerprint == best.fingerprint != remote.fingerprint
    assert RemoteModel("other", base_url=server.url).fingerprint != RemoteModel("tiny", base_url=server.url).fingerprint


def test_a_file_does_not_choose_who_gets_the_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    RemoteModel("tiny", base_url=server.url, cache=tmp_path / "kept").save(tmp_path / "m")
    again = load(tmp_path / "m")
    again.generate("x")
    assert server.headers[0]["authorization"] == "Bearer none"
    assert again.cache is None, "nor does it choose a folder to write to"
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    load(tmp_path / "m").generate("x")
    assert server.headers[1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("wrong", [{}, {"model": 3}, {"model": "m", "base_url": "x"}, {"model": "m", "timeout": "x"}])
def test_a_damaged_address(wrong, tmp_path):
    RemoteModel("tiny").save(tmp_path / "m")
    held = json.loads((tmp_path / "m" / "truing.json").read_text())
    (tmp_path / "m" / "truing.json").write_text(json.dumps({**held, "remote": wrong}))
    with pytest.raises(ModelError, match="cannot be made again"):
        load(tmp_path / "m")


def test_a_remote_guide_within_a_local_model(server, tmp_path):
    from tests.conformance import examples

    guide = RemoteModel("tiny", base_url=server.url, api_key=KEY)
    examples.model().with_modifier(parts.Says(value=guide)).save(tmp_path / "m")
    again = load(tmp_path / "m").modifiers[0].value
    assert (again.model, again.url) == ("tiny", server.url)
    assert not any(KEY in path.read_text() for path in (tmp_path / "m").glob("**/*.json"))


def test_unstacking(remote):
    from truing.catalogue import Entry, register

    register(Entry("speak", "method", "tests.models.test_remote:Speak", "Says."))
    aligned = Speak().align(remote)
    assert [step.method for step in aligned.history] == ["speak"]
    assert aligned.unstack().modifiers == ()
    assert remote.history == ()
