"""From asking for a run to its end: trigger fires, runs, and the runs of their steps.

DSS answers a request for a run with a trigger fire: the run comes a moment later, or never, if the scenario was running
already or another trigger fired. Times are aware UTC, durations seconds; what DSS left out reads as None or empty.
"""

from collections import Counter
from datetime import datetime
from typing import Any

from tocsin.dss import wire
from tocsin.dss.errors import DSSError, DSSRunCancelled
from tocsin.dss.fields import Field, get_object, get_text, get_time, only_objects, require_text
from tocsin.dss.waits import within
from tocsin.dss.wire import APIClient, DSSHandle, Raw, ScenarioHandle


class DSSScenarioRun(DSSHandle):
    """A run, as it was when it was read; ``refresh`` reads it again."""

    id = Field(lambda raw, key: require_text(raw, key, "scenario run"), "runId")
    """Written as the server's local time, so ids do not sort over a change of the clock."""
    start_time = Field(get_time, "start")
    trigger = Field(get_object, "trigger", of="trigger")
    """The definition of the trigger that started the run."""

    def __init__(self, client: APIClient, run: Raw, project_key: str, scenario_id: str) -> None:
        super().__init__(client, project_key, scenario_id)
        self.run = run
        self.project_key = project_key
        self.scenario_id = scenario_id

    def __repr__(self) -> str:
        return f"<DSSScenarioRun {self.project_key}/{self.scenario_id}/{self.run.get('runId')}>"

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
        return not self.running and self.outcome in ("SUCCESS", "WARNING")

    @property
    def end_time(self) -> datetime:
        """Raises ``ValueError`` while running."""
        if (end := self._end) is None:
            raise ValueError(f"run {self.run.get('runId')} has not ended")
        return end

    @property
    def _end(self) -> datetime | None:
        return get_time(self.run, "end") or get_time(get_object(self.run, "result"), "end")

    @property
    def duration(self) -> float:
        """Seconds from start to end; until now while it runs; 0 if DSS does not tell them."""
        start = self.start_time
        end = self.client.clock.now() if self.running else self._end
        return 0.0 if start is None or end is None else max(0.0, (end - start).total_seconds())

    def get_info(self) -> Raw:
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
        self.run = (await self.get_details()).scenario_run or self.run

    async def wait_for_completion(self, no_fail: bool = False, *, timeout: float | None = None) -> None:
        """Wait until the run has ended, ``timeout`` seconds at most. Raises ``DSSWaitTimeout``, and unless ``no_fail``
        ``DSSRunFailed`` for any outcome but SUCCESS."""
        if self.running:
            async with within(timeout, f"the end of run {self.id} of {self.project_key}/{self.scenario_id}"):
                self.run = await self._wait_for_end()
        if self.outcome != "SUCCESS" and not no_fail:
            raise DSSRunFailed(self, self.outcome)

    async def _wait_for_end(self) -> Raw:
        """The run once it has a result. All who wait for runs of one scenario share the polls of its last runs."""

        def find_ended(runs: list[Any]) -> Raw | None:
            """This run, if it has ended; empty if it is not among them."""
            run: Raw = next((run for run in only_objects(runs) if run.get("runId") == self.id), {})
            return run if not run or get_object(run, "result") else None

        async def read_last() -> list[Any]:
            return await self._call(wire.get_last_runs, limit=3, onlyFinishedRuns=False)

        until = self.client.waits.until
        # Empty: newer runs have pushed it off that short list, so that it must have ended. It tells itself how.
        return await until(("last-runs", *self._path), read_last, find_ended) or await until(
            ("run", *self._path, self.id), self.get_details, lambda own: find_ended([own.scenario_run]) or None
        )

    async def get_details(self) -> "DSSScenarioRunDetails":
        """The run with the runs of its steps so far."""
        return DSSScenarioRunDetails(await self._call(wire.get_run, self.id))

    async def get_log(self, step_id: str | None = None, *, tail_bytes: int | None = None) -> str:
        """The log of the run or of one step; with ``tail_bytes`` only its end, whatever its size."""
        return await self._call(wire.get_run_log, self.id, stepId=step_id, tail=tail_bytes)

    async def get_report(self) -> bytes:
        """JUnit XML. Raises ``ValueError`` if the scenario was not a test scenario at the time of the run."""
        self._check_test()
        return await self._call(wire.get_run_report, self.id)

    async def get_step_run_report(self, step_id: str) -> bytes:
        """JUnit XML of one step. Raises ``ValueError`` as ``get_report`` does."""
        self._check_test()
        return await self._call(wire.get_step_run_report, self.id, stepId=step_id)

    def _check_test(self) -> None:
        if not get_object(self.run, "scenario").get("markedAsTest"):
            raise ValueError(f"run {self.id} was not a run of a test scenario; only those have reports")


class DSSRunFailed(DSSError):
    sentence = "The run did not end with SUCCESS"

    def __init__(self, run: DSSScenarioRun, outcome: str) -> None:
        super().__init__(f"run {run.id} of {run.project_key}/{run.scenario_id} ended with {outcome}")
        self.run = run
        self.outcome = outcome


