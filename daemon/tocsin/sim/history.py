"""Runs of the past: what a behaviour says has been, played by the same performance as what is to come."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tocsin.sim import documents
from tocsin.sim.behaviour import Behaviour
from tocsin.sim.clock import PastTimeline
from tocsin.sim.nouns import SimRun, SimScenario, TriggerFire
from tocsin.sim.perform import RunExecution

if TYPE_CHECKING:
    from tocsin.sim.engine import Engine


async def make_history(engine: "Engine", scenario: SimScenario, now: datetime) -> None:
    """Play the past runs that a behaviour asks for, if it says when they were."""
    behaviour = scenario.behaviour
    if behaviour is None or behaviour.history is None:
        return
    outcomes = behaviour.history.outcomes or behaviour.outcomes
    free_from = datetime.min.replace(tzinfo=now.tzinfo)
    for turn, at in enumerate(_starts(scenario, behaviour, now, engine.world.promotion_delay)):
        outcome = outcomes.draw(turn, scenario.rng)
        run = await record(engine, scenario, max(at, free_from), outcome, turn=turn)
        if run.end > now:
            del scenario.runs[run.id]
            break
        free_from = run.end + timedelta(seconds=1)
    scenario.trim(engine.world.history_limit)


async def record(
    engine: "Engine", scenario: SimScenario, start: datetime, outcome: str = "SUCCESS", *, turn: int = 0
) -> SimRun:
    """Add a run of the past that began at ``start``. A scenario without behaviour plays the default one."""
    behaviour = scenario.behaviour or Behaviour()
    trigger = next((t for t in scenario.definition["triggers"] if t["active"]), documents.BY_HAND)
    auth = documents.auth_context(documents.effective_login(scenario.definition))
    world = engine.world
    fired = start - (world.promotion_delay if trigger["type"] == "temporal" else world.launch_delay)
    fire_id = documents.run_stamp(fired + timedelta(milliseconds=1), world.zone)
    fire = TriggerFire(documents.trigger_fire(scenario.definition, trigger, fire_id, fired, {}, auth))
    latest = next(reversed(scenario.runs.values()), None)
    run = engine.new_run(scenario, fire, start)
    timeline = PastTimeline(start)
    parts = behaviour.plan(outcome, turn, scenario.steps, scenario.rng)
    ending = await RunExecution(engine, scenario, run, timeline, engine.kinds).perform(parts)
    engine.finish(scenario, run, ending, timeline.now())
    scenario.fires[fire.key] = fire
    if latest is not None and latest.start > run.start:
        scenario.runs = dict(sorted(scenario.runs.items(), key=lambda item: item[1].start))
    return run


def _starts(scenario: SimScenario, behaviour: Behaviour, now: datetime, delay: timedelta) -> list[datetime]:
    """When the runs began, the oldest first: evenly spread, or ``delay`` after a temporal trigger's occurrences."""
    history = behaviour.history
    if history is None or not history.runs:
        return []
    if history.every is not None:
        starts = [now]
        for _ in range(history.runs):
            starts.append(starts[-1] - history.every.draw(scenario.rng))
        return starts[:0:-1]
    if not scenario.temporals:
        return []
    temporal = scenario.temporals[0][1]
    at: datetime | None = now - temporal.period * (history.runs + 2) * 1.3
    starts = []
    while at is not None and (at := temporal.after(at)) is not None and at < now:
        starts.append(at + delay)
    return starts[-history.runs :]
