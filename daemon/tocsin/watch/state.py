"""What the parts of one node's watcher share: configuration, row, clocks, metrics and the way to the store."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from statistics import median_low
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tocsin.config.model import Node, ProjectScope, ScenarioScope
from tocsin.dss import DSSClient, DSSError, RequestReport
from tocsin.kit.backoff import Backoff
from tocsin.kit.clock import Clock
from tocsin.model.event import Event
from tocsin.model.run import ScenarioKey
from tocsin.routing.details import WantsDetails
from tocsin.store import Connection, Store, StoreFailed, StoreUnavailable
from tocsin.store.events import insert_events
from tocsin.store.scenarios import NodeRow, begin_backfill, save_node
from tocsin.store.writer import Leadership
from tocsin.watch.cadence import Reason
from tocsin.watch.queue import Budget
from tocsin.watch.read import ParsedList
from tocsin.watch.record import RecordPolls
from tocsin.watch.schedule import Schedule

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

_STORE_RETRY = Backoff(0.5, 30)

_SAMPLES = 31
_SAME_CLOCK = timedelta(seconds=1)  # Date headers count in seconds: less than that is noise
_JUMP = timedelta(seconds=3)  # a clock that was set back by less was merely misread
_REMEMBERED = 3 * 3600.0  # seconds for which it is known that the clock was set back and forth again


class WatchMetrics:
    """The watch stage's own series, shared by all nodes of a registry; see the metrics reference."""

    def __init__(self, registry: CollectorRegistry) -> None:
        node, operation = ("dss_node",), ("dss_node", "operation")
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        gauge = partial(Gauge, labelnames=node, registry=registry)
        self.detection_delay = histogram(
            "tocsin_detection_delay_seconds",
            "From the moment when something happened in DSS until Tocsin knew; without what a downtime delayed.",
            node,
            buckets=(0.5, 1, 2, 3, 5, 10, 30, 60, 300, 900, 3_600),
        )
        seconds = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
        self.requests = counter("tocsin_dss_requests", "Requests to DSS.", (*operation, "code"))
        self.request_duration = histogram(
            "tocsin_dss_request_duration_seconds", "Duration of requests to DSS.", operation, buckets=seconds
        )
        self.polls = counter("tocsin_polls", "Polls of scenarios.", (*node, "reason"))
        self.invalid_items = counter(
            "tocsin_dss_invalid_items", "Items of DSS's replies that made no sense.", operation
        )
        self.limit = gauge(
            "tocsin_dss_requests_per_second_limit", "Requests a second that the node is sent at most now."
        )
        self.sweep_trusted = gauge(
            "tocsin_sweep_trusted", "Whether one request is trusted to list all running scenarios."
        )
        self.oldest_poll_age = gauge(
            "tocsin_oldest_poll_age_seconds", "Time since the least recent poll among the watched scenarios."
        )

    def begin(self, node: str) -> None:
        for reason in Reason:
            self.polls.labels(node, reason.value)
        self.detection_delay.labels(node)

    def forget(self, node: str) -> None:
        """The node is no longer watched here: its gauges go, its counters stay."""
        for gauge in (self.limit, self.sweep_trusted, self.oldest_poll_age):
            gauge.remove(node)


