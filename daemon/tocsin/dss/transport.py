"""The one place of this package that talks to the network.

``Transport.send`` brings one ``Request`` to DSS and its reply back, with bounds on everything: the time to connect,
the time of a whole attempt, the size of a reply. Reads that failed in passing are tried again, changes never. Each
attempt is reported to ``on_request`` once; whatever a reply provokes becomes a ``DSSError`` here and nowhere else.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import aiohttp
from multidict import CIMultiDict
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)
from yarl import URL

from tocsin.dss.credentials import TLS, Auth, BadCredentials, TLSContexts
from tocsin.dss.errors import DSSError, DSSInvalidReply, DSSThrottled, DSSUnauthorized, DSSUnreachable
from tocsin.dss.wire import MIB, Reply, Request, RequestReport, read, retry_after, server_date, too_large
from tocsin.kit.clock import Clock, SystemClock
from tocsin.kit.mask import mask, secrets_of, secrets_of_header
from tocsin.kit.proxy import environment_proxy
from tocsin.kit.texts import storable

T = TypeVar("T")
API_BASE = "/dip/publicapi"
_CHUNK = 64 * 1024
_LONGEST_TAILED = 1024 * MIB  # read of a text of which only the end is kept
_MAX_REDIRECTS = 5
_LONGEST_RETRY_AFTER = 10.0  # seconds; a server that asks for more gets no retry from here
_CLOCKS_DIFFER = timedelta(days=366)
_MOST_ERROR = 128 * 1024  # bytes of an error that are read
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Transport:
    """A pool of connections to one DSS. Belongs to the event loop that first uses it."""

    def __init__(
        self,
        url: str,
        auth: Auth,
        *,
        headers: Mapping[str, str] | None = None,
        tls: TLS | None = None,
        proxy: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        retries: int = 2,
        max_reply_bytes: int = 64 * MIB,
        max_connections: int = 32,
        user_agent: str = "tocsin-dss",
        on_request: Callable[[RequestReport], None] | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``url`` may hold a path, where a reverse proxy serves DSS below one; ``timeout`` is for one whole attempt,
        in seconds. ``proxy`` None means HTTP(S)_PROXY and NO_PROXY, an empty one means none at all. ``on_request``
        must not raise. Raises ``ValueError`` for a URL that cannot be one of DSS."""
        self.base = _base(url)
        self._auth = auth
        self._headers = CIMultiDict(headers or {})
        self._headers["User-Agent"] = user_agent
        for name, value in self._headers.items():
            if not (name.isascii() and name.isprintable() and value.isprintable()):
                raise ValueError(f"the header {name!r} holds characters that no HTTP header can carry")
        self._tls = tls or TLS()
        self._contexts: TLSContexts | None = None
        self._proxy = _proxy(_proxy_from_environment(self.base) if proxy is None else proxy)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retries = retries
        self._max_reply_bytes = max_reply_bytes
        self._max_connections = max_connections
        self._on_request = on_request or (lambda report: None)
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Close all connections; further requests are a ``RuntimeError``."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(self, request: Request[T]) -> T:
        """The parsed reply. Raises ``DSSError``."""
        if not (self._retries and request.repeatable):
            return await self._attempt(request)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(1 + self._retries),
            wait=_pause,
            retry=retry_if_exception(_worth_retrying),
            sleep=self._sleep,
            reraise=True,
        )
        return await retrying(self._attempt, request)

    async def _attempt(self, request: Request[T]) -> T:
        session = self._open()
        began = self._clock.monotonic()
        reply: Reply | None = None
        error: DSSError | None = None
        try:
            headers, context = await self._prepare(request)
            reply = await self._exchange(session, request, headers, context)
            return read(request, reply, self._clock.now())
        except DSSError as caught:
            error = caught
            raise
        except Exception as caught:  # one request is one unit of work: what no rule above foresaw is its failure
            reason = f"{type(caught).__name__}: {caught}"
            error = DSSInvalidReply(reason, operation=request.operation, url=str(self.base))
            raise error from caught
        finally:
            if reply is not None or error is not None:  # else it was cancelled, and came to nothing
                self._on_request(self._report(request, reply, error, self._clock.monotonic() - began))

    async def _prepare(self, request: Request[T]) -> tuple[CIMultiDict[str], ssl.SSLContext | bool]:
        """Headers and TLS for this moment's secret and certificates."""
        try:
            name, value = await self._auth.header()
        except BadCredentials as bad:
            raise DSSUnauthorized(str(bad), operation=request.operation, url=str(self.base)) from bad
        headers = self._headers.copy()
        headers[name] = value
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        if self.base.scheme != "https":
            return headers, True
        self._contexts = self._contexts or TLSContexts(self._tls)
        try:
            return headers, await self._contexts.current()
        except BadCredentials as bad:
            raise DSSUnreachable(str(bad), operation=request.operation, url=str(self.base)) from bad

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this DSS client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
                # A session cookie would outlive the secret that it was given for.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        request: Request[T],
        headers: CIMultiDict[str],
        context: ssl.SSLContext | bool,
    ) -> Reply:
        url = URL(f"{self.base}{request.target}", encoded=True)
        shown = str(url.with_query(None))
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(_MAX_REDIRECTS):
                    async with session.request(
                        request.method,
                        url,
                        data=request.body,
                        headers=headers,
                        ssl=context,
                        proxy=self._proxy,
                        allow_redirects=False,
                    ) as response:
                        onward = _redirect(request, url, response)
                        if onward is None:
                            return self._quiet(await self._reply(request, response, shown), headers)
                    url = onward
                raise DSSInvalidReply("too many redirects", operation=request.operation, url=shown)
        except TimeoutError:  # aiohttp's own time limits are among them
            reason = f"no complete answer within {self._timeout:g} s (connecting: {self._connect_timeout:g} s)"
            raise DSSUnreachable(reason, timed_out=True, operation=request.operation, url=shown) from None
        except aiohttp.ClientHttpProxyError as error:  # its text shows the proxy's address, password and all
            reason = f"the proxy answered {error.status} {error.message}"
            raise DSSUnreachable(reason, operation=request.operation, url=shown) from None
        except aiohttp.ClientResponseError as error:
            reason = f"not HTTP: {error.message}"
            raise DSSInvalidReply(reason, operation=request.operation, url=shown) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DSSUnreachable(reason, operation=request.operation, url=shown) from error

    async def _reply(self, request: Request[T], response: aiohttp.ClientResponse, shown: str) -> Reply:
        """The whole body, within the cap, or only its end if the request asks for a tail. The cap counts what comes
        out of the decompressor, which aiohttp feeds by small pieces."""
        body = bytearray()
        tail = request.tail if response.status < 400 else None
        cap = min(self._max_reply_bytes, request.max_bytes) if tail is None else _LONGEST_TAILED
        received = 0
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            received += len(chunk)
            if received > cap:
                begun = Reply(response.status, bytes(body[:_CHUNK]), response.headers, shown)
                raise too_large(request.operation, begun, f"larger than {cap} bytes")
            if tail is not None and len(body) > tail + 16 * _CHUNK:
                del body[:-tail]
        kept = body if tail is None else body[-tail:]
        return Reply(response.status, bytes(kept), response.headers, shown)

    def _quiet(self, reply: Reply, headers: Mapping[str, str]) -> Reply:
        """An error without the request's secrets, which some gateways repeat: its words go to logs and rows."""
        if reply.status < 400:
            return reply
        named = {name: value for name, value in headers.items() if name not in ("User-Agent", "Content-Type")}
        sent = [value for value in named.values() if len(value) >= 8]  # shorter ones may be words of the answer itself
        sent.append(self._auth.sent_in(headers))
        shown = reply.body[:_MOST_ERROR].decode("latin-1")
        words = mask(shown, [part for value in sent for part in secrets_of_header(value)])
        return replace(reply, body=words.encode("latin-1"))

    def _report(
        self, request: Request[T], reply: Reply | None, error: DSSError | None, seconds: float
    ) -> RequestReport:
        status = reply.status if reply else error.status if error else None
        match error:
            case DSSUnreachable():
                code = "timeout" if error.timed_out else "unreachable"
            case DSSInvalidReply():
                code = "invalid"
            case DSSUnauthorized() if status is None:
                code = "no_secret"  # nothing was sent
            case _:
                code = str(status)
        headers: Mapping[str, str] = reply.headers if reply else {}
        return RequestReport(
            operation=request.operation,
            method=request.method,
            status=status,
            code=code,
            seconds=seconds,
            server_date=_plausible(server_date(headers), self._clock.now()),
            retry_after=retry_after(headers, self._clock.now()),
            dss_version=storable(headers.get("DSS-Version", ""), 100) or None,
            error=error,
        )


