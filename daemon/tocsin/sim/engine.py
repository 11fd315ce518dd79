"""What makes the world move: triggers fire, fires become runs, runs end, and what follows them fires in turn."""

import asyncio
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial

import structlog

from tocsin.kit.clock import isoformat, to_ms
from tocsin.sim import documents
from tocsin.sim.archive import SqliteArchive
from tocsin.sim.behaviour import Behaviour, Document, ExecutionResult, SimError, StepPlan
from tocsin.sim.clock import PastTimeline, WorldClock
from tocsin.sim.entities import LiveHandle, SimJob, SimProject, SimRun, SimScenario, TriggerFire, local_stamp
from tocsin.sim.execution import RunExecution, StepExecutor, new_job, race, run_job
from tocsin.sim.reporters import Reporters
from tocsin.sim.world import World

log = structlog.get_logger(__name__)

# What these triggers poll is not emulated; a behaviour's spontaneous starts stand in for it.
_POLLED = ("ds_modified", "sql_query", "custom_python")
_MAX_FUTURES = 1000
_MS = timedelta(milliseconds=1)


class Engine:
    """Runs one world. Everything is called on the event loop that ``start`` was awaited on."""

    def __init__(self, world: World, clock: WorldClock, archive: SqliteArchive, reporters: Reporters) -> None:
        self.world = world
        self.clock = clock
        self.archive = archive
        self.reporters = reporters
        self.executors: Mapping[str, StepExecutor] = {}  # set before ``start``
        self.futures: OrderedDict[str, tuple[SimScenario, SimRun]] = OrderedDict()
        self._tasks: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        """Generate the history that behaviours ask for, then let triggers fire."""
        now = self.clock.now()
        for scenario in self.world.every_scenario():
            if not scenario.runs:
                await self._make_history(scenario, now)
            self._arm(scenario)
            self._arm_spontaneous(scenario, first=True)

    async def stop(self) -> None:
        self.clock.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[object, object, object], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def changed(self, scenario: SimScenario) -> None:
        """Apply the definition of a scenario that is new or was changed."""
        scenario.read_triggers(self.world.zone)
        if reason := scenario.trigger_error:
            log.warning("trigger_invalid", project=scenario.project_key, scenario=scenario.id, reason=reason)
        self._arm(scenario)
        self.archive.keep_scenario(scenario)

    def delete(self, scenario: SimScenario) -> None:
        self.abort(scenario)
        for pending in (scenario.occurrence_alarm, scenario.spontaneous_alarm, scenario.waiting, *scenario.delayed):
            if pending is not None:
                pending.cancel()
        self.world.project(scenario.project_key).scenarios.pop(scenario.id, None)
        self.archive.drop(scenario.project_key, scenario.id)

    def switched(self) -> None:
        """Apply a change of the automatic triggers of the instance or of a project."""
        for scenario in self.world.every_scenario():
            self._arm(scenario)

    def clear_history(self, scenario: SimScenario, limit: int = 0) -> None:
        """Forget the oldest runs beyond ``limit`` that have ended, as the macro that clears scenario logs does."""
        for run_id in scenario.trim(limit):
            self.archive.drop(scenario.project_key, scenario.id, run_id)

    def _automatic(self, scenario: SimScenario) -> bool:
        """Whether the scenario's automatic triggers are on: its own switch, its project's and the instance's."""
        project = self.world.project(scenario.project_key)
        off = project.document.get("disableAutomaticTriggers") or not self.world.automatic_triggers
        return bool(scenario.definition["active"]) and not off

    def _arm(self, scenario: SimScenario) -> None:
        if scenario.occurrence_alarm is not None:
            scenario.occurrence_alarm.cancel()
            scenario.occurrence_alarm = None
        if not scenario.definition["active"]:
            scenario.evaluated.clear()
            return
        due = [at for _, at in self._occurrences(scenario, self.clock.now()) if at is not None]
        if due and self._automatic(scenario):
            scenario.occurrence_alarm = self.clock.call_at(min(due), partial(self._on_occurrence, scenario))

    def _occurrences(self, scenario: SimScenario, now: datetime) -> Iterator[tuple[Document, datetime | None]]:
        """Each temporal trigger and its next occurrence that was not acted on; in the past if it can be caught up."""
        for trigger, temporal in scenario.temporals:
            since = scenario.evaluated.setdefault(trigger["id"], now)
            yield trigger, temporal.after(max(since, now - temporal.period / 10))

    def _on_occurrence(self, scenario: SimScenario) -> None:
        now = self.clock.now()
        for trigger, occurrence in list(self._occurrences(scenario, now)):
            scenario.evaluated[trigger["id"]] = now
            if occurrence is not None and occurrence <= now:
                self._activate(scenario, trigger, {"expectedStart": isoformat(occurrence)})
        self._arm(scenario)
        self.archive.keep_scenario(scenario)

    def _activate(self, scenario: SimScenario, trigger: Document, params: Document) -> None:
        """An automatic trigger's condition holds: promote the scenario, unless it runs and that suppresses triggers."""
        if scenario.current is not None and scenario.when_running("suppressTriggersWhileRunning"):
            return
        fire = self._new_fire(scenario, trigger, params)
        if scenario.busy:
            self._delay_or_drop(scenario, fire)
        else:
            self._await_launch(scenario, fire, self.world.promotion_delay)

    def _arm_spontaneous(self, scenario: SimScenario, *, first: bool = False) -> None:
        behaviour = scenario.behaviour
        if behaviour is not None and behaviour.every is not None:
            span = behaviour.first if first and behaviour.first else behaviour.every
            at = self.clock.now() + span.draw(scenario.rng)
            scenario.spontaneous_alarm = self.clock.call_at(at, partial(self._on_spontaneous, scenario))

    def _on_spontaneous(self, scenario: SimScenario) -> None:
        """A spontaneous start: as if what a trigger polls had changed, or, without such a trigger, by hand."""
        self._arm_spontaneous(scenario)
        polled = [trigger for trigger in scenario.definition["triggers"] if trigger["type"] in _POLLED]
        active = [trigger for trigger in polled if trigger["active"]]
        if not scenario.busy and (not polled or (active and self._automatic(scenario))):
            self.launch(scenario, active[0] if active else documents.BY_HAND, {}, {})

    def launch(
        self, scenario: SimScenario, trigger: Document, params: Document, auth: Document, wait_for_turn: bool = False
    ) -> TriggerFire:
        """Fire by hand, with the scenario's own auth if ``auth`` is empty; a running scenario drops or delays the fire."""
        fire = self._new_fire(scenario, trigger, params)
        if auth:
            fire.document["triggerAuthCtx"] = auth
        fire.settled = asyncio.Event() if wait_for_turn else None
        if not scenario.busy:
            self._await_launch(scenario, fire, self.world.launch_delay, imminent=True)
        elif wait_for_turn:
            scenario.delayed.append(fire)
        else:
            self._delay_or_drop(scenario, fire)
        return fire

    def _new_fire(
        self, scenario: SimScenario, trigger: Document, params: Document, at: datetime | None = None
    ) -> TriggerFire:
        at = at or self.clock.now()
        fires, runs = scenario.fires, scenario.runs
        fire_id = self._free_stamp(at + _MS, lambda stamp: stamp in runs or any(stamp == used for _, used in fires))
        document = {
            "projectKey": scenario.project_key,
            "scenarioId": scenario.id,
            "trigger": trigger,
            "runId": fire_id,
            "timestamp": to_ms(at),
            "cancelled": False,
            "params": params,
            "triggerAuthCtx": documents.run_auth(scenario.definition),
        }
        fire = fires[trigger["id"], fire_id] = TriggerFire(document)
        return fire

    def _free_stamp(self, moment: datetime, is_taken: Callable[[str], bool]) -> str:
        stamps = (local_stamp(moment + n * _MS, self.world.zone) for n in itertools.count())
        return next(stamp for stamp in stamps if not is_taken(stamp))

    def _delay_or_drop(self, scenario: SimScenario, fire: TriggerFire) -> None:
        if not scenario.when_running("delayWhileRunning"):
            fire.cancel()
            return
        if scenario.when_running("squashDelayedTriggers"):
            for earlier in scenario.delayed:
                earlier.cancel()
            scenario.delayed.clear()
        scenario.delayed.append(fire)

    def _await_launch(
        self, scenario: SimScenario, fire: TriggerFire, delay: timedelta, *, imminent: bool = False
    ) -> None:
        if scenario.waiting is not None:
            scenario.waiting.cancel()
        fire.imminent = imminent
        scenario.waiting = fire
        fire.alarm = self.clock.call_at(self.clock.now() + delay, partial(self._begin, scenario, fire))

    def _begin(self, scenario: SimScenario, fire: TriggerFire) -> None:
        scenario.waiting = None
        run = self._new_run(scenario, fire, self.clock.now())
        run.live = LiveHandle()
        scenario.current = run
        self.futures[run.future_id] = (scenario, run)
        while len(self.futures) > _MAX_FUTURES:
            self.futures.popitem(last=False)
        if fire.settled is not None:
            fire.settled.set()
        self._keep(scenario, run)
        self._spawn(self._live(scenario, run, run.live), f"run {scenario.project_key}.{scenario.id}")

    def _new_run(self, scenario: SimScenario, fire: TriggerFire, start: datetime) -> SimRun:
        fire_id = fire.document["runId"]
        run_id = self._free_stamp(start, lambda stamp: stamp in scenario.runs or stamp == fire_id)
        definition = scenario.snapshot()
        document = {
            "scenario": definition,
            "runId": run_id,
            "start": to_ms(start),
            "end": 0,
            "trigger": fire.document,
            **dict.fromkeys(("runAsUser", "effectiveUser"), documents.run_auth(definition)),
            "variables": fire.variables,
            "clustersUsed": [],
            "reportersStates": [],
        }
        run = scenario.runs[run_id] = fire.run = SimRun(document, documents.opaque_id())
        return run

    async def _live(self, scenario: SimScenario, run: SimRun, handle: LiveHandle) -> None:
        """One run from its start to its end, with its reporters; then the fires that wait for its end."""
        execution = RunExecution(self.world, scenario, run, self.clock, self.executors)
        plans: dict[str, StepPlan] | None = None
        try:
            await self._report(scenario, run, "START")
            if scenario.behaviour is not None:
                turn, rng = scenario.turns, scenario.rng
                scenario.turns += 1
                plans = scenario.behaviour.plan(scenario.behaviour.outcomes.draw(turn, rng), turn, scenario.steps, rng)
            result = await race(execution.execute(plans), self._aborted(handle)) or ExecutionResult("ABORTED")
        except Exception as error:  # this run ends as FAILED and says why; the world goes on
            log.exception("run_error", project=scenario.project_key, scenario=scenario.id, run=run.id)
            result = ExecutionResult("FAILED", SimError(str(error), f"java.lang.{type(error).__name__}").thrown)
        end = self.clock.now()
        await self._report(scenario, run, "END", result.outcome)
        self._finish(scenario, run, result, end)
        self._keep(scenario, run)
        self.clear_history(scenario, self.world.history_limit)
        scenario.current, run.live = None, None
        handle.over.set()
        for follower in list(self.world.every_scenario()):
            for trigger, (project_key, scenario_id) in follower.follows:
                if (project_key, scenario_id) == (scenario.project_key, scenario.id) and self._automatic(follower):
                    self._activate(follower, trigger, {"projectKey": project_key, "scenarioId": scenario_id})
        scenario.delayed = [fire for fire in scenario.delayed if not fire.document["cancelled"]]
        if scenario.delayed:
            self._await_launch(scenario, scenario.delayed.pop(0), self.world.launch_delay, imminent=True)

    async def _aborted(self, handle: LiveHandle) -> None:
        """Return once an abort was asked for and has had its time to take effect."""
        await handle.abort.wait()
        await self.clock.sleep(self.world.abort_delay)

    def abort(self, scenario: SimScenario) -> bool:
        """Ask the current run to end as ABORTED after ``abort_delay``. Whether there was one."""
        run = scenario.current
        if run is None or run.live is None:
            return False
        run.live.abort.set()
        return True

    async def _report(self, scenario: SimScenario, run: SimRun, phase: str, outcome: str = "") -> None:
        for reporter in run.document["scenario"]["reporters"]:
            if reporter["active"] and reporter.get("phase", "END") == phase:
                try:
                    await self.reporters.report(scenario, run, reporter, outcome)
                except Exception:  # this reporter sends nothing; the run goes on
                    log.exception("reporter_error", project=scenario.project_key, scenario=scenario.id, run=run.id)

    def _finish(self, scenario: SimScenario, run: SimRun, result: ExecutionResult, end: datetime) -> None:
        more: Document = {}
        if result.thrown is not None:
            more = {"thrown": result.thrown, "logTail": run.log.tail(self.world.zone)}
        times = run.document["start"], to_ms(end)
        target = documents.scenario_target(scenario)
        item = documents.report_item("SCENARIO_DONE", result.outcome, target, *times, **more)
        run.document |= {"end": to_ms(end), "result": item}

    def _keep(self, scenario: SimScenario, run: SimRun) -> None:
        project = self.world.projects.get(scenario.project_key)
        if project is not None and project.scenarios.get(scenario.id) is scenario:
            self.archive.keep_run(scenario, run, project.jobs_of(run))

    def start_job(self, project: SimProject, definition: Document, login: str) -> SimJob:
        """A job outside of any scenario; ``sim`` in its definition is a behaviour, as for a step."""
        behaviour = Behaviour.parse(definition.get("sim"), "job.sim")
        job = new_job(self.world, project.key, definition, login, self.clock.now())
        job.live = LiveHandle()
        rng = random.Random(job.id)
        plan = behaviour.plan(behaviour.outcomes.draw(0, rng), 0, [], rng)[""]
        self._spawn(run_job(job, plan, self.clock), job.id)
        return job

    async def record_run(
        self, scenario: SimScenario, start: datetime, outcome: str = "SUCCESS", *, turn: int = 0
    ) -> SimRun:
        """Add a run of the past that began at ``start``. A scenario without behaviour acts out the default one."""
        behaviour, world, triggers = scenario.behaviour or Behaviour(), self.world, scenario.definition["triggers"]
        trigger = next((trigger for trigger in triggers if trigger["active"]), documents.BY_HAND)
        delay = world.promotion_delay if trigger["type"] == "temporal" else world.launch_delay
        fire = self._new_fire(scenario, trigger, {}, at=start - delay)
        latest = next(reversed(scenario.runs.values()), None)
        run = self._new_run(scenario, fire, start)
        timeline = PastTimeline(start)
        plans = behaviour.plan(outcome, turn, scenario.steps, scenario.rng)
        result = await RunExecution(world, scenario, run, timeline, self.executors).execute(plans)
        self._finish(scenario, run, result, timeline.now())
        if latest is not None and latest.start > run.start:
            scenario.runs = dict(sorted(scenario.runs.items(), key=lambda item: item[1].start))
        return run

    async def _make_history(self, scenario: SimScenario, now: datetime) -> None:
        behaviour = scenario.behaviour
        if behaviour is None or behaviour.history is None:
            return
        history, starts = behaviour.history, list[datetime]()
        if history.every is not None:
            start = now
            for _ in range(history.runs):
                start -= history.every.draw(scenario.rng)
                starts.insert(0, start)
        elif scenario.temporals and history.runs:
            temporal = scenario.temporals[0][1]
            at: datetime | None = now - temporal.period * (history.runs + 2) * 1.3
            while at is not None and (at := temporal.after(at)) is not None and at < now:
                starts.append(at + self.world.promotion_delay)
        outcomes = history.outcomes or behaviour.outcomes
        free_from = datetime.min.replace(tzinfo=now.tzinfo)
        for turn, start in enumerate(starts[-history.runs :]):
            outcome = outcomes.draw(turn, scenario.rng)
            run = await self.record_run(scenario, max(start, free_from), outcome, turn=turn)
            if run.end > now:
                del scenario.runs[run.id]
                break
            free_from = run.end + timedelta(seconds=1)
        scenario.trim(self.world.history_limit)
