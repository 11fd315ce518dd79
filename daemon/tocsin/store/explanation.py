"""Why a run or an alert led to notifications or not, from rows: what was seen, what was decided, what was sent to whom.

An outcome is what became of one change of an alert (it began to fire, it goes on for a further run, it ended) or of an
event for a reporter, at one channel: what the flushes of the alert's groups made of it until the alert changed again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, or_, select

from tocsin.kit.clock import isoformat
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.event import Event
from tocsin.model.labels import all_match
from tocsin.model.notification import EventNotice, GroupNotice, Notification, NotificationState
from tocsin.model.run import RunKey, RunWarning, ScenarioKey
from tocsin.store.alerts import active_silences, decisions_about, to_decision
from tocsin.store.groups import load_notification_log
from tocsin.store.outbox import load_notifications
from tocsin.store.query import AlertRecord, DeliveryRecord, RunRecord, alert_record, delivery_records, find_run
from tocsin.store.runs import usual_durations
from tocsin.store.schema import alerts, decisions, events, group_alerts, groups, outbox
from tocsin.store.sql import SCENARIO, equals, maker, readable

_CHANGES = (DecisionReason.FIRING, DecisionReason.UPDATED, DecisionReason.RESOLVED)
_MUTES = (DecisionReason.SILENCED, DecisionReason.INHIBITED, DecisionReason.MUTED_TIME, DecisionReason.NO_CHANNEL)
_MOST = 200


@dataclass(frozen=True, slots=True)
class StepRecord:
    name: str | None
    type: str | None
    outcome: str | None
    duration_seconds: float | None
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventRecord:
    id: str
    event: str
    seq: int | None  # None until it is decided
    time: datetime
    detected_at: datetime
    late: bool


@dataclass(frozen=True, slots=True)
class NotFired:
    """A rule or reporter of the present configuration that a run did not move, and why."""

    stage: Stage
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class NotifyOutcome:
    """What became of one change, or of an event for a reporter, at one channel.

    Either a notification carries it (``state``, and ``state_reason`` where that says more), or ``reason`` and ``note``
    say why not. Without both its group has not been flushed since; ``at`` is then when it will be, else when it was
    decided.
    """

    name: str  # the alert's name or the reporter
    change: DecisionReason | None  # of the alert; None for a reporter
    channel: str | None  # None: of a reporter that did not notify
    at: datetime | None
    reason: DecisionReason | None = None
    note: str | None = None
    notification_id: str | None = None
    state: NotificationState | None = None
    state_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunExplanation:
    """Everything that is known about a run; lists are in the order of time and cut at 200.

    ``decisions`` are those on its events, on the alerts that came from it, and of the flushes that decided its outcomes.
    """

    run: RunRecord
    usual_seconds: float | None
    url: str | None
    details_read_at: datetime | None
    details_problem: str | None
    steps: tuple[StepRecord, ...]
    warnings: tuple[RunWarning, ...]
    log_tail: str | None
    events: tuple[EventRecord, ...]
    alerts: tuple[AlertRecord, ...]
    decisions: tuple[Decision, ...]
    deliveries: tuple[DeliveryRecord, ...]
    outcomes: tuple[NotifyOutcome, ...]
    # Filled in by who knows the configuration; not in rows.
    summary: str = ""
    not_fired: tuple[NotFired, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertExplanation:
    """Everything that is known about one firing of an alert; lists are in the order of time and cut at 200."""

    alert: AlertRecord
    rule: str
    decisions: tuple[Decision, ...]
    deliveries: tuple[DeliveryRecord, ...]
    outcomes: tuple[NotifyOutcome, ...]
    # Filled in by who knows the configuration; not in rows.
    summary: str = ""
    suppressed: tuple[str, ...] = ()  # what keeps it from being notified at this moment


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of an alert, and the moment of its next one."""

    alert: AlertRecord
    reason: DecisionReason
    at: datetime
    until: datetime | None

    @property
    def name(self) -> str:
        return self.alert.labels.get("alertname", "")


