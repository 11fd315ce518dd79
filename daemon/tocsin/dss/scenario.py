"""A scenario: its state, its runs, its definition, and how to run and stop it."""

import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tocsin.dss import wire
from tocsin.dss.discussion import DSSObjectDiscussions
from tocsin.dss.errors import DSSInvalidReply
from tocsin.dss.fields import (
    Field,
    Reading,
    get_flag,
    get_object,
    get_text,
    get_time,
    only_objects,
    only_texts,
    require_text,
)
from tocsin.dss.run import DSSScenarioRun
from tocsin.dss.settings import PythonScriptBasedScenarioSettings, StepBasedScenarioSettings, read_script, read_settings
from tocsin.dss.trigger import DSSScenarioRunWaiter, DSSTriggerFire
from tocsin.dss.waits import within
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient

_DEEPEST_SEARCH = 1000  # runs; DSS itself calls more than that unhealthy
_DAY = timedelta(days=1)


class DSSScenario:
    """A handle; making one asks DSS nothing."""

    def __init__(self, client: "DSSClient", project_key: str, id: str) -> None:
        self.client = client
        self.project_key = project_key
        self.id = id

    def __repr__(self) -> str:
        return f"<DSSScenario {self.project_key}/{self.id}>"

    async def run(self, params: Raw | None = None) -> DSSTriggerFire:
        """Ask for a run; ``params`` become the trigger's. The answer is a trigger fire, not a run."""
        request = wire.run_scenario(self.project_key, self.id, json_body=params or {})
        return DSSTriggerFire(self, await self.client.perform(request))

    async def run_and_wait(
        self, params: Raw | None = None, no_fail: bool = False, *, timeout: float | None = None
    ) -> DSSScenarioRun | None:
        """Ask for a run and wait for its end, ``timeout`` seconds at most for all of it.

        Raises ``DSSWaitTimeout``, ``DSSRunCancelled``, and ``DSSRunFailed`` for any outcome but SUCCESS. With
        ``no_fail`` neither of the last two: then None means that the fire was cancelled. Giving up, by timeout or
        cancellation, does not abort the run.
        """
        async with within(timeout, f"a run of {self.project_key}/{self.id} and its end"):
            fire = await self.run(params)
            if (run := await fire.wait_for_scenario_run(no_fail)) is None:
                return None
            return await DSSScenarioRunWaiter(run, fire).wait(no_fail)

    async def get_trigger_fire(self, trigger_id: str, trigger_run_id: str) -> DSSTriggerFire:
        request = wire.get_trigger_fire(self.project_key, self.id, trigger_id, triggerRunId=trigger_run_id)
        return DSSTriggerFire(self, await self.client.perform(request))

    async def abort(self) -> Raw:
        """Ask DSS to stop the current run, if there is one; it ends a little later, as ABORTED."""
        return await self.client.perform(wire.abort_scenario(self.project_key, self.id))

    async def delete(self) -> Raw:
        return await self.client.perform(wire.delete_scenario(self.project_key, self.id))

    async def get_settings(self) -> StepBasedScenarioSettings | PythonScriptBasedScenarioSettings:
        """The definition, to be read or changed and saved."""
        return await read_settings(self)

    def get_object_discussions(self) -> DSSObjectDiscussions:
        return DSSObjectDiscussions(self.client, self.project_key, "SCENARIO", self.id)

    async def get_status(self) -> "DSSScenarioStatus":
        """The light summary: active, running, next run."""
        return DSSScenarioStatus(self, await self.client.perform(wire.get_scenario_status(self.project_key, self.id)))

    async def get_last_runs_raw(self, limit: int = 10, only_finished_runs: bool = False) -> list[Any]:
        """The list as DSS sent it, newest first, whatever its items are."""
        return await self.client.perform(
            wire.get_last_runs(self.project_key, self.id, limit=limit, onlyFinishedRuns=only_finished_runs)
        )

    async def get_last_runs(self, limit: int = 10, only_finished_runs: bool = False) -> list[DSSScenarioRun]:
        """The newest runs first, the running one included unless ``only_finished_runs``."""
        return self._runs(await self.get_last_runs_raw(limit, only_finished_runs))

    async def get_runs_by_date_raw(self, from_day: date | str, to_day: date | str) -> list[Any]:
        """DSS's list for whole days of the server's time zone, ``to_day`` excluded; its order is not documented."""
        return await self.client.perform(
            wire.get_runs_by_date(self.project_key, self.id, fromDate=_day(from_day), toDate=_day(to_day))
        )

    async def get_runs_by_date(self, from_date: date | str, to_date: date | str | None = None) -> list[DSSScenarioRun]:
        """Runs that started in [from, to), the newest first; without ``to_date`` up to now.

        Dates, ``YYYY-MM-DD`` strings and naive datetimes mean days in the server's time zone. Aware datetimes are
        exact: the days around them are read, since the server's zone is not known, and the runs filtered.
        """
        # No zone's clock is further than a day from UTC, so two days ahead include all that has started.
        until = to_date if to_date is not None else self.client.clock.now().date() + 2 * _DAY
        runs = self._runs(await self.get_runs_by_date_raw(_day(from_date, -_DAY), _day(until, 2 * _DAY)))
        if isinstance(from_date, datetime) and from_date.tzinfo:
            runs = [run for run in runs if run.start_time is None or run.start_time >= from_date]
        if isinstance(to_date, datetime) and to_date.tzinfo:
            runs = [run for run in runs if run.start_time is None or run.start_time < to_date]
        return sorted(runs, key=lambda run: run.start_time or self.client.clock.now(), reverse=True)

    async def get_run(self, run_id: str) -> DSSScenarioRun:
        """One run by its id."""
        details = await self.client.perform(wire.get_run(self.project_key, self.id, run_id))
        if not (run := get_object(details, "scenarioRun")):
            raise DSSInvalidReply("run details without scenarioRun", operation="get_run", body=str(details)[:200])
        return self._run(run)

    async def get_current_run(self) -> DSSScenarioRun | None:
        """The run that runs now; None if none does."""
        return next((run for run in await self.get_last_runs(1) if run.running), None)

    async def get_last_finished_run(self) -> DSSScenarioRun:
        """The last run that ended, whatever its outcome. Raises ``ValueError`` if there is none."""
        return (await self._last_where(1, lambda run: not run.running, "finished"))[0]

    async def get_last_successful_run(self) -> DSSScenarioRun:
        """The last run that ended with SUCCESS or WARNING. Raises ``ValueError`` if there is none."""
        return (await self._last_where(1, lambda run: run.good, "successful"))[0]

    async def get_average_duration(self, limit: int = 3) -> float | None:
        """Seconds, over the last ``limit`` runs that ended with SUCCESS or WARNING; None if there are fewer."""
        try:
            runs = await self._last_where(limit, lambda run: run.good, "successful")
        except ValueError:
            return None
        return sum(run.duration for run in runs) / limit

    async def get_definition(self, with_status: bool = True) -> Raw:
        """Deprecated: use ``get_status``, or ``get_settings`` for the definition."""
        _deprecated("get_definition", "get_status or get_settings")
        row = wire.get_scenario_status if with_status else wire.get_scenario
        return await self.client.perform(row(self.project_key, self.id))

    async def set_definition(self, definition: Raw, with_status: bool = True) -> Raw:
        """Deprecated: use ``get_settings`` and its ``save``, which sees conflicts."""
        _deprecated("set_definition", "get_settings")
        row = wire.save_scenario_status if with_status else wire.save_scenario
        return await self.client.perform(row(self.project_key, self.id, json_body=definition))

    async def get_payload(self, extension: str = "py") -> str:
        """Deprecated: use ``get_settings`` and its ``code``."""
        _deprecated("get_payload", "get_settings")
        return await read_script(self, extension)

    async def set_payload(self, script: str, extension: str = "py") -> Raw:
        """Deprecated: use ``get_settings``, its ``code`` and its ``save``."""
        _deprecated("set_payload", "get_settings")
        body = {"script": script, "extension": extension}
        return await self.client.perform(wire.save_scenario_payload(self.project_key, self.id, json_body=body))

    async def _last_where(
        self, wanted: int, suits: Callable[[DSSScenarioRun], bool], what: str
    ) -> list[DSSScenarioRun]:
        """The newest ``wanted`` runs that suit, reading ever further back. Raises ``ValueError`` if there are fewer."""
        limit = max(10, wanted)
        while True:
            raw = await self.get_last_runs_raw(limit, only_finished_runs=True)
            found = [run for run in self._runs(raw) if suits(run)][:wanted]
            if len(found) == wanted > 0:
                return found
            if len(raw) < limit or limit >= _DEEPEST_SEARCH:
                raise ValueError(f"{self.project_key}/{self.id} has no {what} run" + " (or too few)" * (wanted > 1))
            limit = min(4 * limit, _DEEPEST_SEARCH)

    def _run(self, raw: Raw) -> DSSScenarioRun:
        return DSSScenarioRun(self.client, raw, self.project_key, self.id)

    def _runs(self, raw: list[Any]) -> list[DSSScenarioRun]:
        return [self._run(item) for item in only_objects(raw)]


