"""What pages show: lists with their filters in the address, and all that is known about one alert, scenario or run.

Each function reads the values of one template; see ``pages``.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import groupby
from typing import NamedTuple
from urllib.parse import urlencode

import yaml
from aiohttp import web
from markupsafe import Markup
from multidict import MultiDict, MultiMapping

from tocsin.config.model import Config
from tocsin.decide.evaluate import CompiledConfig
from tocsin.kit.clock import EPOCH, BadDuration, parse_duration, to_ms
from tocsin.model.errors import error_fingerprint
from tocsin.model.labels import BadMatcher, Labels, Matcher, Op, all_match, parse_matcher
from tocsin.model.matcher_index import MatcherIndex, set_bits
from tocsin.model.notification import NotificationState
from tocsin.model.run import GOOD_OUTCOMES, Details, RunError, RunKey, ScenarioKey
from tocsin.model.scenario import NodeView, ScenarioView, scenario_labels
from tocsin.routing.stages import Suppressor
from tocsin.routing.tree import matching_routes
from tocsin.rules.rule import RuleView
from tocsin.store import Connection, console, query
from tocsin.store.alerts import active_silences
from tocsin.store.console import SCENARIO_STATES, DeliveryFilter, ScenarioFilter
from tocsin.store.deliveries import outbox_depth
from tocsin.store.failures import related_alerts
from tocsin.store.query import AlertRecord, RunRecord, find_run, silence_record
from tocsin.store.runs import get_details, good_durations, usual_durations
from tocsin.store.scenarios import get_mail_reporters
from tocsin.web import charts
from tocsin.web.context import CONTEXT, HttpProblem
from tocsin.web.pages import PAGE_SIZE, Asked, Slice, render_page
from tocsin.web.reads import config_json, read_explanation

_PLACE = ("dss_node", "project", "scenario")
_SEVERITIES = ("critical", "warning", "info")


def lines_of(text: str) -> list[str]:
    """The lines of a field: other line separators may stand in names."""
    return re.split(r"\r?\n", text)


class PageMatchers(NamedTuple):
    """The matchers of an address: those that can be read, and what is wrong with the others."""

    matchers: tuple[Matcher, ...]
    problems: tuple[str, ...]
    broken: tuple[str, ...] = ()

    def match(self, labels: Labels) -> bool:
        return all_match(self.matchers, labels)


def read_matchers(texts: Iterable[str]) -> PageMatchers:
    matchers, problems, broken = [], [], []
    for text in filter(None, map(str.strip, texts)):
        try:
            matchers.append(parse_matcher(text))
        except BadMatcher as error:
            problems.append(str(error))
            broken.append(text)
    return PageMatchers(tuple(matchers), tuple(problems), tuple(broken))


# --- alerts -------------------------------------------------------------------------------------------------------------


ALERT_STATES = ("active", "suppressed", "acknowledged", "resolved", "all")
_GROUPINGS = ("alertname", "severity", "dss_node", "project", "scenario")


def suppressions(connection: Connection, config: Config, firing: Mapping[str, Labels], now: datetime) -> dict[str, str]:
    """What keeps these firing alerts, by id, from being notified at this moment, in words; the others are left out."""
    related = related_alerts(connection, config, firing.values())
    suppressor = Suppressor(config, active_silences(connection, now), firing, now, related)
    found = {}
    for id_, labels in firing.items():
        muted = [decision for _, decision in suppressor.muted_routes(labels)]
        decisions = [*suppressor.others(labels), *(muted if all(muted) else ())]
        if decisions and (decision := decisions[0]) is not None:
            found[id_] = f"{decision.reason.value} {decision.note or ''}".strip()
    return found


def _severity_rank(labels: Labels) -> int:
    severity = labels.get("severity", "")
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)


class AlertLine(NamedTuple):
    alert: AlertRecord
    suppressed: str


def _alert_lines(
    connection: Connection, part: Sequence[console.ListedAlert], suppressed: Mapping[str, str]
) -> list[AlertLine]:
    found = console.alerts_by_id(connection, [item.id for item in part])
    return [AlertLine(alert, suppressed.get(alert.id, "")) for alert in found]


def _firing_by_state(
    connection: Connection, asked: Asked, text: str, keep: Callable[[Labels], bool]
) -> tuple[dict[str, list[console.ListedAlert]], dict[str, str]]:
    """The firing alerts of the filter by their state, the most severe and newest first, and what suppresses them."""
    firing = console.listed_alerts(connection, firing=True)
    suppressed = suppressions(connection, asked.config, {alert.id: alert.labels for alert in firing}, asked.now)
    if text:
        wanted = {alert.id for alert in console.listed_alerts(connection, firing=True, text=text)}
        firing = [alert for alert in firing if alert.id in wanted]
    firing = sorted(
        (alert for alert in firing if keep(alert.labels)),
        key=lambda alert: (_severity_rank(alert.labels), -alert.starts_ms, alert.id),
    )
    now_ms = to_ms(asked.now)
    by_state: dict[str, list[console.ListedAlert]] = {"active": [], "suppressed": [], "acknowledged": [], "all": firing}
    for alert in firing:
        acknowledged = alert.acknowledged is not None and (alert.acknowledged == 0 or alert.acknowledged > now_ms)
        by_state["suppressed" if alert.id in suppressed else "acknowledged" if acknowledged else "active"].append(alert)
    return by_state, suppressed


def read_alerts(connection: Connection, asked: Asked) -> Mapping[str, object]:
    state = asked.choice("state", ALERT_STATES)
    filters, text, severity = read_matchers(asked.query.getall("matcher", ())), asked.text("q"), asked.text("severity")
    group = asked.choice("group", _GROUPINGS)

    def keep(labels: Labels) -> bool:
        return filters.match(labels) and (not severity or labels.get("severity", "") == severity)

    by_state, suppressed = _firing_by_state(connection, asked, text, keep)
    counts = {name: len(found) for name, found in by_state.items()}
    counts[""] = counts.pop("all")
    more = ""
    if state in ("resolved", "all"):
        newest = console.listed_alerts(connection, firing=False, text=text)
        ended = [alert for alert in newest if keep(alert.labels)]
        more = " of the newest" if console.is_ended_cut(connection) else ""
        counts["resolved"] = len(ended)
        found = ended if state == "resolved" else by_state["all"] + ended
    else:
        found = by_state[state or "all"]
    if group:
        found = sorted(found, key=lambda alert: alert.labels.get(group, ""))
        sizes = Counter(alert.labels.get(group, "") for alert in found)
    else:
        sizes = Counter()
    first = asked.first_of(len(found))
    part = found[first : first + PAGE_SIZE]
    lines = _alert_lines(connection, part, suppressed)
    groups = [(name, list(items)) for name, items in groupby(lines, key=lambda line: line.alert.labels.get(group, ""))]
    return {
        "groups": groups if group else [("", lines)] if lines else [], "group": group, "sizes": sizes, "counts": counts,
        "state": state, "slice": Slice(first, first + len(part), len(found), more), "problems": filters.problems,
        "broken": filters.broken, "matchers": [str(matcher) for matcher in filters.matchers], "severities": _SEVERITIES, "groupings": _GROUPINGS,
        "narrowed": bool(filters.matchers or text or severity or state),
    }  # fmt: skip


async def alert_page(request: web.Request) -> web.Response:
    """One alert: what it says, who was notified or why not, and what can be done."""
    id_, context = request.match_info["id"], request.app[CONTEXT]
    explanation = await context.explain_alert(id_)
    if explanation is None:
        raise HttpProblem(404, f"no alert has the id {id_!r}, or several begin with it")

    def read(connection: Connection, asked: Asked) -> Mapping[str, object]:
        found = explanation.alert
        labels = found.labels
        place = ScenarioKey(*(labels.get(name, "") for name in ("dss_node", "project", "scenario")))
        run = find_run(connection, place, found.run_id)[0] if found.run_id and place.scenario else None
        others = [
            other for other in console.alerts_of(connection, place, 50)
            if other.fingerprint == found.fingerprint and other.id != found.id
        ][:10]  # fmt: skip
        return {
            "alert": found, "explanation": explanation, "run": run, "others": others,
            "inhibitors": console.alerts_by_id(connection, found.suppressed_by.inhibited_by), "silences": [
                silence_record(silence, asked.now) for silence in active_silences(connection, asked.now)
                if found.ends_at is None and all_match(silence.matchers, labels)
            ],
        }  # fmt: skip

    return await render_page(request, "alert.html", read)


# --- silences -----------------------------------------------------------------------------------------------------------


def read_silences(connection: Connection, asked: Asked) -> Mapping[str, object]:
    state, text = asked.choice("state", ("expired", "all")), asked.text("q").lower()
    known = console.all_silences(connection, asked.now)
    more = "+" if len(known) == console.MOST_ENDED else ""
    if text:
        known = [
            silence for silence in known
            if any(text in part.lower() for part in (*silence.matchers, silence.created_by, silence.comment, silence.id))
        ]  # fmt: skip
    holding = [silence for silence in known if silence.state != "expired"]
    expired = [silence for silence in known if silence.state == "expired"]
    found = {"": holding, "expired": expired, "all": known}[state]
    first = asked.first_of(len(found))
    part = found[first : first + PAGE_SIZE]
    shown = {silence.id for silence in part}
    holds = [silence for silence in active_silences(connection, asked.now) if silence.id in shown]
    covers = Counter[str]()
    if holds:
        index = MatcherIndex(silence.matchers for silence in holds)
        for alert in console.listed_alerts(connection, firing=True):
            covers.update(holds[place].id for place in set_bits(index.matching(alert.labels)))
    return {
        "silences": part, "covers": covers, "slice": Slice(first, first + len(part), len(found), more),
        "counts": {"": len(holding), "expired": len(expired), "all": len(known)},
        "nodes": [node.name for node in asked.config.nodes],
    }  # fmt: skip


# --- overview -----------------------------------------------------------------------------------------------------------

_SHOWN_FIRING, _SHOWN_RUNNING, _SHOWN_FAILURES = 12, 15, 10
_COMPARED = 60  # running runs that are compared with the usual duration, those that run longest
_FAILURES_WITHIN = timedelta(hours=24)
_MOST_FAILURES = 150


class FailureGroup(NamedTuple):
    """The failures of one scenario with one error; ``last`` is the newest."""

    last: RunRecord
    times: int


class RunningLine(NamedTuple):
    run: RunRecord
    seconds: float
    usual: float | None


def _failure_groups(failures: Sequence[RunRecord]) -> list[FailureGroup]:
    groups: dict[tuple[ScenarioKey, str], FailureGroup] = {}
    for run in failures:
        error = run.error and error_fingerprint(RunError(run.error.message, run.error.code, run.error.title))
        last, times = groups.get(key := (run.key.scenario, error or ""), FailureGroup(run, 0))
        groups[key] = FailureGroup(last, times + 1)
    return list(groups.values())


def read_overview(connection: Connection, asked: Asked) -> Mapping[str, object]:
    watched = [node.name for node in asked.config.nodes]
    by_state, suppressed = _firing_by_state(connection, asked, "", lambda _: True)
    # What nobody has and nothing suppresses comes first.
    firing = [*by_state["active"], *by_state["acknowledged"], *by_state["suppressed"]]
    open_runs = console.longest_running(connection, _COMPARED)
    usual = usual_durations(connection, {run.key.scenario for run in open_runs})
    running = []
    for run in open_runs:
        seconds, span = max((asked.now - run.start).total_seconds(), 0.0), usual.get(run.key.scenario)
        running.append(RunningLine(run, seconds, span.total_seconds() if span else None))
    # What takes longest beside what is usual comes first.
    running.sort(key=lambda line: -(line.seconds / line.usual if line.usual else 0))
    failures = console.failures_since(connection, asked.now - _FAILURES_WITHIN, _MOST_FAILURES)
    groups = _failure_groups(failures)
    keys = {line.run.key.scenario for line in running[:_SHOWN_RUNNING]}
    keys |= {group.last.key.scenario for group in groups[:_SHOWN_FAILURES]}
    return {
        "nodes": query.list_nodes(connection, {"dss_node": watched}, 1000).items, "watched": len(watched),
        "scenarios": console.count_scenarios(connection, watched), "dead": sum(outbox_depth(connection).dead.values()),
        "failing_channels": asked.failing_channels,
        "firing_lines": _alert_lines(connection, firing[:_SHOWN_FIRING], suppressed),
        "counts": {name: len(found) for name, found in by_state.items()}, "running": running[:_SHOWN_RUNNING],
        "running_count": console.count_running(connection), "failures": groups[:_SHOWN_FAILURES], "failure_groups": len(groups),
        "failure_count": len(failures), "names": _names(connection, keys),
    }  # fmt: skip


def _names(connection: Connection, keys: Iterable[ScenarioKey]) -> dict[tuple[str, ...], str]:
    return {key: row.name for key, row in console.scenarios_by_key(connection, list(keys)).items()}


# --- scenarios ----------------------------------------------------------------------------------------------------------

_SORTS = ("name", "-name", "project", "-project", "next", "-next", "last", "-last", "state", "-state")
_CHART_RUNS, _LISTED_ALERTS = 120, 20


class ScenarioLine(NamedTuple):
    row: query.ScenarioRecord
    bars: Markup
    running: bool
    rate: float | None  # good runs of those shown that have ended
    last: str | None  # the outcome of the run that ended last
    owner: str


def read_scenario_list(connection: Connection, asked: Asked) -> Mapping[str, object]:
    state, sort = asked.choice("state", SCENARIO_STATES), asked.choice("sort", _SORTS, "state")
    filters = read_matchers(asked.query.getall("matcher", ()))

    @cache  # many scenarios have the same tags
    def of_tags(node: str, tags: tuple[str, ...]) -> Labels:
        return scenario_labels(ScenarioView(ScenarioKey(node, "", ""), "", tags), asked.config.extra_labels(node, tags))

    def keep(key: ScenarioKey, name: str, tags: tuple[str, ...]) -> bool:
        own = {"project": key.project, "scenario": key.scenario, "scenario_name": name}
        return filters.match({**of_tags(key.node, tags), **own})

    wanted = ScenarioFilter(state, asked.text("q"), asked.text("dss_node"), asked.text("project"), sort,
                            keep if filters.matchers else None)  # fmt: skip
    first = asked.first
    rows, total = console.find_scenarios(connection, wanted, first, PAGE_SIZE)
    if first and not rows:
        first = asked.first_of(total)
        rows, total = console.find_scenarios(connection, wanted, first, PAGE_SIZE)
    keys = [ScenarioKey(row.node, row.project, row.scenario) for row in rows]
    newest = console.newest_runs(connection, keys)
    lines = []
    for key, row in zip(keys, rows, strict=True):
        runs = newest.get(key, [])
        ended = [run.outcome for run in runs if run.seconds is not None]
        good = sum(outcome in GOOD_OUTCOMES for outcome in ended)
        lines.append(ScenarioLine(
            row, charts.bars(runs, asked.now), any(run.seconds is None for run in runs),
            good / len(ended) if ended else None, ended[-1] if ended else None, _owner(asked.config, row),
        ))  # fmt: skip
    return {
        "lines": lines, "slice": Slice(first, first + len(rows), total), "state": state,
        "states": SCENARIO_STATES, "default_sort": "state", "problems": filters.problems,
        "broken": filters.broken, "matchers": [str(matcher) for matcher in filters.matchers],
        "narrowed": bool(state or wanted.text or wanted.node or wanted.project or filters.matchers),
        "watched": console.count_scenarios(connection, [node.name for node in asked.config.nodes]),
        "nodes": [node.name for node in asked.config.nodes],
    }  # fmt: skip


def _labels_of(config: Config, view: ScenarioView) -> Labels:
    return scenario_labels(view, config.extra_labels(view.key.node, view.tags))


def _owner(config: Config, row: query.ScenarioRecord) -> str:
    """Who a scenario belongs to: its label ``owner``, else the user that it runs as."""
    return config.extra_labels(row.node, row.tags).get("owner") or row.run_as or ""


class ToldBy(NamedTuple):
    """Who is told of a rule's alert for a scenario."""

    rule: str
    severity: str
    labels: Labels
    receivers: tuple[str, ...]


