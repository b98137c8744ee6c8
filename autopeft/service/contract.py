"""The contract: the OpenAPI document, made from the messages themselves, with every problem in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from autopeft import __version__
from autopeft.message import Message
from autopeft.service.problems import MEDIA, PREFIX, Problem

_REF = "#/components/schemas/{model}"
_ANY = (400, 401, 403, 422, 429, 501, 507)
_WORDS = {
    400: "The request cannot be read.",
    401: "A token is needed, or the one given is not good.",
    403: "Not allowed.",
    404: "There is no such thing.",
    408: "The body has not come in time.",
    409: "It cannot be done in this state.",
    413: "The body is too large.",
    415: "The body is of a type that is not taken.",
    422: "What is asked is not allowed, unknown, or cannot be answered.",
    429: "Too many requests, or the share of a user is used up.",
    501: "A package is not installed where the service runs.",
    503: "The service is busy, starting or shutting down.",
    507: "The service cannot store or read.",
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "Question": {
        "model": "Llama-3.1-8B",
        "method": "qlora",
        "gpu": "l4",
        "batch_size": 4,
        "seq_len": 1024,
        "gradient_checkpointing": True,
        "examples": 10000,
    },
    "Demand": {
        "models": ["Llama-3.1-8B"],
        "methods": ["lora", "qlora"],
        "gpus": ["l4", "h100-sxm"],
        "seq_len": 512,
    },
    "RecipeRequest": {
        "model": "Llama-3.1-8B",
        "candidate": {"method": "lora", "rank": 16, "training": {"precision": "bf16", "max_length": 1024}},
        "format": "trl",
    },
    "Problem": {
        "type": f"{PREFIX}unknown-name",
        "title": "A name that nobody knows",
        "status": 422,
        "detail": "unknown device 'l40z': did you mean l40s or l40 or l4?",
        "instance": "urn:autopeft:request:0f3a9c2b7d51e684",
        "faults": [],
    },
}
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "type": "object",
                "required": ["event"],
                "properties": {"event": {"type": "string"}},
            },
        },
    },
}
"""One of an operation's server-sent events; OpenAPI 3.2 calls the schema of one `itemSchema`."""


def takes(
    message: type[Message],
    *,
    name: str | None = None,
    without: Iterable[str] = (),
    also: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what an operation that reads a message from its body adds to the document.

    Args:
        message: the message.   name: of its schema.   without: fields that a client must not give.
        also: further fields of the body, by name, with their schemas.
    """
    schema = {"$ref": _REF.format(model=name or message.__name__)}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "x-body": {
            "name": name or message.__name__,
            "schema": _open(message.model_json_schema(ref_template=_REF), without, also or {}),
        },
    }


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application; made once."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(
        title="autopeft",
        version=__version__,
        summary="Plan, search and export the PEFT configuration that fits a GPU, a time and your data.",
        description=(
            "Everything the command line does. What gets no answer is answered by a problem (RFC 9457). "
            "Lists come in pages; what there is carries an ETag."
        ),
        routes=app.routes,
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    _add(schemas, Problem.model_json_schema(ref_template=_REF, mode="serialization"), "Problem")
    made["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "`autopeft token create` makes one."}
    }
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, path, schemas)
    for name, example in _EXAMPLES.items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    app.openapi_schema = made
    return made


def _complete(operation: dict[str, Any], method: str, path: str, schemas: dict[str, Any]) -> None:
    """Add an operation's body, its problems and who may call it."""
    body = operation.pop("x-body", None)
    if body is not None:
        _add(schemas, body["schema"], body["name"])
    responses = operation["responses"]
    responses.pop("422", None)
    statuses = [status for status in _ANY if path.startswith("/api/") or path == "/metrics"]
    statuses += [404] if "{" in path else []
    statuses += [408, 413, 415] if "requestBody" in operation else []
    statuses += [503]
    statuses += operation.pop("x-problems", [])
    for status, words in operation.pop("x-also", {}).items():
        responses[status] = {**next(iter(responses.values())), "description": words}
    for status in sorted(set(statuses)):
        responses.setdefault(str(status), _problem(status))
    if method == "get" and operation.get("tags") == ["catalogue"] and not path.endswith("/doctor"):
        responses["200"]["headers"] = {"ETag": {"schema": {"type": "string"}}}
        responses["304"] = {"description": "Nothing has changed since the entity tag in If-None-Match."}
    if path.startswith("/api/") or path == "/metrics":
        operation["security"] = [{"token": []}, {}]


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model="Problem")}
    return {"description": _WORDS[status], "content": {MEDIA: {"schema": schema}}}


def _add(schemas: dict[str, Any], schema: dict[str, Any], name: str) -> None:
    """Take a schema and what it refers to among the document's."""
    for inner, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(inner, definition)
    schemas[name] = schema


def _open(schema: dict[str, Any], without: Iterable[str], also: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's schema as a body has it: null takes the default of a field that may be left out."""
    fields = {name: each for name, each in schema["properties"].items() if name not in without} | dict(also)
    needed = schema.get("required", [])
    for name, field in fields.items():
        kinds = field.get("anyOf", [field])
        if name not in needed and {"type": "null"} not in kinds:
            fields[name] = {
                "anyOf": [
                    *({k: v for k, v in kind.items() if k != "default"} for kind in kinds),
                    {"type": "null"},
                ]
            }
    return {**schema, "properties": fields}
