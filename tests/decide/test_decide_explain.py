import json

from tests.decide.world import T0, World, config, key, minutes
from tocsin.app.explain import explain, to_json, to_text
from tocsin.judge.defaults import DEFAULT_RULES
from tocsin.model.config import Reporter, Rule
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matchers


async def story_of(world: World, run: str | None = None) -> str:
    story = await world.store.read(explain, key(), run, world.config)
    assert story
    json.loads(to_json(story))
    return to_text(story)


async def test_a_failure_is_told_from_its_start_to_its_notices(world: World) -> None:
    world.config = config(
        reporters=(
            Reporter("mail", "ops", frozenset({EventName.RUN_FAILED})),
            Reporter("starts", "ops", frozenset({EventName.RUN_STARTED}), parse_matchers("project=OTHER")),
            Reporter("aborts", "ops", frozenset({EventName.RUN_ABORTED})),
        ),
        rules=(
            *DEFAULT_RULES,
            Rule("Thrice", "failed", after=3),
            Rule("Other", "failed", match=parse_matchers('tags=~".*,x,.*"')),
        ),
    )
    await world.run(T0, "FAILED", length=minutes(2))
    await world.step(T0 + minutes(2))
    await world.step(T0 + minutes(3))
    text = (await story_of(world)).splitlines()
    alert = await world.alert()
    owed = await world.notifications()
    group = 'ops:{}:{alertname="ScenarioFailed", dss_node="prod", project="SALES"}'
    assert text == [
        "prod/SALES/NIGHTLY/run-2026-03-02-06-00-00: FAILED",
        "  started 2026-03-02T06:00:00.000Z by temporal, took 2m",
        "  first seen 2026-03-02T06:00:00.000Z by a look for: unknown",
        "Events:",
        "  2026-03-02T06:00:00.000Z  run.started, seen 0.0s later, number 1",
        "  2026-03-02T06:02:00.000Z  run.failed, seen 0.0s later, number 2",
        "Decisions:",
        "  2026-03-02T06:02:00.000Z  rule ScenarioFailed: rang (prod: SALES / Nightly ended FAILED)",
        "  2026-03-02T06:02:00.000Z  reporter mail: owed",
        f"  2026-03-02T06:02:00.000Z  route {group}: routed (to ops)",
        f"  2026-03-02T06:03:00.000Z  flush {group} → ops/slack: first",
        "Alerts:",
        "  ScenarioFailed from 2026-03-02T06:02:00.000Z, firing",
        "Notifications:",
        "  2026-03-02T06:02:00.000Z  ops/slack: owed",
        "  2026-03-02T06:03:00.000Z  ops/slack: owed",
        "Did not ring:",
        "  rule ScenarioMissed: it is about starts that do not come, and this one came",
        "  rule ScenarioOverlong: it took 2m",
        "  rule Thrice: it needs 3 failures in a row; now 1 in a row",
        "  rule Other: it wants tags=~\".*,x,.*\", and tags is ''",
        "  reporter starts: it wants project=\"OTHER\", and project is 'SALES'",
        "  reporter aborts: it hears of run.aborted only",
    ]
    assert alert.firing
    assert len(owed) == 2


async def test_a_run_from_before_the_watch_and_one_that_is_not_known(world: World) -> None:
    await world.run(T0, "FAILED", baseline=True)
    text = await story_of(world)
    assert "before it was watched" in text
    assert "rule ScenarioFailed: the run ended before the scenario was watched, so it made no event" in text
    assert await world.store.read(explain, key(), "unknown", world.config) is None
    assert await world.store.read(explain, key("NEVER"), None, world.config) is None