def _who_is_told(config: Config, view: ScenarioView) -> list[ToldBy]:
    compiled = CompiledConfig(config)
    found = []
    extra = config.extra_labels(view.key.node, view.tags)
    for rule in compiled.rules_for(compiled.scenario_labels(view)):
        if not rule.about_nodes:
            labels = rule.alert_labels(RuleView(EPOCH, NodeView(view.key.node), view, labels=extra))
            routes = matching_routes(config.route, labels) if config.route else []
            receivers = tuple(dict.fromkeys(route.receiver for route in routes))
            found.append(ToldBy(rule.alert, labels["severity"], labels, receivers))
    return found


def read_scenario(connection: Connection, asked: Asked) -> Mapping[str, object]:
    key = ScenarioKey(*(asked.place[name] for name in ("node", "project", "scenario")))
    row = console.scenarios_by_key(connection, [key]).get(key)
    if row is None:
        raise HttpProblem(404, f"no scenario {'/'.join(key)} is known")
    runs = console.runs_of(connection, key, _CHART_RUNS)
    good = [span.total_seconds() for span in good_durations(connection, [key]).get(key, [])]
    alerts = console.alerts_of(connection, key, _LISTED_ALERTS)
    base = asked.config.node(key.node)
    ended = [run for run in runs if run.end is not None]
    # The steps of the newest run that has any: of good runs they are often not read.
    details: dict[RunKey, Details] = get_details(connection, [run.key for run in runs[:20]])
    stepped = next((run for run in runs if run.key in details and details[run.key].steps), None)
    view = ScenarioView(key, row.name, row.tags)
    labels = _labels_of(asked.config, view)
    return {
        "scenario": row, "runs": runs[:15], "run_count": len(runs), "chart": charts.durations(runs, good, asked.now),
        "usual": charts.usual(good), "weeks": charts.weeks(runs, asked.now), "alerts": alerts, "url": key.url(base.url) if base else None,
        "rate": sum(run.outcome in GOOD_OUTCOMES for run in ended) / len(ended) if ended else None,
        "running": [run for run in runs if run.end is None], "stepped": stepped,
        "waterfall": charts.waterfall(details[stepped.key].steps) if stepped else None,
        "who": _who_is_told(asked.config, view), "owner": _owner(asked.config, row),
        "reporters": get_mail_reporters(connection, [key]).get(key, ()),
        "own_reporters": [
            reporter for reporter in asked.config.reporters
            if all_match((matcher for matcher in reporter.match if matcher.name in labels), labels)
        ],
        "silence_query": urlencode([*(("matcher", str(Matcher(name, Op.EQUAL, labels[name]))) for name in _PLACE),
                                    ("duration", "1h")]),
    }  # fmt: skip


