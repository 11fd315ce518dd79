from tests.decide.world import T0, World, channel, config, key, minutes, tree
from tocsin.config.intervals import TimeInterval, TimeRange
from tocsin.config.model import DEFAULT_RULES, InhibitRule, Receiver, Reporter, Route, Rule
from tocsin.decide.explain import alert_text, explain_firing, explain_run, run_text
from tocsin.model.event import END_EVENTS, EventName
from tocsin.model.labels import parse_matchers
from tocsin.store import alerts
from tocsin.store.schema import outbox


async def story_of(world: World, run: str | None = None) -> str:
    story = await world.store.read(explain_run, key(), run, world.config)
    assert story
    short, everything = run_text(story), run_text(story, everything=True)
    assert everything.startswith(short)
    return everything


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
        "  first seen 2026-03-02T06:00:00.000Z, when Tocsin polled",
        "  ScenarioFailed firing",
        "  ops/slack: pending",
        "Events:",
        "  2026-03-02T06:00:00.000Z  run.started, seen 0.0s later, number 1",
        "  2026-03-02T06:02:00.000Z  run.failed, seen 0.0s later, number 2",
        "Decisions:",
        "  2026-03-02T06:02:00.000Z  rule ScenarioFailed: firing (prod: SALES / Nightly ended FAILED)",
        "  2026-03-02T06:02:00.000Z  reporter mail: enqueued",
        f"  2026-03-02T06:02:00.000Z  route {group}: routed (to ops)",
        f"  2026-03-02T06:03:00.000Z  flush {group} → ops/slack: notified, first",
        "Alerts:",
        f"  ScenarioFailed from 2026-03-02T06:02:00.000Z, firing; its story: tocsin explain {alert.id}",
        "Notifications:",
        "  2026-03-02T06:02:00.000Z  ops/slack: pending",
        "  2026-03-02T06:03:00.000Z  ops/slack: pending",
        "Did not fire:",
        "  rule ScenarioMissed: it is about starts that do not come, and this one came",
        "  rule ScenarioOverlong: it took 2m, and nothing is usual yet",
        "  rule Thrice: it fires after 3 failures in a row; now there are 1",
        "  rule Other: it needs tags=~\".*,x,.*\", and tags is ''",
        "  reporter starts: it needs project=\"OTHER\", and project is 'SALES'",
        "  reporter aborts: it is on run.aborted only",
    ]
    assert alert.firing
    assert len(owed) == 2


async def test_a_run_from_before_the_watch_and_one_that_is_not_known(world: World) -> None:
    await world.run(T0, "FAILED", baseline=True)
    text = await story_of(world)
    assert "before it was watched" in text
    assert "rule ScenarioFailed: the run ended before the scenario was watched, so it made no event" in text
    assert await world.store.read(explain_run, key(), "unknown", world.config) is None
    assert await world.store.read(explain_run, key("NEVER"), None, world.config) is None


async def in_short(world: World, run: str | None = None) -> str:
    story = await world.store.read(explain_run, key(), run, world.config)
    assert story
    return story.summary


async def fail_and_flush(world: World, **more: object) -> str:
    world.config = config(**more)
    await world.run(T0, "FAILED")
    await world.step(T0 + minutes(1))
    await world.step(T0 + minutes(2))
    return await in_short(world)


async def test_in_short_a_silence_is_named_with_its_author_and_comment(world: World) -> None:
    matchers = parse_matchers("project=SALES")
    silence = await world.store.write(alerts.insert_silence, matchers, T0, T0 + minutes(60), "anna", "maintenance", T0)
    assert await fail_and_flush(world) == (
        f"ScenarioFailed firing; ops/slack: not notified, silenced (by silence {silence.id} of anna: maintenance)"
    )


async def test_in_short_what_inhibits_is_named(world: World) -> None:
    await world.down(T0 - minutes(5))
    down, fails = parse_matchers("alertname=NodeDown"), parse_matchers('alertname=~"Scenario.*"')
    assert await fail_and_flush(world, inhibit_rules=(InhibitRule(down, fails, ("dss_node",)),)) == (
        "ScenarioFailed firing; ops/slack: not notified, inhibited (by NodeDown)"
    )


async def test_in_short_the_interval_that_mutes_is_named(world: World) -> None:
    mute = Route(matchers=parse_matchers("severity=warning"), mute_time_intervals=("always",))
    always = TimeInterval("always", (TimeRange(),))
    assert await fail_and_flush(world, route=tree(routes=(mute,)), time_intervals=(always,)) == (
        "ScenarioFailed firing; ops/slack: not notified, muted_time (in always)"
    )


async def test_in_short_nobody_hears_without_a_channel_or_a_route(world: World) -> None:
    told = await fail_and_flush(world, receivers=(Receiver("ops", ()),))
    assert told.endswith("not notified, no_channel (receiver ops)")


async def test_in_short_without_a_route_no_route_takes_it(world: World) -> None:
    assert await fail_and_flush(world, route=None) == "ScenarioFailed firing; no route takes it"