def _base(url: str) -> URL:
    """The API's base: the host as given, its path normalised, and DSS's own prefix."""
    parsed = URL(url.strip())
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"a DSS URL begins with http:// or https:// and a host: {mask(url, secrets_of(url))!r}")
    try:
        parsed.host.encode("idna")
    except UnicodeError:
        raise ValueError("a DSS URL names a host, and this one cannot be one") from None
    if parsed.user is not None or parsed.password is not None:
        raise ValueError("a DSS URL holds no user or password; the key is given apart")
    if parsed.query_string or parsed.fragment:
        raise ValueError(f"a DSS URL ends with its host or path: {mask(url, secrets_of(url))!r}")
    path = parsed.raw_path.rstrip("/")
    return URL(f"{parsed.origin()}{path}{API_BASE}", encoded=True)


def _proxy(address: str) -> URL | None:
    """The proxy at an address; an empty one is none. Raises ``ValueError`` without showing the address's password."""
    if not address:
        return None
    proxy = URL(address if "://" in address else f"http://{address}")
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError("a proxy's address is a host, or http:// or https:// and a host")
    return proxy


def _proxy_from_environment(base: URL) -> str:
    """HTTP(S)_PROXY and NO_PROXY, read once. aiohttp's own ``trust_env`` also sends ~/.netrc's passwords."""
    return environment_proxy(base.scheme, base.host or "", base.port) or ""


def _redirect(request: Request[T], url: URL, response: aiohttp.ClientResponse) -> URL | None:
    """Where a redirected read goes on; None to take the response as it is. Secrets never leave for another host."""
    location = response.headers.get("Location")
    if request.method != "GET" or response.status not in _REDIRECTS or not location:
        return None
    try:  # addresses without a host, as mailto: and file:///, have no origin
        onward = url.join(URL(location, encoded=True))
        same = onward.origin() == url.origin()
        upgrade = url.scheme == "http" and onward.scheme == "https" and onward.host == url.host
    except ValueError:
        return None
    return onward if same or upgrade else None


def _plausible(date: datetime | None, now: datetime) -> datetime | None:
    """A server's Date unless it is a year away from ours: no clock is so wrong, and the calendar ends somewhere."""
    return date if date is not None and abs(date - now) < _CLOCKS_DIFFER else None


def _worth_retrying(error: BaseException) -> bool:
    if isinstance(error, DSSThrottled) and (error.retry_after or 0) > _LONGEST_RETRY_AFTER:
        return False
    return isinstance(error, DSSError) and error.transient


_backoff = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0, 0.2)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, DSSThrottled) else None
    return max(asked or 0.0, _backoff(state))
