"""The story of one run or one alert: what was seen, what was decided on it and why, what was sent to whom.

A piece of news is a change of an alert (it began to fire, it goes on for a further run, it ended) or an event that a
reporter heard. What became of it at a channel is what the flushes of the alert's groups made of it until the alert
changed again: later flushes tell of something else.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from tocsin.kit.clock import isoformat
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.event import Event
from tocsin.model.labels import all_match
from tocsin.model.notification import GroupNotice, Notification, NotificationState
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store import outbox as rows
from tocsin.store import silences
from tocsin.store.decisions import about, to_decision
from tocsin.store.groups import told
from tocsin.store.query import alert_records, delivery_records, get_run
from tocsin.store.records import AlertRecord, DeliveryRecord, RunRecord
from tocsin.store.runs import usual_durations
from tocsin.store.schema import alerts, decisions, events, group_alerts, groups, outbox
from tocsin.store.sql import readable

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
class Silent:
    """A rule or reporter of the present configuration that a run did not move, and why."""

    stage: Stage
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class News:
    """What became of one piece of news at one channel.

    Either a notification tells it (``state``, and ``state_reason`` where that says more), or ``reason`` and ``note`` say why
    not. Without both its group has not been flushed since; ``at`` is then when it will be, else when it was decided.
    """

    what: str  # the alert's name or the reporter
    change: DecisionReason | None  # of the alert; None for a reporter
    channel: str | None  # None: of a reporter that did not notify
    at: datetime | None
    reason: DecisionReason | None = None
    note: str | None = None
    notification_id: str | None = None
    state: NotificationState | None = None
    state_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunStory:
    """Everything that is known about a run; lists are in the order of time and cut at 200.

    ``decisions`` are those on its events, on the alerts that came from it, and of the flushes that its news waited for.
    """

    run: RunRecord
    usual_seconds: float | None
    url: str | None
    details_read_at: datetime | None
    details_problem: str | None
    steps: tuple[StepRecord, ...]
    log_tail: str | None
    events: tuple[EventRecord, ...]
    alerts: tuple[AlertRecord, ...]
    decisions: tuple[Decision, ...]
    deliveries: tuple[DeliveryRecord, ...]
    news: tuple[News, ...]
    # Filled in by who knows the configuration; not in rows.
    in_short: str = ""
    silent: tuple[Silent, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertStory:
    """Everything that is known about one firing of an alert; lists are in the order of time and cut at 200."""

    alert: AlertRecord
    rule: str
    decisions: tuple[Decision, ...]
    deliveries: tuple[DeliveryRecord, ...]
    news: tuple[News, ...]
    # Filled in by who knows the configuration; not in rows.
    in_short: str = ""
    suppressed: tuple[str, ...] = ()  # what keeps it from being told at this moment


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of an alert, and the moment of its next one."""

    alert: AlertRecord
    reason: DecisionReason
    at: datetime
    until: datetime | None


def tell(connection: Connection, scenario: ScenarioKey, run_id: str, channels: Collection[str]) -> RunStory | None:
    """The story of the newest run of this id; None when it is unknown. ``channels`` names those that may have heard."""
    found = get_run(connection, scenario, run_id)
    if found is None:
        return None
    run, details = found
    happened, url = _events(connection, run.key)
    on_events = about(connection, events=[one.id for one in happened])
    rang = _alerts(connection, run.key, {one.alert_id for one in on_events if one.alert_id})
    on_alerts = about(connection, alerts=[one.id for one in rang])
    made = [*on_events, *(one for one in on_alerts if one.event_id is None and one.stage is Stage.ROUTE)]
    # An alert that time alone made fire speaks of the run too.
    timed = {one.id for one in rang if one.run_id == run.run_id}
    made += [one for one in on_alerts if one.event_id is None and one.stage is Stage.RULE and one.alert_id in timed]
    changes = [one for one in _changes(rang, on_alerts) if any(_is(one, mine) for mine in made)]
    flushes, news = _news(connection, changes, channels)
    made = sorted([*made, *flushes], key=lambda one: one.at)[:_MOST]
    news = [*_of_reporters(connection, on_events), *news]
    usual = usual_durations(connection, [scenario]).get(scenario)
    return RunStory(
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
        log_tail=details.log_tail if details else None,
        events=tuple(happened),
        alerts=tuple(rang),
        decisions=tuple(made),
        deliveries=tuple(_deliveries(connection, happened, made)),
        news=tuple(news),
    )  # fmt: skip


def find_alerts(connection: Connection, prefix: str) -> list[str]:
    """The ids of alerts that begin so, two at most."""
    query = select(alerts.c.id).where(alerts.c.id.startswith(prefix, autoescape=True)).order_by(alerts.c.id).limit(2)
    return list(connection.execute(query).scalars())


