"""A poll: one read of a scenario's last runs, grown until it reaches what is known, then one transaction.

The only source of truth about runs. A poll that could not be completed changes nothing and is repeated. Each run whose
details are due gets a row of them, even if it only says what could not be read: no notification waits for nothing.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from itertools import count

from tocsin.dss import DSSError, DSSForbidden, DSSNotFound, DSSReplyTooLarge, wire
from tocsin.dss.fields import get_object
from tocsin.dss.wire import Raw
from tocsin.kit.backoff import Backoff
from tocsin.kit.strings import storable
from tocsin.model.event import EventName
from tocsin.model.run import Details, DetailsLevel, Run, RunKey, ScenarioKey
from tocsin.model.scenario import LAUNCH_DELAY, MailReporter
from tocsin.store import Connection, runs
from tocsin.store.scenarios import PolledScenario, put_follows
from tocsin.watch import read
from tocsin.watch.cadence import Rank, Reason, ScenarioState
from tocsin.watch.diff import Poll
from tocsin.watch.discovery import Discovery
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.record import PollOutcome, record_polls
from tocsin.watch.schedule import NextPoll
from tocsin.watch.state import NodeState
from tocsin.watch.sweep import Sweep

_LIMITS = (5, 25, 125, 625)
_BASELINE_LIMITS = (10, 125, 625)  # usual durations want some runs to begin with
_SHORTEST_CUT = 5  # no server cuts its lists to fewer runs
_DAY = timedelta(days=1)
_DAYS = 3 * _DAY  # what one request by date asks for
_SETTLED = 5
_UNREADABLE = 3  # polls that could not read a run: the next ones do not try again by reading further back
_BLIND_FOR = 3  # intervals of ``max_poll_interval`` without a poll make what is found then late

_DETAILS_RETRY = Backoff(2)
_DETAILS_TRIES = 6
_BEHIND = 1.0  # seconds for which a start waits behind the details of an earlier end
_DETAILS_LOADED = 10_000
_LOG_BYTES = 64 * 1024

# Runs, and the moment since which every run is among them; None: DSS has no others.
_Runs = tuple[read.ParsedList[read.ListedRun], datetime | None]


class Poller:
    """The source of polls; the schedule says what is due and when."""

    def __init__(self, state: NodeState, discovery: Discovery, details: "DetailsReader", sweep: Sweep) -> None:
        self._state = state
        self._discovery, self._details, self._sweep = discovery, details, sweep
        self._asked: set[ScenarioKey] = set()  # definitions that were read to learn whom a scenario follows
        # Where the runs' copies lack mail reporters: for which run's state the definition was read, and what it said.
        self._defined: dict[ScenarioKey, tuple[int, tuple[MailReporter, ...] | None]] = {}

    def jobs(self, now: float) -> Iterator[NextJob]:
        for poll in self._state.schedule.polls(now):
            yield NextJob(poll.rank, poll.due, partial(self._start, poll))

    def _start(self, poll: NextPoll, permit: Permit) -> Coroutine[object, object, None]:
        self._state.schedule.begin(poll, self._state.budget.limit)
        return self._poll(poll.scenario, poll.reason, permit)

    async def _poll(self, scenario: ScenarioState, reason: Reason, permit: Permit) -> None:
        state, deps = self._state, self._state.deps
        state.metrics.polls.labels(state.name, reason.value).inc()
        begun, begun_at = state.clock.now(), state.clock.monotonic()
        try:
            poll = await self._read(scenario, reason, begun, permit)
            reporters = await self._mail_reporters(scenario, poll, permit) if deps.wants_mail_reporters() else None
            poll = replace(poll, pending=scenario.pending)  # discovery may have changed it meanwhile
            if reporters is not None:
                new = hash(reporters) != scenario.mail_reporters
                poll = replace(poll, mail_reporters=reporters, put_mail_reporters=new)
            outcome = await state.store.write_each(deps.record or record_polls, poll)
            if outcome.polled is not None:
                scenario.mail_reporters = scenario.mail_reporters if reporters is None else hash(reporters)
                self._recorded(scenario, poll, outcome, outcome.polled, begun_at)
            if reason is Reason.EXPECTED and scenario.pending:
                # Whether it is still active and scheduled decides whether it missed its start.
                self._discovery.nudge(scenario.key.project)
            await self._sweep.check(poll)
            await self._learn_follows(scenario, poll, permit)
        except DSSError as error:
            scenario.failures += 1
            scenario.forbidden, scenario.not_found = isinstance(error, DSSForbidden), isinstance(error, DSSNotFound)
            if scenario.failures == 1:
                state.note_failure("poll_failed", error, **scenario.place)
            if scenario.not_found:
                self._discovery.nudge(scenario.key.project)
        except Exception:  # one poll is one unit of work: the queue logs it, and it is tried again later
            scenario.failures += 1
            raise
        finally:
            state.schedule.finished(scenario)

    async def _read(self, scenario: ScenarioState, reason: Reason, begun: datetime, permit: Permit) -> Poll:
        state, row, now = self._state, scenario.row, self._state.now()
        horizon = now - state.node.watch.backfill.max_age
        parsed, reaches = await self._list(scenario, permit, now, horizon)
        state.count_invalid("get_last_runs", parsed, **scenario.place)
        found, unknown = await self._read_unlisted(scenario, parsed.items, permit, now)
        seen = tuple(read.newest_first([*parsed.items, *found]))
        if len(scenario.unreadable) > _LIMITS[-1]:
            scenario.unreadable.clear()
        for item in parsed.unreadable:
            scenario.unreadable[item] = scenario.unreadable.get(item, 0) + 1
        # What the last poll wrote as ended need not be compared again.
        fresh = [run.run.start for run in seen if run.failed_reporters or _hash(run.run) not in scenario.settled]
        polled_ago = None if scenario.polled_at is None else state.clock.monotonic() - scenario.polled_at
        return Poll(
            scenario.key,
            row.facts,
            seen,
            reason=reason.value,
            begun_at=begun,
            wants_details=state.deps.wants_details,
            bounds=state.deps.duration_buckets,
            pending=scenario.pending,
            reaches=reaches,
            whole=not parsed.invalid,
            advances=not parsed.invalid or _known_unreadable(scenario, parsed),
            unknown=unknown,
            now=now,
            earliest=state.dss_clock.earliest(),
            detected_at=state.clock.now(),
            horizon=horizon,
            late_before=late_before(
                now,
                state.row.resumed_at,
                None if polled_ago is None else timedelta(seconds=polled_ago),
                None if row.polled_at is None else state.clock.now() - row.polled_at,
                max(_BLIND_FOR * state.node.watch.max_poll_interval, timedelta(hours=1)),
            ),
            set_back=state.dss_clock.set_back,
            fresh_from=min(fresh, default=max(now, seen[0].run.start + datetime.resolution) if seen else now),
            scenario_url=scenario.key.url(state.node.url),
        )

    async def _list(self, scenario: ScenarioState, permit: Permit, now: datetime, horizon: datetime) -> _Runs:
        """Ask for more and more runs until they reach back to what the last poll had seen."""
        state, bound = self._state, now
        last_runs = state.client.get_project(scenario.key.project).get_scenario(scenario.key.scenario).get_last_runs_raw
        parsed: read.ParsedList[read.ListedRun] = read.ParsedList(())
        reaches: datetime | None = None
        for limit in _LIMITS if scenario.row.cursor else _BASELINE_LIMITS:
            try:
                raw = await permit.ask(partial(last_runs, limit))
            except DSSReplyTooLarge:
                bound = self._bound(scenario, now, horizon)
                break  # days hold fewer
            bound = self._bound(scenario, now, horizon)  # not before: this answer may show that the clock was set back
            parsed = read.read_runs(raw, scenario.key, now, mail_reporters=state.deps.wants_mail_reporters())
            oldest = parsed.items[-1].run.start if parsed.items else None
            all_history = len(raw) < limit
            reaches = None if all_history else oldest
            # A longer list of what is known to be unreadable says nothing new.
            done = _known_unreadable(scenario, parsed) if oldest is None else oldest < bound
            if done or (all_history and (len(raw) < _SHORTEST_CUT or oldest is None or oldest <= bound)):
                return parsed, reaches
            if all_history:
                break
        return await self._list_by_date(scenario, permit, now, bound, (parsed, reaches))

    def _bound(self, scenario: ScenarioState, now: datetime, horizon: datetime) -> datetime:
        """Runs that started before it were handled by earlier polls, but for those still open."""
        state, row = self._state, scenario.row
        since = row.cursor or row.watched_since - state.dss_clock.set_back
        if scenario.polled_at is not None:
            ago = state.clock.monotonic() - scenario.polled_at
        else:  # a poll of an earlier life that seems to come yet was sent before our clock was set back
            ago = abs(state.clock.now() - (row.polled_at or state.clock.now())).total_seconds()
        # Where either clock was set back, runs later than the last poll may seem older than its newest.
        last_poll = state.dss_clock.earliest(ago)
        return max(horizon, min([since, now, last_poll, *(run.start for run in scenario.open_runs)]))

    async def _list_by_date(
        self, scenario: ScenarioState, permit: Permit, now: datetime, bound: datetime, found: _Runs
    ) -> _Runs:
        """The list ended before it reached what is known: the history was cleared, or DSS gives no longer lists."""
        key, (parsed, _) = scenario.key, found
        by_date = self._state.client.get_project(key.project).get_scenario(key.scenario).get_runs_by_date_raw
        oldest = parsed.items[-1].run.start if parsed.items else now
        # Days are the server's, whose zone is unknown: one more on each side.
        day, last, days = (bound - _DAY).date(), (oldest + _DAY).date(), _DAYS
        raws: list[object] = []
        try:
            while day <= last:
                try:
                    raws += await permit.ask(partial(by_date, day, day + days))
                except DSSReplyTooLarge:
                    if days == _DAY:
                        raise
                    days = _DAY
                else:
                    day += days
        except DSSError as error:
            if error.transient or not parsed.items:
                raise
            self._state.note_failure("runs_by_date_failed", error, **scenario.place)
            return found
        older = read.read_runs(raws, key, now)
        known = {listed.run.key for listed in parsed.items}
        items = read.newest_first([*parsed.items, *(listed for listed in older.items if listed.run.key not in known)])
        unreadable = parsed.unreadable | older.unreadable
        return read.ParsedList(tuple(items), parsed.invalid + older.invalid, older.example, unreadable), bound

    async def _read_unlisted(
        self, scenario: ScenarioState, listed: Sequence[read.ListedRun], permit: Permit, now: datetime
    ) -> tuple[list[read.ListedRun], frozenset[tuple[str, datetime]]]:
        """The open runs that the list lacks, read by id: those that DSS still has, and those that it does not."""
        found: list[read.ListedRun] = []
        unknown: set[tuple[str, datetime]] = set()
        keys = {item.run.key for item in listed}
        for run in scenario.open_runs:
            if run.key in keys or run.start > now - LAUNCH_DELAY:
                continue
            request = wire.get_run(scenario.key.project, scenario.key.scenario, run.run_id)
            try:
                raw: Raw = await permit.ask(partial(self._state.client.perform, request))
            except DSSNotFound:
                unknown.add((run.run_id, run.start))
            except DSSError as error:  # then its absence from the lists must last
                self._state.note_failure("run_read_failed", error, **scenario.place)
            else:
                answer = read.read_runs([raw.get("scenarioRun")], scenario.key, now)
                found += [item for item in answer.items if item.run.key == run.key]
        return found, frozenset(unknown)

    async def _definition(self, scenario: ScenarioState, permit: Permit, rank: Rank | None = None) -> Raw:
        request = wire.get_scenario(scenario.key.project, scenario.key.scenario)
        definition: Raw = await permit.ask(lambda: self._state.client.perform(request), rank)
        return definition

    async def _learn_follows(self, scenario: ScenarioState, poll: Poll, permit: Permit) -> None:
        """Whom the scenario follows: as its last run's copy of the definition says, or else the definition itself."""
        follows = next((listed.follows for listed in poll.seen if listed.follows is not None), None)
        if follows is None and any(listed.run.trigger_type == read.FOLLOW for listed in poll.seen):
            if scenario.key in self._asked:
                return
            self._asked.add(scenario.key)
            try:
                follows = read.read_follows(await self._definition(scenario, permit), scenario.key.project)
            except DSSError:
                return  # a hint that cannot be had
        if follows is not None and follows != scenario.row.follows:
            await self._state.store.write(put_follows, scenario.key, follows)
            self._state.schedule.update(scenario, replace(scenario.row, follows=follows))

    async def _mail_reporters(
        self, scenario: ScenarioState, poll: Poll, permit: Permit
    ) -> tuple[MailReporter, ...] | None:
        """DSS's own mail reporters as the newest run's copy of the definition has them, or else the definition itself,
        read at the start and at the end of each run that makes events; None: not known."""
        for listed in poll.seen:
            if listed.mail_reporters is not None:
                return listed.mail_reporters
        asked, reporters = self._defined.get(scenario.key, (None, None))
        newest, since = poll.seen[0].run if poll.seen else None, scenario.row.cursor
        if newest is None or (newest.end is not None and newest.end < scenario.row.watched_since):
            return reporters
        makes_event = since is None or newest.start > since or scenario.open_runs or newest.end is None
        if not makes_event or asked == (run := hash((newest.key, newest.end))):
            return reporters
        try:
            reporters = read.read_mail_reporters(await self._definition(scenario, permit, Rank.DETAILS))
        except DSSError as error:
            self._state.note_failure("mail_reporters_failed", error, **scenario.place)
        self._defined[scenario.key] = (run, reporters)
        return reporters

    def _recorded(
        self, scenario: ScenarioState, poll: Poll, outcome: PollOutcome, polled: PolledScenario, begun_at: float
    ) -> None:
        state = self._state
        scenario.settled = tuple(_hash(listed.run) for listed in poll.seen[:_SETTLED] if listed.run.end)
        if scenario.failures:
            state.log.info("poll_recovered", **scenario.place, failures=scenario.failures)
        scenario.failures, scenario.forbidden, scenario.not_found = 0, False, False
        scenario.polled_at, scenario.open_runs = begun_at, outcome.open_runs
        scenario.pending = tuple(at for at in scenario.pending if at not in outcome.settled)
        differs = (scenario.running_hint is not None) != bool(scenario.open_runs)
        scenario.unconfirmed = scenario.unconfirmed + 1 if differs and scenario.differs_since <= begun_at else 0
        progress = {name: getattr(polled, name) for name in ("polled_at", "cursor", "last_end", "last_outcome")}
        state.schedule.update(scenario, replace(scenario.row, backfilled=True, **progress))
        for event in outcome.events:
            if not event.late and event.name is not EventName.REPORTER_FAILED:
                delay = event.detected_at + state.dss_clock.offset - event.time
                state.metrics.detection_delay.labels(state.name).observe(max(0.0, delay.total_seconds()))
        for run, need in outcome.details:
            state.log.debug("details_due", **scenario.place, run=run.run_id, reason=need.reason.value)
            self._details.request(run, log=need.level is DetailsLevel.LOG)
            self._details.read_running.discard(run)
        for event in outcome.events:
            if event.run and event.name is EventName.RUN_STARTED:
                self._details.run_started(event.run.key)
            elif event.run and event.run.key in self._details.read_running:
                self._details.read_running.remove(event.run.key)
                self._details.request(event.run.key, log=False)
        if any(event.name not in (EventName.RUN_STARTED, EventName.REPORTER_FAILED) for event in outcome.events):
            state.schedule.run_ended(scenario.key)
        if outcome.events and state.deps.record is None:
            state.deps.wake()


