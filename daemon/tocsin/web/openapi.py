"""The description of the API, made from the table of routes and the records that they answer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter

from tocsin import __version__
from tocsin.model.cloudevent import Json, event_schema
from tocsin.web.access import Access
from tocsin.web.params import DEFAULT_LIMIT, MAX_LIMIT

_REFS = "#/components/schemas/{model}"
_PROBLEM: dict[str, Json] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for the caller"},
        "errors": {"type": "array", "items": {"type": "string"}},
    },
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One address as its callers see it. ``filters`` None in a list means any label; ``answer`` None means text."""

    method: str
    path: str
    summary: str
    access: Access
    answer: type | None = None
    lists: bool = False
    filters: tuple[str, ...] | None = ()
    body: type[BaseModel] | None = None
    media: str = "application/json"
    status: int = 200


def describe(operations: Iterable[Operation]) -> dict[str, Json]:
    """The OpenAPI 3.1 document."""
    operations = list(operations)
    paths: dict[str, dict[str, Json]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    schemas = _schemas(operations)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tocsin",
            "version": __version__,
            "description": "The state of a Tocsin daemon: what runs, what rings, what was told to whom.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "hook": {"type": "apiKey", "in": "header", "name": "X-Tocsin-Secret"},
            },
        },
    }


def _operation(one: Operation) -> dict[str, Json]:
    name = re.sub(r"[^a-z0-9]+", "_", f"{one.method.lower()}{one.path}".lower()).strip("_")
    parameters: list[Json] = [_path_parameter(part) for part in re.findall(r"{(\w+)}", one.path)]
    if one.lists:
        parameters += _list_parameters(one.filters)
    described: dict[str, Json] = {
        "operationId": name,
        "summary": one.summary,
        "parameters": parameters,
        "responses": {
            str(one.status): {"description": "Done", "content": {one.media: {"schema": _answer(one)}}},
            "default": {
                "description": "Refused, or failed",
                "content": {"application/problem+json": {"schema": {"$ref": _REFS.format(model="Problem")}}},
            },
        },
    }
    if one.access is not Access.PROBE:
        described["security"] = [{"hook": []}] if one.access is Access.HOOK else [{"token": []}, {}]
    if one.body is not None:
        content: dict[str, Json] = {"application/json": {"schema": _ref(one.body)}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _answer(one: Operation) -> dict[str, Json]:
    if one.answer is None:
        return {"type": "object"} if one.media == "application/json" else {"type": "string"}
    if not one.lists or one.media != "application/json":
        return _ref(one.answer)
    return {
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": _ref(one.answer)},
            "next": {"type": ["string", "null"], "description": "`after` of the next page; null at the end"},
        },
    }


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _list_parameters(filters: tuple[str, ...] | None) -> list[Json]:
    limit: dict[str, Json] = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    parameters: list[Json] = [
        {"name": "limit", "in": "query", "schema": limit},
        {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "A cursor: `next` of a page"},
    ]
    if filters is None:
        labels: dict[str, Json] = {"type": "object", "additionalProperties": {"type": "string"}}
        return [*parameters, {"name": "labels", "in": "query", "style": "form", "explode": True, "schema": labels}]
    parameters.extend({"name": name, "in": "query", "schema": _texts()} for name in filters)
    return parameters


def _texts() -> dict[str, Json]:
    return {"type": "array", "items": {"type": "string"}}


def _ref(kind: type) -> dict[str, Json]:
    return {"$ref": _REFS.format(model=kind.__name__)}


def _schemas(operations: Iterable[Operation]) -> dict[str, Json]:
    event = {name: value for name, value in event_schema().items() if not name.startswith("$")}
    found: dict[str, Json] = {"Problem": _PROBLEM, "CloudEvent": event}
    for kind in sorted({kind for one in operations for kind in (one.answer, one.body) if kind}, key=str):
        if kind.__name__ in found:
            continue
        schema: dict[str, Any] = TypeAdapter(kind).json_schema(mode="serialization", ref_template=_REFS)
        found.update(schema.pop("$defs", {}))
        found[kind.__name__] = schema
    return found


class CloudEvent:
    """Stands for an event's JSON, whose schema is kept beside the model."""
