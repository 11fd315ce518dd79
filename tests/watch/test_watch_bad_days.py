"""A node that behaves badly, and a watch that loses nothing, tells nothing twice and does no harm."""

import asyncio
import sqlite3
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select
from structlog.testing import capture_logs

from tests.fakedss import Dialect, FakeDSS, Life, between, faults, make_certificate
from tests.watch.conftest import CLOCK, QUICK, Jumping, Key, Start, Watching, now_ms, settled, until, watching
from tocsin.config.model import ProjectScope, Tls, WatchConfig
from tocsin.kit.clock import to_ms
from tocsin.model.event import Event
from tocsin.store import NotLeader, StoreUnavailable, scenarios, schema, writer
from tocsin.store.scenarios import ScenarioRow

pytestmark = pytest.mark.e2e

EVERYTHING_WRONG = [
    faults.shuffled(),
    faults.strangers(),
    faults.cut_json(),
    faults.truncated(),
    faults.reset(),
    faults.status(500),
    faults.html(502),
    faults.too_many(),
    faults.nulled("end", "trigger", "scenario", "payload"),
    faults.missing("start", "result", "nextRun", "tags"),
    faults.reply(None),
    faults.reply([]),
    faults.not_found(),
]


async def rows(found: Watching) -> dict[tuple[str, str], ScenarioRow]:
    loaded = await found.store.read(scenarios.load_scenarios, "prod")
    return {(row.key.project, row.key.scenario): row for row in loaded}


async def of_nodes(found: Watching) -> list[tuple[str, str | None]]:
    return [(event.name.value, event.reason) for event in await found.events() if event.project is None]


async def test_whatever_its_replies_are_each_run_is_told_once(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(4, 5)
    found = await start(watch=WatchConfig(**fields(QUICK, max_poll_interval=timedelta(seconds=1))))
    since = await now_ms()
    life = Life(dss.world, 30, between(0.02, 1), seed=7)
    living = asyncio.create_task(life.live())
    for number, fault in enumerate(EVERYTHING_WRONG):
        dss.fail(fault, probability=0.05, seed=number)
    await asyncio.sleep(4)
    living.cancel()
    life.finish()
    dss.rules.clear()
    await until(lambda: found.agrees(since), seconds=60)
    assert len(dss.ledger.finished()) > 50
    assert dss.writes == []


def fields(watch: WatchConfig, **more: Any) -> dict[str, Any]:
    return {name: getattr(watch, name) for name in WatchConfig.__dataclass_fields__} | more


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.reset(), "unreachable"),
        (faults.html(502), "unreachable"),
        (faults.html(200), "invalid_reply"),
        (faults.unauthorized(), "unauthorized"),
        (faults.forbidden(), "forbidden"),
    ],
    ids=["reset", "a gateway's page", "a log-in page", "the key is no good", "no rights at all"],
)
async def test_a_dead_node_is_told_once_with_its_reason_and_read_back_when_it_returns(
    dss: FakeDSS, start: Start, fault: faults.Fault, reason: str
) -> None:
    dss.world.populate(2, 2)
    found = await start(watch=WatchConfig(**fields(QUICK, discovery_interval=timedelta(milliseconds=300))))
    since = await now_ms()
    with dss.fail(fault):
        await until(lambda: _has(found, [("node.down", reason)]))
        dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
        snapshot = found.watcher.snapshot()
        assert snapshot
        assert (snapshot.row.up, snapshot.row.down_reason) == (False, reason)
    await until(lambda: found.agrees(since))
    assert await of_nodes(found) == [("node.down", reason), ("node.up", None)]
    assert [event.late for event in await found.events() if event.run] == [True, True]
    await until(lambda: settled(found))


async def _has(found: Watching, told: list[tuple[str, str | None]]) -> bool:
    return await of_nodes(found) == told


async def test_a_node_that_was_down_at_a_restart_is_not_told_again(dss: FakeDSS, tmp_path: Path) -> None:
    dss.world.populate(1, 1)
    async with watching(dss, tmp_path) as first:
        await until(lambda: settled(first))
        await dss.go_down()
        await until(lambda: _has(first, [("node.down", "unreachable")]))
    async with watching(dss, tmp_path) as second:
        await until(lambda: (second.value("tocsin_dss_requests_total", operation="list_projects", code="unreachable") or 0) > 3)  # fmt: skip
        await dss.go_up()
        await until(lambda: settled(second))
        assert await of_nodes(second) == [("node.down", "unreachable"), ("node.up", None)]


