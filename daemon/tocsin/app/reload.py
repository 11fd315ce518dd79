"""Where the configuration comes from, and how a running process gets a new one.

Everything that can fail is done first, then one reference is swapped between two steps. A bad file leaves the old
configuration in force, as does a template that can no longer be rendered; the log, the status and a metric show it.
What is only read at a start (the store, the listener) is reported when it changed, and left as it is.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from tocsin.config import BadConfig, Problem, from_environment, load_file
from tocsin.config.files import Inputs
from tocsin.config.load import Check, config_path_from_environment
from tocsin.config.model import Config
from tocsin.config.problems import line_of
from tocsin.deliver.check import TemplateProblem, check_templates, template_owners
from tocsin.deliver.transport import check_channel_url
from tocsin.kit.clock import Clock
from tocsin.kit.files import SingleFlight
from tocsin.web.context import ReloadResult

T = TypeVar("T")
log = structlog.get_logger("tocsin.app.reload")
_POLL_SECONDS = 1.0
_LOADING_SECONDS = 60.0


class ConfigSource(Protocol):
    def load(self) -> Config:
        """Read it now; blocks. Raises ``BadConfig``."""
        ...

    def changed(self) -> bool:
        """Whether it differs from what ``load`` last read, whether that succeeded or not; blocks."""
        ...


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

    def __init__(
        self, source: ConfigSource, config: Config, clock: Clock, *, loading_seconds: float = _LOADING_SECONDS
    ) -> None:
        self._source = source
        self._clock = clock
        self._config = replace(config, loaded_at=clock.now())
        self._listeners: list[Callable[[], None]] = []
        self._lock = asyncio.Lock()
        self._adapt: Callable[[Config], Config] = lambda config: config
        self._requested = asyncio.Event()
        self._discarded = False  # a configuration was read after nobody waited for it, and never came into force
        self._loading = SingleFlight(self._load, "reading the configuration", loading_seconds, self._on_late_load)
        self._looking = SingleFlight(source.changed, "looking at the configuration", hangs=_report_hang)
        self.last = ReloadResult(clock.now())

    def __call__(self) -> Config:
        return self._config

    def adapt(self, change: Callable[[Config], Config]) -> None:
        """Apply ``change`` to the present configuration and to each one that is read from now on."""
        self._adapt = change
        self._config = change(self._config)

    def derive(self, compute: Callable[[Config], T]) -> Callable[[], T]:
        """What ``compute`` returns for the configuration in force; it is called once for each. Safe in any thread."""
        cached: tuple[Config, T] | None = None

        def value() -> T:
            nonlocal cached
            config, known = self._config, cached
            if known is None or known[0] is not config:
                known = cached = config, compute(config)
            return known[1]

        return value

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each reload."""
        self._listeners.append(listener)

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

    def request_reload(self) -> None:
        """Ask ``follow`` for a reload; for signal handlers."""
        self._requested.set()

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
        problems: Sequence[str] = ()
        cause: Exception | None = None
        try:
            fresh = await self._loading.wait()
        except asyncio.CancelledError:
            self._discarded = True
            raise
        except BadConfig as error:
            problems = [str(problem) for problem in error.problems]
        except Exception as error:  # noqa: BLE001 - one reading is one unit of work: the old configuration stays
            problems, cause = [f"{type(error).__name__}: {error}"], error
        else:
            needs_restart = tuple(_needs_restart(self._config, fresh))
            self._config = replace(fresh, store=replace(fresh.store, url=self._config.store.url), loaded_at=now)
            self.last = ReloadResult(now, (), needs_restart)
            log.info("reloaded", needs_restart=needs_restart)
        if problems:
            self.last = ReloadResult(now, tuple(problems))
            action = "the old configuration stays"
            log.error("reload_failed", problems=self.last.problems, action=action, exc_info=cause)
        for listener in self._listeners:
            listener()
        return self.last

    def _load(self) -> Config:
        """On a thread. Raises ``BadConfig``."""
        fresh = self._adapt(self._source.load())
        if broken := broken_templates(self._config, fresh):
            raise BadConfig([Problem(str(found), fresh.source, line_of(found.place, fresh.lines)) for found in broken])
        return fresh

    def _on_late_load(self, hangs: bool) -> None:
        """On a thread."""
        if not hangs:
            self._discarded = True


def broken_templates(old: Config, fresh: Config) -> list[TemplateProblem]:
    """The templates, messages and subjects that a swap would break: those that are no Jinja2, and those that could be
    rendered for a kind of notice and no longer can. A new one may suit only some kinds."""
    problems = check_templates(fresh)
    if not problems:
        return []
    owners = template_owners(old)
    broken_before = {(problem.owner, sample) for problem in check_templates(old) for sample in problem.samples}
    return [
        problem
        for problem in problems
        if problem.syntax
        or (problem.owner in owners and any((problem.owner, sample) not in broken_before for sample in problem.samples))
    ]


def _report_hang(hangs: bool) -> None:
    if hangs:
        log.error("configuration_read_stuck", action="the configuration in force stays")
    else:
        log.info("configuration_read_recovered")


def _needs_restart(old: Config, fresh: Config) -> list[str]:
    fixed = {
        "store.url": (old.store.url, fresh.store.url),
        "http.listen": (old.http.listen, fresh.http.listen),
        "log.format": (old.log.format, fresh.log.format),
    }
    return [name for name, (before, after) in fixed.items() if before != after]
