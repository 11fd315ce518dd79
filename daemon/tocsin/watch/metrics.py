"""The watch stage's own series; see the metrics reference."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tocsin.watch.cadence import Reason

_DELAYS = (0.5, 1, 2, 3, 5, 10, 30, 60, 300, 900, 3_600)
_REQUESTS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class WatchMetrics:
    """One instance a registry, shared by all nodes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        node = ("dss_node",)
        self.detection_delay = Histogram(
            "tocsin_detection_delay_seconds",
            "From the moment when something happened in DSS until Tocsin knew; without what a downtime delayed.",
            node,
            buckets=_DELAYS,
            registry=registry,
        )
        self.requests = Counter(
            "tocsin_dss_requests", "Requests to DSS.", (*node, "operation", "code"), registry=registry
        )
        self.request_duration = Histogram(
            "tocsin_dss_request_duration_seconds",
            "Duration of requests to DSS.",
            (*node, "operation"),
            buckets=_REQUESTS,
            registry=registry,
        )
        self.limit = Gauge(
            "tocsin_dss_requests_per_second_limit",
            "Requests a second that the node is sent at most now.",
            node,
            registry=registry,
        )
        self.sweep_trusted = Gauge(
            "tocsin_sweep_trusted", "Whether one request tells all running scenarios.", node, registry=registry
        )
        self.polls = Counter("tocsin_polls", "Polls of scenarios.", (*node, "reason"), registry=registry)
        self.oldest_poll_age = Gauge(
            "tocsin_oldest_poll_age_seconds",
            "Time since the least recent poll among the watched scenarios.",
            node,
            registry=registry,
        )
        self.invalid_items = Counter(
            "tocsin_dss_invalid_items",
            "Items of DSS's replies that made no sense.",
            (*node, "operation"),
            registry=registry,
        )

    def begin(self, node: str) -> None:
        """Let the node's series exist from the beginning."""
        for reason in Reason:
            self.polls.labels(node, reason.value)
        self.detection_delay.labels(node)

    def forget(self, node: str) -> None:
        """The node is no longer watched here: its gauges go, its counters stay."""
        for gauge in (self.limit, self.sweep_trusted, self.oldest_poll_age):
            gauge.remove(node)
