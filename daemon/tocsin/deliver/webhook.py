"""The native webhook: one signed POST a notification, as Standard Webhooks describes it.

2xx is a receipt; redirects are not followed, since they would carry the body and its signature elsewhere.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from tocsin import __version__
from tocsin.config.model import Channel, Tls
from tocsin.deliver.payload import payload
from tocsin.deliver.transport import Parcel
from tocsin.deliver.verdict import Cause, SendResult, failed, of_status, parse_retry_after, refused, unknown
from tocsin.kit.clock import Clock
from tocsin.kit.files import SingleFlight
from tocsin.kit.mask import mask, secrets_of, secrets_of_header
from tocsin.kit.proxy import environment_proxy

_LANES_A_WORKER: Final = 16
_SAID: Final = 300  # characters of a reply that are kept; more are read, so that no secret is cut before it is masked
_SAID_SECONDS: Final = 2.0  # for the beginning of a reply's body, once its status is known
_SECRET_PREFIX: Final = "whsec_"


class BadSecret(ValueError):
    """The webhook's secret begins with whsec_ but what follows is not base64."""


class PrivateAddress(OSError):
    """The webhook's host has a private address, and the channel does not allow those."""


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    headers: dict[str, str]
    body: bytes
    secret: str | None  # that signs it


class UnreadableTls(Exception):
    """A certificate file cannot be read or used; the text says why."""


