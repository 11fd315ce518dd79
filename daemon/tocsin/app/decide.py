"""The decide loop: events and time → alerts → notifications owed.

``Decider.step`` makes up to three transactions: one on a batch of undecided events, one on what is due by time alone,
one on the groups that are due to be told. Each is a plain function of (connection, plan, now) that answers what it
did; counters and log lines follow only when it has committed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection

from tocsin.app import flush, mirroring, starts
from tocsin.app.judging import Judging, Place, enter_groups
from tocsin.app.plan import Plan, make_plan
from tocsin.judge import rules as judge
from tocsin.judge.overlong import USUAL_OF
from tocsin.judge.rules import LiveRule
from tocsin.judge.stale import OFF_RECHECK
from tocsin.judge.view import RECHECK
from tocsin.model.alert import Alert, EndReason
from tocsin.model.config import Config, Watch
from tocsin.model.decision import SUPPRESSIONS, Decision, Stage, Verdict
from tocsin.model.event import END_EVENTS, Event, event_labels
from tocsin.model.labels import Labels
from tocsin.model.notification import Notification
from tocsin.model.rule_state import NodeDownState, OverlongState, StaleState, StalledState
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.sight import NodeSight, scenario_labels
from tocsin.route import mirror
from tocsin.route import reporters as report
from tocsin.store import (
    Store,
    alerts,
    decisions,
    details,
    events,
    groups,
    outbox,
    rule_states,
    sight,
    withheld,
)
from tocsin.store.lease import Leadership
from tocsin.store.rule_states import Remembered, StateKey
from tocsin.store.starts import next_start

log = structlog.get_logger(__name__)

BATCH = 500
_SYNC_EVERY = timedelta(minutes=1)
_DEFAULT_WATCH = Watch()


@dataclass(slots=True)
class Outcome:
    """What a transaction did, for the log, the counters and the next wake-up."""

    events: int = 0
    full: bool = False  # more of the same waits
    alerts: int = 0  # changed ones
    owed: list[Notification] = field(default_factory=list)
    made: list[Decision] = field(default_factory=list)
    suppressed: dict[Verdict, int] = field(default_factory=dict)  # beside those in `made`
    errors: list[tuple[str, str, Exception]] = field(default_factory=list)
    next_due: datetime | None = None


class DecideMetrics:
    """The deciders' own series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.suppressed = Counter(
            "tocsin_notifications_suppressed_total",
            "Notifications that were not owed, by reason",
            ["reason"],
            registry=registry,
        )
        for verdict in SUPPRESSIONS:
            self.suppressed.labels(verdict.value)
        self.rule_errors = Counter(
            "tocsin_rule_errors_total",
            "Rules that failed on one scenario or node",
            ["rule"],
            registry=registry,
        )


