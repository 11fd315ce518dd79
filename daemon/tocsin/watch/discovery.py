"""Discovery: reads the lists of projects and scenarios, and keeps the store and the schedule in step with them.

Lists are read evenly spread over ``discovery_interval``; while the sweep is not trusted their running flags tell what
runs, and they are read as often as the budget allows. What cannot be read counts as neither there nor missing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from math import inf

from tocsin.dss import DSSError, DSSForbidden
from tocsin.kit.backoff import Backoff
from tocsin.model.run import Run, ScenarioKey
from tocsin.store import Connection, runs, scenarios, starts
from tocsin.store.scenarios import ProjectRow, ScenarioRow
from tocsin.watch.cadence import Rank, Reason, ScenarioState
from tocsin.watch.circuit import Circuit
from tocsin.watch.diff import Poll
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.read import ListedProject, ListedScenario, ParsedList, read_projects, read_scenarios
from tocsin.watch.record import record_polls
from tocsin.watch.state import NodeState

_FLAGS_SHARE = 0.6  # of the budget, for lists in place of sweeps
_SOONEST_PROJECTS = 30.0
_SOONEST = 5.0  # seconds between two lists of one project, however often it is nudged
_LIST_RETRY = Backoff(2, 1024)

_MISSING_BEFORE_GONE = 3  # complete lists in a row must lack something before it is gone
_MISSING_FOR_SURE = 288  # after a day of lists that agree, even a fifth of a node may be gone
_TOO_MUCH = 5  # a fifth
_WRITE_EVERY = timedelta(minutes=1)  # a status that says nothing new is not written more often
_SAME_START = timedelta(seconds=30)  # `nextRun` is approximate: so near it is the same start
_PAST = timedelta(minutes=10)
_FORGOTTEN = timedelta(days=7)  # what neither came nor was evaluated in so long will not be
_OF_POLLS = ("watched_since", "watermark", "cursor", "polled_at", "last_end", "last_outcome", "follows", "backfilled")


@dataclass(frozen=True, slots=True)
class ListTime:
    """When a list was begun, on both clocks, and since when newcomers count; None: since their project does."""

    now: datetime
    dss_now: datetime
    newcomers_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StartChanges:
    """How a list changes the expected starts of one scenario."""

    new: tuple[datetime, ...] = ()
    withdrawn: tuple[datetime, ...] = ()


def compare_projects(
    known: Mapping[str, ProjectRow],
    parsed: ParsedList[ListedProject],
    node: str,
    in_scope: Callable[[str], bool],
    since: Callable[[ListedProject], datetime],
) -> list[ProjectRow]:
    """The rows of projects that change. ``since`` tells from when on a new project counts."""
    changed: list[ProjectRow] = []
    items = {project.key: project for project in parsed.items if in_scope(project.key)}
    for key, project in items.items():
        row = known.get(key)
        if row is None or row.gone_at is not None:
            newcomer = project if row is None else replace(project, created=None)
            changed.append(ProjectRow(node, key, project.name, since(newcomer)))
        elif row.missing or row.name != project.name:
            changed.append(replace(row, name=project.name, missing=0))
    if not parsed.invalid:
        absent = [row for key, row in known.items() if key not in items and row.gone_at is None]
        changed += [replace(row, missing=row.missing + 1) for row in absent]
    return changed


def compare_scenarios(
    project: ProjectRow,
    known: Mapping[str, ScenarioRow],
    parsed: ParsedList[ListedScenario],
    in_scope: Callable[[str, Sequence[str]], bool],
    counts: Callable[[ScenarioRow], bool],
    when: ListTime,
) -> list[ScenarioRow]:
    """The rows of a project's scenarios as its list has them: all that are listed in scope, and those missing now,
    once more if ``counts`` says so: lists soon after another say nothing new."""
    rows: list[ScenarioRow] = []
    items = {scenario.key.scenario: scenario for scenario in parsed.items}
    for id_, scenario in items.items():
        row = known.get(id_)
        if not in_scope(id_, scenario.tags):
            if row is not None and row.gone_at is None:
                rows.append(replace(row, gone_at=when.now, tags=scenario.tags))
            continue
        since = when.newcomers_since or project.in_scope_since
        if row is None:
            row = ScenarioRow(scenario.key, scenario.name, (), None, None, None, (), watched_since=since)
        elif row.gone_at is not None:
            row = replace(row, gone_at=None, backfilled=False, watched_since=max(row.watched_since, since))
        listed = {name: getattr(scenario, name) for name in ("name", "tags", "type", "run_as", "next_run")}
        active = row.active if scenario.active is None else scenario.active
        rows.append(replace(row, **listed, active=active, status_read_at=when.now, missing=0))
    if not parsed.invalid:
        absent = [row for id_, row in known.items() if id_ not in items and row.gone_at is None and counts(row)]
        rows += [replace(row, missing=row.missing + 1) for row in absent]
    return rows


def worth_writing(row: ScenarioRow, written: ScenarioRow | None, pending: Iterable[datetime], when: ListTime) -> bool:
    """Whether a list's row says more than the last one; an overdue start waits for any status read after it."""
    read_at = written.status_read_at if written else None
    if read_at is None or replace(row, status_read_at=read_at) != written:
        return True
    return when.now - read_at >= _WRITE_EVERY or any(at <= when.dss_now for at in pending)


