"""Discovery: reads the lists of projects and scenarios, and keeps the store and the schedule in step with them.

The list of projects is also the probe of a dead node. Lists are read evenly spread over ``discovery_interval``; while
the sweep is not trusted their running flags tell what runs, and they are read as often as the budget allows.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf

from sqlalchemy import Connection

from tocsin.dss import DSSClient, DSSError, DSSForbidden
from tocsin.model.run import ScenarioKey
from tocsin.store import runs, scenarios, starts
from tocsin.store.scenarios import ProjectRow, ScenarioRow
from tocsin.watch.cadence import Rank, Reason
from tocsin.watch.diff import PollResult
from tocsin.watch.inventory import (
    MISSING_BEFORE_GONE,
    Expectation,
    When,
    compare_projects,
    compare_scenarios,
    expect,
    may_go,
    worth_writing,
)
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.read import ListedProject, ListedScenario, ParsedList, read_projects, read_scenarios
from tocsin.watch.record import Poll, record_polls
from tocsin.watch.schedule import ScenarioState
from tocsin.watch.state import NodeState

_FLAGS_SHARE = 0.6  # of the budget, for lists in place of sweeps
_SOONEST_PROJECTS = 30.0
_SOONEST = 5.0  # seconds between two lists of one project, however often it is nudged


@dataclass(slots=True, eq=False)
class _Project:
    row: ProjectRow
    due: float = 0.0
    read_at: float = -inf
    counted_at: float = -inf  # the last list that counted what is missing
    busy: bool = False
    blind: bool = False
    failures: int = 0
    new_scope: bool = False  # what it shows first came into scope by configuration


@dataclass(frozen=True, slots=True)
class _Expected:
    key: ScenarioKey
    change: Expectation


class Discovery:
    """The source of lists. ``show`` hears of scenarios that became known, ``alive`` of good lists of projects."""

    def __init__(
        self,
        state: NodeState,
        client: DSSClient,
        *,
        limit: Callable[[], float],
        show: Callable[[ScenarioState], None],
        alive: Callable[[], Awaitable[None]],
    ) -> None:
        self._state = state
        self._client = client
        self._limit = limit
        self._show = show
        self._alive = alive
        self._projects: dict[str, _Project] = {}
        self._gone_projects: dict[str, ProjectRow] = {}
        self._gone: dict[ScenarioKey, ScenarioRow] = {}
        self._due = 0.0
        self._read_at = -inf
        self._busy = False
        self._failures = 0
        self._scope = repr((state.node.projects, state.node.scenarios))
        self._held_back = False
        self._giving_up = asyncio.Lock()

    # --- the source --------------------------------------------------------------------------------------------------

    @property
    def interval(self) -> float:
        """Seconds between two lists of one project."""
        watch = self._state.node.watch
        whole = watch.discovery_interval.total_seconds()
        if self._state.schedule.sighting is Reason.SWEEP:
            return whole
        affordable = len(self._projects) / (_FLAGS_SHARE * self._limit())
        return min(whole, max(watch.sweep_interval.total_seconds(), affordable))

    def offer(self, now: float) -> NextJob | None:
        if now >= self._due and not self._busy:
            return NextJob(Rank.DISCOVERY, self._due)
        project = self._next()
        return NextJob(Rank.DISCOVERY, project.due) if project and project.due <= now else None

    def due_in(self, now: float) -> float:
        dues = [project.due for project in self._projects.values() if not project.busy]
        return min((due - now for due in (*dues, self._due) if due > now), default=inf)

    def take(self, now: float, permit: Permit) -> Coroutine[object, object, None]:
        if now >= self._due and not self._busy:
            self._busy = True
            return self.read_projects(permit)
        project = self._next()
        assert project is not None
        project.busy = True
        return self._read_project(project, permit)

    def _next(self) -> _Project | None:
        waiting = (project for project in self._projects.values() if not project.busy)
        return min(waiting, key=lambda project: project.due, default=None)

    def knows(self, project: str) -> bool:
        return project in self._projects

    def nudge(self, project: str) -> bool:
        """Read a project's list soon; False if the project is not known."""
        known = self._projects.get(project)
        if known is None:
            return False
        known.due = min(known.due, known.read_at + _SOONEST)
        return True

    def nudge_projects(self) -> None:
        """Read the list of projects soon: somebody named one that is not known."""
        self._due = min(self._due, self._read_at + _SOONEST_PROJECTS)

    @property
    def complete(self) -> bool:
        """Whether every project was read since the start, or refused to be."""
        return all(project.read_at > -inf for project in self._projects.values())

    def respread(self) -> None:
        """Flags took the place of the sweep or gave it back: the lists have another pace now."""
        now, pace = self._state.clock.monotonic(), self.interval
        for number, project in enumerate(self._projects.values()):
            spread = pace * number / max(1, len(self._projects))
            project.due = min(project.due, max(project.read_at + pace, now + spread))

    # --- loading -----------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Bring what the store knows into memory; what is no longer in scope is given up."""
        state = self._state
        read = state.read
        projects = await read(scenarios.load_projects, state.name)
        known = await read(scenarios.load_scenarios, state.name)
        pending = await read(starts.pending_starts, state.name)
        opened: dict[ScenarioKey, list[runs.RunRow]] = {}
        for row in await read(runs.open_runs, state.name):
            opened.setdefault(row.run.scenario, []).append(row)
        rescoped = state.row.scope is not None and state.row.scope != self._scope
        for project in projects:
            if project.gone_at is None:
                self._projects[project.project] = _Project(project, new_scope=rescoped)
            else:
                self._gone_projects[project.project] = project
        watched = []
        for scenario in known:
            if scenario.gone_at is not None:
                self._gone[scenario.key] = scenario
                continue
            mine = tuple(row.run for row in opened.get(scenario.key, ()))
            announced = tuple(pending.get(scenario.key, ()))
            watched.append(ScenarioState(scenario, open_runs=mine, pending=announced))
        await state.schedule.add_all(watched)
        out = [one for one in watched if not self._wanted(one.row)]
        await self._give_up(out, [row for row in projects if row.gone_at is None and not state.in_scope(row.project)])

    async def set_back(self, by: timedelta) -> None:
        """DSS's clock was: what seems to be watched since a moment that is yet to come is watched since before."""
        now, watched = self._state.now(), self._state.schedule.watched
        late = [one for one in self._projects.values() if one.row.in_scope_since > now]
        for project in late:
            project.row = replace(project.row, in_scope_since=project.row.in_scope_since - by)
        later = [one for one in watched.values() if one.row.watched_since > now]
        for one in later:
            one.row = replace(one.row, watched_since=one.row.watched_since - by)
        projects = [project.row for project in late]
        await self._state.write(_write, [one.row for one in later], (), self._state.clock.now(), projects)

    def _wanted(self, row: ScenarioRow) -> bool:
        return self._state.in_scope(row.key.project) and self._state.scenario_in_scope(row.key.scenario, row.tags)

    # --- projects ----------------------------------------------------------------------------------------------------

    async def read_projects(self, permit: Permit) -> None:
        """Read the list of projects; also the probe of a node."""
        self._busy, self._read_at = True, self._state.clock.monotonic()
        self._due = self._read_at + self._state.node.watch.discovery_interval.total_seconds()  # or sooner if nudged
        try:
            raw = await permit.ask(self._client.list_projects_raw)
        except DSSError as error:
            self._failures += 1
            self._due = min(self._due, self._read_at + 2.0 ** min(self._failures, 10))
            if self._failures == 1:
                self._state.failed("project_list_failed", error)
        else:
            self._failures = 0
            await self._alive()
            await self._projects_read(read_projects(raw))
        finally:
            self._busy = False

    async def _projects_read(self, seen: ParsedList[ListedProject]) -> None:
        state = self._state
        state.odd("list_projects", seen.odd, seen.example)
        known = {key: project.row for key, project in self._projects.items()} | self._gone_projects
        changed = compare_projects(known, seen, state.name, state.in_scope, self._since(state.now()))
        await state.write(scenarios.put_projects, changed)
        for row in changed:
            self._gone_projects.pop(row.project, None)
            project = self._projects.get(row.project)
            if project is None:
                self._projects[row.project] = _Project(row)
            else:
                project.row = replace(row, in_scope_since=project.row.in_scope_since)
        await state.save({"last_discovery_at": state.clock.now(), "scope": self._scope})
        await self._give_up_missing()

    def _since(self, dss_now: datetime) -> Callable[[ListedProject], datetime]:
        """From when on a new project counts: it came into scope after the last list, unless it is known to be older."""
        row = self._state.row
        before = row.last_discovery_at
        if before is None:
            return lambda _: row.watched_since
        if row.scope != self._scope:
            return lambda _: dss_now
        last = min(before + self._state.dss_clock.offset, dss_now)

        def since(project: ListedProject) -> datetime:
            old = project.created is not None and project.created < last
            return dss_now if old else last

        return since

    # --- one project -------------------------------------------------------------------------------------------------

    async def _read_project(self, project: _Project, permit: Permit) -> None:
        state, key = self._state, project.row.project
        when = When(state.clock.now(), state.now(), state.now() if project.new_scope else None)
        project.read_at = state.clock.monotonic()
        project.due = project.read_at + self.interval  # or sooner if nudged
        try:
            raw = await permit.ask(self._client.get_project(key).list_scenarios_raw)
        except DSSError as error:
            self._unreadable(project, error)
        else:
            seen = read_scenarios(raw, state.name, key)
            state.odd("list_scenarios", seen.odd, seen.example, project=key)
            await self._readable(project)
            await self._scenarios_read(project, seen, when)
            project.new_scope = False
        finally:
            project.busy = False

    def _unreadable(self, project: _Project, error: DSSError) -> None:
        """Without the right to read a project we are blind there: nothing is gone, and its polls rest."""
        project.failures += 1
        if error.transient:  # soon again: what one bad answer hides must not wait for a whole interval
            project.due = min(project.due, project.read_at + 2.0 ** min(project.failures, 10))
        if project.failures == 1:
            self._state.failed("scenario_list_failed", error, project=project.row.project)
        if isinstance(error, DSSForbidden) and not project.blind:
            project.blind = True
            self._state.schedule.rest(project.row.project)

    async def _readable(self, project: _Project) -> None:
        if project.failures:
            self._state.log.info("scenario_list_recovered", project=project.row.project, failures=project.failures)
        project.failures = 0
        if project.blind:
            project.blind = False
            await self._state.schedule.resume(project.row.project)

    async def _scenarios_read(self, project: _Project, seen: ParsedList[ListedScenario], when: When) -> None:
        state, schedule = self._state, self._state.schedule
        mine = {key.scenario: row for key, row in self._gone.items() if key.project == project.row.project}
        mine |= {one.key.scenario: one.row for one in schedule.of_project(project.row.project)}
        now, pace = state.clock.monotonic(), state.node.watch.discovery_interval.total_seconds()
        full = now - project.counted_at >= pace / 2
        if full:
            project.counted_at = now

        def counts(row: ScenarioRow) -> bool:
            return full or self._not_found(row)

        changed = compare_scenarios(project.row, mine, seen, state.scenario_in_scope, counts, when)
        changed = [self._confirmed_missing(row) for row in changed]
        worth = [row for row in changed if worth_writing(row, mine.get(row.key.scenario), self._pending(row), when)]
        expected = [_Expected(row.key, self._expect(row, when.dss_now)) for row in changed]
        await state.write(_write, worth, [one for one in expected if one.change != Expectation()], when.now)
        changes = {one.key: one.change for one in expected}
        # What was not written is not remembered either: memory must not be fresher than the rows that rules judge by.
        for row in (mine | {row.key.scenario: row for row in worth}).values():
            if row.key in changes:
                self._apply(row, changes[row.key])
        for one in seen.items:
            self._flag(one)
        await self._give_up_missing()

    def _confirmed_missing(self, row: ScenarioRow) -> ScenarioRow:
        """DSS answered a poll with 404, and now its list agrees: that is enough."""
        if not row.missing or not self._not_found(row):
            return row
        return replace(row, missing=max(row.missing, MISSING_BEFORE_GONE))

    def _not_found(self, row: ScenarioRow) -> bool:
        one = self._state.schedule.watched.get(row.key)
        return one is not None and one.not_found

    def _pending(self, row: ScenarioRow) -> tuple[datetime, ...]:
        one = self._state.schedule.watched.get(row.key)
        return one.pending if one else ()

    def _expect(self, row: ScenarioRow, dss_now: datetime) -> Expectation:
        return expect(self._pending(row), row, dss_now)

    def _apply(self, row: ScenarioRow, change: Expectation) -> None:
        schedule = self._state.schedule
        one = schedule.watched.get(row.key)
        if row.gone_at is not None:
            self._gone[row.key] = row
            schedule.remove(row.key)
            return
        if one is None:
            self._gone.pop(row.key, None)
            one = ScenarioState(row, pending=change.new)
            schedule.add(one)
            self._show(one)
            return
        one.pending = tuple(sorted({*one.pending, *change.new} - set(change.withdrawn)))
        # What others wrote while the list was on its way stays.
        schedule.update(one, replace(row, **{name: getattr(one.row, name) for name in _OF_OTHERS}))

    def _flag(self, seen: ListedScenario) -> None:
        """The list's running flag: in place of the sweep, or beside it as a reason for one poll."""
        schedule = self._state.schedule
        one = schedule.watched.get(seen.key)
        if one is None:
            return
        if schedule.sighting is not Reason.SWEEP:
            schedule.sight(one, seen.running)
        elif seen.running is not None and one.sighted is None and not one.open_runs:
            schedule.nudge(one, Reason.FLAGS)

    # --- what is gone ------------------------------------------------------------------------------------------------

    async def _give_up_missing(self) -> None:
        """Give up what lists have lacked for long, unless it is so much that the lists must be wrong."""
        async with self._giving_up:
            await self._judge_missing()

    async def _judge_missing(self) -> None:
        schedule = self._state.schedule
        lost = [project.row for project in self._projects.values() if project.row.missing >= MISSING_BEFORE_GONE]
        counts = {row.project: row.missing for row in lost}
        missing = [
            (one, max(one.row.missing, counts.get(one.key.project, 0)))
            for one in schedule.watched.values()
            if one.row.missing >= MISSING_BEFORE_GONE or one.key.project in counts
        ]
        if not missing and not lost:
            self._held_back = False
            return
        if may_go([(one.key, count) for one, count in missing], len(schedule.watched)):
            await self._give_up([one for one, _ in missing], lost, gone=True)
        elif not self._held_back:
            self._held_back = True
            self._state.log.warning(
                "many_scenarios_missing", missing=len(missing), watched=len(schedule.watched), kept=True
            )

    async def _give_up(
        self, out: Sequence[ScenarioState], projects: Sequence[ProjectRow], *, gone: bool = False
    ) -> None:
        """Watch these no longer. ``gone``: DSS has them no more, so that their open runs are over."""
        if not out and not projects:
            return
        state, now = self._state, self._state.clock.now()
        rows = [replace(one.row, gone_at=now) for one in out]
        over = [self._over(one) for one in out if gone and one.open_runs]
        withdrawn = [_Expected(one.key, Expectation(withdrawn=one.pending)) for one in out if one.pending]
        gone_projects = [replace(row, gone_at=now) for row in projects]
        await state.write(_write, rows, withdrawn, now, gone_projects, over)
        if over:
            state.given.ring()
        for row in rows:
            self._gone[row.key] = row
            state.schedule.remove(row.key)
        for project in gone_projects:
            self._projects.pop(project.project, None)
            state.schedule.suspended.discard(project.project)
            self._gone_projects[project.project] = project
        state.log.info("scenarios_removed", scenarios=len(rows), projects=[row.project for row in gone_projects])

    def _over(self, one: ScenarioState) -> Poll:
        """What ends the open runs of a scenario that is gone: a poll that shows nothing."""
        state, now = self._state, self._state.now()
        sight = PollResult(
            one.key,
            one.row.facts,
            seen=(),
            reaches=None,
            whole=True,
            advances=True,
            now=now,
            earliest=now,
            detected_at=state.clock.now(),
            horizon=now,
            late_before=None,
            fresh_from=now,
            scenario_url=one.key.url(state.node.url),
            gone=True,
        )
        return Poll(
            sight, state.clock.now(), Reason.FLAGS.value, (), state.given.wants_details, state.given.duration_buckets
        )


_OF_OTHERS = ("watched_since", "watermark", "cursor", "polled_at", "last_end", "last_outcome", "follows", "backfilled")


def _write(
    connection: Connection,
    changed: Sequence[ScenarioRow],
    expected: Iterable[_Expected],
    now: datetime,
    projects: Sequence[ProjectRow] = (),
    over: Sequence[Poll] = (),
) -> None:
    """One list in one transaction."""
    scenarios.put_scenarios(connection, changed)
    scenarios.put_projects(connection, projects)
    record_polls(connection, over)
    expected = list(expected)
    withdrawn = [(one.key, at, "withdrawn") for one in expected for at in one.change.withdrawn]
    starts.close_starts(connection, withdrawn, now)
    starts.expect_starts(connection, [(one.key, at) for one in expected for at in one.change.new], now)
