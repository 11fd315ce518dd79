"""A poll: one read of a scenario's last runs, grown until it reaches what is known, then one transaction.

The only source of truth about runs. Promises to commit only what it saw whole: a poll that could not be completed
leaves everything as it was and is tried again.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from tocsin.dss import DSSClient, DSSError, DSSForbidden, DSSNotFound, DSSReplyTooLarge, wire
from tocsin.model.event import Event, EventName
from tocsin.model.run import DetailsLevel, Run, RunKey, ScenarioKey
from tocsin.model.scenario import LAUNCH_DELAY, MailReporter
from tocsin.store.scenarios import put_follows
from tocsin.watch.cadence import Rank, Reason
from tocsin.watch.diff import PollResult
from tocsin.watch.queue import NextJob, Permit
from tocsin.watch.read import FOLLOW, ListedRun, ParsedList, read_follows, read_mail_reporters, read_runs
from tocsin.watch.record import Poll, PollOutcome, record_polls
from tocsin.watch.schedule import ScenarioState
from tocsin.watch.state import NodeState

_LIMITS = (5, 25, 125, 625)
_BASELINE_LIMITS = (10, 125, 625)  # usual durations want some runs to begin with
_SHORTEST_CUT = 5  # no server cuts its lists to fewer runs
_DAY = timedelta(days=1)
_DAYS = 3 * _DAY  # what one request by date asks for
_SETTLED = 5
_UNREADABLE = 3  # polls that could not read a run: the next ones do not try again by reading further back
_BLIND_FOR = 3  # max_poll_intervals without a poll make what is found then late


@dataclass(slots=True)
class _Reply:
    """What a poll has read so far."""

    reading: ParsedList[ListedRun]
    reaches: datetime | None  # every run that started later is there; None: there are no others


class Poller:
    """The source of polls. ``list_again`` hears of scenarios whose project's list must be read: DSS does not know them,
    or they did not start when they should; ``details`` of runs to be read, ``told`` of each poll that was written."""

    def __init__(
        self,
        state: NodeState,
        client: DSSClient,
        *,
        limit: Callable[[], float],
        list_again: Callable[[ScenarioState], object],
        details: Callable[[RunKey, DetailsLevel], None],
        told: Callable[[PollResult], Awaitable[None]],
    ) -> None:
        self._state = state
        self._client = client
        self._limit = limit
        self._list_again = list_again
        self._details = details
        self._told = told
        self._asked: set[ScenarioKey] = set()  # definitions that were asked for
        # Where the runs' copies do not tell: what the definition told, and a mark of what it was asked for.
        self._defined: dict[ScenarioKey, tuple[int, tuple[MailReporter, ...] | None]] = {}

    def offer(self, now: float) -> NextJob | None:
        best = self._state.schedule.best(now)
        return None if best is None else NextJob(*best)

    def due_in(self, now: float) -> float:
        return self._state.schedule.due_in(now)

    def take(self, now: float, permit: Permit) -> Coroutine[object, object, None]:
        one, reason = self._state.schedule.pop(now, self._limit())
        return self._poll(one, reason, permit)

    async def _poll(self, one: ScenarioState, reason: Reason, permit: Permit) -> None:
        state = self._state
        state.metrics.polls.labels(state.name, reason.value).inc()
        begun, begun_at = state.clock.now(), state.clock.monotonic()
        try:
            sight = await self._see(one, permit)
            reporters = await self._mail_reporters(one, sight, permit) if state.given.wants_mail_reporters() else None
            poll = Poll(
                sight, begun, reason.value, one.pending, state.given.wants_details, state.given.duration_buckets
            )
            if reporters is not None:
                new = hash(reporters) != one.mail_reporters
                poll = replace(poll, mail_reporters=reporters, put_mail_reporters=new)
            recorded = await state.write_each(record_polls, poll)
            if recorded.known and reporters is not None:
                one.mail_reporters = hash(reporters)
            if recorded.known:
                self._recorded(one, sight, recorded, begun, begun_at)
            if reason is Reason.EXPECTED and one.pending:
                self._list_again(one)  # whether it is still active and scheduled decides whether it missed its start
            await self._told(sight)
            await self._learn_follows(one, sight, permit)
        except DSSError as error:
            self._failed(one, error)
        except Exception:  # one poll is one unit of work: the line tells, and it is tried again later
            one.failures += 1
            raise
        finally:
            state.schedule.finished(one)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _see(self, one: ScenarioState, permit: Permit) -> PollResult:
        state, row = self._state, one.row
        now = state.now()
        horizon = now - state.node.watch.backfill.max_age
        reply = await self._read(one, permit, now, horizon)
        read = reply.reading
        state.odd("get_last_runs", read.odd, read.example, project=one.key.project, scenario=one.key.scenario)
        found, unknown = await self._unlisted(one, read.items, permit, now)
        items = tuple(sorted((*read.items, *found), key=_newest_last, reverse=True))
        return PollResult(
            one.key,
            row.facts,
            items,
            reply.reaches,
            whole=not read.odd,
            advances=self._readable(one, read),
            unknown=unknown,
            now=now,
            earliest=state.dss_clock.earliest(),
            detected_at=state.clock.now(),
            horizon=horizon,
            late_before=self._late_before(one, now),
            set_back=state.dss_clock.set_back,
            fresh_from=self._fresh_from(one, items, now),
            scenario_url=one.key.url(state.node.url),
        )

    def _readable(self, one: ScenarioState, read: ParsedList[ListedRun]) -> bool:
        """Whether nothing was unreadable, or only what has been so for several polls and will hardly change."""
        if len(one.unreadable) > _LIMITS[-1]:
            one.unreadable.clear()
        for mark in read.unreadable:
            one.unreadable[mark] = one.unreadable.get(mark, 0) + 1
        return not read.odd or _known(one, read)

    async def _unlisted(
        self, one: ScenarioState, seen: tuple[ListedRun, ...], permit: Permit, now: datetime
    ) -> tuple[list[ListedRun], frozenset[tuple[str, datetime]]]:
        """Ask by id for the open runs that the list lacks: those that DSS still has, and those that it does not."""
        listed = {_mark(shown.run) for shown in seen}
        found: list[ListedRun] = []
        unknown: set[tuple[str, datetime]] = set()
        for run in one.open_runs:
            if _mark(run) in listed or run.start > now - LAUNCH_DELAY:
                continue
            request = wire.get_run(one.key.project, one.key.scenario, run.run_id)
            try:
                told = await permit.ask(partial(self._client.perform, request))
            except DSSNotFound:
                unknown.add((run.run_id, run.start))
            except DSSError as error:  # then its absence from the lists must last
                self._state.failed("run_read_failed", error, project=one.key.project, scenario=one.key.scenario)
            else:
                answer = read_runs([told.get("scenarioRun")], one.key, now)
                found += [shown for shown in answer.items if shown.run.key == run.key]
        return found, frozenset(unknown)

    def _fresh_from(self, one: ScenarioState, seen: tuple[ListedRun, ...], now: datetime) -> datetime:
        """What the last poll wrote as ended need not be compared again."""
        fresh = [run.run.start for run in seen if run.failed_reporters or _mark(run.run) not in one.settled]
        return min(fresh, default=max(now, seen[0].run.start + datetime.resolution) if seen else now)

    async def _learn_follows(self, one: ScenarioState, sight: PollResult, permit: Permit) -> None:
        """Whom the scenario follows: as its last run's copy of the definition says, or else the definition itself."""
        follows = next((seen.follows for seen in sight.seen if seen.follows is not None), None)
        if follows is None and any(seen.run.trigger_type == FOLLOW for seen in sight.seen):
            if one.key in self._asked:
                return
            self._asked.add(one.key)
            request = wire.get_scenario(one.key.project, one.key.scenario)
            try:
                follows = read_follows(await permit.ask(lambda: self._client.perform(request)), one.key.project)
            except DSSError:
                return  # a hint that cannot be had
        if follows is not None and follows != one.row.follows:
            await self._state.write(put_follows, one.key, follows)
            self._state.schedule.update(one, replace(one.row, follows=follows))

    async def _mail_reporters(
        self, one: ScenarioState, sight: PollResult, permit: Permit
    ) -> tuple[MailReporter, ...] | None:
        """DSS's own mail reporters as the newest run's copy of the definition has them, or else the definition itself,
        asked at the start and at the end of each run that makes events; None: not known."""
        for seen in sight.seen:
            if seen.mail_reporters is not None:
                return seen.mail_reporters
        mark, known = self._defined.get(one.key, (None, None))
        newest = sight.seen[0].run if sight.seen else None
        if newest is None or not _is_news(newest, one) or mark == (asked := hash((newest.key, newest.end))):
            return known
        request = wire.get_scenario(one.key.project, one.key.scenario)
        try:
            told = await permit.ask(lambda: self._client.perform(request), Rank.DETAILS)
            known = read_mail_reporters(told)
        except DSSError as error:
            self._state.failed("mail_reporters_unreadable", error, project=one.key.project, scenario=one.key.scenario)
        self._defined[one.key] = (asked, known)
        return known

    def _late_before(self, one: ScenarioState, now: datetime) -> datetime | None:
        state, seen = self._state, one.row.polled_at
        here = None if one.polled_at is None else timedelta(seconds=state.clock.monotonic() - one.polled_at)
        ever = None if seen is None else state.clock.now() - seen
        long = max(_BLIND_FOR * state.node.watch.max_poll_interval, timedelta(hours=1))
        return late_before(now, state.row.resumed_at, here, ever, long)

    async def _read(self, one: ScenarioState, permit: Permit, now: datetime, horizon: datetime) -> _Reply:
        """Ask for more and more runs until they reach back to what the last poll had seen."""
        bound = now
        scenario = self._client.get_project(one.key.project).get_scenario(one.key.scenario)
        reply = _Reply(ParsedList(()), None)
        for limit in _LIMITS if one.row.cursor else _BASELINE_LIMITS:
            try:
                raw = await permit.ask(partial(scenario.get_last_runs_raw, limit))
            except DSSReplyTooLarge:
                bound = self._bound(one, now, horizon)
                break  # days hold fewer
            bound = self._bound(one, now, horizon)  # not before: this answer may show that the clock was set back
            reading = read_runs(raw, one.key, now, mail_reporters=self._state.given.wants_mail_reporters())
            oldest = reading.items[-1].run.start if reading.items else None
            all_history = len(raw) < limit
            reply = _Reply(reading, None if all_history else oldest)
            if oldest is None and _known(one, reading):  # asking for more of what cannot be read tells nothing
                return reply
            if oldest is not None and oldest < bound:
                return reply
            if all_history and (len(raw) < _SHORTEST_CUT or oldest is None or oldest <= bound):
                return reply
            if all_history:
                break
        return await self._by_date(one, permit, now, bound, reply)

    def _bound(self, one: ScenarioState, now: datetime, horizon: datetime) -> datetime:
        """Runs that started before it were handled by earlier polls, but for those still open."""
        since = one.row.cursor or one.row.watched_since - self._state.dss_clock.set_back
        opened = [run.start for run in one.open_runs]
        return max(horizon, min([since, now, self._last_poll(one), *opened]))

    def _last_poll(self, one: ScenarioState) -> datetime:
        """The last poll on DSS's clock: where either clock was set back, later runs may seem older than its newest."""
        state = self._state
        if one.polled_at is not None:
            ago = state.clock.monotonic() - one.polled_at
        else:  # a poll of an earlier life that seems to come yet was made before our clock was set back
            ago = abs(state.clock.now() - (one.row.polled_at or state.clock.now())).total_seconds()
        return state.dss_clock.earliest(ago)

    async def _by_date(
        self, one: ScenarioState, permit: Permit, now: datetime, bound: datetime, reply: _Reply
    ) -> _Reply:
        """The list ended before it reached what is known: the history was cleared, or DSS gives no longer lists.

        Days are the server's, whose zone is unknown: one more on each side.
        """
        scenario = self._client.get_project(one.key.project).get_scenario(one.key.scenario)
        oldest = reply.reading.items[-1].run.start if reply.reading.items else now
        day, last, days = (bound - _DAY).date(), (oldest + _DAY).date(), _DAYS
        raws: list[object] = []
        try:
            while day <= last:
                try:
                    raws += await permit.ask(partial(scenario.get_runs_by_date_raw, day, day + days))
                except DSSReplyTooLarge:
                    if days == _DAY:
                        raise
                    days = _DAY
                else:
                    day += days
        except DSSError as error:
            if error.transient or not reply.reading.items:
                raise
            self._state.failed("runs_by_date_failed", error, project=one.key.project, scenario=one.key.scenario)
            return reply
        older = read_runs(raws, one.key, now)
        known = {(seen.run.run_id, seen.run.start) for seen in reply.reading.items}
        more = [seen for seen in older.items if (seen.run.run_id, seen.run.start) not in known]
        items = sorted((*reply.reading.items, *more), key=_newest_last, reverse=True)
        unreadable = reply.reading.unreadable | older.unreadable
        return _Reply(ParsedList(tuple(items), reply.reading.odd + older.odd, older.example, unreadable), bound)

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _recorded(
        self, one: ScenarioState, sight: PollResult, recorded: PollOutcome, begun: datetime, begun_at: float
    ) -> None:
        state = self._state
        one.settled = tuple(_mark(seen.run) for seen in sight.seen[:_SETTLED] if seen.run.end)
        if one.failures:
            state.log.info("poll_recovered", project=one.key.project, scenario=one.key.scenario, failures=one.failures)
        one.failures, one.forbidden, one.not_found, one.problem = 0, False, False, None
        one.polled_at = begun_at
        one.open_runs = recorded.open_runs
        one.pending = tuple(at for at in one.pending if at not in recorded.settled)
        differs = (one.sighted is not None) != bool(one.open_runs)
        one.unexplained = one.unexplained + 1 if differs else 0
        if differs and one.doubted_at > begun_at:
            one.unexplained = 0
        row = replace(
            one.row,
            polled_at=begun,
            cursor=recorded.cursor,
            last_end=recorded.last_end,
            last_outcome=recorded.last_outcome,
            backfilled=True,
        )
        state.schedule.update(one, row)
        for event in recorded.events:
            self._observe(event)
        for run, level in recorded.details:
            self._details(run, level)
        if any(event.name not in (EventName.RUN_STARTED, EventName.REPORTER_FAILED) for event in recorded.events):
            state.schedule.ended(one.key)
        if recorded.events:
            state.given.ring()

    def _observe(self, event: Event) -> None:
        state = self._state
        if event.late or event.name is EventName.REPORTER_FAILED:
            return
        delay = event.detected_at + state.dss_clock.offset - event.time
        state.metrics.detection_delay.labels(state.name).observe(max(0.0, delay.total_seconds()))

    def _failed(self, one: ScenarioState, error: DSSError) -> None:
        one.failures += 1
        one.forbidden = isinstance(error, DSSForbidden)
        one.problem = str(error)
        if one.failures == 1:
            self._state.failed("poll_failed", error, project=one.key.project, scenario=one.key.scenario)
        one.not_found = isinstance(error, DSSNotFound)
        if one.not_found:
            self._list_again(one)


