"""A project: its scenarios, jobs, variables and test reports."""

from typing import TYPE_CHECKING, Any, Literal, overload

from tocsin.dss import wire
from tocsin.dss.fields import Reading, get_object, only_objects, require_text, with_id
from tocsin.dss.job import DSSJob, DSSJobListItem
from tocsin.dss.scenario import DSSScenario, DSSScenarioListItem
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient


class DSSProject:
    """A handle; making one asks DSS nothing."""

    def __init__(self, client: "DSSClient", project_key: str) -> None:
        self.client = client
        self.project_key = project_key

    async def get_summary(self) -> Raw:
        return await self.client.perform(wire.get_project_summary(self.project_key))

    async def get_settings(self) -> "DSSProjectSettings":
        return DSSProjectSettings(await self.client.perform(wire.get_project_settings(self.project_key)))

    def get_scenario(self, scenario_id: str) -> DSSScenario:
        return DSSScenario(self.client, self.project_key, scenario_id)

    async def list_scenarios_raw(self) -> list[Any]:
        """The list as DSS sent it, whatever its items are."""
        return await self.client.perform(wire.list_scenarios(self.project_key))

    @overload
    async def list_scenarios(self, as_type: Literal["listitems"] = "listitems") -> list[DSSScenarioListItem]: ...
    @overload
    async def list_scenarios(self, as_type: Literal["objects"]) -> list[DSSScenario]: ...
    async def list_scenarios(self, as_type: str = "listitems") -> list[DSSScenarioListItem] | list[DSSScenario]:
        """All scenarios that the credentials may see. Items that are no objects are left out, with
        ``as_type="objects"`` also those without an id."""
        if as_type not in ("listitems", "objects"):
            raise ValueError(f"as_type is listitems or objects, not {as_type!r}")
        raw = await self.list_scenarios_raw()
        if as_type == "objects":
            return [self.get_scenario(id) for id, _ in with_id(raw)]
        return [DSSScenarioListItem(self.client, self.project_key, item) for item in only_objects(raw)]

    async def create_scenario(self, scenario_name: str, type: str, definition: Raw | None = None) -> DSSScenario:
        """``type`` is step_based or custom_python. ``definition`` may hold all that a saved one holds."""
        body = {"params": {}, **(definition or {}), "type": type, "name": scenario_name}
        made = await self.client.perform(wire.create_scenario(self.project_key, json_body=body))
        return self.get_scenario(require_text(made, "id", "new scenario"))

    async def list_test_scenarios(self) -> list[DSSScenario]:
        """The scenarios that are marked as tests."""
        raw = await self.list_scenarios_raw()
        return [self.get_scenario(id) for id, item in with_id(raw) if item.get("markedAsTest")]

    async def get_testing_status(self, bundle_id: str | None = None) -> "DSSTestingStatus":
        """The last outcomes of all test scenarios; on an automation node those under ``bundle_id``."""
        return DSSTestingStatus(
            await self.client.perform(wire.get_testing_status(self.project_key, bundleId=bundle_id))
        )

    async def get_last_test_scenario_runs_report(self, bundle_id: str | None = None) -> bytes:
        """JUnit XML."""
        return await self.client.perform(wire.get_test_report(self.project_key, bundleId=bundle_id))

    async def get_last_test_scenario_runs_html_report(self, bundle_id: str | None = None) -> bytes:
        """HTML."""
        return await self.client.perform(wire.get_test_html_report(self.project_key, bundleId=bundle_id))

    def get_job(self, id: str) -> DSSJob:
        return DSSJob(self.client, self.project_key, id)

    async def list_jobs_raw(self) -> list[Any]:
        """The list as DSS sent it, whatever its items are."""
        return await self.client.perform(wire.list_jobs(self.project_key))

    async def list_jobs(self) -> list[DSSJobListItem]:
        return [DSSJobListItem(self.client, item) for item in only_objects(await self.list_jobs_raw())]

    async def list_running_jobs(self) -> list[DSSJobListItem]:
        raw = await self.client.perform(wire.list_running_project_jobs(self.project_key))
        return [DSSJobListItem(self.client, item) for item in only_objects(raw)]

    async def get_variables(self) -> Raw:
        """``{"standard": {…}, "local": {…}}``; only the standard ones travel with bundles."""
        return await self.client.perform(wire.get_project_variables(self.project_key))

    async def set_variables(self, obj: Raw) -> None:
        """Replace all variables. Raises ``ValueError`` unless both ``standard`` and ``local`` are there."""
        if missing := {"standard", "local"} - obj.keys():
            raise ValueError(f"the variables lack {', '.join(sorted(missing))}")
        await self.client.perform(wire.save_project_variables(self.project_key, json_body=obj))

    async def update_variables(self, variables: Raw, type: Literal["standard", "local"] = "standard") -> None:
        """Add and replace some, by reading all and writing them back; two updates at once may lose one."""
        current = {"standard": {}, "local": {}, **await self.get_variables()}
        await self.set_variables({**current, type: {**get_object(current, type), **variables}})


class DSSProjectSettings(Reading):
    """A project's settings, to be read."""

    @property
    def settings(self) -> Raw:
        return self.data


class DSSTestingStatus(Reading):
    """What the test scenarios of a project last came to."""

    @property
    def nb_total_ran_scenarios(self) -> int:
        value = self.data.get("nbTotalRanScenarios")
        return value if isinstance(value, int) else 0

    @property
    def nb_scenarios_per_outcome(self) -> dict[str, int]:
        counts = get_object(self.data, "nbScenariosPerOutcome")
        return {outcome: count for outcome, count in counts.items() if isinstance(count, int)}