def load_run_explanation(
    connection: Connection, scenario: ScenarioKey, run_id: str, channels: Collection[str]
) -> RunExplanation | None:
    """The explanation of the newest run of this id; None when it is unknown. ``channels``: those of the configuration."""
    run, details = find_run(connection, scenario, run_id)
    if run is None:
        return None
    run_events, url = _events(connection, run.key)
    on_events = _on_events(connection, [event.id for event in run_events])
    concerned = _alerts(connection, run.key, {decision.alert_id for decision in on_events if decision.alert_id})
    on_alerts = decisions_about(connection, alerts=[alert.id for alert in concerned])
    # An alert that time alone made fire is about the run too.
    timed = {alert.id for alert in concerned if alert.run_id == run.run_id}
    without_event = [decision for decision in on_alerts if decision.event_id is None]
    own = [*on_events, *(decision for decision in without_event if decision.stage is Stage.ROUTE)]
    own += [decision for decision in without_event if decision.stage is Stage.RULE and decision.alert_id in timed]
    keys = {(decision.alert_id, decision.reason, decision.at) for decision in own}
    changes = [
        change for change in _changes(concerned, on_alerts) if (change.alert.id, change.reason, change.at) in keys
    ]
    flushes, outcomes = _outcomes(connection, changes, channels)
    shown = sorted([*own, *flushes], key=lambda decision: decision.at)[:_MOST]
    usual = usual_durations(connection, [scenario]).get(scenario)
    return RunExplanation(
        run=run,
        usual_seconds=None if usual is None else usual.total_seconds(),
        url=url,
        details_read_at=details.read_at if details else None,
        details_problem=details.problem if details else None,
        steps=tuple(
            StepRecord(
                step.name or step.id, step.type, step.outcome,
                None if step.duration is None else step.duration.total_seconds(), step.job_ids,
            )
            for step in (details.steps if details else ())
        ),
        warnings=details.warnings if details else (),
        log_tail=details.log_tail if details else None,
        events=tuple(run_events),
        alerts=tuple(concerned),
        decisions=tuple(shown),
        deliveries=tuple(_deliveries(connection, run_events, shown)),
        outcomes=(*_of_reporters(connection, on_events), *outcomes),
    )  # fmt: skip


def load_alert_explanation(connection: Connection, alert_id: str, channels: Collection[str]) -> AlertExplanation | None:
    """The explanation of an alert; None when it is unknown. ``channels``: those of the configuration."""
    rows = connection.execute(select(alerts).where(alerts.c.id == alert_id)).all()
    for alert in readable(connection, alerts, rows, alert_record):
        on_alert = decisions_about(connection, alerts=[alert.id])
        changes = [change for change in _changes([alert], on_alert) if change.reason is not DecisionReason.UPDATED]
        flushes, outcomes = _outcomes(connection, changes, channels)
        shown = sorted([*on_alert, *flushes], key=lambda decision: decision.at)[:_MOST]
        sent = tuple(_deliveries(connection, [], shown))
        return AlertExplanation(alert, rows[0].rule, tuple(shown), sent, tuple(outcomes))
    return None


def _events(connection: Connection, run: RunKey) -> tuple[list[EventRecord], str | None]:
    of_run = equals(events, (*SCENARIO, "run_id", "run_start"), run)
    rows = connection.execute(select(events).where(of_run).order_by(events.c.n).limit(_MOST)).all()
    urls = [row.body.run_url for row in rows if isinstance(row.body, Event) and row.body.run_url]
    return list(map(maker(EventRecord), rows)), urls[-1] if urls else None


def _on_events(connection: Connection, ids: Collection[str]) -> list[Decision]:
    """The decisions on these events, and what reporters enqueued for them, of which the outbox alone has rows."""
    written = decisions_about(connection, events=ids)
    known = {decision.notification_id for decision in written}
    query = select(outbox.c.id).where(outbox.c.event_id.in_(sorted(ids))).order_by(outbox.c.n).limit(_MOST)
    sent = [id_ for id_ in connection.execute(query).scalars() if id_ not in known]
    enqueued = [
        Decision(item.created_at, Stage.REPORTER, item.notice.reporter, DecisionReason.ENQUEUED, None,
                 item.notice.event.id, notification_id=item.id)
        for item in load_notifications(connection, sent).values()
        if isinstance(item.notice, EventNotice)
    ]  # fmt: skip
    return sorted([*written, *enqueued], key=lambda decision: decision.at)


