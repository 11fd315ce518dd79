"""The queue of requests and the schedule of polls, each by itself."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
import structlog

from tests.watch.scenes import EARLY, KEY, T0, at, ran
from tocsin.dss import DSSUnreachable
from tocsin.model.run import ScenarioKey
from tocsin.store.scenarios import ScenarioRow
from tocsin.watch.cadence import Rank, Reason, ScenarioState
from tocsin.watch.queue import Budget, NextJob, Permit, RequestQueue
from tocsin.watch.schedule import NextPoll, Schedule

LOG = structlog.get_logger()


@dataclass
class Hands:
    """A clock that a test moves."""

    seconds: float = 1000.0

    def now(self) -> datetime:
        return T0 + timedelta(seconds=self.seconds - 1000.0)

    def monotonic(self) -> float:
        return self.seconds


class Ticking(Hands):
    """A clock that goes on by itself whenever it is read."""

    def monotonic(self) -> float:
        self.seconds += 0.001
        return self.seconds


@dataclass
class Jobs:
    """A source with jobs of given ranks, oldest first within a rank."""

    waiting: list[tuple[Rank, float, str]]
    done: list[str] = field(default_factory=list)
    work: Callable[[Permit], Awaitable[None]] | None = None

    def jobs(self, now: float) -> list[NextJob]:
        return [NextJob(*min(self.waiting)[:2], self._start)] if self.waiting else []

    async def _run(self, name: str, permit: Permit) -> None:
        if self.work is not None:
            await self.work(permit)
        self.done.append(name)

    def _start(self, permit: Permit) -> Coroutine[object, object, None]:
        job = min(self.waiting)
        self.waiting.remove(job)
        return self._run(job[2], permit)


@contextmanager
def running(line: RequestQueue) -> "Iterator[asyncio.Task[None]]":
    task = asyncio.create_task(line.run())
    try:
        yield task
    finally:
        task.cancel()


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def a_queue(clock: Hands, *sources: Jobs, rate: float = 1e6, concurrency: int = 1000) -> RequestQueue:
    return RequestQueue(Budget(rate, concurrency), clock, lambda: sources, LOG)


async def test_the_most_urgent_goes_first_and_every_eighth_place_goes_to_who_waited_longest() -> None:
    urgent = Jobs([(Rank.NUDGED, float(number), f"urgent-{number}") for number in range(20)])
    patient = Jobs([(Rank.ROUTINE, -5.0, "patient")])
    done: list[str] = []
    urgent.done = patient.done = done
    with running(a_queue(Ticking(), urgent, patient)):
        await turns()
    assert done.index("patient") == 7
    assert [name for name in done if name != "patient"] == [f"urgent-{number}" for number in range(20)]


async def test_who_waited_longest_lets_a_sweep_go_first() -> None:
    clock, done = Hands(), []
    urgent = Jobs([(Rank.NUDGED, 500.0 + number, f"urgent-{number}") for number in range(9)], done)
    patient, sweep = Jobs([(Rank.ROUTINE, 0.0, "patient")], done), Jobs([], done)
    line = a_queue(clock, sweep, urgent, patient, rate=1.0)
    with running(line):
        while len(done) < 11:
            if len(done) == 7:
                sweep.waiting = [(Rank.SWEEP, clock.seconds, "sweep")]
            line.wake()
            await turns(5)
            clock.seconds += 0.2
    assert done[6:8] == ["urgent-6", "sweep"]


async def test_who_waited_longest_waits_for_no_even_pace_in_front_of_the_urgent() -> None:
    clock, done = Hands(), []
    urgent = Jobs([(Rank.NUDGED, 500.0 + number, f"urgent-{number}") for number in range(9)], done)
    patient = Jobs([(Rank.ROUTINE, 0.0, "patient")], done)
    with running(a_queue(clock, urgent, patient, rate=10.0)):
        await turns()
    assert (len(done), done[7]) == (10, "patient")


async def test_no_more_requests_are_on_their_way_than_allowed_and_a_lost_one_frees_its_place() -> None:
    gate, inside = asyncio.Event(), []

    async def call() -> None:
        inside.append(None)
        await gate.wait()

    source = Jobs([(Rank.NUDGED, 0.0, str(number)) for number in range(5)], work=lambda permit: permit.ask(call))
    line = a_queue(Hands(), source, concurrency=2)
    with running(line):
        await turns()
        assert len(inside) == 2
        gate.set()
        await turns(50)
        assert (len(inside), len(source.done)) == (5, 5)


async def test_requests_that_wait_for_a_dead_node_are_rejected() -> None:
    caught: list[Exception] = []

    async def nothing() -> None: ...

    async def work(permit: Permit) -> None:
        await permit.ask(nothing)
        try:
            await permit.ask(nothing)
        except DSSUnreachable as error:
            caught.append(error)

    line = a_queue(Hands(), Jobs([(Rank.NUDGED, 0.0, "job")], work=work), rate=1.0)
    with running(line):
        await turns()
        line.reject_all()
        await turns()
    assert [str(error) for error in caught] == ["DSS did not answer: the node is down"]


async def test_a_job_that_breaks_stops_no_other() -> None:
    async def breaks(permit: Permit) -> None:
        raise ZeroDivisionError

    broken = Jobs([(Rank.NUDGED, 0.0, "broken")], work=breaks)
    sound = Jobs([(Rank.ROUTINE, 0.0, "sound")])
    with running(a_queue(Ticking(), broken, sound, concurrency=1)) as task, structlog.testing.capture_logs() as lines:
        await turns(50)
        assert (sound.done, task.done()) == (["sound"], False)
    assert [line["event"] for line in lines] == ["watch_job_failed"]


# --- the schedule ------------------------------------------------------------------------------------------------------


def scenario(name: str, **more: object) -> ScenarioState:
    key = ScenarioKey("prod", "SALES", name)
    row = ScenarioRow(key, name, (), None, True, None, (), watched_since=EARLY, watermark=EARLY)
    return ScenarioState(replace(row, **more))  # type: ignore[arg-type]


def a_schedule(clock: Hands, *ones: ScenarioState) -> Schedule:
    """All were just polled, and nothing is due."""
    schedule = Schedule(clock, max_interval=3600.0, hints_from=Reason.SWEEP)
    for one in ones:
        schedule.add(one)
        one.polled_at = clock.seconds
        poll(schedule, clock)
    return schedule


def poll(schedule: Schedule, clock: Hands) -> tuple[str, Reason] | None:
    """Make the poll that is due, and let it land well."""
    if (made := begin(schedule, clock)) is None:
        return None
    made.scenario.polled_at = clock.seconds
    schedule.finished(made.scenario)
    return made.scenario.key.scenario, made.reason


def begin(schedule: Schedule, clock: Hands, limit: float = 4.0) -> NextPoll | None:
    """Begin the most urgent poll that is due."""
    due = [item for item in schedule.polls(clock.seconds) if item.due <= clock.seconds]
    if not due:
        return None
    first = min(due, key=lambda item: (item.rank, item.due))
    schedule.begin(first, limit)
    return first


def test_several_nudges_are_one_poll_and_one_that_comes_meanwhile_makes_another() -> None:
    clock, one = Hands(), scenario("A")
    schedule = a_schedule(clock, one)
    for _ in range(3):
        schedule.nudge(one, Reason.FLAGS)
    begun = begin(schedule, clock)
    assert begun is not None
    assert (begun.scenario, begun.reason, begin(schedule, clock)) == (one, Reason.FLAGS, None)
    schedule.nudge(one, Reason.FLAGS)
    assert begin(schedule, clock) is None
    one.polled_at = clock.seconds
    schedule.finished(one)
    assert poll(schedule, clock) == ("A", Reason.FLAGS)
    assert poll(schedule, clock) is None


def test_spare_room_goes_to_the_active_scenario_that_was_not_polled_for_longest() -> None:
    clock = Hands()
    schedule = a_schedule(clock, scenario("A"), scenario("B"), scenario("OFF", active=False))
    assert poll(schedule, clock) is None
    clock.seconds += 6
    assert [poll(schedule, clock) for _ in range(3)] == [("A", Reason.SPARE), ("B", Reason.SPARE), None]


def test_an_inactive_scenario_gets_spare_room_too_but_less_often() -> None:
    clock = Hands()
    schedule = a_schedule(clock, scenario("A"), scenario("OFF", active=False))
    polls = []
    for _ in range(80):
        clock.seconds += 1
        polls.append(poll(schedule, clock))
    assert polls.count(("OFF", Reason.SPARE)) == 2
    assert polls.count(("A", Reason.SPARE)) >= 14


def test_a_busy_node_leaves_inactive_scenarios_one_spare_poll_in_a_round() -> None:
    clock = Hands()
    schedule = a_schedule(clock, *(scenario(f"A{number}") for number in range(70)), scenario("OFF", active=False))
    polls = []
    for _ in range(1200):
        clock.seconds += 1
        polls.append(poll(schedule, clock))
    assert 2 <= polls.count(("OFF", Reason.SPARE)) <= 3
    assert None not in polls[6:]


def test_a_scenario_that_is_switched_off_or_on_ages_by_its_new_pace() -> None:
    clock, one = Hands(), scenario("A")
    schedule = a_schedule(clock, one)
    schedule.update(one, replace(one.row, active=False))
    assert poll(schedule, clock) == ("A", Reason.SPARE)
    clock.seconds += 39
    assert poll(schedule, clock) is None
    schedule.update(one, replace(one.row, active=True))
    assert poll(schedule, clock) == ("A", Reason.SPARE)


def test_a_sweep_that_no_poll_explains_is_asked_again_ever_later() -> None:
    clock, one = Hands(), scenario("A", active=False)
    schedule = a_schedule(clock, one)
    clock.seconds += 1
    schedule.hint_running(one, "run-1")
    waits = []
    for _ in range(4):
        began = clock.seconds
        while (made := poll(schedule, clock)) is None:
            clock.seconds += 0.5
        assert made == ("A", Reason.SWEEP)
        waits.append(clock.seconds - began)
        one.unconfirmed += 1
        schedule.plan(one)
    assert waits == [0, 1, 2, 4]


def test_a_run_that_follows_another_at_once_is_noticed_by_its_name() -> None:
    clock, one = Hands(), scenario("A")
    schedule = a_schedule(clock, one)
    clock.seconds += 1
    schedule.hint_running(one, "run-1")
    assert poll(schedule, clock) == ("A", Reason.SWEEP)
    one.open_runs = (ran(0),)
    schedule.plan(one)
    schedule.hint_running(one, "run-1")
    assert poll(schedule, clock) is None
    clock.seconds += 1
    schedule.hint_running(one, "run-2")
    assert poll(schedule, clock) == ("A", Reason.SWEEP)


def test_an_expected_start_is_looked_for_a_minute_after_its_time() -> None:
    clock, one = Hands(), scenario("A", active=False)
    one.pending = (at(100),)
    schedule = a_schedule(clock, one)
    clock.seconds += 159
    assert poll(schedule, clock) == ("A", Reason.SPARE)
    clock.seconds += 2
    assert poll(schedule, clock) == ("A", Reason.EXPECTED)
    assert poll(schedule, clock) is None


def test_the_end_of_a_run_wakes_those_who_follow() -> None:
    clock = Hands()
    schedule = a_schedule(clock, scenario("A"), scenario("B", active=False, follows=(("SALES", "A"),)))
    clock.seconds += 1
    schedule.run_ended(ScenarioKey("prod", "SALES", "A"))
    assert poll(schedule, clock) == ("B", Reason.FOLLOW)


def test_hooks_share_a_quarter_and_a_scenario_that_is_gone_is_forgotten() -> None:
    clock = Hands()
    ones = [scenario(name, active=False) for name in "ABC"]
    schedule = a_schedule(clock, *ones)
    clock.seconds += 10
    for one in ones:
        schedule.hook(one)
        schedule.hook(one)
    assert [poll(schedule, clock), poll(schedule, clock)] == [("A", Reason.HOOK), None]
    schedule.remove(ones[1].key)
    clock.seconds += 1
    assert poll(schedule, clock) == ("C", Reason.HOOK)
    clock.seconds += 1
    assert poll(schedule, clock) is None


def test_what_the_budget_cannot_hold_is_shown_by_how_long_it_has_been_due() -> None:
    clock, one, other = Hands(), scenario("A", active=False), scenario("B", active=False)
    schedule = a_schedule(clock, one, other)
    schedule.nudge(one, Reason.FLAGS)
    clock.seconds += 7
    schedule.nudge(other, Reason.FLAGS)
    clock.seconds += 5
    assert (schedule.longest_overdue(clock.seconds), schedule.oldest_poll_age(clock.seconds)) == (12.0, 12.0)
    assert poll(schedule, clock) == ("A", Reason.FLAGS)
    assert (schedule.longest_overdue(clock.seconds), schedule.oldest_poll_age(clock.seconds)) == (5.0, 12.0)


def test_a_scenario_gets_one_poll_a_second_however_often_hooks_ask() -> None:
    clock, one = Hands(), scenario("A", active=False)
    schedule = a_schedule(clock, one)
    clock.seconds += 10
    polls = []
    for _ in range(50):
        schedule.hook(one)
        if begin(schedule, clock, limit=400.0) is not None:
            schedule.finished(one)
            polls.append(clock.seconds)
        clock.seconds += 0.125
    assert polls == [1010.0 + second for second in range(7)]


@pytest.mark.parametrize("project", [KEY.project])
async def test_polls_into_a_project_that_cannot_be_read_rest_until_it_can(project: str) -> None:
    clock, one = Hands(), scenario("A")
    schedule = a_schedule(clock, one)
    schedule.nudge(one, Reason.FLAGS)
    schedule.suspend(project)
    clock.seconds += 7200
    assert poll(schedule, clock) is None
    await schedule.resume(project)
    made = poll(schedule, clock)
    assert made is not None
    assert made[0] == "A"
