"""The services that wake people, emulated: PagerDuty's Events API v2, Opsgenie's Alert API and Slack's Web API.

Each keeps the limits that its service documents and refuses what the real one refuses, so what arrives here arrives
there. Sources: PagerDuty's developer documentation of Events API v2; Opsgenie's of the Alert API; Slack's of
``chat.postMessage``, ``chat.update``, ``conversations.history`` and Block Kit. Times come by argument.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

Json = Any
_KEEP = 500


@dataclass(frozen=True, slots=True)
class ServiceReply:
    status: int
    body: Json
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request: another answer, none at all, or a late one."""

    reply: ServiceReply | None = None  # in place of the real one
    processed: bool = False  # the request takes effect all the same
    dropped: bool = False  # the connection ends without an answer
    delay: float = 0.0  # seconds


@dataclass(slots=True)
class Received:
    """One request as it came."""

    at: datetime
    path: str
    body: Json


@dataclass(eq=False)
class EmulatedService:
    """``faults`` are used up one a request; ``rate`` is requests in so many seconds, beyond which 429 is answered."""

    name: ClassVar[str]

    now: Callable[[], datetime]
    secret: str
    rate: tuple[int, float] | None = None
    faults: deque[Fault] = field(default_factory=deque)
    received: deque[Received] = field(default_factory=lambda: deque(maxlen=_KEEP))
    on_change: Callable[[str], None] = field(default=lambda _line: None)
    _recent: deque[datetime] = field(default_factory=deque)

    def answer(self, method: str, path: str, query: Mapping[str, str], authorization: str, body: Json) -> ServiceReply:
        raise NotImplementedError

    def limited(self) -> ServiceReply:
        return ServiceReply(429, {"message": "rate limit exceeded"}, {"Retry-After": "1"})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            return web.json_response({"message": "the body is not JSON"}, status=400)
        path = request.rel_url.raw_path.partition(f"/{self.name}/")[2]
        self.received.append(Received(self.now(), path, body))
        fault = self.faults.popleft() if self.faults else Fault(processed=True)
        reply = fault.reply
        if fault.processed:
            authorization = request.headers.get("Authorization", "")
            real = (
                self.limited()
                if self._over_rate()
                else self.answer(request.method, path, request.query, authorization, body)
            )
            reply = reply or real
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.dropped or reply is None:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError
        return web.json_response(reply.body, status=reply.status, headers=reply.headers)

    def _over_rate(self) -> bool:
        if self.rate is None:
            return False
        count, seconds = self.rate
        now = self.now()
        while self._recent and (now - self._recent[0]).total_seconds() >= seconds:
            self._recent.popleft()
        if len(self._recent) >= count:
            return True
        self._recent.append(now)
        return False


def service_routes(*services: EmulatedService) -> list[web.RouteDef]:
    """Each below its own name: ``/pagerduty/…``, ``/opsgenie/…``, ``/slack/…``."""
    return [web.route("*", f"/{service.name}/{{path:.*}}", service.handle) for service in services]


# --- PagerDuty --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Incident:
    """As PagerDuty shows it. ``actions``: the ``event_action`` of each event of it, in order."""

    key: str
    summary: str
    severity: str
    opened_at: datetime
    status: str = "triggered"  # acknowledged, resolved
    actions: list[str] = field(default_factory=list)
    event: Json = None  # the last trigger
    ended_at: datetime | None = None


