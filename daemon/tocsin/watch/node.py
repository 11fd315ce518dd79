"""The watcher of one node: runs sweep, polls, details and discovery through one queue of requests, for ever.

Every run is seen, soon, and watching never harms the node.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tocsin import dss
from tocsin.config.secrets import Secret
from tocsin.kit.tasks import until_one_ends
from tocsin.model.event import DownReason
from tocsin.model.run import ScenarioKey
from tocsin.store import scenarios, series
from tocsin.store.scenarios import NodeRow
from tocsin.watch.cadence import Reason
from tocsin.watch.circuit import Circuit
from tocsin.watch.discovery import Discovery
from tocsin.watch.poll import DetailsReader, Poller
from tocsin.watch.queue import Permit, RequestQueue, RequestSource
from tocsin.watch.state import NodeState, WatcherDeps, WatcherStore
from tocsin.watch.sweep import Sweep

_TIMEOUT = 30.0
_HOUSEKEEPING_EVERY = 1.0
_PLANNED_EVERY = 3.0
_OK_EVERY = timedelta(minutes=1)
_SURELY = timedelta(minutes=1)  # what is less may be slow answers


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """How watching a node goes, for status pages: its row, and what is known in memory alone. Durations in seconds."""

    row: NodeRow
    requests_per_second: float
    oldest_poll_age: float
    longest_overdue: float  # for which the poll that waits longest in the queue has been due
    scenarios: int
    active: int
    running: int
    failing: int  # scenarios whose last poll failed
    clock_offset: timedelta
    dss_version: str | None


class NodeWatcher:
    """Watches one node. Its settings are frozen: others need another watcher."""

    def __init__(self, deps: WatcherDeps) -> None:
        self._deps = deps
        self._session: _Session | None = None

    async def run(self) -> None:
        """For ever. Raises ``NotLeader`` when another process took over; failures of DSS and the store are outlived."""
        deps, store = self._deps, WatcherStore(self._deps)
        deps.metrics.begin(deps.node.name)
        await store.write(series.set_bucket_layout, deps.duration_buckets)
        row = await store.write(scenarios.ensure_node, deps.node.name, deps.clock.now())
        self._session = _Session(deps, store, row)
        try:
            await self._session.run()
        finally:
            deps.metrics.forget(deps.node.name)
            await self._session.close()
            self._session = None

    def nudge(self, project: str, scenario: str) -> bool:
        """Somebody says that something happened to this scenario: at most one poll. False if it is not watched."""
        return self._session is not None and self._session.nudge(project, scenario)

    def poll(self, key: ScenarioKey) -> None:
        """A rule waits for what the next poll of this scenario will say."""
        if self._session is not None:
            self._session.poll(key)

    def snapshot(self) -> NodeSnapshot | None:
        """None until the node's row was read."""
        return None if self._session is None else self._session.snapshot()