def _is_news(newest: Run, one: ScenarioState) -> bool:
    """Whether this poll may make an event about the newest run."""
    if newest.end is not None and newest.end < one.row.watched_since:
        return False
    since = one.row.cursor
    return since is None or newest.start > since or bool(one.open_runs) or newest.end is None


def _known(one: ScenarioState, read: ParsedList[ListedRun]) -> bool:
    """Whether what cannot be read has been known for several polls."""
    return bool(read.unreadable) and all(one.unreadable.get(mark, 0) >= _UNREADABLE for mark in read.unreadable)


def _newest_last(seen: ListedRun) -> tuple[datetime, str]:
    return seen.run.start, seen.run.run_id


def _mark(run: Run) -> int:
    """A run's identity in little memory."""
    return hash((run.run_id, run.start))


def late_before(
    now: datetime, resumed_at: datetime | None, here: timedelta | None, ever: timedelta | None, long: timedelta
) -> datetime | None:
    """What happened before it happened in a downtime, or while nobody could poll; None: nothing did.

    The last poll was ``here`` ago in this life, where None says: none yet, or none since its project can be read
    again; ``ever`` ago in any life. Who was not polled for ``long`` was blind, not slow.
    """
    if here is not None:
        return now if here > long else None
    if ever is None or resumed_at is None:
        return resumed_at
    return now if min(ever, now - resumed_at) > long else resumed_at