# --- runs ---------------------------------------------------------------------------------------------------------------


async def run_page(request: web.Request) -> web.Response:
    """One run: what happened and who was told first, then its steps and log, and every decision at the end."""
    explanation = await read_explanation(request)

    def read(connection: Connection, asked: Asked) -> Mapping[str, object]:
        text = asked.text("find")
        return {
            "explanation": explanation, "run": explanation.run, "find": text,
            "log_lines": _marked(explanation.log_tail or "", text),
            "found": (explanation.log_tail or "").lower().count(text.lower()) if text else 0,
            "names": _names(connection, [explanation.run.key.scenario]),
            "waterfall": charts.waterfall(explanation.steps),
        }  # fmt: skip

    return await render_page(request, "run.html", read)


def _marked(text: str, wanted: str) -> list[tuple[str, bool]]:
    """A text in pieces, those marked that were looked for."""
    if not wanted:
        return [(text, False)]
    pieces = re.split(f"({re.escape(wanted)})", text, flags=re.IGNORECASE)
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]


# --- deliveries ---------------------------------------------------------------------------------------------------------


def read_delivery_filter(
    values: MultiMapping[str], config: Config, now: datetime, *, state: str | None = None
) -> DeliveryFilter:
    """What the fields ``state``, ``channel``, ``receiver``, ``q``, ``since`` and ``until`` say. Raises ``HttpProblem`` 400."""
    state = state or values.get("state", "")
    if state and state not in list(NotificationState):
        raise HttpProblem(400, f"state is {state!r}; it is one of {', '.join(NotificationState)}")
    channels: set[str] | None = None
    if channel := values.get("channel"):
        channels = {channel}
    if receiver := values.get("receiver"):
        of_receiver = {found.name for found in config.channels().values() if found.receiver == receiver}
        channels = of_receiver if channels is None else channels & of_receiver
    moments = [_moment(values.get(name, "").strip(), name, now) for name in ("since", "until")]
    return DeliveryFilter(
        state, None if channels is None else tuple(sorted(channels)), values.get("q", "").strip(), *moments
    )


