"""The OpenAPI document of the server: requests from the classes that read them, answers as they are written."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from truing.serving.requests import ChatRequest, CompletionRequest
from truing.serving.responses import ANSWERS, CHUNKS, ErrorBody

REFUSALS = {
    400: "A field cannot be used; the error names it.", 401: "The key is missing or wrong.",
    403: "The host is not known.", 404: "There is no such model.", 408: "The body came too slowly.",
    413: "The body is too large.", 415: "The body is not sent as JSON.", 429: "Too many requests wait.",
    500: "The server failed.", 502: "Another server failed.", 503: "The server is stopping.", 504: "It took too long.",
}  # fmt: skip


def documented(what: str) -> dict[str, Any]:
    """The arguments of a route: what it reads and answers."""
    answer = ANSWERS.get(what)
    told: dict[str, Any] = {"operation_id": what, "response_model": None}
    refused = {status: {"model": ErrorBody, "description": text} for status, text in REFUSALS.items()}
    if what in ("chat", "completions"):
        name = (ChatRequest if what == "chat" else CompletionRequest).__name__
        told["openapi_extra"] = {
            "requestBody": {
                "required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
            }
        }  # fmt: skip
        # `itemSchema` is OpenAPI 3.2's word for one event; readers of 3.1 pass over it.
        chunk = {"anyOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in (CHUNKS[what], ErrorBody)]}
        written = {"type": "string", "contentMediaType": "application/json", "contentSchema": chunk}
        data = {"anyOf": [{"const": "[DONE]"}, written]}
        item = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        stream = {"text/event-stream": {"itemSchema": item}}
        told["responses"] = {200: {"model": answer, "description": "The answer.", "content": stream}, **refused}
    elif what == "metrics":
        plain = {"text/plain": {"schema": {"type": "string"}}}
        told["responses"] = {200: {"description": "Prometheus' text format.", "content": plain}, 401: refused[401],
                             403: refused[403]}  # fmt: skip
    else:
        also = {"health": (403,), "models": (401, 403), "model": (401, 403, 404)}[what]
        told["responses"] = {200: {"model": answer, "description": "As asked."}, **{s: refused[s] for s in also}}
        if what == "health":
            told["responses"][503] = {"model": answer, "description": "The server is stopping."}
    return told


def described(app: FastAPI, keyed: bool) -> None:
    """Give an application its document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = found["components"]["schemas"]
        kinds: list[type[BaseModel]] = [ChatRequest, CompletionRequest, *CHUNKS.values()]
        for kind in kinds:
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[kind.__name__] = schema
        for path in found["paths"].values():
            for operation in path.values():
                if operation["operationId"] not in ("chat", "completions"):
                    operation["responses"].pop("422", None)
                if operation["operationId"] == "metrics":
                    operation["responses"]["200"]["content"].pop("application/json", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        if keyed:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"key": []}]
            found["paths"]["/health"]["get"]["security"] = []
        app.openapi_schema = found
        return found

    app.openapi = openapi  # type: ignore[method-assign]
