"""How much a channel takes ahead, and how fast it may go."""

from datetime import timedelta
from typing import Any

import pytest

from tests.deliver.builders import NOW, HandClock, config, hook, owed
from tocsin.deliver.bulkhead import Bulkhead
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.result import SendResult, delivered
from tocsin.store.outbox import ReadyRow, ReadyRows


class Instant:
    concurrency = 2

    async def send(self, outgoing: Outgoing) -> SendResult:
        return delivered()

    async def close(self) -> None: ...


async def nothing(_bulkhead: Bulkhead, _outgoing: Outgoing) -> None: ...


def bulkhead(**more: Any) -> Bulkhead:
    return Bulkhead(hook("http://x", **more), Instant(), nothing, HandClock())


def claimed(n: int = 1) -> Outgoing:
    return Outgoing(owed(), config(), n=n, lease_until=NOW + timedelta(seconds=30))


def test_a_slow_channel_still_takes_what_it_can_send_at_once() -> None:
    one = bulkhead()
    for _ in range(100):
        one.record_duration(timedelta(minutes=5))
    assert one.capacity(NOW) == 2


def test_a_fast_channel_takes_a_seconds_work_ahead_and_no_more_than_512() -> None:
    one = bulkhead()
    for _ in range(200):
        one.record_duration(timedelta(milliseconds=20))
    assert one.capacity(NOW) == 99
    for _ in range(200):
        one.record_duration(timedelta(0))
    assert one.capacity(NOW) == 512


def test_a_limited_channel_takes_no_more_ahead_than_its_rate_allows() -> None:
    one = bulkhead(rate=5.0)
    for _ in range(200):
        one.record_duration(timedelta(milliseconds=1))
    assert one.capacity(NOW) == 5


def test_a_channel_that_was_asked_to_wait_has_no_room_and_gives_back_what_it_held() -> None:
    one = bulkhead()
    held = [claimed(1), claimed(2)]
    one._queue.extend(held)
    assert one.pause(NOW + timedelta(seconds=9)) == held
    assert (one.capacity(NOW), one.paused_until(NOW)) == (0, NOW + timedelta(seconds=9))
    assert one.capacity(NOW + timedelta(seconds=9)) == 2


def test_turns_that_were_found_serve_for_a_moment_and_are_looked_for_again() -> None:
    one = bulkhead()
    turns = [ReadyRow(n, "ops/hook", f"l{n}", False) for n in range(3)]
    assert one.needs_scan(NOW)
    one.set_ready(ReadyRows(turns, None, False), NOW)
    assert not one.needs_scan(NOW)
    assert one.needs_scan(NOW + timedelta(seconds=1))
    assert one.pop_ready(2) == turns[:2]
    assert one.runs_low()
    assert one.pop_ready(2) == turns[2:]
    assert one.needs_scan(NOW)
    assert not one.runs_low()


async def test_sends_of_a_limited_channel_get_their_turns_at_its_rate() -> None:
    one = bulkhead(rate=200.0)
    start = one.clock.monotonic()
    for _ in range(4):
        await one.wait_for_rate_limit(200.0)
    assert one._next_send == pytest.approx(start + 4 / 200)
