"""One run of a scenario, and the runs of its steps.

Times are aware UTC, durations seconds. What DSS left out reads as None or empty, so that one odd run breaks nothing.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from tocsin.dss import wire
from tocsin.dss.errors import DSSRunFailed
from tocsin.dss.fields import Field, get_object, get_text, get_time, only_objects, require_text
from tocsin.dss.waits import within
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient

GOOD_OUTCOMES = frozenset({"SUCCESS", "WARNING"})


class DSSScenarioRun:
    """A run, as it was when it was read; ``refresh`` reads it again."""

    def __init__(self, client: "DSSClient", run: Raw, project_key: str, scenario_id: str) -> None:
        self.client = client
        self.run = run
        self.project_key = project_key
        self.scenario_id = scenario_id

    def __repr__(self) -> str:
        return f"<DSSScenarioRun {self.project_key}/{self.scenario_id}/{self.run.get('runId')}>"

    @property
    def id(self) -> str:
        """Written as the server's local time, so ids do not sort over a change of the clock."""
        return require_text(self.run, "runId", "scenario run")

    @property
    def running(self) -> bool:
        """A run has ended once it has a result."""
        return not get_object(self.run, "result")

    @property
    def outcome(self) -> str:
        """SUCCESS, WARNING, FAILED, ABORTED, or UNKNOWN if DSS gave none. Raises ``ValueError`` while running."""
        if self.running:
            raise ValueError(f"run {self.run.get('runId')} has no outcome yet")
        return get_text(get_object(self.run, "result"), "outcome") or "UNKNOWN"

    @property
    def good(self) -> bool:
        """Ended with SUCCESS or WARNING."""
        return not self.running and self.outcome in GOOD_OUTCOMES

    @property
    def start_time(self) -> datetime | None:
        return get_time(self.run, "start")

    @property
    def end_time(self) -> datetime:
        """Raises ``ValueError`` while running."""
        if (end := self._end) is None:
            raise ValueError(f"run {self.run.get('runId')} has not ended")
        return end

    @property
    def duration(self) -> float:
        """Seconds from start to end; until now while it runs; 0 if DSS does not tell them."""
        start = self.start_time
        end = self.client.clock.now() if self.running else self._end
        return 0.0 if start is None or end is None else max(0.0, (end - start).total_seconds())

    @property
    def trigger(self) -> Raw:
        """The definition of the trigger that started the run."""
        return get_object(get_object(self.run, "trigger"), "trigger")

    def get_info(self) -> Raw:
        """The run as DSS sent it."""
        return self.run

    get_raw = get_info

    def get_start_time(self) -> datetime | None:
        return self.start_time

    def get_end_time(self) -> datetime:
        return self.end_time

    def get_duration(self) -> float:
        return self.duration

    async def refresh(self) -> None:
        """Read the run again. Raises ``DSSNotFound`` once DSS has cleared it from its history."""
        details = await self.get_details()
        self.run = details.scenario_run or self.run

    async def wait_for_completion(self, no_fail: bool = False, *, timeout: float | None = None) -> None:
        """Wait until the run has ended, ``timeout`` seconds at most; the run itself is not touched by giving up.

        Raises ``DSSWaitTimeout``, and unless ``no_fail`` ``DSSRunFailed`` for any outcome but SUCCESS.
        """
        if self.running:
            async with within(timeout, f"the end of run {self.id} of {self.project_key}/{self.scenario_id}"):
                self.run = await self._ended()
        if self.outcome != "SUCCESS" and not no_fail:
            raise DSSRunFailed(self, self.outcome)

    async def _ended(self) -> Raw:
        """The run once it has a result. All who wait for runs of one scenario share the polls of its last runs."""
        last_runs = wire.get_last_runs(self.project_key, self.scenario_id, limit=3, onlyFinishedRuns=False)
        run = await self.client.waits.until(
            ("last-runs", self.project_key, self.scenario_id), lambda: self.client.perform(last_runs), self._find_ended
        )
        # Empty: newer runs have pushed it off that short list, so that it must have ended. It tells itself how.
        return run or await self.client.waits.until(
            ("run", *self._path),
            lambda: self.client.perform(wire.get_run(*self._path)),
            lambda details: self._find_ended([get_object(details, "scenarioRun")]) or None,
        )

    def _find_ended(self, runs: list[Any]) -> Raw | None:
        """This run, if it has ended; empty if it is not among them."""
        found: Raw = next((run for run in only_objects(runs) if run.get("runId") == self.id), {})
        return found if not found or get_object(found, "result") else None

    async def get_details(self) -> "DSSScenarioRunDetails":
        """The run with the runs of its steps so far."""
        return DSSScenarioRunDetails(await self.client.perform(wire.get_run(*self._path)))

    async def get_log(self, step_id: str | None = None, *, tail_bytes: int | None = None) -> str:
        """The log of the run or of one step; with ``tail_bytes`` only its end, whatever its size."""
        return await self.client.perform(wire.get_run_log(*self._path, stepId=step_id, tail=tail_bytes))

    async def get_report(self) -> bytes:
        """JUnit XML. Raises ``ValueError`` if the scenario was not a test scenario at the time of the run."""
        self._check_test()
        return await self.client.perform(wire.get_run_report(*self._path))

    async def get_step_run_report(self, step_id: str) -> bytes:
        """JUnit XML of one step. Raises ``ValueError`` as ``get_report`` does."""
        self._check_test()
        return await self.client.perform(wire.get_step_run_report(*self._path, stepId=step_id))

    @property
    def _end(self) -> datetime | None:
        return get_time(self.run, "end") or get_time(get_object(self.run, "result"), "end")

    @property
    def _path(self) -> tuple[str, str, str]:
        return self.project_key, self.scenario_id, self.id

    def _check_test(self) -> None:
        if not get_object(self.run, "scenario").get("markedAsTest"):
            raise ValueError(f"run {self.id} was not a run of a test scenario; only those have reports")