def _moment(text: str, name: str, now: datetime) -> datetime | None:
    """A time, or how long ago. Raises ``HttpProblem`` 400."""
    if not text:
        return None
    with contextlib.suppress(BadDuration, OverflowError):
        return now - parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise HttpProblem(
            400, f"{name} is {text!r}; write a time like 2026-03-01T06:00Z or how long ago, like 6h"
        ) from None


def read_deliveries(connection: Connection, asked: Asked) -> Mapping[str, object]:
    typed, problems = MultiDict(asked.query), []
    for name in ("since", "until"):
        try:
            _moment(asked.text(name), name, asked.now)
        except HttpProblem as problem:
            problems.append(problem.detail)
            typed.popall(name)
    wanted = read_delivery_filter(typed, asked.config, asked.now)
    numbers, cut = console.find_deliveries(connection, wanted)
    first = asked.first_of(len(numbers))
    part = numbers[first : first + PAGE_SIZE]
    depth = outbox_depth(connection)
    return {
        "deliveries": console.deliveries_by_number(connection, part), "wanted": wanted,
        "slice": Slice(first, first + len(part), len(numbers), "+" if cut else ""),
        "counts": {"dead": sum(depth.dead.values()), "pending": depth.open},
        "channels": sorted(asked.config.channels()), "receivers": [item.name for item in asked.config.receivers],
        "narrowed": bool(wanted.state or wanted.channels is not None or wanted.text or wanted.since or wanted.until),
        "failing_channels": asked.failing_channels, "problems": problems,
    }  # fmt: skip


