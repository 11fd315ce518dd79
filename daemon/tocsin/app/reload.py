"""Reload: everything that can fail is done first, then one reference is swapped between two steps.

A bad file leaves the old configuration in place and says so, in the log, in the status and in a metric. What only a
start reads (the store, the listener) is named when it changed, and left as it is.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from tocsin.app.settings import BadConfig
from tocsin.app.source import Signature
from tocsin.kit.clock import Clock
from tocsin.model.config import Config

log = structlog.get_logger("tocsin.app.reload")
_LOOK_EVERY_SECONDS = 1.0


class ConfigSource(Protocol):
    def load(self) -> Config: ...
    def signature(self) -> Signature: ...


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a reload did. ``problems`` is empty when it succeeded."""

    at: datetime
    problems: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


class Live:
    """The configuration in force. Stages ask for it at each step, so that a swap takes effect between two."""

    def __init__(self, source: ConfigSource, config: Config, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._signature = source.signature()
        self._config = replace(config, loaded_at=clock.now())
        self._listeners: list[Callable[[], None]] = []
        self._one_at_a_time = asyncio.Lock()
        self._adapt: Callable[[Config], Config] | None = None
        self._asked = asyncio.Event()
        self.last = ReloadResult(clock.now())

    def __call__(self) -> Config:
        return self._config

    def adapt(self, change: Callable[[Config], Config]) -> None:
        """Apply ``change`` to the present configuration and to each one that is read from now on."""
        self._adapt = change
        self._config = change(self._config)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each swap."""
        self._listeners.append(listener)

    async def reload(self) -> ReloadResult:
        """Read the source again and swap, or say why not."""
        async with self._one_at_a_time:
            self._signature = self._source.signature()
            now = self._clock.now()
            try:
                fresh = await asyncio.to_thread(self._source.load)
                fresh = self._adapt(fresh) if self._adapt else fresh
            except BadConfig as error:
                self._keep(now, [str(problem) for problem in error.problems])
            except Exception as error:  # noqa: BLE001 - one reading is one unit of work: the old configuration stays
                self._keep(now, [f"{type(error).__name__}: {error}"], error)
            else:
                needs_restart = tuple(_fixed_changes(self._config, fresh))
                self._config = replace(fresh, store=replace(fresh.store, url=self._config.store.url), loaded_at=now)
                self.last = ReloadResult(now, (), needs_restart)
                log.info("reloaded", needs_restart=needs_restart)
            for listener in self._listeners:
                listener()
            return self.last

    def _keep(self, now: datetime, problems: Sequence[str], error: Exception | None = None) -> None:
        self.last = ReloadResult(now, tuple(problems))
        log.error("reload_failed", problems=self.last.problems, action="the old configuration stays", exc_info=error)

    def reload_soon(self) -> None:
        """Ask ``follow`` for a reload; for signal handlers."""
        self._asked.set()

    async def follow(self) -> None:
        """Reload whenever the source has changed or somebody asked; for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                    await self._asked.wait()
            if self._asked.is_set() or await asyncio.to_thread(self._source.signature) != self._signature:
                self._asked.clear()
                await self.reload()


def _fixed_changes(old: Config, fresh: Config) -> list[str]:
    fixed = {
        "store.url": (old.store.url, fresh.store.url),
        "http.listen": (old.http.listen, fresh.http.listen),
        "log.format": (old.log_format, fresh.log_format),
    }
    return [name for name, (before, now) in fixed.items() if before != now]
