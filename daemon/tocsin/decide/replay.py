"""Replay: what a configuration would have sent for the stored history. The functions of the decide stage on a scratch
store, in its own time; nothing is sent.

Events are decided at the moments at which they were. Starts and good ends that open or end nothing share a
transaction, a few minutes of them. What polls saw when is not stored, so rules about time see every scenario as freshly polled.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import merge
from itertools import groupby
from operator import attrgetter

from tocsin.config.model import Channel, Config
from tocsin.decide.causes import apply_cause_changes, find_cause_changes
from tocsin.decide.decide import acknowledge, decide_new, resolve_by_hand
from tocsin.decide.evaluate import CompiledConfig, StepResult, place_of
from tocsin.decide.flush import flush
from tocsin.decide.reconcile import reconcile
from tocsin.decide.timers import UntimedScenario, apply_channel_changes, decide_time, find_untimed
from tocsin.model.alert import Alert, EndReason
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.event import END_EVENTS, EventName, is_good
from tocsin.model.labels import all_match
from tocsin.model.notification import Notification
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.rules.rule import Fired, Resolved
from tocsin.store import Connection, alerts, history, runs, starts
from tocsin.store.groups import next_flush
from tocsin.store.history import DecidedEvent
from tocsin.store.runs import RunRow

_WARM_UP = timedelta(days=1)  # decided before the time that was asked for, so that rules know what went before
_WINDOW = timedelta(minutes=5)  # events that change no alert share a transaction
_MOST_AT_ONCE = 200
_FIND_UNTIMED_EVERY = timedelta(hours=1)
_CHANGES = (DecisionReason.FIRING, DecisionReason.RESOLVED)
_INSTANT = timedelta(milliseconds=1)

Apply = Callable[[Connection], object]
Change = tuple[datetime, Apply]


@dataclass(frozen=True, slots=True)
class Replay:
    """``since`` is later than asked for where the history begins later, which is then ``pruned``."""

    since: datetime
    until: datetime
    events: int
    would_send: list[Notification]
    sent: list[Notification]
    pruned: bool


def replay_history(
    source: Connection, config: Config, since: datetime, until: datetime, mail_channels: Sequence[Channel] = ()
) -> Replay:
    """What ``config`` would have sent from ``since`` to ``until`` for the history in ``source``, and what was sent."""
    first = history.first_event(source)
    pruned = first is None or first > since
    since = min(until, max(since, first or until))
    with history.scratch() as connection:
        run = _Run(
            source, connection, CompiledConfig(config), mail_channels, max(first or since, since - _WARM_UP), until
        )
        run.go()
    would_send = [item for item in run.notifications if since <= item.created_at < until]
    return Replay(since, until, run.events, would_send, history.notifications_of(source, since, until), pruned)


@dataclass(slots=True)
class _Run:
    source: Connection
    connection: Connection
    compiled: CompiledConfig
    mail_channels: Sequence[Channel]
    begin: datetime
    until: datetime
    events: int = 0
    notifications: list[Notification] = field(default_factory=list)
    _waiting: list[DecidedEvent] = field(default_factory=list)
    _firing: set[tuple[str, str, str]] = field(default_factory=set)
    _timed_at: datetime | None = None  # when rules are due
    _flush_at: datetime | None = None  # when a group is due
    _untimed_at: datetime | None = None
    _asleep: dict[str, tuple[datetime, timedelta]] = field(
        default_factory=dict
    )  # when it would be flushed, and how often
    _window: timedelta = _WINDOW
    _causes_at: datetime | None = None
    _error_at: dict[RunKey, datetime] = field(default_factory=dict)  # when the errors of runs were read
    _silenced: list[datetime] = field(default_factory=list)  # the moments at which silences begin and end

    def go(self) -> None:
        firing = history.firing_at(self.source, self.begin)
        earlier = {key: since - _WARM_UP for key, since in firing.items()}
        first = min([self.begin, *earlier.values()])
        history.copy_fleet(self.source, self.connection, first)
        reconcile(self.connection, self.compiled, first)
        happened = history.decided_events(self.source, self.begin, self.until, earlier)
        together = ((at, list(items)) for at, items in groupby(happened, attrgetter("decided_at")))
        timeline: Iterator[tuple[datetime, list[DecidedEvent] | Apply]]
        timeline = merge(together, self._changes(first), key=lambda item: item[0])
        limits = [
            rule.longer_than or rule.least_duration for rule in self.compiled.config.rules if rule.kind == "overlong"
        ]
        self._window = min([_WINDOW, *(limit / 3 for limit in limits)])
        self._silenced = history.silence_moments(self.source)
        self._time(first)
        for at, item in timeline:
            self._advance(at)
            if callable(item):
                item(self.connection)
            elif all(self._is_quiet(decided) for decided in item):
                self._waiting += item
                if len(self._waiting) >= _MOST_AT_ONCE or at - self._waiting[0].decided_at >= self._window:
                    self._decide()
            else:
                places = {decided.event.key for decided in item}
                if None in places or any(decided.event.key in places for decided in self._waiting):
                    self._decide()
                waiting, self._waiting = self._waiting, item
                self._decide()
                self._waiting = waiting
        self._decide()
        self._advance(self.until - _INSTANT)

    def _is_quiet(self, item: DecidedEvent) -> bool:
        """Whether an event changes nothing but what rules remember."""
        event = item.event
        if event.key is None or event.key in self._firing or self.compiled.config.dss_reporters.mode != "off":
            return False
        good = event.name is EventName.RUN_FINISHED and event.run is not None and is_good(event.run.outcome)
        if event.late or not (good or event.name is EventName.RUN_STARTED):
            return False
        labels = self.compiled.event_labels(event)
        rules = self.compiled.rules_for(labels) if good else ()
        if any(str(rule.config.kind) == "short" for rule in rules):
            return False  # it fires for good runs
        return not self.compiled.reporters_for(event.name, labels)

    def _decide(self) -> None:
        """Decide the events that wait, at the moment of the last."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        now, happened = waiting[-1].decided_at, [item.event for item in waiting]
        rows: dict[RunKey, RunRow] = {}
        for event in happened:
            if event.name in (EventName.NODE_DOWN, EventName.NODE_UP):
                history.set_node(self.connection, event, up=event.name is EventName.NODE_UP)
            if event.run is not None:
                ended = event.detected_at if event.name in END_EVENTS else None
                due = ended if self._error_at.get(event.run.key, now) > now else None
                rows[event.run.key] = RunRow(
                    event.run, False, event.late, event.detected_at, end_seen_at=ended, details_due_at=due
                )
        runs.put_runs(self.connection, list(rows.values()))
        result = decide_new(self.connection, self.compiled, now, happened, self.mail_channels)
        assert result is not None  # nothing ever waits in the table
        self.events += len(happened)
        self._keep(result)
        self._wake(result, now)
        if result.decisions:
            self._find_causes(now)
        if any(event.late for event in happened):
            self._timed_at = now
        for due in filter(None, (result.next_due,)):
            self._timed_at, self._flush_at = (min(filter(None, (at, due))) for at in (self._timed_at, self._flush_at))

    def _advance(self, to: datetime) -> None:
        """Do what time makes due before ``to``."""
        while (due := min(filter(None, (self._timed_at, self._flush_at)), default=to)) < to:
            if self._timed_at == due and self._waiting:
                self._decide()
                continue
            if self._timed_at == due:
                self._time(due)
            if self._flush_at is not None and self._flush_at <= due:
                self._flush(due)

    def _find_causes(self, now: datetime) -> None:
        if self.compiled.causes:
            changes, _ = find_cause_changes(self.connection, self.compiled, now, self._causes_at)
            self._causes_at = now
            if changes:
                result = self._keep(apply_cause_changes(self.connection, self.compiled, now, changes))
                self._wake(result, now)
                self._flush_at = min(filter(None, (self._flush_at, result.next_due)), default=None)

    def _read_error(self, run: RunKey, row: history.ErrorRow, at: datetime) -> Apply:
        def apply(connection: Connection) -> None:
            self._decide()
            history.put_error(connection, run, row)
            self._find_causes(at)

        return apply

    def _time(self, now: datetime) -> None:
        untimed: Sequence[UntimedScenario] = ()
        if self._untimed_at is None or now >= self._untimed_at + _FIND_UNTIMED_EVERY:
            untimed, _ = find_untimed(self.connection, self.compiled)
            self._untimed_at = now
        result = self._keep(decide_time(self.connection, self.compiled, now, untimed))
        self._timed_at = self._again(result, now)
        self._wake(result, now)
        if result.decisions:
            self._flush_at = min(filter(None, (self._flush_at, now)))

    def _flush(self, now: datetime) -> None:
        """Flush what is due, and let groups that nothing changes sleep until they are to be notified again."""
        result = self._keep(flush(self.connection, self.compiled, now))
        notified = {item.ordering_key for item in result.notifications}
        sleeping: dict[str, datetime] = {}
        for group, last in history.flushed_groups(self.connection, now):
            route = self.compiled.router.find(group.receiver, group.path) if self.compiled.router else None
            if route is None or group.key in notified or group.flush_at is None:
                continue
            if route.escalates or route.mute_time_intervals or route.active_time_intervals:
                continue
            ends = [] if last is None else [last + route.repeat_interval + _INSTANT]
            ends += [at for at in self._silenced if at > now][:1] or [self.until]
            steps = max(0, -((group.flush_at - min(ends)) // route.group_interval))
            if steps > 0:
                self._asleep[group.key] = (group.flush_at, route.group_interval)
                sleeping[group.key] = group.flush_at + steps * route.group_interval
        history.flush_later(self.connection, sleeping)
        self._flush_at = self._again(result, now)
        if sleeping and not result.full:
            self._flush_at = next_flush(self.connection)

    def _wake(self, result: StepResult, now: datetime) -> None:
        """Have groups flushed again whose alerts changed, or whose alerts others may inhibit now or no more."""
        if not self._asleep:
            return
        decisions = [*result.decisions, *result.implied]
        keys = {item.subject for item in decisions if item.stage is Stage.ROUTE}
        changed = {item.alert_id for item in decisions if item.stage is Stage.RULE and item.reason in _CHANGES}
        if not changed:
            return
        found, inside = history.alerts_and_groups(self.connection, [id_ for id_ in changed if id_])
        rules = self.compiled.config.inhibit_rules
        if any(all_match(rule.source_matchers, labels) for rule in rules for labels in found):
            keys |= self._asleep.keys()
        self._wake_groups(keys | inside, now)

    def _wake_groups(self, keys: Set[str], now: datetime) -> None:
        awake = {key: self._asleep.pop(key) for key in keys & self._asleep.keys()}
        due = {key: first + max(0, -((first - now) // every)) * every for key, (first, every) in awake.items()}
        history.flush_later(self.connection, due)
        self._flush_at = min(filter(None, (self._flush_at, *due.values())), default=None)

    def _again(self, result: StepResult, now: datetime) -> datetime | None:
        if result.full:
            return now
        return None if result.next_due is None else max(result.next_due, now + _INSTANT)

    def _keep(self, result: StepResult) -> StepResult:
        self.notifications += result.notifications
        if result.decisions:
            self._firing = history.firing_places(self.connection)
        return result

    def _changes(self, begin: datetime) -> list[Change]:
        """What neither events nor time say: what polls saw of starts, what people did, and channels that failed."""
        changes: list[Change] = []
        for at, key, start, state in history.settled_starts(self.source, begin, self.until):
            changes.append((at, _settle(key, start, state, at)))
        self._error_at = dict.fromkeys(history.unread_errors(self.source), self.until)
        for at, failed, row in history.read_errors(self.source, begin, self.until):
            changes.append((at, self._read_error(failed, row, at)))
            self._error_at[failed] = at
        for at, key in history.gone_scenarios(self.source, begin, self.until):
            changes.append((at, self._later(_set(key, gone_at=at), at)))
        for alert in history.changes_of_alerts(self.source, begin, self.until):
            done = _of_people(alert, self.compiled.config)
            changes += [(at, self._later(change, at)) for at, change in done if begin <= at < self.until]
        for at, alert in history.channel_alerts(self.source, begin, self.until):
            changes.append((at, self._channel(Fired(alert), at)))
            if alert.ends_at is not None and alert.end_reason is not None:
                ended = Resolved(alert.id, alert.ends_at, alert.end_reason)
                changes.append((alert.ends_at, self._channel(ended, alert.ends_at)))
        return sorted(changes, key=lambda change: change[0])

    def _later(self, change: Apply, at: datetime) -> Apply:
        """A change after which everything is looked at again."""

        def apply(connection: Connection) -> None:
            self._decide()
            self._wake_groups(self._asleep.keys(), at)
            change(connection)
            self._timed_at = self._flush_at = at

        return apply

    def _channel(self, change: Fired | Resolved, at: datetime) -> Apply:
        return self._later(lambda c: self._keep(apply_channel_changes(c, self.compiled, at, [change])), at)


def _settle(key: ScenarioKey, start: datetime, state: str, at: datetime) -> Apply:
    return lambda connection: starts.close_starts(connection, [(key, start, state)], at)


def _set(key: ScenarioKey, **values: object) -> Apply:
    return lambda connection: history.set_scenario(connection, key, **values)


def _of_people(alert: Alert, config: Config) -> Iterator[Change]:
    """What was done to an alert, to be done to the one with its identity."""

    def to_firing(change: Callable[[Connection, str], object]) -> Apply:
        def apply(connection: Connection) -> object:
            id_ = alerts.firing_ids(connection).get(alert.fingerprint)
            return None if id_ is None else change(connection, id_)

        return apply

    if (held := alert.acknowledged) is not None:
        yield held.at, to_firing(lambda connection, id_: acknowledge(connection, id_, held, held.at))
    if (at := alert.ends_at) is None:
        return
    if alert.end_reason is EndReason.BY_HAND:
        yield at, to_firing(lambda connection, id_: resolve_by_hand(connection, id_, at, config))
    elif alert.end_reason is EndReason.DEACTIVATED:
        key = ScenarioKey(*place_of(alert))
        yield alert.starts_at, _set(key, active=True)
        yield at, _set(key, active=False)
