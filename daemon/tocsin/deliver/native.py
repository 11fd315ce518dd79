"""The services that people are woken by, each by its own API: PagerDuty, Opsgenie and Slack.

An incident is opened, acknowledged and closed under one key. A Slack message is posted once for a group or a run and then
edited; where it stands is remembered beside the receipt, so this survives a restart. What a request says is made
elsewhere (``incidents``, ``slack_blocks``)."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import structlog
from yarl import URL

from tocsin import __version__
from tocsin.config.model import Channel, MessageFormat, OpsgenieConfig, PagerDutyConfig, SlackConfig
from tocsin.config.secrets import Secret
from tocsin.deliver.incidents import (
    IncidentRequest,
    opsgenie_outcome,
    opsgenie_requests,
    opsgenie_result,
    pagerduty_events,
    pagerduty_result,
)
from tocsin.deliver.message import Message, build_message
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.render import Renderer
from tocsin.deliver.result import (
    PERMANENT_ERRORS,
    Cause,
    SendResult,
    delivered,
    failed,
    json_object,
    parse_retry_after,
    refused,
    result_of_status,
)
from tocsin.deliver.slack_blocks import news, run_news, slack_body
from tocsin.deliver.webhook import env_proxy, result_of_error, ssl_context
from tocsin.kit.clock import Clock
from tocsin.kit.files import SingleFlight
from tocsin.model.event import END_EVENTS
from tocsin.model.notification import AttemptOutcome, EventNotice, GroupNotice

log = structlog.get_logger(__name__)

_ANSWER = 64 * 1024  # bytes of an answer that are read
_HISTORY = 50  # messages of a Slack channel that are searched for one whose answer was lost
_METADATA = "tocsin_notification"
_OPSGENIE_PAUSES = (0.05, 0.3, 1.0)  # seconds before each question what became of a request


class HttpAnswer(NamedTuple):
    status: int
    body: str  # its beginning
    retry_after: timedelta | None
    headers: Mapping[str, str]


class JsonClient:
    """JSON over HTTP to one service of a channel: its TLS settings, its proxy, no redirects, bounded answers."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self.channel = channel
        self.clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._tls = SingleFlight(partial(ssl_context, channel.tls), "reading the TLS files")

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: Any = None) -> HttpAnswer:
        """Raises ``aiohttp.ClientError``, ``OSError`` and, of a host's name, ``UnicodeError``. ``aiohttp.InvalidURL`` is about
        the address or the proxy's."""
        session = await self._open()
        data = None if body is None else json.dumps(body).encode("ascii")
        headers = dict(headers) if data is None else {"Content-Type": "application/json; charset=utf-8", **headers}
        try:
            proxy = self.channel.proxy or env_proxy(URL(url))
        except ValueError as error:
            raise aiohttp.InvalidURL(url) from error
        async with session.request(
            method, url, data=data, headers=headers, proxy=proxy, allow_redirects=False
        ) as response:
            raw = bytearray()
            while len(raw) < _ANSWER and (part := await response.content.read(_ANSWER - len(raw))):
                raw += part
            text = raw.decode("utf-8", "replace")
            wait = parse_retry_after(response.headers.get("Retry-After"), self.clock.now())
            return HttpAnswer(response.status, text, wait, response.headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                seconds = self.channel.timeout.total_seconds()
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=await self._tls.wait(), limit=0),
                    timeout=aiohttp.ClientTimeout(total=2 * seconds, sock_connect=seconds),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"User-Agent": f"tocsin/{__version__}", "Accept-Encoding": "identity"},
                    auto_decompress=False,
                )
            return self._session


class NativeChannel:
    """What the three have in common: a secret that is read for each send, and errors that become results."""

    def __init__(self, channel: Channel, clock: Clock, secret: Secret | None) -> None:
        self.concurrency = channel.workers
        self.client = JsonClient(channel, clock)
        self._secret = secret

    async def send(self, outgoing: Outgoing) -> SendResult:
        try:
            secret = (await self._secret.read()).strip() if self._secret is not None else ""
        except OSError as error:
            return failed(f"cannot read a secret of the channel: {error.strerror or error}")
        if any(map(str.isspace, secret)):
            return failed("a secret of the channel has more than one word", cause=Cause.CREDENTIALS)
        try:
            result = await self.deliver(outgoing, secret)
            if result.cause is Cause.CREDENTIALS and self._secret and (await self._secret.read()).strip() != secret:
                result = replace(result, outcome=AttemptOutcome.FAILED)  # it changed meanwhile
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            return result_of_error(error)
        return result.masked([secret])

    async def deliver(self, outgoing: Outgoing, secret: str) -> SendResult:
        raise NotImplementedError

    async def close(self) -> None:
        await self.client.close()


