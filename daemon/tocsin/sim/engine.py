"""What makes the world move: triggers fire, fires become runs, runs end, and what follows them fires in turn.

The rules are those of DSS as far as they are known: an automatic trigger promotes its scenario, which is launched 60
seconds later; another activation in between starts the wait anew; a fire by hand launches at once. A scenario never
runs twice at a time: what fires meanwhile is dropped or waits, as the scenario's ``delayedTriggersBehavior`` says.
Occurrences missed while automatic triggers were off are caught up if they are late by a tenth of their period at most.
"""

import asyncio
import itertools
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial

import structlog

from tocsin.kit.clock import isoformat, to_ms
from tocsin.sim import documents
from tocsin.sim.archive import SqliteArchive
from tocsin.sim.behaviour import Behaviour, Document, StepPlan
from tocsin.sim.clock import WorldClock
from tocsin.sim.history import make_history
from tocsin.sim.nouns import LiveHandle, SimJob, SimProject, SimRun, SimScenario, TriggerFire
from tocsin.sim.perform import ExecutionResult, RunExecution, StepExecutor, new_job, race, run_job, target_of
from tocsin.sim.world import World

log = structlog.get_logger(__name__)

# What these triggers poll is not emulated; a behaviour's spontaneous starts stand in for it.
_POLLED = ("ds_modified", "sql_query", "custom_python")
_FUTURES_KEPT = 1000

Sender = Callable[[SimScenario, SimRun, Document, str], Awaitable[None]]