# --- routes and status --------------------------------------------------------------------------------------------------


def _called(connection: Connection, place: str) -> list[query.ScenarioRecord]:
    """The scenario of NODE/PROJECT/ID, else those whose id or name is exactly this."""
    if place.count("/") == 2:
        key = ScenarioKey(*place.split("/"))
        if found := console.scenarios_by_key(connection, [key]):
            return list(found.values())
    rows, _ = console.find_scenarios(connection, ScenarioFilter(text=place), 0, PAGE_SIZE)
    return [row for row in rows if place in (row.scenario, row.name)]


def read_routes(connection: Connection, asked: Asked) -> Mapping[str, object]:
    """The tree; with ``label`` matchers or the address of a scenario, who would be told."""
    texts = [text for line in asked.query.getall("label", ()) for text in lines_of(line)]
    filters, place = read_matchers(texts), asked.text("scenario")
    problems = list(filters.problems)
    problems += [
        f"{matcher} is no label; write NAME=VALUE" for matcher in filters.matchers if matcher.op is not Op.EQUAL
    ]
    tried: list[ToldBy] = []
    if filters.matchers:
        labels = {matcher.name: matcher.value for matcher in filters.matchers if matcher.op is Op.EQUAL}
        routes = matching_routes(asked.config.route, labels) if asked.config.route else []
        tried.append(ToldBy("", "", labels, tuple(route.receiver for route in routes)))
    if place:
        rows = _called(connection, place)
        keys = [ScenarioKey(row.node, row.project, row.scenario) for row in rows]
        if len(rows) > 1:
            problems.append(f"several scenarios are called {place!r}: write one of {', '.join(map('/'.join, keys))}")
        elif rows:
            tried += _who_is_told(asked.config, ScenarioView(keys[0], rows[0].name, rows[0].tags))
        else:
            problems.append(f"no scenario {place!r} is known")
    depth = outbox_depth(connection)
    taken = (
        {id(route) for item in tried for route in matching_routes(asked.config.route, item.labels)}
        if asked.config.route
        else set()
    )
    return {
        "tree": asked.config.route, "tried": tried, "problems": problems, "labels": "\n".join(texts), "place": place,
        "taken": taken, "receivers": asked.config.receivers, "depth": depth.channels,
        "failing": asked.failing_channels, "tested": "", "outcomes": [],
    }  # fmt: skip


