"""How much a channel takes ahead, and how fast it may go."""

from datetime import timedelta
from typing import Any

import pytest

from tests.deliver.builders import NOW, HandClock, config, hook, owed
from tocsin.deliver.bulkhead import Bulkhead, Job
from tocsin.deliver.transport import Parcel
from tocsin.deliver.verdict import SendResult, delivered
from tocsin.store.sending import ReadyRow, Waiting


class Instant:
    concurrency = 2

    async def send(self, parcel: Parcel) -> SendResult:
        return delivered()

    async def close(self) -> None: ...


async def nothing(_bulkhead: Bulkhead, _job: Job) -> None: ...


def bulkhead(**more: Any) -> Bulkhead:
    return Bulkhead(hook("http://x", **more), Instant(), nothing, HandClock())


def job(n: int = 1) -> Job:
    return Job(n, Parcel(owed(), config()), NOW + timedelta(seconds=30))


def test_a_slow_channel_still_takes_what_it_can_send_at_once() -> None:
    one = bulkhead()
    for _ in range(100):
        one.took(timedelta(minutes=5))
    assert one.room(NOW) == 2


def test_a_fast_channel_takes_a_seconds_work_ahead_and_no_more_than_512() -> None:
    one = bulkhead()
    for _ in range(200):
        one.took(timedelta(milliseconds=20))
    assert one.room(NOW) == 99
    for _ in range(200):
        one.took(timedelta(0))
    assert one.room(NOW) == 512


def test_a_limited_channel_takes_no_more_ahead_than_its_rate_allows() -> None:
    one = bulkhead(rate=5.0)
    for _ in range(200):
        one.took(timedelta(milliseconds=1))
    assert one.room(NOW) == 5


def test_a_channel_that_was_asked_to_wait_has_no_room_and_gives_back_what_it_held() -> None:
    one = bulkhead()
    held = [job(1), job(2)]
    one._queue.extend(held)
    assert one.hold(NOW + timedelta(seconds=9)) == held
    assert (one.room(NOW), one.quiet_until(NOW)) == (0, NOW + timedelta(seconds=9))
    assert one.room(NOW + timedelta(seconds=9)) == 2


def test_turns_that_were_found_serve_for_a_moment_and_are_looked_for_again() -> None:
    one = bulkhead()
    turns = [ReadyRow(n, "ops/hook", f"l{n}", False) for n in range(3)]
    assert one.wants_turns(NOW)
    one.scanned(Waiting(turns, None, False), NOW)
    assert not one.wants_turns(NOW)
    assert one.wants_turns(NOW + timedelta(seconds=1))
    assert one.take_turns(2) == turns[:2]
    assert one.runs_low()
    assert one.take_turns(2) == turns[2:]
    assert one.wants_turns(NOW)
    assert not one.runs_low()


async def test_sends_of_a_limited_channel_get_their_turns_at_its_rate() -> None:
    one = bulkhead(rate=200.0)
    start = one._clock.monotonic()
    for _ in range(4):
        await one.turn()
    assert one._next_turn == pytest.approx(start + 4 / 200)