class Engine:
    """The life of one world. Everything is called on the event loop that ``start`` was awaited on."""

    def __init__(
        self, world: World, clock: WorldClock, kinds: Mapping[str, StepExecutor], sender: Sender, archive: SqliteArchive
    ) -> None:
        self.world = world
        self.clock = clock
        self.archive = archive
        self.futures: OrderedDict[str, tuple[SimScenario, SimRun]] = OrderedDict()
        self.kinds = kinds
        self._sender = sender
        self._tasks: set[asyncio.Task[None]] = set()

    # Life

    async def start(self) -> None:
        """Make up the history that behaviours ask for, then let triggers fire."""
        now = self.clock.now()
        for scenario in self.world.every_scenario():
            if not scenario.runs:
                await make_history(self, scenario, now)
            self._arm(scenario)
            self._arm_whim(scenario, first=True)

    async def stop(self) -> None:
        """Stop everything where it is; runs that go on are cut off."""
        self.clock.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        """Let ``work`` go on by itself until the engine stops."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Definitions

    def changed(self, scenario: SimScenario) -> None:
        """Take up a scenario that is new or whose definition was changed."""
        scenario.reread(self.world.zone)
        if scenario.trouble:
            log.warning("trigger_unreadable", project=scenario.project_key, scenario=scenario.id, why=scenario.trouble)
        self._arm(scenario)
        self.archive.keep_scenario(scenario)

    def delete(self, scenario: SimScenario) -> None:
        """Take a scenario out of the world; a run that goes on is aborted."""
        self.abort(scenario)
        for alarm in (scenario.alarm, scenario.whim):
            if alarm is not None:
                alarm.cancel()
        for fire in (scenario.waiting, *scenario.delayed):
            if fire is not None:
                fire.cancel()
        self.world.project(scenario.project_key).scenarios.pop(scenario.id, None)
        self.archive.drop_scenario(scenario)

    def switched(self) -> None:
        """Take up a change of the automatic triggers of the instance or of a project."""
        for scenario in self.world.every_scenario():
            self._arm(scenario)

    def automatic(self, scenario: SimScenario) -> bool:
        """Whether the scenario's automatic triggers are on: its own switch, its project's and the instance's."""
        project = self.world.project(scenario.project_key)
        off = project.document.get("disableAutomaticTriggers") or not self.world.automatic_triggers
        return bool(scenario.definition["active"]) and not off

    # Automatic triggers

    def _arm(self, scenario: SimScenario) -> None:
        """Set the scenario's alarm to the next occurrence of its temporal triggers."""
        if scenario.alarm is not None:
            scenario.alarm.cancel()
            scenario.alarm = None
        if not scenario.definition["active"]:
            scenario.evaluated.clear()
            return
        now = self.clock.now()
        due = [at for _, at in self._occurrences(scenario, now) if at is not None]
        if due and self.automatic(scenario):
            scenario.alarm = self.clock.call_at(min(due), partial(self._on_time, scenario))

    def _occurrences(self, scenario: SimScenario, now: datetime) -> Iterator[tuple[Document, datetime | None]]:
        """Each temporal trigger and its next occurrence that was not acted on; in the past if it can be caught up."""
        for trigger, temporal in scenario.temporals:
            since = scenario.evaluated.setdefault(trigger["id"], now)
            yield trigger, temporal.after(max(since, now - temporal.period / 10))

    def _on_time(self, scenario: SimScenario) -> None:
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
        auth = documents.auth_context(documents.effective_login(scenario.definition))
        fire = self._new_fire(scenario, trigger, params, auth)
        if scenario.busy:
            self._meanwhile(scenario, fire)
        else:
            self._await_launch(scenario, fire, self.world.promotion_delay)

    def _followers(self, ended: SimScenario) -> None:
        followed = (ended.project_key, ended.id)
        for scenario in list(self.world.every_scenario()):
            for trigger, target in scenario.follows:
                if target == followed and self.automatic(scenario):
                    self._activate(scenario, trigger, {"projectKey": target[0], "scenarioId": target[1]})

    def _arm_whim(self, scenario: SimScenario, *, first: bool = False) -> None:
        behaviour = scenario.behaviour
        if behaviour is not None and behaviour.every is not None:
            span = behaviour.first if first and behaviour.first else behaviour.every
            at = self.clock.now() + span.draw(scenario.rng)
            scenario.whim = self.clock.call_at(at, partial(self._on_whim, scenario))

    def _on_whim(self, scenario: SimScenario) -> None:
        """A spontaneous start: as if what a trigger polls had changed, or, without such a trigger, by hand."""
        self._arm_whim(scenario)
        login = documents.effective_login(scenario.definition)
        polled = [t for t in scenario.definition["triggers"] if t["type"] in _POLLED]
        on = [trigger for trigger in polled if trigger["active"]]
        if not scenario.busy and (not polled or (on and self.automatic(scenario))):
            self.launch(scenario, on[0] if on else documents.BY_HAND, {}, documents.auth_context(login))

    # Fires

    def launch(
        self,
        scenario: SimScenario,
        trigger: Document,
        params: Document,
        auth: Document,
        *,
        variables: Document | None = None,
        wait_for_turn: bool = False,
    ) -> TriggerFire:
        """Fire by hand: the run starts within milliseconds. A running scenario drops or delays the fire."""
        fire = self._new_fire(scenario, trigger, params, auth)
        fire.variables = variables or {}
        fire.settled = asyncio.Event() if wait_for_turn else None
        if scenario.busy:
            self._meanwhile(scenario, fire, wait_for_turn=wait_for_turn)
        else:
            self._await_launch(scenario, fire, self.world.launch_delay, imminent=True)
        return fire

    def _new_fire(self, scenario: SimScenario, trigger: Document, params: Document, auth: Document) -> TriggerFire:
        now = self.clock.now()
        taken = {run_id for _, run_id in scenario.fires} | scenario.runs.keys()
        fire_id = self._free_stamp(now, taken)
        fire = TriggerFire(documents.trigger_fire(scenario.definition, trigger, fire_id, now, params, auth))
        scenario.fires[fire.key] = fire
        return fire

    def _free_stamp(self, now: datetime, taken: set[str]) -> str:
        stamps = (documents.run_stamp(now + timedelta(milliseconds=n), self.world.zone) for n in itertools.count(1))
        return next(stamp for stamp in stamps if stamp not in taken)

    def _meanwhile(self, scenario: SimScenario, fire: TriggerFire, *, wait_for_turn: bool = False) -> None:
        """What becomes of a fire that finds its scenario running."""
        if not wait_for_turn:
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

    # Runs

    def _begin(self, scenario: SimScenario, fire: TriggerFire) -> None:
        scenario.waiting = None
        run = self.new_run(scenario, fire, self.clock.now())
        run.live = LiveHandle()
        scenario.current = run
        self.futures[run.future_id] = (scenario, run)
        while len(self.futures) > _FUTURES_KEPT:
            self.futures.popitem(last=False)
        if fire.settled is not None:
            fire.settled.set()
        self._keep(scenario, run, [])
        self.spawn(self._live(scenario, run, run.live), f"run {scenario.project_key}.{scenario.id}")

    def new_run(self, scenario: SimScenario, fire: TriggerFire, start: datetime) -> SimRun:
        """A run of ``scenario`` that ``fire`` launches at ``start``; live once it has a handle."""
        run_id = documents.run_stamp(start, self.world.zone)
        if run_id in scenario.runs or run_id == fire.document["runId"]:
            run_id = self._free_stamp(start, {fire.document["runId"], *scenario.runs})
        document = documents.scenario_run(scenario.snapshot(), run_id, start, fire.document, fire.variables)
        run = scenario.runs[run_id] = fire.run = SimRun(document, documents.opaque_id())
        return run

    def _parts(self, scenario: SimScenario) -> dict[str, StepPlan] | None:
        """What each step is to play in the next run; ``None`` if the steps are to be executed."""
        if scenario.behaviour is None:
            return None
        turn = scenario.turns
        scenario.turns += 1
        outcome = scenario.behaviour.outcomes.draw(turn, scenario.rng)
        return scenario.behaviour.plan(outcome, turn, scenario.steps, scenario.rng)

    async def _live(self, scenario: SimScenario, run: SimRun, handle: LiveHandle) -> None:
        """One run from its start to its end, with its reporters; then what waits for the end."""
        performance = RunExecution(self, scenario, run, self.clock, self.kinds)
        try:
            await self._report(scenario, run, "START")
            ended = await race(performance.perform(self._parts(scenario)), self._stopped(handle))
            ending = ended or ExecutionResult("ABORTED")
        except Exception as error:  # this one run ends as FAILED and says why; the world goes on
            log.exception("run_broke", project=scenario.project_key, scenario=scenario.id, run=run.id)
            ending = ExecutionResult.failed(f"java.lang.{type(error).__name__}", str(error))
        end = self.clock.now()
        await self._report(scenario, run, "END", ending.outcome)
        self.finish(scenario, run, ending, end)
        self._keep(scenario, run, scenario.trim(self.world.history_limit))
        scenario.current, run.live = None, None
        handle.over.set()
        self._followers(scenario)
        scenario.delayed = [fire for fire in scenario.delayed if not fire.document["cancelled"]]
        if scenario.delayed:
            self._await_launch(scenario, scenario.delayed.pop(0), self.world.launch_delay, imminent=True)

    async def _stopped(self, handle: LiveHandle) -> None:
        """Return once an abort was asked for and has had its time to take effect."""
        await handle.abort.wait()
        await self.clock.sleep(self.world.abort_delay)

    def finish(self, scenario: SimScenario, run: SimRun, ending: ExecutionResult, end: datetime) -> None:
        """Write the end of a run into its document; from now on it has a result."""
        start, end_ms = run.document["start"], to_ms(end)
        extra: Document = {}
        if ending.thrown is not None:
            extra = {"thrown": ending.thrown, "logTail": run.log.tail(self.world.zone)}
        run.document["end"] = end_ms
        run.document["result"] = documents.result(
            "SCENARIO_DONE", ending.outcome, target_of(scenario), start, end_ms, extra
        )

    def abort(self, scenario: SimScenario) -> bool:
        """Ask the current run to end as ABORTED, a little later. Whether there was one."""
        run = scenario.current
        if run is None or run.live is None:
            return False
        run.live.abort.set()
        return True

    async def _report(self, scenario: SimScenario, run: SimRun, phase: str, outcome: str = "") -> None:
        """Have the scenario's reporters of this phase send; what fails is kept in the run's document."""
        for reporter in run.document["scenario"]["reporters"]:
            if reporter["active"] and reporter.get("phase", "END") == phase:
                try:
                    await self._sender(scenario, run, reporter, outcome)
                except Exception:  # this one reporter is silent; the run goes on
                    log.exception("reporter_broke", project=scenario.project_key, scenario=scenario.id, run=run.id)

    def _keep(self, scenario: SimScenario, run: SimRun, dropped: list[str]) -> None:
        project = self.world.projects.get(scenario.project_key)
        if project is None or project.scenarios.get(scenario.id) is not scenario:
            return
        self.archive.keep_run(scenario, run, project.jobs_of(run), dropped)

    def clear_history(self, scenario: SimScenario) -> None:
        """Forget all runs of a scenario that have ended, as the macro that clears scenario logs does."""
        scenario.trim(0)
        self.archive.drop_runs(scenario)

    # Jobs, variables

    def start_job(self, project: SimProject, definition: Document, login: str) -> SimJob:
        """A job that nobody's scenario asked for; ``sim`` in its definition is a behaviour, as for a step."""
        behaviour = Behaviour.parse(definition.get("sim"), "job.sim")
        job = new_job(self.world, project.key, definition, login, self.clock.now())
        job.live = LiveHandle()
        rng = random.Random(job.id)
        part = behaviour.plan(behaviour.outcomes.draw(0, rng), 0, [], rng)[""]

        async def live() -> None:
            await run_job(job, part, self.clock)

        self.spawn(live(), job.id)
        return job

    def variables_changed(self, project_key: str | None) -> None:
        """Variables of a project, or of the instance, were set."""
        if project_key is None:
            self.archive.keep_instance(self.world)
        else:
            self.archive.keep_project(self.world.project(project_key))
