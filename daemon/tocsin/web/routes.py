"""Every address in one table: who may use it, what answers it."""

from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp.typedefs import Handler

from tocsin.web import lists, probes
from tocsin.web.access import Access
from tocsin.web.pages import Pages, static


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one address. ``streams`` takes it out of the time bound."""

    method: str
    path: str
    handler: Handler
    access: Access
    summary: str
    streams: bool = False


def all_routes() -> Iterator[Route]:
    pages = Pages()
    yield Route("GET", "/-/healthy", probes.healthy, Access.PROBE, "Whether the process is worth keeping")
    yield Route("GET", "/-/ready", probes.ready, Access.PROBE, "Whether it can do its work")
    yield Route("GET", "/metrics", probes.metrics, Access.STATUS, "Prometheus metrics")
    yield Route(
        "GET", "/api/v1/status", probes.status, Access.STATUS, "The process and its nodes, from memory"
    )
    yield Route("GET", "/api/v1/nodes", lists.nodes, Access.READ, "Nodes")
    yield Route("GET", "/api/v1/scenarios", lists.scenarios, Access.READ, "Scenarios")
    yield Route("GET", "/api/v1/runs", lists.runs, Access.READ, "Runs, the newest first")
    yield Route("GET", "/api/v1/events", lists.events, Access.READ, "Events in their public order")
    yield Route("GET", "/api/v1/alerts", lists.alerts, Access.READ, "Alerts, the newest first")
    yield Route("GET", "/api/v1/silences", lists.silences, Access.READ, "Silences")
    yield Route("GET", "/api/v1/deliveries", lists.deliveries, Access.READ, "Notifications and their tries")
    yield Route(
        "GET", "/api/v1/config", lists.config, Access.READ, "The configuration in force, secrets masked"
    )
    yield Route("GET", "/", pages.overview, Access.READ, "The page for people")
    yield Route("GET", "/static/{name}", static, Access.READ, "Its style and script")
