"""Rows of alerts, of the silences that keep them quiet, and of the decisions that say why one was notified or not.

Two alerts of one fingerprint never fire at once. Ended alerts and expired silences stay until they are pruned.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, and_, bindparam, case, func, insert, or_, select, update

from tocsin.kit.clock import to_ms
from tocsin.model.alert import EXTERNAL_RULE, Acknowledgement, Alert, EndReason, Silence, SilenceState
from tocsin.model.decision import ALERT_OPENS, Decision, DecisionReason, Stage
from tocsin.model.labels import Labels, Matcher, all_match, parse_matcher
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store.schema import alerts, decisions, document_text, scenarios, silences
from tocsin.store.sql import Keyed, bulk_upsert, chunks, maker, pack, readable, same, shallow, unfold

_FIRING = alerts.c.ends_at.is_(None)
_LABELS = {"alertname": "alertname", "dss_node": "node", "project": "project", "scenario": "scenario"}  # label → column


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert with what only its row knows: the rule that holds it, and its scenario's switch when it began."""

    alert: Alert
    rule: str
    was_active: bool = False


@dataclass(frozen=True, slots=True)
class AlertEnd:
    """How one alert ends."""

    alert_id: str
    at: datetime
    reason: EndReason


class AlertBrief(NamedTuple):
    """An alert that fires, in short."""

    fingerprint: str
    name: str
    node: str
    project: str
    scenario: str


def _run(row: Mapping[str, Any]) -> RunKey | None:
    """The run that an alert speaks of. Raises ``ValueError`` when the alert's labels are not those of its row."""
    for label, column in _LABELS.items():
        if row["labels"].get(label, "") != row[column]:
            raise ValueError(f"its label {label} is not that of its row")
    scenario = ScenarioKey(row["node"], row["project"], row["scenario"])
    return None if row["run_id"] is None else RunKey(scenario, row["run_id"], row["run_start"])


to_alert = maker(Alert, run=_run)
"""An alert from a row with all columns of the table. Raises ``ValueError`` for one that makes no sense."""


def to_alert_row(row: Any) -> AlertRow:
    return AlertRow(to_alert(row), row._mapping["rule"], row._mapping["was_active"])


def put_alerts(connection: Connection, rows: Sequence[AlertRow], now: datetime) -> None:
    """Write alerts that fire, or go on firing and show something new; a new one may have ended already."""
    updated_at = to_ms(now)
    _PUT.execute(connection, [
        (
            alert.id, alert.fingerprint, *(alert.labels.get(label, "") for label in _LABELS), row.rule,
            document_text(alert.labels), document_text(alert.annotations), to_ms(alert.starts_at),
            None if alert.ends_at is None else to_ms(alert.ends_at), alert.end_reason and alert.end_reason.value,
            alert.count, alert.run and alert.run.run_id, alert.run and to_ms(alert.run.start), updated_at, row.was_active,
        )
        for row in rows
        for alert in (row.alert,)
    ])  # fmt: skip


_PUT = bulk_upsert(
    alerts,
    ("id", "fingerprint", *_LABELS.values(), "rule", "labels", "annotations", "starts_at", "ends_at", "end_reason",
     "count", "run_id", "run_start", "updated_at", "was_active"),
    ("rule", "labels", "annotations", "count", "run_id", "run_start", "updated_at"),
    where=_FIRING,
)  # fmt: skip


def end_alerts(connection: Connection, ends: Sequence[AlertEnd], now: datetime) -> None:
    """End alerts, in one statement; those that do not fire stay as they are."""
    if not ends:
        return
    packed = pack((end.alert_id, end.at, end.reason.value) for end in ends)
    keys = unfold(connection.dialect.name, (alerts.c.id, alerts.c.ends_at, alerts.c.end_reason))
    ending = update(alerts).where(alerts.c.id == keys.c.k0, _FIRING)
    connection.execute(ending.values(ends_at=keys.c.k1, end_reason=keys.c.k2, updated_at=now), {"keys": packed})


