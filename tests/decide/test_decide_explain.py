import json

from tests.decide.world import T0, World, config, key, minutes, tree
from tocsin.app.explain import explain, to_json, to_text
from tocsin.judge.defaults import DEFAULT_RULES
from tocsin.model.config import InhibitRule, Receiver, Reporter, Rule, TimeInterval, Times
from tocsin.model.event import END_EVENTS, EventName
from tocsin.model.labels import parse_matchers
from tocsin.route.tree import RouteSpec
from tocsin.store import silences
from tocsin.store.schema import outbox


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
        "  first seen 2026-03-02T06:00:00.000Z, when Tocsin looked",
        "  in short: ScenarioFailed rang; ops/slack: owed",
        "Events:",
        "  2026-03-02T06:00:00.000Z  run.started, seen 0.0s later, number 1",
        "  2026-03-02T06:02:00.000Z  run.failed, seen 0.0s later, number 2",
        "Decisions:",
        "  2026-03-02T06:02:00.000Z  rule ScenarioFailed: rang (prod: SALES / Nightly ended FAILED)",
        "  2026-03-02T06:02:00.000Z  reporter mail: owed",
        f"  2026-03-02T06:02:00.000Z  route {group}: routed (to ops)",
        f"  2026-03-02T06:03:00.000Z  flush {group} → ops/slack: told, first",
        "Alerts:",
        "  ScenarioFailed from 2026-03-02T06:02:00.000Z, firing",
        "Notifications:",
        "  2026-03-02T06:02:00.000Z  ops/slack: owed",
        "  2026-03-02T06:03:00.000Z  ops/slack: owed",
        "Did not ring:",
        "  rule ScenarioMissed: it is about starts that do not come, and this one came",
        "  rule ScenarioOverlong: it took 2m, and nothing is usual yet",
        "  rule Thrice: it rings after 3 failures in a row; now there are 1",
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


async def in_short(world: World, run: str | None = None) -> str:
    (line,) = (line for line in (await story_of(world, run)).splitlines() if "in short: " in line)
    return line.removeprefix("  in short: ")


async def fail_and_flush(world: World, **more: object) -> str:
    world.config = config(**more)
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(2))
    return await in_short(world)


async def test_in_short_a_silence_is_named_with_its_author_and_comment(world: World) -> None:
    matchers = parse_matchers("project=SALES")
    silence = await world.store.write(silences.add, matchers, T0, T0 + minutes(60), "anna", "maintenance", T0)
    assert await fail_and_flush(world) == (
        f"ScenarioFailed rang; ops/slack: not told, silenced (by silence {silence.id} of anna: maintenance)"
    )


async def test_in_short_what_inhibits_is_named(world: World) -> None:
    await world.down(T0 - minutes(5))
    down, fails = parse_matchers("alertname=NodeDown"), parse_matchers('alertname=~"Scenario.*"')
    assert await fail_and_flush(world, inhibit_rules=(InhibitRule(down, fails, ("dss_node",)),)) == (
        "ScenarioFailed rang; ops/slack: not told, inhibited (by NodeDown)"
    )


async def test_in_short_the_interval_that_mutes_is_named(world: World) -> None:
    mute = RouteSpec(matchers=parse_matchers("severity=warning"), mute_time_intervals=("always",))
    always = TimeInterval("always", (Times(),))
    assert await fail_and_flush(world, route=tree(routes=(mute,)), time_intervals=(always,)) == (
        "ScenarioFailed rang; ops/slack: not told, muted_time (in always)"
    )


async def test_in_short_nobody_hears_without_a_channel_or_a_route(world: World) -> None:
    told = await fail_and_flush(world, receivers=(Receiver("ops", ()),))
    assert told.endswith("not told, no_channel (receiver ops)")


async def test_in_short_without_a_route_no_route_takes_it(world: World) -> None:
    assert await fail_and_flush(world, route=None) == "ScenarioFailed rang; no route takes it"


async def test_in_short_what_is_not_told_yet_says_when(world: World) -> None:
    await world.run(T0, "FAILED")
    assert await in_short(world) == "not decided yet"
    await world.step(T0 + minutes(1))
    assert await in_short(world) == "ScenarioFailed rang; its group is told at 2026-03-02T06:01:10.000Z"


async def test_in_short_a_dead_letter_says_why_and_how_it_is_sent_again(world: World) -> None:
    await fail_and_flush(world)
    (one,) = await world.notifications()
    dead = outbox.update().values(state="dead", reason="no such channel")
    await world.store.write(lambda c: c.execute(dead) and None)
    assert await in_short(world) == "ScenarioFailed rang; ops/slack: dead (no such channel)"
    assert f"to send it again: tocsin deliveries retry {one.id}" in await story_of(world)


async def test_what_is_read_back_waits_and_what_was_over_by_then_rings_no_more(world: World) -> None:
    world.config = config(reporters=(Reporter("all", "ops", END_EVENTS),))
    await world.node(backfilling=True)
    await world.scenario(key(), backfilled=False)
    failed = await world.run(T0 - minutes(2880), "FAILED", late=True)
    await world.step(T0)
    assert failed.run
    waiting = await story_of(world, failed.run.run_id)
    assert "in short: nothing rang; all: not told, late (told in the summary)" in waiting
    assert "rule ScenarioFailed: what happened while nobody watched is still being read back" in waiting
    await world.run(T0 - minutes(1440), "SUCCESS", late=True)
    await world.scenario(key(), backfilled=True)
    await world.node(backfilling=False)
    await world.step(T0 + minutes(1))
    assert "was over before anyone could be told" in await story_of(world, failed.run.run_id)


async def test_a_recovery_tells_what_it_ended(world: World) -> None:
    await fail_and_flush(world)
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(8))
    assert await in_short(world) == "ScenarioFailed ended; ops/slack: owed"


async def test_an_ordinary_run_is_held_against_what_it_may_take(world: World) -> None:
    world.config = config(rules=(*DEFAULT_RULES, Rule("Fixed", "overlong", longer_than=minutes(90))))
    await world.run(T0, "SUCCESS", length=minutes(2))
    await world.step(T0 + minutes(3))
    text = await story_of(world)
    assert "rule ScenarioOverlong: it took 2m, usually 2m; it rings after 3 times that, and 15m at least" in text
    assert "rule Fixed: it took 2m, and it may take 1h 30m" in text
