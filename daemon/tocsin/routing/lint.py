"""What is wrong with a configuration of rules, routes and reporters although it can be read.

A finding is never a guess: the configuration names all values of closed labels (``alertname``, ``severity``,
``dss_node``, the rules' own); of open ones (``project``, ``scenario``, ``tags``) matchers are compared with each other.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from typing import Literal

from tocsin.config.intervals import contains
from tocsin.config.model import Config, InhibitRule, Route, Rule
from tocsin.kit.strings import did_you_mean
from tocsin.model.alert import CHANNEL_ALERT, CHANNEL_SEVERITY, STALLED_ALERT, STALLED_SEVERITY
from tocsin.model.event import DSS_VARIABLES, EventName
from tocsin.model.labels import Labels, Matcher, Op, matchers_text
from tocsin.routing.formula import BadFormula, parse
from tocsin.routing.stages import muted_by_time
from tocsin.routing.tree import Placed, matching_routes, walk

_OF_SCENARIOS = frozenset({"project", "scenario", "tags"})
_OF_ALERTS = _OF_SCENARIOS | {"scenario_name"}
_OF_EVENTS = _OF_ALERTS | {"outcome", "trigger_type", "run_as"}
_OF_RUNS = {"event", "outcome", "trigger_type", "run_as"}
_OUTCOMES = {EventName.RUN_STARTED: "", EventName.RUN_FAILED: "FAILED", EventName.RUN_ABORTED: "ABORTED"}
_OPEN_LABELS = {name: _OF_EVENTS - ({"outcome"} if name in _OUTCOMES else set()) for name in EventName}
_OPEN_LABELS |= dict.fromkeys((EventName.NODE_DOWN, EventName.NODE_UP), frozenset())
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_IN_ANNOTATIONS = _OF_SCENARIOS | {
    "alertname", "severity", "dss_node", "scenario_name", "count", "starts_at", "summary", "description", "scenario_url",
    "run_url", "previous_outcome", "expected_start", "usual_duration", "last_good", "deadline", "error", "scenarios", "since", "flapping_since", "reason",
}  # fmt: skip
_OF_NODES = {"node_down": frozenset[str](), "common_cause": frozenset({"cause"})}  # labels of alerts about nodes
_YEARS_AHEAD = 8  # as far as the next 29th of February may lie
_DIGESTS = 400  # that are looked at
_STEP = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Finding:
    """``where`` names the place for people; ``line`` is that of the file, if known."""

    severity: Literal["error", "warning"]
    message: str
    where: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """The labels of one kind of alert or event: its closed ones, and the names of its open ones."""

    closed: Labels
    open: frozenset[str] = frozenset()


def lint(config: Config, now: datetime) -> list[Finding]:
    """Everything that is wrong, errors first."""
    alerts = list(_alerts(config))
    findings = [*_unused(config), *_intervals(config, now), *_reporters(config), *_rules(config)]
    if config.route is not None:
        default = config.route.group_by if config.lines and ("route", "group_by") not in config.lines else None
        findings += [*_routes(config.route, alerts, default), *_muted_critical(config, config.route, alerts, now)]
    findings += [*_inhibitions(config, alerts), *_digests(config, now)]
    return sorted(findings, key=lambda finding: (finding.severity != "error", finding.line or 0))


def unknown_label(matchers: Iterable[Matcher], config: Config) -> str | None:
    """A sentence on the first label among the matchers that no alert of this configuration can have."""
    names = _names(_alerts(config)) | _OF_ALERTS | {"alertname", "severity", "dss_node", "receiver", "channel"}
    for matcher in matchers:
        if matcher.name not in names:
            near = did_you_mean(matcher.name, names) or f"; there are {', '.join(sorted(names))}"
            return f"no alert has the label {matcher.name!r}{near}"
    return None


def _alerts(config: Config) -> Iterator[LabelSpace]:
    for node, rule in product(_nodes(config), config.rules):
        labels = {**node, **rule.labels, "alertname": rule.alert, "severity": rule.severity}
        open_ = _OF_NODES.get(rule.kind, _OF_ALERTS.union(config.tag_labels))
        yield LabelSpace(labels, open_.difference(rule.labels))
        if rule.kind == "missed":
            yield LabelSpace({**labels, "alertname": STALLED_ALERT, "severity": STALLED_SEVERITY})
    for channel in config.channels().values():
        labels = {"alertname": CHANNEL_ALERT, "severity": CHANNEL_SEVERITY}
        yield LabelSpace({**labels, "receiver": channel.receiver, "channel": channel.name})


def _nodes(config: Config) -> list[Labels]:
    """The labels that name a node, of each."""
    return [{**node.labels, "dss_node": node.name} for node in config.nodes] or [{"dss_node": ""}]


def _unused(config: Config) -> Iterator[Finding]:
    routes = [placed.route for placed in walk(config.route)] if config.route else []
    used = {route.receiver for route in routes} | {reporter.receiver for reporter in config.reporters}
    used.add(config.dss_reporters.receiver or "")
    used.update(step.receiver for route in routes for step in route.escalations)
    if config.route is None and config.receivers and config.rules:
        example = f"`route: {{receiver: {config.receivers[0].name}}}`"
        message = f"there is none, so no alert is sent to anybody; write {example}"
        yield Finding("warning", message, "route", config.lines.get(("receivers",)))
    for index, receiver in enumerate(config.receivers):
        where, line = f"receiver {receiver.name}", config.lines.get(("receivers", index))
        if receiver.name not in used:
            yield Finding("warning", "no route and no reporter uses it", where, line)
        if not receiver.channels:
            yield Finding("warning", "it has no channel, so nobody is notified", where, line)
    used = {name for route in routes for name in (*route.mute_time_intervals, *route.active_time_intervals)}
    for index, interval in enumerate(config.time_intervals):
        if interval.name not in used:
            where, line = f"time interval {interval.name}", config.lines.get(("time_intervals", index))
            yield Finding("warning", "no route uses it", where, line)


def _routes(root: Route, alerts: Sequence[LabelSpace], default_group_by: tuple[str, ...] | None) -> Iterator[Finding]:
    """``default_group_by``: that of the root where nobody wrote one."""
    skipped: set[int] = set()  # routes below a finding, of which there is nothing new to say
    known = _names(alerts)
    # The alerts as far as matchers of the tree distinguish them: of a thousand rules often a few.
    names = {matcher.name for placed in walk(root) for matcher in placed.route.matchers}
    distinct: dict[tuple[object, ...], LabelSpace] = {}
    for space in alerts:
        closed = {name: space.closed[name] for name in sorted(names) if name in space.closed}
        distinct.setdefault((*closed.items(), space.open & names), LabelSpace(closed, space.open & names))
    for placed in walk(root):
        route, above = placed.route, placed.parent.route if placed.parent else None
        where = " ".join(("route", *route.path[1:]))
        if above is not None and id(above) in skipped:
            skipped.add(id(route))
            continue
        problem = _unreachable(placed, distinct.values(), alerts) if above else None
        if problem is not None:
            skipped.add(id(route))
            yield Finding("error", problem, where, route.line)
        pace = route.repeat_interval, route.group_interval
        if pace[0] < pace[1] and (above is None or pace != (above.repeat_interval, above.group_interval)):
            message = "repeat_interval is shorter than group_interval, which is the soonest that a group is flushed"
            yield Finding("warning", message, where, route.line)
        inherited = route.group_by == (above.group_by if above is not None else default_group_by)
        for name in () if inherited or route.group_by_all else route.group_by:
            if name not in known:
                message = f"no alert has the label {name!r} of group_by{did_you_mean(name, known)}"
                yield Finding("warning", message, where, route.line)


def _unreachable(placed: Placed, distinct: Iterable[LabelSpace], alerts: Sequence[LabelSpace]) -> str | None:
    """Why no alert ever takes a route; None when one may."""
    matchers: list[Matcher] = []
    shadowing: list[Route] = []  # routes before this one, or before one above it, that end the search
    step: Placed | None = placed
    while step is not None:
        matchers += step.route.matchers
        for sibling in step.parent.route.routes if step.parent else ():
            if sibling is step.route:
                break
            if not sibling.continues and not step.route.also:
                shadowing.append(sibling)
        step = step.parent
    matching = [space for space in distinct if possible(matchers, space)]
    if not matching:
        return f"no alert of these rules can match{_misspelt(matchers, alerts)}"
    for space in matching:
        first = next((route for route in shadowing if certain(route.matchers, space, matchers)), None)
        if first is None:
            return None
    return f"never reached: {matchers_text(first.matchers)} before it takes all of its alerts" if first else None


def possible(matchers: Sequence[Matcher], space: LabelSpace) -> bool:
    """Whether an alert with these labels may satisfy all matchers."""
    for matcher in matchers:
        if matcher.name in space.open:
            value = _fixed(matcher.name, matchers)
            if value is not None and not matcher.matches({matcher.name: value}):
                return False
        elif not matcher.matches(space.closed):
            return False
    return True


def certain(matchers: Sequence[Matcher], space: LabelSpace, known: Sequence[Matcher]) -> bool:
    """Whether every alert with these labels that satisfies ``known`` satisfies ``matchers`` too."""
    for matcher in matchers:
        value = _fixed(matcher.name, known)
        if matcher.name in space.open and value is None:
            if matcher not in known:
                return False
        elif not matcher.matches(space.closed if value is None else {matcher.name: value}):
            return False
    return True


def _fixed(name: str, matchers: Iterable[Matcher]) -> str | None:
    return next((matcher.value for matcher in matchers if matcher.name == name and matcher.op is Op.EQUAL), None)


def _names(spaces: Iterable[LabelSpace]) -> set[str]:
    return {name for space in spaces for name in (*space.closed, *space.open)}


def _misspelt(matchers: Iterable[Matcher], spaces: Sequence[LabelSpace]) -> str:
    """The first name or value among the matchers that there is not, if that is what is wrong."""
    names = _names(spaces)
    for matcher in matchers:
        if matcher.name not in names:
            return f": there is no label {matcher.name!r}{did_you_mean(matcher.name, names)}"
        if not any(possible([matcher], space) for space in spaces):
            values = {space.closed.get(matcher.name, "") for space in spaces}
            return f": {matcher.name} is never {matcher.value!r}{did_you_mean(matcher.value, values)}"
    return ""


def _digests(config: Config, now: datetime) -> Iterator[Finding]:
    """Digests that never come, and those for services that they do not suit."""
    intervals = {interval.name: interval for interval in config.time_intervals}
    for route in (placed.route for placed in walk(config.route)) if config.route else ():
        if route.digest is None:
            continue
        where, at = " ".join(("route", *route.path[1:])), now
        moments = [at := route.digest.next_after(at, config.timezone) for _ in range(_DIGESTS)]
        if all(muted_by_time(route, intervals, moment) for moment in moments):
            message = (
                "its digest never comes: the route is muted at each of its times; change them or the time intervals"
            )
            yield Finding("error", message, where, route.line)
        receiver = config.receiver(route.receiver)
        for channel in receiver.channels if receiver else ():
            if channel.alerts_only:
                message = (
                    f"a digest opens incidents in {channel.kind} hours late; give channel {channel.name} its own route"
                )
                yield Finding("error", message, where, route.line)


def _muted_critical(config: Config, root: Route, alerts: Sequence[LabelSpace], now: datetime) -> Iterator[Finding]:
    """Critical alerts that only mute routes would take at some hour; open labels get an unknown value."""
    intervals = {interval.name: interval for interval in config.time_intervals}
    seen: set[tuple[int, ...]] = set()
    for space in alerts:
        if space.closed["severity"] != "critical":
            continue
        routes = matching_routes(root, {**space.closed, **dict.fromkeys(space.open, "?")})
        timed = [route for route in routes if route.mute_time_intervals or route.active_time_intervals]
        if not routes or len(timed) < len(routes) or tuple(map(id, routes)) in seen:
            continue
        seen.add(tuple(map(id, routes)))
        moments = (now + step * _STEP for step in range(2 * 24 * 366))
        mute = next((at for at in moments if all(muted_by_time(route, intervals, at) for route in timed)), None)
        if mute is not None:
            what = f"a critical {space.closed['alertname']} would be sent to nobody at {mute:%A %H:%M} UTC"
            message = f"{what}: every route that takes it is mute then"
            yield Finding("warning", message, "route " + matchers_text(routes[0].matchers), routes[0].line)


def _inhibitions(config: Config, alerts: Sequence[LabelSpace]) -> Iterator[Finding]:
    known = _names(alerts)
    for index, rule in enumerate(config.inhibit_rules):
        line = config.lines.get(("inhibit_rules", index))
        if rule.upstream or (config.lines and line is None):
            continue  # the shipped ones, of which some may have nothing to do here
        messages: list[str] = []
        matched: list[list[LabelSpace]] = []
        for side, matchers in (("source", rule.source_matchers), ("target", rule.target_matchers)):
            matched.append([space for space in alerts if possible(matchers, space)])
            if not matched[-1]:
                why = f"its {side} {matchers_text(matchers)}{_misspelt(matchers, alerts)}"
                messages.append(f"no alert of these rules can match {why}")
        for name in rule.equal:
            if name not in known:
                near = did_you_mean(name, known)
                messages.append(f"no alert has the label {name!r} of equal, so it is equal everywhere{near}")
        if all(matched):
            messages += _idle(rule, *matched)
        for message in messages:
            yield Finding("warning", message, "inhibit_rules", line)


def _idle(rule: InhibitRule, sources: Sequence[LabelSpace], targets: Sequence[LabelSpace]) -> Iterator[str]:
    """Why an inhibit rule whose sides can both match inhibits nothing."""
    forth = all(certain(rule.target_matchers, space, rule.source_matchers) for space in sources)
    if forth and all(certain(rule.source_matchers, space, rule.target_matchers) for space in targets):
        both = "whatever matches its source matches its target and the other way round"
        yield f"it inhibits nothing: {both}, and such alerts do not inhibit one another"
        return
    # Only of a rule whose sides are meant for certain alerts; one on severities alone may be there for rules to come.
    by_name = [any(m.name == "alertname" for m in side) for side in (rule.source_matchers, rule.target_matchers)]
    for name in rule.equal if all(by_name) else ():
        has = [any(name in space.open or space.closed.get(name) for space in side) for side in (sources, targets)]
        if has[0] is not has[1] and name != "tags":
            side, other = ("target", "source") if has[0] else ("source", "target")
            yield f"it inhibits nothing: its {side} never has the label {name!r} of equal, and its {other} has"


def _intervals(config: Config, now: datetime) -> Iterator[Finding]:
    days = [now + timedelta(days=day) for day in range(_YEARS_AHEAD * 366)]
    for index, interval in enumerate(config.time_intervals):
        where, line = f"time interval {interval.name}", config.lines.get(("time_intervals", index))
        if not interval.time_intervals:
            yield Finding("error", "it is empty", where, line)
        for times in interval.time_intervals:
            whole_days = replace(times, times=None)
            if not any(contains(whole_days, day) for day in days):
                message = f"one of its entries holds no day in the next {_YEARS_AHEAD} years"
                yield Finding("warning", message, where, line)


def _rules(config: Config) -> Iterator[Finding]:
    by_identity: dict[tuple[object, ...], list[Rule]] = {}  # by what an alert's identity takes from its rule
    spaces = [LabelSpace({**node, "event": ""}, _OF_EVENTS | {"event", *config.tag_labels}) for node in _nodes(config)]
    for index, rule in enumerate(config.rules):
        where, line = f"rule {rule.alert}", config.lines.get(("rules", index))
        same = by_identity.setdefault((rule.alert, rule.severity, tuple(sorted(rule.labels.items()))), [])
        if any(other.match == rule.match for other in same):
            message = "another rule has the same alert name, severity, matchers and labels; give one a label"
            yield Finding("error", message, where, line)
        elif any(_overlap(other, rule, space) for other in same for space in spaces):
            both = "another rule of the same alert name, severity and labels holds for the same scenarios"
            message = f"{both}, and the two share one alert; give one a label or another severity"
            yield Finding("warning", message, where, line)
        same.append(rule)
        if not any(possible(rule.match, space) for space in spaces):
            message = f"no scenario can match {matchers_text(rule.match)}{_misspelt(rule.match, spaces)}"
            yield Finding("error", message, where, line)
        of_runs = sorted({matcher.name for matcher in rule.match} & _OF_RUNS)
        if rule.kind in ("missed", "stale", "deadline", "common_cause") and of_runs:
            message = f"it is about scenarios, which have no {' and no '.join(of_runs)}; take it out of its match"
            yield Finding("warning", message, where, line)
        elif rule.kind in ("failed", "overlong", "short") and {"event", "outcome"} & set(of_runs):
            message = f"its match on {' and '.join(of_runs)} also hides the runs that would end its alerts"
            yield Finding("warning", message, where, line)
        known = _IN_ANNOTATIONS.union(rule.labels, config.tag_labels, *_nodes(config))
        for name, text in rule.annotations.items():
            for variable in sorted(set(_VARIABLE.findall(text)) - known):
                near = did_you_mean(variable, known)
                message = f"its annotation {name!r} names ${{{variable}}}, which no alert has{near}"
                yield Finding("warning", message, where, config.lines.get(("rules", index, "annotations", name), line))


def _overlap(rule: Rule, other: Rule, space: LabelSpace) -> bool:
    """Whether all that one of two rules watches is watched by the other too."""
    if _OF_NODES.get(rule.kind) != _OF_NODES.get(other.kind) or not possible(rule.match + other.match, space):
        return False
    return certain(rule.match, space, other.match) or certain(other.match, space, rule.match)


def _reporters(config: Config) -> Iterator[Finding]:
    open_labels = {name: open_.union(config.tag_labels if open_ else ()) for name, open_ in _OPEN_LABELS.items()}
    for index, reporter in enumerate(config.reporters):
        where, line = f"reporter {reporter.name}", config.lines.get(("reporters", index))
        spaces = [
            LabelSpace({**node, "event": name.value, "outcome": _OUTCOMES.get(name, "")}, open_labels[name])
            for node in _nodes(config)
            for name in sorted(reporter.on)
        ]
        if not any(possible(reporter.match, space) for space in spaces):
            near = _misspelt(reporter.match, spaces)
            yield Finding("error", f"none of its events can match {matchers_text(reporter.match)}{near}", where, line)
        if not reporter.condition:
            continue
        line = config.lines.get(("reporters", index, "condition"), line)
        try:
            unknown = sorted(parse(reporter.condition).names - DSS_VARIABLES)
        except BadFormula as error:
            yield Finding("error", f"its condition cannot be read and counts as true: {error}", where, line)
            continue
        for name in unknown:
            near = did_you_mean(name, sorted(DSS_VARIABLES))
            yield Finding("warning", f"its condition counts as true: only DSS knows {name!r}{near}", where, line)
