"""The native webhook: one signed POST a notification, as Standard Webhooks describes it. 2xx is a receipt. Redirects
are not followed, since they would carry body and signature elsewhere. Groups are posted in Alertmanager's webhook
format, version 4; source: its documentation of ``webhook_config`` and replies of 0.25 and 0.32."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache, partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.abc import ResolveResult
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from tocsin import __version__
from tocsin.config.model import Channel, Tls
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.result import Cause, SendResult, failed, parse_retry_after, refused, result_of_status, unknown
from tocsin.kit.clock import Clock, isoformat
from tocsin.kit.files import SingleFlight
from tocsin.kit.mask import mask, secrets_of, secrets_of_header
from tocsin.kit.proxy import environment_proxy
from tocsin.model.alert import Alert
from tocsin.model.cloudevent import Json, to_cloudevent
from tocsin.model.decision import DecisionReason
from tocsin.model.errors import error_text
from tocsin.model.event import Event
from tocsin.model.labels import common_labels
from tocsin.model.notification import EventNotice, GroupNotice, Notification, SummaryNotice
from tocsin.model.run import Details, RunKey

MAX_ALERTS = 200
_CONCURRENCY_A_WORKER: Final = 16
_REPLY: Final = 300  # characters of a reply that are kept; more are read, so that no secret is cut before it is masked
_IDLE: Final = 10.0  # seconds for which a connection is kept
_REPLY_SECONDS: Final = 2.0  # for the beginning of a reply's body, once its status is known
_SECRET_PREFIX: Final = "whsec_"
_OF_A_BODY: Final = frozenset(
    ("content-length", "content-type", "transfer-encoding", "webhook-id", "webhook-signature", "webhook-timestamp")
)
_LINE_END: Final = re.compile(r"[\r\n\0]")


class BadSecret(ValueError):
    """The webhook's secret begins with whsec_ but what follows is not base64."""


class PrivateAddress(OSError):
    """The webhook's host has a private address, and the channel does not allow those."""


class _NotSent(Exception):
    """Nothing was sent; what that means."""

    def __init__(self, result: SendResult) -> None:
        self.result = result


