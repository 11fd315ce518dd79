"""One run, step by step: run conditions, retries, outcomes, report items and the log.

A scenario with a behaviour plays the parts planned for it. Otherwise each step does what its type says: ``kinds``
really executes what can be executed here; every other type only takes time and succeeds, unless its ``params.sim``
(``duration``, ``outcome``, ``error``, ``warnings``) tells another story.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from tocsin.kit.clock import from_ms, to_ms
from tocsin.sim import documents
from tocsin.sim.behaviour import BadWorld, Behaviour, Document, StepPlan
from tocsin.sim.clock import PastTimeline, Timeline
from tocsin.sim.formula import UnreadableFormula, evaluate_formula, is_true
from tocsin.sim.nouns import LiveHandle, SimJob, SimRun, SimScenario
from tocsin.sim.variables import run_variables
from tocsin.sim.world import World

if TYPE_CHECKING:
    from tocsin.sim.engine import Engine

SEVERITY = ("SUCCESS", "WARNING", "FAILED")
_JOB_LOGGER = "dku.flow.jobrunner"
JOB_LIMIT = 500  # finished jobs a project remembers
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How a step, a job or a script ended."""

    outcome: str = "SUCCESS"
    thrown: Document | None = None
    warnings: Sequence[str] = ()

    @classmethod
    def failed(cls, clazz: str, message: str, stack: str = "", code: str = "") -> "ExecutionResult":
        thrown = {"clazz": clazz, "title": clazz.rpartition(".")[2], "message": message}
        thrown["stack"] = stack or f"{clazz}: {message}"
        return cls("FAILED", {**thrown, "code": code} if code else thrown)


StepExecutor = Callable[["RunExecution", Document, Document], Awaitable[ExecutionResult]]


