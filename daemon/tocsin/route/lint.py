"""What is wrong with a configuration of rules, routes and reporters although it can be read.

Closed labels (``alertname``, ``severity``, ``dss_node``, the rules' own) have few values, which the configuration
names; so what can never match is known for certain. Of open ones (``project``, ``scenario``, ``tags``) only what two
matchers say of each other is used: a finding is never a guess.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Literal

from tocsin.model.alert import CHANNEL_ALERT, CHANNEL_SEVERITY, STALLED_ALERT, STALLED_SEVERITY
from tocsin.model.config import Config, Route, Rule, TimeInterval
from tocsin.model.labels import Labels, Matcher, Op, matchers_text
from tocsin.route.formula import BadFormula, parse
from tocsin.route.intervals import contains
from tocsin.route.mute import muted_by_time
from tocsin.route.tree import Placed, matching_routes, walk

OPEN_LABELS = frozenset({"project", "scenario", "tags"})
_BUILT_IN = OPEN_LABELS | {"alertname", "severity", "dss_node"}
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
    """A kind of alert that the rules can make: its closed labels, and whether it speaks of a scenario."""

    labels: Labels
    of_scenario: bool


def lint(config: Config, now: datetime) -> list[Finding]:
    """Everything that is wrong, errors first."""
    kinds = list(_kinds(config))
    found = [*_names(config), *_intervals(config, now), *_reporters(config), *_rules(config)]
    if config.route is not None:
        found += [*_routes(config, config.route, kinds), *_muted_critical(config, config.route, kinds, now)]
    found += _inhibitions(config, kinds)
    return sorted(found, key=lambda one: (one.severity != "error", one.line or 0))


def _kinds(config: Config) -> Iterator[Kind]:
    nodes = [node.name for node in config.nodes] or [""]
    for node in nodes:
        for rule in config.rules:
            labels = {**rule.labels, "alertname": rule.alert, "severity": rule.severity, "dss_node": node}
            yield Kind(labels, rule.kind != "node_down")
            if rule.kind == "missed":
                yield Kind({**labels, "alertname": STALLED_ALERT, "severity": STALLED_SEVERITY}, False)
    for channel in config.channels().values():
        own = {"receiver": channel.receiver, "channel": channel.name}
        yield Kind({**own, "alertname": CHANNEL_ALERT, "severity": CHANNEL_SEVERITY}, False)


# --- names ---------------------------------------------------------------------------------------------------------------


def _names(config: Config) -> Iterator[Finding]:
    known = {receiver.name for receiver in config.receivers}
    placed = list(walk(config.route)) if config.route else []
    asked = [(one.route.receiver, _where(one), one.route.line) for one in placed]
    asked += [(one.receiver, f"reporter {one.name}", None) for one in config.reporters]
    if config.dss_reporters.receiver is not None:
        asked.append((config.dss_reporters.receiver, "dss_reporters", None))
    for name, where, line in asked:
        if name not in known:
            yield Finding("error", f"the receiver {name!r} is not defined{_meant(name, known)}", where, line)
    for receiver in config.receivers:
        if receiver.name not in {name for name, _, _ in asked}:
            yield Finding("warning", "no route and no reporter uses it", f"receiver {receiver.name}")
        if not receiver.channels:
            yield Finding("warning", "it has no channel, so nobody hears", f"receiver {receiver.name}")
    intervals = {interval.name for interval in config.time_intervals}
    used: set[str] = set()
    for one in placed:
        for name in (*one.route.mute_time_intervals, *one.route.active_time_intervals):
            used.add(name)
            if name not in intervals:
                message = f"the time interval {name!r} is not defined{_meant(name, intervals)}"
                yield Finding("error", message, _where(one), one.route.line)
    for name in sorted(intervals - used):
        yield Finding("warning", "no route uses it", f"time interval {name}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


# --- routes --------------------------------------------------------------------------------------------------------------


def _routes(config: Config, root: Route, kinds: Sequence[Kind]) -> Iterator[Finding]:
    if root.matchers or root.continues or root.mute_time_intervals or root.active_time_intervals:
        message = "the root route takes no matchers, no continue and no time intervals: every alert ends there"
        yield Finding("error", message, "route", root.line)
    silent: set[int] = set()  # routes below a finding, which say nothing new
    for placed in walk(root):
        if placed.parent is not None and id(placed.parent.route) in silent:
            silent.add(id(placed.route))
            continue
        problem = _never(placed, kinds) if placed.parent else None
        if problem is not None:
            silent.add(id(placed.route))
            yield Finding("error", problem, _where(placed), placed.route.line)
        if placed.route.repeat_interval < placed.route.group_interval:
            message = "repeat_interval is shorter than group_interval, which is the soonest that a group is told"
            yield Finding("warning", message, _where(placed), placed.route.line)
        for name in placed.route.group_by:
            if not _exists(name, kinds):
                yield Finding(
                    "warning", f"no alert has the label {name!r} of group_by", _where(placed), placed.route.line
                )


def _never(placed: Placed, kinds: Sequence[Kind]) -> str | None:
    """Why no alert ever takes a route; None when one may."""
    way = list(_way(placed))
    matchers = [matcher for one in way for matcher in one.route.matchers]
    alive = [kind for kind in kinds if possible(matchers, kind)]
    if not alive:
        return "no alert of these rules can match"
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
        if _is_open(matcher.name, kind):
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
        if _is_open(matcher.name, kind) and value is None:
            if matcher not in known:
                return False
        elif not matcher.matches(kind.labels if value is None else {matcher.name: value}):
            return False
    return True


def _is_open(name: str, kind: Kind) -> bool:
    return kind.of_scenario and name in OPEN_LABELS


def _fixed(name: str, matchers: Iterable[Matcher]) -> str | None:
    return next((one.value for one in matchers if one.name == name and one.op is Op.EQUAL), None)


def _exists(name: str, kinds: Sequence[Kind]) -> bool:
    return name in _BUILT_IN or any(name in kind.labels for kind in kinds)


def _where(placed: Placed) -> str:
    return "route " + " ".join(placed.route.path) if placed.parent else "route"


def _inhibitions(config: Config, kinds: Sequence[Kind]) -> Iterator[Finding]:
    for rule in config.inhibit_rules:
        for side, matchers in (("source", rule.source_matchers), ("target", rule.target_matchers)):
            if not any(possible(matchers, kind) for kind in kinds):
                message = f"no alert of these rules can match its {side} {matchers_text(matchers)}"
                yield Finding("warning", message, "inhibit_rules")


# --- time ----------------------------------------------------------------------------------------------------------------


def _intervals(config: Config, now: datetime) -> Iterator[Finding]:
    for interval in config.time_intervals:
        where = f"time interval {interval.name}"
        if not interval.time_intervals:
            yield Finding("error", "it is empty", where)
        for times in interval.time_intervals:
            days = TimeInterval(interval.name, (replace(times, times=None),))
            if not any(_inside(days, now + timedelta(days=day)) for day in range(_YEARS_AHEAD * 366)):
                message = f"one of its entries holds no day in the next {_YEARS_AHEAD} years"
                yield Finding("warning", message, where)


def _inside(interval: TimeInterval, now: datetime) -> bool:
    return any(contains(times, now) for times in interval.time_intervals)


def _muted_critical(config: Config, root: Route, kinds: Sequence[Kind], now: datetime) -> Iterator[Finding]:
    """Critical alerts that at some hour only mute routes would hear; of open labels an unheard-of value is tried."""
    intervals = {interval.name: interval for interval in config.time_intervals}
    seen: set[tuple[int, ...]] = set()
    for kind in kinds:
        if kind.labels["severity"] != "critical":
            continue
        unheard_of = dict.fromkeys(OPEN_LABELS, "?") if kind.of_scenario else {}
        routes = matching_routes(root, {**kind.labels, **unheard_of})
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
    known: dict[tuple[object, ...], Rule] = {}
    for rule in config.rules:
        where = f"rule {rule.alert}"
        identity = (rule.alert, tuple(sorted(rule.labels.items())))
        if identity in known and known[identity].match == rule.match:
            yield Finding("error", "another rule has the same alert name, matchers and labels; give one a label", where)
        known.setdefault(identity, rule)
        one_run = sorted({matcher.name for matcher in rule.match} & {"event", "outcome"})
        if rule.kind in ("failed", "overlong", "missed") and one_run:
            message = f"its match on {' and '.join(one_run)} also hides the runs that would end its alerts"
            yield Finding("warning", message, where)
        if rule.kind == "overlong" and rule.times_usual is None and rule.longer_than is None:
            yield Finding("error", "an overlong rule needs times_usual or longer_than", where)
        if rule.kind == "stale" and rule.no_success_for is None:
            yield Finding("error", "a stale rule needs no_success_for", where)


def _reporters(config: Config) -> Iterator[Finding]:
    for reporter in config.reporters:
        if reporter.condition:
            try:
                parse(reporter.condition)
            except BadFormula as error:
                message = f"its condition cannot be read and counts as true: {error}"
                yield Finding("error", message, f"reporter {reporter.name}")
