"""The decide loop: events and time → alerts → notifications owed.

``Decider.step`` makes up to three transactions: one on a batch of undecided events, one on what is due by time alone,
one on the groups that are due to be told; now and then one on channels that do not deliver. Each is a plain function
of (connection, plan, now) that answers what it did; counters and log lines follow only when it has committed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection

from tocsin.config.model import Channel, Config
from tocsin.decide import channels
from tocsin.decide import dss_reporters as mirroring
from tocsin.decide.compiled import CompiledConfig, compile_config
from tocsin.decide.evaluate import Place, RuleEvaluation
from tocsin.decide.flush import flush
from tocsin.decide.outcome import Outcome
from tocsin.decide.reconcile import reconcile
from tocsin.decide.report import ReporterEvaluation
from tocsin.decide.timers import UntrackedScenario, decide_time, untracked
from tocsin.model.alert import Alert, EndReason
from tocsin.model.decision import FLUSHES, SUPPRESSIONS, Decision, DecisionReason, Stage
from tocsin.model.event import event_labels
from tocsin.model.run import ScenarioKey
from tocsin.routing import reporters as report
from tocsin.store import Store, alerts, decisions, events, rule_states, runs, scenarios
from tocsin.store.rule_states import RuleStateRow, StateKey
from tocsin.store.writer import Leadership

log = structlog.get_logger(__name__)

BATCH = 500
_SYNC_EVERY = timedelta(minutes=1)
_LISTEN_EVERY = timedelta(seconds=10)


class DecideMetrics:
    """The deciders' own series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.suppressed = Counter(
            "tocsin_notifications_suppressed_total",
            "Notifications that were not owed, by reason",
            ["reason"],
            registry=registry,
        )
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


