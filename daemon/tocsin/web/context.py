"""What the HTTP side needs of the rest of the process, as plain values and callables that the application hands in."""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aiohttp import web

from tocsin.config.model import Config
from tocsin.kit.clock import Clock
from tocsin.metrics.exposition import Exposition
from tocsin.model.cloudevent import Json
from tocsin.model.run import ScenarioKey
from tocsin.store import Store
from tocsin.store.story import AlertStory, RunStory


class ReloadResult(Protocol):
    """What became of reading the configuration again."""

    @property
    def at(self) -> datetime: ...
    @property
    def ok(self) -> bool: ...
    @property
    def problems(self) -> tuple[str, ...]:
        """Lines as ``tocsin check`` prints them; empty when it succeeded."""
        ...

    @property
    def needs_restart(self) -> tuple[str, ...]:
        """Settings that changed but are read at a start only."""
        ...


@dataclass(frozen=True, slots=True)
class WebContext:
    """The seams of ``make_app``. Callables that answer at once must not block; ``StoreUnavailable`` may escape others.

    ``loop_turned_at`` is a monotonic time of ``clock``; ``ready`` answers None, or the reason why not. ``nudge`` takes
    a node and, where the hook named them, project and scenario, and answers whether a look will follow.
    ``resolve_alert`` takes an alert's id and who asks, ``retry_delivery`` a notification's id; both answer False for
    what is unknown or not in a state to be changed. ``explain`` answers None for an unknown run,
    ``explain_alert`` for an id that no alert or several begin with.
    """

    store: Store
    config: Callable[[], Config]
    clock: Clock
    exposition: Exposition
    alive: Callable[[], Mapping[str, bool]]
    loop_turned_at: Callable[[], float]
    ready: Callable[[], str | None]
    status: Callable[[], Mapping[str, Json]]
    reload: Callable[[], Awaitable[ReloadResult]]
    nudge: Callable[[str, str | None, str | None], bool]
    resolve_alert: Callable[[str, str], Awaitable[bool]]
    retry_delivery: Callable[[str], Awaitable[bool]]
    explain: Callable[[ScenarioKey, str], Awaitable[RunStory | None]]
    explain_alert: Callable[[str], Awaitable[AlertStory | None]]


SUBJECT: ContextVar[str] = ContextVar("subject", default="unknown")  # who asks, once access was decided
CONTEXT = web.AppKey("context", WebContext)
