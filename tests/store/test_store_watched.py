"""The rows that the watch stage writes: nodes, projects, scenarios, runs, totals; and its transaction on both databases."""

from dataclasses import replace

from tests.watch.scenes import EARLY, KEY, T0, at, buckets_of, poll, poll_result, ran, runs_of, told, totals_of
from tocsin.model.run import DetailsLevel, ScenarioKey
from tocsin.routing.details import DetailsNeed, DetailsReason
from tocsin.store import Store, runs, scenarios, starts
from tocsin.store.prune import forget_runs
from tocsin.store.scenarios import PolledScenario, ProjectRow, ScenarioProgress, ScenarioRow
from tocsin.watch.record import record_polls

OTHER = ScenarioKey("prod", "SALES", "HOURLY")


def scenario(key: ScenarioKey = KEY) -> ScenarioRow:
    return ScenarioRow(
        key, "Nightly", ("daily",), "step_based", True, "jo", (("SALES", "LOAD"),), watched_since=T0, watermark=EARLY
    )


async def test_a_node_is_watched_since_its_first_watch(store: Store) -> None:
    first = await store.write(scenarios.ensure_node, "prod", T0)
    assert first == scenarios.NodeRow("prod", T0)
    down = replace(first, up=False, down_reason="unreachable", down_since=at(5), clock_offset_ms=-40, scope="x")
    await store.write(scenarios.save_node, down)
    assert await store.write(scenarios.ensure_node, "prod", at(99)) == down
    assert await store.read(scenarios.all_nodes) == [down]


async def test_projects_are_written_over_what_was_known(store: Store) -> None:
    row = ProjectRow("prod", "SALES", "Sales", T0)
    await store.write(scenarios.put_projects, [row])
    gone = replace(row, missing=3, gone_at=at(9))
    await store.write(scenarios.put_projects, [gone])
    assert await store.read(scenarios.load_projects, "prod") == [gone]


async def test_lists_and_polls_each_write_their_own_part_of_a_scenario(store: Store) -> None:
    await store.write(scenarios.put_scenarios, [scenario(), scenario(OTHER)])
    seen = PolledScenario(KEY, at(50), at(40), at(45), "FAILED", 2)
    await store.write(scenarios.save_polls, [seen])
    await store.write(scenarios.put_follows, KEY, (("SALES", "OTHER"),))
    renamed = replace(scenario(), name="By night", active=False, next_run=at(900), status_read_at=at(60))
    await store.write(scenarios.put_scenarios, [replace(renamed, backfilled=True)])
    expected = replace(
        renamed, polled_at=at(50), cursor=at(40), last_end=at(45), last_outcome="FAILED", backfilled=True
    )
    expected = replace(expected, follows=(("SALES", "OTHER"),))
    rows = await store.read(scenarios.load_scenarios, "prod")
    assert {row.key: row for row in rows} == {KEY: expected, OTHER: scenario(OTHER)}
    past = ScenarioProgress(T0, EARLY, at(40), at(45), "FAILED")
    assert await store.read(scenarios.scenario_progress, [KEY, OTHER]) == {
        KEY: past,
        OTHER: ScenarioProgress(T0, EARLY),
    }
    await store.write(scenarios.begin_backfill, "prod")
    rows = await store.read(scenarios.load_scenarios, "prod")
    assert {row.key: row.backfilled for row in rows} == {KEY: False, OTHER: False}


async def test_a_list_neither_ends_nor_begins_a_backfill_but_for_what_was_gone(store: Store) -> None:
    async def backfilled() -> bool:
        [row] = await store.read(scenarios.load_scenarios, "prod")
        return row.backfilled

    await store.write(scenarios.put_scenarios, [scenario()])
    await store.write(scenarios.save_polls, [PolledScenario(KEY, at(50), None, None, None)])
    await store.write(scenarios.put_scenarios, [scenario()])  # the list was read before that poll was written
    assert await backfilled()
    await store.write(scenarios.begin_backfill, "prod")
    await store.write(scenarios.put_scenarios, [replace(scenario(), backfilled=True)])
    assert not await backfilled()
    await store.write(scenarios.save_polls, [PolledScenario(KEY, at(70), None, None, None)])
    await store.write(scenarios.put_scenarios, [replace(scenario(), backfilled=True, gone_at=at(80))])
    await store.write(scenarios.put_scenarios, [scenario()])
    assert not await backfilled()


