"""The watch of one node: composes sweep, polls, details and discovery in one line of requests, for ever.

Promises that every run is seen, soon, and that the watching never harms the node: see the modules beside this one for
each of the three.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tocsin.config.model import Node
from tocsin.config.secrets import Secret
from tocsin.dss import (
    DSSClient,
    DSSError,
    DSSForbidden,
    DSSServerError,
    DSSThrottled,
    DSSUnauthorized,
    DSSUnreachable,
    RequestReport,
)
from tocsin.kit.tasks import until_one_ends
from tocsin.model.event import DownReason
from tocsin.model.run import ScenarioKey
from tocsin.store import StoreUnavailable, scenarios, totals
from tocsin.store.scenarios import NodeRow
from tocsin.watch.budget import Budget
from tocsin.watch.cadence import Reason
from tocsin.watch.circuit import Circuit
from tocsin.watch.details import DetailsReader
from tocsin.watch.discovery import Discovery
from tocsin.watch.poll import Poller
from tocsin.watch.queue import Permit, RequestQueue, RequestSource
from tocsin.watch.state import NodeState, WatcherDeps
from tocsin.watch.sweep import Sweep

_TIMEOUT = 30.0
_KEEP_EVERY = 1.0
_OK_EVERY = timedelta(minutes=1)
_SURELY = timedelta(minutes=1)  # what is less may be slow answers


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """How the watch of a node stands, for status pages. Durations in seconds."""

    node: str
    up: bool | None  # None: neither answered nor failed yet
    reason: DownReason | None
    problem: str | None
    requests_per_second: float
    sweep_trusted: bool
    oldest_poll_age: float
    overdue: float  # for which the poll that waits longest in the line has been due
    scenarios: int
    active: int
    running: int
    failing: int  # scenarios whose last poll failed
    backfilling: bool
    clock_offset: timedelta
    last_ok_at: datetime | None
    dss_version: str | None


class NodeWatcher(WatcherDeps):
    """Watches one node. Its settings are frozen: others need another watcher."""

    _watch: "_Watch | None" = None

    async def run(self) -> None:
        """For ever. Raises ``NotLeader`` when another process took over; what fails in DSS or the store is lived with."""
        self.metrics.begin(self.node.name)
        self._watch = _Watch(NodeState(self, await self._row()), self.user_agent)
        try:
            await self._watch.run()
        finally:
            self.metrics.forget(self.node.name)
            await self._watch.close()
            self._watch = None

    async def _row(self) -> NodeRow:
        """The node's row, made if it is new; waits for the store."""
        pause, guard, write = 0.5, self.leadership.guard, self.store.write_guarded
        while True:
            try:
                await write(guard, totals.lay_out, self.duration_buckets)
                return await write(guard, scenarios.ensure_node, self.node.name, self.clock.now())
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, 30.0)

    def nudge(self, project: str, scenario: str) -> bool:
        """Somebody says that something happened to this scenario: at most one poll. False if it is not watched."""
        return self._watch is not None and self._watch.nudge(project, scenario)

    def snapshot(self) -> NodeSnapshot | None:
        """None until the watch has begun."""
        return None if self._watch is None else self._watch.snapshot()


