"""The decide stage: events and time → alerts → notifications.

New events are decided in the transaction that records them (``Decider.decide_recorded``), unless others wait in the
table. ``Decider.step`` makes one transaction of each part of its work: events that wait, what is due by time alone,
channels that do not deliver, groups that are due. Each is a function of (connection, compiled configuration, now) that
returns what it did; counters and log lines follow only when it has committed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric

from tocsin.config.model import Channel, Config
from tocsin.decide.causes import apply_cause_changes, find_cause_changes
from tocsin.decide.evaluate import CompiledConfig, RuleEvaluation, StepResult
from tocsin.decide.failover import fail_over, find_undelivered
from tocsin.decide.flush import flush
from tocsin.decide.reconcile import reconcile
from tocsin.decide.reporters import ReporterEvaluation, mail_channels
from tocsin.decide.timers import UntimedScenario, apply_channel_changes, decide_time, find_channel_changes, find_untimed
from tocsin.kit.lines import Line, write_lines
from tocsin.kit.mask import where
from tocsin.model.alert import Acknowledgement, Alert, EndReason
from tocsin.model.decision import FLUSHES, SUPPRESSIONS, Decision, DecisionReason, Stage
from tocsin.model.event import Event, event_line
from tocsin.model.run import ScenarioKey
from tocsin.store import Connection, Store, alerts, events, groups, rule_states
from tocsin.store.rule_states import RuleStateRow, StateKey
from tocsin.store.writer import AttemptFailed, Leadership, attempt, on_commit

log = structlog.get_logger(__name__)

BATCH = 500
_FIND_UNTIMED_EVERY = timedelta(minutes=1)
_CHECK_CHANNELS_EVERY = timedelta(seconds=10)


class DecideMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.suppressed = Metric(
            "tocsin_notifications_suppressed_total", "Notifications that were not enqueued, by reason", ["reason"],
            registry=registry,
        )  # fmt: skip
        for reason in SUPPRESSIONS:
            self.suppressed.labels(reason.value)
        self.decisions = Metric(
            "tocsin_decisions_total", "Decisions of rules, reporters, routes and groups, by reason", ["stage", "reason"],
            registry=registry,
        )  # fmt: skip
        for reason in FLUSHES:
            self.decisions.labels(Stage.FLUSH.value, reason.value)
        self.rule_errors = Metric(
            "tocsin_rule_errors_total", "Rules that failed on one scenario or node", ["rule"], registry=registry
        )

    def count(self, stage: Stage, reason: DecisionReason, count: int = 1) -> None:
        self.decisions.labels(stage.value, reason.value).inc(count)
        if reason in SUPPRESSIONS:
            self.suppressed.labels(reason.value).inc(count)


class Decider:
    """Keeps nothing between two steps but the compiled configuration, and when two periodic queries were last made.

    ``wake_sender`` and ``wake`` shorten the waits of the sender and of this stage's own loop; ``poll`` asks for a poll of
    a scenario, without which a rule cannot tell.
    """

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        metrics: DecideMetrics,
        wake_sender: Callable[[], None],
        wake: Callable[[], None] = lambda: None,
        poll: Callable[[ScenarioKey], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._metrics = metrics
        self._wake_sender = wake_sender
        self._wake = wake
        self._poll = poll
        self._compiled: CompiledConfig | None = None
        # What decides events as they are recorded, from the first step on; None while rows are being brought in line.
        self._present: tuple[CompiledConfig, Sequence[Channel]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: datetime | None = None  # when the next step is worth it, as far as is known
        self._stepping = False
        self._untimed_at: datetime | None = None
        self.idle_rules: set[str] = set()  # rules about every scenario that match none, by their alert names
        self._channels_at: datetime | None = None
        self._causes_at: datetime | None = None
        self._causes_pause = timedelta(0)

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Decide what waits; returns when it is worth calling again, ``now`` when more waits already.

        Raises ``StoreUnavailable`` and ``NotLeader``; then nothing of the failed transaction has happened.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        # From here on, what events decided as they are recorded make due is kept for the end of this step, which may
        # have read its rows before. A step that raises is followed by one that reads them again.
        self._stepping, self._due = True, None
        compiled = self._compiled
        if compiled is None or compiled.config is not config:
            self._present = None  # polls that are recorded while rows are brought in line leave their events here
            compiled = CompiledConfig(config)
            await self._write(reconcile, compiled, now)
            self._compiled, self._untimed_at, self._causes_at = compiled, None, None

        mail = await mail_channels(config)
        decided = await self._write(partial(decide_events, mail_channels=mail), compiled, now)
        self._present = compiled, mail

        untimed: Sequence[UntimedScenario] = ()
        if _is_due(self._untimed_at, _FIND_UNTIMED_EVERY, now):
            untimed, idle = await self._store.read(find_untimed, compiled)
            for name in sorted(idle - self.idle_rules):
                action = "look at its match: tocsin scenario list"
                log.warning("rule_matches_no_scenario", rule=name, action=action)
            self.idle_rules, self._untimed_at = idle, now
        timed = await self._write(partial(decide_time, untimed=untimed), compiled, now)

        if _is_due(self._channels_at, _CHECK_CHANNELS_EVERY, now):
            if changes := await self._store.read(find_channel_changes, compiled, now, self._channels_at):
                await self._write(partial(apply_channel_changes, changes=changes), compiled, now)
            if compiled.fails_over and (undelivered := await self._store.read(find_undelivered, compiled, now)):
                await self._write(partial(fail_over, undelivered=undelivered), compiled, now)
            self._channels_at = now

        await self._check_causes(compiled, now)
        flushed = await self._write(flush, compiled, now)
        self._stepping = False
        if decided.full or timed.full or flushed.full:
            return now
        dues = (self._due, timed.next_due, flushed.next_due)
        self._due = min(filter(None, dues), default=None)
        return self._due

    async def _check_causes(self, compiled: CompiledConfig, now: datetime) -> None:
        """Look for common causes, unless that was done a moment ago; what may be one waits for it."""
        if not compiled.causes or not _is_due(self._causes_at, self._causes_pause, now):
            return
        changes, self._causes_pause = await self._store.read(find_cause_changes, compiled, now, self._causes_at)
        if changes:
            await self._write(partial(apply_cause_changes, changes=changes), compiled, now)
        self._causes_at = now

    def decide_recorded(self, connection: Connection, new: Sequence[Event], now: datetime) -> bool:
        """Write and decide new events in the transaction that records them, on the store's thread; false, with nothing
        written, when they have to wait in the table for the next step, which is then asked for."""
        present, loop = self._present, self._loop
        result = None
        if present is not None:
            try:
                result = attempt(connection, partial(decide_new, connection, present[0], now, new, present[1]))
            except AttemptFailed as failure:  # what was seen is recorded all the same; the loop decides it, or fails
                error = failure.__cause__ or failure
                log.error("decide_recorded_failed", events=len(new), error=type(error).__name__, at=where(error))
        if loop is not None:
            call = self._wake if result is None else partial(self._report_recorded, result)
            on_commit(connection, partial(loop.call_soon_threadsafe, call))
        return result is not None

    def _report_recorded(self, result: StepResult) -> None:
        self._report(result)
        if result.next_due is not None and (self._due is None or result.next_due < self._due):
            self._due = result.next_due
            if not self._stepping:
                self._wake()

    async def _write(
        self,
        work: Callable[[Connection, CompiledConfig, datetime], StepResult],
        compiled: CompiledConfig,
        now: datetime,
    ) -> StepResult:
        result = await self._store.write_guarded(self._leadership.guard, work, compiled, now)
        self._report(result)
        return result

    def _report(self, result: StepResult) -> None:
        """Counters and log lines of what has committed: one line for each event of a run and each change of an alert."""
        if result.events:
            write_lines("decide", "info", partial(_event_lines, result.events), len(result.events))
        if result.changes:
            write_lines("decide", "info", partial(iter, result.changes), len(result.changes))
        decisions = [*result.decisions, *result.implied]
        counts = Counter((decision.stage, decision.reason) for decision in decisions)
        for decision in decisions if result.verbose else ():
            facts = (
                ("stage", decision.stage.value),
                ("subject", decision.subject),
                ("reason", decision.reason.value),
                ("note", decision.note),
                ("event_id", decision.event_id),
                ("alert", decision.alert_id),
                ("notification", decision.notification_id),
            )
            log.debug("decision", **{name: value for name, value in facts if value is not None})
        counts.update(result.counts)
        for (stage, reason), count in counts.items():
            self._metrics.count(stage, reason, count)
        for rule, place, error in result.errors:
            self._metrics.rule_errors.labels(rule).inc()
            log.error("rule_failed", rule=rule, place=place, exc_info=error)
        if result.notifications:
            self._wake_sender()
        for key in dict.fromkeys(result.unseen):
            self._poll(key)


def _event_lines(happened: Sequence[Event]) -> Iterator[Line]:
    """Events of nodes have lines of the watcher's already."""
    return (event_line(event) for event in happened if event.scenario is not None)


