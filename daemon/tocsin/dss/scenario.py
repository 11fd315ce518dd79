"""A scenario: its state and its runs."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tocsin.dss import wire
from tocsin.dss.errors import DSSInvalidReply
from tocsin.dss.fields import mapping, moment, needed, objects, text, texts
from tocsin.dss.run import DSSScenarioRun
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

    async def get_status(self) -> "DSSScenarioStatus":
        """The light summary: active, running, next run."""
        return DSSScenarioStatus(
            self, await self.client.perform(wire.get_scenario_status(self.project_key, self.id))
        )

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
            wire.get_runs_by_date(self.project_key, self.id, fromDate=str(from_day), toDate=str(to_day))
        )

    async def get_runs_by_date(
        self, from_date: date | str, to_date: date | str | None = None
    ) -> list[DSSScenarioRun]:
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
        if not (run := mapping(details, "scenarioRun")):
            raise DSSInvalidReply(
                "run details without scenarioRun", operation="get_run", body=str(details)[:200]
            )
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
                raise ValueError(
                    f"{self.project_key}/{self.id} has no {what} run" + " (or too few)" * (wanted > 1)
                )
            limit = min(4 * limit, _DEEPEST_SEARCH)

    def _run(self, raw: Raw) -> DSSScenarioRun:
        return DSSScenarioRun(self.client, raw, self.project_key, self.id)

    def _runs(self, raw: list[Any]) -> list[DSSScenarioRun]:
        return [self._run(item) for item in objects(raw)]


def _day(day: date | str, margin: timedelta) -> str:
    """The day as DSS writes it; an aware moment becomes a day of UTC with a margin for the server's zone."""
    match day:
        case datetime(tzinfo=None):
            return day.strftime("%Y-%m-%d")
        case datetime():
            return (day.astimezone(UTC) + margin).strftime("%Y-%m-%d")
        case _:
            return str(day)


class DSSScenarioStatus:
    """The light summary of a scenario."""

    def __init__(self, scenario: DSSScenario, data: Raw) -> None:
        self.scenario = scenario
        self.data = data

    def get_raw(self) -> Raw:
        return self.data

    @property
    def active(self) -> bool:
        """Whether its automatic triggers are on."""
        return bool(self.data.get("active"))

    @property
    def running(self) -> bool:
        return bool(self.data.get("running"))

    @property
    def start_time(self) -> datetime | None:
        """Start of the current run; None when idle."""
        return moment(self.data, "start")

    @property
    def next_run(self) -> datetime | None:
        """When the next time trigger fires; None if there is none that is active. DSS launches 60 s later."""
        return moment(self.data, "nextRun")


class DSSScenarioListItem(dict[str, Any]):
    """One scenario of a project's list, as DSS sent it."""

    def __init__(self, client: "DSSClient", project_key: str, data: Raw) -> None:
        super().__init__(data)
        self.client = client
        self.project_key = project_key

    def to_scenario(self) -> DSSScenario:
        return DSSScenario(self.client, self.project_key, self.id)

    @property
    def id(self) -> str:
        return needed(self, "id", "scenario")

    @property
    def name(self) -> str:
        """For people; the id if there is no name."""
        return text(self, "name") or self.id

    @property
    def active(self) -> bool:
        return bool(self.get("active"))

    @property
    def running(self) -> bool:
        return bool(self.get("running"))

    @property
    def start_time(self) -> datetime | None:
        """Start of the current run; None when idle."""
        return moment(self, "start")

    @property
    def next_run(self) -> datetime | None:
        return moment(self, "nextRun")

    @property
    def tags(self) -> list[str]:
        return texts(self.get("tags"))
