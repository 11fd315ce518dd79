"""The stages between a group of alerts and a notification: inhibition, time intervals, silences, deduplication. Pure.

Deduplication decides as Alertmanager's notification log does, by fingerprints: an alert that ended and fired again
between two flushes is not sent again. Source: Alertmanager's documentation, and its behaviour beside ours in a test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from tocsin.config.intervals import TimeInterval, contains
from tocsin.config.model import Channel, Config, InhibitRule, Route
from tocsin.model.alert import NOT_SUPPRESSED, UNRELATED, NotificationLogEntry, Related, Silence, SuppressedBy
from tocsin.model.decision import DecisionReason
from tocsin.model.labels import Labels, all_match
from tocsin.model.matcher_index import MatcherIndex, set_bits
from tocsin.model.run import ScenarioKey
from tocsin.routing.tree import matching_routes, walk

RETENTION = timedelta(hours=120)  # of an entry of the notification log, at most
MAINTENANCE = timedelta(minutes=15)  # Alertmanager drops an entry at the first maintenance after its time


@dataclass(frozen=True, slots=True)
class NotifyDecision:
    """What a stage says of a notification, and why; ``log``: whether the notification log gets a new entry.

    ``by``: what suppresses it, as in ``SuppressedBy``.
    """

    reason: DecisionReason
    note: str | None = None
    send: bool = False
    log: bool = False
    by: tuple[str, ...] = ()


class Inhibitor:
    """Inhibit rules with what fires now, by alert id, found by the values of their ``equal`` labels; and what
    else inhibits."""

    def __init__(
        self, rules: Sequence[InhibitRule], firing: Mapping[str, Labels], related: Related = UNRELATED
    ) -> None:
        self._related = related
        self._upstream = [rule for rule in rules if rule.upstream]
        self._rules: list[tuple[InhibitRule, dict[tuple[str, ...], list[tuple[str, Labels]]]]] = []
        for rule in (rule for rule in rules if not rule.upstream):
            sources: dict[tuple[str, ...], list[tuple[str, Labels]]] = {}
            for alert_id, labels in firing.items():
                if all_match(rule.source_matchers, labels):
                    sources.setdefault(_values(rule, labels), []).append((alert_id, labels))
            self._rules.append((rule, sources))

    def inhibits(self, labels: Labels) -> NotifyDecision | None:
        """Whether a firing alert inhibits this one."""
        return self.by_rules(labels) or self.by_relation(labels)

    def by_rules(self, labels: Labels) -> NotifyDecision | None:
        """As Alertmanager's rules have it. An alert that is source and target of a rule does not inhibit others of that
        kind, itself least of all."""
        for rule, sources in self._rules:
            near = sources.get(_values(rule, labels))
            if not near or not all_match(rule.target_matchers, labels):
                continue
            both_sides = all_match(rule.source_matchers, labels)
            for alert_id, source in near:
                if not (both_sides and all_match(rule.target_matchers, source)):
                    note = f"by {source.get('alertname', 'an alert')}"
                    return NotifyDecision(DecisionReason.INHIBITED, note, by=(alert_id,))
        return None

    def by_relation(self, labels: Labels) -> NotifyDecision | None:
        """By the alert of a scenario that this one's follows, or of a common cause."""
        if not self._related.upstream and not self._related.causes:
            return None
        key = ScenarioKey(*(labels.get(name, "") for name in ("dss_node", "project", "scenario")))
        if (found := self._related.upstream.get(key)) is not None:
            alert_id, source = found
            if any(
                all_match(rule.target_matchers, labels) and all_match(rule.source_matchers, source)
                for rule in self._upstream
            ):
                name, project, scenario = (source.get(name, "") for name in ("alertname", "project", "scenario"))
                note = f"by {name} of {project}/{scenario}, which it follows"
                return NotifyDecision(DecisionReason.INHIBITED, note, by=(alert_id,))
        if labels.get("alertname") in self._related.caused:
            for alert_id, source, match in self._related.causes.get(key, ()):
                if all_match(match, labels):
                    note = f"by {source['alertname']}, which has the same error"
                    return NotifyDecision(DecisionReason.INHIBITED, note, by=(alert_id,))
        return None


def _values(rule: InhibitRule, labels: Labels) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in rule.equal)


def muted_by_time(route: Route, intervals: Mapping[str, TimeInterval], now: datetime) -> NotifyDecision | None:
    """Whether the route is mute at ``now``: outside all of its active intervals, or inside one of its mute ones."""

    def inside(name: str) -> bool:
        return name in intervals and any(contains(times, now) for times in intervals[name].time_intervals)

    active = route.active_time_intervals
    if active and not any(map(inside, active)):
        return NotifyDecision(DecisionReason.MUTED_TIME, f"outside {', '.join(active)}", by=active)
    muting = next(filter(inside, route.mute_time_intervals), None)
    return None if muting is None else NotifyDecision(DecisionReason.MUTED_TIME, f"in {muting}", by=(muting,))


