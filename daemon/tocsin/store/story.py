"""The story of one run: what was seen, what was decided on it and why, what was sent to whom."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, or_, select

from tocsin.model.decision import Decision, Stage
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.decisions import about, to_decision
from tocsin.store.query import alert_records, delivery_records, get_run, usual_seconds
from tocsin.store.records import AlertRecord, DeliveryRecord, RunRecord
from tocsin.store.schema import alerts, decisions, events, outbox

_FLUSHED_WITHIN = timedelta(minutes=10)  # after the end of an alert, for its resolved notice
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
class RunStory:
    """Everything that is known about a run; lists are in the order of time and cut at 200.

    ``decisions`` are those on its events, on the alerts that came from it, and on the groups of those alerts.
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
    # Filled in by who knows the configuration; not in rows.
    in_short: str = ""
    silent: tuple[Silent, ...] = ()


def tell(connection: Connection, scenario: ScenarioKey, run_id: str, channels: Collection[str]) -> RunStory | None:
    """The story of the newest run of this id; None when it is unknown. ``channels`` names those that may have heard."""
    found = get_run(connection, scenario, run_id)
    if found is None:
        return None
    run, details = found
    happened, url = _events(connection, run.key)
    made = about(connection, events=[one.id for one in happened])
    rang = _alerts(connection, run.key, {one.alert_id for one in made if one.alert_id})
    made = _with_alerts(connection, made, rang, channels)[:_MOST]
    return RunStory(
        run=run,
        usual_seconds=usual_seconds(connection, scenario),
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
    )  # fmt: skip


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
    return alert_records(connection.execute(query).mappings().all())


def _with_alerts(
    connection: Connection, made: Sequence[Decision], rang: Sequence[AlertRecord], channels: Collection[str]
) -> list[Decision]:
    """With what was decided on its alerts apart from other runs, and on the groups that those alerts went to."""
    on_alerts = about(connection, alerts=[one.id for one in rang])
    mine = [one for one in on_alerts if one.event_id is None]
    groups = {one.subject for one in mine if one.stage is Stage.ROUTE}
    told = [*made, *(one for one in mine if one not in made)]
    for alert in rang:
        told += [one for one in _flushes(connection, alert, groups, channels) if one not in told]
    return sorted(told, key=lambda one: one.at)


def _flushes(
    connection: Connection, alert: AlertRecord, groups: Collection[str], channels: Collection[str]
) -> list[Decision]:
    subjects = [*groups, *(f"{group} → {channel}" for group in groups for channel in channels)]
    query = (
        select(decisions)
        .where(decisions.c.stage == Stage.FLUSH.value, decisions.c.subject.in_(subjects))
        .where(decisions.c.at >= alert.starts_at)
        .order_by(decisions.c.at)
        .limit(_MOST)
    )
    if alert.ends_at is not None:
        query = query.where(decisions.c.at <= alert.ends_at + _FLUSHED_WITHIN)
    return [to_decision(row) for row in connection.execute(query)]


def _deliveries(
    connection: Connection, happened: Sequence[EventRecord], made: Sequence[Decision]
) -> list[DeliveryRecord]:
    ids = sorted({one.notification_id for one in made if one.notification_id})
    about_events = outbox.c.event_id.in_([one.id for one in happened])
    query = select(outbox).where(or_(outbox.c.id.in_(ids), about_events)).order_by(outbox.c.n).limit(_MOST)
    return delivery_records(connection, connection.execute(query).mappings().all())
