"""Every address of the HTTP side in one table, and the OpenAPI description that is made from it."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, TypeAdapter

from tocsin import __version__
from tocsin.model.alert import SilenceState
from tocsin.model.cloudevent import Json, event_schema
from tocsin.model.notification import NotificationState
from tocsin.store import query
from tocsin.store.explanation import AlertExplanation, RunExplanation
from tocsin.web import alertmanager, changes, forms, pages, reads, views
from tocsin.web.access import Access
from tocsin.web.context import DEFAULT_LIMIT, MAX_LIMIT
from tocsin.web.login import Login
from tocsin.web.stream import live, stream

_READ, _CHANGE = Access.READ, Access.CHANGE
_TEXT, _HTML = "text/plain", "text/html"
_RUN = "{node}/{project}/{scenario}/{run}"
_ORDER: Json = {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "asc"}}
_EXPLAIN_ALERT = "Why an alert fires or resolved, and who was notified; the id may be cut where it is still unique"


class CloudEvent:
    """Stands for the JSON of an event, whose schema is kept beside the model."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One method of one address.

    ``answer`` None means any object or text. ``lists``: a page of ``answer``s; its ``filters`` None means any label.
    ``streams`` takes it out of the time limit. Pages for people are not part of the API.
    """

    method: str
    path: str
    summary: str
    access: Access
    handler: Handler
    answer: type | None = None
    lists: bool = False
    filters: tuple[str, ...] | None = ()
    body: type[BaseModel] | None = None
    media: str = "application/json"
    status: int = 200
    streams: bool = False
    page: bool = False
    parameters: tuple[Json, ...] = ()  # more of the query

    @property
    def is_page(self) -> bool:
        """Whether a browser shows it, so that who is not known is sent to the login page."""
        return self.page and self.media == _HTML and self.method == "GET"


def endpoints() -> list[HttpRoute]:
    def rows(
        name: str, summary: str, answer: type, read: Callable[..., Any], filters: reads.Filters,
        states: Collection[str] = (), *, timed: bool = False,
    ) -> HttpRoute:  # fmt: skip
        handler = reads.lister(read, filters, states, timed=timed)
        return HttpRoute("GET", f"/api/v1/{name}", summary, _READ, handler, answer, lists=True, filters=filters)

    def shown(path: str, summary: str, template: str, read: pages.Read) -> HttpRoute:
        return HttpRoute("GET", path, summary, _READ, pages.page(template, read), media=_HTML, page=True)

    def form(path: str, summary: str, handler: Handler) -> HttpRoute:
        return HttpRoute("POST", path, summary, _CHANGE, handler, media=_HTML, page=True)

    login = Login(pages.render)
    table = [
        HttpRoute("GET", "/-/healthy", "Whether the process is worth keeping", Access.OPEN, reads.healthy, media=_TEXT),
        HttpRoute("GET", "/-/ready", "Whether it can do its work", Access.OPEN, reads.ready, media=_TEXT),
        HttpRoute("GET", "/metrics", "Prometheus metrics", Access.STATUS, reads.metrics, media=_TEXT),
        HttpRoute("GET", "/api/v1/status", "The process and its nodes, from memory", Access.STATUS, reads.status),
        HttpRoute("GET", "/api/v1/config", "The configuration in force, secrets masked", _READ, reads.config),
        HttpRoute("GET", f"/api/v1/explain/{_RUN}", "Why a run was notified, or not", _READ, reads.explain, RunExplanation),
        HttpRoute("GET", "/api/v1/explain/alerts/{id}", _EXPLAIN_ALERT, _READ, reads.explain_alert, AlertExplanation),
        rows("nodes", "Nodes by name", query.NodeRecord, query.list_nodes, ("dss_node",)),
        rows("scenarios", "Scenarios by node, project and id; gone ones too", query.ScenarioRecord,
             query.list_scenarios, reads.SCENARIO_FILTERS),
        rows("runs", "Runs, the newest first", query.RunRecord, query.list_runs, reads.RUN_FILTERS,
             ("running", "ended")),
        HttpRoute("GET", "/api/v1/events", "Events in their public order", _READ, reads.events, CloudEvent, lists=True,
                 filters=reads.EVENT_FILTERS, parameters=(_ORDER,)),
        HttpRoute("GET", "/api/v1/alerts", "Alerts, the newest first; `state` (firing, resolved) or any label filters",
                  _READ, reads.alerts, query.AlertRecord, lists=True, filters=None),
        rows("silences", "Silences, those that end last first", query.SilenceRecord, query.list_silences,
             reads.SILENCE_FILTERS, tuple(SilenceState), timed=True),
        rows("deliveries", "Notifications and their attempts, the newest first", query.DeliveryRecord,
             query.list_deliveries, reads.DELIVERY_FILTERS, tuple(NotificationState)),
        HttpRoute("GET", "/api/v1/events/stream", "Events as they come; resumes after `Last-Event-ID`", _READ, stream,
                 lists=True, filters=reads.EVENT_FILTERS, media="text/event-stream", streams=True),
        HttpRoute("POST", "/api/v1/silences", "A new silence", _CHANGE, changes.create_silence, changes.CreatedSilence,
                 body=changes.NewSilence, status=201),
        HttpRoute("GET", "/api/v1/silences/{id}", "One silence", _READ, changes.show_silence, query.SilenceRecord),
        HttpRoute("GET", "/api/v1/alerts/{id}", "One alert", _READ, changes.show_alert, query.AlertRecord),
        HttpRoute("GET", "/api/v1/deliveries/{id}", "One notification with its attempts", _READ, changes.show_delivery,
                  query.DeliveryRecord),
        HttpRoute("POST", "/api/v1/deliveries/retry", "Send all dead letters again that match the filters", _CHANGE,
                  changes.retry_deliveries, parameters=list_parameters(reads.DELIVERY_FILTERS)),
        HttpRoute("DELETE", "/api/v1/silences/{id}", "End a silence now", _CHANGE, changes.expire_silence,
                 query.SilenceRecord),
        HttpRoute("POST", "/api/v1/alerts/{id}/resolve", "Resolve an alert by hand", _CHANGE, changes.resolve_alert),
        HttpRoute("POST", "/api/v1/alerts/{id}/ack", "Say that somebody has an alert: its repeats stop", _CHANGE,
                  changes.acknowledge_alert, body=changes.NewAcknowledgement),
        HttpRoute("POST", "/api/v1/alerts/{id}/unack", "Say that nobody has it any more", _CHANGE,
                  changes.unacknowledge_alert),
        HttpRoute("POST", "/api/v1/deliveries/{id}/retry", "Send a dead letter again", _CHANGE, changes.retry_delivery),
        HttpRoute("POST", "/-/reload", "Read the configuration again", _CHANGE, changes.reload),
        HttpRoute("POST", "/hooks/dss/{node}", "A hint that a poll is due; never a fact", Access.HOOK, changes.nudge,
                 status=202),
        shown("/", "Overview", "overview.html", views.read_overview),
        shown("/alerts", "Alerts", "alerts.html", views.read_alerts),
        shown("/alerts/act", "Ask before several alerts are changed", "alerts_act.html", forms.read_chosen),
        HttpRoute("GET", "/alerts/{id}", "One alert", _READ, views.alert_page, media=_HTML, page=True),
        shown("/scenarios", "Scenarios", "scenarios.html", views.read_scenario_list),
        shown("/scenarios/{node}/{project}/{scenario}", "One scenario", "scenario.html", views.read_scenario),
        HttpRoute("GET", f"/runs/{_RUN}", "One run", _READ, views.run_page, media=_HTML, page=True),
        shown("/silences", "Silences", "silences.html", views.read_silences),
        shown("/silences/new", "A form for a silence", "silence_new.html", forms.read_new_silence),
        shown("/deliveries", "Deliveries", "deliveries.html", views.read_deliveries),
        shown("/routes", "Routes and receivers", "routes.html", views.read_routes),
        shown("/status", "Status", "status.html", views.read_status),
        shown("/search", "What is called so", "search.html", views.read_search),
        form("/alerts/act", "Change several alerts", forms.change_alerts),
        form("/alerts/{id}/{do}", "Acknowledge or resolve an alert", forms.change_alert),
        form("/silences/new", "A new silence", forms.create_silence_here),
        form("/silences/{id}/expire", "End a silence now", forms.expire_silence_here),
        form("/deliveries/retry", "Send dead letters again", forms.retry_deliveries_here),
        form("/routes/{receiver}/test", "Send a sample to a receiver", forms.test_receiver_here),
        form("/status/reload", "Read the configuration again", forms.reload_here),
        HttpRoute("GET", "/live", "Says when pages have changed", _READ, live, media="text/event-stream", streams=True,
                  page=True),
        HttpRoute("GET", "/static/{name}", "Style, script and icon", Access.OPEN, pages.static, media="text/css", page=True),
        HttpRoute("GET", "/login", "Where people say their token", Access.OPEN, login.show, media=_HTML, page=True),
        HttpRoute("POST", "/login", "Begin a session", Access.OPEN, login.log_in, media=_HTML, page=True),
        HttpRoute("POST", "/logout", "End the session of this browser", _READ, login.log_out, media=_HTML, page=True),
    ]  # fmt: skip

    def compatible(method: str, path: str, handler: Handler) -> HttpRoute:
        access = _READ if method == "GET" else _CHANGE
        return HttpRoute(method, f"/api/v2/{path}", "As Alertmanager describes it", access, handler, page=True)

    table += [
        compatible("GET", "status", alertmanager.show_cluster),
        compatible("GET", "receivers", alertmanager.show_receivers),
        compatible("GET", "alerts", alertmanager.show_alerts),
        compatible("POST", "alerts", alertmanager.post_alerts),
        compatible("GET", "alerts/groups", alertmanager.show_groups),
        compatible("GET", "silences", alertmanager.show_silences),
        compatible("POST", "silences", alertmanager.post_silence),
        compatible("GET", "silence/{id}", alertmanager.find_silence),
        compatible("DELETE", "silence/{id}", alertmanager.delete_silence),
    ]
    document = describe(route for route in table if not route.page)

    async def openapi(_request: web.Request) -> web.Response:
        return web.json_response(document)

    return [*table, HttpRoute("GET", "/api/v1/openapi.json", "This description", _READ, openapi, page=True)]


# --- OpenAPI ---------------------------------------------------------------------------------------------------------

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


def describe(table: Iterable[HttpRoute]) -> dict[str, Json]:
    """The OpenAPI 3.1 document."""
    table = list(table)
    paths: dict[str, dict[str, Json]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tocsin",
            "version": __version__,
            "description": "The state of a Tocsin daemon: runs, alerts and notifications.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(table),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "hook": {"type": "apiKey", "in": "header", "name": "X-Tocsin-Secret"},
            },
        },
    }


def _operation(route: HttpRoute) -> dict[str, Json]:
    name = re.sub(r"[^a-z0-9]+", "_", f"{route.method}{route.path}".lower()).strip("_")
    parameters: list[Json] = [
        {"name": part, "in": "path", "required": True, "schema": {"type": "string"}}
        for part in re.findall(r"{(\w+)}", route.path)
    ]
    if route.lists:
        parameters += list_parameters(route.filters)
    parameters += route.parameters
    refused: Json = {"application/problem+json": {"schema": {"$ref": _REFS.format(model="Problem")}}}
    operation: dict[str, Json] = {
        "operationId": name,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            str(route.status): {"description": "Done", "content": {route.media: {"schema": _answer(route)}}},
            "default": {"description": "Refused, or failed", "content": refused},
        },
    }
    if route.access is not Access.OPEN:
        operation["security"] = [{"hook": []}] if route.access is Access.HOOK else [{"token": []}, {}]
    if route.body is not None:
        required = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": _ref(route.body)}}}
    return operation


def _answer(route: HttpRoute) -> dict[str, Json]:
    if route.answer is None:
        return {"type": "object"} if route.media == "application/json" else {"type": "string"}
    if not route.lists or route.media != "application/json":
        return _ref(route.answer)
    return {
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": _ref(route.answer)},
            "next": {"type": ["string", "null"], "description": "`after` of the next page; null at the end"},
        },
    }


def list_parameters(filters: tuple[str, ...] | None) -> tuple[Json, ...]:
    limit: dict[str, Json] = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    texts: dict[str, Json] = {"type": "array", "items": {"type": "string"}}
    labels: dict[str, Json] = {"type": "object", "additionalProperties": {"type": "string"}}
    text: dict[str, Json] = {"type": "string"}
    moment = "RFC 3339, a date, or how long ago, as 2h"
    parameters: list[Json] = [
        {"name": "limit", "in": "query", "schema": limit},
        {"name": "after", "in": "query", "schema": text, "description": "A cursor: `next` of a page"},
        {"name": "since", "in": "query", "schema": text, "description": f"From this time on: {moment}"},
        {"name": "until", "in": "query", "schema": text, "description": f"Before this time: {moment}"},
        {"name": "matcher", "in": "query", "schema": texts, "description": "In Alertmanager's syntax; all must hold"},
    ]
    if filters is None:
        return (*parameters, {"name": "labels", "in": "query", "style": "form", "explode": True, "schema": labels})
    parameters.extend({"name": name, "in": "query", "schema": texts} for name in filters)
    return tuple(parameters)


def _ref(kind: type) -> dict[str, Json]:
    return {"$ref": _REFS.format(model=kind.__name__)}


def _schemas(table: Iterable[HttpRoute]) -> dict[str, Json]:
    event = {name: value for name, value in event_schema().items() if not name.startswith("$")}
    schemas: dict[str, Json] = {"Problem": _PROBLEM, "CloudEvent": event}
    for kind in sorted({kind for route in table for kind in (route.answer, route.body) if kind}, key=str):
        if kind.__name__ not in schemas:
            schema: dict[str, Any] = TypeAdapter(kind).json_schema(mode="serialization", ref_template=_REFS)
            schemas.update(schema.pop("$defs", {}))
            schemas[kind.__name__] = schema
    return schemas