async def test_an_expected_start_stands_until_it_is_settled(store: Store) -> None:
    await store.write(starts.expect_starts, [(KEY, at(60)), (KEY, at(10)), (OTHER, at(5))], T0)
    assert await store.read(starts.pending_starts, "prod") == {OTHER: [at(5)], KEY: [at(10), at(60)]}
    settled = [(KEY, at(10), "met"), (KEY, at(60), "withdrawn"), (OTHER, at(77), "met")]
    await store.write(starts.close_starts, settled, at(20))
    assert await store.read(starts.pending_starts, "prod") == {OTHER: [at(5)]}
    await store.write(starts.expect_starts, [(KEY, at(10)), (KEY, at(60))], at(30))
    assert await store.read(starts.pending_starts, "prod") == {OTHER: [at(5)], KEY: [at(60)]}


async def test_a_poll_writes_its_runs_events_and_totals_once(store: Store) -> None:
    await store.write(scenarios.put_scenarios, [scenario(), scenario(OTHER)])
    seen = [ran(-20, -10), ran(1, 2, "FAILED"), ran(10, 80), ran(90)]
    mine = poll(poll_result(seen, now=100), pending=[T0], reason="sweep")
    theirs = poll(poll_result([ran(5, 6, key=OTHER)], now=100, key=OTHER))
    found = await store.write(record_polls, [mine, theirs, poll(poll_result([], 100, key=ScenarioKey("x", "y", "z")))])
    assert told(found[0].events) == [
        ("run.started", "run-1"),
        ("run.failed", "run-1"),
        ("run.started", "run-10"),
        ("run.finished", "run-10"),
        ("run.started", "run-90"),
    ]
    assert found[0].open_runs == (ran(90),)
    need = DetailsNeed(DetailsLevel.LOG, DetailsReason.FAILURE)
    assert found[0].details == ((ran(1, 2).key, need),)
    assert found[0].polled
    assert (found[0].polled.cursor, found[0].settled) == (at(90), {T0: "met"})
    assert [one.polled is not None for one in found] == [True, True, False]
    again = await store.write(record_polls, [mine, theirs])
    assert [one.events for one in again] == [(), ()]
    counted = {("SALES", "NIGHTLY", "FAILED"): (1, 1.0), ("SALES", "NIGHTLY", "SUCCESS"): (1, 70.0)}
    assert await store.read(totals_of) == counted | {("SALES", "HOURLY", "SUCCESS"): (1, 1.0)}
    assert await store.read(buckets_of) == {
        ("SALES", "FAILED", 1000): 1,
        ("SALES", "SUCCESS", 1000): 1,
        ("SALES", "SUCCESS", 3_600_000): 1,
    }
    assert await store.read(runs_of, KEY) == [
        (run, run.start < T0) for run in sorted(seen, key=lambda run: run.start, reverse=True)
    ]
    assert [row.run for row in await store.read(runs.open_runs, "prod")] == [ran(90)]
    (due,) = await store.read(runs.details_due, "prod", 10)
    assert (due.run, due.seen_by) == (ran(1, 2, "FAILED"), "sweep")
    await store.write(runs.plan_details, due.run.key, None, 1)
    assert await store.read(runs.details_due, "prod", 10) == []


async def test_pruning_keeps_the_newest_and_the_open_runs_and_raises_the_watermark(store: Store) -> None:
    await store.write(scenarios.put_scenarios, [scenario()])
    seen = [ran(0), ran(10, 11), ran(20, 21), ran(30, 31), ran(40, 41)]
    await store.write(record_polls, [poll(poll_result(seen, now=50))])
    assert await store.write(forget_runs, at(35), None, 2) == (2, None)
    assert await store.write(forget_runs, at(35), None, 2) == (0, None)
    assert [run.run_id for run, _ in await store.read(runs_of, KEY)] == ["run-40", "run-30", "run-0"]
    found = await store.read(scenarios.scenario_progress, [KEY])
    assert found[KEY].watermark == at(20.001)
    (again,) = await store.write(record_polls, [poll(poll_result(seen, now=60))])
    assert again.events == ()
