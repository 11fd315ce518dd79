"""The I/O of the client, and the only module that touches the network.

Everything is bounded: connecting, a whole attempt, the size of a reply. Reads that failed in passing are tried again,
changes never. Each attempt is reported to ``on_request`` once; whatever a reply provokes becomes a ``DSSError``.
"""

import asyncio
import base64
import inspect
import os
import ssl
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
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

from tocsin.dss.errors import DSSError, DSSInvalidReply, DSSThrottled, DSSUnauthorized, DSSUnreachable
from tocsin.dss.wire import MIB, ClientOptions, Reply, Request, RequestReport, http_date, invalid, read, retry_after
from tocsin.kit.files import SingleFlight, Version, version
from tocsin.kit.mask import mask, mask_tokens, secrets_of, secrets_of_header
from tocsin.kit.proxy import environment_proxy
from tocsin.kit.strings import storable

T = TypeVar("T")
API_BASE = "/dip/publicapi"
_CHUNK = 64 * 1024
_LONGEST_TAILED = 1024 * MIB  # read of a text of which only the end is kept
_MAX_REDIRECTS = 5
_LONGEST_RETRY_AFTER = 10.0  # seconds; a server that asks for more gets no retry from here
_CLOCKS_DIFFER = timedelta(days=366)
_MOST_ERROR = 128 * 1024  # bytes of an error that are read
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class TLSFiles:
    """How to trust DSS and, with a client certificate, how DSS trusts us."""

    def __init__(self, options: ClientOptions) -> None:
        pair = options.client_certificate
        cert, key = pair if isinstance(pair, tuple) else (pair, None)
        self._ca_file, self._cert_file, self._key_file = options.ca_file, cert, key
        self._verify = not options.no_check_certificate
        self._files = [file for file in (self._ca_file, self._cert_file, self._key_file) if file]
        self._versions: list[Version] | None = None
        self._context: ssl.SSLContext | bool = self._verify  # what aiohttp takes for "default" and "unchecked"
        self._reading = SingleFlight(self._read, "reading the TLS files")

    async def context(self) -> ssl.SSLContext | bool:
        """Read the files again if they changed. A pair that is only half written, or that cannot be read in time,
        leaves the former context in force until it fits. Raises ``DSSUnreachable`` if there was none."""
        if self._files:
            try:
                await self._reading.wait()
            except (OSError, ValueError) as error:  # ssl.SSLError and TimeoutError are OSErrors
                if self._versions is None:
                    raise DSSUnreachable(f"TLS files: {mask_tokens(str(error))}") from error
        return self._context

    def _read(self) -> None:
        versions = [version(os.stat(file)) for file in self._files]
        if versions == self._versions:
            return
        context = ssl.create_default_context(cafile=self._ca_file)
        if not self._verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._cert_file:
            # Without a password callback OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._cert_file, self._key_file, password=lambda: "")
        self._context, self._versions = context, versions


