"""Channels that do not deliver, told through the others: rows of the outbox → alerts."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from tocsin.app.judging import Judging
from tocsin.app.outcome import Outcome
from tocsin.app.plan import Plan
from tocsin.judge import channel
from tocsin.judge.rules import Ended, Rang
from tocsin.model.alert import CHANNEL_ALERT
from tocsin.model.decision import Decision, Stage, Verdict
from tocsin.store import alerts, deliveries
from tocsin.store.alerts import Filed


def look(connection: Connection, plan: Plan, now: datetime) -> list[Rang | Ended]:
    """What is to change. Reads only: an outbox that cannot be emptied may be long."""
    troubles = deliveries.troubles(connection, now - channel.PATIENCE)
    oldest = min((one.since for one in troubles.values()), default=now)
    known = alerts.of_rule(connection, CHANNEL_ALERT, oldest)
    working = {
        one.labels["channel"]
        for one in known
        if one.firing and deliveries.delivered_since(connection, one.labels["channel"], one.starts_at)
    }
    failing = {name: (one.since, one.reason) for name, one in troubles.items()}
    return channel.judge(known, failing, working, plan.config.channels(), now)


def change(connection: Connection, plan: Plan, now: datetime, changes: Sequence[Rang | Ended]) -> Outcome:
    """Write what ``look`` found. With a new alert the standing ones are routed anew, since fewer can hear them."""
    judging = Judging(connection, plan, now, {}, {}, {})
    for one in changes:
        match one:
            case Rang(alert):
                judging.put_in(Filed(alert, CHANNEL_ALERT))
                summary = alert.annotations["summary"]
                judging.made.append(
                    Decision(now, Stage.RULE, alert.name, Verdict.RANG, summary, None, alert.fingerprint, alert.id)
                )
            case Ended(id_, at, reason):
                judging.end(CHANNEL_ALERT, id_, at, reason)
    if any(isinstance(one, Rang) for one in changes):
        judging.route_again(one for one in alerts.of_rule(connection, CHANNEL_ALERT, now) if one.firing)
    judging.write()
    return Outcome(alerts=judging.changed, made=judging.made)
