"""The changing half of the API: silences, resolving by hand, sending again, reload."""

import asyncio
from datetime import datetime
from typing import Annotated

import structlog
from aiohttp import web
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tocsin.config.model import Config
from tocsin.kit.clock import isoformat
from tocsin.kit.durations import BadDuration, parse_duration
from tocsin.model.labels import BadMatcher, Matcher, parse_matcher
from tocsin.routing.lint import unknown_label
from tocsin.store import silences
from tocsin.store.query import silence_record, storable
from tocsin.store.silences import BadSilence
from tocsin.web.context import CONTEXT, SUBJECT
from tocsin.web.problems import Problem
from tocsin.web.shapes import to_json

log = structlog.get_logger(__name__)


def _stored(text: str) -> str:
    if not storable(text):
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


async def create_silence(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    asked = await _new_silence(request)
    now = context.clock.now()
    starts_at = asked.starts_at or now
    matchers = await asyncio.to_thread(_matchers, asked.matchers, context.config())  # regular expressions are compiled
    by = SUBJECT.get() if context.config().http.tokens_file else asked.created_by or SUBJECT.get()
    try:
        silence = await context.store.write(
            silences.add, matchers, starts_at, _ends_at(asked, starts_at), by, asked.comment, now
        )
    except BadSilence as error:
        raise Problem(400, str(error)) from None
    log.info("silence_created", silence=silence.id, matchers=asked.matchers, by=by)
    location = {"Location": f"/api/v1/silences/{silence.id}"}
    return web.json_response(to_json(silence_record(silence, now)), status=201, headers=location)


async def expire_silence(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    now = context.clock.now()
    silence = await context.store.write(silences.expire, request.match_info["id"], now)
    if silence is None:
        raise Problem(404, "there is no silence with this id")
    log.info("silence_expired", silence=silence.id, by=SUBJECT.get())
    return web.json_response(to_json(silence_record(silence, now)))


async def resolve_alert(request: web.Request) -> web.Response:
    id_ = request.match_info["id"]
    if not await request.app[CONTEXT].resolve_alert(id_, SUBJECT.get()):
        raise Problem(404, "no firing alert has this id")
    return web.json_response({"id": id_, "resolved": True})


async def retry_delivery(request: web.Request) -> web.Response:
    id_ = request.match_info["id"]
    if not await request.app[CONTEXT].retry_delivery(id_):
        raise Problem(404, "no dead letter has this id")
    return web.json_response({"id": id_, "state": "pending"})


async def reload(request: web.Request) -> web.Response:
    """Read the configuration again; the old one stays when the new one has errors."""
    done = await request.app[CONTEXT].reload()
    if not done.ok:
        raise Problem(422, "the configuration has errors; the old one stays", errors=list(done.problems))
    return web.json_response({"at": isoformat(done.at), "needs_restart": list(done.needs_restart)})


async def _new_silence(request: web.Request) -> NewSilence:
    if request.content_type != "application/json":
        raise Problem(415, "the body must be application/json")
    try:
        return NewSilence.model_validate_json(await request.read())
    except ValidationError as error:
        told = [
            f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}"
            for one in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise Problem(400, "the body is not a silence", errors=told) from None


def _matchers(texts: list[str], config: Config) -> list[Matcher]:
    try:
        found = [parse_matcher(text) for text in texts]
    except BadMatcher as error:
        raise Problem(400, str(error)) from None
    if unknown := unknown_label(found, config):
        raise Problem(400, unknown)
    return found


def _ends_at(asked: NewSilence, starts_at: datetime) -> datetime:
    if (asked.ends_at is None) == (asked.duration is None):
        raise Problem(400, "a silence needs ends_at or duration, and not both")
    if asked.ends_at is not None:
        return asked.ends_at
    try:
        return starts_at + parse_duration(asked.duration or "")
    except BadDuration as error:
        raise Problem(400, str(error)) from None
    except OverflowError:
        raise Problem(400, "duration is longer than a silence can be") from None
