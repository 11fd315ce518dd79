"""What the parts of one node's watch share: its configuration, its row, the two clocks and the way to the store."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection

from tocsin.config.model import Node, ProjectScope, ScenarioScope
from tocsin.dss import DSSError, RequestReport
from tocsin.kit.clock import Clock
from tocsin.model.event import Event
from tocsin.store import Store, StoreFailed, StoreUnavailable
from tocsin.store.events import insert_events
from tocsin.store.scenarios import NodeRow, begin_backfill, save_node
from tocsin.store.writer import Leadership
from tocsin.watch.metrics import WatchMetrics
from tocsin.watch.nodeclock import NodeClock
from tocsin.watch.record import WantsDetails
from tocsin.watch.schedule import Schedule

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

_LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """A request failed at ``at`` (monotonic seconds), and was not told yet."""

    at: float
    event: str
    error: str
    facts: Mapping[str, object]


@dataclass(eq=False)
class WatcherDeps:
    """What the watch of a node is given."""

    node: Node
    _: KW_ONLY
    store: Store
    leadership: Leadership
    clock: Clock
    metrics: WatchMetrics
    user_agent: str
    duration_buckets: tuple[float, ...]  # upper bounds in seconds, ascending
    wants_details: WantsDetails
    wants_mail_reporters: Callable[[], bool]  # whether DSS's own are to be read; asked anew at each poll
    ring: Callable[[], None]  # there are new events
    details_read: Callable[[], None] = lambda: None  # messages that waited for the details of a run may go


class NodeState:
    """One node, from the start of its watcher to its end."""

    def __init__(self, given: WatcherDeps, row: NodeRow) -> None:
        self.given = given
        self.node = node = given.node
        self.store, self.clock, self.metrics = given.store, given.clock, given.metrics
        self.row = row
        self.log = structlog.get_logger("tocsin.watch").bind(dss_node=node.name)
        least = row.clock_offset_least_ms
        self.dss_clock = NodeClock(
            self.clock,
            timedelta(milliseconds=row.clock_offset_ms),
            row.last_ok_at,
            timedelta(milliseconds=row.clock_offset_ms if least is None else least),
        )
        self.schedule = Schedule(self.dss_clock, node.watch.max_poll_interval.total_seconds())
        self._store_trouble = False
        self._failures: dict[Hashable, _Failure] = {}
        self._odd: set[Hashable] = set()
        self.dss_version = row.dss_version

    @property
    def name(self) -> str:
        return self.node.name

    def now(self) -> datetime:
        """The present on DSS's clock."""
        return self.dss_clock.now()

    # --- scope -------------------------------------------------------------------------------------------------------

    def in_scope(self, project: str) -> bool:
        return _matches(self.node.projects, project)

    def scenario_in_scope(self, scenario: str, tags: Sequence[str]) -> bool:
        scope = self.node.scenarios
        return _matches(scope, scenario) and (not scope.tags or not set(scope.tags).isdisjoint(tags))

    # --- requests ----------------------------------------------------------------------------------------------------

    def heard(self, report: RequestReport) -> None:
        """Count a request, and learn from its Date header what DSS's clock shows."""
        self.metrics.requests.labels(self.name, report.operation, report.code).inc()
        self.metrics.request_duration.labels(self.name, report.operation).observe(report.seconds)
        self.dss_version = report.dss_version or self.dss_version
        if report.server_date is not None and report.error is None:
            self.dss_clock.told(report.server_date, report.seconds)

    def odd(self, operation: str, count: int, example: str, **place: str) -> None:
        """How many items of a reply made no sense: counted, and told by its beginning until a reply is good again."""
        key = (operation, *place.values())
        if not count:
            self._odd.discard(key)
            return
        self.metrics.invalid_items.labels(self.name, operation).inc(count)
        if key not in self._odd:
            self._odd.add(key)
            self.log.warning("dss_invalid_items", operation=operation, items=count, example=example, **place)

    def failed(self, event: str, error: DSSError | ValueError, **facts: object) -> None:
        """A request failed for the first time. Whether that is worth a line of its own is known a little later."""
        key = (event, *facts.values())
        self._failures.setdefault(key, _Failure(self.clock.monotonic(), event, str(error), facts))

    def tell_failures(self, before: float) -> None:
        """A request that left at ``before`` was answered well: what had failed till then had reasons of its own."""
        for key, failure in list(self._failures.items()):
            if failure.at <= before:
                del self._failures[key]
                self.log.warning(failure.event, error=failure.error, **failure.facts)

    def forget_failures(self) -> None:
        """The node is down, and one line says so for all of them."""
        self._failures.clear()

    # --- the store ---------------------------------------------------------------------------------------------------

    async def write(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """A guarded transaction, tried until the store takes it. Raises ``NotLeader``."""
        return await self._patiently(
            lambda: self.store.write_guarded(self.given.leadership.guard, work, *args, **kwargs)
        )

    async def write_each(self, work: Callable[[Connection, Sequence[Item]], Sequence[T]], item: Item) -> T:
        """As ``write``, together with the items of others."""
        return await self._patiently(lambda: self.store.write_each(work, item, self.given.leadership.guard))

    async def read(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """A reading function, tried until the store answers."""
        return await self._patiently(lambda: self.store.read(work, *args, **kwargs))

    async def _patiently(self, once: Callable[[], Awaitable[T]]) -> T:
        pause = 0.5
        while True:
            try:
                result = await once()
            except StoreUnavailable as error:
                if not self._store_trouble and not isinstance(error, StoreFailed):  # which the process ends with
                    self._store_trouble = True
                    self.log.error("store_unavailable", stage="watch", error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_WAIT)
                continue
            if self._store_trouble:
                self._store_trouble = False
                self.log.info("store_available", stage="watch")
            return result

    async def save(self, changes: Mapping[str, object], event: Event | None = None, *, backfill: bool = False) -> None:
        """Change the node's row, and write an event about the node with it; ``backfill``: its history is owed."""
        self.row = replace(self.row, **changes)  # type: ignore[arg-type]
        if backfill:
            self.row = replace(self.row, backfilling=True)

        def write(connection: Connection) -> None:
            if event is not None:
                insert_events(connection, [event])
            save_node(connection, self.row)  # as it is now: an older one must not overtake it
            if backfill:
                begin_backfill(connection, self.name)

        await self.write(write)


def _matches(scope: ProjectScope | ScenarioScope, name: str) -> bool:
    included = any(fnmatchcase(name, pattern) for pattern in scope.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in scope.exclude)
