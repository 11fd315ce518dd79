"""Reload: everything that can fail is done first, then one reference is swapped between two steps.

A bad file leaves the old configuration in place and says so, in the log, in the status and in a metric. What only a
start reads (the store, the listener) is named when it changed, and left as it is.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from tocsin.app.settings import BadConfig
from tocsin.app.source import Signature
from tocsin.kit.clock import Clock
from tocsin.model.config import Config

log = structlog.get_logger("tocsin.app.reload")
_LOOK_EVERY_SECONDS = 3.0


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
        self.last = ReloadResult(clock.now())

    def __call__(self) -> Config:
        return self._config

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
            except BadConfig as error:
                self.last = ReloadResult(now, tuple(str(problem) for problem in error.problems))
                log.error("reload_failed", problems=self.last.problems, action="the old configuration stays")
            else:
                needs_restart = tuple(_fixed_changes(self._config, fresh))
                self._config = replace(
                    fresh, store=replace(fresh.store, url=self._config.store.url), loaded_at=now
                )
                self.last = ReloadResult(now, (), needs_restart)
                log.info("reloaded", needs_restart=needs_restart)
            for listener in self._listeners:
                listener()
            return self.last

    async def follow(self) -> None:
        """Reload whenever the source has changed; for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            if await asyncio.to_thread(self._source.signature) != self._signature:
                await self.reload()


def _fixed_changes(old: Config, fresh: Config) -> list[str]:
    changes = []
    if old.store.url != fresh.store.url:
        changes.append("store.url")
    if old.http.listen != fresh.http.listen:
        changes.append("http.listen")
    return changes