def end_alert(connection: Connection, alert_id: str, at: datetime, reason: EndReason, now: datetime) -> Alert | None:
    """End an alert that fires; returns it ended, or None when it did not fire or cannot be read."""
    ending = update(alerts).where(alerts.c.id == alert_id, _FIRING).returning(*alerts.c)
    rows = connection.execute(ending.values(ends_at=at, end_reason=reason, updated_at=now))
    return next(iter(readable(connection, alerts, rows, to_alert)), None)


def set_acknowledged(connection: Connection, alert_id: str, acknowledged: Acknowledgement | None) -> Alert | None:
    """Note on an alert that fires that somebody has it, or no longer; None when it does not fire or cannot be read."""
    change = update(alerts).where(alerts.c.id == alert_id, _FIRING).values(acknowledged=acknowledged)
    return next(iter(readable(connection, alerts, connection.execute(change.returning(*alerts.c)), to_alert)), None)


def firing_alerts(connection: Connection) -> list[AlertRow]:
    """The alerts that fire, the oldest first."""
    query = select(alerts).where(_FIRING).order_by(alerts.c.starts_at, alerts.c.id)
    return readable(connection, alerts, connection.execute(query), to_alert_row)


class DatedAlert(NamedTuple):
    alert: Alert
    updated_at: datetime
    expires_at: datetime | None


def dated_firing(connection: Connection) -> list[DatedAlert]:
    """The alerts that fire, the oldest first, with when they were last written and when they end by themselves."""
    query = select(alerts).where(_FIRING).order_by(alerts.c.starts_at, alerts.c.id)
    rows = connection.execute(query)
    return readable(connection, alerts, rows, lambda row: DatedAlert(to_alert(row), row.updated_at, row.expires_at))


def firing_or_ended_since(connection: Connection, since: datetime, changed_since: datetime | None) -> list[Alert]:
    """The alerts that fire or ended at ``since`` or later; of those only what was written at ``changed_since`` or later."""
    query = select(alerts).where(or_(_FIRING, alerts.c.ends_at >= since))
    if changed_since is not None:
        query = query.where(alerts.c.updated_at >= changed_since)
    return readable(connection, alerts, connection.execute(query), to_alert)


_BRIEF_COLUMNS = (
    alerts.c.id,
    alerts.c.fingerprint,
    alerts.c.alertname,
    alerts.c.node,
    alerts.c.project,
    alerts.c.scenario,
)
_BRIEF = Keyed(select(*_BRIEF_COLUMNS).where(_FIRING), [alerts.c.id])


def firing_by_id(connection: Connection, ids: Collection[str]) -> dict[str, AlertBrief]:
    """Those of these alerts that fire, by id."""
    return {row[0]: AlertBrief(*row[1:]) for row in _BRIEF.rows(connection, [(id_,) for id_ in ids])}


def alerts_of_rule(connection: Connection, rule: str, since: datetime) -> list[Alert]:
    """The alerts of one rule that fire, or that ended after a moment."""
    query = select(alerts).where(or_(_FIRING, alerts.c.ends_at > since), alerts.c.rule == rule)
    return readable(connection, alerts, connection.execute(query), to_alert)


def firing_ids(connection: Connection) -> dict[str, str]:
    """The id of each firing alert by its fingerprint."""
    rows = connection.execute(select(alerts.c.fingerprint, alerts.c.id).where(_FIRING))
    return {row[0]: row[1] for row in rows}


class FiringAlert(NamedTuple):
    """What decides the state in which a firing alert is shown."""

    id: str
    labels: Labels
    acknowledged: Acknowledgement | None


def firing_states(connection: Connection) -> list[FiringAlert]:
    """Everything that fires."""
    query = select(alerts.c.id, alerts.c.labels, alerts.c.acknowledged).where(_FIRING)
    return readable(connection, alerts, connection.execute(query), lambda row: FiringAlert(*row))


def rule_of_alert(connection: Connection, alert_id: str) -> tuple[str, str, str, str] | None:
    """The rule and place (node, project, scenario) of an alert."""
    query = select(alerts.c.rule, alerts.c.node, alerts.c.project, alerts.c.scenario)
    row = connection.execute(query.where(alerts.c.id == alert_id)).one_or_none()
    return None if row is None else (row.rule, row.node, row.project, row.scenario)


