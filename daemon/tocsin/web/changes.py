"""The changing half of the HTTP side: silences, resolving by hand, retrying dead letters, reload, and hooks for DSS.

A hook is a nudge that a poll is due, never a fact about a run. Its caller must know the secret: as the plain header
``X-Tocsin-Secret``, which a DSS webhook reporter can send, or by a signature as Standard Webhooks describes. Project
and scenario are read from the query, a JSON object or a form, under the names that DSS users choose.
"""

import asyncio
import binascii
import hmac
import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl

import structlog
from aiohttp import web
from multidict import MultiDict
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tocsin.config.secrets import Secret
from tocsin.deliver.webhook import BadSecret, signing_key
from tocsin.kit.clock import BadDuration, isoformat, parse_duration
from tocsin.model.alert import Acknowledgement
from tocsin.model.labels import BadMatcher, parse_matcher
from tocsin.routing.lint import unknown_label
from tocsin.store import Connection, alerts
from tocsin.store.alerts import BadSilence
from tocsin.store.query import (
    AlertRecord,
    SilenceRecord,
    dead_letters,
    find_ids,
    get_alerts,
    is_storable,
    list_deliveries,
    silence_record,
)
from tocsin.store.sql import shallow
from tocsin.web.access import VIEWER
from tocsin.web.context import CONTEXT, HttpProblem, list_query
from tocsin.web.reads import DELIVERY_FILTERS, present_alerts, to_json

log = structlog.get_logger(__name__)
Body = TypeVar("Body", bound=BaseModel)

_TOLERANCE_SECONDS = 300
_LONGEST_NAME = 300
_PROJECT_NAMES = ("project", "projectKey", "scenarioProjectKey", "project_key")
_SCENARIO_NAMES = ("scenario", "scenarioId", "scenario_id")


def _stored(text: str) -> str:
    if not is_storable(text):
        raise ValueError("no row can hold this text")
    return text


class NewSilence(BaseModel):
    """What ``POST /api/v1/silences`` takes: matchers as text, and ``ends_at`` or a ``duration`` from the start on.

    ``created_by`` counts only where no token tells who asks.
    """

    model_config = ConfigDict(extra="forbid")

    matchers: Annotated[list[Annotated[str, Field(max_length=2_000)]], Field(min_length=1, max_length=50)]
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    duration: Annotated[str, Field(max_length=50)] | None = None
    created_by: Annotated[str, Field(max_length=200), AfterValidator(_stored)] = ""
    comment: Annotated[str, Field(max_length=2_000), AfterValidator(_stored)] = ""


@dataclass(frozen=True, slots=True)
class CreatedSilence(SilenceRecord):
    """A new silence with how many firing alerts it covers now, and what is doubtful about it."""

    covers: int
    warnings: tuple[str, ...]