class PagerDutyChannel(NativeChannel):
    def __init__(self, channel: Channel, config: PagerDutyConfig, clock: Clock) -> None:
        super().__init__(channel, clock, config.routing_key)
        self._url = config.url

    async def deliver(self, outgoing: Outgoing, secret: str) -> SendResult:
        group = outgoing.notification.notice
        if not isinstance(group, GroupNotice):
            return refused("PagerDuty is told of alerts, not of events", cause=Cause.MESSAGE)
        message = build_message(group, outgoing.facts, outgoing.config)
        result = delivered()
        for event in pagerduty_events(group, message, secret, outgoing.config.http.external_url):
            answer = await self.client.request("POST", self._url, {}, event)
            result = pagerduty_result(answer.status, answer.body, answer.retry_after)
            if not result.delivered:
                return result
        return result


class OpsgenieChannel(NativeChannel):
    def __init__(self, channel: Channel, config: OpsgenieConfig, clock: Clock) -> None:
        super().__init__(channel, clock, config.api_key)
        self._url = config.url.rstrip("/")

    async def deliver(self, outgoing: Outgoing, secret: str) -> SendResult:
        group = outgoing.notification.notice
        if not isinstance(group, GroupNotice):
            return refused("Opsgenie is told of alerts, not of events", cause=Cause.MESSAGE)
        message = build_message(group, outgoing.facts, outgoing.config)
        result = delivered()
        for request in opsgenie_requests(group, message):
            headers = {"Authorization": f"GenieKey {secret}"}
            answer = await self.client.request("POST", f"{self._url}/{request.path}", headers, request.body)
            result = opsgenie_result(request, answer.status, answer.body, answer.retry_after)
            if answer.status == 202:
                result = await self._outcome(request, json_object(answer.body).get("requestId"), headers) or result
            if not result.delivered:
                return result
        return result

    async def _outcome(
        self, request: IncidentRequest, request_id: object, headers: Mapping[str, str]
    ) -> SendResult | None:
        """What became of a request that was accepted, if Opsgenie knows within a few seconds."""
        if not isinstance(request_id, str):
            return None
        url = f"{self._url}/v2/alerts/requests/{quote(request_id, safe='')}"
        for pause in _OPSGENIE_PAUSES:
            await asyncio.sleep(pause)
            try:
                answer = await self.client.request("GET", url, headers)
            except (aiohttp.ClientError, OSError):
                return None
            if answer.status != 404:
                return opsgenie_outcome(request, answer.status, answer.body)
        return None


class SlackError(Exception):
    """Slack refused a call; ``result`` says what that means."""

    def __init__(self, error: str, result: SendResult) -> None:
        self.error, self.result = error, result


