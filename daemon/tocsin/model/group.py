"""Groups of alerts, and what a channel was last told about one."""

from dataclasses import dataclass
from datetime import datetime

from tocsin.model.alert import Alert
from tocsin.model.labels import Labels


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts that one receiver hears of together. ``path`` is the matchers from the root to the route, as text."""

    key: str
    receiver: str
    path: tuple[str, ...]
    labels: Labels
    flush_at: datetime | None = None
    flushed_at: datetime | None = None  # None until the first flush


@dataclass(frozen=True, slots=True)
class Member:
    """An alert in a group. ``kept``: it ended while muted; only channels that asked for it still hear of it."""

    alert: Alert
    kept: bool = False


@dataclass(frozen=True, slots=True)
class NotificationLogEntry:
    """What a channel was last told about a group: the fingerprints of firing and of ended alerts, and when."""

    firing: frozenset[str]
    ended: frozenset[str]
    at: datetime
