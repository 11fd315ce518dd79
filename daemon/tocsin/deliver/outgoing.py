"""Notifications on their way: claimed rows with all that their messages are made of."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tocsin.config.model import Config
from tocsin.model.notification import Notification
from tocsin.model.run import Details, Run, RunKey, ScenarioKey

_NO_LEASE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Facts:
    """What rows know beyond the notice: run details, the median duration of a scenario's last good runs, the run that
    ended an alert by the alert's id, and what the last failure of a node that is down said."""

    details: Mapping[RunKey, Details] = field(default_factory=dict)
    usual: Mapping[ScenarioKey, timedelta] = field(default_factory=dict)
    mended: Mapping[str, Run] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


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
