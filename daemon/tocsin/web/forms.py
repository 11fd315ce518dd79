"""What people change from pages: acknowledge, resolve, silence, expire, send again, read the configuration again.

A GET changes nothing: it shows a form, filled in from the address. A form that cannot be carried out is shown again with
everything that was typed and the error beside its field; what is done leads on to a page that shows it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import urlencode

import structlog
from aiohttp import web
from multidict import MultiMapping
from pydantic import ValidationError

from tocsin.config.model import Config
from tocsin.deliver.check import UnknownReceiver, test_channels
from tocsin.kit.clock import BadDuration, parse_duration
from tocsin.model.labels import BadMatcher, Labels, Matcher, Op, all_match, parse_matcher
from tocsin.routing.lint import unknown_label
from tocsin.store import Connection, alerts, console
from tocsin.store.alerts import BadSilence
from tocsin.web.access import VIEWER, read_form
from tocsin.web.changes import NewAcknowledgement, NewSilence, acknowledgement_of, author_of, faults_of, whole_id
from tocsin.web.context import CONTEXT, HttpProblem
from tocsin.web.pages import Asked, asked_of, render_page
from tocsin.web.views import lines_of, read_delivery_filter, read_routes

log = structlog.get_logger(__name__)

_MOST_COVERED = 25  # alerts that a preview names
_TEST_SECONDS = 25.0  # less than a request may take
_CHANGING = ("tags", "scenario_name")  # labels that change while an alert stays the same
_ACTIONS = {"ack": "Acknowledge", "resolve": "Resolve"}


def _redirect(request: web.Request, path: str, done: str) -> web.Response:
    root = "../" * (request.rel_url.raw_path.count("/") - 1) or "./"
    joint = "&" if "?" in path else "?"
    return web.Response(status=303, headers={"Location": f"{root}{path}{joint}done={done}"})


# --- alerts -------------------------------------------------------------------------------------------------------------


async def change_alert(request: web.Request) -> web.Response:
    """Acknowledge, take that back, or resolve the alert of the address."""
    done, id_ = request.match_info["do"], await whole_id(request, "alerts", "alert")
    if not await _change(request, done, id_, await read_form(request)):
        raise HttpProblem(404, "no firing alert has this id; it may have ended meanwhile")
    return _redirect(request, f"alerts/{id_}", done)


async def change_alerts(request: web.Request) -> web.Response:
    """The same for several alerts."""
    form = await read_form(request)
    done = form.get("do", "")
    if done not in _ACTIONS:
        raise HttpProblem(400, f"do is {done!r}; it is one of {', '.join(_ACTIONS)}")
    results = [await _change(request, done, id_, form) for id_ in form.getall("id", ())]
    if not any(results):
        raise HttpProblem(404, "none of these alerts fires any more")
    return _redirect(request, "alerts", done if all(results) else "some")


async def _change(request: web.Request, done: str, id_: str, form: MultiMapping[str]) -> bool:
    context = request.app[CONTEXT]
    match done:
        case "ack":
            by, comment = form.get("by", ""), form.get("comment", "")
            try:
                asked = NewAcknowledgement(by=by, comment=comment, duration=form.get("duration") or None)
            except ValidationError as error:
                raise HttpProblem(400, "; ".join(f"{name}: {words}" for name, words in faults_of(error))) from None
            new = acknowledgement_of(request, asked)
            return await context.acknowledge_alert(id_, new, new.by)
        case "unack":
            return await context.acknowledge_alert(id_, None, request[VIEWER].name)
        case "resolve":
            return await context.resolve_alert(id_, request[VIEWER].name)
        case _:
            raise HttpProblem(404, "there is nothing at this address")


def read_chosen(connection: Connection, asked: Asked) -> Mapping[str, object]:
    """The alerts that were selected, before anything is done to them."""
    done = asked.choice("do", _ACTIONS, "ack")
    chosen = console.alerts_by_id(connection, asked.query.getall("id", ()))
    return {"do": done, "action": _ACTIONS[done], "alerts": [alert for alert in chosen if alert.ends_at is None]}


# --- silences -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SilenceForm:
    """What was typed; ``until`` is in UTC as the form writes it, ``ends_at`` the same moment as the script reads it."""

    matchers: str
    duration: str = ""
    until: str = ""
    ends_at: str = ""
    comment: str = ""
    by: str = ""


class CheckedSilence(NamedTuple):
    matchers: tuple[Matcher, ...]
    ends_at: datetime | None
    errors: dict[str, str]  # by field
    warning: str = ""  # about the matchers


def _typed(values: MultiMapping[str]) -> SilenceForm:
    lines = [*values.getall("matcher", ()), *lines_of(values.get("matchers", ""))]
    if node := values.get("node"):
        lines.append(str(Matcher("dss_node", Op.EQUAL, node)))
    names = ("duration", "until", "ends_at", "comment", "by")
    texts = {name: values.get(name, "").strip() for name in names}
    if node and "comment" not in values:
        texts["comment"] = f"Maintenance of {node}"
    return SilenceForm("\n".join(filter(None, map(str.strip, lines))), **texts)


def check_silence(form: SilenceForm, config: Config, now: datetime) -> CheckedSilence:
    """What the form means, and what is wrong with its fields."""
    errors: dict[str, str] = {}
    matchers: list[Matcher] = []
    lines, warning = lines_of(form.matchers), ""
    try:
        NewSilence(matchers=lines, duration=form.duration, created_by=form.by, comment=form.comment)
    except ValidationError as error:
        for place, words in faults_of(error):
            field = place.partition(".")[0]
            errors.setdefault({"created_by": "by"}.get(field, field), words)
    if not form.matchers:
        errors["matchers"] = 'a silence needs a matcher, as project="SALES"'
    elif "matchers" not in errors:
        try:
            matchers += map(parse_matcher, lines)
            if all(matcher.matches({}) for matcher in matchers):
                errors["matchers"] = "at least one matcher must not match everything"
            warning = unknown_label(matchers, config) or ""
        except BadMatcher as error:
            errors["matchers"] = str(error)
    ends_at = None
    try:
        if form.until:
            ends_at = datetime.fromisoformat(form.ends_at or form.until)
            ends_at = ends_at.replace(tzinfo=ends_at.tzinfo or UTC).astimezone(UTC)
        else:
            ends_at = now + parse_duration(form.duration or "1h")
        if ends_at <= now:
            errors["until" if form.until else "duration"] = (
                "the silence would end at once; its end must be in the future"
            )
    except BadDuration as error:
        errors.setdefault("duration", str(error))
    except (ValueError, OverflowError):
        errors["until" if form.until else "duration"] = "this is no time that a silence can end at"
    return CheckedSilence(tuple(matchers), ends_at, errors, warning)


def _of_alerts(chosen: Sequence[Labels]) -> str:
    """Matchers that cover these alerts by each label that all of them have; a line each."""
    lines = []
    for name in chosen[0] if chosen else ():
        values = sorted({labels.get(name, "") for labels in chosen})
        if name not in _CHANGING and all(values):
            several = len(values) > 1
            value = "|".join(map(_quoted, values)) if several else values[0]
            lines.append(str(Matcher(name, Op.REGEX if several else Op.EQUAL, value)))
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "".join(f"\\{char}" if char in r"\.+*?()|[]{}^$" else char for char in text)


def _preview(connection: Connection, asked: Asked, form: SilenceForm, errors: Mapping[str, str]) -> dict[str, object]:
    checked = check_silence(form, asked.config, asked.now)
    covered: list[console.ListedAlert] = []
    if checked.matchers and "matchers" not in checked.errors:
        firing = console.listed_alerts(connection, firing=True)
        covered = [alert for alert in firing if all_match(checked.matchers, alert.labels)]
    shown = console.alerts_by_id(connection, [alert.id for alert in covered[:_MOST_COVERED]])
    return {
        "form": form, "errors": errors, "checked": checked, "covered": len(covered), "shown": shown,
        "nodes": [node.name for node in asked.config.nodes],
    }  # fmt: skip


def read_new_silence(connection: Connection, asked: Asked) -> Mapping[str, object]:
    form = _typed(asked.query)
    if ids := asked.query.getall("id", ()):
        chosen = [alert.labels for alert in console.alerts_by_id(connection, ids)]
        form = SilenceForm(_of_alerts(chosen), form.duration or "1h", form.until, form.ends_at, form.comment, form.by)
    written = any(name in asked.query for name in ("matcher", "matchers", "node", "id"))
    errors = check_silence(form, asked.config, asked.now).errors if written else {}
    return _preview(connection, asked, form, errors)


async def create_silence_here(request: web.Request) -> web.Response:
    context, form = request.app[CONTEXT], _typed(await read_form(request))
    asked = asked_of(request)
    checked = await asyncio.to_thread(check_silence, form, asked.config, asked.now)  # regular expressions are compiled
    preview = "preview" in await read_form(request)
    errors, by = checked.errors, author_of(request, form.by)
    if not errors and not preview and checked.ends_at is not None:
        try:
            silence = await context.store.write(
                alerts.insert_silence, checked.matchers, asked.now, checked.ends_at, by, form.comment, asked.now
            )
        except BadSilence as error:
            errors = {"matchers": str(error)}
        else:
            log.info("silence_created", silence=silence.id, matchers=list(map(str, silence.matchers)), by=by)
            return _redirect(request, "silences", "silence")
    return await render_page(
        request, "silence_new.html", lambda connection, asked: _preview(connection, asked, form, errors),
        200 if preview else 400,
    )  # fmt: skip


async def expire_silence_here(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    silence = await context.store.write(alerts.end_silence, request.match_info["id"], context.clock.now())
    if silence is None:
        raise HttpProblem(404, "there is no silence with this id")
    log.info("silence_expired", silence=silence.id, by=request[VIEWER].name)
    return _redirect(request, "silences", "expire")


# --- deliveries and the process -----------------------------------------------------------------------------------------


async def retry_deliveries_here(request: web.Request) -> web.Response:
    """Send dead letters again: those that were selected, or with ``all`` those that the filter of the form finds."""
    context, form = request.app[CONTEXT], await read_form(request)
    ids = form.getall("id", [])
    if form.get("all"):
        wanted = read_delivery_filter(form, context.config(), context.clock.now(), state="dead")
        ids = await context.store.browse(lambda connection: console.ids_of_deliveries(
            connection, console.find_deliveries(connection, wanted)[0]
        ))  # fmt: skip
    sent = await context.retry_deliveries(ids)
    if not sent:
        raise HttpProblem(404, "none of these is a dead letter any more; select at least one")
    log.info("deliveries_retried", count=len(sent), by=request[VIEWER].name)
    filters = urlencode({name: form[name] for name in ("channel", "receiver", "q", "since", "until") if form.get(name)})
    return _redirect(request, "deliveries" + (f"?{filters}" if filters else ""), "retry")


async def test_receiver_here(request: web.Request) -> web.Response:
    """Send a sample that fires and its end to the channels of a receiver, and show what became of them."""
    context, name = request.app[CONTEXT], request.match_info["receiver"]
    try:
        async with asyncio.timeout(_TEST_SECONDS):
            outcomes = await test_channels(context.config(), name, clock=context.clock)
    except UnknownReceiver:
        raise HttpProblem(404, f"no receiver is named {name!r}") from None
    except TimeoutError:
        raise HttpProblem(504, f"a channel of {name} has not answered within {_TEST_SECONDS:.0f} s") from None
    log.info("receiver_tested", receiver=name, by=request[VIEWER].name)

    def read(connection: Connection, asked: Asked) -> Mapping[str, object]:
        return {**read_routes(connection, asked), "tested": name, "outcomes": outcomes}

    return await render_page(request, "routes.html", read)


async def reload_here(request: web.Request) -> web.Response:
    result = await request.app[CONTEXT].reload()
    return _redirect(request, "status", "reload" if result.ok else "reload_failed")
