"""The life of the process: start in order, run until a signal or until something essential ends, stop in order."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn

import structlog

from tocsin import __version__
from tocsin.app.build import Daemon
from tocsin.app.logs import LAST_LINES_SECONDS, configure_logging, drain_log, set_levels
from tocsin.app.loops import relax_garbage_collection
from tocsin.app.reload import ConfigSource
from tocsin.dss import DSSClient, DSSError
from tocsin.kit.clock import Clock, SystemClock
from tocsin.kit.systemd import notify, watchdog_seconds
from tocsin.store import StoreError, StoreFailed, StoreRefused, scenarios

GRACE = timedelta(seconds=20)
_LONGEST_NODE_NAME = 200
_NODE_NAME_SECONDS = 5.0
_SWITCH_SECONDS = 0.0005  # the loop gives the interpreter away with each write to a socket, and must get it back soon
log = structlog.get_logger("tocsin.app.run")


class CannotStart(Exception):
    """The daemon could not start; the message is one line that says why."""


def hard_exit(code: int) -> NoReturn:
    """End the process now: neither a send that hangs in its thread nor a log that nobody reads keeps it alive."""
    if drain_log(LAST_LINES_SECONDS):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where that is installed, else of asyncio; other threads let it in within ``_SWITCH_SECONDS``."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        import uvloop  # noqa: PLC0415 - it is not there for every interpreter and system
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def serve(
    source: ConfigSource,
    *,
    clock: Clock | None = None,
    ready: Callable[[Daemon], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
    log_level: str | None = None,
    listen_setting: str = "http.listen",
) -> int:
    """Run until ``stop`` is set, a signal comes, or a root task ends. Returns the exit code.

    ``ready`` is called once everything runs. ``listen_setting``: where people set the address that is listened on. Raises ``BadConfig`` and ``CannotStart`` before anything was started.
    A stop ends watching and deciding, finishes sends within the grace, and closes the store.
    """
    config = source.load()
    configure_logging(log_level or config.log.level, config.log.format, levels=config.log.levels)
    stop = stop or asyncio.Event()
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        log.info("uvloop_unavailable", action="asyncio's event loop is used, which is slower")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        daemon = Daemon(source, config, clock or SystemClock())
    except StoreRefused as error:
        raise CannotStart(str(error)) from None
    daemon.config.on_change(lambda: set_levels(log_level or daemon.config().log.level, daemon.config().log.levels))
    await _start(daemon, listen_setting)
    relax_garbage_collection()
    config = daemon.config()
    projects, known = await daemon.store.read(
        scenarios.count_known
    )  # those of new nodes are counted when they are read
    nodes = [node.name for node in config.nodes]
    log.info("started", version=__version__, listen=config.http.listen, nodes=nodes, projects=projects, scenarios=known)
    if not any(receiver.channels for receiver in config.receivers) and not config.alerting.alertmanagers:
        reason = "no receiver is configured: nobody is notified"
        log.warning("no_receiver", reason=reason, action="set receivers, or TOCSIN_NOTIFY")
    notify(f"READY=1\nSTATUS=watching {len(config.nodes)} nodes, listening on {config.http.listen}")
    if (every := watchdog_seconds()) is not None:
        daemon.tasks.spawn("systemd watchdog", _feed_watchdog(daemon, every / 3))
    if ready is not None:
        await ready(daemon)
    code = await _until_stopped(daemon, stop)
    notify("STOPPING=1")
    try:
        async with asyncio.timeout(GRACE.total_seconds() + 5):
            await daemon.stop(GRACE)
    except TimeoutError:
        log.error("stop_timed_out", action="exiting; what was not sent is sent after the next start")
    except StoreError as error:
        log.error("stop_incomplete", error=str(error), action="exiting; rows are as of the last commit")
    log.info("stopped", exit_code=code)
    return code


async def _start(daemon: Daemon, listen_setting: str) -> None:
    """Raises ``CannotStart``."""
    try:
        await daemon.store.open()
        if daemon.config().source is None:
            await _name_node(daemon)
    except StoreError as error:
        await daemon.store.close()
        raise CannotStart(str(error)) from None
    try:
        await daemon.listen()
    except OSError as error:
        await daemon.store.close()
        listen = daemon.config().http.listen
        raise CannotStart(f"cannot listen on {listen}: {error.strerror or error}; set {listen_setting}") from None
    daemon.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, daemon.config.request_reload)


async def _feed_watchdog(daemon: Daemon, pause: float) -> None:
    """Say that all is well as long as it is: systemd restarts a service that no longer does."""
    while True:
        if daemon.alive:
            notify("WATCHDOG=1")
        await asyncio.sleep(pause)


async def _until_stopped(daemon: Daemon, stop: asyncio.Event) -> int:
    stopped = asyncio.create_task(stop.wait(), name="wait for a request to stop")
    ended = asyncio.create_task(daemon.tasks.watch(), name="guard of the root tasks")
    await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        ended.cancel()
        log.info("stopping", grace_seconds=GRACE.total_seconds())
        return 0
    task = ended.result()
    if isinstance(task.error, StoreFailed):
        log.critical("store_failed", error=str(task.error), action="the process ends")
    else:
        log.critical("root_task_ended", task=task.name, exc_info=task.error, action="the process ends")
    return 1


async def _name_node(daemon: Daemon) -> None:
    """Name the only node of a configuration from the environment, this one and later ones, as the node names itself.

    A node's name is its identity: under another name it is another node, whose history begins anew. So a name that the
    store knows is kept, whatever the node answers at a later start.
    """
    (node,) = daemon.config().nodes
    assert node.api_key is not None
    own_name = None
    try:
        async with asyncio.timeout(_NODE_NAME_SECONDS):
            async with DSSClient(node.url, api_key=node.api_key.read, retries=0) as client:
                answer = (await client.get_instance_info()).node_name or ""
                own_name = "".join(filter(str.isprintable, answer))[:_LONGEST_NODE_NAME].strip() or None
    except (DSSError, OSError, TimeoutError) as error:
        log.info("node_name_unavailable", error=str(error))
    name = choose_name(own_name, node.name, [row.node for row in await daemon.store.read(scenarios.all_nodes)])
    daemon.config.adapt(lambda config: replace(config, nodes=(replace(config.nodes[0], name=name),)))


def choose_name(own: str | None, host: str, known: Collection[str]) -> str:
    """``own``: what the node says, None if it said nothing; ``known``: the names in the store."""
    for name in (own, host):
        if name and name in known:
            return name
    return own or (next(iter(known)) if len(known) == 1 else host)
