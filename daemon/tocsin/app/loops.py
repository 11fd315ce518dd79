"""The frame of every stage's loop: step, then wait for the bell or for what is due, at most five seconds.

All logic is in the steps, which take the time and the configuration; a bell only shortens the wait. A store that is
busy or full pauses the loop with growing waits and one log line.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from tocsin.config.model import Config
from tocsin.kit.clock import Clock
from tocsin.store import StoreUnavailable

LONGEST_WAIT = timedelta(seconds=5)
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0

Step = Callable[[datetime, Config], Awaitable[datetime | None]]
log = structlog.get_logger("tocsin.app.loops")


class Bell:
    """Wakes a loop early. Ringing twice is ringing once; ringing while nobody waits is not lost."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, longest: timedelta) -> None:
        try:
            async with asyncio.timeout(max(0.0, longest.total_seconds())):
                await self._rung.wait()
        except TimeoutError:
            return
        finally:
            self._rung.clear()


class Pause:
    """How long to leave a store alone that could not be used: growing, and told once."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._seconds = 0.0

    async def after(self, error: Exception) -> None:
        if not self._seconds:
            log.warning("store_unavailable", stage=self._stage, error=str(error), action="paused, trying again")
        self._seconds = min(max(self._seconds * 2, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(self._seconds)

    def over(self) -> None:
        if self._seconds:
            log.info("store_available", stage=self._stage)
        self._seconds = 0.0


async def run_loop(stage: str, step: Step, bell: Bell, clock: Clock, config: Callable[[], Config]) -> None:
    """Step for ever. Returns never; a step's unexpected error ends the loop, and with it the process."""
    pause = Pause(stage)
    while True:
        now = clock.now()
        try:
            due = await step(now, config())
        except StoreUnavailable as error:
            await pause.after(error)
            continue
        pause.over()
        await bell.wait(LONGEST_WAIT if due is None else min(LONGEST_WAIT, due - clock.now()))
