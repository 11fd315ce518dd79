"""What keeps an alert from being told: inhibition, time intervals, silences; in this order, as in Alertmanager."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from tocsin.config.intervals import TimeInterval, contains
from tocsin.config.model import InhibitRule, Route
from tocsin.model.alert import Silence
from tocsin.model.decision import DecisionReason
from tocsin.model.labels import Labels, Matcher, all_match
from tocsin.model.matcher_index import MatcherIndex, set_bits


@dataclass(frozen=True, slots=True)
class Muted:
    """Why something is not told."""

    reason: DecisionReason  # inhibited, muted_time or silenced
    note: str


class Inhibitor:
    """Inhibit rules with what fires now, found by the values of their ``equal`` labels."""

    def __init__(self, rules: Sequence[InhibitRule], firing: Sequence[Labels]) -> None:
        self._rules = [(rule, self._sources(rule, firing)) for rule in rules]

    @staticmethod
    def _sources(rule: InhibitRule, firing: Sequence[Labels]) -> dict[tuple[str, ...], list[Labels]]:
        found: dict[tuple[str, ...], list[Labels]] = {}
        for labels in firing:
            if all_match(rule.source_matchers, labels):
                found.setdefault(_values(rule, labels), []).append(labels)
        return found

    def inhibits(self, labels: Labels) -> Muted | None:
        """Whether a firing alert inhibits this one. An alert that is source and target of a rule does not inhibit
        others of that kind, itself least of all."""
        for rule, sources in self._rules:
            near = sources.get(_values(rule, labels))
            if not near or not all_match(rule.target_matchers, labels):
                continue
            both_sides = all_match(rule.source_matchers, labels)
            for source in near:
                if not (both_sides and all_match(rule.target_matchers, source)):
                    return Muted(DecisionReason.INHIBITED, f"by {source.get('alertname', 'an alert')}")
        return None


def _values(rule: InhibitRule, labels: Labels) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in rule.equal)


def muted_by_time(route: Route, intervals: Mapping[str, TimeInterval], now: datetime) -> Muted | None:
    """Whether the route is mute at ``now``: outside all of its active intervals, or inside one of its mute ones."""
    active = route.active_time_intervals
    if active and not any(_inside(intervals, name, now) for name in active):
        return Muted(DecisionReason.MUTED_TIME, f"outside {', '.join(active)}")
    for name in route.mute_time_intervals:
        if _inside(intervals, name, now):
            return Muted(DecisionReason.MUTED_TIME, f"in {name}")
    return None


@lru_cache(maxsize=2)
def _index(conditions: tuple[tuple[Matcher, ...], ...]) -> MatcherIndex:
    return MatcherIndex(conditions)  # from one flush to the next they are mostly the same


class Silencer:
    """The silences that hold now, however many."""

    def __init__(self, silences: Sequence[Silence]) -> None:
        self._silences = silences
        self._index = _index(tuple(silence.matchers for silence in silences))

    def silences(self, labels: Labels) -> Muted | None:
        """Whether one of them covers the alert; the one that began first is named."""
        for place in set_bits(self._index.matching(labels)):
            silence = self._silences[place]
            why = f": {silence.comment}" if silence.comment else ""
            return Muted(DecisionReason.SILENCED, f"by silence {silence.id} of {silence.created_by}{why}")
        return None


def _inside(intervals: Mapping[str, TimeInterval], name: str, now: datetime) -> bool:
    interval = intervals.get(name)
    return interval is not None and any(contains(times, now) for times in interval.time_intervals)
