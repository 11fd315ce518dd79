"""Every address in one table: who may use it, what answers it, what it answers. The API's description comes from it."""

from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from tocsin.store import records
from tocsin.store.story import AlertStory, RunStory
from tocsin.web import changes, hooks, lists, probes
from tocsin.web.access import Access
from tocsin.web.openapi import CloudEvent, Operation, describe
from tocsin.web.pages import Pages, static
from tocsin.web.stream import stream

_RUN = "{node}/{project}/{scenario}/{run}"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one address. ``streams`` takes it out of the time bound; pages are not part of the API."""

    operation: Operation
    handler: Handler
    streams: bool = False
    page: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.operation.method, self.operation.path

    @property
    def access(self) -> Access:
        return self.operation.access


def all_routes() -> list[Route]:
    routes = [*_state(), *_lists(), *_changes(), *_pages()]
    document = describe(one.operation for one in routes if not one.page)

    async def openapi(_request: web.Request) -> web.Response:
        return web.json_response(document)

    own = Operation("GET", "/api/v1/openapi.json", "This description", Access.READ)
    return [*routes, Route(own, openapi, page=True)]


def _state() -> Iterator[Route]:
    text = "text/plain"
    healthy = Operation("GET", "/-/healthy", "Whether the process is worth keeping", Access.PROBE, media=text)
    yield Route(healthy, probes.healthy)
    ready = Operation("GET", "/-/ready", "Whether it can do its work", Access.PROBE, media=text)
    yield Route(ready, probes.ready)
    yield Route(Operation("GET", "/metrics", "Prometheus metrics", Access.STATUS, media=text), probes.metrics)
    status = Operation("GET", "/api/v1/status", "The process and its nodes, from memory", Access.STATUS)
    yield Route(status, probes.status)
    config = Operation("GET", "/api/v1/config", "The configuration in force, secrets masked", Access.READ)
    yield Route(config, lists.config)
    explain = Operation("GET", f"/api/v1/explain/{_RUN}", "Why a run rang, or did not", Access.READ, RunStory)
    yield Route(explain, lists.explain)
    why = "Why an alert fires or ended, and who was told; the id may be cut where it is still unique"
    alert = Operation("GET", "/api/v1/explain/alerts/{id}", why, Access.READ, AlertStory)
    yield Route(alert, lists.explain_alert)


def _lists() -> Iterator[Route]:
    def listing(name: str, summary: str, handler: Handler, answer: type, filters: tuple[str, ...] | None) -> Route:
        return Route(
            Operation("GET", f"/api/v1/{name}", summary, Access.READ, answer, lists=True, filters=filters), handler
        )

    yield listing("nodes", "Nodes by name", lists.nodes, records.NodeRecord, ("dss_node",))
    yield listing("scenarios", "Scenarios by node, project and id; gone ones too", lists.scenarios,
                  records.ScenarioRecord, lists.SCENARIO_FILTERS)  # fmt: skip
    yield listing("runs", "Runs, the newest first", lists.runs, records.RunRecord, lists.RUN_FILTERS)
    yield listing("events", "Events in their public order", lists.events, CloudEvent, lists.EVENT_FILTERS)
    yield listing("alerts", "Alerts, the newest first; `state` or any label filters", lists.alerts,
                  records.AlertRecord, None)  # fmt: skip
    yield listing("silences", "Silences, those that end last first", lists.silences, records.SilenceRecord, ("state",))
    yield listing("deliveries", "Notifications and their tries, the newest first", lists.deliveries,
                  records.DeliveryRecord, lists.DELIVERY_FILTERS)  # fmt: skip
    following = Operation(
        "GET", "/api/v1/events/stream", "Events as they come; resumes after `Last-Event-ID`", Access.READ,
        lists=True, filters=lists.EVENT_FILTERS, media="text/event-stream",
    )  # fmt: skip
    yield Route(following, stream, streams=True)


def _changes() -> Iterator[Route]:
    def change(path: str, summary: str, handler: Handler, answer: type | None = None, method: str = "POST") -> Route:
        return Route(Operation(method, path, summary, Access.CHANGE, answer), handler)

    create = Operation("POST", "/api/v1/silences", "A new silence", Access.CHANGE, records.SilenceRecord,
                       body=changes.NewSilence, status=201)  # fmt: skip
    yield Route(create, changes.create_silence)
    yield change("/api/v1/silences/{id}", "End a silence now", changes.expire_silence, records.SilenceRecord, "DELETE")
    yield change("/api/v1/alerts/{id}/resolve", "End an alert by hand", changes.resolve_alert)
    yield change("/api/v1/deliveries/{id}/retry", "Send a dead letter again", changes.retry_delivery)
    yield change("/-/reload", "Read the configuration again", changes.reload)
    nudge = Operation("POST", "/hooks/dss/{node}", "A hint that a poll is due; never a fact", Access.HOOK, status=202)
    yield Route(nudge, hooks.nudge)


def _pages() -> Iterator[Route]:
    pages = Pages()
    overview = Operation("GET", "/", "The page for people", Access.READ, media="text/html")
    yield Route(overview, pages.overview, page=True)
    run = Operation("GET", f"/runs/{_RUN}", "The page of one run", Access.READ, media="text/html")
    yield Route(run, pages.run, page=True)
    files = Operation("GET", "/static/{name}", "Its style and script", Access.READ, media="text/css")
    yield Route(files, static, page=True)
