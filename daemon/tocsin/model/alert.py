"""Alerts, their groups and the notification log, and silences, which keep alerts from being notified but change none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from tocsin.kit.strings import derived_id
from tocsin.model.labels import Labels, Matcher
from tocsin.model.run import RunKey, ScenarioKey

STALLED_ALERT = "NodeSchedulerStalled"  # fired by rules about missed starts, for a whole node
STALLED_SEVERITY = "critical"
CHANNEL_ALERT = "ChannelFailing"  # for a channel that delivers nothing; labels `receiver` and `channel` name it
CHANNEL_SEVERITY = "critical"
EXTERNAL_RULE = "external"  # stands for the rule of alerts that others posted


class EndReason(StrEnum):
    RESOLVED = "resolved"
    DEACTIVATED = "deactivated"  # the scenario was switched off
    UNWATCHED = "unwatched"  # gone, or out of scope, or its rule was taken away
    BY_HAND = "by_hand"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody has it. It ends with the alert, and at ``until`` where that is set."""

    by: str
    at: datetime
    until: datetime | None = None
    comment: str = ""

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class SuppressedBy:
    """What keeps a firing alert from being notified at a moment; true when anything does."""

    silences: tuple[str, ...] = ()  # ids
    inhibited_by: tuple[str, ...] = ()  # ids of alerts
    muted_by: tuple[str, ...] = ()  # names of time intervals, where they mute every route that takes the alert

    def __bool__(self) -> bool:
        return bool(self.silences or self.inhibited_by or self.muted_by)


NOT_SUPPRESSED = SuppressedBy()


@dataclass(frozen=True, slots=True)
class Alert:
    """Firing while ``ends_at`` is None. Two alerts of one fingerprint never fire at once; each firing has its own ``id``."""

    id: str
    fingerprint: str
    labels: Labels
    starts_at: datetime
    ends_at: datetime | None = None
    end_reason: EndReason | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    count: int = 1  # failed runs, missed starts: what the rule counts
    run: RunKey | None = None  # the latest run it is about; its details are joined when a message is rendered
    acknowledged: Acknowledgement | None = None

    @property
    def firing(self) -> bool:
        return self.ends_at is None

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "")

    @property
    def place(self) -> dict[str, str]:
        """What lines of the log say of it."""
        names = ("alertname", "severity", "dss_node", "project", "scenario")
        return {name: value for name in names if (value := self.labels.get(name))}

    @property
    def flapping(self) -> bool:
        return "flapping_since" in self.annotations

    @property
    def failing_channel(self) -> str | None:
        """The channel that does not deliver, if this alert is about one."""
        return self.labels.get("channel") if self.name == CHANNEL_ALERT else None


class Related(NamedTuple):
    """Firing alerts that inhibit those of a scenario for another reason than labels: the id and the labels of one."""

    upstream: Mapping[ScenarioKey, tuple[str, Labels]] = {}  # of a scenario that it follows
    # of the error that it shares with others, each with the matchers of its rule
    causes: Mapping[ScenarioKey, Sequence[tuple[str, Labels, Sequence[Matcher]]]] = {}
    caused: frozenset[str] = frozenset()  # names of the alerts that a common cause inhibits


UNRELATED = Related()


def fingerprint(alertname: str, severity: str, node: str, scenario: ScenarioKey | None, own_labels: Labels) -> str:
    """An alert's identity. The tags of a scenario may change while its alert fires, so they are not in it."""
    place = (scenario.project, scenario.scenario) if scenario else ("", "")
    own = [part for item in sorted(own_labels.items()) for part in item]
    return derived_id(alertname, severity, node, *place, *own)


def alert_id(identity: str, *moments_ms: int) -> str:
    """Of one firing of the alert with this fingerprint; the moments are when it began and was noticed."""
    return derived_id(identity, *moments_ms)


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts that one receiver is notified of together. ``path`` is the matchers from the root to the route, as text."""

    key: str
    receiver: str
    path: tuple[str, ...]
    labels: Labels
    flush_at: datetime | None = None
    flushed_at: datetime | None = None  # None until the first flush


@dataclass(frozen=True, slots=True)
class Member:
    """An alert in a group. ``ended_muted``: only channels with ``resolve_what_was_sent`` are notified of its end."""

    alert: Alert
    entered_at: datetime  # on Tocsin's clock, unlike the alert's own times
    ended_muted: bool = False


@dataclass(frozen=True, slots=True)
class NotificationLogEntry:
    """What a channel was last notified of for a group: the fingerprints of firing, resolved, acknowledged and flapping
    alerts, and when."""

    firing: frozenset[str]
    resolved: frozenset[str]
    at: datetime
    acknowledged: frozenset[str] = frozenset()
    flapping: frozenset[str] = frozenset()


class SilenceState(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Silence:
    """Holds from ``starts_at`` until just before ``ends_at``."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str

    def state(self, now: datetime) -> SilenceState:
        if now < self.starts_at:
            return SilenceState.PENDING
        return SilenceState.ACTIVE if now < self.ends_at else SilenceState.EXPIRED
