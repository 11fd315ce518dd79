"""The decide stage: events and time → alerts → notifications.

``Decider.step`` makes one transaction of each part of its work: undecided events, what is due by time alone, channels
that do not deliver, groups that are due. Each is a function of (connection, compiled configuration, now) that returns
what it did; counters and log lines follow only when it has committed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Counter

from tocsin.config.model import Channel, Config
from tocsin.decide.evaluate import CompiledConfig, RuleEvaluation, StepResult
from tocsin.decide.flush import flush
from tocsin.decide.reconcile import reconcile
from tocsin.decide.reporters import ReporterEvaluation, mail_channels
from tocsin.decide.timers import apply_channel_changes, decide_time, find_channel_changes, find_untimed
from tocsin.model.alert import Alert, EndReason
from tocsin.model.decision import FLUSHES, SUPPRESSIONS, Decision, DecisionReason, Stage
from tocsin.model.event import event_labels
from tocsin.model.run import ScenarioKey
from tocsin.store import Connection, Store, alerts, events, rule_states
from tocsin.store.rule_states import RuleStateRow, StateKey
from tocsin.store.writer import Leadership

log = structlog.get_logger(__name__)

BATCH = 500
_FIND_UNTIMED_EVERY = timedelta(minutes=1)
_CHECK_CHANNELS_EVERY = timedelta(seconds=10)
# Frequent decisions, logged at debug level.
_USUAL = frozenset({DecisionReason.CONDITION, DecisionReason.NO_CHANGE, DecisionReason.ROUTED})


class DecideMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.suppressed = Counter(
            "tocsin_notifications_suppressed_total", "Notifications that were not enqueued, by reason", ["reason"],
            registry=registry,
        )  # fmt: skip
        for reason in SUPPRESSIONS:
            self.suppressed.labels(reason.value)
        self.decisions = Counter(
            "tocsin_decisions_total", "Decisions of rules, reporters, routes and groups, by reason", ["stage", "reason"],
            registry=registry,
        )  # fmt: skip
        for reason in FLUSHES:
            self.decisions.labels(Stage.FLUSH.value, reason.value)
        self.rule_errors = Counter(
            "tocsin_rule_errors_total", "Rules that failed on one scenario or node", ["rule"], registry=registry
        )

    def count(self, stage: Stage, reason: DecisionReason, count: int = 1) -> None:
        self.decisions.labels(stage.value, reason.value).inc(count)
        if reason in SUPPRESSIONS:
            self.suppressed.labels(reason.value).inc(count)


class Decider:
    """Keeps nothing between two steps but the compiled configuration, and when two periodic queries were last made."""

    def __init__(
        self, store: Store, leadership: Leadership, metrics: DecideMetrics, wake_sender: Callable[[], None]
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._metrics = metrics
        self._wake_sender = wake_sender
        self._compiled: CompiledConfig | None = None
        self._untimed_at: datetime | None = None
        self._channels_at: datetime | None = None

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Decide what waits; returns when it is worth calling again, ``now`` when more waits already.

        Raises ``StoreUnavailable`` and ``NotLeader``; then nothing of the failed transaction has happened.
        """
        compiled = self._compiled
        if compiled is None or compiled.config is not config:
            compiled = CompiledConfig(config)
            await self._write(reconcile, compiled, now)
            self._compiled, self._untimed_at = compiled, None

        mail = await mail_channels(config)
        decided = await self._write(partial(decide_events, mail_channels=mail), compiled, now)

        find_untimed_now = _is_due(self._untimed_at, _FIND_UNTIMED_EVERY, now)
        untimed = await self._store.read(find_untimed, compiled) if find_untimed_now else ()
        self._untimed_at = now if find_untimed_now else self._untimed_at
        timed = await self._write(partial(decide_time, untimed=untimed), compiled, now)

        if _is_due(self._channels_at, _CHECK_CHANNELS_EVERY, now):
            if changes := await self._store.read(find_channel_changes, compiled, now, self._channels_at):
                await self._write(partial(apply_channel_changes, changes=changes), compiled, now)
            self._channels_at = now

        flushed = await self._write(flush, compiled, now)
        if decided.full or timed.full or flushed.full:
            return now
        return min(filter(None, (timed.next_due, flushed.next_due)), default=None)

    async def _write(
        self,
        work: Callable[[Connection, CompiledConfig, datetime], StepResult],
        compiled: CompiledConfig,
        now: datetime,
    ) -> StepResult:
        result = await self._store.write_guarded(self._leadership.guard, work, compiled, now)
        line = log.bind()
        verbose = line.is_enabled_for(logging.DEBUG)
        for decision in result.decisions:
            self._metrics.count(decision.stage, decision.reason)
            usual = decision.reason in _USUAL
            if not usual or verbose:
                facts = (
                    ("stage", decision.stage.value),
                    ("subject", decision.subject),
                    ("reason", decision.reason.value),
                    ("note", decision.note),
                    ("event_id", decision.event_id),
                    ("alert", decision.alert_id),
                    ("notification", decision.notification_id),
                )
                write = line.debug if usual else line.info
                write("decision", **{name: value for name, value in facts if value is not None})
        for reason, count in result.unchanged.items():
            self._metrics.count(Stage.FLUSH, reason, count)
        for rule, place, error in result.errors:
            self._metrics.rule_errors.labels(rule).inc()
            log.error("rule_failed", rule=rule, place=place, exc_info=error)
        if result.notifications:
            self._wake_sender()
        return result


