"""The life of the process: start in order, run until told to stop or until something essential ends, stop in order.

SIGTERM: not ready → stop watching and deciding → finish sends within the grace → close the store → exit, even if a
send's thread hangs.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn

import structlog

from tocsin import __version__
from tocsin.app.build import Daemon, build
from tocsin.app.logs import LAST_LINES_SECONDS, configure_logging, drain_log, set_levels
from tocsin.app.reload import ConfigSource
from tocsin.kit.clock import Clock, SystemClock
from tocsin.store import StoreError, StoreFailed, StoreRefused

GRACE = timedelta(seconds=20)
log = structlog.get_logger("tocsin.app.run")


class CannotStart(Exception):
    """The daemon could not start; the message is one line that says why."""


def leave(code: int) -> NoReturn:
    """End the process now: neither a send that hangs in its thread nor a log that nobody reads keeps it alive."""
    if drain_log(LAST_LINES_SECONDS):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


async def serve(
    source: ConfigSource,
    *,
    clock: Clock | None = None,
    ready: Callable[[Daemon], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
    log_level: str | None = None,
    slack_url: str | None = None,
) -> int:
    """Run until ``stop`` is set, a signal comes, or a root task ends. Answers the exit code.

    ``ready`` is called once everything runs. Raises ``BadConfig`` and ``CannotStart`` before anything was started.
    """
    config = source.load()
    configure_logging(log_level or config.log_level, config.log_format, levels=config.log_levels)
    stop = stop or asyncio.Event()
    _stop_on_signals(stop)
    try:
        daemon = build(source, config, clock or SystemClock(), slack_url)
    except StoreRefused as error:
        raise CannotStart(str(error)) from None
    daemon.live.on_change(lambda: set_levels(log_level or daemon.live().log_level, daemon.live().log_levels))
    await _open(daemon)
    config = daemon.live()
    log.info("started", version=__version__, listen=config.http.listen, nodes=[n.name for n in config.nodes])
    if not any(receiver.channels for receiver in config.receivers):
        log.warning("nobody_is_told", reason="no receiver has a channel", action="set receivers, or TOCSIN_NOTIFY")
    if ready is not None:
        await ready(daemon)
    code = await _until_stopped(daemon, stop)
    await _shut_down(daemon)
    log.info("stopped", exit_code=code)
    return code


async def _open(daemon: Daemon) -> None:
    try:
        await daemon.store.open()
        await _name_node(daemon)
    except StoreError as error:
        await daemon.store.close()
        raise CannotStart(str(error)) from None
    try:
        await daemon.listen()
    except OSError as error:
        await daemon.store.close()
        listen = daemon.live().http.listen
        raise CannotStart(f"cannot listen on {listen}: {error.strerror or error}; set http.listen") from None
    daemon.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, daemon.live.reload_soon)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _until_stopped(daemon: Daemon, stop: asyncio.Event) -> int:
    stopped = asyncio.create_task(stop.wait(), name="stop was asked for")
    ended = asyncio.create_task(daemon.tasks.watch(), name="guard of the root tasks")
    await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not ended.done():
        ended.cancel()
        log.info("stopping", grace_seconds=GRACE.total_seconds())
        return 0
    dead = ended.result()
    if isinstance(dead.error, StoreFailed):
        log.critical("store_failed", error=str(dead.error), action="the process ends")
        return 1
    log.critical("root_task_ended", task=dead.name, exc_info=dead.error, action="the process ends")
    return 1


async def _shut_down(daemon: Daemon) -> None:
    try:
        async with asyncio.timeout(GRACE.total_seconds() + 5):
            await daemon.stop(GRACE)
    except TimeoutError:
        log.error("stop_timed_out", action="leaving; what was not sent is sent after the next start")
    except StoreError as error:
        log.error("stop_incomplete", error=str(error), action="leaving; rows are as of the last commit")


async def _name_node(daemon: Daemon) -> None:
    """Where no file names the node, it does so itself."""
    config = daemon.live()
    if config.source is None:
        from tocsin.app.naming import named_by_itself  # noqa: PLC0415 - only without a file

        daemon.live.adapt(await named_by_itself(config, daemon.store))