def expected_changes(pending: Collection[datetime], row: ScenarioRow, dss_now: datetime) -> StartChanges:
    """An announced start is expected; what was announced for the future and is no longer is withdrawn. A start that is
    over stays until a run meets it, unless the scenario was switched off or is gone."""
    if row.active is False or row.gone_at is not None:
        return StartChanges(withdrawn=tuple(pending))
    start = row.next_run
    same = [at for at in pending if start is not None and abs(at - start) <= _SAME_START]
    withdrawn = tuple(at for at in pending if at < dss_now - _FORGOTTEN or (at > dss_now and at not in same))
    if start is None or same or start < dss_now - _PAST:
        return StartChanges(withdrawn=withdrawn)
    return StartChanges((start,), withdrawn)


def may_give_up(missing: Collection[int], watched: int) -> bool:
    """Whether scenarios that so many lists lacked, one number each, may be given up. Not if over a fifth of the node
    vanishes at once: then the node, its rights or its answers are at fault."""
    sudden = sum(count < _MISSING_FOR_SURE for count in missing)
    return sudden <= 1 or sudden * _TOO_MUCH <= watched


@dataclass(slots=True, eq=False)
class _List:
    """A list to be read. Monotonic seconds."""

    due: float = 0.0
    read_at: float = -inf
    busy: bool = False
    failures: int = 0  # in a row

    def nudge(self, soonest: float) -> None:
        """Read it soon, but not sooner than so many seconds after the last time."""
        self.due = min(self.due, self.read_at + soonest)


@dataclass(slots=True, eq=False, kw_only=True)
class _Project(_List):
    """A project and the list of its scenarios."""

    row: ProjectRow
    counted_at: float = -inf  # the last list that counted what is missing
    blind: bool = False  # reading it is refused
    new_scope: bool = False  # what it shows first came into scope by configuration


