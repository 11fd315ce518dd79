"""What a transaction of the deciders did: for the log, the counters and the next wake-up."""

from dataclasses import dataclass, field
from datetime import datetime

from tocsin.model.decision import Decision, DecisionReason
from tocsin.model.notification import Notification


@dataclass(slots=True)
class Outcome:
    """What one transaction did. Nothing of it may be told before the transaction has committed."""

    events: int = 0
    full: bool = False  # more of the same waits
    alerts: int = 0  # changed ones
    owed: list[Notification] = field(default_factory=list)
    made: list[Decision] = field(default_factory=list)
    unchanged: dict[DecisionReason, int] = field(default_factory=dict)  # of groups, beside those in `made`: no news
    errors: list[tuple[str, str, Exception]] = field(default_factory=list)
    next_due: datetime | None = None
