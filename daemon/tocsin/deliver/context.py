"""What a message is made of, read from rows when it is sent."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification
from tocsin.model.run import Details, RunKey
from tocsin.store import sending
from tocsin.store.details import get_details

Loaded = tuple[Notification, dict[RunKey, Details]]


def load(connection: Connection, numbers: Sequence[int]) -> dict[int, Loaded]:
    """Claimed rows with the details of the runs that they speak of. Raises ``ValueError`` when a row cannot be read."""
    notifications = sending.load(connection, numbers)
    runs = {n: list(runs_of(one.notice)) for n, one in notifications.items()}
    details = get_details(connection, {run for part in runs.values() for run in part})
    return {
        n: (one, {run: details[run] for run in runs[n] if run in details}) for n, one in notifications.items()
    }


def runs_of(notice: Notice) -> Iterable[RunKey]:
    """The runs whose details a notice shows."""
    match notice:
        case EventNotice(event=event):
            return () if event.run is None else (event.run.key,)
        case GroupNotice(alerts=alerts):
            return {alert.run for alert in alerts if alert.run is not None}
        case _:
            return ()