class Silencer:
    """The silences that hold now, however many."""

    def __init__(self, silences: Sequence[Silence]) -> None:
        self._silences = silences
        self._index = _index(tuple(silence.matchers for silence in silences))

    def silences(self, labels: Labels) -> NotifyDecision | None:
        """Whether they cover the alert; the one that began first is named in words."""
        covering = [self._silences[place] for place in set_bits(self._index.matching(labels))]
        if not covering:
            return None
        first = covering[0]
        why = f": {first.comment}" if first.comment else ""
        note = f"by silence {first.id} of {first.created_by}{why}"
        return NotifyDecision(DecisionReason.SILENCED, note, by=tuple(silence.id for silence in covering))


_index = lru_cache(maxsize=2)(MatcherIndex)  # from one flush to the next silences are mostly the same


class Suppressor:
    """What suppresses alerts at a moment: ``silences`` that hold, ``firing`` alerts by id and ``related`` ones that may
    inhibit, and time."""

    def __init__(
        self,
        config: Config,
        silences: Sequence[Silence],
        firing: Mapping[str, Labels],
        now: datetime,
        related: Related = UNRELATED,
    ) -> None:
        self._silencer, self._inhibitor = Silencer(silences), Inhibitor(config.inhibit_rules, firing, related)
        intervals = {interval.name: interval for interval in config.time_intervals}
        placed = list(walk(config.route)) if config.route and intervals else []
        muted = {id(placed.route): muted_by_time(placed.route, intervals, now) for placed in placed}
        self._muted = {route: decision for route, decision in muted.items() if decision is not None}
        self._root = config.route if self._muted else None

    def muted_routes(self, labels: Labels) -> list[tuple[str, NotifyDecision | None]]:
        """The receivers of the routes that take an alert, and what mutes them; empty when nothing mutes anybody."""
        routes = matching_routes(self._root, labels) if self._root else ()
        return [(route.receiver, self._muted.get(id(route))) for route in routes]

    def others(self, labels: Labels) -> list[NotifyDecision]:
        """What inhibits and what silences an alert."""
        return list(filter(None, (self._inhibitor.inhibits(labels), self._silencer.silences(labels))))

    def suppressed_by(self, labels: Labels) -> SuppressedBy:
        by = {decision.reason: decision.by for decision in self.others(labels)}
        muted = [decision for _, decision in self.muted_routes(labels)]
        names = dict.fromkeys(name for decision in muted if decision for name in decision.by) if all(muted) else ()
        if not by and not names:
            return NOT_SUPPRESSED
        return SuppressedBy(by.get(DecisionReason.SILENCED, ()), by.get(DecisionReason.INHIBITED, ()), tuple(names))


def deduplicate(
    last: NotificationLogEntry | None, current: NotificationLogEntry, channel: Channel, route: Route
) -> NotifyDecision:
    """Whether a channel is notified of the alerts of ``current``, whose ``at`` is now; ``last`` is its log entry."""
    firing, resolved, now = current.firing, current.resolved, current.at
    # An entry is in use for twice the repeat interval, five days at most, and until the next flush in any case.
    use = max(min(RETENTION, 2 * route.repeat_interval), route.group_interval)
    expired = last is None or last.at + use + MAINTENANCE <= now
    if last is None or (
        expired and last.firing.isdisjoint(resolved)
    ):  # the end of what was sent as firing always counts
        return _send(DecisionReason.FIRST) if firing else _UNSENT
    if not firing <= last.firing:
        return _send(DecisionReason.NEW_ALERTS)
    if not firing and not last.firing:
        return _UNSENT
    if not firing and not channel.send_resolved:
        return NotifyDecision(DecisionReason.NO_CHANGE, "send_resolved is off", log=True)
    if not firing or (channel.send_resolved and not resolved <= last.resolved):
        return _send(DecisionReason.RESOLVED)
    if not current.flapping <= last.flapping:
        return _send(DecisionReason.FLAPPING)
    if channel.keeps_state and current.acknowledged != last.acknowledged & firing:
        return _send(DecisionReason.ACKNOWLEDGED)
    if last.at < now - route.repeat_interval:
        if firing <= current.acknowledged:  # somebody has it: the entry goes on without a notification
            return NotifyDecision(DecisionReason.NO_CHANGE, "acknowledged", log=True)
        return _send(DecisionReason.REPEAT)
    return NotifyDecision(DecisionReason.NO_CHANGE)


_UNSENT = NotifyDecision(DecisionReason.NO_CHANGE, "it ended before a notification was sent")


def _send(reason: DecisionReason) -> NotifyDecision:
    return NotifyDecision(reason, send=True, log=True)