class RunExecution:
    """One run being performed. Ends are written into the run's documents as they happen."""

    def __init__(
        self,
        engine: "Engine",
        scenario: SimScenario,
        run: SimRun,
        timeline: Timeline,
        kinds: Mapping[str, StepExecutor],
    ) -> None:
        self.engine = engine
        self.scenario = scenario
        self.run = run
        self.timeline = timeline
        self._kinds = kinds

    async def perform(self, parts: dict[str, StepPlan] | None) -> ExecutionResult:
        """Perform all steps; ``parts`` is what each is to play, by step id. The run's own end is the caller's."""
        definition = self.run.document["scenario"]
        self.say("", f"Starting scenario {self.scenario.project_key}.{self.scenario.id} run {self.run.id}")
        if definition["type"] != "step_based":
            return await self._script(parts)
        status = "SUCCESS"
        for step in definition["params"].get("steps", ()):
            if not self._wanted(step, status):
                continue
            if step.get("resetScenarioStatus"):
                status = "SUCCESS"
            outcome = await self._with_retries(step, parts)
            if outcome == "ABORTED":
                return ExecutionResult("ABORTED")
            status = max(status, self._counted(step, outcome), key=SEVERITY.index)
        return ExecutionResult(status)

    def say(self, step_id: str, message: str, logger: str = "dku.scenario", level: str = "INFO") -> None:
        """Add to the run's log."""
        self.run.log.say(self.timeline.now(), message, logger, level, step_id)

    def variables(self) -> Document:
        """All variables as conditions and templates see them now."""
        return run_variables(self.engine.world, self.scenario, self.run)

    async def play(self, step: Document, step_run: Document, part: StepPlan) -> ExecutionResult:
        """Act a part: take its time, say its lines, meet its end; a build does so in a job of its own."""
        if step.get("type") == "build_flowitem":
            return await self._build(step, step_run, part)
        for line in part.log:
            self.say(step.get("id", ""), line, "process")
        await self.timeline.sleep_until(self.timeline.now() + part.duration)
        return ExecutionResult(part.outcome, part.thrown, part.warnings)

    async def _script(self, parts: dict[str, StepPlan] | None) -> ExecutionResult:
        step = {"id": "", "type": "custom_python", "params": {"script": self.scenario.payload}}
        if parts is not None:
            return await self.play(step, {}, parts[""])
        return await self._kinds["custom_python"](self, step, {})

    def _wanted(self, step: Document, status: str) -> bool:
        if step.get("enabled") is False:
            return False
        match step.get("runConditionType"):
            case "DISABLED":
                return False
            case "RUN_ALWAYS":
                return True
            case "RUN_CONDITIONALLY":
                try:
                    return is_true(evaluate_formula(str(step.get("runConditionExpression")), self.variables()))
                except UnreadableFormula as error:
                    self.say(step["id"], f"Step skipped, its condition cannot be read: {error}", level="WARN")
                    return False
            case _:
                return status in (step.get("runConditionStatuses") or ("SUCCESS", "WARNING"))

    @staticmethod
    def _counted(step: Document, outcome: str) -> str:
        """What a step's outcome counts for in the outcome of the run."""
        params = step["params"]
        if outcome == "WARNING" and params.get("handleWarningsAs") in SEVERITY:
            return str(params["handleWarningsAs"])
        if outcome == "FAILED" and params.get("proceedOnFailure"):
            return "WARNING"
        return outcome

    async def _with_retries(self, step: Document, parts: dict[str, StepPlan] | None) -> str:
        attempts = 1 + max(0, int(step.get("maxRetriesOnFail") or 0))
        outcome = "SUCCESS"
        for attempt in range(attempts):
            if attempt:
                pause = timedelta(seconds=float(step.get("delayBetweenRetries") or 0))
                await self.timeline.sleep_until(self.timeline.now() + pause)
            outcome = await self._attempt(step, attempt, parts)
            if outcome != "FAILED":
                break
        return outcome

    async def _attempt(self, step: Document, attempt: int, parts: dict[str, StepPlan] | None) -> str:
        step_run: Document = {
            "step": step,
            "runId": documents.opaque_id(),
            "retryIndex": attempt,
            "start": to_ms(self.timeline.now()),
            "end": 0,
            "additionalReportItems": [],
        }
        self.run.step_runs.append(step_run)
        self.say(step["id"], f"Starting step {step['name']} ({step['type']})")
        ending = ExecutionResult("ABORTED")
        try:
            if parts is not None:
                ending = await self.play(step, step_run, parts[step["id"]])
            elif (kind := self._kinds.get(step["type"])) is not None:
                ending = await kind(self, step, step_run)
            else:
                ending = await self.play(step, step_run, part_of(step, attempt, self.scenario.rng))
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # what stands in params is free
            message = f"The parameters of the step make no sense: {error}"
            ending = ExecutionResult.failed("java.lang.IllegalArgumentException", message)
        finally:
            self._close(step, step_run, ending)
        return ending.outcome

    def _close(self, step: Document, step_run: Document, ending: ExecutionResult) -> None:
        level = {"FAILED": "ERROR", "WARNING": "WARN"}.get(ending.outcome, "INFO")
        if ending.thrown is not None:
            self.say(step["id"], ending.thrown["stack"], level=level)
        self.say(step["id"], f"Step {step['name']} ended: {ending.outcome}", level=level)
        part: Document = {"warnings": documents.counted_warnings(ending.warnings)}
        in_item = any(item.get("thrown") for item in step_run["additionalReportItems"])
        if ending.outcome == "FAILED" and not in_item:
            part["thrown"] = ending.thrown or {"clazz": "", "title": "", "message": "", "stack": ""}
            part["logTail"] = self.run.log.tail(self.engine.world.zone, step["id"])
        step_run["end"] = to_ms(self.timeline.now())
        target = {**target_of(self.scenario, "SCENARIO_STEP"), "stepId": step["id"]}
        step_run["result"] = documents.result(
            "STEP_DONE", ending.outcome, target, step_run["start"], step_run["end"], part
        )

    async def _build(self, step: Document, step_run: Document, part: StepPlan) -> ExecutionResult:
        """A build: its error sits in the report item of the job, not in the step's own result."""
        builds = step["params"].get("builds") or [{"itemId": step["name"]}]
        outputs = [
            {"type": b.get("type", "DATASET"), "id": b.get("itemId"), "projectKey": b.get("projectKey")} for b in builds
        ]
        definition = {"type": step["params"].get("jobType", "RECURSIVE_BUILD"), "outputs": outputs}
        login = documents.effective_login(self.run.document["scenario"])
        job = new_job(self.engine.world, self.scenario.project_key, definition, login, self.timeline.now())
        self.say(step["id"], f"Started job {job.id}")
        ending = ExecutionResult("ABORTED")
        try:
            ending = await run_job(job, part, self.timeline)
        finally:
            extra: Document = {"jobId": job.id, "jobProjectKey": self.scenario.project_key}
            if ending.outcome == "FAILED":
                extra |= {"thrown": ending.thrown, "logTail": job.log.tail(self.engine.world.zone)}
            target = {"type": "JOBS", "projectKey": self.scenario.project_key}
            item = documents.result("JOB_EXECUTED", ending.outcome, target, job.start, job.end, extra)
            step_run.setdefault("additionalReportItems", []).append(item)
        return ending