def orphaned_alerts(connection: Connection) -> list[tuple[AlertRow, EndReason]]:
    """Firing alerts whose scenario is gone, or was switched off since; with how they end."""
    gone = or_(scenarios.c.scenario.is_(None), scenarios.c.gone_at.is_not(None))
    off = and_(alerts.c.was_active, scenarios.c.active.is_(False))
    query = (
        select(*alerts.c, gone.label("gone"))
        .join_from(alerts, scenarios, same(alerts, scenarios), isouter=True)
        .where(_FIRING, alerts.c.scenario != "", alerts.c.rule != EXTERNAL_RULE, gone | off)
    )

    def orphan(row: Any) -> tuple[AlertRow, EndReason]:
        return to_alert_row(row), EndReason.UNWATCHED if row._mapping["gone"] else EndReason.DEACTIVATED

    return readable(connection, alerts, connection.execute(query), orphan)


def set_expiry(connection: Connection, ends: Sequence[tuple[str, datetime]]) -> None:
    """Note when alerts that others posted end by themselves."""
    rows = [{"alert": alert_id, "at": at} for alert_id, at in ends]
    if rows:
        connection.execute(
            update(alerts).where(alerts.c.id == bindparam("alert")).values(expires_at=bindparam("at")), rows
        )


def expired_alerts(connection: Connection, now: datetime) -> list[tuple[str, datetime]]:
    """The alerts that fire although their time is over, with that time."""
    query = select(alerts.c.id, alerts.c.expires_at).where(alerts.c.expires_at <= now, _FIRING)
    return [(row[0], row[1]) for row in connection.execute(query)]


def next_expiry(connection: Connection) -> datetime | None:
    moment: datetime | None = connection.scalar(select(func.min(alerts.c.expires_at)).where(_FIRING))
    return moment


# --- silences ---------------------------------------------------------------------------------------------------------


class BadSilence(ValueError):
    """A silence needs a matcher that matches no empty label set, an author, and an end after its start and now."""


to_silence = maker(Silence, matchers=lambda row: tuple(map(parse_matcher, row["matchers"])))
"""A silence from a row with all columns of the table."""


def insert_silence(
    connection: Connection,
    matchers: Sequence[Matcher],
    starts_at: datetime,
    ends_at: datetime,
    created_by: str,
    comment: str,
    now: datetime,
) -> Silence:
    """A new silence; a start in the past becomes now. Raises ``BadSilence`` for what Alertmanager would refuse."""
    if not matchers or all(matcher.matches({}) for matcher in matchers):
        raise BadSilence("a silence needs at least one matcher that does not match everything")
    if not created_by.strip():
        raise BadSilence("a silence needs the name of its author")
    starts_at = max(starts_at, now)
    if ends_at <= starts_at:
        raise BadSilence("a silence must end after it begins, and not in the past")
    silence = Silence(str(uuid4()), tuple(matchers), starts_at, ends_at, created_by.strip(), comment)
    connection.execute(insert(silences).values(shallow(silence) | {"matchers": tuple(map(str, matchers))}))
    return silence


def update_silence(
    connection: Connection,
    silence_id: str,
    matchers: Sequence[Matcher],
    starts_at: datetime,
    ends_at: datetime,
    created_by: str,
    comment: str,
    now: datetime,
) -> Silence | None:
    """Change a silence, as Alertmanager does: one with the same matchers that has not ended, and has not begun or keeps its
    start, is changed in place; another is ended, and a new one stands for it. None for an unknown id; else as
    ``insert_silence``."""
    old = get_silence(connection, silence_id)
    if old is None:
        return None
    state, new = old.state(now), (starts_at, ends_at, created_by, comment)
    same_start = state is SilenceState.ACTIVE and to_ms(starts_at) == to_ms(old.starts_at)
    if set(old.matchers) != set(matchers) or not (state is SilenceState.PENDING or same_start):
        created = insert_silence(connection, matchers, *new, now)
        end_silence(connection, silence_id, now)
        return created
    if ends_at <= max(starts_at, now) or not created_by.strip():
        raise BadSilence("a silence must end after it begins, and not in the past, and needs the name of its author")
    changed = replace(old, starts_at=starts_at if same_start else max(starts_at, now), ends_at=ends_at,
                      created_by=created_by.strip(), comment=comment)  # fmt: skip
    values = {name: getattr(changed, name) for name in ("starts_at", "ends_at", "created_by", "comment")}
    connection.execute(update(silences).where(silences.c.id == silence_id).values(values))
    return changed


