"""Rows of alerts. Two of one fingerprint never fire at once; ended ones stay until they are pruned."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, RowMapping, and_, bindparam, or_, select, update

from tocsin.model.alert import Alert, EndReason
from tocsin.model.labels import Labels
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.schema import alerts, scenarios
from tocsin.store.sql import Keyed, pack, readable, unfold, upsert


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert with what only its row knows: the rule that holds it, and its scenario's switch when it rang."""

    alert: Alert
    rule: str
    was_active: bool = False


def put_alerts(connection: Connection, filed: Sequence[AlertRow], now: datetime) -> None:
    """Write alerts that ring, or that ring on and show something new; a new one may have ended already."""
    changed = ("rule", "labels", "annotations", "count", "run_id", "run_start", "updated_at")
    upsert(connection, alerts, [_row(one, now) for one in filed], changed, where=_FIRING)


_FIRING = alerts.c.ends_at.is_(None)


@dataclass(frozen=True, slots=True)
class End:
    """How one alert ends."""

    alert_id: str
    at: datetime
    reason: EndReason


def end_alerts(connection: Connection, ends: Sequence[End], now: datetime) -> None:
    """End alerts, in one statement; those that do not fire stay as they are."""
    if not ends:
        return
    packed = pack((one.alert_id, one.at, one.reason.value) for one in ends)
    given = unfold(connection.dialect.name, (alerts.c.id, alerts.c.ends_at, alerts.c.end_reason))
    connection.execute(
        update(alerts)
        .where(alerts.c.id == given.c.k0, _FIRING)
        .values(ends_at=given.c.k1, end_reason=given.c.k2, updated_at=now),
        {"keys": packed},
    )


class Standing(NamedTuple):
    """An alert that fires, in short."""

    fingerprint: str
    name: str


def standing(connection: Connection, ids: Collection[str]) -> dict[str, Standing]:
    """Those of these alerts that fire, by id."""
    return {row[0]: Standing(*row[1:]) for row in _STANDING.rows(connection, [(id_,) for id_ in ids])}


_STANDING = Keyed(select(alerts.c.id, alerts.c.fingerprint, alerts.c.alertname).where(_FIRING), [alerts.c.id])


def end_alert(connection: Connection, alert_id: str, at: datetime, reason: EndReason, now: datetime) -> Alert | None:
    """End an alert that fires; answers it ended, or None when it did not fire or cannot be read."""
    row = connection.execute(_END, {"of": alert_id, "at": at, "why": reason.value, "when": now}).one_or_none()
    return None if row is None else next(iter(readable(connection, alerts, [row], to_alert)), None)


_END = (
    update(alerts)
    .where(alerts.c.id == bindparam("of"), _FIRING)
    .values(ends_at=bindparam("at"), end_reason=bindparam("why"), updated_at=bindparam("when"))
    .returning(*alerts.c)
)


def firing(connection: Connection) -> list[AlertRow]:
    """The alerts that fire, the oldest first."""
    query = select(alerts).where(alerts.c.ends_at.is_(None)).order_by(alerts.c.starts_at, alerts.c.id)
    return readable(connection, alerts, connection.execute(query), _filed)


def of_rule(connection: Connection, rule: str, since: datetime) -> list[Alert]:
    """The alerts of one rule that fire, or that ended after a moment."""
    query = select(alerts).where(or_(alerts.c.ends_at.is_(None), alerts.c.ends_at > since), alerts.c.rule == rule)
    return readable(connection, alerts, connection.execute(query), to_alert)


def firing_ids(connection: Connection) -> dict[str, str]:
    """The id of each firing alert by its fingerprint."""
    rows = connection.execute(select(alerts.c.fingerprint, alerts.c.id).where(alerts.c.ends_at.is_(None)))
    return {row[0]: row[1] for row in rows}


def firing_labels(connection: Connection) -> list[Labels]:
    """The labels of everything that fires."""
    query = select(alerts.c.id, alerts.c.labels).where(alerts.c.ends_at.is_(None))
    return readable(connection, alerts, connection.execute(query), lambda row: row.labels)


def rule_of(connection: Connection, alert_id: str) -> tuple[str, str, str, str] | None:
    """The rule and place (node, project, scenario) of an alert."""
    query = select(alerts.c.rule, alerts.c.node, alerts.c.project, alerts.c.scenario)
    row = connection.execute(query.where(alerts.c.id == alert_id)).one_or_none()
    return None if row is None else (row.rule, row.node, row.project, row.scenario)


def orphans(connection: Connection) -> list[tuple[AlertRow, EndReason]]:
    """Firing alerts whose scenario is gone, or was switched off since; with how they end."""
    same = and_(*(alerts.c[name] == scenarios.c[name] for name in ScenarioKey._fields))
    gone = or_(scenarios.c.scenario.is_(None), scenarios.c.gone_at.is_not(None))
    off = and_(alerts.c.was_active, scenarios.c.active.is_(False))
    columns: tuple[ColumnElement[Any], ...] = (*alerts.c, gone.label("gone"))
    query = (
        select(*columns)
        .join_from(alerts, scenarios, same, isouter=True)
        .where(alerts.c.ends_at.is_(None), alerts.c.scenario != "", gone | off)
    )
    return readable(connection, alerts, connection.execute(query), _orphan)


def _orphan(row: Row[Any]) -> tuple[AlertRow, EndReason]:
    return _filed(row), EndReason.UNWATCHED if row._mapping["gone"] else EndReason.DEACTIVATED


def to_alert(row: Row[Any]) -> Alert:
    """An alert from a row with all columns of the table. Raises ``ValueError`` for one that makes no sense."""
    fields = row._mapping
    run = None
    check_labels(fields)
    if fields["run_id"] is not None:
        scenario = ScenarioKey(fields["node"], fields["project"], fields["scenario"])
        run = RunKey(scenario, fields["run_id"], fields["run_start"])
    return Alert(
        id=fields["id"],
        fingerprint=fields["fingerprint"],
        labels=fields["labels"],
        starts_at=fields["starts_at"],
        ends_at=fields["ends_at"],
        end_reason=None if fields["end_reason"] is None else EndReason(fields["end_reason"]),
        annotations=fields["annotations"],
        count=fields["count"],
        run=run,
    )


def check_labels(fields: RowMapping) -> None:
    """Raises ``ValueError`` when an alert's labels are not those of its row."""
    for label, column in _LABELS:
        if fields["labels"].get(label, "") != fields[column]:
            raise ValueError(f"its label {label} is not that of its row")


_LABELS = (("alertname", "alertname"), ("dss_node", "node"), ("project", "project"), ("scenario", "scenario"))


def _filed(row: Row[Any]) -> AlertRow:
    return AlertRow(to_alert(row), row._mapping["rule"], row._mapping["was_active"])


def _row(filed: AlertRow, now: datetime) -> dict[str, object]:
    alert = filed.alert
    return {
        "id": alert.id,
        "fingerprint": alert.fingerprint,
        "alertname": alert.name,
        "rule": filed.rule,
        "node": alert.labels.get("dss_node", ""),
        "project": alert.labels.get("project", ""),
        "scenario": alert.labels.get("scenario", ""),
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "starts_at": alert.starts_at,
        "ends_at": alert.ends_at,
        "end_reason": alert.end_reason,
        "count": alert.count,
        "run_id": alert.run.run_id if alert.run else None,
        "run_start": alert.run.start if alert.run else None,
        "updated_at": now,
        "was_active": filed.was_active,
    }