def _known_unreadable(scenario: ScenarioState, parsed: read.ParsedList[read.ListedRun]) -> bool:
    """Whether what cannot be read has been so for several polls, and will hardly change."""
    counts = [scenario.unreadable.get(item, 0) for item in parsed.unreadable]
    return bool(counts) and min(counts) >= _UNREADABLE


def _hash(run: Run) -> int:
    """A run's identity in little memory."""
    return hash((run.run_id, run.start))


def late_before(
    now: datetime, resumed_at: datetime | None, here: timedelta | None, ever: timedelta | None, long: timedelta
) -> datetime | None:
    """What happened before it happened in a downtime, or while nobody could poll (for ``long``); None: nothing did.

    The last poll was ``ever`` ago; ``here`` in this life, where None says: none yet, or none since the project can be
    read again."""
    if here is not None:
        return now if here > long else None
    if ever is None or resumed_at is None:
        return resumed_at
    return now if min(ever, now - resumed_at) > long else resumed_at


class DetailsReader:
    """The source of reads of run details: first error, steps, job ids, log tail.

    Notifications of an end wait for them, and those of the next start behind that end: then a second at most."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._heap: list[tuple[float, int, RunKey, bool, int]] = []  # when due, number, run, with its log, tries
        self._numbers = count()
        self._unread: set[RunKey] = set()
        self.read_running: set[RunKey] = set()  # open runs whose details were read, and will be old once they end
        self._behind: asyncio.Queue[tuple[float, RunKey]] = asyncio.Queue()  # until when which details are waited for

    async def load(self) -> None:
        """Take up what an earlier life left unread."""
        for row in await self._state.store.read(runs.details_due, self._state.name, _DETAILS_LOADED):
            self._push(0.0, row.run.key, log=True, tries=row.details_tries)  # the level is not stored

    async def take_planned(self) -> bool:
        """Take up what rules ask for of runs that go on; whether there was anything."""
        planned = set(await self._state.store.read(runs.details_due_while_running, self._state.name)) - self._unread
        for run in planned:
            self.read_running.add(run)
            self.request(run, log=False)
        return bool(planned)

    def request(self, run: RunKey, *, log: bool) -> None:
        self._push(self._state.clock.monotonic(), run, log=log)

    def run_started(self, started: RunKey) -> None:
        """The notification of this start is behind those of the scenario's earlier ends."""
        until = self._state.clock.monotonic() + _BEHIND
        for run in self._unread:
            if run.scenario == started.scenario and run.start < started.start:
                self._behind.put_nowait((until, run))

    async def release_late(self) -> None:
        """For ever: let ends go without their details where a start has waited behind them for long enough."""
        state = self._state
        while True:
            until, run = await self._behind.get()
            await asyncio.sleep(until - state.clock.monotonic())
            if run in self._unread:
                await state.store.write(runs.release_waiting, run, state.clock.now())
                state.deps.details_read()

    def jobs(self, now: float) -> Iterable[NextJob]:
        return [NextJob(Rank.DETAILS, self._heap[0][0], self._start)] if self._heap else ()

    def _start(self, permit: Permit) -> Coroutine[object, object, None]:
        _, _, run, log, tries = heappop(self._heap)
        return self._read(run, log, tries + 1, permit)

    def _push(self, due: float, run: RunKey, *, log: bool, tries: int = 0) -> None:
        self._unread.add(run)
        heappush(self._heap, (due, next(self._numbers), run, log, tries))

    async def _read(self, run: RunKey, log: bool, tries: int, permit: Permit) -> None:
        state, perform = self._state, self._state.client.perform
        (_, project, scenario), run_id = run.scenario, run.run_id
        try:
            raw: Raw = await permit.ask(lambda: perform(wire.get_run(project, scenario, run_id)))
            found = read.read_details(raw, run, state.clock.now())
            if found.problem is None and log:
                log_request = wire.get_run_log(project, scenario, run_id, tail=_LOG_BYTES)
                try:
                    text: str = await permit.ask(lambda: perform(log_request))
                except DSSError as error:  # where DSS has no log, the lines attached to the failed step serve
                    if error.transient:
                        raise
                    text = ""
                if text.strip():
                    found = replace(found, log_tail=storable(text, _LOG_BYTES))
        except (DSSError, ValueError) as error:  # DSS may use ids that no path can hold
            if tries < _DETAILS_TRIES and not isinstance(error, DSSNotFound):
                pause = _DETAILS_RETRY.pause(tries)
                await state.store.write(runs.plan_details, run, state.clock.now() + timedelta(seconds=pause), tries)
                self._push(state.clock.monotonic() + pause, run, log=log, tries=tries)
                return
            state.note_failure("details_failed", error, project=project, scenario=scenario, run=run_id)
            raw, found = {}, Details(run, state.clock.now(), problem=str(error))
        await state.store.write(_write_details, found, tries)
        self._unread.discard(run)
        state.deps.details_read()
        polled = state.schedule.scenarios.get(run.scenario)
        if polled is not None and read.read_failed_reporters(get_object(raw, "scenarioRun")):
            state.schedule.nudge(polled, Reason.RECENT)  # reporters may fail only after the poll that saw the end


def _write_details(connection: Connection, found: Details, tries: int) -> None:
    runs.put_details(connection, found)
    runs.plan_details(connection, found.run, None, tries)
