"""Alerts of others, as Prometheus posts them: routed and silenced as ours, firing until an end that each post may move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tocsin.decide.evaluate import CompiledConfig, RuleEvaluation, StepResult
from tocsin.kit.clock import to_ms
from tocsin.kit.strings import derived_id
from tocsin.model.alert import EXTERNAL_RULE, Alert, EndReason, alert_id
from tocsin.model.decision import DecisionReason
from tocsin.model.labels import Labels
from tocsin.store import Connection, alerts
from tocsin.store.alerts import AlertRow


@dataclass(frozen=True, slots=True)
class PostedAlert:
    """What somebody says fires from ``starts_at`` until ``ends_at``, if it is not posted again before."""

    labels: Labels
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime


def take_alerts(
    connection: Connection, compiled: CompiledConfig, now: datetime, posted: Sequence[PostedAlert]
) -> StepResult:
    """Open, go on with and end alerts as they were posted; of several with the same labels the last counts."""
    evaluation = RuleEvaluation(connection, compiled, now)
    firing = {
        alert.fingerprint: alert for alert in alerts.alerts_of_rule(connection, EXTERNAL_RULE, now) if alert.firing
    }
    ends: list[tuple[str, datetime]] = []
    by_identity = {derived_id(EXTERNAL_RULE, *sum(sorted(item.labels.items()), ())): item for item in posted}
    for identity, item in by_identity.items():
        known = firing.get(identity)
        if item.ends_at <= now:
            if known is not None:
                evaluation.end(EXTERNAL_RULE, known.id, min(item.ends_at, now), EndReason.RESOLVED)
            continue
        id_ = known.id if known else alert_id(identity, to_ms(item.starts_at), to_ms(now))
        ends.append((id_, item.ends_at))
        alert = Alert(id_, identity, item.labels, item.starts_at, annotations=item.annotations)
        if known is None:
            summary = item.annotations.get("summary")
            evaluation.note(alert.name, DecisionReason.FIRING, summary, alert=(identity, id_))
            evaluation.note_change(DecisionReason.FIRING, alert, id_, summary)
        if known is None or known.annotations != item.annotations:
            evaluation.put_row(AlertRow(alert, EXTERNAL_RULE))
    evaluation.write()
    alerts.set_expiry(connection, ends)
    return evaluation.result


def end_expired(evaluation: RuleEvaluation) -> None:
    """End the alerts that nobody posted again in time."""
    for id_, expires_at in alerts.expired_alerts(evaluation.connection, evaluation.now):
        evaluation.end(EXTERNAL_RULE, id_, expires_at, EndReason.RESOLVED)
