"""Tokens as text, and the page of metrics."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from tests import tiny
from truing.serving.answers import Text, encoded
from truing.serving.metrics import Counter, Histogram, Metrics
from truing.serving.tokens import TokenTexts, token_texts


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_bytes_of_tokens_join_to_the_text(text):
    tokenizer = tiny.tokenizer()
    texts = TokenTexts(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert b"".join(bytes(texts(token)[1]) for token in ids).decode() == text


def test_parts_of_characters_and_special_tokens():
    tokenizer = tiny.tokenizer()
    texts = token_texts(tokenizer)
    assert token_texts(tokenizer) is texts
    parts = [texts(token) for token in tokenizer("€")["input_ids"]]
    assert [word for word, _ in parts] == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert texts(tokenizer.eos_token_id) == ("<|end|>", [])
    assert texts(10_000) == ("<10000>", [])


def test_words_of_sentencepiece():
    pieces = ["<unk>", "</s>", "\u2581the", "cat", "<0xE2>", "\u2581"]
    backend = Tokenizer(tokenizer_models.Unigram([(piece, -1.0) for piece in pieces], 0))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    texts = TokenTexts(tokenizer)
    assert [texts(at)[0] for at in range(1, 6)] == ["</s>", " the", "cat", "bytes:\\xe2", " "]


def test_text_that_json_cannot_hold_is_replaced():
    assert encoded({"a": "\ud800b"}) == b'{"a":"?b"}'
    with pytest.raises(ValueError, match="JSON"):
        encoded(float("nan"))


def test_metrics_are_escaped_and_add_up():
    counter = Counter("a_total", "Told.", ("who",))
    counter.add(1, 'q"\\\n')
    counter.add(2.5, "x")
    assert counter.lines() == [
        "# HELP a_total Told.", "# TYPE a_total counter", 'a_total{who="q\\"\\\\\\n"} 1', 'a_total{who="x"} 2.5'
    ]  # fmt: skip
    histogram = Histogram("b_seconds", "Told.", ("who",))
    for seconds in (0.01, 0.011, 7.0, 1e9):
        histogram.observe(seconds, "x")
    lines = histogram.lines()
    counts = [int(line.rsplit(" ", 1)[1]) for line in lines if "_bucket" in line]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 4
    assert 'b_seconds_bucket{who="x",le="+Inf"} 4' in lines
    assert lines[-1] == 'b_seconds_count{who="x"} 4'
    assert Metrics().text().endswith("\n")


def test_the_servers_page_is_in_prometheus_form(client):
    client.ask(max_tokens=3)
    with pytest.raises(Exception, match="no model"):
        client.ask(model="absent")
    list(client.ask(stream=True, max_tokens=3))
    client.ask(model="steered@steering=1.25", max_tokens=3)
    import requests

    response = requests.get(client.root + "/metrics", timeout=10)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [0-9.e+-]+)')
    for one in response.text.splitlines():
        assert line.fullmatch(one), one
    assert 'truing_requests_total{endpoint="chat",model="",status="404"}' in response.text
    assert "1.25" not in response.text, "labels do not grow with what clients write"
    assert client.metric("truing_first_token_seconds_count") >= 1
    assert client.metric("truing_completion_tokens_total") > 0
    assert client.metric("truing_forward_passes_total") > 0


def test_offsets_count_characters():
    class Job:
        logprobs, top = True, 0

    form = Text.__new__(Text)
    form.job, form.texts, form.written = Job(), TokenTexts(tiny.tokenizer()), {}
    from truing.serving.jobs import Token

    ids = tiny.tokenizer()("a€b")["input_ids"]
    found = form._logprobs(0, [Token(one, -1.0) for one in ids])
    assert found["text_offset"] == [0, 1, 1, 1, 2]
    assert form._logprobs(0, [Token(ids[0], float("-inf"))])["token_logprobs"] == [-9999.0]
