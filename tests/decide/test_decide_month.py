"""A month of the emulated world on a fast clock, with the shipped rules: nothing rings without a cause."""

from datetime import datetime, timedelta

from tests.decide.world import World, config
from tests.sim.driven import running
from tocsin.config.model import DEFAULT_INHIBIT_RULES, DEFAULT_RULES
from tocsin.model.run import ScenarioKey

FLEET = """
timezone: Europe/Paris
promotion_delay: 60s
projects:
  - key: SALES
    scenarios:
      - id: NIGHTLY
        active: true
        triggers: [{id: t, type: temporal, params: {frequency: Daily, hour: 2, minute: 30}}]
        steps: [{build: orders}]
        behaviour: {duration: [20m, 50m], outcomes: [SUCCESS, SUCCESS, WARNING], history: {runs: 8}}
      - {id: AFTER, active: true, triggers: [{id: f, type: follow_scenariorun, params: {scenarioId: NIGHTLY}}],
         steps: [{build: report}], behaviour: {duration: 10m}}
      - id: WEEKLY
        active: true
        triggers: [{id: t, type: temporal, params: {frequency: Weekly, hour: 6, minute: 0, daysOfWeek: [Monday]}}]
        steps: [{build: week}]
        behaviour: {duration: 2h}
      - id: BROKEN
        active: true
        triggers: [{id: t, type: temporal, params: {frequency: Daily, hour: 5, minute: 0}}]
        steps: [{build: broken}]
        behaviour: {duration: 5m, outcomes: [FAILED, SUCCESS], history: {runs: 8, outcomes: SUCCESS}}
"""


async def test_a_month_of_a_healthy_fleet_rings_for_nothing(world: World) -> None:
    world.config = config(rules=DEFAULT_RULES, inhibit_rules=DEFAULT_INHIBIT_RULES)
    expected: set[tuple[ScenarioKey, datetime]] = set()
    told: set[tuple[ScenarioKey, str, str]] = set()
    async with running(FLEET) as driven:
        now = driven.sim.clock.now()
        fleet = {ScenarioKey("prod", each.project_key, each.id): each for each in driven.sim.world.every_scenario()}
        told |= {(key, run, what) for key, each in fleet.items() for run in each.runs for what in ("start", "end")}
        history = len(told)
        await world.restart(now)
        for key in fleet:
            await world.scenario(key, watched_since=now)
        for _ in range(30 * 4):
            for key, scenario in fleet.items():
                at = scenario.next_occurrence(now)
                if at is not None and (key, at) not in expected:
                    expected.add((key, at))
                    await world.expect(at, key)
            await driven.push("6h")
            now = driven.sim.clock.now()
            for key, scenario in fleet.items():
                for id_, run in sorted(scenario.runs.items(), key=lambda item: item[1].start):
                    if (key, id_, "start") not in told:
                        told.add((key, id_, "start"))
                        await world.start(run.start, key)
                    if run.ended and (key, id_, "end") not in told:
                        told.add((key, id_, "end"))
                        await world.end(run.end, run.document["result"]["outcome"], key)
            await world.look(now)
            await world.step(now)
    counted = (len(told) - history) // 2
    assert counted > 90
    alerts = await world.every_alert()
    assert {(alert.name, alert.labels["scenario"]) for alert in alerts} == {("ScenarioFailed", "BROKEN")}
    assert 10 < len(alerts) < 20  # each failure, with a good run the day after
    assert now - alerts[-1].starts_at < timedelta(days=3)