async def test_a_node_that_never_answered_is_down_too(dss: FakeDSS, tmp_path: Path) -> None:
    dss.world.populate(1, 1)
    dss.revoke_key(dss.admin_key)
    async with watching(dss, tmp_path) as found:
        await until(lambda: _has(found, [("node.down", "unauthorized")]))
        dss.restore_key(dss.admin_key)
        await until(lambda: settled(found))
        assert (await of_nodes(found))[1:] == [("node.up", None)]


# --- politeness ------------------------------------------------------------------------------------------------------


async def test_a_node_never_gets_more_requests_than_it_was_promised(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(5, 10)
    dss.delay = 0.05
    pace = fields(QUICK, max_requests_per_second=40, max_concurrency=3)
    found = await start(watch=WatchConfig(**pace))
    life = asyncio.create_task(Life(dss.world, 50, between(0.1, 1)).live())
    await asyncio.sleep(3)
    life.cancel()
    sent = [seen.at for seen in dss.requests]
    worst = max(sum(begin <= at < begin + 1 for at in sent) for begin in sent)
    assert worst <= 42  # what leaves within a second may arrive a little closer together
    assert dss.peak_in_flight <= 3
    assert {seen.user_agent for seen in dss.requests} == {"tocsin/test"}
    assert found.value("tocsin_dss_requests_per_second_limit") == 40


async def test_a_node_that_complains_is_asked_less(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 3)
    found = await start()
    with dss.fail(faults.too_many("1"), nth=range(1, 9)):
        await until(lambda: (found.value("tocsin_dss_requests_per_second_limit") or 400) < 400)
    since = await now_ms()
    dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
    await until(lambda: found.agrees(since))


async def test_hooks_get_a_quarter_of_the_budget_and_one_poll_a_second(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 30)
    quiet: dict[str, Any] = dict.fromkeys(("sweep_interval", "discovery_interval"), timedelta(hours=1))
    for one in dss.world.all_scenarios():
        one.active = False  # no spare polls
    found = await start(watch=WatchConfig(**fields(QUICK, **quiet, max_requests_per_second=40)))
    await until(lambda: dss.asked("last_runs") == 30)
    before, began = 30, CLOCK.monotonic()
    for _ in range(20):
        for one in dss.world.all_scenarios():
            assert found.watcher.nudge(one.project, one.id) is True
        await asyncio.sleep(0.05)
    quarter = 10 * (CLOCK.monotonic() - began)
    assert dss.asked("last_runs") - before <= quarter + 2
    await until(lambda: dss.asked("last_runs") - before >= 30)
    assert found.watcher.nudge("NOWHERE", "S") is False


# --- the sweep -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", ["empty", "forbidden"])
async def test_without_admin_rights_the_lists_tell_what_runs(tmp_path: Path, others: str) -> None:
    async with FakeDSS(dialect=Dialect(futures_of_others=others)) as dss:
        dss.world.populate(3, 3)
        async with watching(dss, tmp_path, admin=False) as found:
            await until(lambda: settled(found))
            since = await now_ms()
            dss.start_run("P001", "S001")
            await until(lambda: found.value("tocsin_sweep_trusted") == 0)
            await until(lambda: found.agrees(since))
            dss.end_run("P001", "S001")
            await until(lambda: found.agrees(since))
            dss.start_run("P002", "S000")
            await until(lambda: found.agrees(since))
            assert (await found.store.read(_sweep_trusted)) is False


def _sweep_trusted(connection: Connection) -> bool:
    return bool(connection.execute(select(schema.nodes.c.sweep_trusted)).scalar_one())


async def test_the_sweep_may_have_a_key_of_its_own(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    found = await start(admin=False, sweep_api_key=Key(dss.admin_key))
    since = await now_ms()
    dss.start_run("P000", "S001")
    await until(lambda: found.agrees(since))
    assert {seen.key for seen in dss.requests if seen.call.operation == "futures"} == {dss.admin_key}
    assert {seen.key for seen in dss.requests if seen.call.operation != "futures"} == {dss.api_key}
    dss.revoke_key(dss.admin_key)
    await until(lambda: found.value("tocsin_sweep_trusted") == 0)
    dss.end_run("P000", "S001")
    await until(lambda: found.agrees(since))
    assert await of_nodes(found) == []


async def test_a_sweep_that_shows_all_that_runs_an_hour_later_is_trusted_again(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 3)
    clock = Jumping()
    found = await start(admin=False, sweep_api_key=Key(dss.admin_key), clock=clock)
    since = await now_ms()
    dss.revoke_key(dss.admin_key)
    await until(lambda: found.value("tocsin_sweep_trusted") == 0)
    dss.restore_key(dss.admin_key)
    clock.hurried += 3590
    dss.start_run("P000", "S001")
    await until(lambda: found.agrees(since))
    assert found.value("tocsin_sweep_trusted") == 0
    clock.hurried += 10
    await until(lambda: found.value("tocsin_sweep_trusted") == 1)
    dss.end_run("P000", "S001")
    await until(lambda: found.agrees(since))


# --- what comes and goes ---------------------------------------------------------------------------------------------


async def test_scenarios_are_renamed_deleted_and_made_again(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(2, 4)
    found = await start()
    since = await now_ms()
    dss.world.scenario("P000", "S000").name = "Renamed"
    dss.world.remove_scenario("P000", "S001")

    async def noticed() -> bool:
        known = await rows(found)
        return known["P000", "S000"].name == "Renamed" and known["P000", "S001"].gone_at is not None

    await until(noticed)
    dss.world.add_scenario("P000", "S001", "Made again")
    dss.world.add_scenario("P001", "NEW")
    dss.world.add_scenario("P002", "NEWER")
    for project, scenario in (("P000", "S000"), ("P000", "S001"), ("P001", "NEW"), ("P002", "NEWER")):
        dss.start_run(project, scenario)
        dss.end_run(project, scenario)
    await until(lambda: found.agrees(since))
    told = [event.scenario.name for event in await found.events() if event.scenario]
    assert sorted(set(told)) == ["Made again", "NEW", "NEWER", "Renamed"]


async def test_a_scenario_made_while_its_projects_list_is_on_its_way_is_found_soon(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    clock, gate = Jumping(), asyncio.Event()
    found = await start(clock=clock, watch=WatchConfig(**fields(QUICK, discovery_interval=timedelta(hours=1))))
    since = await now_ms()
    rule = dss.fail(faults.held(gate), "scenarios")
    for scenario in ("NEW", "NEWER"):
        dss.world.add_scenario("P000", scenario)
        dss.start_run("P000", scenario)
        clock.hurried += 10
        await until(lambda: rule.applied == 1)
        swept = dss.asked("futures") + 3
        await until(partial(lambda wanted: dss.asked("futures") >= wanted, swept))
    gate.set()
    clock.hurried += 10
    await until(lambda: found.agrees(since))


async def test_if_over_a_fifth_vanishes_at_once_nothing_is_given_up(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(4, 3)
    found = await start()
    before = dss.asked("projects")
    dss.hide_project("P000", "absent")
    await until(lambda: dss.asked("projects") >= before + 6)
    assert [row.gone_at for row in (await rows(found)).values()] == [None] * 12
    dss.show_project("P000")
    since = await now_ms()
    dss.start_run("P000", "S000")
    await until(lambda: found.agrees(since))


async def test_a_project_that_is_gone_and_returns_counts_from_its_return(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(6, 2)
    found = await start(admin=False, sweep_api_key=None)
    dss.hide_project("P000")

    async def gone() -> bool:
        return (await rows(found))["P000", "S000"].gone_at is not None

    await until(gone)
    dss.world.instant_run("P000", "S000", ago=timedelta(seconds=10))
    dss.show_project("P000")

    async def back() -> bool:
        return (await rows(found))["P000", "S000"].gone_at is None

    await until(back)
    since = await now_ms()
    dss.start_run("P000", "S000")
    dss.end_run("P000", "S000")
    await until(lambda: found.agrees(since))


async def test_a_refusal_is_blindness_and_what_happened_meanwhile_is_read_later(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(3, 2)
    found = await start(admin=False)
    since = await now_ms()
    dss.hide_project("P000", "forbidden")
    before = dss.asked("scenarios", "P000")
    await until(lambda: dss.asked("scenarios", "P000") >= before + 5)
    assert (await rows(found))["P000", "S000"].gone_at is None
    dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
    dss.show_project("P000")
    await until(lambda: found.agrees(since))


async def test_what_the_configuration_no_longer_names_is_unwatched(dss: FakeDSS, tmp_path: Path) -> None:
    dss.world.populate(2, 2)
    async with watching(dss, tmp_path) as first:
        await until(lambda: settled(first))
    async with watching(dss, tmp_path, projects=ProjectScope(exclude=("P001",))) as second:
        await until(lambda: settled(second, scenarios=2))
        known = await rows(second)
        assert {key for key, row in known.items() if row.gone_at} == {("P001", "S000"), ("P001", "S001")}
    dss.world.instant_run("P001", "S000")
    async with watching(dss, tmp_path) as third:
        await until(lambda: settled(third))
        assert await third.events() == []


# --- histories and clocks --------------------------------------------------------------------------------------------


async def test_a_server_that_gives_short_lists_is_asked_by_date(tmp_path: Path) -> None:
    async with FakeDSS(dialect=Dialect(max_limit=8)) as dss:
        dss.world.populate(1, 1)
        dss.world.instant_run("P000", "S000")
        async with watching(dss, tmp_path) as found:
            await until(lambda: settled(found))
        since = await now_ms()
        for _ in range(30):
            await asyncio.sleep(0.002)
            dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
        async with watching(dss, tmp_path) as again:
            await until(lambda: again.agrees(since))
        assert dss.asked("runs_by_date") > 0


async def test_a_history_that_was_cleared_loses_nothing_that_comes_after(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    for _ in range(5):
        dss.world.instant_run("P000", "S000")
    found = await start()
    since = await now_ms()
    dss.start_run("P000", "S000")
    await until(lambda: found.agrees(since))
    dss.world.clear_history()
    dss.end_run("P000", "S000")
    dss.world.instant_run("P000", "S001", lasted=timedelta(milliseconds=1))
    await until(lambda: found.agrees(since))


@pytest.mark.parametrize("hours", [-3, 5])
async def test_a_clock_that_is_off_or_jumps_changes_nothing(dss: FakeDSS, start: Start, hours: int) -> None:
    dss.world.populate(1, 2)
    dss.jump(timedelta(hours=hours))
    dss.world.instant_run("P000", "S000", ago=timedelta(seconds=5))
    found = await start()
    await asyncio.sleep(0.6)  # a Date header tells the clock to half a second
    since = await now_ms() + hours * 3_600_000
    dss.start_run("P000", "S000")
    await until(lambda: found.agrees(since))
    dss.jump(timedelta(hours=-1))
    dss.end_run("P000", "S000")
    dss.world.instant_run("P000", "S001", lasted=timedelta(milliseconds=1))
    await until(lambda: _count(found, 4))
    delays = found.registry.get_sample_value("tocsin_detection_delay_seconds_sum", {"dss_node": "prod"})
    assert delays is not None
    assert delays >= 0


async def _count(found: Watching, number: int) -> bool:
    return len([event for event in await found.events() if event.run]) == number


# --- single troubles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields_", [("start",), ("runId",)])
async def test_a_run_that_can_never_be_read_costs_a_few_long_polls_and_hides_no_other(
    dss: FakeDSS, start: Start, fields_: tuple[str, ...]
) -> None:
    dss.world.populate(1, 2)
    found = await start()
    since = await now_ms()
    broken = dss.world.instant_run("P000", "S000", ago=timedelta(milliseconds=1))
    dss.fail(faults.changed(lambda run: run | dict.fromkeys(fields_) if run["runId"] == broken else run), "last_runs")

    async def run_and_see(scenario: str) -> int:
        """One more run; how many runs its poll asked for at most."""
        before = len(dss.requests)
        run = dss.world.instant_run("P000", scenario)

        async def told() -> bool:
            return run in [event.run.run_id for event in await found.events() if event.run]

        found.watcher.nudge("P000", scenario)
        await until(told)
        later = list(dss.requests)[before:]
        asked = [seen for seen in later if (seen.call.operation, seen.call.scenario) == ("last_runs", scenario)]
        return max(int(seen.query.partition("limit=")[2].partition("&")[0]) for seen in asked)

    limits = [await run_and_see("S000") for _ in range(12)]
    assert limits[6:] == [5] * 6
    await run_and_see("S001")
    assert broken not in [event.run.run_id for event in await found.events() if event.run]
    lost = (await found.differences(since)).lost
    assert {fact[3] for fact in lost} == {broken}


async def test_one_broken_scenario_stops_no_other(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 3)
    found = await start()
    since = await now_ms()
    with dss.fail(faults.status(500), scenario="S000"):
        for scenario in ("S000", "S001", "S002"):
            dss.start_run("P000", scenario)
        await until(lambda: _count(found, 2))
    await until(lambda: found.agrees(since))
    assert await of_nodes(found) == []


async def test_an_announced_start_is_expected_and_met(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    due = dss.world.now_ms() + 500
    for one in dss.world.all_scenarios():
        one.next_run_ms = due
    found = await start()
    await until(lambda: dss.world.now_ms() > due)
    dss.world.scenario("P000", "S001").active = False
    dss.start_run("P000", "S000")

    def states(connection: Connection) -> dict[str, str]:
        table = schema.expected_starts.c
        query = select(table.scenario, table.state)
        return {row.scenario: row.state for row in connection.execute(query)}

    async def known() -> bool:
        return await found.store.read(states) == {"S000": "met", "S001": "withdrawn"}

    await until(known)


@pytest.mark.parametrize("admin", [True, False])
async def test_the_status_of_a_scenario_that_should_have_started_is_written_anew(
    dss: FakeDSS, start: Start, admin: bool
) -> None:
    dss.world.populate(1, 2)
    due = dss.world.scenario("P000", "S000").next_run_ms = dss.world.now_ms() + 500
    found = await start(admin=admin)

    async def read_since() -> bool:
        row = (await rows(found))["P000", "S000"]
        return row.status_read_at is not None and to_ms(row.status_read_at) > due + 3000

    await until(read_since)


async def test_a_start_that_does_not_come_makes_its_list_be_read_again(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    dss.world.scenario("P000", "S000").next_run_ms = dss.world.now_ms() - 58_000  # DSS launches after a minute
    await start(watch=WatchConfig(**fields(QUICK, discovery_interval=timedelta(hours=1))))
    assert dss.asked("scenarios") == 1
    await until(lambda: dss.asked("scenarios") >= 2)


async def test_the_end_of_a_run_nudges_those_who_follow_it(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    follower = dss.world.scenario("P000", "S001")
    follower.triggers = [{"type": "follow_scenariorun", "params": {"scenarioId": "S000"}}]
    follower.active = False
    dss.world.instant_run("P000", "S001", trigger="follow_scenariorun")
    found = await start()

    async def learned() -> bool:
        return (await rows(found))["P000", "S001"].follows == (("P000", "S000"),)

    await until(learned)
    dss.world.instant_run("P000", "S000")
    await until(lambda: bool(found.value("tocsin_polls_total", reason="follow")))


async def test_dss_reporters_that_failed_are_events_even_if_they_fail_late(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    dss.start_run("P000", "S000")
    dss.end_run("P000", "S000")
    await until(lambda: _count(found, 2))
    dss.ledger.runs[-1].reporters_states.append(
        {"reporterName": "mail", "messagingType": "mail-scenario", "error": {"message": "no route to host"}}
    )

    def told(events: list[Event]) -> list[tuple[str, str]]:
        return [(event.reporter.name, event.reporter.error) for event in events if event.reporter]

    async def known() -> bool:
        return told(await found.events()) == [("mail", "no route to host")]

    def counted(connection: Connection) -> int:
        return connection.execute(select(schema.scenarios.c.reporter_failures)).scalar_one()

    await until(known)
    assert await found.store.read(counted) == 1


async def test_who_no_longer_leads_writes_nothing_shows_nothing_and_ends(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()
    gauges = ("tocsin_sweep_trusted", "tocsin_oldest_poll_age_seconds", "tocsin_dss_requests_per_second_limit")
    assert None not in [found.value(gauge) for gauge in gauges]
    await found.store.write(writer.acquire_lease, "another", CLOCK.now(), force=True)
    with pytest.raises(NotLeader):
        async with asyncio.timeout(20):
            await found.task
    assert [found.value(gauge) for gauge in gauges] == [None, None, None]
    dss.world.instant_run("P000", "S000")
    assert await found.events() == []


async def test_a_store_that_cannot_be_written_delays_and_loses_nothing(
    dss: FakeDSS, start: Start, tmp_path: Path
) -> None:
    dss.world.populate(1, 2)
    found = await start()
    since = await now_ms()
    other = sqlite3.connect(tmp_path / "tocsin.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with capture_logs() as lines:
        dss.start_run("P000", "S000")
        await until(lambda: "store_unavailable" in [line["event"] for line in lines])
        dss.end_run("P000", "S000")
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: found.agrees(since))
        await until(lambda: "store_available" in [line["event"] for line in lines])
    assert [line["event"] for line in lines if line["log_level"] != "info"] == ["store_unavailable"]


async def test_a_disk_that_is_full_for_a_while_delays_and_loses_nothing(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    found = await start()
    since = await now_ms()

    def pages(connection: Connection, most: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {most}").close()

    with capture_logs() as lines:
        await found.store.write(pages, 1)  # SQLite's own limit raises the very error that a full disk does
        number = 0
        while "store_unavailable" not in [line["event"] for line in lines]:
            number += 1
            dss.world.instant_run("P000", f"S00{number % 2}", lasted=timedelta(milliseconds=1))
            await asyncio.sleep(0.02)
        while True:
            with suppress(StoreUnavailable):  # it may share its transaction with one that the disk is too full for
                await found.store.write(pages, 1_000_000)
                break
        await until(lambda: found.agrees(since))


async def test_a_certificate_that_ran_out_is_a_node_that_is_down_until_there_is_another(tmp_path: Path) -> None:
    good, old = make_certificate(tmp_path), make_certificate(tmp_path, "old", expired=True)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(good.cert_file.read_bytes() + old.cert_file.read_bytes())
    async with FakeDSS(tls=good) as dss:
        dss.world.populate(1, 2)
        async with watching(dss, tmp_path, tls=Tls(ca_file=str(trusted))) as found:
            await until(lambda: settled(found))
            since = await now_ms()
            dss.show_certificate(old)
            await dss.go_down()
            await dss.go_up()
            await until(lambda: _has(found, [("node.down", "unreachable")]))
            snapshot = found.watcher.snapshot()
            assert snapshot
            assert "certificate has expired" in (snapshot.row.problem or "")
            dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
            dss.show_certificate(good)
            await until(lambda: found.agrees(since))


async def test_a_flood_of_failures_delays_their_details_and_not_what_is_new(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 60)
    found = await start(watch=WatchConfig(**fields(QUICK, max_requests_per_second=50)))
    since = await now_ms()
    for number in range(50):
        dss.start_run("P000", f"S{number:03}")
    await until(lambda: found.agrees(since))
    for number in range(50):
        dss.end_run("P000", f"S{number:03}", "FAILED")
    dss.start_run("P000", "S055")
    before = len(dss.requests)
    await until(lambda: found.agrees(since))
    await until(lambda: dss.asked("run") == 50)
    asked = [(seen.call.operation, seen.call.scenario) for seen in dss.requests][before:]
    until_seen = asked[: asked.index(("last_runs", "S055"))]
    assert sum(operation == "run" for operation, _ in until_seen) < 25


async def test_a_bundle_that_replaces_all_scenarios_of_a_project_loses_no_run(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(8, 2)
    found = await start()
    since = await now_ms()
    dss.start_run("P000", "S000")
    await until(lambda: found.agrees(since))
    before = dict(dss.world.projects["P000"])
    dss.world.projects["P000"] = {}  # while it is activated
    asked = dss.asked("scenarios", "P000")
    await until(lambda: dss.asked("scenarios", "P000") >= asked + 4)
    dss.world.projects["P000"] = before
    before["S000"].name, before["S000"].run_as = "Renamed", "deployer"
    dss.world.add_scenario("P000", "NEW")
    dss.end_run("P000", "S000")
    for scenario in ("S001", "NEW"):
        dss.world.instant_run("P000", scenario, lasted=timedelta(milliseconds=1))
    await until(lambda: found.agrees(since))