def _is_due(last: datetime | None, interval: timedelta, now: datetime) -> bool:
    return last is None or not last <= now < last + interval  # the clock may have been set back


def decide_events(
    connection: Connection, compiled: CompiledConfig, now: datetime, mail_channels: Sequence[Channel] = ()
) -> StepResult:
    """One batch of undecided events, in order: rules, reporters, groups, and their place in the public order."""
    # Load what the events concern.
    batch = events.undecided_batch(connection, BATCH, now)
    result = StepResult(full=batch.full)
    if not batch.waiting and not batch.unreadable:
        return result
    batch_events = [undecided.event for undecided in batch.waiting]
    keys = [event.key for event in batch_events]
    rules = RuleEvaluation(connection, compiled, now, result=result)
    rules.load({key for key in keys if key} | {(event.node, "", "") for event in batch_events})
    reporters = ReporterEvaluation(connection, compiled, now, rules.nodes, batch_events, mail_channels, result=result)

    # Evaluate rules and reporters. Alerts of a history that is still being read back wait for its end.
    late: set[ScenarioKey] = set()
    for event, key in zip(batch_events, keys, strict=True):
        labels = event_labels(event)
        withhold = event.late and key is not None
        if withhold and key is not None:
            late.add(key)
        if event.node in compiled.nodes:  # else its alerts would never end
            rules.on_event(event, key or (event.node, "", ""), labels, withhold=withhold)
        reporters.on_event(event, labels)
    if late:
        for key in sorted(late - events.late_after(connection, batch.waiting[-1].n)):
            scenario = rules.scenarios.get(key)
            if scenario is not None and scenario.backfilled:
                rules.catch_up(key)
    for event_id in batch.unreadable:
        rules.note("event", DecisionReason.UNREADABLE, event_id=event_id)

    # Route alerts into groups and write everything.
    rules.write()
    reporters.write()
    events.mark_decided(connection, batch.waiting, now)
    return result


def resolve_by_hand(connection: Connection, alert_id: str, now: datetime, config: Config) -> Alert | None:
    """End an alert because a person says so; None when it does not fire. Its rule fires again only for something new."""
    ended = alerts.end_alert(connection, alert_id, now, EndReason.BY_HAND, now)
    if ended is None:
        return None
    place = alerts.rule_of_alert(connection, alert_id)
    assert place is not None
    key = StateKey(*place)
    known = rule_states.load_states(connection, {key[1:]}).get(key)
    if known is not None and known.state is not None and known.state.firing is not None:
        dismissed = replace(known.state, firing=None, dismissed=known.state.firing.evidence)
        rule_states.save_states(connection, [RuleStateRow(key, dismissed, known.due_at)])
    about = (None, ended.fingerprint, alert_id)
    by_hand = Decision(now, Stage.RULE, ended.name, DecisionReason.RESOLVED, EndReason.BY_HAND.value, *about)
    alerts.record_decisions(connection, [by_hand])
    return ended
