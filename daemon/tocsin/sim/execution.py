"""One run, step by step: run conditions, retries, outcomes, report items and the log.

A scenario with a behaviour acts out the plans of its steps. Otherwise ``executors`` execute the types they know; every
other step takes a second and succeeds, unless its ``params.sim`` (a behaviour) says otherwise.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim.behaviour import Behaviour, Document, ExecutionResult, SimError, StepPlan
from tocsin.sim.clock import PastTimeline, Timeline
from tocsin.sim.documents import effective_login, opaque_id, report_item, scenario_target
from tocsin.sim.entities import LiveHandle, SimJob, SimRun, SimScenario, local_stamp
from tocsin.sim.formula import UnreadableFormula, evaluate_formula, is_true
from tocsin.sim.world import World

SEVERITY = ("SUCCESS", "WARNING", "FAILED")
_JOB_LOGGER = "dku.flow.jobrunner"
_MAX_JOBS = 500  # jobs that a project keeps
T = TypeVar("T")

StepExecutor = Callable[["RunExecution", Document, Document], Awaitable[ExecutionResult | None]]
"""Executes one step (second argument) and may add report items to its step run (third); ``None`` is success."""


@dataclass(frozen=True, slots=True)
class RunExecution:
    """Executes the steps of one run. Their ends are written into the run's documents as they happen."""

    world: World
    scenario: SimScenario
    run: SimRun
    timeline: Timeline
    executors: Mapping[str, StepExecutor]

    async def execute(self, plans: dict[str, StepPlan] | None) -> ExecutionResult:
        """Execute all steps; ``plans`` is what each is to act out, by step id. The run's own end is the caller's."""
        definition = self.run.document["scenario"]
        self.log("", f"Starting scenario {self.scenario.project_key}.{self.scenario.id} run {self.run.id}")
        if definition["type"] != "step_based":
            script = {"id": "", "type": "custom_python", "params": {"script": self.scenario.payload}}
            return await self._perform(script, {}, plans)
        status = "SUCCESS"
        for step in definition["params"].get("steps", ()):
            if not self._should_run(step, status):
                continue
            if step.get("resetScenarioStatus"):
                status = "SUCCESS"
            outcome = "SUCCESS"
            for attempt in range(1 + max(0, int(step.get("maxRetriesOnFail") or 0))):
                if attempt:
                    pause = timedelta(seconds=float(step.get("delayBetweenRetries") or 0))
                    await self.timeline.sleep_until(self.timeline.now() + pause)
                outcome = await self._attempt(step, attempt, plans)
                if outcome != "FAILED":
                    break
            if outcome == "ABORTED":
                return ExecutionResult("ABORTED")
            if outcome == "WARNING" and step["params"].get("handleWarningsAs") in SEVERITY:
                outcome = step["params"]["handleWarningsAs"]
            elif outcome == "FAILED" and step["params"].get("proceedOnFailure"):
                outcome = "WARNING"
            status = max(status, outcome, key=SEVERITY.index)
        return ExecutionResult(status)

    def log(self, step_id: str, message: str, logger: str = "dku.scenario", level: str = "INFO") -> None:
        self.run.log.add(self.timeline.now(), message, logger, level, step_id)

    def variables(self) -> Document:
        return self.world.run_variables(self.scenario, self.run)

    def _should_run(self, step: Document, status: str) -> bool:
        condition = step.get("runConditionType")
        if step.get("enabled") is False or condition == "DISABLED":
            return False
        if condition == "RUN_CONDITIONALLY":
            try:
                return is_true(evaluate_formula(str(step.get("runConditionExpression")), self.variables()))
            except UnreadableFormula as error:
                self.log(step["id"], f"Step skipped, its condition cannot be read: {error}", level="WARN")
                return False
        return condition == "RUN_ALWAYS" or status in (step.get("runConditionStatuses") or ("SUCCESS", "WARNING"))

    async def _attempt(self, step: Document, attempt: int, plans: dict[str, StepPlan] | None) -> str:
        step_run: Document = {
            "step": step,
            "runId": opaque_id(),
            "retryIndex": attempt,
            "start": to_ms(self.timeline.now()),
            "end": 0,
            "additionalReportItems": [],
        }
        self.run.step_runs.append(step_run)
        self.log(step["id"], f"Starting step {step['name']} ({step['type']})")
        result = ExecutionResult("ABORTED")
        try:
            result = await self._perform(step, step_run, plans, attempt)
        finally:
            level = {"FAILED": "ERROR", "WARNING": "WARN"}.get(result.outcome, "INFO")
            if result.thrown is not None:
                self.log(step["id"], result.thrown["stack"], level=level)
            self.log(step["id"], f"Step {step['name']} ended: {result.outcome}", level=level)
            stored = [{"message": message} for message in result.warnings]
            kinds = {"CUSTOM": {"count": len(stored), "stored": stored}} if stored else {}
            more: Document = {"warnings": {"totalCount": len(stored), "warnings": kinds}}
            in_item = any(item.get("thrown") for item in step_run["additionalReportItems"])
            if result.outcome == "FAILED" and not in_item:
                more["thrown"] = result.thrown or dict.fromkeys(("clazz", "title", "message", "stack"), "")
                more["logTail"] = self.run.log.tail(self.world.zone, step["id"])
            start, end = step_run["start"], to_ms(self.timeline.now())
            target = {**scenario_target(self.scenario, "SCENARIO_STEP"), "stepId": step["id"]}
            step_run |= {"end": end, "result": report_item("STEP_DONE", result.outcome, target, start, end, **more)}
        return result.outcome

    async def _perform(
        self, step: Document, step_run: Document, plans: dict[str, StepPlan] | None, attempt: int = 0
    ) -> ExecutionResult:
        try:
            plan, rng = StepPlan(), self.scenario.rng
            if plans is not None:
                plan = plans[step["id"]]
            elif step["type"] in self.executors:
                return await self.executors[step["type"]](self, step, step_run) or plan
            elif (raw := step["params"].get("sim")) is not None:  # its outcomes cycle with the attempts
                behaviour = Behaviour.parse(raw, f"step {step['id']}: params.sim")
                plan = behaviour.plan(behaviour.outcomes.draw(attempt, rng), attempt, [step], rng)[step["id"]]
            if step.get("type") == "build_flowitem":
                return await self._build(step, step_run, plan)
            for line in plan.log:
                self.log(step.get("id", ""), line, "process")
            await self.timeline.sleep_until(self.timeline.now() + plan.duration)
            return plan
        except SimError as error:
            return ExecutionResult("FAILED", error.thrown)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # what stands in params is free
            message = f"The parameters of the step make no sense: {error}"
            return ExecutionResult("FAILED", SimError(message).thrown)

    async def _build(self, step: Document, step_run: Document, plan: StepPlan) -> ExecutionResult:
        """Act the plan out in a job; its error stands in the job's report item, not in the step's own result."""
        builds, project_key = step["params"].get("builds") or [{"itemId": step["name"]}], self.scenario.project_key
        outputs = [
            {"type": b.get("type", "DATASET"), "id": b.get("itemId"), "projectKey": b.get("projectKey")} for b in builds
        ]
        definition = {"type": step["params"].get("jobType", "RECURSIVE_BUILD"), "outputs": outputs}
        login = effective_login(self.run.document["scenario"])
        job = new_job(self.world, project_key, definition, login, self.timeline.now())
        self.log(step["id"], f"Started job {job.id}")
        result = ExecutionResult("ABORTED")
        try:
            result = await run_job(job, plan, self.timeline)
        finally:
            more: Document = {"jobId": job.id, "jobProjectKey": project_key}
            if result.outcome == "FAILED":
                more |= {"thrown": result.thrown, "logTail": job.log.tail(self.world.zone)}
            target = {"type": "JOBS", "projectKey": project_key}
            item = report_item("JOB_EXECUTED", result.outcome, target, job.start, job.end, **more)
            step_run["additionalReportItems"].append(item)
        return result


