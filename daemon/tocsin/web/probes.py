"""Probes, metrics and status: what is asked most often, answered from memory alone."""

from aiohttp import web

from tocsin import __version__
from tocsin.kit.clock import isoformat
from tocsin.model.cloudevent import Json
from tocsin.web.context import CONTEXT
from tocsin.web.problems import Problem

_STUCK_AFTER_SECONDS = 30.0


async def healthy(request: web.Request) -> web.Response:
    """Whether the process is worth keeping: its loop turns, its root tasks and the store's writer live.

    Asks neither store, DSS nor receivers: what ``alive`` knows of the writer is in memory."""
    context = request.app[CONTEXT]
    dead = sorted(name for name, alive in context.alive().items() if not alive)
    if dead:
        raise Problem(503, f"these tasks have ended: {', '.join(dead)}")
    if context.clock.monotonic() - context.loop_turned_at() > _STUCK_AFTER_SECONDS:
        raise Problem(503, "the event loop was stuck")
    return web.Response(text="ok\n")


async def ready(request: web.Request) -> web.Response:
    """Whether the configuration is loaded and the store can be used, as its last transaction found; never DSS."""
    reason = request.app[CONTEXT].ready()
    if reason is not None:
        raise Problem(503, reason)
    return web.Response(text="ok\n")


async def metrics(request: web.Request) -> web.Response:
    body, headers = await request.app[CONTEXT].exposition.render(
        ",".join(request.headers.getall("Accept", ())), ",".join(request.headers.getall("Accept-Encoding", ()))
    )
    return web.Response(body=body, headers=headers)


async def status(request: web.Request) -> web.Response:
    """The state of the process and of its nodes, from memory; the parts of the daemon say most of it themselves."""
    context = request.app[CONTEXT]
    reason = context.ready()
    own: dict[str, Json] = {
        "version": __version__,
        "time": isoformat(context.clock.now()),
        "ready": reason is None,
        "reason": reason,
        "tasks": dict(context.alive()),
    }
    return web.json_response(own | dict(context.status()))
