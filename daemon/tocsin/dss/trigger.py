"""From asking for a run to its end.

DSS answers a request for a run with a trigger fire, not with a run: the run comes a moment later, or never, if the
scenario was running already or another trigger fired.
"""

from enum import Enum
from typing import TYPE_CHECKING

from tocsin.dss import wire
from tocsin.dss.errors import DSSRunCancelled
from tocsin.dss.fields import get_object, require_text
from tocsin.dss.run import DSSScenarioRun
from tocsin.dss.waits import within
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.scenario import DSSScenario

_LOOKS_PER_REFRESH = 5  # a cancelled fire shows only in the fire itself, which costs a request of its own


class _Fate(Enum):
    CANCELLED = "cancelled"


def _known(fate: DSSScenarioRun | _Fate | None) -> DSSScenarioRun | _Fate | None:
    return fate


class DSSTriggerFire:
    """One firing of a trigger."""

    def __init__(self, scenario: "DSSScenario", trigger_fire: Raw) -> None:
        self.client = scenario.client
        self.scenario = scenario
        self.project_key = scenario.project_key
        self.scenario_id = scenario.id
        self.trigger_id = require_text(get_object(trigger_fire, "trigger"), "id", "trigger fire's trigger")
        self.run_id = require_text(trigger_fire, "runId", "trigger fire")
        """The fire's own id, not that of the run that comes of it."""
        self.trigger_fire = trigger_fire
        self._looks = 0

    def get_raw(self) -> Raw:
        return self.trigger_fire

    async def get_scenario_run(self) -> DSSScenarioRun | None:
        """The run that came of this fire; None as long as there is none."""
        request = wire.get_run_for_trigger(
            self.project_key, self.scenario_id, triggerId=self.trigger_id, triggerRunId=self.run_id
        )
        run = get_object(await self.client.perform(request), "scenarioRun")
        return DSSScenarioRun(self.client, run, self.project_key, self.scenario_id) if run else None

    async def is_cancelled(self, refresh: bool = False) -> bool:
        """As it was last read; ``refresh`` asks DSS."""
        if refresh:
            request = wire.get_trigger_fire(
                self.project_key, self.scenario_id, self.trigger_id, triggerRunId=self.run_id
            )
            self.trigger_fire = await self.client.perform(request)
        return bool(self.trigger_fire.get("cancelled"))

    async def wait_for_scenario_run(
        self, no_fail: bool = False, *, timeout: float | None = None
    ) -> DSSScenarioRun | None:
        """Wait for the run, ``timeout`` seconds at most. Raises ``DSSWaitTimeout``, and ``DSSRunCancelled`` if the
        fire was cancelled; with ``no_fail`` that is None instead."""
        key = ("fire", self.project_key, self.scenario_id, self.trigger_id, self.run_id)
        async with within(timeout, f"a run of {self.project_key}/{self.scenario_id}"):
            fate = await self.client.waits.until(key, self._look, _known)
        if isinstance(fate, DSSScenarioRun):
            return fate
        if no_fail:
            return None
        raise DSSRunCancelled(f"{self.project_key}/{self.scenario_id}, fire {self.run_id}")

    async def _look(self) -> DSSScenarioRun | _Fate | None:
        if run := await self.get_scenario_run():
            return run
        self._looks += 1
        cancelled = await self.is_cancelled(refresh=self._looks % _LOOKS_PER_REFRESH == 0)
        return _Fate.CANCELLED if cancelled else None


class DSSScenarioRunWaiter:
    """Waits for the end of the run that came of a trigger fire."""

    def __init__(self, scenario_run: DSSScenarioRun, trigger_fire: DSSTriggerFire) -> None:
        self.scenario_run = scenario_run
        self.trigger_fire = trigger_fire

    async def wait(self, no_fail: bool = False, *, timeout: float | None = None) -> DSSScenarioRun:
        """The ended run. Raises as ``DSSScenarioRun.wait_for_completion``."""
        await self.scenario_run.wait_for_completion(no_fail, timeout=timeout)
        return self.scenario_run
