"""Claimed rows, and what their messages are made of: read together, for many rows at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tocsin.deliver.context import Facts
from tocsin.model.notification import EventNotice, GroupNotice, Notice, Notification, SummaryNotice
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.store import sending
from tocsin.store.runs import get_details, usual_durations

_KNOWN_FOR = timedelta(minutes=5)
_MOST_KNOWN = 20_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """A claimed row ``n`` with its facts."""

    n: int
    notification: Notification
    facts: Facts


class Usual:
    """The usual duration of scenarios, remembered for a while: it changes slowly and is asked for at every send."""

    def __init__(self) -> None:
        self._known: dict[ScenarioKey, tuple[datetime, timedelta | None]] = {}

    def of(
        self, connection: Connection, scenarios: Iterable[ScenarioKey], now: datetime
    ) -> dict[ScenarioKey, timedelta]:
        """Those of these scenarios that have one."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        wanted = set(scenarios)
        stale = [key for key in wanted if key not in self._known or self._known[key][0] <= now]
        fresh = usual_durations(connection, stale)
        self._known |= {key: (now + _KNOWN_FOR, fresh.get(key)) for key in stale}
        return {key: usual for key in wanted if (usual := self._known[key][1]) is not None}


def load(
    connection: Connection, numbers: Sequence[int], told: frozenset[str], usual: Usual, now: datetime
) -> list[Loaded]:
    """Claimed rows with the details of the runs that they speak of; the usual durations too for the channels in
    ``told``, whose receivers are people. Raises ``ValueError`` when a row cannot be read."""
    notifications = sending.load(connection, numbers)
    runs = {n: list(runs_of(one.notice)) for n, one in notifications.items()}
    details = get_details(connection, {run for part in runs.values() for run in part})
    shown = (run.scenario for n, one in notifications.items() if one.channel in told for run in runs[n])
    durations = usual.of(connection, shown, now)
    return [
        Loaded(
            n,
            one,
            Facts(
                {run: details[run] for run in runs[n] if run in details},
                {run.scenario: durations[run.scenario] for run in runs[n] if run.scenario in durations},
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