def _is_due(last: datetime | None, interval: timedelta, now: datetime) -> bool:
    return last is None or not last <= now < last + interval  # the clock may have been set back


def decide_events(
    connection: Connection, compiled: CompiledConfig, now: datetime, mail_channels: Sequence[Channel] = ()
) -> StepResult:
    """One batch of undecided events from the table, in order, and their places in the public order."""
    batch = events.undecided_batch(connection, BATCH, now)
    result = StepResult(full=batch.full)
    if batch.waiting or batch.unreadable:
        last = batch.waiting[-1].n if batch.waiting else 0
        happened = [undecided.event for undecided in batch.waiting]
        waiting = partial(events.late_after, connection, last)
        _decide(connection, compiled, now, happened, mail_channels, result, waiting, batch.unreadable)
        events.mark_decided(connection, batch.waiting, now)
    return result


def decide_new(
    connection: Connection,
    compiled: CompiledConfig,
    now: datetime,
    new: Sequence[Event],
    mail_channels: Sequence[Channel] = (),
) -> StepResult | None:
    """Write events that are not in the table yet, and decide them; None, and nothing written, while others wait there,
    since events are decided in order."""
    if events.any_undecided(connection):
        return None
    events.insert_decided(connection, new, now)
    result = StepResult()
    _decide(connection, compiled, now, new, mail_channels, result, set)
    return result