class Decider:
    """Owns what is kept between two steps: the plan of the present configuration, nothing else."""

    def __init__(self, store: Store, leadership: Leadership, metrics: DecideMetrics, ring: Callable[[], None]) -> None:
        self._store = store
        self._leadership = leadership
        self._metrics = metrics
        self._ring = ring
        self._plan: CompiledConfig | None = None
        self._synced: datetime | None = None
        self._listened: datetime | None = None  # for channels that do not deliver

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Decide what waits; answers when it is worth calling again, ``now`` when more waits already.

        Raises ``StoreUnavailable`` and ``NotLeader``; then nothing of the failed transaction has happened.
        """
        compiled = self._plan
        if compiled is None or compiled.config is not config:
            compiled = compile_config(config)
            await self._do(reconcile, compiled, now)
            self._plan, self._synced = compiled, None
        mail = await mirroring.mail_channels(config)
        decided = await self._do(partial(decide_events, mail_channels=mail), compiled, now)
        fresh: Sequence[UntrackedScenario] = ()
        if self._synced is None or not self._synced <= now < self._synced + _SYNC_EVERY:
            fresh = await self._store.read(untracked, compiled)
            self._synced = now
        timed = await self._do(partial(decide_time, fresh=fresh), compiled, now)
        if self._listened is None or not self._listened <= now < self._listened + _LISTEN_EVERY:
            if changes := await self._store.read(channels.look, compiled, now, self._listened):
                await self._do(partial(channels.change, changes=changes), compiled, now)
            self._listened = now
        told = await self._do(flush, compiled, now)
        if decided.full or timed.full or told.full:
            return now
        return min(filter(None, (timed.next_due, told.next_due)), default=None)

    async def _do(
        self, work: Callable[[Connection, CompiledConfig, datetime], Outcome], compiled: CompiledConfig, now: datetime
    ) -> Outcome:
        outcome = await self._store.write_guarded(self._leadership.guard, work, compiled, now)
        _log(outcome.made)
        for made in outcome.made:
            self._count(made.stage, made.reason, 1)
        for reason, count in outcome.unchanged.items():
            self._count(Stage.FLUSH, reason, count)
        for rule, place, error in outcome.errors:
            self._metrics.rule_errors.labels(rule).inc()
            log.error("rule_failed", rule=rule, place=place, exc_info=error)
        if outcome.owed:
            self._ring()
        return outcome

    def _count(self, stage: Stage, reason: DecisionReason, count: int) -> None:
        self._metrics.decisions.labels(stage.value, reason.value).inc(count)
        if reason in SUPPRESSIONS:
            self._metrics.suppressed.labels(reason.value).inc(count)


def decide_events(
    connection: Connection, compiled: CompiledConfig, now: datetime, mail_channels: Sequence[Channel] = ()
) -> Outcome:
    """One batch of undecided events, in order: rules, reporters, and their place in the public order."""
    batch = events.undecided_batch(connection, BATCH, now)
    waiting = batch.waiting
    aside = [Decision(now, Stage.RULE, "event", DecisionReason.UNREADABLE, None, id_) for id_ in batch.unreadable]
    if not waiting:
        decisions.record(connection, aside)
        return Outcome(full=batch.full, made=aside)
    keys = [one.event.key for one in waiting]
    evaluation = _judging(connection, compiled, now, {key for key in keys if key is not None},
                       {one.event.node for one in waiting})  # fmt: skip
    own = mirroring.own(connection, compiled.config, (one.event for one in waiting), mail_channels)
    late_starts = {run.key for one in waiting if (run := report.late_start(one.event)) is not None}
    telling = ReporterEvaluation(connection, compiled, now, evaluation.nodes, own, runs.ended(connection, late_starts))
    late: set[ScenarioKey] = set()
    for one, key in zip(waiting, keys, strict=True):
        event, labels = one.event, event_labels(one.event)
        withhold = event.late and key is not None
        if withhold and key is not None:
            late.add(key)
        if event.node in compiled.nodes:  # else its alerts would never end
            evaluation.on_event(event, key or (event.node, "", ""), labels, withhold=withhold)
        telling.on_event(event, labels)
    if late:
        unfinished = events.late_after(connection, waiting[-1].n)
        for key in sorted(late - unfinished):
            scenario = evaluation.scenarios.get(key)
            if scenario is not None and scenario.backfilled:
                evaluation.catch_up(key)
    evaluation.made += aside + telling.made
    evaluation.write()
    owed = telling.write()
    events.mark_decided(connection, waiting, now)
    return Outcome(
        events=len(waiting),
        full=batch.full,
        alerts=evaluation.changed,
        owed=owed,
        made=evaluation.made,
        errors=evaluation.errors + telling.errors,
    )


def _judging(
    connection: Connection, compiled: CompiledConfig, now: datetime, keys: set[ScenarioKey], nodes: set[str]
) -> RuleEvaluation:
    places: set[Place] = set(keys) | {(node, "", "") for node in nodes}
    return RuleEvaluation(
        connection,
        compiled,
        now,
        scenarios.node_views(connection),
        scenarios.scenario_views(connection, keys),
        rule_states.load(connection, places),
    )


def resolve_by_hand(connection: Connection, alert_id: str, now: datetime, config: Config) -> Alert | None:
    """End an alert because someone says so; None when none of this id fires.

    Its rule rings again only for something new: the next failure, the next missed start, another run, another fall.
    """
    ended = alerts.end_alert(connection, alert_id, now, EndReason.BY_HAND, now)
    if ended is None:
        return None
    place = alerts.rule_of(connection, alert_id)
    assert place is not None
    key = StateKey(*place)
    known = rule_states.load(connection, {key[1:]}).get(key)
    if known is not None and known.state is not None and known.state.ringing is not None:
        quiet = replace(known.state, ringing=None, dismissed=known.state.ringing.evidence)
        rule_states.save(connection, [RuleStateRow(key, quiet, known.due_at)])
    made = Decision(
        now, Stage.RULE, ended.name, DecisionReason.RESOLVED, EndReason.BY_HAND.value, None, ended.fingerprint, alert_id
    )
    decisions.record(connection, [made])
    return ended


def _log(made: Sequence[Decision]) -> None:
    """One line a decision; what happens all the time only where the log wants every detail."""
    line, verbose = log.bind(), logging.getLogger(__name__).isEnabledFor(logging.DEBUG)
    for one in made:
        usual = one.reason in (DecisionReason.CONDITION, DecisionReason.NO_CHANGE, DecisionReason.ROUTED)
        if usual and not verbose:
            continue
        known = {"note": one.note, "event_id": one.event_id, "alert": one.alert_id, "notification": one.notification_id}
        (line.debug if usual else line.info)(
            "decided",
            stage=one.stage.value,
            subject=one.subject,
            reason=one.reason.value,
            **{name: value for name, value in known.items() if value is not None},
        )
