"""Alertmanager's API v2, for ``amtool``, Prometheus, Grafana and karma: alerts, groups, silences, receivers, status.

Shapes follow Alertmanager's published OpenAPI document; refusals of requests are a JSON text, as its clients expect.
The configuration shows what a routing tree needs and nothing else: receivers without their channels.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import Annotated, Any

import msgspec
import re2
import yaml
from aiohttp import web
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from tocsin import ALERTMANAGER_VERSION, __version__
from tocsin.config.intervals import WEEKDAYS, TimeRange
from tocsin.config.model import Config, Route
from tocsin.decide.explain import load_suppressor
from tocsin.decide.external import PostedAlert
from tocsin.kit.clock import format_duration, isoformat
from tocsin.model.alert import SilenceState
from tocsin.model.cloudevent import Json
from tocsin.model.labels import BadMatcher, Labels, Matcher, Op, all_match, parse_matcher, parse_matchers
from tocsin.routing.tree import Router
from tocsin.store import Connection, alerts
from tocsin.store.alerts import BadSilence
from tocsin.store.console import all_silences
from tocsin.store.query import SilenceRecord, is_storable, silence_record
from tocsin.web.changes import author_of
from tocsin.web.context import CONTEXT, HttpProblem

Handler = Callable[[web.Request], Awaitable[web.Response]]
RESOLVE_TIMEOUT = timedelta(minutes=5)  # of an alert that is posted without an end
_OPS = {(False, True): Op.EQUAL, (False, False): Op.NOT_EQUAL, (True, True): Op.REGEX, (True, False): Op.NOT_REGEX}
_SHOWN = {"active": "active", "silenced": "silenced", "inhibited": "inhibited", "muted": "muted"}


def refusing(handler: Handler) -> Handler:
    """Refusals as the clients of Alertmanager read them."""

    @wraps(handler)
    async def refused(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except HttpProblem as problem:
            return web.json_response(problem.detail, status=problem.status)

    return refused


# --- what is read -------------------------------------------------------------------------------------------------------


async def show_cluster(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    config = yaml.safe_dump(routing_config(context.config()), sort_keys=False, allow_unicode=True)
    version = {
        "version": ALERTMANAGER_VERSION, "revision": f"tocsin-{__version__}", "branch": "tocsin", "buildUser": "",
        "buildDate": "", "goVersion": "",
    }  # fmt: skip
    cluster: Json = {"name": "tocsin", "status": "disabled", "peers": []}
    started = context.status().get("started_at") or isoformat(context.clock.now())
    return web.json_response(
        {"cluster": cluster, "versionInfo": version, "config": {"original": config}, "uptime": started}
    )


async def show_receivers(request: web.Request) -> web.Response:
    names = [receiver.name for receiver in request.app[CONTEXT].config().receivers]
    return web.json_response([{"name": name} for name in names])


@refusing
async def show_alerts(request: web.Request) -> web.Response:
    """What fires and is asked for, by ``filter``, ``receiver`` and state."""

    def text(alerts_: Iterable["_Shown"]) -> object:
        return [shown.json for shown in alerts_]

    return await _answer(request, text)


@refusing
async def show_groups(request: web.Request) -> web.Response:
    """The same alerts in the groups in which receivers are notified of them."""

    def text(alerts_: Iterable["_Shown"]) -> object:
        groups: dict[str, dict[str, Any]] = {}
        for shown in alerts_:
            for receiver, labels, key in shown.groups:
                group = {"labels": labels, "receiver": {"name": receiver}, "alerts": []}
                groups.setdefault(key, group)["alerts"].append(shown.json)
        return [groups[key] for key in sorted(groups)]

    return await _answer(request, text)


async def _answer(request: web.Request, shape: Callable[[Iterable["_Shown"]], object]) -> web.Response:
    context = request.app[CONTEXT]
    matchers, shown = _filters(request), {name: _flag(request, name) for name in ("unprocessed", *_SHOWN)}
    config, now = context.config(), context.clock.now()
    try:
        receiver = re2.compile(f"^(?:{pattern})$") if (pattern := request.query.get("receiver")) else None
    except re2.error:
        raise HttpProblem(400, "receiver is no regular expression") from None

    def read(connection: Connection) -> bytes:
        found = _read_alerts(connection, config, matchers, shown, receiver, now)
        return msgspec.json.encode(shape(found))

    body = await context.store.browse(read)
    return web.Response(body=body, content_type="application/json")


class _Shown(msgspec.Struct):
    json: dict[str, Json]
    groups: list[tuple[str, Labels, str]]  # receiver, labels and key of each


def _read_alerts(
    connection: Connection, config: Config, matchers: Sequence[Matcher], shown: Mapping[str, bool], receiver: Any,
    now: datetime,
) -> list[_Shown]:  # fmt: skip
    firing = alerts.dated_firing(connection)
    firing = [row for row in firing if all_match(matchers, row.alert.labels)]
    suppressor = load_suppressor(connection, config, [row.alert.labels for row in firing], now)
    fingerprints = {row.alert.id: row.alert.fingerprint for row in firing}
    router = Router(config.route) if config.route else None
    found = []
    for row in firing:
        alert, by = row.alert, suppressor.suppressed_by(row.alert.labels)
        reasons = {"silenced": by.silences, "inhibited": by.inhibited_by, "muted": by.muted_by}
        if any(ids and not shown[name] for name, ids in reasons.items()) or not (by or shown["active"]):
            continue
        matches = router.match(alert.labels) if router else []
        names = dict.fromkeys(match.route.receiver for match in matches)
        if receiver is not None and not any(receiver.search(name) for name in names):
            continue
        state: dict[str, Json] = {
            "state": "suppressed" if by else "active",
            "silencedBy": list(by.silences),
            "inhibitedBy": [fingerprints.get(id_, id_) for id_ in by.inhibited_by],
            "mutedBy": list(by.muted_by),
        }
        shape: dict[str, Json] = {
            "labels": dict(alert.labels),
            "annotations": dict(alert.annotations),
            "startsAt": isoformat(alert.starts_at),
            "endsAt": isoformat(row.expires_at or now + RESOLVE_TIMEOUT),
            "updatedAt": isoformat(row.updated_at),
            "fingerprint": alert.fingerprint,
            "receivers": [{"name": name} for name in names],
            "status": state,
        }
        if url := alert.annotations.get("run_url") or alert.annotations.get("scenario_url"):
            shape["generatorURL"] = url
        groups = [(match.route.receiver, match.group_labels, match.group_key) for match in matches]
        found.append(_Shown(shape, groups))
    return found


def _filters(request: web.Request) -> list[Matcher]:
    try:
        return [matcher for text in request.query.getall("filter", ()) for matcher in parse_matchers(text)]
    except BadMatcher as error:
        raise HttpProblem(400, f"bad matcher format: {error}") from None


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "true").lower()
    if text not in ("true", "false", "1", "0", "t", "f"):
        raise HttpProblem(400, f"{name} must be true or false")
    return text in ("true", "1", "t")


# --- alerts of others ---------------------------------------------------------------------------------------------------


class _PostedAlert(BaseModel):
    labels: Annotated[dict[Annotated[str, Field(min_length=1, max_length=1_000)], str], Field(max_length=200)]
    annotations: dict[str, str] = {}
    startsAt: AwareDatetime | None = None
    endsAt: AwareDatetime | None = None
    generatorURL: str = ""


_POSTED = TypeAdapter(list[_PostedAlert])


@refusing
async def post_alerts(request: web.Request) -> web.Response:
    """Alerts of others: they fire until ``endsAt``, or for five minutes."""
    context = request.app[CONTEXT]
    now, posted = context.clock.now(), []
    for item in await _parse(request, _POSTED):
        labels = {name: value for name, value in item.labels.items() if value}
        annotations = {name: value for name, value in item.annotations.items() if value}
        if not labels:
            raise HttpProblem(400, "an alert needs at least one label with a value")
        if not all(map(is_storable, (*labels, *labels.values(), *annotations, *annotations.values()))):
            raise HttpProblem(400, "labels and annotations may hold no NUL and nothing that is not Unicode")
        starts_at, ends_at = _real(item.startsAt), _real(item.endsAt)
        starts_at = starts_at or min(now, ends_at or now)
        if ends_at is not None and ends_at < starts_at:
            raise HttpProblem(400, "an alert must end after it begins")
        posted.append(PostedAlert(labels, annotations, starts_at, ends_at or now + RESOLVE_TIMEOUT))
    await context.take_alerts(posted)
    return web.Response()


def _real(moment: datetime | None) -> datetime | None:
    """The time; None for Go's zero time, which means that there is none."""
    return None if moment is None or moment.year <= 1 else moment


