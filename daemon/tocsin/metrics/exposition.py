"""What a scrape answers: the families made from rows, and Tocsin's own series, in one body.

``refresh`` reads rows on a reader thread into an immutable snapshot every few seconds. ``render`` writes and
compresses that snapshot on a thread of its own: a scrape touches neither DSS nor the store, and the event loop waits
no longer than Python takes to switch threads.
"""

import asyncio
import platform
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics import exposition as openmetrics

from tocsin import ALERTMANAGER_VERSION, __version__
from tocsin.config.model import Config
from tocsin.metrics.families import FAMILIES
from tocsin.metrics.snapshot import Snapshot, SnapshotReader
from tocsin.metrics.text import Format, accepts, negotiate
from tocsin.store import Store

Rendered = tuple[bytes, Mapping[str, str]]
_GZIP = 16 + zlib.MAX_WBITS


class Exposition:
    """One process's answer to scrapes. Built once; ``close`` ends its thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._reader = SnapshotReader()
        self._snapshot: Snapshot | None = None
        self._refreshing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tocsin-scrape")
        self._rendering: dict[tuple[Format, bool], asyncio.Task[bytes]] = {}

    async def refresh(self, store: Store, now: datetime, config: Config) -> int:
        """Take a new snapshot and return how many series had to be rebuilt for it. Raises ``StoreUnavailable``; then
        the former snapshot stays."""
        async with self._refreshing:
            self._snapshot = await store.read(self._reader.read, now, config)
        return self._reader.rebuilt

    def forget(self) -> None:
        """This process no longer leads: the series made from rows are now another's to show."""
        self._snapshot = None

    async def render(self, accept: str, accept_encoding: str) -> Rendered:
        """The body of a scrape and its headers. Scrapes that come at once share one rendering."""
        format, compressed = negotiate(accept), accepts(accept_encoding, "gzip")
        task = self._rendering.get((format, compressed))
        if task is None:
            task = asyncio.create_task(self._render(format, compressed), name="render_scrape")
            self._rendering[format, compressed] = task
            task.add_done_callback(lambda _: self._rendering.pop((format, compressed), None))
        body = await asyncio.shield(task)
        headers = {"Content-Type": format.value, "Vary": "Accept, Accept-Encoding"}
        return body, headers | ({"Content-Encoding": "gzip"} if compressed else {})

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _render(self, format: Format, compressed: bool) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, render_body, self._snapshot, self.registry, format, compressed)


def render_body(snapshot: Snapshot | None, registry: CollectorRegistry, format: Format, compressed: bool) -> bytes:
    """All families as one body, compressed piece by piece so that the whole text never stands in memory twice."""
    texts = () if snapshot is None else (family.render(snapshot, format) for family in FAMILIES)
    parts = (text.encode("utf-8", "replace") for text in texts)
    if format is Format.OPENMETRICS:
        own: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    else:
        own = generate_latest(registry)
    if not compressed:
        return b"".join(parts) + own
    packer = zlib.compressobj(level=1, wbits=_GZIP)
    pieces = [packer.compress(part) for part in parts]
    return b"".join((*pieces, packer.compress(own), packer.flush()))


class ProcessMetrics:
    """Series of the whole process. Each stage keeps a class like this one for its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(f"tocsin_{name}", documentation, labels, registry=registry)

        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "tocsin_http_requests",
            "Answers of the HTTP side, by address and status.",
            ["route", "code"],
            registry=registry,
        )
        gauge("build_info", "1, with the version.", "version", "python").labels(
            __version__, platform.python_version()
        ).set(1)
        Gauge(
            "alertmanager_build_info", "1, with the version of Alertmanager whose API v2 is served.", ["version"],
            registry=registry,
        ).labels(ALERTMANAGER_VERSION).set(1)  # fmt: skip
        self.leader = gauge("leader", "Whether this process watches, decides and prunes.")
        self.store_up = gauge("store_up", "Whether the last transaction could use the database.")
        self.reload_successful = gauge(
            "config_last_reload_successful", "Whether the last reload of the configuration succeeded."
        )
        self.reload_success_at = gauge(
            "config_last_reload_success_timestamp_seconds", "When the configuration was last loaded with success."
        )
        self.loop_lag = gauge(
            "event_loop_lag_seconds", "The longest delay of the event loop in the last quarter of a minute."
        )
        self.dropped = Counter(
            "tocsin_log_lines_dropped",
            "Log lines that nobody read in time or that could not be written.",
            registry=registry,
        )
        self._dropped_before = 0
        self._rows_set_aside = gauge(
            "store_unreadable_rows",
            "Rows set aside since the start because this version cannot read them, by table.",
            "table",
        )

    def count_request(self, route: str, status: int | None) -> None:
        """``route``: an address as its pattern; ``status`` None: nobody waited for the answer."""
        self._requests.labels(route, "none" if status is None else str(status)).inc()

    def log_lines_dropped(self, total: int) -> None:
        """``total``: lines of the log that were dropped since the start of the process."""
        self.dropped.inc(max(0, total - self._dropped_before))
        self._dropped_before = total

    def show_set_aside(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Let each scrape call ``counts``, which names every table from the start."""
        for table in counts():
            self._rows_set_aside.labels(table).set_function(lambda table=table: counts()[table])  # type: ignore[misc]

    def reloaded(self, ok: bool, at: datetime) -> None:
        self.reload_successful.set(ok)
        if ok:
            self.reload_success_at.set(at.timestamp())