def part_of(step: Document, attempt: int, rng: random.Random) -> StepPlan:
    """The part that a step of an emulated type plays by itself: one second and success, or its ``params.sim``.

    That one is a behaviour whose cycle of outcomes counts the attempts, so that a step can fail before it succeeds.
    """
    raw = step["params"].get("sim")
    if raw is None:
        return StepPlan(timedelta(seconds=1))
    try:
        behaviour = Behaviour.parse(raw, f"step {step['id']}: params.sim")
    except BadWorld as error:
        return StepPlan(
            timedelta(0), "FAILED", ExecutionResult.failed("java.lang.IllegalArgumentException", str(error)).thrown
        )
    return behaviour.plan(behaviour.outcomes.draw(attempt, rng), attempt, [step], rng)[step["id"]]


def target_of(scenario: SimScenario, kind: str = "SCENARIO") -> Document:
    return {"type": kind, "projectKey": scenario.project_key, "scenarioId": scenario.id}


def new_job(world: World, project_key: str, definition: Document, login: str, now: datetime) -> SimJob:
    """A job that begins now, known to its project."""
    jobs = world.project(project_key).jobs
    names = [str(output.get("id") or "") for output in definition.get("outputs") or ()]
    item = "".join(c if c.isalnum() or c in "_-" else "_" for c in (names[0] if names else "job"))
    stamped = f"Build_{item}_{documents.job_stamp(now)}"
    job_id = next(i for n in itertools.count() if (i := f"{stamped}-{n}" if n else stamped) not in jobs)
    job = jobs[job_id] = SimJob(job_id, definition, to_ms(now), login)
    if len(jobs) > JOB_LIMIT:
        oldest = next((key for key, old in jobs.items() if old.end), None)
        jobs.pop(oldest or "", None)
    return job


async def run_job(job: SimJob, part: StepPlan, timeline: Timeline) -> ExecutionResult:
    """Let a job take its time; it ends as its part says, or ABORTED when it is told to."""

    state, ending = "ABORTED", ExecutionResult("ABORTED")
    try:
        job.log.say(timeline.now(), f"Job {job.id} started by {job.login}", _JOB_LOGGER)
        for line in part.log:
            job.log.say(timeline.now(), line, "process")
        until = from_ms(job.start) + part.duration
        if isinstance(timeline, PastTimeline):
            await timeline.sleep_until(until)
            done: bool | None = True
        else:
            job.live = job.live or LiveHandle()
            done = await race(_true(timeline.sleep_until(until)), job.live.abort.wait())
        if done:
            state = "FAILED" if part.outcome == "FAILED" else "ABORTED" if part.outcome == "ABORTED" else "DONE"
            ending = ExecutionResult(part.outcome, part.thrown if state == "FAILED" else None, part.warnings)
    finally:
        job.state, job.end, job.live = state, to_ms(timeline.now()), None
        if ending.thrown is not None:
            job.failure = ending.thrown
            job.log.say(timeline.now(), ending.thrown["stack"], _JOB_LOGGER, "ERROR")
        job.log.say(timeline.now(), f"Job finished: {state}", _JOB_LOGGER)
    return ending


async def race(work: Coroutine[object, object, T], stopper: Coroutine[object, object, object]) -> T | None:
    """The result of ``work``, or ``None`` if ``stopper`` ended first; what has lost is cancelled."""
    tasks = asyncio.create_task(work), asyncio.create_task(stopper)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _true(work: Awaitable[None]) -> bool:
    await work
    return True