class Discovery:
    """The source of lists, which also finds out what is gone."""

    def __init__(self, state: NodeState, circuit: Circuit) -> None:
        self._state = state
        self._circuit = circuit
        self.projects: dict[str, _Project] = {}
        self._gone_projects: dict[str, ProjectRow] = {}
        self._gone: dict[ScenarioKey, ScenarioRow] = {}
        self._list = _List()  # of the projects
        self._held_back = False
        self._scope = repr((state.node.projects, state.node.scenarios))
        self._giving_up = asyncio.Lock()

    @property
    def interval(self) -> float:
        """Seconds between two lists of one project."""
        watch = self._state.node.watch
        longest = watch.discovery_interval.total_seconds()
        if self._state.schedule.hints_from is Reason.SWEEP:
            return longest
        affordable = len(self.projects) / (_FLAGS_SHARE * self._state.budget.limit)
        return min(longest, max(watch.sweep_interval.total_seconds(), affordable))

    @property
    def complete(self) -> bool:
        """Whether every project was read since the start, or reading it was refused."""
        return all(project.read_at > -inf for project in self.projects.values())

    def jobs(self, now: float) -> Iterator[NextJob]:
        idle = (list_ for list_ in (self._list, *self.projects.values()) if not list_.busy)
        if (first := min(idle, key=lambda list_: list_.due, default=None)) is not None:
            yield NextJob(Rank.DISCOVERY, first.due, partial(self._start, first))

    def _start(self, list_: _List, permit: Permit) -> Coroutine[object, object, None]:
        list_.busy = True
        return self._read_project(list_, permit) if isinstance(list_, _Project) else self.read_projects(permit)

    def nudge(self, project: str) -> bool:
        """Read a project's list soon; False if the project is not known."""
        known = self.projects.get(project)
        if known is not None:
            known.nudge(_SOONEST)
        return known is not None

    def unknown_scenario(self, project: str) -> None:
        """The sweep shows a scenario that is not known: new, or out of scope."""
        if self._state.in_scope(project) and not self.nudge(project):
            self._list.nudge(_SOONEST_PROJECTS)

    def respread(self) -> None:
        """Flags took the place of the sweep or gave it back: the lists have another interval now."""
        now, interval = self._state.clock.monotonic(), self.interval
        for number, project in enumerate(self.projects.values()):
            spread = interval * number / max(1, len(self.projects))
            project.due = min(project.due, max(project.read_at + interval, now + spread))

    async def load(self) -> None:
        """Bring what the store knows into memory, and give up what is no longer in scope."""
        state, read = self._state, self._state.store.read
        projects = await read(scenarios.load_projects, state.name)
        known = await read(scenarios.load_scenarios, state.name)
        pending = await read(starts.pending_starts, state.name)
        open_runs: dict[ScenarioKey, list[Run]] = {}
        for row in await read(runs.open_runs, state.name):
            open_runs.setdefault(row.run.scenario, []).append(row.run)
        rescoped = state.row.scope is not None and state.row.scope != self._scope
        self._gone_projects = {row.project: row for row in projects if row.gone_at is not None}
        self.projects = {row.project: _Project(row=row, new_scope=rescoped) for row in projects if row.gone_at is None}
        self._gone = {row.key: row for row in known if row.gone_at is not None}
        live = [row for row in known if row.gone_at is None]
        watched = [
            ScenarioState(row, tuple(open_runs.get(row.key, ())), tuple(pending.get(row.key, ()))) for row in live
        ]
        await state.schedule.backfill(watched, new=True)
        rows = [project.row for key, project in self.projects.items() if not state.in_scope(key)]
        await self._give_up([item for item in watched if not state.watches(item.key, item.row.tags)], rows)

    async def set_back(self, by: timedelta) -> None:
        """DSS's clock was: what seems to be watched since a moment that is yet to come is watched since before."""
        state, now = self._state, self._state.now()
        projects = [project for project in self.projects.values() if project.row.in_scope_since > now]
        for project in projects:
            project.row = replace(project.row, in_scope_since=project.row.in_scope_since - by)
        watched = [scenario for scenario in state.schedule.scenarios.values() if scenario.row.watched_since > now]
        for scenario in watched:
            scenario.row = replace(scenario.row, watched_since=scenario.row.watched_since - by)
        rows = [scenario.row for scenario in watched]
        await state.store.write(_write, rows, {}, state.clock.now(), [project.row for project in projects])

    async def read_projects(self, permit: Permit) -> None:
        """Read the list of projects; also the probe of a node."""
        watch, client = self._state.node.watch, self._state.client
        async with self._reading(self._list, watch.discovery_interval.total_seconds(), "project_list_failed"):
            raw = await permit.ask(client.list_projects_raw)
            self._list.failures = 0
            await self._circuit.alive()
            await self._projects_read(read_projects(raw))

    @asynccontextmanager
    async def _reading(self, list_: _List, interval: float, failed: str, **place: str) -> AsyncIterator[None]:
        """Note when the list is read, when it is due again, and whether reading it failed."""
        list_.busy, list_.read_at = True, self._state.clock.monotonic()
        list_.due = list_.read_at + interval  # or sooner if nudged
        try:
            yield
        except DSSError as error:
            list_.failures += 1
            if error.transient or not place:  # what one bad answer hides must not wait for a whole interval
                list_.nudge(_LIST_RETRY.pause(list_.failures))
            if list_.failures == 1:
                self._state.note_failure(failed, error, **place)
            if isinstance(error, DSSForbidden) and isinstance(list_, _Project) and not list_.blind:
                list_.blind = True
                self._state.schedule.suspend(list_.row.project)
        finally:
            list_.busy = False

    async def _projects_read(self, parsed: ParsedList[ListedProject]) -> None:
        state, node, dss_now = self._state, self._state.row, self._state.now()
        state.count_invalid("list_projects", parsed)

        def since(project: ListedProject) -> datetime:
            """A new project came into scope after the last list, unless it is known to be older."""
            if node.last_discovery_at is None:
                return node.watched_since
            last = min(node.last_discovery_at + state.dss_clock.offset, dss_now)
            older = project.created is not None and project.created < last
            return dss_now if older or node.scope != self._scope else last

        known = {key: project.row for key, project in self.projects.items()} | self._gone_projects
        changed = compare_projects(known, parsed, state.name, state.in_scope, since)
        await state.store.write(scenarios.put_projects, changed)
        for row in changed:
            self._gone_projects.pop(row.project, None)
            project = self.projects.get(row.project)
            if project is None:
                self.projects[row.project] = _Project(row=row)
            else:
                project.row = replace(row, in_scope_since=project.row.in_scope_since)
        await state.save({"last_discovery_at": state.clock.now(), "scope": self._scope})
        await self._give_up_missing()

    async def _read_project(self, project: _Project, permit: Permit) -> None:
        """Read a project's list. Without the right to, we are blind there: nothing is gone, and no poll is sent."""
        state, key = self._state, project.row.project
        when = ListTime(state.clock.now(), state.now(), state.now() if project.new_scope else None)
        async with self._reading(project, self.interval, "scenario_list_failed", project=key):
            raw = await permit.ask(state.client.get_project(key).list_scenarios_raw)
            parsed = read_scenarios(raw, state.name, key)
            state.count_invalid("list_scenarios", parsed, project=key)
            if project.failures:
                state.log.info("scenario_list_recovered", project=key, failures=project.failures)
            project.failures = 0
            if project.blind:
                project.blind = False
                await state.schedule.resume(key)
            await self._scenarios_read(project, parsed, when)
            project.new_scope = False

    async def _scenarios_read(self, project: _Project, parsed: ParsedList[ListedScenario], when: ListTime) -> None:
        state, schedule, now = self._state, self._state.schedule, self._state.clock.monotonic()
        known = {key.scenario: row for key, row in self._gone.items() if key.project == project.row.project}
        known |= {scenario.key.scenario: scenario.row for scenario in schedule.of_project(project.row.project)}
        full = now - project.counted_at >= state.node.watch.discovery_interval.total_seconds() / 2
        if full:
            project.counted_at = now

        def not_found(row: ScenarioRow) -> bool:
            scenario = schedule.scenarios.get(row.key)
            return scenario is not None and scenario.not_found

        changed = compare_scenarios(
            project.row, known, parsed, state.scenario_in_scope, lambda row: full or not_found(row), when
        )
        # DSS answered a poll with 404, and now its list agrees: that is enough.
        changed = [
            replace(row, missing=max(row.missing, _MISSING_BEFORE_GONE)) if row.missing and not_found(row) else row
            for row in changed
        ]
        pending = {row.key: scenario.pending for row in changed if (scenario := schedule.scenarios.get(row.key))}
        start_changes = {row.key: expected_changes(pending.get(row.key, ()), row, when.dss_now) for row in changed}
        worth = [
            row for row in changed if worth_writing(row, known.get(row.key.scenario), pending.get(row.key, ()), when)
        ]
        await state.store.write(_write, worth, start_changes, when.now)
        # What was not written is not remembered either: memory must not be fresher than the rows that rules go by.
        for row in (known | {row.key.scenario: row for row in worth}).values():
            if row.key in start_changes:
                self._apply(row, start_changes[row.key])
        for listed in parsed.items:
            scenario = schedule.scenarios.get(listed.key)
            if scenario is None:
                continue
            if schedule.hints_from is not Reason.SWEEP:
                schedule.hint_running(scenario, listed.running)
            elif listed.running is not None and scenario.running_hint is None and not scenario.open_runs:
                schedule.nudge(scenario, Reason.FLAGS)  # beside the sweep, a reason for one poll
        await self._give_up_missing()

    def _apply(self, row: ScenarioRow, change: StartChanges) -> None:
        schedule = self._state.schedule
        scenario = schedule.scenarios.get(row.key)
        if row.gone_at is not None:
            self._gone[row.key] = row
            schedule.remove(row.key)
        elif scenario is None:
            self._gone.pop(row.key, None)
            scenario = ScenarioState(row, pending=change.new)
            schedule.add(scenario)
            if schedule.hints_from is Reason.SWEEP:  # what the last sweep said about it counts
                schedule.hint_running(scenario, schedule.swept.get((row.key.project, row.key.scenario)))
        else:
            scenario.pending = tuple(sorted({*scenario.pending, *change.new} - set(change.withdrawn)))
            # What polls wrote while the list was in flight stays.
            schedule.update(scenario, replace(row, **{name: getattr(scenario.row, name) for name in _OF_POLLS}))

    async def _give_up_missing(self) -> None:
        """Give up what lists have lacked for long, unless it is so much that the lists must be wrong."""
        schedule = self._state.schedule
        async with self._giving_up:
            lost = [project.row for project in self.projects.values() if project.row.missing >= _MISSING_BEFORE_GONE]
            counts = {row.project: row.missing for row in lost}
            missing = {
                scenario: max(scenario.row.missing, counts.get(scenario.key.project, 0))
                for scenario in schedule.scenarios.values()
                if scenario.row.missing >= _MISSING_BEFORE_GONE or scenario.key.project in counts
            }
            if not missing and not lost:
                self._held_back = False
            elif may_give_up(missing.values(), len(schedule.scenarios)):
                await self._give_up(list(missing), lost, gone=True)
            elif not self._held_back:
                self._held_back = True
                watched = len(schedule.scenarios)
                self._state.log.warning("many_scenarios_missing", missing=len(missing), watched=watched, kept=True)

    async def _give_up(self, out: list[ScenarioState], projects: list[ProjectRow], *, gone: bool = False) -> None:
        """Watch these no longer. ``gone``: DSS has them no more, so that their open runs are over."""
        if not out and not projects:
            return
        state, deps, now, dss_now = self._state, self._state.deps, self._state.clock.now(), self._state.now()
        rows = [replace(scenario.row, gone_at=now) for scenario in out]
        over = []
        for key, row in ((scenario.key, scenario.row) for scenario in out if gone and scenario.open_runs):
            over.append(Poll(  # which shows nothing, and ends them
                key, row.facts, reason=Reason.FLAGS, begun_at=now, wants_details=deps.wants_details,
                bounds=deps.duration_buckets, now=dss_now, earliest=dss_now, detected_at=now, horizon=dss_now,
                fresh_from=dss_now, scenario_url=key.url(state.node.url), gone=True,
            ))  # fmt: skip
        withdrawn = {scenario.key: StartChanges(withdrawn=scenario.pending) for scenario in out}
        gone_projects = [replace(row, gone_at=now) for row in projects]
        await state.store.write(_write, rows, withdrawn, now, gone_projects, over)
        if over:
            deps.wake()
        for row in rows:
            self._gone[row.key] = row
            state.schedule.remove(row.key)
        for project in gone_projects:
            self.projects.pop(project.project, None)
            state.schedule.suspended.discard(project.project)
            self._gone_projects[project.project] = project
        state.log.info("scenarios_removed", scenarios=len(rows), projects=[row.project for row in gone_projects])


def _write(
    connection: Connection,
    changed: Sequence[ScenarioRow],
    changes: Mapping[ScenarioKey, StartChanges],
    now: datetime,
    projects: Sequence[ProjectRow] = (),
    over: Sequence[Poll] = (),
) -> None:
    """One list in one transaction."""
    scenarios.put_scenarios(connection, changed)
    scenarios.put_projects(connection, projects)
    record_polls(connection, over)
    withdrawn = [(key, at, "withdrawn") for key, change in changes.items() for at in change.withdrawn]
    starts.close_starts(connection, withdrawn, now)
    starts.expect_starts(connection, [(key, at) for key, change in changes.items() for at in change.new], now)
