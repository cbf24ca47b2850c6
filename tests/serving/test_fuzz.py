"""Bodies made from the server's own OpenAPI document: no answer outside it, and none that is the server's fault."""

from __future__ import annotations

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks

from tests.serving.conftest import Client, serving
from truing.serving import Limits

load_all_checks()
CHECKS = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
        "negative_data_rejection",
    )
]  # fmt: skip


HOW = ("", "whole", "stream")
MEETING = ("max_tokens", "max_completion_tokens", "best_of", "n", "truing", "stream_options", "top_logprobs")


@pytest.fixture(scope="module")
def fuzzed(models):
    with serving(models, limits=Limits(answer_tokens=40, choices=4)) as one:
        yield one


def test_the_document_says_what_it_should(fuzzed: Client) -> None:
    document = requests.get(fuzzed.root + "/openapi.json", timeout=10).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    schemas = document["components"]["schemas"]
    assert {"messages", "temperature", "truing", "stop"} <= set(schemas["ChatRequest"]["properties"])
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "422" not in chat["responses"]
    assert "#/$defs" not in str(document)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_bodies_of_the_document(fuzzed: Client, path: str, mode: schemathesis.GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(fuzzed.root + "/openapi.json")
    operation = schema[path]["POST"]
    names = [*fuzzed.server.service.shelf.models, "steered@steering=3", "nudged@nudging=off"]
    seen: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode), name=st.sampled_from(names), how=st.sampled_from(HOW))
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def fuzz(case, name, how):
        if how and isinstance(case.body, dict):
            # What the document cannot say: names of models and modifiers, limits, and fields that need each other.
            kept = {field: value for field, value in case.body.items() if field not in MEETING}
            case.body = {**kept, "model": name, "stream": how == "stream"}
        response = case.call(base_url=fuzzed.root, timeout=60)
        seen.add(response.status_code)
        assert response.status_code < 500, response.text
        case.validate_response(response, checks=CHECKS)

    fuzz()
    assert 400 in seen
    if mode == schemathesis.GenerationMode.POSITIVE:
        assert 200 in seen, "some of them are good"