def _deprecated(method: str, instead: str) -> None:
    message = f"DSSScenario.{method} is deprecated; use {instead}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def _day(day: date | str, margin: timedelta = timedelta(0)) -> str:
    """The day as DSS writes it; an aware moment becomes a day of UTC with a margin for the server's zone."""
    match day:
        case datetime(tzinfo=None):
            return day.strftime("%Y-%m-%d")
        case datetime():
            return (day.astimezone(UTC) + margin).strftime("%Y-%m-%d")
        case _:
            return str(day)


class DSSScenarioStatus(Reading):
    """The light summary of a scenario."""

    active = Field(get_flag, "active")
    """Whether its automatic triggers are on."""
    running = Field(get_flag, "running")
    start_time = Field(get_time, "start")
    """Start of the current run; None when idle."""
    next_run = Field(get_time, "nextRun")
    """When the next time trigger fires; None if there is none that is active. DSS launches 60 s later."""

    def __init__(self, scenario: DSSScenario, data: Raw) -> None:
        super().__init__(data)
        self.scenario = scenario


class DSSScenarioListItem(dict[str, Any]):
    """One scenario of a project's list, as DSS sent it; its attributes are as those of ``DSSScenarioStatus``."""

    active = Field(get_flag, "active")
    running = Field(get_flag, "running")
    start_time = Field(get_time, "start")
    next_run = Field(get_time, "nextRun")

    def __init__(self, client: "DSSClient", project_key: str, data: Raw) -> None:
        super().__init__(data)
        self.client = client
        self.project_key = project_key

    def to_scenario(self) -> DSSScenario:
        return DSSScenario(self.client, self.project_key, self.id)

    @property
    def id(self) -> str:
        return require_text(self, "id", "scenario")

    @property
    def name(self) -> str:
        """For people; the id if there is no name."""
        return get_text(self, "name") or self.id

    @property
    def tags(self) -> list[str]:
        return only_texts(self.get("tags"))
