"""The world's clock: it may run faster than real time, stand still, or be advanced by a test."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tocsin.kit.clock import Clock, SystemClock

_SETTLE_TURNS = 40  # turns of the event loop in which a chain of awaits reacts before time moves on


@dataclass(slots=True, order=True)
class Alarm:
    moment: datetime
    order: int
    call: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class WorldClock:
    """``base`` times ``speed``. With speed 0 only ``advance`` moves it."""

    def __init__(self, base: Clock | None = None, speed: float = 1.0) -> None:
        if speed < 0:
            raise ValueError(f"the world's clock cannot run backwards: speed {speed}")
        self.speed = speed
        self._base = base or SystemClock()
        self._origin, self._base_origin = self._base.now(), self._base.monotonic()
        self._held_at: datetime | None = None  # while ``advance`` goes from alarm to alarm
        self._alarms: list[Alarm] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> datetime:
        if self._held_at is not None:
            return self._held_at
        return self._origin + timedelta(seconds=(self._base.monotonic() - self._base_origin) * self.speed)

    def monotonic(self) -> float:
        return (self.now() - self._origin).total_seconds()

    def no_earlier_than(self, moment: datetime) -> None:
        """Go on from ``moment`` if the world's time is still before it."""
        if moment > self.now():
            self._origin, self._base_origin = moment, self._base.monotonic()

    def call_at(self, moment: datetime, call: Callable[[], None]) -> Alarm:
        """Have ``call`` made on the running loop once the world's time reaches ``moment``."""
        alarm = Alarm(moment, next(self._order), call)
        heapq.heappush(self._alarms, alarm)
        self._arm()
        return alarm

    async def sleep_until(self, moment: datetime) -> None:
        """Return once the world's time has reached ``moment``; yields to other tasks at least once."""
        if moment <= self.now():
            await asyncio.sleep(0)
            return
        reached = asyncio.Event()
        alarm = self.call_at(moment, reached.set)
        try:
            await reached.wait()
        finally:
            alarm.cancel()

    async def sleep(self, duration: timedelta) -> None:
        await self.sleep_until(self.now() + duration)

    async def advance(self, by: timedelta) -> None:
        """Move the world ``by`` ahead. Stops at each alarm on the way, in order, so that what it starts can react."""
        target = self.now() + by
        await self._settle()
        try:
            while (due := self._next()) is not None and due.moment <= target:
                self._held_at = max(self.now(), due.moment)
                self._ring()
                await self._settle()
        finally:
            self._held_at = None
            self._origin, self._base_origin = target, self._base.monotonic()
            self._arm()
        await self._settle()

    def stop(self) -> None:
        self._alarms.clear()
        self._arm()

    @staticmethod
    async def _settle() -> None:
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)

    def _next(self) -> Alarm | None:
        while self._alarms and self._alarms[0].cancelled:
            heapq.heappop(self._alarms)
        return self._alarms[0] if self._alarms else None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._next()
        if due is not None and self.speed and self._held_at is None:
            wait = max(0.0, (due.moment - self.now()).total_seconds() / self.speed)
            self._timer = asyncio.get_running_loop().call_later(min(wait, 3600.0), self._ring)

    def _ring(self) -> None:
        now = self.now()
        while (due := self._next()) is not None and due.moment <= now:
            heapq.heappop(self._alarms)
            due.call()
        self._arm()


class PastTimeline:
    """A clock on which sleeping sets the time and does not wait; past runs are played on it."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, moment: datetime) -> None:
        self._now = max(self._now, moment)


Timeline = WorldClock | PastTimeline