class Webhook:
    """Requests go over the connections of aiohttp, which knows TLS, proxies and name resolution, but are written and
    read here: most of what its session does for a request is of no use to a POST that follows no redirect."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self.concurrency = _CONCURRENCY_A_WORKER * channel.workers
        self._channel = channel
        self._clock = clock
        self._connector: aiohttp.TCPConnector | None = None
        self._opening = asyncio.Lock()
        self._tls = SingleFlight(partial(ssl_context, channel.tls), "reading the TLS files")
        self._target: _Target | None = None
        seconds = channel.timeout.total_seconds()
        # At the deadline the sender counts the outcome as unknown; a send ends by itself at twice that.
        self._seconds = 2 * seconds
        self._connect_timeout = aiohttp.ClientTimeout(total=None, connect=self._seconds, sock_connect=seconds)

    async def send(self, outgoing: Outgoing) -> SendResult:
        notification = outgoing.notification
        payload = build_payload(notification, outgoing.facts.details, outgoing.config.http.external_url)
        try:
            target = await self._read_target()
            return await self._post(self._connector or await self._open(), target, payload, notification.id)
        except _NotSent as error:
            return error.result
        except (aiohttp.ClientError, HttpProcessingError, OSError, UnicodeError) as error:
            return result_of_error(error)

    async def close(self) -> None:
        if self._target is not None:
            self._target.close_idle()
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    async def _read_target(self) -> "_Target":
        """The address with the secrets as they are now; made anew only when one of them has changed."""
        channel, known = self._channel, self._target
        try:
            address = (await channel.webhook.read()).strip() if channel.webhook else ""
            secret = (await channel.hmac_secret.read()).strip() if channel.hmac_secret else None
            own = {name: (await value.read()).strip() for name, value in channel.headers.items()}
        except OSError as error:
            raise _NotSent(failed(f"cannot read a secret of the channel: {error.strerror or error}")) from None
        if known is None or (known.address, known.secret, known.own) != (address, secret, own):
            before = known
            try:
                known = self._target = _Target(address, secret, own, channel)
            except BadSecret as error:
                raise _NotSent(refused(str(error), cause=Cause.SIGNING_SECRET)) from None
            except PrivateAddress as error:
                raise _NotSent(refused(str(error), cause=Cause.URL)) from None
            except ValueError as error:
                raise _NotSent(_unusable(error)) from None
            if before is not None and before.request.connection_key == known.request.connection_key:
                known.idle = before.idle
            elif before is not None:
                before.close_idle()
        return known

    async def _open(self) -> aiohttp.TCPConnector:
        async with self._opening:
            if self._connector is None:
                try:
                    context = await self._tls.wait()
                except OSError as error:  # ssl.SSLError and TimeoutError are among them
                    note = f"the TLS files of the channel cannot be used: {error.strerror or error}"
                    raise _NotSent(failed(note, cause=Cause.TLS)) from None
                by_name = self._channel.allow_private or self._channel.proxy is not None
                resolver = ThreadedResolver() if by_name else _PublicOnly()
                self._connector = aiohttp.TCPConnector(ssl=context, limit=0, resolver=resolver)
            return self._connector

    async def _post(
        self, connector: aiohttp.TCPConnector, target: "_Target", payload: "Payload", id_: str
    ) -> SendResult:
        connection = target.take_idle(self._clock.monotonic())
        if connection is None:
            try:
                connection = await connector.connect(target.request, [], self._connect_timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            raise aiohttp.ServerDisconnectedError
        timer = asyncio.get_running_loop().call_later(self._seconds, protocol.set_exception, TimeoutError())
        try:
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            transport.write(target.write_request(payload, id_, self._clock.now()))
            reply, content = await protocol.read()
            while reply.code < 200 and reply.code != HTTPStatus.SWITCHING_PROTOCOLS:
                reply, content = await protocol.read()
            if 200 <= reply.code < 300:
                length = reply.headers.get("Content-Length", "")
                if length.isdecimal() and len(length) < 4 and 0 < int(length) <= _REPLY:
                    await _read_beginning(reply, content)  # a connection with an unread body cannot be used again
                return result_of_status(reply.code)
            text = mask(await _read_beginning(reply, content), target.secrets)
            wait = parse_retry_after(reply.headers.get("Retry-After"), self._clock.now())
            return result_of_status(reply.code, text[:_REPLY], wait)
        except BaseException:
            connection.close()
            raise
        finally:
            timer.cancel()
            if connection.transport is not None and not protocol.should_close:
                target.idle.append((self._clock.monotonic(), connection))
            else:
                connection.close()


def result_of_error(error: Exception) -> SendResult:
    """What it means that a request ended with one of aiohttp's errors, an ``OSError`` or, of a host's name, a
    ``UnicodeError``."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            if isinstance(error.os_error, PrivateAddress):
                return refused(str(error.os_error), cause=Cause.URL)
            return failed(f"the name of the host cannot be resolved: {_explain(error)}", cause=Cause.DNS)
        case aiohttp.ConnectionTimeoutError():
            return failed("no connection in time", cause=Cause.TIMEOUT)
        case TimeoutError():
            return unknown("no answer in time; it may have arrived")
        case aiohttp.ClientSSLError():
            return failed(f"TLS: {_explain(error)}", cause=Cause.TLS)
        case aiohttp.InvalidURL() | UnicodeError():
            return _unusable(error)
    return failed(f"{type(error).__name__}: {_explain(error)}", cause=Cause.CONNECTION)


def _unusable(error: ValueError) -> SendResult:
    note = f"the address or a header of the channel cannot be used ({type(error).__name__})"
    return refused(note, cause=Cause.URL)


