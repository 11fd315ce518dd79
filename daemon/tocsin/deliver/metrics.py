"""Delivery's own series: what was sent to whom, what waits, what was given up."""

from collections.abc import Iterable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge

from tocsin.config.model import Channel
from tocsin.model.notification import DeadReason


class Count(StrEnum):
    """What ``tocsin_notifications_total`` counts. FAILED and UNKNOWN are tries that are made again."""

    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DEAD = "dead"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class DeliverMetrics:
    """The struct that the sender writes to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.notifications = Counter(
            "tocsin_notifications",
            "Notifications by receiver, channel and outcome; failed and unknown ones are tried again.",
            ["receiver", "channel", "outcome"],
            registry=registry,
        )
        self.outbox_depth = Gauge("tocsin_outbox_depth", "Notifications owed and not settled.", registry=registry)
        self.outbox_oldest_age = Gauge(
            "tocsin_outbox_oldest_age_seconds",
            "How long ago the oldest open notification was owed; 0 when none is open.",
            registry=registry,
        )
        self.dead_letters = Gauge(
            "tocsin_dead_letters", "Notifications given up that were not sent again.", registry=registry
        )
        self.dead_by_reason = Gauge(
            "tocsin_dead_letters_by_reason",
            "The same by why: refused by the receiver, too old, their channel is gone, or their row is unreadable.",
            ["reason"],
            registry=registry,
        )
        for reason in DeadReason:
            self.dead_by_reason.labels(reason)

    def know(self, channels: Iterable[Channel]) -> None:
        """Start every series of these channels at zero."""
        for channel in channels:
            for outcome in Count:
                self.notifications.labels(channel.receiver, channel.name, outcome.value)

    def count(self, receiver: str, channel: str, outcome: Count) -> None:
        self.notifications.labels(receiver, channel, outcome.value).inc()
