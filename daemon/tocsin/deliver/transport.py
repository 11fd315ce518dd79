"""Transports, one for each kind of channel, and threads for the kind whose library blocks. Nothing is connected or
loaded before the first send: apprise alone takes half a second to load."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from yarl import URL

from tocsin.config.model import Channel, SlackConfig
from tocsin.deliver.native import OpsgenieChannel, PagerDutyChannel, SlackChannel
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.reach import Server
from tocsin.deliver.result import SendResult, failed
from tocsin.deliver.webhook import Webhook, env_proxy
from tocsin.kit.clock import Clock
from tocsin.kit.proxy import environment_proxy

T = TypeVar("T")
_Inbox = queue.SimpleQueue[tuple[Callable[[], Any], "asyncio.Future[Any]"] | None]
_MAX_HANGING = 8  # threads of one channel that may hang beside those that work


class Transport(Protocol):
    @property
    def concurrency(self) -> int:
        """How many sends may be in flight at once."""

    async def send(self, outgoing: Outgoing) -> SendResult:
        """Send once; expected failures are results, not errors.

        It ends by itself within twice the channel's ``timeout``, or stays behind in a thread: the sender abandons it
        then, and takes a later success as a late receipt.
        """

    async def close(self) -> None:
        """Close connections. Sends in flight are not waited for."""


def connector(clock: Clock, *, slack_url: str | None = None) -> Callable[[Channel], Transport]:
    """``slack_url`` replaces ``https://hooks.slack.com/services`` in ``slack://`` webhooks, for tests."""

    def connect(channel: Channel) -> Transport:
        if channel.webhook is not None:
            return Webhook(channel, clock)
        if channel.pagerduty is not None:
            return PagerDutyChannel(channel, channel.pagerduty, clock)
        if channel.opsgenie is not None:
            return OpsgenieChannel(channel, channel.opsgenie, clock)
        if channel.slack is not None:
            return SlackChannel(channel, channel.slack, clock)
        return AppriseTransport(channel, clock, slack_url)

    return connect


def check_channel_url(url: str) -> str | None:
    """Why apprise cannot use this URL, in one line without secrets; None when it can. Loads apprise: not on a loop."""
    from tocsin.deliver.apprise_channel import inspect_url  # noqa: PLC0415 - half a second

    return inspect_url(url)[0]


def unreadable_recipients(url: str) -> tuple[str, ...]:
    """What is wrong with those recipients of a mail URL that would not get what the others do. Loads apprise."""
    from tocsin.deliver.apprise_channel import inspect_url  # noqa: PLC0415 - half a second

    return inspect_url(url)[1]


def channel_server(channel: Channel) -> tuple[Server, str | None]:
    """Where a channel sends to, and its proxy. Loads apprise for a URL of its: not on a loop. Raises ``OSError`` for a
    secret that cannot be read, ``ValueError`` with the reason where the server is not known."""
    native = channel.slack or channel.pagerduty or channel.opsgenie
    if native is not None:
        url = native.api_url if isinstance(native, SlackConfig) else native.url
    elif channel.webhook is not None:
        url = channel.webhook.reveal().strip()
    else:
        from tocsin.deliver.apprise_channel import server_of  # noqa: PLC0415 - half a second

        url = channel.url.reveal().strip() if channel.url else ""
        server = server_of(url, channel)
        if url.lower().startswith("mailto"):  # SMTP takes no HTTP proxy
            return server, None
        scheme = "https" if server.tls else "http"
        return server, channel.proxy or environment_proxy(scheme, server.host, server.port)
    return Server.of_url(url), channel.proxy or env_proxy(URL(url))


class AppriseTransport:
    """Gives each send of an apprise channel to one of its threads; the first of them loads the library."""

    def __init__(self, channel: Channel, clock: Clock, slack_url: str | None) -> None:
        self._settings = (channel, clock, slack_url)
        self.concurrency = channel.workers
        self._threads: DaemonThreads[SendResult] = DaemonThreads(f"tocsin-channel {channel.name}", channel.workers)
        self._send_blocking: Callable[[Outgoing], SendResult] | None = None
        self._loading = threading.Lock()

    async def send(self, outgoing: Outgoing) -> SendResult:
        try:
            return await self._threads.run(partial(self._send, outgoing))
        except TooManyHang as error:
            return failed(str(error))

    async def close(self) -> None:
        self._threads.close()

    def _send(self, outgoing: Outgoing) -> SendResult:
        with self._loading:
            if self._send_blocking is None:
                from tocsin.deliver.apprise_channel import AppriseSender  # noqa: PLC0415 - half a second, on a thread

                self._send_blocking = AppriseSender(*self._settings).send
        return self._send_blocking(outgoing)


class TooManyHang(Exception):
    """Too many sends of this channel hang; no more are begun until one of them ends."""


class DaemonThreads(Generic[T]):
    """Runs blocking work, one at a time in each thread; for one event loop. Work that hangs keeps its thread and
    another takes its place, up to a bound. No thread keeps the process alive."""

    def __init__(self, name: str, width: int) -> None:
        self._name = name
        self._width = width
        self._idle: list[_Inbox] = []
        self._alive = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, or its error; a cancelled caller lets the thread finish. Raises ``TooManyHang``."""
        loop = asyncio.get_running_loop()
        if self._idle:
            inbox = self._idle.pop()
        elif self._alive < self._width + _MAX_HANGING:
            inbox = queue.SimpleQueue()
            name = f"{self._name} {self._alive + 1}"
            threading.Thread(target=self._serve, args=(inbox, loop), name=name, daemon=True).start()  # it may fail
            self._alive += 1
        else:
            raise TooManyHang(f"{self._alive} sends hang; none is begun until one of them ends")
        future: asyncio.Future[T] = loop.create_future()
        inbox.put((work, future))
        return await future

    def close(self) -> None:
        """Let idle threads end, and busy ones after their work."""
        self._width = 0
        while self._idle:
            self._idle.pop().put(None)

    def _serve(self, inbox: _Inbox, loop: asyncio.AbstractEventLoop) -> None:
        while item := inbox.get():
            work, future = item
            value: T | None = None
            failure: BaseException | None = None
            try:
                value = work()
            except StopIteration as error:  # the caller's future would refuse it
                failure = RuntimeError(f"the work of the thread raised {error!r}")
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whose unit of work it is
                failure = error
            with suppress(RuntimeError):  # the loop is closed: the process is about to end
                loop.call_soon_threadsafe(self._settle, inbox, future, value, failure)
            del item, work, future, value, failure  # not kept while the thread is idle

    def _settle(
        self, inbox: _Inbox, future: "asyncio.Future[Any]", value: object, failure: BaseException | None
    ) -> None:
        if not future.done():
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(value)
        if len(self._idle) < self._width:
            self._idle.append(inbox)
        else:
            self._alive -= 1
            inbox.put(None)
