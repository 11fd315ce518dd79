"""What is wrong with a configuration of rules, routes and reporters although it can be read.

Closed labels (``alertname``, ``severity``, ``dss_node``, the rules' own) have few values, which the configuration
names; so what can never match is known for certain. Of open ones (``project``, ``scenario``, ``tags``) only what two
matchers say of each other is used: a finding is never a guess.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from tocsin.config.intervals import TimeInterval, contains
from tocsin.config.model import Config, InhibitRule, Reporter, Route, Rule
from tocsin.kit.strings import did_you_mean
from tocsin.model.alert import CHANNEL_ALERT, CHANNEL_SEVERITY, STALLED_ALERT, STALLED_SEVERITY
from tocsin.model.event import DSS_VARIABLES, EventName
from tocsin.model.labels import Labels, Matcher, Op, matchers_text
from tocsin.routing.formula import BadFormula, names, parse
from tocsin.routing.mute import muted_by_time
from tocsin.routing.tree import Placed, matching_routes, walk

_OF_SCENARIOS = frozenset({"project", "scenario", "tags"})
_OF_EVENTS = _OF_SCENARIOS | {"scenario_name", "outcome", "trigger_type", "run_as"}
_OF_RUNS = {"event", "outcome", "trigger_type", "run_as"}
_OUTCOMES = {EventName.RUN_STARTED: "", EventName.RUN_FAILED: "FAILED", EventName.RUN_ABORTED: "ABORTED"}
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_IN_ANNOTATIONS = _OF_SCENARIOS | {
    "alertname", "severity", "dss_node", "scenario_name", "count", "starts_at", "summary", "description", "scenario_url",
    "run_url", "previous_outcome", "expected_start", "usual_duration", "last_good", "reason",
}  # fmt: skip
_YEARS_AHEAD = 8  # as far as the next 29th of February may lie
_STEP = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. ``where`` names the place for people, ``line`` stands in the file if it is known."""

    severity: Literal["error", "warning"]
    message: str
    where: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert or event that there can be: its closed labels, and the names of its open ones."""

    labels: Labels
    open: frozenset[str] = frozenset()


def lint(config: Config, now: datetime) -> list[Finding]:
    """Everything that is wrong, errors first."""
    kinds = list(_kinds(config))
    found = [*_unused(config), *_intervals(config, now), *_reporters(config), *_rules(config), *_annotations(config)]
    if config.route is not None:
        default = config.route.group_by if config.lines and ("route", "group_by") not in config.lines else None
        found += [*_routes(config.route, kinds, default), *_muted_critical(config, config.route, kinds, now)]
    found += [*_inhibitions(config, kinds), *_idle_inhibitions(config, kinds)]
    return sorted(found, key=lambda one: (one.severity != "error", one.line or 0))


def unknown_label(matchers: Iterable[Matcher], config: Config) -> str | None:
    """The first label among matchers on alerts that no alert of this configuration can have, in a sentence."""
    names = {*_names(_kinds(config)), *_OF_SCENARIOS, "alertname", "severity", "dss_node", "receiver", "channel"}
    for matcher in matchers:
        if matcher.name not in names:
            near = did_you_mean(matcher.name, names) or f"; there are {', '.join(sorted(names))}"
            return f"no alert has the label {matcher.name!r}{near}"
    return None


def _kinds(config: Config) -> Iterator[Kind]:
    """The alerts that there can be."""
    for node in _nodes(config):
        for rule in config.rules:
            labels = {**rule.labels, "alertname": rule.alert, "severity": rule.severity, "dss_node": node}
            yield Kind(labels, frozenset() if rule.kind == "node_down" else _OF_SCENARIOS)
            if rule.kind == "missed":
                yield Kind({**labels, "alertname": STALLED_ALERT, "severity": STALLED_SEVERITY})
    for channel in config.channels().values():
        own = {"receiver": channel.receiver, "channel": channel.name}
        yield Kind({**own, "alertname": CHANNEL_ALERT, "severity": CHANNEL_SEVERITY})


def _nodes(config: Config) -> list[str]:
    return [node.name for node in config.nodes] or [""]


def _unused(config: Config) -> Iterator[Finding]:
    routes = [placed.route for placed in walk(config.route)] if config.route else []
    heard = {route.receiver for route in routes} | {one.receiver for one in config.reporters}
    heard |= {config.dss_reporters.receiver or ""}
    if config.route is None and config.receivers and config.rules:
        message = (
            f"there is none, so no alert is sent to anybody; write `route: {{receiver: {config.receivers[0].name}}}`"
        )
        yield Finding("warning", message, "route", config.lines.get(("receivers",)))
    for index, receiver in enumerate(config.receivers):
        where, line = f"receiver {receiver.name}", config.lines.get(("receivers", index))
        if receiver.name not in heard:
            yield Finding("warning", "no route and no reporter uses it", where, line)
        if not receiver.channels:
            yield Finding("warning", "it has no channel, so nobody hears", where, line)
    used = {name for route in routes for name in (*route.mute_time_intervals, *route.active_time_intervals)}
    for index, interval in enumerate(config.time_intervals):
        if interval.name not in used:
            where, line = f"time interval {interval.name}", config.lines.get(("time_intervals", index))
            yield Finding("warning", "no route uses it", where, line)


# --- what can never match ------------------------------------------------------------------------------------------------


def _routes(root: Route, kinds: Sequence[Kind], default_group_by: tuple[str, ...] | None) -> Iterator[Finding]:
    """``default_group_by``: that of the root where nobody wrote one."""
    silent: set[int] = set()  # routes below a finding, which say nothing new
    apart = _told_apart(kinds, {matcher.name for placed in walk(root) for matcher in placed.route.matchers})
    for placed in walk(root):
        route, above = placed.route, placed.parent.route if placed.parent else None
        where = " ".join(("route", *route.path[1:]))
        if above is not None and id(above) in silent:
            silent.add(id(route))
            continue
        problem = _never(placed, apart, kinds) if above else None
        if problem is not None:
            silent.add(id(route))
            yield Finding("error", problem, where, route.line)
        pace = route.repeat_interval, route.group_interval
        if pace[0] < pace[1] and (above is None or pace != (above.repeat_interval, above.group_interval)):
            message = "repeat_interval is shorter than group_interval, which is the soonest that a group is told"
            yield Finding("warning", message, where, route.line)
        inherited = route.group_by == (above.group_by if above is not None else default_group_by)
        for name in () if inherited or route.group_by_all else route.group_by:
            if name not in _names(kinds):
                message = f"no alert has the label {name!r} of group_by{did_you_mean(name, _names(kinds))}"
                yield Finding("warning", message, where, route.line)


def _told_apart(kinds: Iterable[Kind], names: set[str]) -> list[Kind]:
    """The kinds as far as matchers on these labels tell them apart: of a thousand rules often a few."""
    found: dict[tuple[object, ...], Kind] = {}
    for kind in kinds:
        own = {name: kind.labels[name] for name in sorted(names) if name in kind.labels}
        found.setdefault((*own.items(), kind.open & names), Kind(own, kind.open & names))
    return list(found.values())


def _never(placed: Placed, apart: Sequence[Kind], kinds: Sequence[Kind]) -> str | None:
    """Why no alert ever takes a route; None when one may. ``apart``: the kinds that the matchers tell apart."""
    way = list(_way(placed))
    matchers = [matcher for one in way for matcher in one.route.matchers]
    alive = [kind for kind in apart if possible(matchers, kind)]
    if not alive:
        return f"no alert of these rules can match{_misspelt(matchers, kinds)}"
    thieves = [thief for one in way for thief in _earlier(one) if not thief.continues]
    for kind in alive:
        thief = next((one for one in thieves if certain(one.matchers, kind, matchers)), None)
        if thief is None:
            return None
    return f"never reached: {matchers_text(thief.matchers)} before it takes all of its alerts" if thief else None


def _way(placed: Placed) -> Iterator[Placed]:
    one: Placed | None = placed
    while one is not None:
        yield one
        one = one.parent


def _earlier(placed: Placed) -> Iterator[Route]:
    if placed.parent is None:
        return
    for sibling in placed.parent.route.routes:
        if sibling is placed.route:
            return
        yield sibling


def possible(matchers: Sequence[Matcher], kind: Kind) -> bool:
    """Whether an alert of this kind may satisfy all matchers."""
    for matcher in matchers:
        if matcher.name in kind.open:
            value = _fixed(matcher.name, matchers)
            if value is not None and not matcher.matches({matcher.name: value}):
                return False
        elif not matcher.matches(kind.labels):
            return False
    return True


def certain(matchers: Sequence[Matcher], kind: Kind, known: Sequence[Matcher]) -> bool:
    """Whether every alert of this kind that satisfies ``known`` satisfies ``matchers`` too."""
    for matcher in matchers:
        value = _fixed(matcher.name, known)
        if matcher.name in kind.open and value is None:
            if matcher not in known:
                return False
        elif not matcher.matches(kind.labels if value is None else {matcher.name: value}):
            return False
    return True


def _fixed(name: str, matchers: Iterable[Matcher]) -> str | None:
    return next((one.value for one in matchers if one.name == name and one.op is Op.EQUAL), None)


def _names(kinds: Iterable[Kind]) -> set[str]:
    """The names of the labels that these have."""
    return {name for kind in kinds for name in (*kind.labels, *kind.open)}


def _misspelt(matchers: Iterable[Matcher], kinds: Sequence[Kind]) -> str:
    """The first name or value among the matchers that there is not, if that is what is wrong."""
    names = _names(kinds)
    for matcher in matchers:
        if matcher.name not in names:
            return f": there is no label {matcher.name!r}{did_you_mean(matcher.name, names)}"
        if not any(possible([matcher], kind) for kind in kinds):
            values = {kind.labels.get(matcher.name, "") for kind in kinds}
            return f": {matcher.name} is never {matcher.value!r}{did_you_mean(matcher.value, values)}"
    return ""


def _inhibitions(config: Config, kinds: Sequence[Kind]) -> Iterator[Finding]:
    for index, rule in enumerate(config.inhibit_rules):
        line = config.lines.get(("inhibit_rules", index))
        if config.lines and line is None:
            continue  # the shipped ones, of which some may have nothing to do here
        for side, matchers in (("source", rule.source_matchers), ("target", rule.target_matchers)):
            if not any(possible(matchers, kind) for kind in kinds):
                why = f"its {side} {matchers_text(matchers)}{_misspelt(matchers, kinds)}"
                yield Finding("warning", f"no alert of these rules can match {why}", "inhibit_rules", line)
        for name in rule.equal:
            if name not in _names(kinds):
                near = did_you_mean(name, _names(kinds))
                message = f"no alert has the label {name!r} of equal, so it is equal everywhere{near}"
                yield Finding("warning", message, "inhibit_rules", line)


def _idle_inhibitions(config: Config, kinds: Sequence[Kind]) -> Iterator[Finding]:
    """Inhibit rules whose sides can both match, and which yet inhibit nothing."""
    for index, rule in enumerate(config.inhibit_rules):
        line = config.lines.get(("inhibit_rules", index))
        if config.lines and line is None:
            continue  # the shipped ones, of which some may have nothing to do here
        sources = [kind for kind in kinds if possible(rule.source_matchers, kind)]
        targets = [kind for kind in kinds if possible(rule.target_matchers, kind)]
        if not sources or not targets:
            continue  # said by _inhibitions
        if _same_side(rule, sources, targets):
            message = (
                "it inhibits nothing: whatever matches its source matches its target and the other way round, and such "
                "alerts do not inhibit one another"
            )
            yield Finding("warning", message, "inhibit_rules", line)
            continue
        for name in rule.equal if _names_alerts(rule) else ():
            lacking = [not any(_has(name, kind) for kind in kinds) for kinds in (sources, targets)]
            if lacking in ([True, False], [False, True]) and name != "tags":
                side, other = ("source", "target") if lacking[0] else ("target", "source")
                message = f"it inhibits nothing: its {side} never has the label {name!r} of equal, and its {other} has"
                yield Finding("warning", message, "inhibit_rules", line)


def _same_side(rule: InhibitRule, sources: Sequence[Kind], targets: Sequence[Kind]) -> bool:
    forth = all(certain(rule.target_matchers, kind, rule.source_matchers) for kind in sources)
    return forth and all(certain(rule.source_matchers, kind, rule.target_matchers) for kind in targets)


def _names_alerts(rule: InhibitRule) -> bool:
    """Whether its sides are meant for certain alerts; one on severities alone may be there for rules to come."""
    return all(
        any(matcher.name == "alertname" for matcher in side) for side in (rule.source_matchers, rule.target_matchers)
    )


def _has(name: str, kind: Kind) -> bool:
    return name in kind.open or bool(kind.labels.get(name))


# --- time ----------------------------------------------------------------------------------------------------------------


def _intervals(config: Config, now: datetime) -> Iterator[Finding]:
    for index, interval in enumerate(config.time_intervals):
        where, line = f"time interval {interval.name}", config.lines.get(("time_intervals", index))
        if not interval.time_intervals:
            yield Finding("error", "it is empty", where, line)
        for times in interval.time_intervals:
            days = TimeInterval(interval.name, (replace(times, times=None),))
            if not any(_inside(days, now + timedelta(days=day)) for day in range(_YEARS_AHEAD * 366)):
                message = f"one of its entries holds no day in the next {_YEARS_AHEAD} years"
                yield Finding("warning", message, where, line)


def _inside(interval: TimeInterval, now: datetime) -> bool:
    return any(contains(times, now) for times in interval.time_intervals)


def _muted_critical(config: Config, root: Route, kinds: Sequence[Kind], now: datetime) -> Iterator[Finding]:
    """Critical alerts that at some hour only mute routes would hear; of open labels an unheard-of value is tried."""
    intervals = {interval.name: interval for interval in config.time_intervals}
    seen: set[tuple[int, ...]] = set()
    for kind in kinds:
        if kind.labels["severity"] != "critical":
            continue
        routes = matching_routes(root, {**kind.labels, **dict.fromkeys(kind.open, "?")})
        timed = [route for route in routes if route.mute_time_intervals or route.active_time_intervals]
        if not routes or len(timed) < len(routes) or tuple(map(id, routes)) in seen:
            continue
        seen.add(tuple(map(id, routes)))
        moments = (now + step * _STEP for step in range(2 * 24 * 366))
        mute = next((one for one in moments if all(muted_by_time(route, intervals, one) for route in timed)), None)
        if mute is not None:
            name = kind.labels["alertname"]
            message = f"a critical {name} would be told to nobody at {mute:%A %H:%M} UTC: every route that hears it is mute then"
            yield Finding("warning", message, "route " + matchers_text(routes[0].matchers), routes[0].line)


# --- rules and reporters -------------------------------------------------------------------------------------------------


def _rules(config: Config) -> Iterator[Finding]:
    known: dict[tuple[object, ...], list[Rule]] = {}  # by what an alert's identity takes from its rule
    kinds = [Kind({"event": "", "dss_node": node}, _OF_EVENTS | {"event"}) for node in _nodes(config)]
    for index, rule in enumerate(config.rules):
        where, line = f"rule {rule.alert}", config.lines.get(("rules", index))
        same = known.setdefault((rule.alert, rule.severity, tuple(sorted(rule.labels.items()))), [])
        if any(other.match == rule.match for other in same):
            message = "another rule has the same alert name, severity, matchers and labels; give one a label"
            yield Finding("error", message, where, line)
        elif any(_overlap(other, rule, kind) for other in same for kind in kinds):
            message = (
                "another rule of the same alert name, severity and labels holds for the same scenarios, and the two "
                "share one alert; give one a label or another severity"
            )
            yield Finding("warning", message, where, line)
        same.append(rule)
        if not any(possible(rule.match, kind) for kind in kinds):
            message = f"no scenario can match {matchers_text(rule.match)}{_misspelt(rule.match, kinds)}"
            yield Finding("error", message, where, line)
        one_run = sorted({matcher.name for matcher in rule.match} & _OF_RUNS)
        if rule.kind in ("missed", "stale") and one_run:
            message = f"it judges scenarios, which have no {' and no '.join(one_run)}; take it out of its match"
            yield Finding("warning", message, where, line)
        elif rule.kind in ("failed", "overlong") and {"event", "outcome"} & set(one_run):
            message = f"its match on {' and '.join(one_run)} also hides the runs that would end its alerts"
            yield Finding("warning", message, where, line)


def _overlap(one: Rule, other: Rule, kind: Kind) -> bool:
    """Whether all that one of two rules watches is watched by the other too."""
    if (one.kind == "node_down") is not (other.kind == "node_down") or not possible([*one.match, *other.match], kind):
        return False
    return certain(one.match, kind, other.match) or certain(other.match, kind, one.match)


def _annotations(config: Config) -> Iterator[Finding]:
    for index, rule in enumerate(config.rules):
        known = _IN_ANNOTATIONS | rule.labels.keys()
        for name, text in rule.annotations.items():
            line = config.lines.get(("rules", index, "annotations", name), config.lines.get(("rules", index)))
            for variable in sorted(set(_VARIABLE.findall(text)) - known):
                message = (
                    f"its annotation {name!r} names ${{{variable}}}, which no alert has{did_you_mean(variable, known)}"
                )
                yield Finding("warning", message, f"rule {rule.alert}", line)


def _reporters(config: Config) -> Iterator[Finding]:
    for index, reporter in enumerate(config.reporters):
        where, line = f"reporter {reporter.name}", config.lines.get(("reporters", index))
        kinds = list(_told(config, reporter))
        if not any(possible(reporter.match, kind) for kind in kinds):
            message = f"none of its events can match {matchers_text(reporter.match)}{_misspelt(reporter.match, kinds)}"
            yield Finding("error", message, where, line)
        if reporter.condition:
            line = config.lines.get(("reporters", index, "condition"), line)
            try:
                unknown = sorted(names(parse(reporter.condition)) - DSS_VARIABLES)
            except BadFormula as error:
                message = f"its condition cannot be read and counts as true: {error}"
                yield Finding("error", message, where, line)
                continue
            for name in unknown:
                message = (
                    f"its condition counts as true: only DSS knows {name!r}{did_you_mean(name, sorted(DSS_VARIABLES))}"
                )
                yield Finding("warning", message, where, line)


def _told(config: Config, reporter: Reporter) -> Iterator[Kind]:
    """The events that a reporter hears."""
    for node in _nodes(config):
        for name in sorted(reporter.on):
            labels = {"event": name.value, "dss_node": node, "outcome": _OUTCOMES.get(name, "")}
            about_nodes = name in (EventName.NODE_DOWN, EventName.NODE_UP)
            yield Kind(
                labels, frozenset() if about_nodes else _OF_EVENTS - ({"outcome"} if name in _OUTCOMES else set())
            )