async def create_silence(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    asked = await _read_body(request, NewSilence, "a silence")
    now = context.clock.now()
    starts_at = asked.starts_at or now
    ends_at = _end_of(asked.ends_at, asked.duration, starts_at, "a silence")
    try:  # regular expressions are compiled
        matchers = await asyncio.to_thread(lambda: [parse_matcher(text) for text in asked.matchers])
    except BadMatcher as error:
        raise HttpProblem(400, str(error)) from None
    by = author_of(request, asked.created_by)
    try:
        silence = await context.store.write(alerts.insert_silence, matchers, starts_at, ends_at, by, asked.comment, now)
    except BadSilence as error:
        raise HttpProblem(400, str(error)) from None
    covers = await context.store.browse(alerts.count_covered, matchers)
    warning = unknown_label(matchers, context.config())
    log.info("silence_created", silence=silence.id, matchers=asked.matchers, covers=covers, by=by)
    created = CreatedSilence(
        **shallow(silence_record(silence, now)), covers=covers, warnings=(warning,) if warning else ()
    )
    location = {"Location": f"/api/v1/silences/{silence.id}"}
    return web.json_response(to_json(created), status=201, headers=location)


async def whole_id(request: web.Request, table: str, what: str) -> str:
    """The id in the address, which may be cut where it is still unique; as it stands if there is none. Raises
    ``HttpProblem`` 404 for several."""
    prefix = request.match_info["id"]
    ids = await request.app[CONTEXT].store.browse(find_ids, table, prefix)
    if len(ids) > 1:
        raise HttpProblem(404, f"several {what}s have an id that begins with {prefix!r}; give more of it")
    return ids[0] if ids else prefix


async def show_silence(request: web.Request) -> web.Response:
    context, id_ = request.app[CONTEXT], await whole_id(request, "silences", "silence")
    silence = await context.store.browse(alerts.get_silence, id_)
    if silence is None:
        raise HttpProblem(404, "there is no silence with this id")
    return web.json_response(to_json(silence_record(silence, context.clock.now())))


async def expire_silence(request: web.Request) -> web.Response:
    context, id_ = request.app[CONTEXT], await whole_id(request, "silences", "silence")
    now = context.clock.now()
    silence = await context.store.write(alerts.end_silence, id_, now)
    if silence is None:
        raise HttpProblem(404, "there is no silence with this id")
    log.info("silence_expired", silence=silence.id, by=request[VIEWER].name)
    return web.json_response(to_json(silence_record(silence, now)))


async def show_alert(request: web.Request) -> web.Response:
    context, id_ = request.app[CONTEXT], await whole_id(request, "alerts", "alert")
    config, now = context.config(), context.clock.now()

    def read(connection: Connection) -> Sequence[AlertRecord]:
        return present_alerts(connection, get_alerts(connection, [id_]), config, now)

    for alert in await context.store.browse(read):
        return web.json_response(to_json(alert))
    raise HttpProblem(404, "there is no alert with this id")


async def resolve_alert(request: web.Request) -> web.Response:
    id_ = await whole_id(request, "alerts", "alert")
    if not await request.app[CONTEXT].resolve_alert(id_, request[VIEWER].name):
        raise HttpProblem(404, "no firing alert has this id")
    return web.json_response({"id": id_, "resolved": True})


class NewAcknowledgement(BaseModel):
    """What ``POST /api/v1/alerts/{id}/ack`` takes. ``by`` counts only where no token tells who asks."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(max_length=200), AfterValidator(_stored)] = ""
    until: AwareDatetime | None = None
    duration: Annotated[str, Field(max_length=50)] | None = None
    comment: Annotated[str, Field(max_length=2_000), AfterValidator(_stored)] = ""


async def acknowledge_alert(request: web.Request) -> web.Response:
    """Note that somebody has an alert: its repeats stop until it ends, or until the given time."""
    context, id_ = request.app[CONTEXT], await whole_id(request, "alerts", "alert")
    new = acknowledgement_of(request, await _read_body(request, NewAcknowledgement, "an acknowledgement"))
    if not await context.acknowledge_alert(id_, new, new.by):
        raise HttpProblem(404, "no firing alert has this id")
    return web.json_response({"id": id_, "acknowledged": {"by": new.by, "at": isoformat(new.at),
                                                          "until": new.until and isoformat(new.until),
                                                          "comment": new.comment}})  # fmt: skip


def acknowledgement_of(request: web.Request, asked: NewAcknowledgement) -> Acknowledgement:
    """Raises ``HttpProblem`` 400 for an end that cannot be."""
    now, until = request.app[CONTEXT].clock.now(), None
    if asked.until is not None and asked.duration is not None:
        raise HttpProblem(400, "an acknowledgement takes until or duration, and not both")
    if asked.until is not None or asked.duration is not None:
        until = _end_of(asked.until, asked.duration, now, "an acknowledgement")
        if until <= now:
            raise HttpProblem(400, "the acknowledgement would end at once; its end must be in the future")
    return Acknowledgement(author_of(request, asked.by), now, until, asked.comment)


async def unacknowledge_alert(request: web.Request) -> web.Response:
    id_ = await whole_id(request, "alerts", "alert")
    if not await request.app[CONTEXT].acknowledge_alert(id_, None, request[VIEWER].name):
        raise HttpProblem(404, "no firing alert has this id")
    return web.json_response({"id": id_, "acknowledged": None})


async def show_delivery(request: web.Request) -> web.Response:
    id_ = await whole_id(request, "outbox", "delivery")
    page = await request.app[CONTEXT].store.browse(list_deliveries, {"id": [id_]}, 1)
    for delivery in page.items:
        return web.json_response(to_json(delivery))
    raise HttpProblem(404, "there is no delivery with this id")


async def retry_delivery(request: web.Request) -> web.Response:
    id_ = await whole_id(request, "outbox", "delivery")
    if not await request.app[CONTEXT].retry_delivery(id_):
        raise HttpProblem(404, "no dead letter has this id")
    return web.json_response({"id": id_, "state": "pending"})


_MOST_RETRIED = 10_000  # of one request


async def retry_deliveries(request: web.Request) -> web.Response:
    """Send all dead letters again that match the filters, in the query or as a JSON object, the newest first."""
    context, query = request.app[CONTEXT], MultiDict(request.query)
    for name, value in (await _object(request)).items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) and is_storable(item) for item in values):
            raise HttpProblem(400, f"{name} must be a text or a list of texts")
        query.extend((name, str(item)) for item in values)
    asked = list_query(request, DELIVERY_FILTERS, ("dead",), query=query)
    most = asked.limit if "limit" in query else _MOST_RETRIED
    ids = await context.store.browse(dead_letters, asked.filters, asked.narrow, most)
    retried = await context.retry_deliveries(ids)
    log.info("deliveries_retried", count=len(retried), by=request[VIEWER].name)
    return web.json_response({"retried": len(retried), "more": len(ids) == most})


async def reload(request: web.Request) -> web.Response:
    """Read the configuration again; the old one stays when the new one has errors."""
    done = await request.app[CONTEXT].reload()
    if not done.ok:
        raise HttpProblem(422, "the configuration has errors; the old one stays", errors=list(done.problems))
    return web.json_response({"at": isoformat(done.at), "needs_restart": list(done.needs_restart)})


async def _object(request: web.Request) -> dict[str, object]:
    """The JSON object in the body; empty without one. Raises ``HttpProblem`` 400."""
    raw = await request.read()
    try:
        value = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HttpProblem(400, "the body must be a JSON object of filters, or empty")
    return value


def author_of(request: web.Request, asked: str) -> str:
    """Who the token or the proxy names, else who the body names."""
    viewer = request[VIEWER]
    return viewer.name if viewer.known else asked or viewer.name


async def _read_body(request: web.Request, kind: type[Body], what: str) -> Body:
    """Nothing at all is an empty object."""
    raw = await request.read()
    if raw and request.content_type != "application/json":
        raise HttpProblem(415, "the body must be application/json")
    try:
        return kind.model_validate_json(raw or b"{}")
    except ValidationError as error:
        errors = [f"{place or 'body'}: {message}" for place, message in faults_of(error)]
        raise HttpProblem(400, f"the body is not {what}", errors=errors) from None


def faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Each place in a body, and what is wrong with it."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in faults]


def _end_of(moment: datetime | None, duration: str | None, starts_at: datetime, what: str) -> datetime:
    if (moment is None) == (duration is None):
        raise HttpProblem(400, f"{what} needs ends_at or duration, and not both")
    if moment is not None:
        return moment
    try:
        return starts_at + parse_duration(duration or "")
    except BadDuration as error:
        raise HttpProblem(400, str(error)) from None
    except OverflowError:
        raise HttpProblem(400, f"duration is longer than {what} can be") from None


# --- hooks --------------------------------------------------------------------------------------------------------------


async def nudge(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    secret = context.config().http.hooks_secret
    if secret is None:
        raise HttpProblem(403, "hooks are off until http.hooks_secret_file is set")
    body = await request.read()
    _check(request, body, await _revealed(secret), context.clock.now())
    node = request.match_info["node"]
    if context.config().node(node) is None:
        raise HttpProblem(404, "no node of this name is watched")
    fields = {**_fields(request.content_type, body), **request.query}
    project, scenario = _first(fields, _PROJECT_NAMES), _first(fields, _SCENARIO_NAMES)
    accepted = context.nudge(node, project, scenario if project else None)
    return web.json_response({"nudged": accepted}, status=202)


async def _revealed(secret: Secret) -> str:
    try:
        revealed = (await secret.read()).strip()
    except OSError as error:  # not its whole text: a name that is no file's may be the secret itself
        log.error("hooks_secret_unreadable", error=error.strerror or str(error))
        raise HttpProblem(503, "the secret of the hooks cannot be read") from None
    if not revealed:
        raise HttpProblem(403, "the secret of the hooks is empty")
    return revealed


def _check(request: web.Request, body: bytes, secret: str, now: datetime) -> None:
    """Raises ``HttpProblem`` 403 for a caller that does not know the secret."""
    plain = request.headers.get("X-Tocsin-Secret")
    if not (
        _signed(request.headers, body, secret, now)
        if plain is None
        else hmac.compare_digest(plain.encode("utf-8", "surrogateescape"), secret.encode())
    ):
        raise HttpProblem(403, "the secret or the signature is missing or wrong")


def _signed(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> bool:
    id_, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id_ or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        return False
    if abs(now.timestamp() - int(timestamp)) > _TOLERANCE_SECONDS:
        return False
    try:
        key = signing_key(secret)
    except BadSecret as error:
        log.error("hooks_secret_unreadable", error=str(error))
        return False
    expected = hmac.digest(key, f"{id_}.{timestamp}.".encode("utf-8", "surrogateescape") + body, sha256)
    return any(
        hmac.compare_digest(_decoded(signature.removeprefix("v1,")), expected)
        for signature in headers.get("webhook-signature", "").split(" ")
        if signature.startswith("v1,")
    )


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _fields(content_type: str, body: bytes) -> dict[str, str]:
    """Texts by name from a JSON object or a form; nothing from anything else, since a nudge needs no more."""
    text = body.decode("utf-8", "replace")
    try:
        if content_type == "application/x-www-form-urlencoded" and not text.startswith("{"):  # curl calls JSON a form
            return dict(parse_qsl(text, max_num_fields=100))
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    items = document.items() if isinstance(document, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def _first(fields: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((fields[name] for name in names if 0 < len(fields.get(name, "")) <= _LONGEST_NAME), None)
