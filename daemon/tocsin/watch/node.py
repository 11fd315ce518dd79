"""The watch of one node: composes sweep, looks, details and discovery in one line of requests, for ever.

Promises that every run is seen, soon, and that the watching never harms the node: see the modules beside this one for
each of the three.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf

from sqlalchemy import Connection

from tocsin.dss import (
    DSSClient,
    DSSForbidden,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
    RequestReport,
)
from tocsin.kit.clock import Clock
from tocsin.model.config import Node, Secret
from tocsin.model.event import DownReason, Event, EventName, node_event_id
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, StoreUnavailable, events, nodes, scenarios
from tocsin.store.lease import Leadership
from tocsin.watch.budget import Budget
from tocsin.watch.cadence import Rank, Reason
from tocsin.watch.details import DetailsReader
from tocsin.watch.discover import Discovery
from tocsin.watch.health import Health, read_sign
from tocsin.watch.look import Looks
from tocsin.watch.metrics import WatchMetrics
from tocsin.watch.queue import Line, Offer, Source, Ticket
from tocsin.watch.record import WantsDetails
from tocsin.watch.state import NodeState
from tocsin.watch.sweep import Sweep

_TIMEOUT = 30.0
_KEEP_EVERY = 1.0
_OK_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """How the watch of a node stands, for status pages. Durations in seconds."""

    node: str
    up: bool | None  # None: neither answered nor failed yet
    reason: DownReason | None
    problem: str | None
    requests_per_second: float
    sweep_trusted: bool
    look_bound: float
    scenarios: int
    active: int
    running: int
    failing: int  # scenarios whose last look failed
    backfilling: bool
    clock_offset: timedelta
    last_ok_at: datetime | None
    dss_version: str | None


class NodeWatcher:
    """Watches one node. Its settings are frozen: others need another watcher."""

    def __init__(
        self,
        node: Node,
        *,
        store: Store,
        leadership: Leadership,
        clock: Clock,
        ring: Callable[[], None],
        metrics: WatchMetrics,
        wants_details: WantsDetails,
        wants_mail_reporters: Callable[[], bool],
        user_agent: str,
        duration_buckets: tuple[float, ...],
        details_read: Callable[[], None] = lambda: None,
    ) -> None:
        """``ring`` is called when there are new events; ``wants_details`` must be pure, it runs on the store's thread.
        ``wants_mail_reporters``: whether DSS's own mail reporters are to be read; asked anew at each look.
        ``duration_buckets`` are upper bounds in seconds, ascending. ``details_read`` is called when messages that waited
        for the details of a run may go."""
        self.node = node
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._ring = ring
        self._metrics = metrics
        self._wants_details = wants_details
        self._wants_mail_reporters = wants_mail_reporters
        self._user_agent = user_agent
        self._bounds = duration_buckets
        self._details_read = details_read
        self._watch: _Watch | None = None

    async def run(self) -> None:
        """For ever. Raises ``NotLeader`` when another process took over; what fails in DSS or the store is lived with."""
        self._metrics.begin(self.node.name)
        self._watch = _Watch(await self._state(), self._user_agent)
        try:
            await self._watch.run()
        finally:
            await self._watch.close()
            self._watch = None
            self._metrics.forget(self.node.name)

    async def _state(self) -> NodeState:
        """The node's row, made if it is new; waits for the store."""
        pause = 0.5
        while True:
            try:
                row = await self._store.write_guarded(
                    self._leadership.guard, nodes.ensure_node, self.node.name, self._clock.now()
                )
                break
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 30.0)
        return NodeState(
            self.node,
            row,
            store=self._store,
            leadership=self._leadership,
            clock=self._clock,
            ring=self._ring,
            metrics=self._metrics,
            wants_details=self._wants_details,
            wants_mail_reporters=self._wants_mail_reporters,
            bounds=self._bounds,
            details_read=self._details_read,
        )

    def nudge(self, project: str, scenario: str, reason: str = "hook") -> bool:
        """Somebody says that something happened to this scenario: at most one look. False if it is not watched."""
        return self._watch is not None and self._watch.nudge(project, scenario)

    def snapshot(self) -> NodeSnapshot | None:
        """None until the watch has begun."""
        return None if self._watch is None else self._watch.snapshot()