class HTTPTransport:
    """A pool of connections to one DSS. Belongs to the event loop that first uses it."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self.base = _base(options.host)
        self._proxy = _proxy(options.proxy, self.base)
        secrets = {"Basic": options.api_key, "Ticket": options.internal_ticket, "Bearer": options.jwt_bearer_token}
        auth = next(((scheme, secret) for scheme, secret in secrets.items() if secret is not None), None)
        if auth is None:
            raise ValueError("DSS wants credentials: an api_key, an internal_ticket or a jwt_bearer_token")
        self._scheme, self._secret = auth
        self._tls = TLSFiles(options)
        self._headers = CIMultiDict(options.extra_headers or {})
        self._headers["User-Agent"] = options.user_agent
        for name, value in self._headers.items():
            if not (name.isascii() and name.isprintable() and value.isprintable()):
                raise ValueError(f"the header {name!r} holds characters that no HTTP header can carry")
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Close all connections; further requests are a ``RuntimeError``."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(self, request: Request[T]) -> T:
        """The parsed reply. Raises ``DSSError``."""
        if not (self._options.retries and request.repeatable):
            return await self._attempt(request)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(1 + self._options.retries),
            wait=_pause,
            retry=retry_if_exception(_worth_retrying),
            sleep=self._options.sleep or asyncio.sleep,
            reraise=True,
        )
        return await retrying(self._attempt, request)

    async def _attempt(self, request: Request[T]) -> T:
        if self._closed:
            raise RuntimeError("this DSS client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._options.max_connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._options.connect_timeout),
                # A session cookie would outlive the secret that it was given for.
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        shown = f"{self.base}{request.target.partition('?')[0]}"
        began = self._options.clock.monotonic()
        reply: Reply | None = None
        error: DSSError | None = None
        try:
            reply = await self._exchange(self._session, request, shown)
            return read(request, reply, self._options.clock.now())
        except DSSError as caught:
            error = caught
            raise
        except Exception as caught:  # one request is one unit of work: what no rule above foresaw is its failure
            error = DSSInvalidReply(f"{type(caught).__name__}: {caught}")
            raise error from caught
        finally:
            if error is not None:
                error.operation, error.url = request.operation, error.url or shown
            if reply is not None or error is not None:  # else it was cancelled, and came to nothing
                self._report(request, reply, error, self._options.clock.monotonic() - began)

    async def _authorization(self) -> tuple[str, str, str]:
        """Name and value of the header for the next request, and the secret in it: the user name of Basic, a Bearer
        token, or a ticket in DSS's own header. Raises ``DSSUnauthorized``."""
        try:
            value = self._secret if isinstance(self._secret, str) else self._secret()
            secret = (await value if inspect.isawaitable(value) else value).strip()
        except (OSError, ValueError) as error:
            raise DSSUnauthorized(f"the secret cannot be read: {type(error).__name__}") from error
        if not secret:
            raise DSSUnauthorized("the secret is empty")
        if self._scheme == "Basic":
            return "Authorization", "Basic " + base64.b64encode(f"{secret}:".encode()).decode(), secret
        if not (secret.isascii() and secret.isprintable()):
            raise DSSUnauthorized("the secret holds characters that no HTTP header can carry")
        if self._scheme == "Bearer":
            return "Authorization", f"Bearer {secret}", secret
        return "X-DKU-APITicket", secret, secret

    async def _exchange(self, session: aiohttp.ClientSession, request: Request[T], shown: str) -> Reply:
        headers = self._headers.copy()
        name, value, secret = await self._authorization()
        headers[name] = value
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        context = await self._tls.context() if self.base.scheme == "https" else True
        url = URL(f"{self.base}{request.target}", encoded=True)
        try:
            async with asyncio.timeout(self._options.timeout):
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
                            return _mask_error(await self._read_reply(request, response, shown), headers, secret)
                    url = onward
                raise DSSInvalidReply("too many redirects")
        except TimeoutError:  # aiohttp's own time limits are among them
            reason = f"no complete answer within {self._options.timeout:g} s (connecting: {self._options.connect_timeout:g} s)"
            raise DSSUnreachable(reason, timed_out=True) from None
        except aiohttp.ClientHttpProxyError as error:  # its text shows the proxy's address, password and all
            raise DSSUnreachable(f"the proxy answered {error.status} {error.message}") from None
        except aiohttp.ClientResponseError as error:
            raise DSSInvalidReply(f"not HTTP: {error.message}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise DSSUnreachable(f"{type(error).__name__}: {error}") from error

    async def _read_reply(self, request: Request[T], response: aiohttp.ClientResponse, shown: str) -> Reply:
        """The body within the cap, which counts what comes out of the decompressor, or only the requested tail."""
        body = bytearray()
        tail = request.tail if response.status < 400 else None
        cap = min(self._options.max_reply_bytes, request.max_bytes) if tail is None else _LONGEST_TAILED
        received = 0
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            received += len(chunk)
            if received > cap:
                begun = Reply(response.status, bytes(body[:_CHUNK]), response.headers, shown)
                raise invalid(request.operation, begun, f"larger than {cap} bytes", too_large=True)
            if tail is not None and len(body) > tail + 16 * _CHUNK:
                del body[:-tail]
        return Reply(response.status, bytes(body if tail is None else body[-tail:]), response.headers, shown)

    def _report(self, request: Request[T], reply: Reply | None, error: DSSError | None, seconds: float) -> None:
        if self._options.on_request is None:
            return
        status = reply.status if reply else error.status if error else None
        code = str(status)
        if isinstance(error, DSSUnreachable):
            code = "timeout" if error.timed_out else "unreachable"
        elif isinstance(error, DSSInvalidReply):
            code = "invalid"
        elif isinstance(error, DSSUnauthorized) and status is None:
            code = "no_secret"  # nothing was sent
        headers: Mapping[str, str] = reply.headers if reply else {}
        now, date = self._options.clock.now(), http_date(headers.get("Date", ""))
        report = RequestReport(
            operation=request.operation,
            method=request.method,
            status=status,
            code=code,
            seconds=seconds,
            # No clock is a year wrong, and the calendar ends somewhere.
            server_date=date if date is not None and abs(date - now) < _CLOCKS_DIFFER else None,
            retry_after=retry_after(headers, now),
            dss_version=storable(headers.get("DSS-Version", ""), 100) or None,
            error=error,
        )
        self._options.on_request(report)


def _base(url: str) -> URL:
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
    return URL(f"{parsed.origin()}{parsed.raw_path.rstrip('/')}{API_BASE}", encoded=True)


def _proxy(address: str | None, base: URL) -> URL | None:
    """The proxy at an address; an empty one is none. None means HTTP(S)_PROXY and NO_PROXY, read once: aiohttp's own
    ``trust_env`` also sends ~/.netrc's passwords. Raises ``ValueError`` without showing the address's password."""
    if address is None:
        address = environment_proxy(base.scheme, base.host or "", base.port)
    if not address:
        return None
    proxy = URL(address if "://" in address else f"http://{address}")
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError("a proxy's address is a host, or http:// or https:// and a host")
    return proxy


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


def _mask_error(reply: Reply, headers: Mapping[str, str], secret: str) -> Reply:
    """An error without the request's secrets, which some gateways repeat: its words go to logs and rows."""
    if reply.status < 400:
        return reply
    sent = [value for name, value in headers.items() if name not in ("User-Agent", "Content-Type")]
    sent = [*(value for value in sent if len(value) >= 8), secret]  # shorter ones may be words of the answer itself
    shown = reply.body[:_MOST_ERROR].decode("latin-1")
    masked = mask(shown, [part for value in sent for part in secrets_of_header(value)])
    return replace(reply, body=masked.encode("latin-1"))


def _worth_retrying(error: BaseException) -> bool:
    if isinstance(error, DSSThrottled) and (error.retry_after or 0) > _LONGEST_RETRY_AFTER:
        return False
    return isinstance(error, DSSError) and error.transient


_backoff = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0, 0.2)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, DSSThrottled) else None
    return max(asked or 0.0, _backoff(state))