class SlackChannel(NativeChannel):
    def __init__(self, channel: Channel, config: SlackConfig, clock: Clock) -> None:
        super().__init__(channel, clock, config.token)
        self._url = config.api_url.rstrip("/")
        self._channel = config.channel
        self._renderer = Renderer({})

    async def deliver(self, outgoing: Outgoing, secret: str) -> SendResult:
        config = outgoing.config
        if self._renderer.templates is not config.template_texts:
            self._renderer = Renderer(config.template_texts)
        notice = outgoing.notification.notice
        rendered = self._renderer.render(notice, outgoing.facts, config, MessageFormat.SLACK, None)
        for note in rendered.notes:
            log.warning("template_problem", channel=self.client.channel.name, note=note)
        result = await self._tell(outgoing, secret, *slack_body(rendered))
        return replace(result, note="; ".join((result.note, *rendered.notes)))

    async def _tell(self, outgoing: Outgoing, secret: str, message: Message, body: Mapping[str, Any]) -> SendResult:
        """Post or edit the message of the group or run, then tell its thread what is news."""
        notice, before = outgoing.notification.notice, outgoing.sent
        place = dict(before) if before and not before.get("closed") else {}
        try:
            known = frozenset(place.get("firing", ()))
            edited = await self._edit(place, body, secret) if place else False
            if not edited:
                place = await self._post(outgoing, body, secret)
            if isinstance(notice, GroupNotice):
                reply = news(notice, message, known) if edited else None
                place |= {"firing": [alert.fingerprint for alert in notice.firing], "closed": not notice.firing}
            else:
                ended = isinstance(notice, EventNotice) and notice.event.name in END_EVENTS
                reply = run_news(message) if ended else None
                place["closed"] = ended
        except SlackError as error:
            return error.result
        if reply is None:
            return delivered(f"ts {place['ts']}", sent=place)
        again = {"firing": sorted(known), "closed": False}  # so that the next try edits the message, and replies
        try:
            thread = {"channel": place["channel"], "thread_ts": place["ts"], "text": reply, "unfurl_links": False}
            await self._call("chat.postMessage", secret, thread)
        except SlackError as error:
            if error.result.retry_after is None:
                # The message itself says the same; a second edit and reply would not be read twice.
                return delivered(f"ts {place['ts']}; the reply in its thread failed: {error.error}", sent=place)
            return replace(error.result, sent=place | again)
        except (aiohttp.ClientError, OSError) as error:  # the message stands; only the reply is tried again
            return replace(result_of_error(error), sent=place | again)
        return delivered(f"ts {place['ts']}", sent=place)

    async def _edit(self, place: Mapping[str, Any], body: Mapping[str, Any], token: str) -> bool:
        """False when the message is gone."""
        try:
            await self._call("chat.update", token, {"channel": place["channel"], "ts": place["ts"], **body})
        except SlackError as error:
            if error.error in ("message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found"):
                return False
            raise
        return True

    async def _post(self, outgoing: Outgoing, body: Mapping[str, Any], token: str) -> dict[str, Any]:
        """The message's place. One that an earlier attempt posted without hearing of it is taken over."""
        delivery = outgoing.notification.id
        if outgoing.notification.attempts and (found := await self._find(delivery, token)):
            await self._edit(found, body, token)
            return found
        metadata = {"event_type": _METADATA, "event_payload": {"id": delivery}}
        answer = await self._call("chat.postMessage", token, {"channel": self._channel, "metadata": metadata, **body})
        return {"channel": answer.get("channel", self._channel), "ts": answer.get("ts", "")}

    async def _find(self, delivery: str, token: str) -> dict[str, Any] | None:
        """A message with this delivery id; None also where the bot may not read the channel's history."""
        if not self._channel.startswith(("C", "G", "D")):  # only ids can be read
            return None
        query = {"channel": self._channel, "limit": _HISTORY, "include_all_metadata": "true"}
        try:
            answer = await self._call(f"conversations.history?{urlencode(query)}", token)
        except SlackError:
            return None
        for message in answer.get("messages", ()):
            if (message.get("metadata") or {}).get("event_payload", {}).get("id") == delivery:
                return {"channel": self._channel, "ts": message["ts"]}
        return None

    async def _call(self, name: str, token: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """A write with a ``body``, a read without. Raises ``SlackError``: Slack says most refusals in an answer with status
        200."""
        headers = {"Authorization": f"Bearer {token}"}
        answer = await self.client.request("GET" if body is None else "POST", f"{self._url}/{name}", headers, body)
        if not (document := json_object(answer.body)):
            raise SlackError("no answer", result_of_status(answer.status if answer.status != 200 else 502, answer.body))
        if document.get("ok") is True:
            return document
        error = str(document.get("error") or f"HTTP {answer.status}")
        if answer.status == 429 or error in ("ratelimited", "rate_limited"):
            wait = answer.retry_after or timedelta(seconds=1)
            raise SlackError(error, failed(f"{name}: {error}", wait, cause=Cause.RATE_LIMITED))
        if error in PERMANENT_ERRORS:
            raise SlackError(error, refused(f"{name}: {error}", cause=PERMANENT_ERRORS[error]))
        raise SlackError(error, failed(f"{name}: {error}", cause=Cause.RECEIVER))