class DSSScenarioRunDetails(dict[str, Any]):
    """A run with its steps: DSS's own object, with ``stepRuns`` as ``DSSStepRunDetails``."""

    def __init__(self, raw: Raw) -> None:
        super().__init__(raw)
        self["stepRuns"] = [DSSStepRunDetails(step) for step in only_objects(raw.get("stepRuns"))]

    @property
    def scenario_run(self) -> Raw:
        """The run itself; empty if DSS left it out."""
        return get_object(self, "scenarioRun")

    @property
    def steps(self) -> list["DSSStepRunDetails"]:
        """Ended and ongoing steps in their order; a step that was retried stands once for each try."""
        return [step for step in self["stepRuns"] if isinstance(step, DSSStepRunDetails)]

    @property
    def last_step(self) -> "DSSStepRunDetails | None":
        steps = self.steps
        return steps[-1] if steps else None

    @property
    def first_error_details(self) -> Raw | None:
        """The first error found in any step, as ``DSSStepRunDetails.first_error_details``."""
        return next((error for step in self.steps if (error := step.first_error_details) is not None), None)


class DSSStepRunDetails(dict[str, Any]):
    """One run of one step, as DSS sent it."""

    id = Field(get_text, "id", of="step")
    name = Field(get_text, "name", of="step")
    type = Field(get_text, "type", of="step")
    outcome = Field(get_text, "outcome", of="result")
    """SUCCESS, WARNING, FAILED or ABORTED; None while the step runs."""
    start_time = Field(get_time, "start")
    end_time = Field(get_time, "end")

    @property
    def running(self) -> bool:
        return not get_object(self, "result")

    @property
    def duration(self) -> float | None:
        """Seconds; None while the step runs."""
        start, end = self.start_time, self.end_time
        return None if start is None or end is None else max(0.0, (end - start).total_seconds())

    @property
    def job_ids(self) -> list[str]:
        """The jobs that the step ran."""
        items = only_objects(self.get("additionalReportItems"))
        jobs = (get_text(item, "jobId") for item in items if item.get("type") == "JOB_EXECUTED")
        return [job for job in jobs if job]

    @property
    def first_error_details(self) -> Raw | None:
        """DSS's serialized exception: ``clazz``, ``title``, ``message``, ``stack``, ``code``, ``fixability``.

        A step that failed by itself tells it in its result; a build tells it in the job that failed.
        """
        items = [get_object(self, "result"), *only_objects(self.get("additionalReportItems"))]
        failed = (get_object(item, "thrown") for item in items if item.get("outcome") == "FAILED")
        return next((thrown for thrown in failed if thrown), None)