class DSSScenarioRunDetails(dict[str, Any]):
    """A run with its steps: DSS's own object, with ``stepRuns`` as ``DSSStepRunDetails``."""

    scenario_run = Field(get_object, "scenarioRun")
    """The run itself; empty if DSS left it out."""

    def __init__(self, raw: Raw) -> None:
        super().__init__(raw)
        self["stepRuns"] = [DSSStepRunDetails(step) for step in only_objects(raw.get("stepRuns"))]

    @property
    def steps(self) -> list["DSSStepRunDetails"]:
        """Ended and ongoing steps in their order; a step that was retried stands once for each try."""
        return [step for step in self["stepRuns"] if isinstance(step, DSSStepRunDetails)]

    @property
    def last_step(self) -> "DSSStepRunDetails | None":
        return next(reversed(self.steps), None)

    @property
    def first_error_details(self) -> Raw | None:
        """The first error found in any step, as ``DSSStepRunDetails.first_error_details``."""
        return next((error for step in self.steps if (error := step.first_error_details) is not None), None)


class DSSStepRunDetails(dict[str, Any]):
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
        items = only_objects(self.get("additionalReportItems"))
        return [id for item in items if item.get("type") == "JOB_EXECUTED" and (id := get_text(item, "jobId"))]

    @property
    def first_error_details(self) -> Raw | None:
        """DSS's serialized exception: ``clazz``, ``title``, ``message``, ``stack``, ``code``, ``fixability``. A step
        that failed by itself tells it in its result; a build tells it in the job that failed."""
        items = [get_object(self, "result"), *only_objects(self.get("additionalReportItems"))]
        failed = (get_object(item, "thrown") for item in items if item.get("outcome") == "FAILED")
        return next((thrown for thrown in failed if thrown), None)

    @property
    def warnings(self) -> list[tuple[str, int]]:
        """Why it ended with WARNING: messages, or the kinds of warnings of which DSS keeps none, each with its count."""
        found: list[tuple[str, int]] = []
        for kind, listed in get_object(get_object(get_object(self, "result"), "warnings"), "warnings").items():
            if not isinstance(listed, dict):
                continue
            texts = Counter(text for item in only_objects(listed.get("stored")) if (text := get_text(item, "message")))
            count = listed.get("count")
            in_all = count if isinstance(count, int) and count > 0 else 1
            found += texts.items() if len(texts) > 1 else [(next(iter(texts), str(kind)), in_all)]
        return found


class DSSTriggerFire(DSSHandle):
    def __init__(self, scenario: ScenarioHandle, trigger_fire: Raw) -> None:
        super().__init__(scenario.client, scenario.project_key)
        self.scenario = scenario
        self.project_key = scenario.project_key
        self.scenario_id = scenario.id
        self.trigger_id = require_text(get_object(trigger_fire, "trigger"), "id", "trigger fire's trigger")
        self.run_id = require_text(trigger_fire, "runId", "trigger fire")
        """The fire's own id, not that of the run that comes of it."""
        self.trigger_fire = trigger_fire
        self._polls = 0

    def get_raw(self) -> Raw:
        return self.trigger_fire

    async def get_scenario_run(self) -> DSSScenarioRun | None:
        """The run that came of this fire; None as long as there is none."""
        fire = {"triggerId": self.trigger_id, "triggerRunId": self.run_id}
        run = get_object(await self._call(wire.get_run_for_trigger, self.scenario_id, **fire), "scenarioRun")
        return DSSScenarioRun(self.client, run, self.project_key, self.scenario_id) if run else None

    async def is_cancelled(self, refresh: bool = False) -> bool:
        """As it was last read; ``refresh`` asks DSS."""
        if refresh:
            self.trigger_fire = await self._call(
                wire.get_trigger_fire, self.scenario_id, self.trigger_id, triggerRunId=self.run_id
            )
        return bool(self.trigger_fire.get("cancelled"))

    async def wait_for_scenario_run(
        self, no_fail: bool = False, *, timeout: float | None = None
    ) -> DSSScenarioRun | None:
        """Wait for the run, ``timeout`` seconds at most. Raises ``DSSWaitTimeout``, and ``DSSRunCancelled`` if the
        fire was cancelled; with ``no_fail`` that is None instead."""
        key = ("fire", *self._path, self.scenario_id, self.trigger_id, self.run_id)
        try:
            async with within(timeout, f"a run of {self.project_key}/{self.scenario_id}"):
                return await self.client.waits.until(key, self._find_run, lambda run: run)
        except DSSRunCancelled:
            if no_fail:
                return None
            raise

    async def _find_run(self) -> DSSScenarioRun | None:
        if run := await self.get_scenario_run():
            return run
        self._polls += 1
        if await self.is_cancelled(refresh=self._polls % 5 == 0):  # costs a request of its own
            raise DSSRunCancelled(f"{self.project_key}/{self.scenario_id}, fire {self.run_id}")
        return None


class DSSScenarioRunWaiter:
    def __init__(self, scenario_run: DSSScenarioRun, trigger_fire: DSSTriggerFire) -> None:
        self.scenario_run = scenario_run
        self.trigger_fire = trigger_fire

    async def wait(self, no_fail: bool = False, *, timeout: float | None = None) -> DSSScenarioRun:
        await self.scenario_run.wait_for_completion(no_fail, timeout=timeout)
        return self.scenario_run