class NodeClock:
    """DSS's clock, by the Date headers of its answers: a ``Clock`` that no setting of the machine's clock moves.

    Once DSS's own clock is set back, new runs seem older than what was seen before, and than the watch itself.
    An origin is what DSS's clock showed when the monotonic one showed 0.
    """

    def __init__(self, clock: Clock, offset: timedelta, last_ok_at: datetime | None, least: timedelta) -> None:
        """The ``offset`` of DSS's clock to ours, and the ``least`` of it, as they were at ``last_ok_at``."""
        now = clock.now()
        self._clock = clock
        self._origin = now + offset - timedelta(seconds=clock.monotonic())
        self._samples: deque[datetime] = deque(maxlen=_SAMPLES)
        # What the rows were written by: an answer that is yet to come was given before the clocks were set back.
        self._latest = None if last_ok_at is None else self._origin + max(timedelta(0), last_ok_at - now)
        # The lowest origins of the present span of hours and of the one before it.
        known = [self._origin] if last_ok_at else []
        self._earliest = deque(known, maxlen=2)
        self._least = deque((origin + (min(least, offset) - offset) for origin in known), maxlen=2)
        self._forgets_at = clock.monotonic() + _REMEMBERED
        self._moved_at = clock.monotonic()  # when it was last seen to be set; before our start nobody knows

    def now(self) -> datetime:
        return self._clock.now() + self.offset

    def monotonic(self) -> float:
        return self._clock.monotonic()

    @property
    def offset(self) -> timedelta:
        """DSS's clock minus ours."""
        return self._offset(self._origin)

    @property
    def least_offset(self) -> timedelta:
        """The least that it was for hours. A clock that is set ahead for a while makes nothing overdue."""
        return self._offset(min((*self._least, self._origin)))

    def _offset(self, origin: datetime) -> timedelta:
        offset = origin + timedelta(seconds=self.monotonic()) - self._clock.now()
        return offset if abs(offset) >= _SAME_CLOCK else timedelta(0)

    def observe(self, date: datetime, took: float) -> None:
        """An answer that took so many seconds had this Date: the second in which it was built."""
        built_at = self.monotonic() - took / 2
        self._samples.append(date + timedelta(milliseconds=500) - timedelta(seconds=built_at))
        before = self._origin
        self._origin = origin = median_low(self._samples)
        if abs(origin - before) >= _JUMP:
            self._moved_at = self.monotonic()
        self._latest = max(self._latest or origin, origin)
        if new_span := self.monotonic() >= self._forgets_at:
            self._forgets_at = self.monotonic() + _REMEMBERED
        for lowest in (self._earliest, self._least):
            lowest.append(origin if new_span or not lowest else min(lowest.pop(), origin))

    def earliest(self, seconds_ago: float | None = None) -> datetime:
        """The earliest that DSS's clock may have shown then or since, or None: that it may show by all answers that are
        remembered. Old ones do not count if the clock was not set since then."""
        then = self.monotonic() - (seconds_ago or 0.0)
        old = () if seconds_ago is not None and then > self._moved_at else self._earliest
        return min((*old, *self._samples), default=self._origin) + timedelta(seconds=then)

    @property
    def set_back(self) -> timedelta:
        """How far, by any of the last answers."""
        return self._behind(min(self._samples, default=self._origin))

    @property
    def surely_set_back(self) -> timedelta:
        """How far, by most of them: the rows are to be moved back too."""
        return self._behind(self._origin)

    def moved_back(self) -> None:
        self._latest = self._origin

    def _behind(self, origin: datetime) -> timedelta:
        back = (self._latest or origin) - origin
        return back if back >= _JUMP else timedelta(0)


@dataclass(frozen=True)
class WatcherDeps:
    node: Node
    _: KW_ONLY
    store: Store
    leadership: Leadership
    clock: Clock
    metrics: WatchMetrics
    user_agent: str
    duration_buckets: tuple[float, ...]  # upper bounds in seconds, ascending
    wants_details: WantsDetails
    wants_mail_reporters: Callable[[], bool]  # whether DSS's own are to be read; called at each poll
    wake: Callable[[], None]  # there are events to decide
    # Writes polls and decides their events, the same object for all nodes; None: events wait, and ``wake`` is called.
    record: RecordPolls | None = None
    details_read: Callable[[], None] = lambda: None  # notifications that waited for the details of a run may go


