"""The pages for people: nodes, runs, alerts, failures and notifications. Rendered on the server.

Texts from DSS are data: Jinja2 escapes every value, and the content security policy allows no script or style but
our own two files.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from tocsin import __version__
from tocsin.config.model import Config
from tocsin.kit.clock import human_duration
from tocsin.store import Connection, query
from tocsin.store.query import AlertRecord, DeliveryRecord, NodeRecord, RunRecord
from tocsin.store.runs import usual_durations
from tocsin.web.context import CONTEXT, HttpProblem, WebContext
from tocsin.web.reads import read_explanation

_ROWS = 12
_FAILURES = 8
_STATIC = {"tocsin.css": "text/css", "tocsin.js": "text/javascript"}


@dataclass(frozen=True, slots=True)
class Overview:
    """What the front page shows; each list is cut, and ``more`` says which."""

    nodes: tuple[NodeRecord, ...]
    running: tuple[tuple[RunRecord, float | None], ...]  # with the usual seconds of its scenario
    alerts: tuple[AlertRecord, ...]
    failures: tuple[RunRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]
    more: Mapping[str, bool]


class Pages:
    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("tocsin.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        self._templates.filters.update(_FILTERS)

    def render(self, name: str, **values: object) -> str:
        return self._templates.get_template(name).render(**values, version=__version__)

    async def overview(self, request: web.Request) -> web.Response:
        context = request.app[CONTEXT]
        now = context.clock.now()
        text = await context.store.browse(self._overview_text, context, now)
        return web.Response(text=text, content_type="text/html")

    async def run(self, request: web.Request) -> web.Response:
        """One run: its steps and error, and why it was notified or not."""
        template = self._templates.get_template("run.html")
        explanation, now = await read_explanation(request), request.app[CONTEXT].clock.now()
        text = await asyncio.to_thread(
            template.render, explanation=explanation, now=now, root="../../../../", version=__version__
        )
        return web.Response(text=text, content_type="text/html")

    def _overview_text(self, connection: Connection, context: WebContext, now: datetime) -> str:
        return self._templates.get_template("overview.html").render(
            overview=read_overview(connection, context.config()),
            now=now,
            root="",
            version=__version__,
            not_ready=context.ready(),
        )


async def static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in _STATIC:
        raise HttpProblem(404, "there is nothing at this address")
    return web.Response(text=_static_text(name), content_type=_STATIC[name], headers={"Cache-Control": "no-cache"})


@cache
def _static_text(name: str) -> str:
    return files("tocsin.web").joinpath("static", name).read_text("utf-8")


def read_overview(connection: Connection, config: Config) -> Overview:
    watched = {node.name for node in config.nodes}
    nodes = query.list_nodes(connection, {"dss_node": sorted(watched)}, 100)
    running = query.list_runs(connection, {"state": ["running"]}, _ROWS)
    alerts = query.list_alerts(connection, {"state": ["firing"]}, _ROWS)
    spans = usual_durations(connection, (run.key.scenario for run in running.items))
    usual = {key: span.total_seconds() for key, span in spans.items()}
    deliveries = query.list_deliveries(connection, {}, _ROWS)
    return Overview(
        nodes=nodes.items,
        running=tuple((run, usual.get(run.key.scenario)) for run in running.items),
        alerts=alerts.items,
        failures=tuple(query.last_failures(connection, _FAILURES)),
        deliveries=deliveries.items,
        more={"running": running.next is not None, "alerts": alerts.next is not None},
    )


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    passed = now - moment
    return "now" if abs(passed) < timedelta(seconds=1) else f"{human_duration(passed)} ago"


_FILTERS: dict[str, Callable[..., str]] = {
    "ago": _ago,
    "span": lambda seconds: human_duration(timedelta(seconds=seconds)),
    "moment": lambda at: "" if at is None else at.strftime("%Y-%m-%d %H:%M:%S UTC"),
    "place": lambda labels: " / ".join(filter(None, map(labels.get, ("dss_node", "project", "scenario", "channel")))),
    "part": lambda text: quote(text, safe=""),
}
