"""The rest of the process as the web sees it: things that remember what they were asked."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import aiohttp

from tests.web.rows import CONFIG, NOW
from tocsin.config.model import Config
from tocsin.config.problems import ReloadResult
from tocsin.decide.evaluate import CompiledConfig
from tocsin.decide.external import PostedAlert, take_alerts
from tocsin.metrics.exposition import Exposition
from tocsin.model.alert import Acknowledgement
from tocsin.model.cloudevent import Json
from tocsin.model.run import ScenarioKey
from tocsin.store import Store
from tocsin.store.explanation import (
    AlertExplanation,
    NotFired,
    RunExplanation,
    load_alert_explanation,
    load_run_explanation,
)
from tocsin.web.context import WebContext

Serve = Callable[[], Awaitable[aiohttp.ClientSession]]


class StillClock:
    """Time stands until it is moved."""

    def __init__(self) -> None:
        self.time, self.seconds = NOW, 1000.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class Daemon:
    """What the web asks of the rest of the process."""

    store: Store
    exposition: Exposition
    config: Config = CONFIG
    clock: StillClock = field(default_factory=StillClock)
    tasks: dict[str, bool] = field(default_factory=lambda: {"decide": True, "deliver": True})
    turned_at: float = 1000.0
    not_ready: str | None = None
    nodes: dict[str, Json] = field(default_factory=dict)
    reload_result: ReloadResult = field(default_factory=lambda: ReloadResult(NOW))
    nudges: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    nudge_answer: bool = True
    resolved: list[tuple[str, str]] = field(default_factory=list)
    acknowledged: list[tuple[str, Acknowledgement | None]] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    silent: tuple[NotFired, ...] = ()
    known: set[str] = field(default_factory=set)

    def http(self, **changes: object) -> None:
        self.config = replace(self.config, http=replace(self.config.http, **changes))  # type: ignore[arg-type]

    def context(self) -> WebContext:
        async def reload() -> ReloadResult:
            return self.reload_result

        async def resolve(id: str, by: str) -> bool:
            self.resolved.append((id, by))
            return id in self.known

        async def acknowledge(id: str, by: Acknowledgement | None, _who: str) -> bool:
            self.acknowledged.append((id, by))
            return id in self.known

        async def retry(id: str) -> bool:
            self.retried.append(id)
            return id in self.known

        async def retry_several(ids: Sequence[str]) -> Sequence[str]:
            self.retried += ids
            return ids

        async def take(posted: Sequence[PostedAlert]) -> None:
            await self.store.write(take_alerts, CompiledConfig(self.config), self.clock.now(), posted)

        async def explain(scenario: ScenarioKey, run_id: str) -> RunExplanation | None:
            found = await self.store.read(load_run_explanation, scenario, run_id, sorted(self.config.channels()))
            return None if found is None else replace(found, summary="nothing rang", not_fired=self.silent)

        async def explain_alert(id_: str) -> AlertExplanation | None:
            return await self.store.read(load_alert_explanation, id_, sorted(self.config.channels()))

        def nudge(node: str, project: str | None, scenario: str | None) -> bool:
            self.nudges.append((node, project, scenario))
            return self.nudge_answer

        return WebContext(
            store=self.store, config=lambda: self.config, clock=self.clock, exposition=self.exposition,
            alive=lambda: self.tasks, loop_turned_at=lambda: self.turned_at, ready=lambda: self.not_ready,
            status=lambda: {"nodes": self.nodes}, reload=reload, nudge=nudge, resolve_alert=resolve, retry_delivery=retry,
            retry_deliveries=retry_several, take_alerts=take,
            acknowledge_alert=acknowledge,
            explain=explain, explain_alert=explain_alert,
        )  # fmt: skip