async def test_in_short_what_is_not_told_yet_says_when(world: World) -> None:
    await world.run(T0, "FAILED")
    assert await in_short(world) == "not decided yet"
    await world.step(T0 + minutes(1))
    assert await in_short(world) == "ScenarioFailed firing; its group is flushed at 2026-03-02T06:01:10.000Z"


async def test_in_short_a_dead_letter_says_why_and_how_it_is_sent_again(world: World) -> None:
    await fail_and_flush(world)
    (one,) = await world.notifications()
    dead = outbox.update().values(state="dead", reason="no such channel")
    await world.store.write(lambda c: c.execute(dead) and None)
    assert await in_short(world) == "ScenarioFailed firing; ops/slack: dead (no such channel)"
    assert f"to send it again: tocsin deliveries retry {one.id}" in await story_of(world)


async def test_what_is_read_back_waits_and_what_was_over_by_then_rings_no_more(world: World) -> None:
    world.config = config(reporters=(Reporter("all", "ops", END_EVENTS),))
    await world.node(backfilling=True)
    await world.scenario(key(), backfilled=False)
    failed = await world.run(T0 - minutes(2880), "FAILED", late=True)
    await world.step(T0)
    assert failed.run
    short = await in_short(world, failed.run.run_id)
    assert short == "nothing fired; all: not notified, late (in the summary)"
    waiting = await story_of(world, failed.run.run_id)
    assert "rule ScenarioFailed: what happened while nobody watched is still being read back" in waiting
    await world.run(T0 - minutes(1440), "SUCCESS", late=True)
    await world.scenario(key(), backfilled=True)
    await world.node(backfilling=False)
    await world.step(T0 + minutes(1))
    assert "was over before anyone could be notified" in await story_of(world, failed.run.run_id)


async def test_a_recovery_tells_what_it_ended(world: World) -> None:
    await fail_and_flush(world)
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(8))
    assert await in_short(world) == "ScenarioFailed resolved; ops/slack: pending"


async def test_an_ordinary_run_is_held_against_what_it_may_take(world: World) -> None:
    world.config = config(rules=(*DEFAULT_RULES, Rule("Fixed", "overlong", longer_than=minutes(90))))
    await world.run(T0, "SUCCESS", length=minutes(2))
    await world.step(T0 + minutes(3))
    text = await story_of(world)
    assert "rule ScenarioOverlong: it took 2m, usually 2m; it fires after 3 times that, and 15m at least" in text
    assert "rule Fixed: it took 2m, and it may take 1h 30m" in text


# --- of this run, not of the alert's whole life --------------------------------------------------------------------------


async def delivered(world: World) -> None:
    await world.store.write(lambda c: c.execute(outbox.update().values(state="delivered")) and None)


async def silenced(world: World, begin: float, end: float) -> str:
    matchers = parse_matchers("scenario=NIGHTLY")
    made = await world.store.write(
        alerts.insert_silence, matchers, T0 + minutes(begin), T0 + minutes(end), "anna", "moving", T0 + minutes(begin)
    )
    return f"silenced (by silence {made.id} of anna: moving)"


async def test_a_run_that_fails_in_a_silence_was_told_to_nobody_though_its_alert_was(world: World) -> None:
    await fail_and_flush(world)
    await delivered(world)
    assert await in_short(world) == "ScenarioFailed firing; ops/slack: delivered"
    why = await silenced(world, 3, 60)
    await world.run(T0 + minutes(4), "FAILED")
    await world.step(T0 + minutes(5))
    assert (await in_short(world)).startswith("ScenarioFailed updated; its group is flushed at 2026-03-02T06:0")
    await world.step(T0 + minutes(8))
    assert await in_short(world) == f"ScenarioFailed updated; ops/slack: not notified, {why}"
    await world.run(T0 + minutes(9), "FAILED")  # no row says anew that it is silenced
    await world.step(T0 + minutes(14))
    assert await in_short(world) == f"ScenarioFailed updated; ops/slack: not notified, {why}"
    await world.step(T0 + minutes(70))
    assert await in_short(world) == f"ScenarioFailed updated; ops/slack: not notified, {why}"
    first = await world.store.read(explain_run, key(), "run-2026-03-02-06-00-00", world.config)
    assert first
    assert first.summary == "ScenarioFailed firing; ops/slack: delivered"
    assert [one.notification_id is not None for one in first.outcomes] == [True]


async def test_a_further_failure_that_changes_nothing_says_when_the_channel_was_told(world: World) -> None:
    await fail_and_flush(world)
    await delivered(world)
    for at in (4, 20):
        await world.run(T0 + minutes(at), "FAILED")
        await world.step(T0 + minutes(at + 1))
        await world.step(T0 + minutes(at + 6))
        assert await in_short(world) == (
            "ScenarioFailed updated; ops/slack: not notified, no_change "
            "(it was notified of this alert at 2026-03-02T06:02:00.000Z)"
        )
    await world.step(T0 + minutes(260))  # the repeat tells of the latest failure
    assert await in_short(world) == "ScenarioFailed updated; ops/slack: pending"


