"""Where the configuration comes from, and how a running process gets a new one.

Everything that can fail is done first, then one reference is swapped between two steps. A bad file, or a template that
can no longer be rendered, leaves the old configuration in force. What is only read at a start is reported, not swapped.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Protocol

import structlog

from tocsin.config import BadConfig, Problem, from_environment, load_file
from tocsin.config.files import Inputs
from tocsin.config.load import Check, config_path_from_environment
from tocsin.config.model import Config
from tocsin.config.problems import ReloadResult, line_of
from tocsin.deliver.check import check_templates, template_owners
from tocsin.deliver.transport import check_channel_url
from tocsin.kit.clock import Clock
from tocsin.kit.files import SingleFlight

log = structlog.get_logger("tocsin.app.reload")
_POLL_SECONDS = 1.0
_READ_AT_START = ("store.url", "http.listen", "log.format")


class ConfigSource(Protocol):
    def load(self) -> Config:
        """Read it now; blocks. Raises ``BadConfig``."""

    def changed(self) -> bool:
        """Whether it differs from what ``load`` last read, whether that succeeded or not; blocks."""


class Source:
    """A file, or the environment where there is none, which never changes."""

    def __init__(self, path: Path | None, check_url: Check = check_channel_url) -> None:
        self.path = path or config_path_from_environment()
        self._check_url = check_url
        self._inputs = Inputs()

    def load(self) -> Config:
        if self.path is None:
            return from_environment(self._check_url)
        self._inputs = Inputs()
        return load_file(self.path, self._check_url, self._inputs)

    def changed(self) -> bool:
        return self._inputs.changed()


class ConfigHolder:
    """Holds the configuration in force. Stages ask for it at each step, so that a swap takes effect between two."""

    def __init__(self, source: ConfigSource, config: Config, clock: Clock, *, loading_seconds: float = 60.0) -> None:
        self._source = source
        self._clock = clock
        self._config = replace(config, loaded_at=clock.now())
        self._listeners: list[Callable[[], None]] = []
        self.on_change = self._listeners.append  # registers what is called after each reload, also a failed one
        self._lock = asyncio.Lock()
        self._adapt: Callable[[Config], Config] = lambda config: config
        self._requested = asyncio.Event()
        self.request_reload = self._requested.set  # of ``follow``; for signal handlers
        self._discarded = False  # a configuration was read when nobody waited any more, and never came into force
        self._loading = SingleFlight(self._load, "reading the configuration", loading_seconds, self._on_late_load)
        self._looking = SingleFlight(source.changed, "looking at the configuration", hangs=_report_hang)
        self.last = ReloadResult(clock.now())

    def __call__(self) -> Config:
        return self._config

    def adapt(self, change: Callable[[Config], Config]) -> None:
        """Apply ``change`` to the present configuration and to each one that is read from now on."""
        self._adapt = change
        self._config = change(self._config)

    async def reload(self) -> ReloadResult:
        """Read the source again and swap, or say why not."""
        async with self._lock:
            return await self._reload()

    async def reload_if_needed(self) -> bool:
        """Reload if the source has changed since it was last read, or a reload was requested; whether it did."""
        async with self._lock:
            if not self._requested.is_set() and not self._discarded:
                try:
                    changed = await self._looking.wait()
                except TimeoutError:  # a mount that hangs, which was logged
                    changed = False
                if not changed:
                    return False
            self._requested.clear()
            await self._reload()
            return True

    async def follow(self) -> None:
        """Reload whenever the source has changed or a reload was requested, at most once a second; for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._requested.wait()
            if await self.reload_if_needed():
                await asyncio.sleep(_POLL_SECONDS)

    async def _reload(self) -> ReloadResult:
        now = self._clock.now()
        self._discarded = False
        problems: list[str] = []
        cause: Exception | None = None
        try:
            fresh = await self._loading.wait()
        except asyncio.CancelledError:
            self._discarded = True
            raise
        except BadConfig as error:
            problems = list(map(str, error.problems))
        except Exception as error:  # noqa: BLE001 - one reading is one unit of work: the old configuration stays
            problems, cause = [f"{type(error).__name__}: {error}"], error
        else:
            needs_restart = tuple(
                name for name in _READ_AT_START if attrgetter(name)(fresh) != attrgetter(name)(self._config)
            )
            self._config = replace(fresh, store=replace(fresh.store, url=self._config.store.url), loaded_at=now)
            self.last = ReloadResult(now, needs_restart=needs_restart)
            log.info("reloaded", needs_restart=needs_restart)
        if problems:
            self.last = ReloadResult(now, tuple(problems))
            action = "the old configuration stays"
            log.error("reload_failed", problems=self.last.problems, action=action, exc_info=cause)
        for listener in self._listeners:
            listener()
        return self.last

    def _load(self) -> Config:
        """On a thread. Raises ``BadConfig``, also for templates, messages and subjects that a swap would break: those
        that are no Jinja2, and those that could be rendered for a kind of notice and no longer can. A new one may suit
        only some kinds."""
        old, fresh = self._config, self._adapt(self._source.load())
        if problems := check_templates(fresh):
            owners = template_owners(old)
            before = {(problem.owner, sample) for problem in check_templates(old) for sample in problem.samples}
            broken = []
            for problem in problems:
                samples = {(problem.owner, sample) for sample in problem.samples}
                if problem.syntax or (problem.owner in owners and not samples <= before):
                    broken.append(Problem(str(problem), fresh.source, line_of(problem.place, fresh.lines)))
            if broken:
                raise BadConfig(broken)
        return fresh

    def _on_late_load(self, hangs: bool) -> None:
        """On a thread."""
        if not hangs:
            self._discarded = True


def _report_hang(hangs: bool) -> None:
    if hangs:
        log.error("configuration_read_stuck", action="the configuration in force stays")
    else:
        log.info("configuration_read_recovered")