class Decider:
    """Owns what is kept between two steps: the plan of the present configuration, nothing else."""

    def __init__(
        self, store: Store, leadership: Leadership, metrics: DecideMetrics, ring: Callable[[], None]
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._metrics = metrics
        self._ring = ring
        self._plan: Plan | None = None
        self._synced: datetime | None = None

    async def step(self, now: datetime, config: Config) -> datetime | None:
        """Decide what waits; answers when it is worth calling again, ``now`` when more waits already.

        Raises ``StoreUnavailable`` and ``NotLeader``; then nothing of the failed transaction has happened.
        """
        plan = self._plan
        if plan is None or plan.config is not config:
            plan = make_plan(config)
            await self._do(reconcile, plan, now)
            self._plan, self._synced = plan, None
        decided = await self._do(decide_events, plan, now)
        sync = self._synced is None or not self._synced <= now < self._synced + _SYNC_EVERY
        timed = await self._do(partial(decide_time, sync=sync), plan, now)
        if sync:
            self._synced = now
        told = await self._do(flush_groups, plan, now)
        if decided.full or timed.full or told.full:
            return now
        return min(filter(None, (timed.next_due, told.next_due)), default=None)

    async def _do(
        self, work: Callable[[Connection, Plan, datetime], Outcome], plan: Plan, now: datetime
    ) -> Outcome:
        outcome = await self._store.write_guarded(self._leadership.guard, work, plan, now)
        _log(outcome.made)
        for made in outcome.made:
            if made.verdict in SUPPRESSIONS:
                self._metrics.suppressed.labels(made.verdict.value).inc()
        for verdict, count in outcome.suppressed.items():
            self._metrics.suppressed.labels(verdict.value).inc(count)
        for rule, place, error in outcome.errors:
            self._metrics.rule_errors.labels(rule).inc()
            log.error("rule_failed", rule=rule, place=place, exc_info=error)
        if outcome.owed:
            self._ring()
        return outcome


# --- events --------------------------------------------------------------------------------------------------------------


def decide_events(connection: Connection, plan: Plan, now: datetime) -> Outcome:
    """One batch of undecided events, in order: rules, reporters, and their place in the public order."""
    waiting = events.undecided(connection, BATCH)
    if not waiting:
        return Outcome()
    keys = [one.event.key for one in waiting]
    judging = _judging(connection, plan, now, {key for key in keys if key is not None},
                       {one.event.node for one in waiting})  # fmt: skip
    own = mirroring.own(connection, plan.config, (one.event for one in waiting))
    telling = _Telling(connection, plan, now, judging.nodes, own)
    late: set[ScenarioKey] = set()
    for one, key in zip(waiting, keys, strict=True):
        event, labels = one.event, event_labels(one.event)
        withhold = event.late and key is not None
        if withhold and key is not None:
            late.add(key)
        judging.hear(event, key or (event.node, "", ""), labels, withhold=withhold)
        telling.hear(event, labels)
    if late:
        unfinished = events.late_after(connection, waiting[-1].n)
        for key in sorted(late - unfinished):
            scenario = judging.scenarios.get(key)
            if scenario is not None and scenario.backfilled:
                judging.catch_up(key)
    judging.made += telling.made
    judging.write()
    owed = telling.write()
    events.mark_decided(connection, waiting, now)
    return Outcome(
        events=len(waiting),
        full=len(waiting) >= BATCH,
        alerts=judging.changed,
        owed=owed,
        made=judging.made,
        errors=judging.errors + telling.errors,
    )


def _judging(
    connection: Connection, plan: Plan, now: datetime, keys: set[ScenarioKey], nodes: set[str]
) -> Judging:
    places: set[Place] = set(keys) | {(node, "", "") for node in nodes}
    return Judging(
        connection,
        plan,
        now,
        sight.node_sights(connection),
        sight.scenario_sights(connection, keys),
        rule_states.load(connection, places),
    )


@dataclass(slots=True)
class _Telling:
    """Reporters at work inside one transaction."""

    connection: Connection
    plan: Plan
    now: datetime
    nodes: dict[str, NodeSight]
    own: mirroring.Own
    made: list[Decision] = field(default_factory=list)
    errors: list[tuple[str, str, Exception]] = field(default_factory=list)
    _owed: list[tuple[Event, list[Notification]]] = field(default_factory=list)
    _late: list[tuple[str, str, str]] = field(default_factory=list)  # node, receiver, event id

    def hear(self, event: Event, labels: Labels) -> None:
        for reporter in self.plan.reporters[event.name]:
            try:
                asked = report.ask(reporter, event, labels)
            except Exception as error:  # noqa: BLE001 - one reporter on one event; reported, the others go on
                self.errors.append((reporter.name, event.id, error))
                self._decide(reporter.name, Verdict.ERROR, f"{type(error).__name__}: {error}", event)
                continue
            if asked is not None:
                self._weigh(asked, event)
        if mirror.concerns(self.own.config, event):
            self._hear_own(event)

    def _hear_own(self, event: Event) -> None:
        """What DSS's own mail reporters say to an event."""
        failed = event.reporter.name if event.reporter else "all"
        try:
            found = self.own.about(event)
        except Exception as error:  # noqa: BLE001 - one event; reported, the others go on
            self.errors.append((f"DSS: {failed}", event.id, error))
            self._decide(f"DSS: {failed}", Verdict.ERROR, f"{type(error).__name__}: {error}", event)
            return
        if found is None:
            self._decide(f"DSS: {failed}", Verdict.UNKNOWN_REPORTER, None, event)
        for one in found or ():
            self._weigh_own(one, event)

    def _weigh_own(self, one: mirror.Mirrored, event: Event) -> None:
        name, receiver = f"DSS: {one.reporter.name}", self.own.config.receiver or ""
        note = "; ".join(one.notes) or None
        if one.left_out or one.verdict is Verdict.NOT_ALLOWED:
            self._decide(name, Verdict.NOT_ALLOWED, mirror.named(one.left_out), event)
        if one.verdict is Verdict.CONDITION:
            self._decide(name, one.verdict, note, event)
        elif one.mails and not self.own.channels:
            self._decide(name, Verdict.NO_CHANNEL, f"receiver {receiver} has no mail channel", event)
        elif one.mails and self._too_late(event):
            self._late.append((event.node, receiver, event.id))
            self._decide(name, Verdict.LATE, "told in the summary", event)
        else:
            owed = mirror.notifications(one, self.own.channels, self.now)
            self._owed.append((one.event, owed))
            for notification in owed:
                self._decide(name, one.verdict, note, event, notification.id)

    def _weigh(self, asked: report.Report, event: Event) -> None:
        reporter = asked.reporter
        channels = self.plan.channels.get(reporter.receiver, ())
        if not asked.owes:
            self._decide(reporter.name, asked.verdict, reporter.condition, event)
        elif not channels:
            self._decide(reporter.name, Verdict.NO_CHANNEL, f"receiver {reporter.receiver}", event)
        elif self._too_late(event):
            self._late.append((event.node, reporter.receiver, event.id))
            self._decide(reporter.name, Verdict.LATE, "told in the summary", event)
        else:
            owed = report.notifications(reporter, event, channels, self.now, self.now)
            self._owed.append((event, owed))
            for one in owed:
                self._decide(reporter.name, asked.verdict, asked.note, event, one.id)

    def _too_late(self, event: Event) -> bool:
        if not event.late:
            return False
        node = self.nodes.get(event.node) or NodeSight(event.node)
        max_age = _watch(self.plan, event.node).backfill.notify_max_age

        return report.is_too_late(
            event, self.now + node.clock_offset, max_age, partial(sight.has_ended, self.connection)
        )

    def _decide(
        self,
        reporter: str,
        verdict: Verdict,
        note: str | None,
        event: Event,
        notification_id: str | None = None,
    ) -> None:
        self.made.append(
            Decision(
                self.now, Stage.REPORTER, reporter, verdict, note, event.id, notification_id=notification_id
            )
        )

    def write(self) -> list[Notification]:
        """Put down what is owed; an end's notice waits for the run's details, unless they are here."""
        withheld.add(self.connection, self._late)
        if not self._owed:
            return []
        ends = {event.run.key for event, _ in self._owed if event.run and event.name in END_EVENTS}
        missing = ends - details.with_details(self.connection, ends)
        owed: list[Notification] = []
        waits: dict[str, Sequence[RunKey]] = {}
        for event, mine in self._owed:
            if event.run is not None and event.name in END_EVENTS and event.run.key in missing:
                due_at = self.now + _watch(self.plan, event.node).details_wait
                mine = [replace(one, due_at=due_at) for one in mine]
                waits.update((one.id, (event.run.key,)) for one in mine)
            owed += mine
        return outbox.owe(self.connection, owed, waits)


def _watch(plan: Plan, node: str) -> Watch:
    configured = plan.nodes.get(node)
    return configured.watch if configured else _DEFAULT_WATCH


# --- time ----------------------------------------------------------------------------------------------------------------


def decide_time(connection: Connection, plan: Plan, now: datetime, *, sync: bool = True) -> Outcome:
    """What time alone changes: due rules, expected starts, alerts whose scenario is gone or switched off.

    ``sync`` also looks for scenarios that ``stale`` rules do not know yet.
    """
    due = rule_states.due(connection, now, BATCH)
    keys = {ScenarioKey(*one.key[1:]) for one in due if one.key.scenario}
    judging = Judging(
        connection,
        plan,
        now,
        sight.node_sights(connection),
        sight.scenario_sights(connection, keys),
        {one.key: one for one in due},
    )
    for one in due:
        _tick(judging, one)
    _orphans(judging)
    more = starts.judge_starts(judging)
    if sync:
        _remember_stale(judging)
    owed = _summaries(judging)
    judging.write()
    dues = (rule_states.next_due(connection, now), next_start(connection, now))
    return Outcome(
        full=more or len(due) >= BATCH,
        alerts=judging.changed,
        owed=owed,
        made=judging.made,
        errors=judging.errors,
        next_due=min(filter(None, dues), default=None),
    )


def _tick(judging: Judging, one: Remembered) -> None:
    live = judging.plan.rules.get(one.key.rule.removesuffix("/stalled"))
    view = judging.view(one.key)
    if live is None or one.state is None:
        judging.put(one.key, None, None)
    elif view.scenario is not None and not view.scenario.backfilled:
        judging.put(one.key, one.state, judging.now + RECHECK)
    elif isinstance(one.state, StalledState):
        starts.look_for_ends(judging, one.key, one.state, live)
    elif isinstance(one.state, OverlongState):
        _tick_overlong(judging, one.key, one.state, live)
    else:
        judging.tick(one.key, one.state, live)


def _tick_overlong(judging: Judging, key: StateKey, state: OverlongState, live: LiveRule) -> None:
    if state.run is not None and state.ended is None and sight.has_ended(judging.connection, state.run):
        judging.put(key, state, judging.now + RECHECK)  # the event of its end is on the way
        return
    usual: tuple[timedelta, ...] = ()
    if state.run is not None and state.limit is None and live.rule.longer_than is None:
        usual = sight.good_durations(judging.connection, state.run.scenario, USUAL_OF)
    judging.tick(key, state, live, replace(judging.view(key), durations=usual))


def _orphans(judging: Judging) -> None:
    """End the alerts of what is gone or was switched off, and forget why they rang."""
    found = alerts.orphans(judging.connection)
    if not found:
        return
    known = rule_states.load(judging.connection, {_place(filed.alert) for filed, _ in found})
    judging.states = known | judging.states
    for filed, reason in found:
        judging.end(filed.rule, filed.alert.id, judging.now, reason)
        key = StateKey(filed.rule, *_place(filed.alert))
        state = judging.states[key].state if key in judging.states else None
        if isinstance(state, StaleState) and reason is EndReason.DEACTIVATED:
            judging.put(key, replace(state, ringing=None, off=True), judging.now + OFF_RECHECK)
        else:
            judging.put(key, None, None)


def _remember_stale(judging: Judging) -> None:
    """Begin to time the scenarios that a ``stale`` rule does not know yet."""
    rules = [live for live in judging.plan.scenario_rules if live.rule.kind == "stale"]
    if not rules:
        return
    watched = sight.watched_scenarios(judging.connection)
    for live in rules:
        known = rule_states.known_places(judging.connection, live.id)
        new = [one for one in watched if one.key not in known and live.matches(scenario_labels(one))]
        good = sight.last_good(judging.connection, [one.key for one in new])
        for one in new:
            judging.scenarios[one.key] = one
            since = good.get(one.key) or one.watched_since
            state = StaleState(since=since, good=one.key in good)
            judging.tick(StateKey(live.id, *one.key), state, live)


def _summaries(judging: Judging) -> list[Notification]:
    """What was withheld while a node's history was read back, in one message a receiver."""
    owed: list[Notification] = []
    for node in withheld.nodes(judging.connection):
        seen = judging.nodes.get(node)
        if seen is not None and seen.backfilling:
            continue
        if any(key.node == node for key in events.late_after(judging.connection, 0)):
            continue
        for receiver, late in withheld.take(judging.connection, node).items():
            channels = judging.plan.channels.get(receiver, ())
            owed += report.summary(node, receiver, late, channels, judging.now)
            verdict = Verdict.SUMMARY if channels else Verdict.NO_CHANNEL
            note = f"{node}: {len(late)} events"
            judging.made.append(Decision(judging.now, Stage.BACKFILL, receiver, verdict, note))
    return outbox.owe(judging.connection, owed)


def _place(alert: Alert) -> tuple[str, str, str]:
    return alert.labels["dss_node"], alert.labels.get("project", ""), alert.labels.get("scenario", "")


# --- groups --------------------------------------------------------------------------------------------------------------


def flush_groups(connection: Connection, plan: Plan, now: datetime) -> Outcome:
    """Tell the groups that are due."""
    told = flush.flush(connection, plan, now)
    return Outcome(
        full=told.full,
        owed=told.owed,
        made=told.made,
        suppressed=told.unchanged,
        next_due=groups.next_flush(connection),
    )


# --- configuration -------------------------------------------------------------------------------------------------------


def reconcile(connection: Connection, plan: Plan, now: datetime) -> Outcome:
    """Bring rows in line with a configuration that has just come into force, at the start or by a reload.

    Alerts of rules and nodes that were taken away end as unwatched; those that ring on take over the rules' present
    severity and labels; all are put where the present tree wants them. A group that is still there is not touched.
    """
    judging = Judging(connection, plan, now, sight.node_sights(connection), {}, {})
    ringing = alerts.firing(connection)
    for filed in ringing:
        if filed.rule not in plan.rule_ids or filed.alert.labels["dss_node"] not in plan.nodes:
            judging.end(filed.rule, filed.alert.id, now, EndReason.UNWATCHED)
    rule_states.forget_rules(connection, plan.rule_ids)
    rule_states.forget_nodes(connection, plan.nodes)
    _repaint(judging, [filed for filed in ringing if filed.rule in plan.rule_ids])
    _remember_down(judging)
    judging.write()
    _regroup(connection, plan, now)
    return Outcome(alerts=judging.changed, made=judging.made, errors=judging.errors)


def _repaint(judging: Judging, ringing: Sequence[alerts.Filed]) -> None:
    places = {_place(filed.alert) for filed in ringing}
    judging.scenarios |= sight.scenario_sights(
        judging.connection, {ScenarioKey(*place) for place in places if place[2]}
    )
    judging.states |= rule_states.load(judging.connection, places)
    for filed in ringing:
        key = StateKey(filed.rule, *_place(filed.alert))
        known = judging.states.get(key)
        live = judging.plan.rules.get(filed.rule.removesuffix("/stalled"))
        if known is None or known.state is None or live is None:
            continue
        changed = judge.repaint(live.rule, known.state, judging.view(key), judging.now)
        if changed is not None and changed.alert != filed.alert:
            judging.file(changed.alert, filed.rule, judging.view(key))


def _remember_down(judging: Judging) -> None:
    """Let rules about nodes know what is down already; its event came before they did."""
    known = judging.plan.nodes
    down = {name: node for name, node in judging.nodes.items() if node.up is False and name in known}
    states = rule_states.load(judging.connection, [(name, "", "") for name in down])
    for name, node in down.items():
        for live in judging.plan.node_rules:
            key = StateKey(live.id, name)
            if key not in states and live.matches({"dss_node": name}):
                judging.tick(key, NodeDownState(since=node.down_since, reason=node.down_reason), live)


def _regroup(connection: Connection, plan: Plan, now: datetime) -> None:
    """Put every alert that a receiver may still hear of where the tree wants it, and take it out of where not."""
    known = groups.every(connection)
    inside = groups.members(connection, [group.key for group in known])
    live = {filed.alert.id: filed.alert for filed in alerts.firing(connection)}
    live |= {member.alert.id: member.alert for members in inside.values() for member in members}
    joining, _ = enter_groups(plan, live.values(), now)
    wanted = {(one.group.key, one.fingerprint) for one in joining}
    standing = {
        (key, member.alert.fingerprint): member for key, members in inside.items() for member in members
    }
    groups.leave(connection, [place for place in standing if place not in wanted])
    groups.join(
        connection,
        [
            one
            for one in joining
            if (one.group.key, one.fingerprint) not in standing and live[one.alert_id].firing
        ],
    )
    groups.drop_empty(connection)


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
        rule_states.save(connection, [Remembered(key, quiet, known.due_at)])
    made = Decision(
        now, Stage.RULE, ended.name, Verdict.ENDED, EndReason.BY_HAND.value, None, ended.fingerprint, alert_id
    )
    decisions.record(connection, [made])
    return ended


def _log(made: Sequence[Decision]) -> None:
    """One line a decision; what happens all the time only where the log wants every detail."""
    line, verbose = log.bind(), logging.getLogger(__name__).isEnabledFor(logging.DEBUG)
    for one in made:
        usual = one.verdict in (Verdict.CONDITION, Verdict.NO_CHANGE, Verdict.ROUTED)
        if usual and not verbose:
            continue
        known = {
            "note": one.note,
            "event_id": one.event_id,
            "alert": one.alert_id,
            "notification": one.notification_id,
        }
        (line.debug if usual else line.info)(
            "decided",
            stage=one.stage.value,
            subject=one.subject,
            verdict=one.verdict.value,
            **{name: value for name, value in known.items() if value is not None},
        )
