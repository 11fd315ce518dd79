"""Answers of receivers, bounded in bytes and in time, for libraries that read whatever comes. A socket's timeout is
that of a whole answer, and at most a megabyte is read or unpacked. apprise's plugins call ``requests`` directly, so the
bounds are in the adapter that every session of this process mounts. Its functions make a session for each request; a
thread of a channel lends them its own."""

import http.client
import io
import json
import smtplib
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from math import inf
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import requests
import requests.adapters
import requests.sessions
import urllib3
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from yarl import URL

from tocsin.deliver.result import Answer, Cause
from tocsin.kit.clock import SystemClock
from tocsin.kit.proxy import environment_proxy

T = TypeVar("T")
MAX_BYTES = 1_000_000  # of one answer, as they come and unpacked
_BODY_BYTES = 4_000  # of a body that are recorded
_SECONDS = 30.0  # for an answer on a socket without a timeout
_IDLE_SECONDS = 4.0  # for which a connection is kept; common servers close theirs after five
_CLOCK = SystemClock()


class ThreadLog(threading.local, Generic[T]):
    """Collects what happens on a thread while it asks for it, the first ``limit`` items."""

    _items: list[T] | None = None

    def __init__(self, limit: float = inf) -> None:
        self._limit = limit

    def append(self, item: T) -> None:
        if self._items is not None and len(self._items) < self._limit:
            self._items.append(item)

    @contextmanager
    def collect(self) -> Iterator[list[T]]:
        self._items = []
        try:
            yield self._items
        finally:
            self._items = None


class _Thread(threading.local):
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


_THREAD = _Thread()


@contextmanager
def completed(complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None) -> Iterator[None]:
    """Meanwhile ``complete`` makes what is sent of the JSON document of each request of this thread."""
    _THREAD.complete = complete
    try:
        yield
    finally:
        _THREAD.complete = None


# What services answer to HTTP requests, in order, or why they do not.
ANSWERS: ThreadLog[Answer | Cause] = ThreadLog()


class AnswerTooLong(OSError):
    """A receiver's answer does not end."""


class _BoundedReader(io.RawIOBase):
    """What comes on a socket until a deadline, and no more than ``MAX_BYTES``."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        super().__init__()
        self._socket, self._file = sock, sock.makefile("rb", buffering=0)
        self._deadline = _CLOCK.monotonic() + seconds
        self._left = MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = self._deadline - _CLOCK.monotonic()
        if seconds <= 0:
            raise TimeoutError("the answer did not end in time")
        self._socket.settimeout(seconds)
        count = self._file.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise AnswerTooLong(f"the answer is longer than {MAX_BYTES} bytes")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _bounded_file(sock: socket.socket, seconds: float | None = None) -> io.BufferedReader:
    """What a socket receives; ``seconds``: until all of it must have come, None for the socket's timeout."""
    return io.BufferedReader(_BoundedReader(sock, seconds or sock.gettimeout() or _SECONDS))


class BoundedSMTP(smtplib.SMTP):
    """A connection whose server may say ``MAX_BYTES``, each time until the ``patience`` seconds of the whole are over."""

    def __init__(self, host: str, port: int, timeout: float, patience: float) -> None:
        self._over_at = _CLOCK.monotonic() + patience
        super().__init__(host, port, timeout=timeout)

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _bounded_file(self.sock, max(self._over_at - _CLOCK.monotonic(), 0.001))
        return super().getreply()


class BoundedSMTPS(BoundedSMTP, smtplib.SMTP_SSL):
    def __init__(self, host: str, port: int, timeout: float, patience: float, context: ssl.SSLContext) -> None:
        self._over_at = _CLOCK.monotonic() + patience
        smtplib.SMTP_SSL.__init__(self, host, port, timeout=timeout, context=context)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        bounded_socket: Any = SimpleNamespace(makefile=lambda _mode: _bounded_file(sock))  # of which no more is used
        super().__init__(bounded_socket, *args, **more)


_POOLS = {}
for _scheme, _pool in (("http", HTTPConnectionPool), ("https", HTTPSConnectionPool)):
    _connection = type("BoundedConnection", (_pool.ConnectionCls,), {"response_class": _Response})
    _POOLS[_scheme] = type("BoundedPool", (_pool,), {"ConnectionCls": _connection})


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """How ``requests`` reaches HTTP servers, with bounds. Bodies are read here, so that nothing else reads them."""

    def __init__(self) -> None:
        super().__init__()
        self._proxies: dict[URL, dict[str, str]] = {}

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **more)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        request.headers["Accept-Encoding"] = "identity"
        _complete(request)
        url = URL(request.url or "").origin()
        if url not in self._proxies:
            proxy = environment_proxy(url.scheme, url.host or "", url.port)
            self._proxies[url] = {url.scheme: proxy} if proxy else {}
        try:
            response = super().send(request, *args, **more | {"proxies": self._proxies[url]})
        except requests.RequestException as error:
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            if isinstance(error, requests.exceptions.SSLError):
                cause = Cause.TLS
            elif isinstance(error, requests.ReadTimeout):
                cause = Cause.TIMEOUT
            elif isinstance(reason, urllib3.exceptions.NameResolutionError):
                cause = Cause.DNS
            else:
                cause = Cause.CONNECTION
            ANSWERS.append(cause)
            raise
        body = _read(response.raw, response.headers)
        response._content = body  # what ``content`` answers once a body was read
        response._content_consumed = True
        ANSWERS.append(Answer(response.status_code, response.headers.get("Retry-After"), body[:_BODY_BYTES]))
        return response


def _complete(request: requests.PreparedRequest) -> None:
    body = request.body
    is_json = "json" in request.headers.get("Content-Type", "")  # a file is sent without a type
    if _THREAD.complete is None or not isinstance(body, str | bytes) or not is_json:
        return
    try:
        document = json.loads(body)
    except ValueError:
        return
    if isinstance(document, dict):
        request.prepare_body(json.dumps(_THREAD.complete(document)).encode("ascii"), None)


def _read(raw: urllib3.BaseHTTPResponse, headers: Mapping[str, str]) -> bytes:
    """Cut at ``MAX_BYTES``; of a body that breaks off, what came of it."""
    body = bytearray()
    with closing(raw), suppress(urllib3.exceptions.HTTPError, OSError):
        while len(body) < MAX_BYTES and (chunk := raw.read(65_536, decode_content=False)):
            body += chunk
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return bytes(body[:MAX_BYTES])
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BYTES)  # gzip or zlib
    except zlib.error:
        return b""


class KeptSession(requests.Session):
    """What the functions of ``requests`` use on the thread that lends it: its connections serve several requests, and
    no cookie is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._idle_until = 0.0

    def __exit__(self, *_: object) -> None:
        """Keep the connections."""

    @contextmanager
    def lent(self) -> Iterator[None]:
        if _CLOCK.monotonic() > self._idle_until:
            self.close()
        _LENT.session = self
        try:
            yield
        finally:
            _LENT.session = None
            self._idle_until = _CLOCK.monotonic() + _IDLE_SECONDS


_LENT = threading.local()


def install_bounds() -> None:
    sessions: Any = requests.sessions
    sessions.HTTPAdapter = BoundedAdapter
    sessions.Session = lambda: getattr(_LENT, "session", None) or requests.Session()
    sessions.get_environ_proxies = lambda *_, **_more: {}  # the adapter asks for them
