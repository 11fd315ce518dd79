"""A sim that a test drives: its clock stands still unless pushed, the official client asks it from a thread."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import dataikuapi

from tocsin.kit.clock import parse_duration
from tocsin.sim import DEFAULT_KEY, Sim, World, WorldClock

WORLD = """
timezone: Europe/Paris
promotion_delay: 60s
projects:
  - key: SALES
    name: Sales
    owner: amelie
    tags: [a]
    variables: {country: FR}
    scenarios:
      - id: NIGHTLY
        name: Nightly rebuild
        active: true
        tags: [daily, finance]
        triggers: [{id: t1, type: temporal, name: Night, params: {frequency: Daily, hour: 2, minute: 0}}]
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        behaviour:
          duration: 10s
          outcomes: FAILED, SUCCESS
          fails_at: Build orders
          errors: [{clazz: com.example.SparkDied, title: Spark died, message: Out of memory, code: ERR_OOM}]
          history: {runs: 5, outcomes: SUCCESS}
      - {id: SCRIPT, name: A script, type: custom_python, script: "print('hello')"}
      - {id: AFTER, active: true, triggers: [{id: f, type: follow_scenariorun, params: {scenarioId: NIGHTLY}}],
         steps: [{build: report}], behaviour: {duration: 3s}}
  - {key: EMPTY, name: Nothing here}
"""


@dataclass
class Driven:
    """A started sim with what a test wants of it."""

    sim: Sim
    url: str

    def client(self, key=DEFAULT_KEY):
        return dataikuapi.DSSClient(self.url, key)

    async def ask(self, function, *args, **kwargs):
        """Call the blocking client from a thread."""
        return await asyncio.to_thread(function, *args, **kwargs)

    async def push(self, by: str):
        """Move the world on."""
        await self.sim.clock.advance(parse_duration(by))

    def scenario(self, scenario_id="NIGHTLY", project="SALES"):
        return self.client().get_project(project).get_scenario(scenario_id)

    def world_scenario(self, scenario_id="NIGHTLY", project="SALES"):
        return self.sim.world.scenario(project, scenario_id)


@asynccontextmanager
async def running(world=WORLD, *, speed=0.0, **options):
    built = World.from_yaml(world) if isinstance(world, str) else world
    sim = Sim(built, clock=WorldClock(speed=speed), **options)
    try:
        yield Driven(sim, await sim.start())
    finally:
        await sim.stop()