class _Target:
    """Where the requests of a channel go, and what is the same in all of them. Raises ``BadSecret``, ``PrivateAddress``
    and ``ValueError``."""

    def __init__(self, address: str, secret: str | None, own: dict[str, str], channel: Channel) -> None:
        self.address, self.secret, self.own = address, secret, own
        self._hmac = None if secret is None else hmac.new(signing_key(secret), digestmod=hashlib.sha256)
        url = URL(address)
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise aiohttp.InvalidURL(url)
        if not channel.allow_private:
            refuse_private_host(url.host or "")
        names = {name.lower() for name in own}
        if "authorization" in names and (url.raw_user or url.raw_password):
            raise ValueError("two logins")
        proxy = channel.proxy or env_proxy(url)
        defaults = {"User-Agent": f"tocsin/{__version__}", "Accept-Encoding": "identity"}
        headers = {name: value for name, value in defaults.items() if name.lower() not in names} | own
        # aiohttp finds a connection by it, and adds the headers Host and Accept and those of logins.
        self.request = aiohttp.ClientRequest(
            "POST", url, headers=headers, proxy=URL(proxy) if proxy else None, loop=asyncio.get_running_loop()
        )
        self._path = str(url.with_user(None).with_fragment(None)) if proxy and url.scheme == "http" else url.raw_path_qs
        self._head = self._write_head()
        self.idle: list[tuple[float, Connection]] = []  # since when; connector's own keeping costs as much as a write
        self.secrets = [*secrets_of(address), *secrets_of(channel.proxy or ""), secret or ""]
        self.secrets += [part for value in own.values() for part in secrets_of_header(value)]

    def take_idle(self, now: float) -> Connection | None:
        while self.idle:
            since, connection = self.idle.pop()
            if connection.transport is not None and not connection.transport.is_closing() and now < since + _IDLE:
                return connection
            connection.close()
        return None

    def close_idle(self) -> None:
        while self.idle:
            self.idle.pop()[1].close()

    def _write_head(self) -> str:
        """The request line, and the headers that do not depend on the body."""
        headers = self.request.headers.items()
        lines = [f"{name}: {value}" for name, value in headers if name.lower() not in _OF_A_BODY]
        if any(map(_LINE_END.search, lines)):
            raise ValueError("a header has more than one line")
        return "\r\n".join((f"POST {self._path} HTTP/1.1", *lines, ""))

    def write_request(self, payload: "Payload", id_: str, now: datetime) -> bytes:
        """The whole request, with the headers of Standard Webhooks; a signature only with a secret."""
        timestamp, body = str(int(now.timestamp())), payload.body
        # A connection to a proxy adds the login there.
        head = self._head if self.request.proxy is None else self._write_head()
        head += f"Content-Type: {payload.content_type}\r\nContent-Length: {len(body)}\r\n"
        head += f"webhook-id: {id_}\r\nwebhook-timestamp: {timestamp}\r\n"
        if self._hmac is not None:
            signature = self._hmac.copy()
            signature.update(f"{id_}.{timestamp}.".encode() + body)
            head += f"webhook-signature: v1,{base64.b64encode(signature.digest()).decode()}\r\n"
        return f"{head}\r\n".encode() + body


async def _read_beginning(reply: RawResponseMessage, content: aiohttp.StreamReader) -> str:
    """The beginning of an answer, as text; nothing of one that is compressed though that was not requested."""
    if reply.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        return ""
    try:
        async with asyncio.timeout(_REPLY_SECONDS):
            return (await content.read(4 * _REPLY)).decode("utf-8", "replace")
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


@lru_cache(maxsize=256)
def env_proxy(url: URL) -> str | None:
    """Cached, since it is needed for every request."""
    return environment_proxy(url.scheme, url.host or "", url.port)


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


