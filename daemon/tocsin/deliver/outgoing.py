"""Notifications on their way: claimed rows with all that their messages are made of."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tocsin.config.model import Config
from tocsin.model.notification import EventNotice, GroupNotice, Notification, SummaryNotice
from tocsin.model.run import Details, RunKey, ScenarioKey
from tocsin.store import Connection, outbox
from tocsin.store.outbox import ClaimedRow, load_claimed
from tocsin.store.runs import get_details, usual_durations

_CACHED_FOR = timedelta(minutes=5)
_CACHE_SIZE = 20_000
_NO_LEASE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Facts:
    """What rows know beyond the notice: run details, and the median duration of a scenario's last good runs."""

    details: Mapping[RunKey, Details] = field(default_factory=dict)
    usual: Mapping[ScenarioKey, timedelta] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Outgoing:
    """One notification that is being sent, and the lease on its row ``n``."""

    notification: Notification
    config: Config
    facts: Facts = field(default_factory=Facts)
    n: int = 0
    lease_until: datetime = _NO_LEASE
    sent: Mapping[str, Any] | None = None  # where the last message of this group or run stands
    started: datetime | None = None  # when its send began
    watch: "asyncio.Task[None] | None" = None  # set once its deadline has passed
    abandoned: bool = False  # its outcome is unknown for good; a result that comes now is late
    concluded: bool = False  # its last receipt is being written


# The usual duration of a scenario changes slowly and is read for every send: until when it is cached, and what it is.
UsualDurations = dict[ScenarioKey, tuple[datetime, timedelta | None]]


def load_outgoing(
    connection: Connection,
    leases: Mapping[ClaimedRow, datetime],
    config: Config,
    with_usual: frozenset[str],
    usual: UsualDurations,
    now: datetime,
) -> list[Outgoing]:
    """Claimed rows that can be read, with the details of their runs; events for the channels ``with_usual``, whose
    receivers are people, also with the usual durations."""
    notifications = load_claimed(leases)
    runs: dict[int, set[RunKey]] = {}
    for n, notification in notifications.items():
        match notification.notice:
            case EventNotice(event=event):
                runs[n] = {event.run.key} if event.run else set()
            case GroupNotice(alerts=alerts):
                runs[n] = {alert.run for alert in alerts if alert.run is not None}
            case SummaryNotice(worst=worst):
                runs[n] = {event.run.key for event in worst if event.run is not None}
    details = get_details(connection, {run for part in runs.values() for run in part})
    scenarios = {
        run.scenario
        for n, row in notifications.items()
        if row.channel in with_usual and isinstance(row.notice, EventNotice)
        for run in runs[n]
    }
    if len(usual) > _CACHE_SIZE:
        usual.clear()
    stale = [key for key in scenarios if key not in usual or usual[key][0] <= now]
    fresh = usual_durations(connection, stale)
    usual |= {key: (now + _CACHED_FOR, fresh.get(key)) for key in stale}
    durations = {key: duration for key in scenarios if (duration := usual[key][1]) is not None}
    facts = {n: Facts({run: details[run] for run in keys if run in details}, durations) for n, keys in runs.items()}
    until = {row.n: until for row, until in leases.items()}
    editing = (
        {name for name, channel in config.channels().items() if channel.slack is not None} if notifications else ()
    )
    threads = {
        (row.channel, thread) for row in notifications.values() if row.channel in editing and (thread := row.thread)
    }
    sent = outbox.sent_messages_of(connection, threads)
    return [
        Outgoing(row, config, facts[n], n, until[n], sent.get((row.channel, row.thread or "")) if sent else None)
        for n, row in notifications.items()
    ]