class _Session:
    def __init__(self, deps: WatcherDeps, store: WatcherStore, row: NodeRow) -> None:
        node = deps.node
        client = _make_client(deps, node.api_key, node.bearer, self._answered)
        self._state = state = NodeState(deps, store, row, client)
        self._queue = RequestQueue(state.budget, state.clock, self._sources, state.log)
        self._admin = client
        if node.sweep_api_key:
            self._admin = _make_client(deps, node.sweep_api_key, None, self._admin_answered)
        self._circuit = Circuit(state, self._probe)
        self._discovery = Discovery(state, self._circuit)
        self._sweep = Sweep(state, self._admin, self._discovery)
        self._details = DetailsReader(state)
        self._poller = Poller(state, self._discovery, self._details, self._sweep)

    async def run(self) -> None:
        state = self._state
        # What an earlier life knew about the node is old: no rule may go by it before the first answer.
        await state.save({"up": None if state.row.down_event_id is None else False, "backfilling": True})
        await self._discovery.load()
        await self._details.load()
        state.schedule.hints_from = Reason.SWEEP if self._sweep.trusted else Reason.FLAGS
        await until_one_ends(
            {
                "queue": self._queue.run(),
                "housekeeping": self._keep_house(),
                "late details": self._details.release_late(),
                "planned details": self._plan_details(),
            }
        )

    async def close(self) -> None:
        await self._state.client.close()
        await self._admin.close()

    def _sources(self) -> Sequence[RequestSource]:
        if self._circuit.health.open:
            return (self._circuit,)
        return (self._sweep, self._poller, self._details, self._discovery)

    async def _probe(self, permit: Permit) -> None:
        await self._discovery.read_projects(permit)
        if self._circuit.health.open or self._state.row.node_type is not None:
            return
        try:
            info = await permit.ask(self._state.client.get_instance_info)
        except dss.DSSError:
            return  # only pages show it
        await self._state.save({"node_type": info.node_type})

    def nudge(self, project: str, scenario: str) -> bool:
        state = self._state
        watched = state.schedule.scenarios.get(ScenarioKey(state.name, project, scenario))
        if watched is not None:
            state.schedule.hook(watched)
            self._queue.wake()
            return True
        # Perhaps it is new. A scenario that does not exist costs a request as well.
        return (
            state.in_scope(project)
            and project in self._discovery.projects
            and state.schedule.take_hook_permit(state.clock.monotonic(), state.budget.limit)
            and self._discovery.nudge(project)
        )

    def poll(self, key: ScenarioKey) -> None:
        schedule = self._state.schedule
        if (scenario := schedule.scenarios.get(key)) is not None and scenario.nudged is None:
            schedule.nudge(scenario, Reason.EXPECTED)
            self._queue.wake()

    def _admin_answered(self, report: dss.RequestReport) -> None:
        refused = isinstance(report.error, dss.DSSUnauthorized | dss.DSSForbidden)
        # That its key is good says nothing about the other key.
        others = report.error is None and self._circuit.health.reason is DownReason.UNAUTHORIZED
        self._answered(report, own_key=refused or others)

    def _answered(self, report: dss.RequestReport, *, own_key: bool = False) -> None:
        """Every answer to a request passes here; ``own_key``: it tells of the sweep's own key alone."""
        state, error = self._state, report.error
        state.observe(report)
        now = state.clock.monotonic()
        if isinstance(error, dss.DSSThrottled) or (
            isinstance(error, dss.DSSServerError) and report.retry_after is not None
        ):
            state.budget.throttled(now, report.retry_after)
        elif isinstance(error, dss.DSSUnreachable | dss.DSSServerError):
            state.budget.failed(now)
        elif report.status is not None:
            state.budget.succeeded(now)
        if own_key:
            return
        if error is None:
            state.log_failures(before=now - report.seconds)
        if self._circuit.answered(report):
            self._queue.reject_all()

    async def _plan_details(self) -> None:
        """For ever: read the details that rules ask for."""
        while True:
            await asyncio.sleep(_PLANNED_EVERY)
            if await self._details.take_planned():
                self._queue.wake()

    async def _keep_house(self) -> None:
        """Every second: gauges, and what the node's row should know."""
        state = self._state
        while True:
            state.metrics.limit.labels(state.name).set(state.budget.limit)
            state.metrics.sweep_trusted.labels(state.name).set(self._sweep.trusted)
            age = state.schedule.oldest_poll_age(state.clock.monotonic())
            state.metrics.oldest_poll_age.labels(state.name).set(age)
            await self._save_row()
            await asyncio.sleep(_HOUSEKEEPING_EVERY)

    async def _save_row(self) -> None:
        state, row, now = self._state, self._state.row, self._state.clock.now()
        changes: dict[str, object] = {}
        if back := state.dss_clock.surely_set_back:
            log = state.log.warning if back >= _SURELY else state.log.info
            log("dss_clock_set_back", seconds=round(back.total_seconds()))
            await self._discovery.set_back(back)
            moments = {"watched_since": row.watched_since, "resumed_at": row.resumed_at}
            changes |= {name: at - back for name, at in moments.items() if at is not None and at > state.now()}
            state.dss_clock.moved_back()
        clock = state.dss_clock
        for name, offset in (("clock_offset_ms", clock.offset), ("clock_offset_least_ms", clock.least_offset)):
            offset_ms = offset // timedelta(milliseconds=1)
            if abs(offset_ms - (getattr(row, name) or 0)) >= 500:
                changes[name] = offset_ms
        if state.dss_version not in (None, row.dss_version):
            changes["dss_version"] = state.dss_version
        if not self._circuit.health.open:
            swept = self._sweep.swept_at is not None and row.last_sweep_at is None
            if swept or row.last_ok_at is None or abs(now - row.last_ok_at) >= _OK_EVERY:
                changes |= {"last_ok_at": now, "last_sweep_at": self._sweep.swept_at or row.last_sweep_at}
            if row.backfilling and self._discovery.complete and state.schedule.all_polled():
                changes["backfilling"] = False
                watched, projects = state.schedule.scenarios.values(), len(self._discovery.projects)
                active = sum(scenario.row.active is True for scenario in watched)
                state.log.info("backfill_complete", projects=projects, scenarios=len(watched), active=active)
        if changes:
            await state.save(changes)

    def snapshot(self) -> NodeSnapshot:
        state, now = self._state, self._state.clock.monotonic()
        watched = state.schedule.scenarios.values()
        return NodeSnapshot(
            state.row,
            requests_per_second=state.budget.limit,
            oldest_poll_age=state.schedule.oldest_poll_age(now),
            longest_overdue=state.schedule.longest_overdue(now),
            scenarios=len(watched),
            active=sum(scenario.row.active is True for scenario in watched),
            running=sum(bool(scenario.open_runs) for scenario in watched),
            failing=sum(bool(scenario.failures) for scenario in watched),
            clock_offset=state.dss_clock.offset,
            dss_version=state.dss_version,
        )


def _make_client(
    deps: WatcherDeps, api_key: Secret | None, bearer: Secret | None, on_request: Callable[[dss.RequestReport], None]
) -> dss.DSSClient:
    """Secrets are read before each request, so a new one serves at once. The queue retries, not the client."""
    node, tls = deps.node, deps.node.tls
    cert, key = tls.client_cert_file, tls.client_key_file
    return dss.DSSClient(
        node.url,
        api_key=api_key.read if api_key else None,
        jwt_bearer_token=bearer.read if bearer else None,
        extra_headers=node.headers,
        no_check_certificate=not tls.verify,
        ca_file=tls.ca_file,
        client_certificate=(cert, key) if cert and key else cert,
        proxy=node.proxy,
        timeout=_TIMEOUT,
        retries=0,
        max_connections=node.watch.max_concurrency,
        user_agent=deps.user_agent,
        on_request=on_request,
    )