async def test_a_member_that_its_group_was_told_without_says_why(world: World) -> None:
    await world.scenario(key("OTHER"))
    why = await silenced(world, 0, 60)
    await world.run(T0, "FAILED", key("OTHER"))
    await fail_and_flush(world)
    assert [reason for _, reason, _ in await world.told()] == ["first"]
    assert await in_short(world) == f"ScenarioFailed firing; ops/slack: not notified, {why.removesuffix(': moving)')})"


async def test_what_a_newer_notice_took_the_place_of_is_told_by_that_one(world: World) -> None:
    await fail_and_flush(world)
    await world.scenario(key("OTHER"))
    await world.run(T0 + minutes(3), "FAILED", key("OTHER"))
    await world.step(T0 + minutes(8))
    first, _ = await world.notifications()
    old = outbox.update().where(outbox.c.id == first.id).values(state="superseded", reason="by a newer one")
    await world.store.write(lambda c: c.execute(old) and None)
    assert await in_short(world) == "ScenarioFailed firing; ops/slack: pending"


async def test_an_end_in_a_silence_stays_untold_whatever_its_group_is_told_later(world: World) -> None:
    await fail_and_flush(world)
    await delivered(world)
    why = await silenced(world, 3, 30)
    await world.step(T0 + minutes(8))  # this flush leaves the row that says so, the next one none
    await world.run(T0 + minutes(9), "SUCCESS")
    await world.step(T0 + minutes(14))
    await world.scenario(key("OTHER"))
    await world.run(T0 + minutes(40), "FAILED", key("OTHER"))
    await world.step(T0 + minutes(42))
    await world.step(T0 + minutes(48))
    assert await in_short(world) == f"ScenarioFailed resolved; ops/slack: not notified, {why}"


async def test_each_channel_has_its_own_line(world: World) -> None:
    channels = (channel("a"), channel("b", send_resolved=False))
    await fail_and_flush(world, receivers=(Receiver("ops", channels),))
    await delivered(world)
    await world.run(T0 + minutes(3), "SUCCESS")
    await world.step(T0 + minutes(8))
    text = await story_of(world)
    assert text.splitlines()[3:6] == [
        "  ScenarioFailed resolved", "  a: pending", "  b: not notified, no_change (send_resolved is off)"
    ]  # fmt: skip


async def alert_story(world: World, at: float, prefix: str | None = None) -> list[str]:
    id_ = (await world.alert()).id if prefix is None else prefix
    story = await world.store.read(explain_firing, id_, world.config, T0 + minutes(at))
    assert story
    everything = alert_text(story, everything=True)
    assert everything.startswith(alert_text(story))
    return alert_text(story).splitlines()


async def test_an_alert_without_a_run_is_explained(world: World) -> None:
    await world.down(T0)
    await world.step(T0)
    await world.step(T0 + minutes(2))
    begin = "NodeDown from 2026-03-02T06:02:00.000Z, firing, severity critical: prod"
    told = await alert_story(world, 2)
    assert (told[0], told[1], told[-1]) == (
        begin,
        "  DSS node prod cannot be watched: unreachable",
        "  its group is flushed at 2026-03-02T06:02:10.000Z",
    )
    await world.step(T0 + minutes(3))
    await delivered(world)
    assert (await alert_story(world, 3))[3:] == ["  ops/slack: delivered"]
    matchers = parse_matchers("alertname=NodeDown")
    one = await world.store.write(
        alerts.insert_silence, matchers, T0 + minutes(4), T0 + minutes(60), "anna", "", T0 + minutes(4)
    )
    assert (await alert_story(world, 5))[3:] == [
        f"  silenced now by silence {one.id} of anna", "  ops/slack: delivered"
    ]  # fmt: skip
    await world.up(T0 + minutes(6))
    await world.step(T0 + minutes(6))
    await world.step(T0 + minutes(9))
    assert (await alert_story(world, 9))[0].startswith("NodeDown from 2026-03-02T06:02:00.000Z, resolved 2026-03-02")
    assert (await alert_story(world, 9))[3:] == [
        f"  ops/slack: NodeDown firing: delivered, NodeDown resolved: not notified, silenced (by silence {one.id} of anna)"
    ]
    assert await world.store.read(explain_firing, "unknown", world.config, T0) is None
    assert await world.store.read(explain_firing, "", world.config, T0) is not None  # there is one alert alone


async def test_an_alert_that_no_route_takes_or_an_interval_mutes_says_so(world: World) -> None:
    mute = Route(matchers=parse_matchers("severity=warning"), mute_time_intervals=("always",))
    always = TimeInterval("always", (TimeRange(),))
    await fail_and_flush(world, route=tree(routes=(mute,)), time_intervals=(always,))
    assert (await alert_story(world, 2))[3:] == [
        "  ops muted now in always", "  ops/slack: not notified, muted_time (in always)"
    ]  # fmt: skip
    world.config = config(route=None)
    await world.run(T0 + minutes(3), "FAILED", key("LOST"))
    await world.scenario(key("LOST"))
    await world.step(T0 + minutes(4))
    assert (await alert_story(world, 5))[-1] == "  no route takes it"
