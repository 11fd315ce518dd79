"""Claimed rows, and what their messages are made of: read together, for many rows at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from tocsin.deliver.context import Facts
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification, SummaryNotice
from tocsin.model.run import RunKey
from tocsin.store import sending
from tocsin.store.details import get_details
from tocsin.store.history import usual_durations


@dataclass(frozen=True, slots=True)
class Loaded:
    """A claimed row ``n`` with its facts."""

    n: int
    notification: Notification
    facts: Facts


def load(connection: Connection, numbers: Sequence[int], told: frozenset[str]) -> list[Loaded]:
    """Claimed rows with the details of the runs that they speak of; the usual durations too for the channels in
    ``told``, whose receivers are people. Raises ``ValueError`` when a row cannot be read."""
    notifications = sending.load(connection, numbers)
    runs = {n: list(runs_of(one.notice)) for n, one in notifications.items()}
    details = get_details(connection, {run for part in runs.values() for run in part})
    shown = [run.scenario for n, one in notifications.items() if one.channel in told for run in runs[n]]
    usual = usual_durations(connection, shown)
    return [
        Loaded(
            n,
            one,
            Facts(
                {run: details[run] for run in runs[n] if run in details},
                {run.scenario: usual[run.scenario] for run in runs[n] if run.scenario in usual},
            ),
        )
        for n, one in notifications.items()
    ]


def runs_of(notice: Notice) -> Iterable[RunKey]:
    """The runs whose details a notice shows."""
    match notice:
        case EventNotice(event=event):
            return () if event.run is None else (event.run.key,)
        case GroupNotice(alerts=alerts):
            return {alert.run for alert in alerts if alert.run is not None}
        case SummaryNotice(worst=worst):
            return [event.run.key for event in worst if event.run is not None]
