"""Reload: everything that can fail is done first, then one reference is swapped between two steps.

A bad file leaves the old configuration in place and says so, in the log, in the status and in a metric; so does a
template that can no longer be rendered. What only a start reads (the store, the listener) is named when it changed,
and left as it is.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from tocsin.config import BadConfig, Problem
from tocsin.config.model import Config
from tocsin.config.problems import line_of
from tocsin.deliver.trial import TemplateProblem, check_templates, template_owners
from tocsin.kit.clock import Clock
from tocsin.kit.files import SingleFlight

log = structlog.get_logger("tocsin.app.reload")
_LOOK_EVERY_SECONDS = 1.0
_LOADING_SECONDS = 60.0


class ConfigSource(Protocol):
    def load(self) -> Config:
        """Read it now; blocks. Raises ``BadConfig``."""
        ...

    def changed(self) -> bool:
        """Whether it differs from what ``load`` read last, well or not; blocks."""
        ...


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

    def __init__(
        self, source: ConfigSource, config: Config, clock: Clock, *, loading_seconds: float = _LOADING_SECONDS
    ) -> None:
        self._source = source
        self._clock = clock
        self._config = replace(config, loaded_at=clock.now())
        self._listeners: list[Callable[[], None]] = []
        self._one_at_a_time = asyncio.Lock()
        self._adapt: Callable[[Config], Config] | None = None
        self._asked = asyncio.Event()
        self._in_vain = False  # it was read, and nobody waited for that any more: it never came into force
        self._loading = SingleFlight(self._load, "reading the configuration", loading_seconds, self._late)
        self._looking = SingleFlight(source.changed, "looking at the configuration", hangs=_report)
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
            return await self._reload()

    async def reload_if_needed(self) -> bool:
        """Reload if the source has changed since it was last read, or somebody asked; whether it did."""
        async with self._one_at_a_time:
            if not self._asked.is_set() and not self._in_vain and not await self._changed():
                return False
            self._asked.clear()
            await self._reload()
            return True

    async def _changed(self) -> bool:
        try:
            return await self._looking.wait()
        except TimeoutError:  # a mount that hangs, which is reported
            return False

    async def _reload(self) -> ReloadResult:
        now = self._clock.now()
        self._in_vain = False
        try:
            fresh = await self._loading.wait()
        except asyncio.CancelledError:
            self._in_vain = True
            raise
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

    def _load(self) -> Config:
        """On a thread. Raises ``BadConfig``."""
        fresh = self._source.load()
        fresh = self._adapt(fresh) if self._adapt else fresh
        if broken := broken_templates(self._config, fresh):
            raise BadConfig([Problem(str(found), fresh.source, line_of(found.place, fresh.lines)) for found in broken])
        return fresh

    def _late(self, hangs: bool) -> None:
        """On a thread."""
        if not hangs:
            self._in_vain = True

    def _keep(self, now: datetime, problems: Sequence[str], error: Exception | None = None) -> None:
        self.last = ReloadResult(now, tuple(problems))
        log.error("reload_failed", problems=self.last.problems, action="the old configuration stays", exc_info=error)

    def reload_soon(self) -> None:
        """Ask ``follow`` for a reload; for signal handlers."""
        self._asked.set()

    async def follow(self) -> None:
        """Reload whenever the source has changed or somebody asked, at most once a second; for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_SECONDS):
                    await self._asked.wait()
            if await self.reload_if_needed():
                await asyncio.sleep(_LOOK_EVERY_SECONDS)


def broken_templates(old: Config, fresh: Config) -> list[TemplateProblem]:
    """The templates, messages and subjects that a swap would break: those that are no Jinja2, and those that could be
    rendered for a kind of notice and no longer can. A new one may suit only some kinds."""
    found = check_templates(fresh)
    if not found:
        return []
    owners = template_owners(old)
    could_not = {(problem.owner, sample) for problem in check_templates(old) for sample in problem.samples}
    return [
        problem
        for problem in found
        if problem.syntax
        or (problem.owner in owners and any((problem.owner, sample) not in could_not for sample in problem.samples))
    ]


def _report(hangs: bool) -> None:
    if hangs:
        log.error("configuration_hangs", action="the configuration in force stays")
    else:
        log.info("configuration_answers_again")


def _fixed_changes(old: Config, fresh: Config) -> list[str]:
    fixed = {
        "store.url": (old.store.url, fresh.store.url),
        "http.listen": (old.http.listen, fresh.http.listen),
        "log.format": (old.log_format, fresh.log_format),
    }
    return [name for name, (before, now) in fixed.items() if before != now]