class _PublicOnly(ThreadedResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await super().resolve(host, port, family)
        for result in results:
            refuse_private_host(result["host"])
        return results


def _explain(error: Exception) -> str:
    """What went wrong, without the address, which may hold a secret."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "the connection ended early" if isinstance(error, aiohttp.ServerDisconnectedError) else ""


_encode_utf8 = msgspec.json.Encoder().encode
_REASONS: Mapping[str, str] = {  # in Alertmanager's words
    DecisionReason.FIRST: "first notification",
    DecisionReason.NEW_ALERTS: "new alerts added",
    DecisionReason.REPEAT: "repeat interval elapsed",
}


class Payload(NamedTuple):
    content_type: str
    body: bytes


def build_payload(notification: Notification, details: Mapping[RunKey, Details], external_url: str | None) -> Payload:
    """The body for this notification, in ASCII: what is not is escaped, so that no name can break it."""
    document: Json
    content_type = "application/cloudevents+json"
    match notification.notice:
        case EventNotice(event=event):
            document = _event_document(event, details)
        case GroupNotice() as group:
            document = _group_document(group, details, external_url or "")
            content_type = "application/json"
        case SummaryNotice() as summary:
            document = {
                "specversion": "1.0",
                "id": notification.id,
                "type": "tocsin.summary",
                "source": f"/nodes/{quote(summary.node, safe='')}",
                "time": isoformat(summary.until),
                "datacontenttype": "application/json",
                "data": {
                    "node": summary.node,
                    "since": isoformat(summary.since),
                    "until": isoformat(summary.until),
                    "runs_by_outcome": dict(summary.runs_by_outcome),
                    "worst": [_event_document(event, details) for event in summary.worst],
                },
            }
    try:
        body = _encode_utf8(document)
    except UnicodeEncodeError:
        body = b""
    if not body or b"\\u0000" in body:
        document = _readable(document)
    elif body.isascii():
        return Payload(content_type, body)
    return Payload(content_type, json.dumps(document, separators=(",", ":")).encode("ascii"))


def _readable(value: Json) -> Json:
    """Without NULs and halves of signs: JSON can write them, and most receivers cannot read them."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {str(_readable(name)): _readable(part) for name, part in value.items()}
    return [_readable(part) for part in value] if isinstance(value, list) else value


def _event_document(event: Event, details: Mapping[RunKey, Details]) -> Json:
    return to_cloudevent(event, details.get(event.run.key) if event.run else None)


def _group_document(group: GroupNotice, details: Mapping[RunKey, Details], external_url: str) -> Json:
    annotations = [_annotations(alert, details) for alert in group.alerts]
    alerts: list[Json] = [
        {
            "status": "firing" if alert.firing else "resolved",
            "labels": dict(alert.labels),
            "annotations": dict(own),
            "startsAt": isoformat(alert.starts_at),
            "endsAt": isoformat(alert.ends_at) if alert.ends_at else "0001-01-01T00:00:00Z",
            "generatorURL": alert.annotations.get("run_url", ""),
            "fingerprint": alert.fingerprint,
        }
        for alert, own in zip(group.alerts[:MAX_ALERTS], annotations, strict=False)
    ]
    reason = _REASONS.get(group.reason, "unknown")
    if group.reason == DecisionReason.RESOLVED:
        reason = "some alerts resolved" if group.firing else "all alerts resolved"
    return {
        "version": "4",
        "groupKey": group.group_key,
        "truncatedAlerts": group.truncated + len(group.alerts) - len(alerts),
        "status": "firing" if group.firing else "resolved",
        "receiver": group.receiver,
        "notification_reason": reason,
        "groupLabels": dict(group.group_labels),
        "commonLabels": dict(common_labels([alert.labels for alert in group.alerts])),
        "commonAnnotations": dict(common_labels(annotations)),
        "externalURL": external_url,
        "alerts": alerts,
    }


def _annotations(alert: Alert, details: Mapping[RunKey, Details]) -> dict[str, str]:
    """The alert's own, with what became known after it fired."""
    read = details.get(alert.run) if alert.run else None
    later = {
        "first_error": error_text(read.error) if read and read.error else "",
        "failed_step": (read.error.step if read and read.error else None) or "",
        "count": str(alert.count),
        "end_reason": alert.end_reason or "",
    }
    return {name: value for name, value in later.items() if value} | dict(alert.annotations)