async def _parse(request: web.Request, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise HttpProblem(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None


# --- silences -----------------------------------------------------------------------------------------------------------


class _PostedMatcher(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    value: str
    isRegex: bool
    isEqual: bool = True


class _PostedSilence(BaseModel):
    id: str | None = None
    matchers: Annotated[list[_PostedMatcher], Field(min_length=1, max_length=50)]
    startsAt: AwareDatetime
    endsAt: AwareDatetime
    createdBy: Annotated[str, Field(max_length=200)]
    comment: Annotated[str, Field(max_length=2_000)]


_SILENCE = TypeAdapter(_PostedSilence)


@refusing
async def show_silences(request: web.Request) -> web.Response:
    matchers, now = _filters(request), request.app[CONTEXT].clock.now()

    def read(connection: Connection) -> bytes:
        shapes = []
        for silence in all_silences(connection, now):
            own = list(map(parse_matcher, silence.matchers))
            if all_match(matchers, {matcher.name: matcher.value for matcher in own}):
                shapes.append(_silence_json(silence, own, now))
        order = {state: place for place, state in enumerate(("active", "pending", "expired"))}
        shapes.sort(key=lambda shape: order[shape["status"]["state"]])
        return msgspec.json.encode(shapes)

    return web.Response(body=await request.app[CONTEXT].store.browse(read), content_type="application/json")


@refusing
async def find_silence(request: web.Request) -> web.Response:
    context, id_ = request.app[CONTEXT], request.match_info["id"]
    now, silence = context.clock.now(), await context.store.browse(alerts.get_silence, id_)
    if silence is None:
        raise HttpProblem(404, f"silence {id_} not found")
    return web.json_response(_silence_json(silence_record(silence, now), silence.matchers, now))


@refusing
async def post_silence(request: web.Request) -> web.Response:
    """A new silence, or with an id the change of one."""
    context = request.app[CONTEXT]
    asked: _PostedSilence = await _parse(request, _SILENCE)
    now = context.clock.now()
    try:
        matchers = [
            parse_matcher(str(Matcher(item.name, _OPS[item.isRegex, item.isEqual], item.value)))
            for item in asked.matchers
        ]
        by = author_of(request, asked.createdBy)
        if not all(map(is_storable, (by, asked.comment, *(text for m in matchers for text in (m.name, m.value))))):
            raise HttpProblem(400, "a silence may hold no NUL and nothing that is not Unicode")
        new = (matchers, asked.startsAt, asked.endsAt, by, asked.comment, now)
        if asked.id:
            silence = await context.store.write(alerts.update_silence, asked.id, *new)
            if silence is None:
                raise HttpProblem(404, f"silence {asked.id} not found")
        else:
            silence = await context.store.write(alerts.insert_silence, *new)
    except (BadMatcher, BadSilence) as error:
        raise HttpProblem(400, str(error)) from None
    return web.json_response({"silenceID": silence.id})


@refusing
async def delete_silence(request: web.Request) -> web.Response:
    context, id_ = request.app[CONTEXT], request.match_info["id"]
    if await context.store.write(alerts.end_silence, id_, context.clock.now()) is None:
        raise HttpProblem(404, f"silence {id_} not found")
    return web.Response()


def _silence_json(silence: SilenceRecord, matchers: Sequence[Matcher], now: datetime) -> dict[str, Any]:
    changed = silence.ends_at if silence.state is SilenceState.EXPIRED else min(silence.starts_at, now)
    return {
        "id": silence.id,
        "status": {"state": silence.state.value},
        "updatedAt": isoformat(changed),
        "startsAt": isoformat(silence.starts_at),
        "endsAt": isoformat(silence.ends_at),
        "createdBy": silence.created_by,
        "comment": silence.comment,
        "matchers": [
            {
                "name": matcher.name, "value": matcher.value, "isRegex": matcher.op in (Op.REGEX, Op.NOT_REGEX),
                "isEqual": matcher.op in (Op.EQUAL, Op.REGEX),
            }
            for matcher in matchers
        ],
    }  # fmt: skip


# --- the configuration --------------------------------------------------------------------------------------------------


def routing_config(config: Config) -> dict[str, Any]:
    """The routing tree and what it names, as a configuration that Alertmanager reads."""
    names = dict.fromkeys(receiver.name for receiver in config.receivers) or {"none": None}
    return {
        "route": _route(config.route) if config.route else {"receiver": next(iter(names))},
        "receivers": [{"name": name} for name in names],
        "inhibit_rules": [
            {
                "source_matchers": list(map(str, rule.source_matchers)),
                "target_matchers": list(map(str, rule.target_matchers)),
                "equal": list(rule.equal),
            }
            for rule in config.inhibit_rules
            if rule.source_matchers and rule.target_matchers
        ],
        "time_intervals": [
            {"name": interval.name, "time_intervals": list(map(_time_range, interval.time_intervals))}
            for interval in config.time_intervals
        ],
    }


def _route(route: Route) -> dict[str, Any]:
    shape = {
        "receiver": route.receiver,
        "matchers": list(map(str, route.matchers)),
        "group_by": list(route.group_by),
        "continue": route.continues,
        **{name: format_duration(getattr(route, name)) for name in ("group_wait", "group_interval", "repeat_interval")},
        "mute_time_intervals": list(route.mute_time_intervals),
        "active_time_intervals": list(route.active_time_intervals),
        "routes": list(map(_route, route.routes)),
    }
    return {name: value for name, value in shape.items() if value}


def _time_range(span: TimeRange) -> dict[str, Any]:
    def clock(minutes: int) -> str:
        return f"{minutes // 60:02}:{minutes % 60:02}"

    def spans(ranges: Iterable[tuple[int, int]] | None, names: Sequence[str] = ()) -> list[str]:
        texts = [[names[end] if names else str(end) for end in span] for span in ranges or ()]
        return [":".join(dict.fromkeys(text)) for text in texts]

    shape = {
        "times": [{"start_time": clock(start), "end_time": clock(end)} for start, end in span.times or ()],
        "weekdays": spans(span.weekdays, WEEKDAYS),
        "days_of_month": spans(span.days_of_month),
        "months": spans(span.months),
        "years": spans(span.years),
        "location": span.location,
    }
    return {name: value for name, value in shape.items() if value}
