"""A project, and the long tasks of DSS: jobs and futures."""

from typing import Any, Literal, overload

from tocsin.dss import wire
from tocsin.dss.errors import DSSError
from tocsin.dss.fields import Field, RawView, get_object, get_text, get_time, only_objects, require_text
from tocsin.dss.scenario import DSSScenario, DSSScenarioListItem
from tocsin.dss.waits import within
from tocsin.dss.wire import APIClient, DSSHandle, Raw


class DSSProject(DSSHandle):
    def __init__(self, client: APIClient, project_key: str) -> None:
        super().__init__(client, project_key)
        self.project_key = project_key

    async def get_summary(self) -> Raw:
        return await self._call(wire.get_project_summary)

    async def get_settings(self) -> "DSSProjectSettings":
        return DSSProjectSettings(await self._call(wire.get_project_settings))

    def get_scenario(self, scenario_id: str) -> DSSScenario:
        return DSSScenario(self.client, self.project_key, scenario_id)

    async def list_scenarios_raw(self) -> list[Any]:
        return await self._call(wire.list_scenarios)

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
            return [self.get_scenario(item["id"]) for item in only_objects(raw) if get_text(item, "id")]
        return [DSSScenarioListItem(self.client, self.project_key, item) for item in only_objects(raw)]

    async def create_scenario(self, scenario_name: str, type: str, definition: Raw | None = None) -> DSSScenario:
        """``type`` is step_based or custom_python. ``definition`` may hold all that a saved one holds."""
        body = {"params": {}, **(definition or {}), "type": type, "name": scenario_name}
        created = await self._call(wire.create_scenario, json_body=body)
        return self.get_scenario(require_text(created, "id", "new scenario"))

    async def list_test_scenarios(self) -> list[DSSScenario]:
        items = only_objects(await self.list_scenarios_raw())
        return [self.get_scenario(item["id"]) for item in items if get_text(item, "id") and item.get("markedAsTest")]

    async def get_testing_status(self, bundle_id: str | None = None) -> "DSSTestingStatus":
        """The last outcomes of all test scenarios; on an automation node those under ``bundle_id``."""
        return DSSTestingStatus(await self._call(wire.get_testing_status, bundleId=bundle_id))

    async def get_last_test_scenario_runs_report(self, bundle_id: str | None = None) -> bytes:
        """JUnit XML."""
        return await self._call(wire.get_test_report, bundleId=bundle_id)

    async def get_last_test_scenario_runs_html_report(self, bundle_id: str | None = None) -> bytes:
        return await self._call(wire.get_test_html_report, bundleId=bundle_id)

    def get_job(self, id: str) -> "DSSJob":
        return DSSJob(self.client, self.project_key, id)

    async def list_jobs_raw(self) -> list[Any]:
        return await self._call(wire.list_jobs)

    async def list_jobs(self) -> "list[DSSJobListItem]":
        return [DSSJobListItem(self.client, item) for item in only_objects(await self.list_jobs_raw())]

    async def list_running_jobs(self) -> "list[DSSJobListItem]":
        raw = await self._call(wire.list_running_project_jobs)
        return [DSSJobListItem(self.client, item) for item in only_objects(raw)]

    async def get_variables(self) -> Raw:
        """``{"standard": {…}, "local": {…}}``; only the standard ones travel with bundles."""
        return await self._call(wire.get_project_variables)

    async def set_variables(self, obj: Raw) -> None:
        """Replace all variables. Raises ``ValueError`` unless both ``standard`` and ``local`` are there."""
        if missing := {"standard", "local"} - obj.keys():
            raise ValueError(f"the variables lack {', '.join(sorted(missing))}")
        await self._call(wire.save_project_variables, json_body=obj)

    async def update_variables(self, variables: Raw, type: Literal["standard", "local"] = "standard") -> None:
        """Add and replace some, by reading all and writing them back; two updates at once may lose one."""
        current = {"standard": {}, "local": {}, **await self.get_variables()}
        await self.set_variables({**current, type: {**get_object(current, type), **variables}})


class DSSProjectSettings(RawView):
    @property
    def settings(self) -> Raw:
        return self.data


class DSSTestingStatus(RawView):
    @property
    def nb_total_ran_scenarios(self) -> int:
        count = self.data.get("nbTotalRanScenarios")
        return count if isinstance(count, int) else 0

    @property
    def nb_scenarios_per_outcome(self) -> dict[str, int]:
        counts = get_object(self.data, "nbScenariosPerOutcome")
        return {outcome: count for outcome, count in counts.items() if isinstance(count, int)}


class DSSJob(DSSHandle):
    def __init__(self, client: APIClient, project_key: str, id: str) -> None:
        super().__init__(client, project_key, id)
        self.project_key = project_key
        self.id = id

    async def get_status(self) -> Raw:
        """DSS's own object; the state stands in ``baseStatus.state``."""
        return await self._call(wire.get_job)

    async def get_log(self, activity: str | None = None, *, tail_bytes: int | None = None) -> str:
        """The job's log or that of one activity; with ``tail_bytes`` only its end."""
        return await self._call(wire.get_job_log, activity=activity, tail=tail_bytes)

    async def abort(self) -> Raw:
        return await self._call(wire.abort_job)


class DSSJobListItem(dict[str, Any]):
    start_time = Field(get_time, "startTime")
    end_time = Field(get_time, "endTime")

    def __init__(self, client: APIClient, data: Raw) -> None:
        super().__init__(data)
        self.client = client

    @property
    def project_key(self) -> str:
        return get_text(self, "projectKey") or require_text(get_object(self, "def"), "projectKey", "job")

    @property
    def job_id(self) -> str:
        return get_text(self, "jobId") or require_text(get_object(self, "def"), "id", "job")

    def to_job(self) -> DSSJob:
        return DSSJob(self.client, self.project_key, self.job_id)


class DSSFuture(DSSHandle):
    """A long task; a running scenario is one."""

    def __init__(self, client: APIClient, job_id: str, state: Raw | None = None) -> None:
        super().__init__(client, job_id)
        self.job_id = job_id
        self.state: Raw = state or {}
        self._peeked = True

    async def peek_state(self) -> Raw:
        """The state without the result."""
        self.state = await self._call(wire.peek_future, peek=True)
        self._peeked = True
        return self.state

    async def get_state(self) -> Raw:
        """The state with the result, if there is one. DSS may hand a result out only once."""
        self.state = await self._call(wire.get_future, peek=False)
        self._peeked = False
        return self.state

    async def has_result(self) -> bool:
        if not self.state.get("hasResult"):
            await self.peek_state()
        return bool(self.state.get("hasResult"))

    async def get_result(self) -> Any:
        """Raises ``ValueError`` if there is none yet."""
        if self._peeked or not self.state.get("hasResult"):
            await self.get_state()
        if not self.state.get("hasResult"):
            raise ValueError(f"future {self.job_id} has no result yet")
        return self.state.get("result")

    async def wait_for_result(self, *, timeout: float | None = None) -> Any:
        """Raises ``DSSWaitTimeout``, and ``DSSError`` if the task ended without a result."""

        def ended(state: Raw) -> bool | None:
            if not state.get("hasResult") and (state.get("aborted") or state.get("alive") is False):
                raise DSSError(f"future {self.job_id} ended without a result", operation="peek_future")
            return bool(state.get("hasResult")) or None

        async with within(timeout, f"the result of future {self.job_id}"):
            await self.client.waits.until(("future", self.job_id), self.peek_state, ended)
        return await self.get_result()

    async def abort(self) -> None:
        """Ask DSS to stop the task; for a running scenario this aborts the run."""
        await self._call(wire.abort_future)