def new_job(world: World, project_key: str, definition: Document, login: str, now: datetime) -> SimJob:
    jobs = world.project(project_key).jobs
    names = [str(output.get("id") or "") for output in definition.get("outputs") or ()]
    item = "".join(c if c.isalnum() or c in "_-" else "_" for c in (names[0] if names else "job"))
    stamped = f"Build_{item}_{local_stamp(now, UTC, '%Y-%m-%dT%H-%M-%S.')}"
    job_id = next(i for n in itertools.count() if (i := f"{stamped}-{n}" if n else stamped) not in jobs)
    job = jobs[job_id] = SimJob(job_id, definition, to_ms(now), login)
    if len(jobs) > _MAX_JOBS:
        oldest = next((key for key, old in jobs.items() if old.end), None)
        jobs.pop(oldest or "", None)
    return job


async def run_job(job: SimJob, plan: StepPlan, timeline: Timeline) -> ExecutionResult:
    """Let a job take its time; it ends as planned, or ABORTED when its handle says so."""
    state, result = "ABORTED", ExecutionResult("ABORTED")
    try:
        job.log.add(timeline.now(), f"Job {job.id} started by {job.login}", _JOB_LOGGER)
        for line in plan.log:
            job.log.add(timeline.now(), line, "process")
        until, aborted = from_ms(job.start) + plan.duration, None
        if isinstance(timeline, PastTimeline):
            await timeline.sleep_until(until)
        else:
            job.live = job.live or LiveHandle()
            aborted = await race(job.live.abort.wait(), timeline.sleep_until(until))
        if not aborted:
            state = plan.outcome if plan.outcome in ("FAILED", "ABORTED") else "DONE"
            result = plan
    finally:
        job.state, job.end, job.live = state, to_ms(timeline.now()), None
        if result.thrown is not None:
            job.failure = result.thrown
            job.log.add(timeline.now(), result.thrown["stack"], _JOB_LOGGER, "ERROR")
        job.log.add(timeline.now(), f"Job finished: {state}", _JOB_LOGGER)
    return result


async def race(work: Coroutine[object, object, T], stopper: Coroutine[object, object, object]) -> T | None:
    """The result of ``work``, or ``None`` if ``stopper`` ended first; the other is cancelled."""
    tasks = asyncio.create_task(work), asyncio.create_task(stopper)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