def read_status(connection: Connection, asked: Asked) -> Mapping[str, object]:
    watched = [node.name for node in asked.config.nodes]
    return {
        "status": asked.status, "tasks": asked.tasks, "config": _as_yaml(config_json(asked.config)),
        "rows": query.list_nodes(connection, {"dss_node": watched}, 1000).items,
    }  # fmt: skip


def _as_yaml(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


# --- search -------------------------------------------------------------------------------------------------------------

_MOST_FOUND = 20


def read_search(connection: Connection, asked: Asked) -> Mapping[str, object]:
    """Scenarios by name, id or project, alerts by name or id, runs by the beginning of their id."""
    text = asked.text("q")
    if not text:
        return {"q": "", "scenarios": [], "scenario_total": 0, "alerts": [], "alert_total": 0, "runs": [], "names": {}}
    words = text.strip("/").split("/")
    scenarios, total = console.find_scenarios(connection, ScenarioFilter(text=words[-1]), 0, _MOST_FOUND)
    found = console.listed_alerts(connection, firing=True, text=text) + console.listed_alerts(
        connection, firing=False, text=text
    )
    runs = console.find_runs(connection, words[-1], _MOST_FOUND) if words[-1][:1].isdigit() else []
    return {
        "q": text, "scenarios": scenarios, "scenario_total": total, "runs": runs, "alert_total": len(found),
        "alerts": console.alerts_by_id(connection, [alert.id for alert in found[:_MOST_FOUND]]),
        "names": _names(connection, {run.key.scenario for run in runs}),
    }  # fmt: skip