def end_silence(connection: Connection, silence_id: str, now: datetime) -> Silence | None:
    """End a silence now; None when there is none of this id. One that has ended stays as it was."""
    silence = get_silence(connection, silence_id)
    if silence is None or silence.state(now) is SilenceState.EXPIRED:
        return silence
    ended = replace(silence, starts_at=min(silence.starts_at, now), ends_at=now)
    values = {"starts_at": ended.starts_at, "ends_at": ended.ends_at}
    connection.execute(update(silences).where(silences.c.id == silence_id).values(values))
    return ended


def get_silence(connection: Connection, silence_id: str) -> Silence | None:
    rows = connection.execute(select(silences).where(silences.c.id == silence_id))
    return next(iter(readable(connection, silences, rows, to_silence)), None)


def count_covered(connection: Connection, matchers: Sequence[Matcher]) -> int:
    """How many firing alerts these matchers cover."""
    return sum(all_match(matchers, alert.labels) for alert in firing_states(connection))


def count_silences(connection: Connection, now: datetime) -> dict[str, int]:
    """How many silences there are in each state."""
    state = case(
        (silences.c.starts_at > now, SilenceState.PENDING.value),
        (silences.c.ends_at > now, SilenceState.ACTIVE.value),
        else_=SilenceState.EXPIRED.value,
    )
    counted = connection.execute(select(state, func.count()).group_by(state)).all()
    return {name.value: 0 for name in SilenceState} | {row[0]: row[1] for row in counted}


def active_silences(connection: Connection, now: datetime) -> list[Silence]:
    """The silences that hold at ``now``."""
    query = select(silences).where(silences.c.starts_at <= now, silences.c.ends_at > now)
    rows = connection.execute(query.order_by(silences.c.starts_at, silences.c.id))
    return readable(connection, silences, rows, to_silence)


# --- decisions --------------------------------------------------------------------------------------------------------

to_decision = maker(Decision)
"""A decision from a row with all columns of the table."""


_COLUMNS = ("at", "stage", "subject", "reason", "note", "event_id", "fingerprint", "alert_id", "notification_id")
_DECISIONS = bulk_upsert(decisions, (*_COLUMNS, "routes"))


def record_decisions(
    connection: Connection, new: Sequence[Decision], routes: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> None:
    """Write decisions. ``routes``: by id the groups that an alert was routed to, each with its receiver; they stand in
    the row of the rule's first decision that opens or updates it."""
    unwritten = dict(routes or {})
    rows = []
    for item in new:
        into = unwritten.pop(item.alert_id or "", None) if item.reason in ALERT_OPENS else None
        rows.append((
            to_ms(item.at), item.stage.value, item.subject, item.reason.value, item.note, item.event_id,
            item.fingerprint, item.alert_id, item.notification_id, None if into is None else document_text(into),
        ))  # fmt: skip
    _DECISIONS.execute(connection, rows)


def decisions_about(
    connection: Connection, *, events: Collection[str] = (), alerts: Collection[str] = ()
) -> list[Decision]:
    """The decisions on these events and alerts, in the order in which they were made; of alerts also where they were
    routed."""
    by_number: dict[int, list[Decision]] = {}
    for column, ids in ((decisions.c.event_id, events), (decisions.c.alert_id, alerts)):
        for part in chunks(sorted(set(ids))):
            rows = connection.execute(select(decisions).where(column.in_(part)))
            for row, item in readable(connection, decisions, rows, lambda row: (row, to_decision(row))):
                about = Decision(
                    item.at, Stage.ROUTE, "", DecisionReason.ROUTED, None, None, item.fingerprint, item.alert_id
                )
                into = row.routes if column is decisions.c.alert_id and row.routes else ()
                routed = [replace(about, subject=key, note=f"to {receiver}") for key, receiver in into]
                if routed or row.n not in by_number:
                    by_number[row.n] = [item, *routed]
    return [item for n in sorted(by_number) for item in by_number[n]]