def tell_alert(connection: Connection, alert_id: str, channels: Collection[str]) -> AlertStory | None:
    """The story of an alert; None when it is unknown. ``channels`` names those that may have heard."""
    row = connection.execute(select(alerts).where(alerts.c.id == alert_id)).mappings().one_or_none()
    found = alert_records(connection, [row]) if row is not None else []
    if row is None or not found:
        return None
    (alert,) = found
    made = about(connection, alerts=[alert.id])
    changes = [one for one in _changes([alert], made) if one.reason is not DecisionReason.UPDATED]
    flushes, news = _news(connection, changes, channels)
    made = sorted([*made, *flushes], key=lambda one: one.at)[:_MOST]
    return AlertStory(alert, row["rule"], tuple(made), tuple(_deliveries(connection, [], made)), tuple(news))


def _events(connection: Connection, run: RunKey) -> tuple[list[EventRecord], str | None]:
    node, project, scenario = run.scenario
    query = (
        select(events)
        .where(events.c.node == node, events.c.project == project, events.c.scenario == scenario)
        .where(events.c.run_id == run.run_id, events.c.run_start == run.start)
        .order_by(events.c.n)
        .limit(_MOST)
    )
    found, url = [], None
    for row in connection.execute(query):
        if isinstance(row.body, Event):
            url = row.body.run_url or url
        found.append(EventRecord(row.id, row.event, row.seq, row.time, row.detected_at, row.late))
    return found, url


def _alerts(connection: Connection, run: RunKey, ids: Collection[str]) -> list[AlertRecord]:
    """The alerts that decisions on its events name, and those that speak of the run."""
    node, project, scenario = run.scenario
    speaks = (alerts.c.run_id == run.run_id) & (alerts.c.run_start == run.start)
    query = (
        select(alerts)
        .where(alerts.c.node == node, alerts.c.project == project, alerts.c.scenario == scenario)
        .where(or_(alerts.c.id.in_(sorted(ids)), speaks))
        .order_by(alerts.c.starts_at)
        .limit(_MOST)
    )
    return alert_records(connection, connection.execute(query).mappings().all())


# --- what became of it -------------------------------------------------------------------------------------------------


def _changes(rang: Sequence[AlertRecord], on_alerts: Sequence[Decision]) -> Iterator[_Change]:
    for alert in rang:
        mine = [one for one in on_alerts if one.alert_id == alert.id and one.reason in _CHANGES]
        if not any(
            one.reason is DecisionReason.FIRING for one in mine
        ):  # its row was pruned, or another version wrote it
            until = mine[0].at if mine else None
            yield _Change(alert, DecisionReason.FIRING, alert.starts_at, until)
        for number, one in enumerate(mine, 1):
            yield _Change(alert, one.reason, one.at, mine[number].at if number < len(mine) else None)


def _is(change: _Change, made: Decision) -> bool:
    return (change.alert.id, change.reason, change.at) == (made.alert_id, made.reason, made.at)


def _news(
    connection: Connection, changes: Sequence[_Change], channels: Collection[str]
) -> tuple[list[Decision], list[News]]:
    """What became of these changes, and the flushes that made it so."""
    flushes: list[Decision] = []
    news: list[News] = []
    for change in changes:
        for key, due_at in _groups(connection, change.alert).items():
            found, mine = _in_group(connection, change, key, due_at, channels)
            flushes += [one for one in mine if one not in flushes]
            news += found
    return flushes, news


def _groups(connection: Connection, alert: AlertRecord) -> dict[str, datetime | None]:
    """The groups in which an alert stands or stood, with the time of the next flush of those that still are."""
    routed = {one.subject for one in about(connection, alerts=[alert.id]) if one.stage is Stage.ROUTE}
    standing = select(group_alerts.c.group_key).where(group_alerts.c.alert_id == alert.id)
    routed |= set(connection.execute(standing).scalars())
    known = {row.key: row for row in connection.execute(select(groups).where(groups.c.key.in_(sorted(routed))))}
    return {key: known[key].flush_at if key in known else None for key in sorted(routed)}


def _in_group(
    connection: Connection, change: _Change, key: str, due_at: datetime | None, channels: Collection[str]
) -> tuple[list[News], list[Decision]]:
    subjects: dict[str, str | None] = {key: None} | {f"{key} → {channel}": channel for channel in channels}
    last = {channel: one for (_, channel), one in told(connection, [key]).items()}
    query = _flushes_of(subjects, change.at, change.until).order_by(decisions.c.n).limit(_MOST)
    flushes = readable(connection, decisions, connection.execute(query), to_decision)
    by_subject: dict[str, list[Decision]] = {}
    for one in flushes:
        by_subject.setdefault(one.subject, []).append(one)
    ids = [one.notification_id for one in flushes if one.notification_id]
    sent = rows.notifications(connection, ids)
    flushed_at = connection.execute(select(groups.c.flushed_at).where(groups.c.key == key)).scalar_one_or_none()
    waits = due_at is not None and (flushed_at is None or flushed_at < change.at)
    news: list[News] = []
    used: list[Decision] = []
    for subject, channel in subjects.items():
        made, known = by_subject.get(subject, []), last.get(channel or "")
        if not made and (waits or known is None):
            continue
        before = None if made and _decides(made[0], sent, change.alert) else _before(connection, subject, change.at)
        if before is not None and (not made or before.reason in _MUTES):
            made = [before, *made]  # flushes that said the same as the one before them left no row
        at = known.notified.at if known and known.notified else None
        if made:
            fate, rows_used = _fate(connection, change, channel, made, sent, at)
            news.append(fate)
            used += rows_used
        elif known is not None:
            news.append(News(_name(change), change.reason, channel, at, known.reason))
    if waits and not news:
        news.append(News(_name(change), change.reason, None, due_at))
    return news, [*(one for one in used if one not in flushes), *(one for one in flushes if one in used)]