class WatcherStore:
    """Transactions of one watcher, repeated until the store takes them. Writes raise ``NotLeader``."""

    def __init__(self, deps: WatcherDeps) -> None:
        self._store, self._guard = deps.store, deps.leadership.guard
        self._log = structlog.get_logger("tocsin.watch", dss_node=deps.node.name)
        self._unavailable = False

    async def write(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._retry(lambda: self._store.write_guarded(self._guard, work, *args, **kwargs))

    async def write_each(self, work: Callable[[Connection, Sequence[Item]], Sequence[T]], item: Item) -> T:
        """As ``write``, in one transaction with the items of others."""
        return await self._retry(lambda: self._store.write_each(work, item, self._guard))

    async def read(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._retry(lambda: self._store.read(work, *args, **kwargs))

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        for failures in count(1):
            try:
                result = await call()
                break
            except StoreUnavailable as error:
                if not self._unavailable and not isinstance(error, StoreFailed):  # which the process ends with
                    self._unavailable = True
                    self._log.error("store_unavailable", stage="watch", error=str(error))
            await asyncio.sleep(_STORE_RETRY.pause(failures))
        if self._unavailable:
            self._unavailable = False
            self._log.info("store_available", stage="watch")
        return result


class NodeState:
    def __init__(self, deps: WatcherDeps, store: WatcherStore, row: NodeRow, client: DSSClient) -> None:
        self.deps, self.store, self.row, self.client = deps, store, row, client
        self.node, self.clock, self.metrics = deps.node, deps.clock, deps.metrics
        self.name, watch = self.node.name, self.node.watch
        self.log = structlog.get_logger("tocsin.watch", dss_node=self.name)  # follows the levels of a reload
        least = row.clock_offset_ms if row.clock_offset_least_ms is None else row.clock_offset_least_ms
        offsets = [timedelta(milliseconds=value) for value in (row.clock_offset_ms, least)]
        self.dss_clock = NodeClock(self.clock, offsets[0], row.last_ok_at, offsets[1])
        self.budget = Budget(watch.max_requests_per_second, watch.max_concurrency)
        self.schedule = Schedule(self.dss_clock, watch.max_poll_interval.total_seconds())
        self.dss_version = row.dss_version
        self._failures: dict[tuple[str, tuple[tuple[str, object], ...]], tuple[float, str]] = {}
        self._invalid: set[Hashable] = set()

    def now(self) -> datetime:
        return self.dss_clock.now()

    def in_scope(self, project: str) -> bool:
        return _matches(self.node.projects, project)

    def scenario_in_scope(self, scenario: str, tags: Sequence[str]) -> bool:
        scope = self.node.scenarios
        return _matches(scope, scenario) and (not scope.tags or not set(scope.tags).isdisjoint(tags))

    def watches(self, key: ScenarioKey, tags: Sequence[str]) -> bool:
        return self.in_scope(key.project) and self.scenario_in_scope(key.scenario, tags)

    def observe(self, report: RequestReport) -> None:
        """Count a request, and learn from its Date header what DSS's clock shows."""
        self.metrics.requests.labels(self.name, report.operation, report.code).inc()
        self.metrics.request_duration.labels(self.name, report.operation).observe(report.seconds)
        self.dss_version = report.dss_version or self.dss_version
        if report.server_date is not None and report.error is None:
            self.dss_clock.observe(report.server_date, report.seconds)

    def count_invalid(self, operation: str, parsed: ParsedList[T], **place: str) -> None:
        """Count a reply's invalid items, and log the first until a reply of this kind is good again."""
        key = (operation, *place.values())
        if not parsed.invalid:
            self._invalid.discard(key)
            return
        self.metrics.invalid_items.labels(self.name, operation).inc(parsed.invalid)
        if key not in self._invalid:
            self._invalid.add(key)
            facts = {"items": parsed.invalid, "example": parsed.example, **place}
            self.log.warning("dss_invalid_items", operation=operation, **facts)

    def note_failure(self, event: str, error: DSSError | ValueError, **facts: object) -> None:
        """A request failed for the first time. Whether that is worth a line of its own is known a little later."""
        self._failures.setdefault((event, tuple(facts.items())), (self.clock.monotonic(), str(error)))

    def log_failures(self, before: float) -> None:
        """A request sent at ``before`` was answered well: what had failed until then had reasons of its own."""
        for (event, facts), (failed_at, error) in list(self._failures.items()):
            if failed_at <= before:
                del self._failures[event, facts]
                self.log.warning(event, error=error, **dict(facts))

    def drop_failures(self) -> None:
        """The node is down, and one line says so for all of them."""
        self._failures.clear()

    async def save(self, changes: Mapping[str, object], event: Event | None = None) -> None:
        """Change the node's row, and write an event about the node with it. ``backfilling`` begins a backfill."""
        self.row = replace(self.row, **changes)  # type: ignore[arg-type]

        def write(connection: Connection) -> None:
            if event is not None:
                insert_events(connection, [event])
            save_node(connection, self.row)  # as it is now: an older one must not overtake it
            if changes.get("backfilling"):
                begin_backfill(connection, self.name)

        await self.store.write(write)


def _matches(scope: ProjectScope | ScenarioScope, name: str) -> bool:
    included = any(fnmatchcase(name, pattern) for pattern in scope.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in scope.exclude)
