"""Tocsin's own series that belong to the whole process; each stage keeps a struct like this one for its own."""

import platform
from collections.abc import Callable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from tocsin import __version__


class AppMetrics:
    """What the composition root and its loops tell about themselves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        build = Gauge("tocsin_build_info", "1, with the version.", ["version", "python"], registry=registry)
        build.labels(__version__, platform.python_version()).set(1)
        self.leader = Gauge("tocsin_leader", "Whether this process watches, decides and prunes.", registry=registry)
        self.store_up = Gauge(
            "tocsin_store_up", "Whether the last transaction could use the database.", registry=registry
        )
        self.reload_successful = Gauge(
            "tocsin_config_last_reload_successful",
            "Whether the last reading of the configuration succeeded.",
            registry=registry,
        )
        self.reload_success_at = Gauge(
            "tocsin_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read with success.",
            registry=registry,
        )
        self.loop_lag = Gauge(
            "tocsin_event_loop_lag_seconds",
            "The longest delay of the event loop in the last quarter of a minute.",
            registry=registry,
        )

        self.dropped = Counter(
            "tocsin_log_lines_dropped",
            "Log lines that nobody read in time or that could not be written.",
            registry=registry,
        )
        self._dropped_before = 0
        self._rows_set_aside = Gauge(
            "tocsin_store_unreadable_rows",
            "Rows set aside since the start because this version cannot read them, by table.",
            ["table"],
            registry=registry,
        )

    def log_lines_dropped(self, total: int) -> None:
        """So many lines of the log were dropped since the start of the process."""
        self.dropped.inc(max(0, total - self._dropped_before))
        self._dropped_before = total

    def show_set_aside(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Let a scrape ask ``counts``, which names every table from the start."""
        for table in counts():
            self._rows_set_aside.labels(table).set_function(lambda table=table: counts()[table])  # type: ignore[misc]

    def reloaded(self, ok: bool, at: datetime) -> None:
        """A reading of the configuration ended, well or not."""
        self.reload_successful.set(ok)
        if ok:
            self.reload_success_at.set(at.timestamp())