class _Watch:
    """The parts of one node's watch, wired."""

    def __init__(self, state: NodeState, user_agent: str) -> None:
        node, self._state = state.node, state
        self._budget = Budget(node.watch.max_requests_per_second, node.watch.max_concurrency)
        self._line = RequestQueue(self._budget, state.clock, self._sources, state.log)
        self._client = _client(node, node.api_key, node.bearer, user_agent, self._answered)
        own = node.sweep_api_key
        self._admin = _client(node, own, None, user_agent, self._admin_answered) if own else self._client
        self._sweep = Sweep(
            state, self._admin, limit=self._limit, stranger=self._stranger, changed=self._sighting_changed
        )
        self._circuit = Circuit(state, self._probe)
        self._discovery = Discovery(
            state, self._client, limit=self._limit, show=self._sweep.show_again, alive=self._circuit.alive
        )
        self._details = DetailsReader(state, self._client)
        self._looks = Poller(
            state,
            self._client,
            limit=self._limit,
            list_again=lambda one: self._discovery.nudge(one.key.project),
            details=self._details.owe,
            told=self._sweep.judge,
        )

    async def run(self) -> None:
        # What an earlier life knew about the node is old: nobody may judge by it before the first answer.
        up = None if self._state.row.down_event_id is None else False
        await self._state.save({"up": up}, backfill=True)
        await self._discovery.load()
        await self._details.load()
        self._state.schedule.sighting = Reason.SWEEP if self._sweep.trusted else Reason.FLAGS
        await until_one_ends({"line": self._line.run(), "keep": self._keep()})

    async def close(self) -> None:
        await self._client.close()
        await self._admin.close()

    def _limit(self) -> float:
        return self._budget.limit

    def _sources(self) -> Sequence[RequestSource]:
        if self._circuit.health.open:
            return (self._circuit,)
        return (self._sweep, self._looks, self._details, self._discovery)

    async def _probe(self, permit: Permit) -> None:
        await self._discovery.read_projects(permit)
        if self._circuit.health.open or self._state.row.node_type is not None:
            return
        try:
            info = await permit.ask(self._client.get_instance_info)
        except DSSError:
            return  # pages do without
        await self._state.save({"node_type": info.node_type})

    # --- nudges ------------------------------------------------------------------------------------------------------

    def nudge(self, project: str, scenario: str) -> bool:
        one = self._state.schedule.watched.get(ScenarioKey(self._state.name, project, scenario))
        if one is not None:
            self._state.schedule.hook(one)
            self._line.ring()
            return True
        if not (self._state.in_scope(project) and self._discovery.knows(project)):
            return False
        # Perhaps it is new. One that nobody finds costs a request as well.
        return self._state.schedule.take_hook_permit(self._state.clock.monotonic(), self._limit()) and (
            self._discovery.nudge(project)
        )

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
        others = report.error is None and self._circuit.health.reason is DownReason.UNAUTHORIZED
        self._answered(report, own_key=refused or others)

    def _answered(self, report: RequestReport, *, own_key: bool = False) -> None:
        """Every answer to a request passes here; ``own_key``: it tells of the sweep's own key alone."""
        self._state.heard(report)
        now, error = self._state.clock.monotonic(), report.error
        match error:
            case DSSThrottled():
                self._budget.throttled(now, report.retry_after)
            case DSSServerError() if report.retry_after is not None:
                self._budget.throttled(now, report.retry_after)
            case DSSUnreachable() | DSSServerError():
                self._budget.failed(now)
            case _ if report.status is not None:
                self._budget.succeeded(now)
        if own_key:
            return
        if error is None:
            self._state.tell_failures(before=now - report.seconds)
        if self._circuit.answered(report):
            self._line.reject_all()

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
        metrics.oldest_poll_age.labels(name).set(self._state.schedule.oldest_poll_age(now))

    async def _save_row(self) -> None:
        state, row = self._state, self._state.row
        changes: dict[str, object] = {}
        if back := state.dss_clock.surely_set_back:
            tell = state.log.warning if back >= _SURELY else state.log.info
            tell("dss_clock_set_back", seconds=round(back.total_seconds()))
            await self._discovery.set_back(back)
            moments = {"watched_since": row.watched_since, "resumed_at": row.resumed_at}
            changes |= {name: at - back for name, at in moments.items() if at is not None and at > state.now()}
            state.dss_clock.moved_back()
        for name, offset in (
            ("clock_offset_ms", state.dss_clock.offset),
            ("clock_offset_least_ms", state.dss_clock.least_offset),
        ):
            offset_ms = offset // timedelta(milliseconds=1)
            if abs(offset_ms - (getattr(row, name) or 0)) >= 500:
                changes[name] = offset_ms
        if state.dss_version not in (None, row.dss_version):
            changes["dss_version"] = state.dss_version
        if not self._circuit.health.open:
            swept = self._sweep.swept_at is not None and row.last_sweep_at is None
            if swept or row.last_ok_at is None or abs(state.clock.now() - row.last_ok_at) >= _OK_EVERY:
                changes |= {"last_ok_at": state.clock.now(), "last_sweep_at": self._sweep.swept_at}
            if row.backfilling and self._discovery.complete and self._all_polled():
                changes["backfilling"] = False
                state.log.info("backfill_complete")
        if changes:
            await state.save(changes)

    def _all_polled(self) -> bool:
        watched = self._state.schedule.watched.values()
        blind = self._state.schedule.suspended
        return all(
            one.polled_at is not None or one.failures or one.row.active is False or one.key.project in blind
            for one in watched
        )

    def snapshot(self) -> NodeSnapshot:
        state, watched = self._state, self._state.schedule.watched.values()
        return NodeSnapshot(
            node=state.name,
            up=state.row.up,
            reason=next((one for one in DownReason if one == state.row.down_reason), None),
            problem=state.row.problem,
            requests_per_second=self._budget.limit,
            sweep_trusted=self._sweep.trusted,
            oldest_poll_age=state.schedule.oldest_poll_age(state.clock.monotonic()),
            overdue=state.schedule.overdue(state.clock.monotonic()),
            scenarios=len(watched),
            active=sum(one.row.active is True for one in watched),
            running=sum(bool(one.open_runs) for one in watched),
            failing=sum(bool(one.failures) for one in watched),
            backfilling=state.row.backfilling,
            clock_offset=state.dss_clock.offset,
            last_ok_at=state.row.last_ok_at,
            dss_version=state.dss_version,
        )


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
        api_key=api_key.read if api_key else None,
        jwt_bearer_token=bearer.read if bearer else None,
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
