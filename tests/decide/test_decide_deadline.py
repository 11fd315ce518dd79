"""Timelines of ``deadline``: at its wall time, or before it when history says that it will be late."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.decide.world import T0, World, config, key, minutes
from tocsin.config.intervals import parse_days, parse_time_of_day
from tocsin.config.model import Config, Rule
from tocsin.decide.decide import resolve_by_hand
from tocsin.kit.clock import isoformat
from tocsin.model.labels import parse_matchers
from tocsin.store import alerts

BY = datetime(2026, 3, 3, 6, tzinfo=UTC)  # Tuesday, 07:00 in Paris; T0 is the Monday before, 07:00 too
HOUR = minutes(60)
RULE = Rule(
    "NotDone", "deadline", by=parse_time_of_day("07:00"), from_=parse_time_of_day("18:00"),
    days=parse_days(["monday:friday"]), location="Europe/Paris", severity="critical",
)  # fmt: skip


def due_by_seven(**more: object) -> Config:
    return config(rules=(replace(RULE, **more),), loaded_at=T0)  # type: ignore[arg-type]


@pytest.fixture
def morning(world: World) -> World:
    world.config = due_by_seven()
    return world


async def evening(world: World) -> None:
    """Everything is in place long before the deadline."""
    await world.look(T0 + HOUR)
    await world.step(T0 + HOUR)


async def test_it_fires_at_its_time_on_fresh_sight_and_ends_with_the_next_good_run(morning: World) -> None:
    await morning.run(T0 + 2 * HOUR, "SUCCESS")  # before the window
    await evening(morning)
    await morning.run(BY - HOUR, "FAILED")
    await morning.look(BY - minutes(1))
    assert await morning.step(BY - minutes(1)) == BY
    await morning.step(BY)
    assert await morning.alerts() == []  # not polled since
    assert morning.asked == [key()]
    await morning.look(BY + minutes(1))
    await morning.step(BY + minutes(1))
    assert await morning.alerts() == ["NotDone"]
    alert = await morning.alert()
    assert alert.starts_at == BY
    assert alert.annotations["summary"] == "prod: SALES / Nightly was not done by 2026-03-03 07:00:00 CET"
    assert alert.annotations["deadline"] == "2026-03-03T06:00:00.000Z"
    await morning.run(BY + HOUR, "FAILED")
    await morning.step(BY + HOUR + minutes(2))
    assert await morning.alerts() == ["NotDone"]
    await morning.run(BY + 2 * HOUR, "WARNING")
    await morning.step(BY + 2 * HOUR + minutes(2))
    assert await morning.alerts() == ["NotDone!resolved"]
    assert (await morning.alert()).ends_at == BY + 2 * HOUR + minutes(1)


@pytest.mark.parametrize(("before", "expected"), [(60, []), (1, []), (0, ["NotDone"]), (13 * 60 + 1, ["NotDone"])])
async def test_a_good_run_must_end_inside_the_window(morning: World, before: float, expected: list[str]) -> None:
    await evening(morning)
    await morning.run(BY - minutes(before) - minutes(1) + timedelta(milliseconds=not before), "SUCCESS")
    await morning.look(BY + minutes(1))
    await morning.step(BY + minutes(1))
    assert await morning.alerts() == ([] if before == 0 else expected)  # a moment late, but done by now


async def test_a_run_that_began_in_time_and_goes_on_is_late(morning: World) -> None:
    await evening(morning)
    await morning.start(BY - 2 * HOUR)
    await morning.run_until(BY, BY + minutes(2))
    assert await morning.alerts() == ["NotDone"]
    assert "A run goes on since 2026-03-03 05:00:00 CET." in (await morning.alert()).annotations["description"]


async def test_what_never_ran_is_late_and_so_is_what_was_made_in_the_window(morning: World) -> None:
    await morning.scenario(key("NEW"), watched_since=BY - HOUR)
    await morning.run_until(BY - minutes(30), BY + minutes(2), minutes(2))
    assert sorted(await morning.alerts()) == ["NotDone", "NotDone"]
    assert "No good run was ever seen." in (await morning.alert()).annotations["description"]


async def test_a_rule_that_is_new_asks_nothing_of_the_past(morning: World) -> None:
    morning.config = config(rules=(RULE,), loaded_at=BY + HOUR)
    await morning.run_until(BY + HOUR, BY + 3 * HOUR, minutes(30))
    assert await morning.alerts() == []
    await morning.look(BY + timedelta(days=1, minutes=1))
    await morning.step(BY + timedelta(days=1, minutes=2))
    assert await morning.alerts() == ["NotDone"]


async def test_only_its_days_count(morning: World) -> None:
    await evening(morning)
    for day in range(5):  # Tuesday to Saturday
        if day < 4:
            await morning.run(BY + timedelta(days=day, hours=-1), "SUCCESS")
        await morning.look(BY + timedelta(days=day, minutes=1))
        await morning.step(BY + timedelta(days=day, minutes=1))
    assert await morning.alerts() == []
    monday = BY + timedelta(days=6)
    await morning.run_until(monday, monday + minutes(1))
    assert await morning.alerts() == ["NotDone"]


async def test_a_second_deadline_goes_on_with_the_same_alert(morning: World) -> None:
    await evening(morning)
    for day in (0, 1):
        await morning.look(BY + timedelta(days=day, minutes=1))
        await morning.step(BY + timedelta(days=day, minutes=1))
    assert await morning.alerts() == ["NotDone"]
    assert (await morning.alert()).annotations["deadline"] == isoformat(BY + timedelta(days=1))


async def test_a_restart_a_reload_and_a_silence_in_the_middle_change_nothing(morning: World) -> None:
    await evening(morning)
    await morning.restart(BY - HOUR)
    await morning.step(BY - HOUR)
    morning.config = due_by_seven(annotations={"runbook_url": "https://wiki"})
    await morning.step(BY - minutes(30))
    silence = parse_matchers("alertname=NotDone")
    args = silence, BY - minutes(20), BY + HOUR, "ann", "known", BY - minutes(20)
    await morning.store.write(lambda c: alerts.insert_silence(c, *args) and None)
    await morning.run_until(BY + minutes(1), BY + minutes(10))
    assert await morning.alerts() == ["NotDone"]
    assert await morning.told() == []
    await morning.restart(BY + minutes(50))
    await morning.run_until(BY + HOUR, BY + HOUR + minutes(10))
    assert await morning.told() == [("ops/slack", "first", ["NotDone"])]


async def test_it_waits_while_the_node_is_down_and_while_history_is_read_back(morning: World) -> None:
    await evening(morning)
    await morning.down(BY - minutes(20))
    await morning.step(BY + minutes(5))
    await morning.node(up=True, backfilling=True)
    await morning.scenario(key(), backfilled=False)
    await morning.look(BY + minutes(10))
    await morning.step(BY + minutes(10))
    assert await morning.alerts() == []
    await morning.run(BY - minutes(10), "SUCCESS", late=True)
    await morning.node(up=True, backfilling=False)
    await morning.scenario(key(), backfilled=True)
    await morning.run_until(BY + minutes(11), BY + minutes(15))
    assert await morning.alerts() == []


async def test_a_reload_that_moves_the_deadline_counts_at_once(morning: World) -> None:
    await morning.run(T0 + minutes(10), "SUCCESS")
    await evening(morning)
    morning.config = due_by_seven(by=parse_time_of_day("05:00"))
    await morning.step(T0 + 2 * HOUR)
    await morning.run_until(BY - 2 * HOUR, BY - 2 * HOUR + minutes(1))
    assert await morning.alerts() == ["NotDone"]
    morning.config = due_by_seven(by=parse_time_of_day("09:00"))
    await morning.step(BY - HOUR)
    assert await morning.alerts() == ["NotDone!resolved"]


async def test_a_switched_off_scenario_is_not_late_unless_something_else_runs_it(morning: World) -> None:
    await morning.scenario(key("CHILD"))
    await evening(morning)
    await morning.start(T0 + 2 * HOUR, key("CHILD"), trigger="sub")
    await morning.end(T0 + 3 * HOUR, "SUCCESS", key("CHILD"))
    await morning.look(T0 + 4 * HOUR, active=False)
    await morning.step(T0 + 4 * HOUR)
    await morning.run_until(BY - minutes(10), BY + minutes(2))
    assert [alert.labels["scenario"] for alert in await morning.every_alert()] == ["CHILD"]
    await morning.look(BY + HOUR, active=True)
    await morning.step(BY + HOUR)
    assert await morning.alerts() == ["NotDone"]  # what it missed while it was off is past


async def test_one_that_is_switched_off_while_it_is_late_ends_and_is_not_late_again_when_it_is_on(
    morning: World,
) -> None:
    await evening(morning)
    await morning.run_until(BY, BY + minutes(1))
    await morning.look(BY + HOUR, active=False)
    await morning.step(BY + HOUR)
    assert await morning.alerts() == ["NotDone!deactivated"]
    await morning.look(BY + 2 * HOUR, active=True)
    await morning.run_until(BY + 2 * HOUR, BY + 3 * HOUR, minutes(30))
    assert await morning.alerts() == ["NotDone!deactivated"]


async def test_a_scenario_that_is_renamed_out_of_the_rule_or_gone_is_not_late(morning: World) -> None:
    morning.config = due_by_seven(match=parse_matchers("scenario_name=Nightly"))
    await morning.scenario(key("MOVED"), name="Nightly")
    await evening(morning)
    await morning.scenario(key(), name="Daily")
    await morning.look(BY - HOUR)
    await morning.scenario(key("MOVED"), name="Nightly", gone_at=BY - HOUR, polled_at=BY - HOUR)
    await morning.scenario(key("THERE"), name="Nightly", watched_since=BY - HOUR, polled_at=BY - HOUR)
    await morning.run_until(BY - minutes(30), BY + minutes(2), minutes(2))
    assert [alert.labels["scenario"] for alert in await morning.every_alert()] == ["THERE"]
    await morning.scenario(key("THERE"), name="Other", polled_at=BY + minutes(3))
    await morning.run_until(BY + timedelta(days=1), BY + timedelta(days=1, minutes=1))
    assert await morning.alerts() == ["NotDone!unwatched"]


@pytest.mark.parametrize(
    ("night", "moment"),
    [
        ("2026-03-29", datetime(2026, 3, 29, 1, tzinfo=UTC)),  # 02:30 does not exist: 03:00
        ("2026-10-25", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # 02:30 comes twice: the first
    ],
)
async def test_on_the_nights_of_a_clock_change_it_fires_once(world: World, night: str, moment: datetime) -> None:
    rule = replace(RULE, by=parse_time_of_day("02:30"), from_=None, days=parse_days(["sunday:saturday"]))
    before = moment - timedelta(hours=3)
    world.config = config(rules=(rule,), loaded_at=before)
    await world.look(before)
    await world.step(before)
    await world.run_until(moment - minutes(2), moment - minutes(1))
    assert await world.alerts() == []
    await world.run_until(moment + minutes(1), moment + minutes(151), minutes(15))
    assert await world.alerts() == ["NotDone"]
    assert (await world.alert()).starts_at == moment


# --- prediction ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def predicted(world: World) -> World:
    """A scenario that takes an hour, nine times of ten, and must be done by seven."""
    for day in range(2, 12):
        length = 30 if day < 10 else 60
        await world.run(BY - timedelta(days=day, hours=2), "SUCCESS", length=minutes(length), baseline=True)
    world.config = due_by_seven(predict=True)
    await evening(world)
    return world


async def test_a_run_that_has_not_begun_will_be_late_once_the_usual_time_is_no_longer_left(predicted: World) -> None:
    await predicted.look(BY - HOUR - minutes(1))
    assert await predicted.step(BY - HOUR - minutes(1)) == BY - HOUR
    await predicted.step(BY - HOUR)
    assert await predicted.alerts() == []
    await predicted.run_until(BY - HOUR + minutes(1), BY - HOUR + minutes(2))
    alert = await predicted.alert()
    assert alert.starts_at == BY - HOUR
    assert alert.annotations["summary"] == "prod: SALES / Nightly will be late for 2026-03-03 07:00:00 CET"
    assert alert.annotations["usual_duration"] == "1h"
    await predicted.start(BY - minutes(50))
    await predicted.run_until(BY - minutes(49), BY - minutes(48))
    assert await predicted.alerts() == ["NotDone"]
    await predicted.end(BY - minutes(10))
    await predicted.step(BY - minutes(9))
    assert await predicted.alerts() == ["NotDone!resolved"]
    await predicted.run_until(BY, BY + minutes(2))
    assert await predicted.alerts() == ["NotDone!resolved"]


async def test_a_prediction_that_comes_true_is_one_alert_that_says_so(predicted: World) -> None:
    await predicted.run_until(BY - minutes(59), BY - minutes(58))
    await predicted.run_until(BY + minutes(1), BY + minutes(2))
    alert = await predicted.alert()
    assert await predicted.alerts() == ["NotDone"]
    assert alert.annotations["summary"] == "prod: SALES / Nightly was not done by 2026-03-03 07:00:00 CET"
    assert alert.starts_at == BY - HOUR


@pytest.mark.parametrize(("start", "expected"), [(61, []), (59, ["NotDone"])])
async def test_a_run_is_late_as_soon_as_it_starts_too_late(predicted: World, start: float, expected: list[str]) -> None:
    predicted.config = due_by_seven(predict=True, from_=None)
    await predicted.run(BY - timedelta(hours=3), "FAILED")
    await predicted.start(BY - minutes(start))
    await predicted.look(BY - minutes(start - 1))
    await predicted.step(BY - minutes(start - 1))
    assert await predicted.alerts() == expected


async def test_a_run_that_was_under_way_when_the_rule_came_is_counted(world: World) -> None:
    for day in range(2, 6):
        await world.run(BY - timedelta(days=day, hours=2), "SUCCESS", length=HOUR, baseline=True)
    await world.start(BY - minutes(65))
    world.config = due_by_seven(predict=True)
    await world.run_until(BY - minutes(30), BY - minutes(28))
    assert await world.alerts() == []


async def test_what_failed_will_be_late_when_no_time_is_left_to_run_again(predicted: World) -> None:
    await predicted.start(BY - minutes(70))
    await predicted.look(BY - minutes(69))
    await predicted.step(BY - minutes(69))
    assert await predicted.alerts() == []
    await predicted.end(BY - minutes(40), "FAILED")
    await predicted.look(BY - minutes(39))
    await predicted.step(BY - minutes(39))
    assert await predicted.alerts() == ["NotDone"]


async def test_a_prediction_that_was_ended_by_hand_is_not_repeated_for_that_deadline(predicted: World) -> None:
    await predicted.run_until(BY - minutes(59), BY - minutes(58))
    alert = await predicted.alert()
    await predicted.store.write(resolve_by_hand, alert.id, BY - minutes(57), predicted.config)
    await predicted.run_until(BY - minutes(56), BY + minutes(10), minutes(3))
    assert await predicted.alerts() == ["NotDone!by_hand"]
    tomorrow = BY + timedelta(days=1)
    await predicted.run_until(tomorrow, tomorrow + minutes(1))
    assert await predicted.alerts() == ["NotDone!by_hand", "NotDone"]


async def test_without_a_usual_duration_nothing_is_predicted(world: World) -> None:
    await world.run(BY - timedelta(days=2), "SUCCESS", length=HOUR, baseline=True)
    world.config = due_by_seven(predict=True)
    await evening(world)
    await world.run_until(BY - HOUR, BY - minutes(1), minutes(20))
    assert await world.alerts() == []


async def test_a_rule_that_no_scenario_matches_is_named_once_some_were_polled(world: World) -> None:
    world.config = due_by_seven(match=parse_matchers("project=NOWHERE"))
    assert world.decider
    await world.step(T0)
    assert world.decider.idle_rules == set()
    await world.look(T0 + minutes(2))
    await world.step(T0 + minutes(2))
    assert world.decider.idle_rules == {"NotDone"}


@pytest.mark.parametrize(("begin", "by"), [("24:00", "00:00"), ("24:00", "24:00"), ("07:00", "07:00")])
def test_a_window_without_length_is_refused(begin: str, by: str) -> None:
    rule = replace(RULE, from_=parse_time_of_day(begin), by=parse_time_of_day(by))
    with pytest.raises(ValueError, match="from and by are the same time"):
        rule.check({"from": begin, "by": by})


async def test_an_alert_of_a_scenario_that_something_else_ran_ends_when_it_is_switched_off_for_good(
    morning: World,
) -> None:
    await morning.scenario(key(), active=False)
    await evening(morning)
    await morning.start(T0 + 3 * HOUR, trigger="manual")
    await morning.end(T0 + 3 * HOUR + minutes(3))
    await morning.run_until(BY - minutes(5), BY + minutes(5), minutes(5))
    assert await morning.alerts() == ["NotDone"]
    await morning.scenario(key(), active=True)
    await morning.start(BY + HOUR)
    await morning.end(BY + HOUR + minutes(1), "FAILED")
    await morning.run_until(BY + HOUR + minutes(2), BY + HOUR + minutes(4))
    await morning.scenario(key(), active=False)
    await morning.run_until(BY + 2 * HOUR, BY + 3 * HOUR, minutes(30))
    assert await morning.alerts() == ["NotDone!deactivated"]


async def test_a_run_by_hand_before_it_was_switched_off_keeps_no_deadline(morning: World) -> None:
    await evening(morning)
    await morning.start(T0 + 3 * HOUR, trigger="manual")
    await morning.end(T0 + 3 * HOUR + minutes(3))
    await morning.step(T0 + 4 * HOUR)
    await morning.scenario(key(), active=False)
    await morning.run_until(BY - minutes(5), BY + minutes(5), minutes(5))
    assert await morning.alerts() == []


async def test_history_that_is_read_back_sets_no_deadlines_of_its_own(morning: World) -> None:
    begun = BY + 2 * HOUR
    morning.config = config(rules=(RULE,), loaded_at=begun)
    await morning.node(backfilling=True, watched_since=begun)
    await morning.scenario(key(), backfilled=False, watched_since=begun)
    await morning.start(BY - 120 * HOUR, late=True)
    await morning.end(BY - 119 * HOUR, late=True, seen=begun)
    await morning.step(begun)
    await morning.scenario(key(), watched_since=begun)
    await morning.node(backfilling=False)
    await morning.run_until(begun + minutes(1), begun + minutes(2))
    assert await morning.alerts() == []
