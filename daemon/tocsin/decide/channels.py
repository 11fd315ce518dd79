"""Channels that do not deliver, told through the others: rows of the outbox → alerts."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tocsin.decide.compiled import CompiledConfig
from tocsin.decide.evaluate import RuleEvaluation
from tocsin.decide.outcome import Outcome
from tocsin.model.alert import CHANNEL_ALERT
from tocsin.model.decision import DecisionReason
from tocsin.rules import channel
from tocsin.rules.rules import Fired, Resolved
from tocsin.store import alerts, deliveries
from tocsin.store.alerts import AlertRow

_OVERLAP = timedelta(hours=1)  # of two looks: for receipts that came late, and senders whose clock differs


def look(
    connection: Connection, compiled: CompiledConfig, now: datetime, before: datetime | None
) -> list[Fired | Resolved]:
    """What is to change. ``before``: the last look, whose findings stand. Reads only, and not all of a long outbox."""
    recently = min(before or now, now) - _OVERLAP
    known = alerts.of_rule(connection, CHANNEL_ALERT, recently)
    ringing = {one.failing_channel: one.starts_at for one in known if one.firing and one.failing_channel}
    lately = {name: max(since, recently) if before else since for name, since in ringing.items()}
    working = deliveries.delivered_since(connection, lately)
    configured = compiled.config.channels()
    quiet = [name for name in configured if name not in ringing]
    troubles = deliveries.troubles(connection, quiet, now - channel.PATIENCE, recently)
    if troubles:
        known = alerts.of_rule(connection, CHANNEL_ALERT, min(one.since for one in troubles.values()))
    failing = {name: (one.since, one.reason) for name, one in troubles.items()}
    return channel.evaluate(known, failing, working, configured, now)


def change(
    connection: Connection, compiled: CompiledConfig, now: datetime, changes: Sequence[Fired | Resolved]
) -> Outcome:
    """Write what ``look`` found. With a new alert the standing ones are routed anew, since fewer can hear them."""
    evaluation = RuleEvaluation(connection, compiled, now, {}, {}, {})
    firing = alerts.firing_ids(connection)
    for one in changes:
        match one:
            case Fired(alert):
                if alert.fingerprint in firing:  # it has a row that could not be read: write it anew
                    alert = replace(alert, id=firing[alert.fingerprint])
                evaluation.put_in(AlertRow(alert, CHANNEL_ALERT))
                evaluation.note(alert.name, DecisionReason.FIRING, alert.annotations["summary"], None, alert)
            case Resolved(id_, at, reason):
                evaluation.end(CHANNEL_ALERT, id_, at, reason)
    if any(isinstance(one, Fired) for one in changes):
        evaluation.route_again(one for one in alerts.of_rule(connection, CHANNEL_ALERT, now) if one.firing)
    evaluation.write()
    return Outcome(alerts=evaluation.changed, made=evaluation.made)