class _Watch:
    """The parts of one node's watch, wired."""

    def __init__(self, state: NodeState, user_agent: str) -> None:
        node, self._state = state.node, state
        self._health = Health()
        self._budget = Budget(node.watch.max_requests_per_second, node.watch.max_concurrency)
        self._line = Line(self._budget, state.clock, self._sources, state.log)
        self._client = _client(node, node.api_key, node.bearer, user_agent, self._answered)
        own = node.sweep_api_key
        self._admin = _client(node, own, None, user_agent, self._admin_answered) if own else self._client
        self._sweep = Sweep(
            state, self._admin, limit=self._limit, stranger=self._stranger, changed=self._sighting_changed
        )
        self._discovery = Discovery(
            state, self._client, limit=self._limit, show=self._sweep.show_again, alive=self._alive
        )
        self._details = DetailsReader(state, self._client)
        self._looks = Looks(
            state,
            self._client,
            limit=self._limit,
            missing=lambda one: self._discovery.nudge(one.key.project),
            details=self._details.owe,
            told=self._sweep.judge,
        )
        self._probe = _Probe(self._ask_probe, lambda: self._health.pause)
        self._resumed = False
        self._told_down = False

    async def run(self) -> None:
        # What an earlier life knew about the node is old: nobody may judge by it before the first answer.
        row = self._state.row
        self._state.row = replace(row, up=None if row.down_event_id is None else False, backfilling=True)
        await self._state.write(_write_node, self._state.row, None, backfill=True)
        await self._discovery.load()
        await self._details.load()
        self._state.agenda.sighting = Reason.SWEEP if self._sweep.trusted else Reason.FLAGS
        tasks = [asyncio.create_task(self._line.run()), asyncio.create_task(self._keep())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        await self._client.close()
        await self._admin.close()

    def _limit(self) -> float:
        return self._budget.limit

    def _sources(self) -> Sequence[Source]:
        if self._health.open:
            return (self._probe,)
        return (self._sweep, self._looks, self._details, self._discovery)

    # --- nudges ------------------------------------------------------------------------------------------------------

    def nudge(self, project: str, scenario: str) -> bool:
        one = self._state.agenda.watched.get(ScenarioKey(self._state.name, project, scenario))
        if one is not None:
            self._state.agenda.hook(one)
            self._line.ring()
            return True
        return self._state.in_scope(project) and self._discovery.nudge(project)

    def _stranger(self, project: str, scenario: str) -> None:
        """The sweep shows a scenario that is not known: new, or out of scope."""
        if self._state.in_scope(project) and not self._discovery.nudge(project):
            self._discovery.nudge_projects()

    def _sighting_changed(self) -> None:
        self._discovery.respread()
        self._line.ring()

    # --- answers -----------------------------------------------------------------------------------------------------

    def _admin_answered(self, report: RequestReport) -> None:
        refused = isinstance(report.error, DSSUnauthorized | DSSForbidden)
        # That its key is good says nothing for the other one.
        others = report.error is None and self._health.reason is DownReason.UNAUTHORIZED
        self._answered(report, own_key=refused or others)

    def _answered(self, report: RequestReport, *, own_key: bool = False) -> None:
        """Every answer to a request passes here; ``own_key``: it tells of the sweep's own key alone."""
        self._state.heard(report)
        now, error = self._state.clock.monotonic(), report.error
        match error:
            case None:
                self._budget.succeeded(now)
            case DSSThrottled():
                self._budget.throttled(now, report.retry_after)
            case DSSUnreachable() if error.timed_out:
                self._budget.throttled(now)
            case DSSServerError() if error.error_type is None or error.status == 503:
                self._budget.throttled(now, report.retry_after)
            case DSSServerError():
                self._budget.failed(now)
        if own_key:
            return
        if error is None:
            self._state.tell_failures(before=now - report.seconds)
        was_open = self._health.open
        sign = read_sign(error, probe=report.operation == "list_projects")
        self._health.answered(sign, str(error) if error else None)
        if self._health.open and not was_open:
            self._line.turn_away()

    async def _ask_probe(self, ticket: Ticket) -> None:
        await self._discovery.read_projects(ticket)
        state, health = self._state, self._health
        if not health.down:
            return
        reason = health.reason.value if health.reason else None
        state.forget_failures()
        if not self._told_down:
            self._told_down = True
            state.log.error("node_down", reason=reason, problem=health.problem)
        if state.row.down_event_id is not None:
            if state.row.down_reason != reason:
                await state.save(down_reason=reason, problem=health.problem)
            return
        event = self._node_event(EventName.NODE_DOWN, health.reason)
        state.row = replace(
            state.row,
            up=False,
            down_reason=reason,
            down_since=event.time,
            down_event_id=event.id,
            problem=health.problem,
        )
        await state.write(_write_node, state.row, event)
        state.ring()

    async def _alive(self) -> None:
        """The list of projects was read: the node can be watched."""
        was_down = self._state.row.down_event_id is not None
        if self._health.open:
            self._health.close()
            if was_down or not self._resumed:
                await self._resume()
        self._resumed = True

    async def _resume(self) -> None:
        """The watch begins or goes on after a gap: what happened in it is late, and is read back first."""
        state, row = self._state, self._state.row
        event = self._node_event(EventName.NODE_UP) if row.down_event_id is not None else None
        self._told_down = False
        if event is not None:
            state.log.info("node_up", was=row.down_reason)
        since = row.watched_since if row.last_ok_at else row.watched_since + state.agenda.offset
        state.row = replace(
            row,
            watched_since=since,
            up=True,
            down_reason=None,
            down_since=None,
            down_event_id=None,
            problem=None,
            last_ok_at=state.clock.now(),
            resumed_at=state.now(),
            backfilling=True,
        )
        await state.write(_write_node, state.row, event, backfill=True)
        state.agenda.wake(state.agenda.watched.values())
        if event is not None:
            state.ring()

    def _node_event(self, name: EventName, reason: DownReason | None = None) -> Event:
        state, time = self._state, self._state.now()
        id_ = node_event_id(state.name, name, time)
        return Event(id_, name, state.name, time, detected_at=state.clock.now(), reason=reason)

    # --- housekeeping ------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Every few seconds: gauges, and what the node's row should know."""
        while True:
            self._show_gauges()
            await self._save_row()
            await asyncio.sleep(_KEEP_EVERY)

    def _show_gauges(self) -> None:
        metrics, name, now = self._state.metrics, self._state.name, self._state.clock.monotonic()
        metrics.limit.labels(name).set(self._budget.limit)
        metrics.sweep_trusted.labels(name).set(self._sweep.trusted)
        metrics.look_bound.labels(name).set(self._state.agenda.oldest_look(now))

    async def _save_row(self) -> None:
        state, row = self._state, self._state.row
        changes: dict[str, object] = {}
        offset_ms = state.agenda.offset // timedelta(milliseconds=1)
        if abs(offset_ms - row.clock_offset_ms) >= 500:
            changes["clock_offset_ms"] = offset_ms
        if state.dss_version not in (None, row.dss_version):
            changes["dss_version"] = state.dss_version
        if not self._health.open:
            if row.last_ok_at is None or state.clock.now() - row.last_ok_at >= _OK_EVERY:
                changes["last_ok_at"] = state.clock.now()
            if row.backfilling and self._discovery.complete and self._all_looked_at():
                changes["backfilling"] = False
                state.log.info("backfill_complete")
        if changes:
            await state.save(**changes)

    def _all_looked_at(self) -> bool:
        watched = self._state.agenda.watched.values()
        return all(one.looked_at is not None or one.failures or one.row.active is False for one in watched)

    def snapshot(self) -> NodeSnapshot:
        state, watched = self._state, self._state.agenda.watched.values()
        return NodeSnapshot(
            node=state.name,
            up=state.row.up,
            reason=DownReason(state.row.down_reason) if state.row.down_reason else None,
            problem=state.row.problem,
            requests_per_second=self._budget.limit,
            sweep_trusted=self._sweep.trusted,
            look_bound=state.agenda.oldest_look(state.clock.monotonic()),
            scenarios=len(watched),
            active=sum(one.row.active is True for one in watched),
            running=sum(bool(one.open_runs) for one in watched),
            failing=sum(bool(one.failures) for one in watched),
            backfilling=state.row.backfilling,
            clock_offset=state.agenda.offset,
            last_ok_at=state.row.last_ok_at,
            dss_version=state.dss_version,
        )


class _Probe:
    """The only source while the circuit is open."""

    def __init__(self, ask: Callable[[Ticket], Awaitable[None]], pause: Callable[[], float]) -> None:
        self._ask = ask
        self._pause = pause
        self._ended = -inf
        self._busy = False

    def offer(self, now: float) -> Offer | None:
        return Offer(Rank.SWEEP, now) if not self._busy and self.due_in(now) == inf else None

    def due_in(self, now: float) -> float:
        left = self._ended + self._pause() - now
        return left if left > 0 else inf

    def take(self, now: float, ticket: Ticket) -> Coroutine[object, object, None]:
        self._busy = True
        return self._probe(ticket)

    async def _probe(self, ticket: Ticket) -> None:
        try:
            await self._ask(ticket)
        finally:
            self._busy = False
            self._ended = ticket.now()


def _write_node(
    connection: Connection, row: nodes.NodeRow, event: Event | None, backfill: bool = False
) -> None:
    """A node's going down or coming back, with its event, in one transaction."""
    if event is not None:
        events.insert_events(connection, [event])
    nodes.save_node(connection, row)
    if backfill:
        scenarios.begin_backfill(connection, row.node)


def _client(
    node: Node,
    api_key: Secret | None,
    bearer: Secret | None,
    user_agent: str,
    answered: Callable[[RequestReport], None],
) -> DSSClient:
    """Secrets are asked for before each request, so a new one serves at once. The line retries, not the client."""
    cert, key = node.tls.client_cert_file, node.tls.client_key_file
    return DSSClient(
        node.url,
        api_key=api_key.reveal if api_key else None,
        jwt_bearer_token=bearer.reveal if bearer else None,
        extra_headers=node.headers,
        no_check_certificate=not node.tls.verify,
        ca_file=node.tls.ca_file,
        client_certificate=(cert, key) if cert and key else cert,
        proxy=node.proxy,
        timeout=_TIMEOUT,
        retries=0,
        max_connections=node.watch.max_concurrency,
        user_agent=user_agent,
        on_request=answered,
    )
