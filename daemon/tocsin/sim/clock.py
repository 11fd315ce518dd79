"""The world's own clock: it may run faster than ours, stand still, or be pushed by a test.

Everything that happens in the emulated DSS happens at a moment of this clock. Alarms ring in order of their moments
even when a push jumps over many of them, so that a day can be played in a blink and nothing overtakes anything.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from tocsin.kit.clock import Clock, SystemClock

_SETTLE_TURNS = 40  # turns of the event loop in which a chain of awaits reacts before time moves on


class Timeline(Protocol):
    """Time as a run sees it: live on the world's clock, or in the past while history is made up."""

    def now(self) -> datetime: ...

    async def sleep_until(self, moment: datetime) -> None: ...


class PastTimeline:
    """A timeline that waits for nothing: sleeping moves it. History is played on one of these."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, moment: datetime) -> None:
        self._now = max(self._now, moment)


class Alarm:
    """A call that is due at a moment; cancelled ones are skipped."""

    __slots__ = ("call", "cancelled", "moment")

    def __init__(self, moment: datetime, call: Callable[[], None]) -> None:
        self.moment = moment
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class WorldClock:
    """``base`` times ``speed``. Speed 0 stands still: only ``advance`` moves it. Satisfies ``kit.clock.Clock``."""

    def __init__(self, base: Clock | None = None, speed: float = 1.0) -> None:
        if speed < 0:
            raise ValueError(f"the world's clock cannot run backwards: speed {speed}")
        self._base = base or SystemClock()
        self.speed = speed
        self._origin = self._base.now()
        self._base_origin = self._base.monotonic()
        self._held_at: datetime | None = None  # while a push walks from alarm to alarm
        self._alarms: list[tuple[datetime, int, Alarm]] = []
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
        alarm = Alarm(moment, call)
        heapq.heappush(self._alarms, (moment, next(self._order), alarm))
        self._arm()
        return alarm

    async def sleep_until(self, moment: datetime) -> None:
        """Return once the world's time has reached ``moment``; lets others run at least once."""
        if moment <= self.now():
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        alarm = self.call_at(moment, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            alarm.cancel()

    async def sleep(self, duration: timedelta) -> None:
        await self.sleep_until(self.now() + duration)

    async def advance(self, by: timedelta) -> None:
        """Push the world ``by`` ahead, stopping at each alarm on the way so that what it starts can react."""
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
        """Forget all alarms; nothing rings any more."""
        self._alarms.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    async def _settle() -> None:
        """Let what is ready to go on do so."""
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)

    def _next(self) -> Alarm | None:
        while self._alarms and self._alarms[0][2].cancelled:
            heapq.heappop(self._alarms)
        return self._alarms[0][2] if self._alarms else None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._next()
        if due is None or self.speed == 0 or self._held_at is not None:
            return
        wait = max(0.0, (due.moment - self.now()).total_seconds() / self.speed)
        self._timer = asyncio.get_running_loop().call_later(min(wait, 3600.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._ring()
        self._arm()

    def _ring(self) -> None:
        now = self.now()
        while (due := self._next()) is not None and due.moment <= now:
            heapq.heappop(self._alarms)
            due.call()