def _decide(
    connection: Connection,
    compiled: CompiledConfig,
    now: datetime,
    happened: Sequence[Event],
    mail_channels: Sequence[Channel],
    result: StepResult,
    late_behind: Callable[[], set[ScenarioKey]],
    unreadable: Sequence[str] = (),
) -> None:
    """Rules, reporters and groups on events in order. ``late_behind``: the scenarios of late events behind these."""
    result.events += happened
    # Load what the events concern.
    keys = [event.key for event in happened]
    rules = RuleEvaluation(connection, compiled, now, result=result)
    rules.load({key for key in keys if key} | {(event.node, "", "") for event in happened})
    reporters = ReporterEvaluation(connection, compiled, now, rules.nodes, happened, mail_channels, result=result)

    # Evaluate rules and reporters. Alerts of a history that is still being read back wait for its end.
    late: set[ScenarioKey] = set()
    for event, key in zip(happened, keys, strict=True):
        labels = compiled.event_labels(event)
        withhold = event.late and key is not None
        if withhold and key is not None:
            late.add(key)
        if event.node in compiled.nodes:  # else its alerts would never end
            rules.on_event(event, key or (event.node, "", ""), labels, withhold=withhold)
        reporters.on_event(event, labels)
    if late:
        for key in sorted(late - late_behind()):
            scenario = rules.scenarios.get(key)
            if scenario is not None and scenario.backfilled:
                rules.catch_up(key)
    for event_id in unreadable:
        rules.note("event", DecisionReason.UNREADABLE, event_id=event_id)

    # Route alerts into groups and write everything.
    rules.write()
    reporters.write()


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


def acknowledge(
    connection: Connection, alert_id: str, acknowledged: Acknowledgement | None, now: datetime, by: str = ""
) -> Alert | None:
    """Note that somebody has an alert, or, with None, that nobody has it any more, as ``by`` says: repeats stop, or go on.
    None when it does not fire. Its groups are flushed, so that services that keep incidents are told."""
    alert = alerts.set_acknowledged(connection, alert_id, acknowledged)
    if alert is None:
        return None
    groups.flush_groups_of(connection, alert_id, now)
    note = f"by {acknowledged.by}" if acknowledged else f"nobody has it{f', says {by}' if by else ''}"
    about = (None, alert.fingerprint, alert_id)
    decision = Decision(now, Stage.RULE, alert.name, DecisionReason.ACKNOWLEDGED, note, *about)
    alerts.record_decisions(connection, [decision])
    return alert