@dataclass(eq=False)
class EmulatedPagerDuty(EmulatedService):
    name = "pagerduty"

    incidents: list[Incident] = field(default_factory=list)

    def answer(self, method: str, path: str, query: Mapping[str, str], authorization: str, body: Json) -> ServiceReply:
        if (method, path) != ("POST", "v2/enqueue"):
            return ServiceReply(404, {"status": "not found", "message": "there is nothing at this address"})
        try:
            event = msgspec.convert(body, _PagerDutyEvent)
        except msgspec.ValidationError as error:
            return self._invalid(str(error))
        if event.routing_key != self.secret:
            return self._invalid("the routing key is not known")
        if len(json.dumps(body)) > 512_000:
            return self._invalid("the event is larger than 512 KB")
        action = event.event_action
        if (event.payload if action == "trigger" else event.dedup_key) is None:
            return self._invalid("payload or dedup_key is missing")
        key = event.dedup_key or f"generated-{len(self.incidents)}"
        incident = next((item for item in self.incidents if item.key == key and item.status != "resolved"), None)
        if payload := event.payload if action == "trigger" else None:
            if incident is None:
                incident = Incident(key, payload.summary, payload.severity, self.now())
                self.incidents.append(incident)
                self.on_change(f"opened        {payload.summary}")
            incident.summary, incident.severity, incident.event = payload.summary, payload.severity, body
        elif incident is not None:
            incident.status = {"acknowledge": "acknowledged", "resolve": "resolved"}[action]
            incident.ended_at = self.now() if action == "resolve" else None
            self.on_change(f"{incident.status:13} {incident.summary}")
        if incident is not None:
            incident.actions.append(action)
        return ServiceReply(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _invalid(self, error: str) -> ServiceReply:
        return ServiceReply(400, {"status": "invalid event", "message": "Event object is invalid", "errors": [error]})


class _PagerDutyPayload(Struct):
    summary: Annotated[str, Meta(min_length=1, max_length=1024)]
    source: Annotated[str, Meta(min_length=1)]
    severity: Literal["critical", "error", "warning", "info"]
    timestamp: datetime | None = None
    component: str | None = None
    group: str | None = None
    class_: str | None = msgspec.field(name="class", default=None)
    custom_details: dict[str, Any] = {}


class _PagerDutyLink(Struct):
    href: Annotated[str, Meta(pattern="^https?://")]
    text: str = ""


class _PagerDutyEvent(Struct):
    routing_key: Annotated[str, Meta(min_length=32, max_length=32)]
    event_action: Literal["trigger", "acknowledge", "resolve"]
    dedup_key: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    payload: _PagerDutyPayload | None = None
    links: list[_PagerDutyLink] = []
    client: str | None = None
    client_url: str | None = None


# --- Opsgenie ---------------------------------------------------------------------------------------------------------


class _OpsgenieRequest(Struct):
    message: Annotated[str, Meta(min_length=1, max_length=130)]
    alias: Annotated[str, Meta(min_length=1, max_length=512)]
    description: Annotated[str, Meta(max_length=15_000)] = ""
    responders: Annotated[list[dict[str, str]], Meta(max_length=50)] = []
    tags: Annotated[list[Annotated[str, Meta(max_length=50)]], Meta(max_length=20)] = []
    details: dict[str, str] = {}  # 8000 characters in all
    entity: Annotated[str, Meta(max_length=512)] = ""
    source: Annotated[str, Meta(max_length=100)] = ""
    priority: Literal["P1", "P2", "P3", "P4", "P5"] = "P3"
    user: Annotated[str, Meta(max_length=100)] = ""
    note: Annotated[str, Meta(max_length=25_000)] = ""


@dataclass(slots=True)
class OpsgenieAlert:
    alias: str
    body: Json
    opened_at: datetime
    status: str = "open"  # closed
    acknowledged: bool = False
    count: int = 1
    notes: list[str] = field(default_factory=list)
    ended_at: datetime | None = None


@dataclass(eq=False)
class EmulatedOpsgenie(EmulatedService):
    name = "opsgenie"

    alerts: list[OpsgenieAlert] = field(default_factory=list)
    requests: dict[str, Json] = field(default_factory=dict)  # what became of each, by its id
    delayed: int = 0  # so many questions are answered as if the request were not processed yet
    failing: str | None = None  # why new alerts are accepted and then not created

    def answer(self, method: str, path: str, query: Mapping[str, str], authorization: str, body: Json) -> ServiceReply:
        if authorization != f"GenieKey {self.secret}":
            return ServiceReply(401, {"message": "Could not authenticate", "took": 0.001, "requestId": "r"})
        match [method, *path.split("/")]:
            case ["GET", "v2", "alerts", "requests", id_]:
                if self.delayed or id_ not in self.requests:
                    self.delayed = max(self.delayed - 1, 0)
                    return ServiceReply(404, {"message": "Request not found", "took": 0.001, "requestId": "r"})
                return ServiceReply(200, {"data": self.requests[id_], "took": 0.001, "requestId": "r"})
            case ["POST", "v2", "alerts"]:
                return self._create(body)
            case ["POST", "v2", "alerts", alias, ("close" | "acknowledge" | "notes") as action]:
                if query.get("identifierType") != "alias":
                    return ServiceReply(404, {"message": "Alert not found", "took": 0.001, "requestId": "r"})
                return self._act(unquote(alias), action, body)
        return ServiceReply(404, {"message": "No resource found", "took": 0.001, "requestId": "r"})

    def open_alert(self, alias: str) -> OpsgenieAlert | None:
        return next((alert for alert in self.alerts if alert.alias == alias and alert.status == "open"), None)

    def _create(self, body: Json) -> ServiceReply:
        try:
            alert_request = msgspec.convert(body, _OpsgenieRequest)
            if sum(len(name) + len(value) for name, value in alert_request.details.items()) > 8_000:
                raise msgspec.ValidationError("details are longer than 8000 characters")
        except msgspec.ValidationError as error:
            return ServiceReply(422, {"message": f"Request body is not processable: {error}", "requestId": "r"})
        alias = alert_request.alias
        if self.failing:
            return self._accepted("Create", self.failing, done=False)
        if alert := self.open_alert(alias):  # deduplicated: its words stay, it is counted
            alert.count += 1
        else:
            self.alerts.append(OpsgenieAlert(alias, body, self.now()))
            self.on_change(f"opened        {body['message']}")
        return self._accepted("Create", "Created alert")

    def _act(self, alias: str, action: str, body: Json) -> ServiceReply:
        """Requests are processed later, so one for an alert that is not there is accepted too."""
        if alert := self.open_alert(alias):
            if body.get("note"):
                alert.notes.append(body["note"])
            if action == "close":
                alert.status, alert.ended_at = "closed", self.now()
            elif action == "acknowledge":
                alert.acknowledged = True
            self.on_change(f"{'closed' if action == 'close' else action:13} {alert.body['message']}")
            return self._accepted(action.title(), "Processed")
        return self._accepted(action.title(), "Alert does not exist", done=False)

    def _accepted(self, action: str, status: str, *, done: bool = True) -> ServiceReply:
        id_ = f"request-{len(self.requests)}"
        self.requests[id_] = {"success": done, "isSuccess": done, "action": action, "status": status}
        return ServiceReply(202, {"result": "Request will be processed", "took": 0.002, "requestId": id_})


# --- Slack ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SlackMessage:
    ts: str
    text: str
    blocks: list[Json]
    thread_ts: str | None
    metadata: Json
    edits: int = 0
    deleted: bool = False


@dataclass(eq=False)
class EmulatedSlack(EmulatedService):
    """One workspace. ``channels``: the channels that the bot is in, by id."""

    name = "slack"

    channels: dict[str, str] = field(default_factory=lambda: {"C0ALERTS": "dss-alerts"})
    messages: dict[str, list[SlackMessage]] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset({"chat:write", "channels:history"})

    def limited(self) -> ServiceReply:
        return ServiceReply(429, {"ok": False, "error": "ratelimited"}, {"Retry-After": "1"})

    def answer(self, method: str, path: str, query: Mapping[str, str], authorization: str, body: Json) -> ServiceReply:
        if authorization != f"Bearer {self.secret}":
            return _refused("invalid_auth" if authorization else "not_authed")
        body = {**query, **body}
        match path.removeprefix("api/"):
            case "auth.test":
                known = {"ok": True, "team": "Emulated", "user": "tocsin", "bot_id": "B0TOCSIN"}
                return ServiceReply(200, known, {"X-OAuth-Scopes": ",".join(sorted(self.scopes))})
            case "chat.postMessage" | "chat.update" if "chat:write" not in self.scopes:
                return _refused("missing_scope")
            case "chat.postMessage" | "chat.update" | "conversations.history" as call:
                names = {name: id_ for id_, name in self.channels.items()}
                channel = str(body.get("channel", ""))
                if call == "chat.postMessage":  # the others want the id
                    channel = names.get(channel.removeprefix("#"), channel)
                if channel not in self.channels:
                    return _refused("channel_not_found")
                return self._channel_call(call, channel, body)
        return _refused("unknown_method")

    def _channel_call(self, call: str, channel: str, body: Json) -> ServiceReply:
        messages = self.messages.setdefault(channel, [])
        if call == "conversations.history":
            roots = [item for item in reversed(messages) if item.thread_ts is None and not item.deleted]
            limit = min(int(body.get("limit", 100)), 999)
            wants_metadata = str(body.get("include_all_metadata", "")).lower() in ("true", "1")
            listed = [
                {"ts": item.ts, "text": item.text, "metadata": item.metadata if wants_metadata else {}}
                for item in roots[:limit]
                if float(item.ts) >= float(body.get("oldest", 0))
            ]
            return ServiceReply(200, {"ok": True, "messages": listed, "has_more": len(roots) > limit})
        if error := _slack_error(body):
            return _refused(error)
        if call == "chat.postMessage":
            ts = f"{self.now().timestamp():.0f}.{len(messages) + 1:06d}"
            message = SlackMessage(
                ts, body.get("text", ""), body.get("blocks", []), body.get("thread_ts"), body.get("metadata") or {}
            )
            messages.append(message)
            self.on_change(("reply   " if message.thread_ts else "posted  ") + message.text[:200])
        else:
            found = next((item for item in messages if item.ts == body.get("ts") and not item.deleted), None)
            if found is None:
                return _refused("message_not_found")
            message = found
            message.text, message.blocks = body.get("text", ""), body.get("blocks", [])
            message.metadata = body.get("metadata") or message.metadata
            message.edits += 1
            self.on_change("edited  " + message.text[:200])
        return ServiceReply(200, {"ok": True, "channel": channel, "ts": message.ts, "message": {"text": message.text}})


def _refused(error: str) -> ServiceReply:
    """Slack says no in an answer with status 200."""
    return ServiceReply(200, {"ok": False, "error": error})


class _Text(Struct):
    type: Literal["plain_text", "mrkdwn"]
    text: Annotated[str, Meta(min_length=1, max_length=3000)]
    emoji: bool | None = None


class _Block(Struct, tag_field="type"):
    block_id: Annotated[str, Meta(max_length=255)] = ""


class _HeaderText(Struct):
    type: Literal["plain_text"]
    text: Annotated[str, Meta(min_length=1, max_length=150)]
    emoji: bool | None = None


class _Header(_Block, tag="header", kw_only=True):
    text: _HeaderText


class _FieldText(Struct):
    type: Literal["plain_text", "mrkdwn"]
    text: Annotated[str, Meta(min_length=1, max_length=2000)]


class _Section(_Block, tag="section"):
    text: _Text | None = None
    fields: Annotated[list[_FieldText], Meta(min_length=1, max_length=10)] | None = None


class _Context(_Block, tag="context", kw_only=True):
    elements: Annotated[list[_Text], Meta(min_length=1, max_length=10)]


class _ButtonText(Struct):
    type: Literal["plain_text"]
    text: Annotated[str, Meta(min_length=1, max_length=75)]
    emoji: bool | None = None


class _Button(Struct):
    type: Literal["button"]
    text: _ButtonText
    action_id: Annotated[str, Meta(max_length=255)] = ""
    url: Annotated[str, Meta(max_length=3000, pattern="^https?://")] | None = None
    value: Annotated[str, Meta(max_length=2000)] | None = None
    style: Literal["primary", "danger"] | None = None


class _Actions(_Block, tag="actions", kw_only=True):
    elements: Annotated[list[_Button], Meta(min_length=1, max_length=25)]


class _Divider(_Block, tag="divider"):
    pass


_Blocks = Annotated[list[_Header | _Section | _Context | _Actions | _Divider], Meta(max_length=50)]


def _slack_error(body: Json) -> str | None:
    blocks = body.get("blocks", [])
    if not body.get("text") and not blocks:
        return "no_text"
    if len(body.get("text") or "") > 40_000:
        return "msg_too_long"
    try:
        msgspec.convert(blocks, _Blocks)
    except msgspec.ValidationError:
        return "invalid_blocks"
    metadata = body.get("metadata")
    if metadata is not None and not {"event_type", "event_payload"} <= metadata.keys():
        return "metadata_must_be_sent_with_event_type"
    return None