def _alerts(connection: Connection, run: RunKey, ids: Collection[str]) -> list[AlertRecord]:
    """The alerts that decisions on its events name, and those that are about the run."""
    about = (alerts.c.run_id == run.run_id) & (alerts.c.run_start == run.start)
    query = select(alerts).where(equals(alerts, SCENARIO, run.scenario), or_(alerts.c.id.in_(sorted(ids)), about))
    rows = connection.execute(query.order_by(alerts.c.starts_at).limit(_MOST))
    return readable(connection, alerts, rows, alert_record)


# --- what became of it ------------------------------------------------------------------------------------------------


def _changes(concerned: Sequence[AlertRecord], on_alerts: Sequence[Decision]) -> Iterator[_Change]:
    for alert in concerned:
        own = [decision for decision in on_alerts if decision.alert_id == alert.id and decision.reason in _CHANGES]
        if all(decision.reason is not DecisionReason.FIRING for decision in own):  # pruned, or of another version
            yield _Change(alert, DecisionReason.FIRING, alert.starts_at, own[0].at if own else None)
        for number, decision in enumerate(own, 1):
            yield _Change(alert, decision.reason, decision.at, own[number].at if number < len(own) else None)


def _outcomes(
    connection: Connection, changes: Sequence[_Change], channels: Collection[str]
) -> tuple[list[Decision], list[NotifyOutcome]]:
    """What became of these changes, and the flushes that decided it."""
    flushes: list[Decision] = []
    outcomes: list[NotifyOutcome] = []
    for change in changes:
        for key, due_at in _groups(connection, change.alert).items():
            in_group, deciding = _in_group(connection, change, key, due_at, channels)
            flushes += [decision for decision in deciding if decision not in flushes]
            outcomes += in_group
    return flushes, outcomes


def _groups(connection: Connection, alert: AlertRecord) -> dict[str, datetime | None]:
    """The groups in which an alert is or was, with the time of the next flush of those that still are."""
    about = decisions_about(connection, alerts=[alert.id])
    keys = {decision.subject for decision in about if decision.stage is Stage.ROUTE}
    present = select(group_alerts.c.group_key).where(group_alerts.c.alert_id == alert.id)
    keys |= set(connection.execute(present).scalars())
    due = select(groups.c.key, groups.c.flush_at).where(groups.c.key.in_(sorted(keys)))
    return dict.fromkeys(sorted(keys)) | {row.key: row.flush_at for row in connection.execute(due)}


def _in_group(
    connection: Connection, change: _Change, key: str, due_at: datetime | None, channels: Collection[str]
) -> tuple[list[NotifyOutcome], list[Decision]]:
    subjects: dict[str, str | None] = {key: None} | {f"{key} → {channel}": channel for channel in channels}
    log = {channel: row for (_, channel), row in load_notification_log(connection, [key]).items()}
    query = _flushes_of(subjects, change.at, change.until).order_by(decisions.c.n).limit(_MOST)
    flushes = readable(connection, decisions, connection.execute(query), to_decision)
    sent = _notifications_of(connection, flushes)
    flushed_at = connection.execute(select(groups.c.flushed_at).where(groups.c.key == key)).scalar_one_or_none()
    waits = due_at is not None and (flushed_at is None or flushed_at < change.at)
    outcomes: list[NotifyOutcome] = []
    deciding: list[Decision] = []
    for subject, channel in subjects.items():
        own = [decision for decision in flushes if decision.subject == subject]
        known = log.get(channel or "")
        if not own and (waits or known is None):
            continue
        if not own or not _decides(own[0], sent, change.alert):
            before = _last_before(connection, subject, change.at)
            if before is not None and (not own or before.reason in _MUTES):
                own = [before, *own]  # flushes that said the same as the one before them left no row
        notified_at = known.notified.at if known and known.notified else None
        if own:
            outcome, count = _outcome(connection, change, channel, own, sent, notified_at)
            outcomes.append(outcome)
            deciding += own[:count]
        elif known is not None:
            outcomes.append(NotifyOutcome(change.name, change.reason, channel, notified_at, known.reason))
    if waits and not outcomes:
        outcomes.append(NotifyOutcome(change.name, change.reason, None, due_at))
    earlier = [decision for decision in deciding if decision not in flushes]
    return outcomes, [*earlier, *(decision for decision in flushes if decision in deciding)]


def _notifications_of(connection: Connection, about: Sequence[Decision]) -> dict[str, Notification]:
    return load_notifications(connection, [decision.notification_id for decision in about if decision.notification_id])