class Webhook:
    """The transport of one native webhook channel."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._tls = SingleFlight(partial(ssl_context, channel.tls), "reading the TLS files")

    @property
    def concurrency(self) -> int:
        return _LANES_A_WORKER * self._channel.workers

    async def send(self, parcel: Parcel) -> SendResult:
        try:
            request = await self._request(parcel)
        except BadSecret as error:
            return refused(str(error), cause=Cause.SIGNING_SECRET)
        except OSError as error:
            return failed(f"cannot read a secret of the channel: {error.strerror or error}")
        try:
            return await self._post(request)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            return refused(
                f"the webhook's address or a header of it cannot be used ({type(error).__name__})", cause=Cause.URL
            )
        except PrivateAddress as error:
            return refused(str(error), cause=Cause.URL)
        except UnreadableTls as error:
            return failed(str(error), cause=Cause.TLS)
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, PrivateAddress):
                return refused(str(error.os_error), cause=Cause.URL)
            return failed(f"the name of the host cannot be resolved: {_words(error)}", cause=Cause.DNS)
        except aiohttp.ConnectionTimeoutError:
            return failed("no connection in time", cause=Cause.TIMEOUT)
        except TimeoutError:
            return unknown("no answer in time; it may have arrived")
        except aiohttp.ClientSSLError as error:
            return failed(f"TLS: {_words(error)}", cause=Cause.TLS)
        except (aiohttp.ClientError, OSError) as error:
            return failed(f"{type(error).__name__}: {_words(error)}", cause=Cause.CONNECTION)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(self, parcel: Parcel) -> "_Request":
        channel = self._channel
        if channel.webhook is None:
            raise BadSecret("the channel has no webhook address")
        url = (await channel.webhook.read()).strip()
        secret = (await channel.hmac_secret.read()).strip() if channel.hmac_secret else None
        made = payload(parcel.notification, parcel.facts.details, parcel.config.http.external_url)
        own = {name: (await value.read()).strip() for name, value in channel.headers.items()}
        headers = {"User-Agent": f"tocsin/{__version__}", "Accept-Encoding": "identity"}
        headers |= own | {"Content-Type": made.content_type}
        key = None if secret is None else signing_key(secret)
        headers |= standard_headers(parcel.notification.id, self._clock.now(), made.body, key)
        return _Request(url, headers, made.body, secret)

    async def _tls_context(self) -> ssl.SSLContext:
        """Raises ``UnreadableTls``."""
        try:
            return await self._tls.wait()
        except OSError as error:  # ssl.SSLError and TimeoutError are among them
            raise UnreadableTls(f"the TLS files of the channel cannot be used: {error.strerror or error}") from None

    def _secrets(self, request: "_Request") -> list[str]:
        """What a receiver might echo."""
        found = [*secrets_of(request.url), *secrets_of(self._channel.proxy or ""), request.secret or ""]
        return found + [part for name in self._channel.headers for part in secrets_of_header(request.headers[name])]

    async def _post(self, request: "_Request") -> SendResult:
        url = URL(request.url)
        if not self._channel.allow_private:
            refuse_private_host(url.host or "")
        async with self._opening:
            if self._session is None:
                self._session = _session(self._channel, await self._tls_context())
        async with self._session.post(
            url,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            proxy=self._channel.proxy or env_proxy(url),
        ) as reply:
            if 200 <= reply.status < 300:
                if reply.content_length and reply.content_length <= _SAID:
                    await _beginning(reply)  # a connection with an unread body cannot be used again
                return of_status(reply.status)
            said = mask(await _beginning(reply), self._secrets(request))
            wait = parse_retry_after(reply.headers.get("Retry-After"), self._clock.now())
            return of_status(reply.status, said[:_SAID], wait)


async def _beginning(reply: aiohttp.ClientResponse) -> str:
    """The beginning of an answer, as text; nothing of one that is compressed though that was not asked for."""
    if reply.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        return ""
    try:
        async with asyncio.timeout(_SAID_SECONDS):
            return (await reply.content.read(4 * _SAID)).decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError):
        return ""  # the status is the answer


def signing_key(secret: str) -> bytes:
    """The key of a secret: base64 after ``whsec_``, else its own bytes. Raises ``BadSecret``."""
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise BadSecret("the hmac secret begins with whsec_ but what follows is not base64") from None


def standard_headers(id_: str, now: datetime, body: bytes, key: bytes | None) -> dict[str, str]:
    """The headers of Standard Webhooks: delivery id, time in seconds, and the signature when there is a key."""
    timestamp = str(int(now.timestamp()))
    headers = {"webhook-id": id_, "webhook-timestamp": timestamp}
    if key is not None:
        signed = hmac.digest(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256)
        headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
    return headers


@lru_cache(maxsize=256)
def env_proxy(url: URL) -> str | None:
    """The proxy of the environment for this address; remembered, since it is asked for every request."""
    return environment_proxy(url.scheme, url.host or "", url.port)


def _session(channel: Channel, context: ssl.SSLContext) -> aiohttp.ClientSession:
    guarded = not channel.allow_private and channel.proxy is None
    connector = aiohttp.TCPConnector(ssl=context, limit=0, resolver=_PublicOnly() if guarded else ThreadedResolver())
    # The sender counts an answer as unknown at the deadline; a send ends by itself at twice that.
    timeout = aiohttp.ClientTimeout(
        total=2 * channel.timeout.total_seconds(), sock_connect=channel.timeout.total_seconds()
    )
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """The TLS settings of a channel. Reads files: not on the loop. Raises ``OSError``."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.client_cert_file:
        context.load_cert_chain(tls.client_cert_file, tls.client_key_file)
    return context


def refuse_private_host(host: str) -> None:
    """Raises ``PrivateAddress`` when the host is written as an address that is not public; names are for the resolver."""
    try:
        address = ip_address(host)
    except ValueError:
        return
    if not address.is_global or address.is_multicast:
        raise PrivateAddress("the webhook's address is private, and allow_private is off")


class _PublicOnly(AbstractResolver):
    """Resolves names as usual and refuses those that lead to an address that is not public."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for one in found:
            refuse_private_host(one["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


def _words(error: Exception) -> str:
    """What went wrong, without the address, which may hold a secret."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "the connection ended early" if isinstance(error, aiohttp.ServerDisconnectedError) else ""