def _decides(made: Decision, sent: Mapping[str, Notification], alert: AlertRecord) -> bool:
    """Whether a flush alone says what became of an alert: it told of it, or something kept the whole group quiet."""
    notification = sent.get(made.notification_id or "")
    return made.reason is not DecisionReason.NO_CHANGE if notification is None else _holds(notification, alert)


def _flushes_of(subjects: Collection[str], since: datetime | None, until: datetime | None) -> Select[Any]:
    query = select(decisions).where(decisions.c.stage == Stage.FLUSH.value, decisions.c.subject.in_(sorted(subjects)))
    if since is not None:
        query = query.where(decisions.c.at >= since)
    return query if until is None else query.where(decisions.c.at < until)


def _before(connection: Connection, subject: str, at: datetime) -> Decision | None:
    query = _flushes_of([subject], None, at).order_by(decisions.c.n.desc()).limit(1)
    return next(iter(readable(connection, decisions, connection.execute(query), to_decision)), None)


def _fate(
    connection: Connection, change: _Change, channel: str | None, made: Sequence[Decision],
    sent: Mapping[str, Notification], told_at: datetime | None,
) -> tuple[News, Sequence[Decision]]:  # fmt: skip
    """What a channel's flushes made of a change, and those that decided it: up to the first notification that holds the
    alert, or to the first reason why there is none."""
    name = _name(change)
    why_not: tuple[datetime, DecisionReason, str | None] | None = None
    decided = 0
    for number, one in enumerate(made, 1):
        notification = sent.get(one.notification_id or "")
        if notification is not None and _holds(notification, change.alert):
            if number == len(made) or notification.state is not NotificationState.SUPERSEDED:
                return News(
                    name, change.reason, channel, one.at, one.reason, one.note, notification.id, notification.state,
                    notification.reason,
                ), made[:number]  # fmt: skip
        elif why_not is None and notification is not None:
            why_not, decided = (one.at, *_kept_out(connection, change.alert, one.at)), number
        elif why_not is None and one.notification_id is None:
            why_not, decided = (one.at, one.reason, one.note), number
    at, reason, note = why_not or (change.at, DecisionReason.NO_CHANGE, None)
    if reason is DecisionReason.NO_CHANGE and note is None and told_at is not None:
        note = f"it was told of this alert at {isoformat(told_at)}"
    return News(name, change.reason, channel, at, reason, note), made[:decided]


def _name(change: _Change) -> str:
    return change.alert.labels.get("alertname", "")


def _holds(notification: Notification, alert: AlertRecord) -> bool:
    notice = notification.notice
    return isinstance(notice, GroupNotice) and (
        notice.truncated > 0 or any(one.id == alert.id for one in notice.alerts)
    )


def _kept_out(connection: Connection, alert: AlertRecord, at: datetime) -> tuple[DecisionReason, str]:
    """Why a notification to its group left an alert out: a silence or an inhibition, the only ways to mute one member."""
    for silence in silences.active(connection, at):
        if all_match(silence.matchers, alert.labels):
            return DecisionReason.SILENCED, f"by silence {silence.id} of {silence.created_by}"
    return DecisionReason.INHIBITED, "others of its group were told"


def _of_reporters(connection: Connection, on_events: Sequence[Decision]) -> list[News]:
    heard = [one for one in on_events if one.stage is Stage.REPORTER]
    sent = rows.notifications(connection, [one.notification_id for one in heard if one.notification_id])
    news: list[News] = []
    for one in heard:
        notification = sent.get(one.notification_id or "")
        news.append(
            News(one.subject, None, None, one.at, one.reason, one.note)
            if notification is None
            else News(
                one.subject, None, notification.channel, one.at, one.reason, one.note, notification.id,
                notification.state, notification.reason,
            )
        )  # fmt: skip
    return news


def _deliveries(
    connection: Connection, happened: Sequence[EventRecord], made: Sequence[Decision]
) -> list[DeliveryRecord]:
    ids = sorted({one.notification_id for one in made if one.notification_id})
    about_events = outbox.c.event_id.in_([one.id for one in happened])
    query = select(outbox).where(or_(outbox.c.id.in_(ids), about_events)).order_by(outbox.c.n).limit(_MOST)
    rows = readable(connection, outbox, connection.execute(query).mappings(), lambda row: row)
    return delivery_records(connection, rows)