def _decides(flush: Decision, sent: Mapping[str, Notification], alert: AlertRecord) -> bool:
    """Whether a flush alone says what became of an alert: it notified of it, or something kept the whole group quiet."""
    notification = sent.get(flush.notification_id or "")
    return flush.reason is not DecisionReason.NO_CHANGE if notification is None else _holds(notification, alert)


def _flushes_of(
    subjects: Collection[str], since: datetime | None, until: datetime | None
) -> Select[tuple[object, ...]]:
    query = select(decisions).where(decisions.c.stage == Stage.FLUSH.value, decisions.c.subject.in_(sorted(subjects)))
    if since is not None:
        query = query.where(decisions.c.at >= since)
    return query if until is None else query.where(decisions.c.at < until)


def _last_before(connection: Connection, subject: str, at: datetime) -> Decision | None:
    query = _flushes_of([subject], None, at).order_by(decisions.c.n.desc()).limit(1)
    return next(iter(readable(connection, decisions, connection.execute(query), to_decision)), None)


def _outcome(
    connection: Connection, change: _Change, channel: str | None, flushes: Sequence[Decision],
    sent: Mapping[str, Notification], notified_at: datetime | None,
) -> tuple[NotifyOutcome, int]:  # fmt: skip
    """What a channel's flushes made of a change, and how many of them decided it: up to the first notification that
    holds the alert, or to the first reason why there is none."""
    why_not: tuple[datetime, DecisionReason, str | None] | None = None
    deciding = 0
    for number, flush in enumerate(flushes, 1):
        notification = sent.get(flush.notification_id or "")
        if notification is not None and _holds(notification, change.alert):
            if number == len(flushes) or notification.state is not NotificationState.SUPERSEDED:
                return NotifyOutcome(
                    change.name, change.reason, channel, flush.at, flush.reason, flush.note, notification.id,
                    notification.state, notification.reason,
                ), number  # fmt: skip
        elif why_not is None and notification is not None:
            why_not, deciding = (flush.at, *_why_left_out(connection, change.alert, flush.at)), number
        elif why_not is None and flush.notification_id is None:
            why_not, deciding = (flush.at, flush.reason, flush.note), number
    at, reason, note = why_not or (change.at, DecisionReason.NO_CHANGE, None)
    if reason is DecisionReason.NO_CHANGE and note is None and notified_at is not None:
        note = f"it was notified of this alert at {isoformat(notified_at)}"
    return NotifyOutcome(change.name, change.reason, channel, at, reason, note), deciding


def _holds(notification: Notification, alert: AlertRecord) -> bool:
    notice = notification.notice
    if not isinstance(notice, GroupNotice):
        return False
    return notice.truncated > 0 or any(member.id == alert.id for member in notice.alerts)


def _why_left_out(connection: Connection, alert: AlertRecord, at: datetime) -> tuple[DecisionReason, str]:
    """Why a notification to its group left an alert out: a silence or an inhibition, the only ways to mute a member."""
    for silence in active_silences(connection, at):
        if all_match(silence.matchers, alert.labels):
            return DecisionReason.SILENCED, f"by silence {silence.id} of {silence.created_by}"
    return DecisionReason.INHIBITED, "others of its group were notified"


def _of_reporters(connection: Connection, on_events: Sequence[Decision]) -> list[NotifyOutcome]:
    by_reporters = [decision for decision in on_events if decision.stage is Stage.REPORTER]
    sent = _notifications_of(connection, by_reporters)
    outcomes = []
    for decision in by_reporters:
        notification = sent.get(decision.notification_id or "")
        carried = (notification.id, notification.state, notification.reason) if notification else ()
        channel = notification.channel if notification else None
        outcomes.append(
            NotifyOutcome(decision.subject, None, channel, decision.at, decision.reason, decision.note, *carried)
        )
    return outcomes


def _deliveries(
    connection: Connection, run_events: Sequence[EventRecord], about: Sequence[Decision]
) -> list[DeliveryRecord]:
    ids = sorted({decision.notification_id for decision in about if decision.notification_id})
    about_events = outbox.c.event_id.in_([event.id for event in run_events])
    query = select(outbox).where(or_(outbox.c.id.in_(ids), about_events)).order_by(outbox.c.n).limit(_MOST)
    return delivery_records(connection, readable(connection, outbox, connection.execute(query), lambda row: row))
