"""Every run is told once: from the node's history, over the store, to the webhook."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import time_ns

from tests.fakedss import DaemonProcess, Differences, FakeDSS, config_for, eventually, faults, free_port, node

AGREED = Differences()
OUTCOMES = ("SUCCESS", "WARNING", "FAILED", "ABORTED", "SUCCESS", "FAILED")


def told(sink, dss):
    """How what the webhook heard compares with what happened."""
    return dss.ledger.compare(post.json for post in sink.posts)


async def nothing_lost(daemon, dss, node=None):
    """Until the event log has all that happened; then how the two compare."""

    async def compare():
        found = dss.ledger.compare(await daemon.events(node))
        return None if found.lost else found

    return await eventually(compare)


async def looked_again(dss):
    """Until each scenario was looked at twice more: what would be told twice would be told by now."""
    target = {s.key: dss.asked("last_runs", *s.key) + 2 for s in dss.world.all_scenarios()}
    await eventually(lambda: all(dss.asked("last_runs", *key) >= count for key, count in target.items()))


async def test_each_run_gives_one_start_and_one_end_and_each_is_posted_once(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        scenarios = list(dss.world.all_scenarios())
        for scenario in scenarios:
            dss.start_run(scenario.project, scenario.id)
        await eventually(lambda: not told(sink, dss).lost)  # six starts, while the runs run
        for scenario, outcome in zip(scenarios, OUTCOMES, strict=True):
            dss.end_run(scenario.project, scenario.id, outcome)
        await eventually(lambda: not told(sink, dss).lost)
        await looked_again(dss)
        assert told(sink, dss) == AGREED
        assert dss.ledger.compare(await daemon.events()) == AGREED
        assert len({post.headers["webhook-id"] for post in sink.posts}) == len(sink.posts) == 12
        assert {post.headers["Content-Type"].split(";")[0] for post in sink.posts} == {"application/cloudevents+json"}
        assert dss.writes == []

        async def counted():
            started = await daemon.metric('tocsin_events_total{event="run.started"}')
            runs = [
                await daemon.metric(f'dss_project_runs_total{{dss_node="prod",project="{p}",outcome="{o}"}}')
                for p in dss.world.projects
                for o in set(OUTCOMES)
            ]
            return (started, sum(filter(None, runs))) == (6, 6)

        await eventually(counted)


async def test_runs_too_fast_for_any_sweep_are_found_by_looks(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        for _ in range(15):
            dss.world.instant_run("P001", "S002", lasted=timedelta(milliseconds=1))
            await asyncio.sleep(0.002)
        assert await nothing_lost(daemon, dss) == AGREED


async def test_without_an_admin_key_the_running_flags_serve(tmp_path, dss, sink):
    config = config_for(tmp_path, [node("prod", dss, sweep=False)], sink)
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        await eventually(lambda: not told(sink, dss).lost)
        dss.end_run("P000", "S000", "FAILED", error="no such table")
        assert await nothing_lost(daemon, dss) == AGREED


async def test_a_run_from_before_the_first_watch_gives_its_end_only_and_older_ones_nothing(tmp_path, dss, sink):
    dss.world.instant_run("P000", "S000", "FAILED", ago=timedelta(minutes=5))
    run = dss.start_run("P000", "S001", dss.world.now() - timedelta(minutes=1))
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        dss.end_run("P000", "S001")
        await eventually(daemon.events)
        await looked_again(dss)
        assert [(event["type"], event["subject"]) for event in await daemon.events()] == [("tocsin.run.finished", run)]


async def test_two_runs_that_share_an_id_in_the_autumn_night_are_two(tmp_path, sink):
    half_past_two = datetime(2027, 10, 31, 0, 30, tzinfo=UTC)  # in Paris, and an hour later once more
    begun_ms = round(half_past_two.timestamp() * 1000) - 60_000 - time_ns() // 1_000_000
    async with FakeDSS("Europe/Paris", clock_ms=lambda: time_ns() // 1_000_000 + begun_ms) as dss:
        dss.world.populate(1, 1)
        async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
            await daemon.watching(1)
            dss.jump(timedelta(minutes=2))
            ids = set()
            for night in (half_past_two, half_past_two + timedelta(hours=1)):
                ids.add(dss.start_run("P000", "S000", night))
                dss.end_run("P000", "S000", at=night + timedelta(seconds=5))
                dss.jump(timedelta(hours=1))
            assert len(ids) == 1
            assert await nothing_lost(daemon, dss) == AGREED


async def test_a_node_that_hangs_does_not_delay_another(tmp_path, dss, sink):
    async with FakeDSS(node_name="stuck") as stuck:
        stuck.world.populate(2, 3)
        stuck.fail(faults.held(asyncio.Event()))  # for ever
        async with DaemonProcess(config_for(tmp_path, {"stuck": stuck, "prod": dss}, sink)) as daemon:
            await daemon.watching(6)
            dss.start_run("P000", "S000")
            await eventually(lambda: not told(sink, dss).lost)
            dss.end_run("P000", "S000")
            assert await nothing_lost(daemon, dss, "prod") == AGREED

            async def up():
                return await daemon.metric('dss_node_up{dss_node="prod"}') == 1

            await eventually(up)


async def test_three_environment_variables_are_enough(tmp_path, dss, sink):
    listen = f"127.0.0.1:{free_port()}"
    env = {
        "TOCSIN_DSS_URL": dss.url,
        "TOCSIN_DSS_API_KEY": dss.api_key,
        "TOCSIN_NOTIFY": f"json://127.0.0.1:{sink.port}/one\njson://127.0.0.1:{sink.port}/two",
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TOCSIN_HTTP_LISTEN": listen,  # the default port may be taken here
    }
    async with DaemonProcess(env=env, url=f"http://{listen}") as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        dss.end_run("P000", "S000", "FAILED", error="no such table")
        await eventually(lambda: {post.path for post in sink.posts} == {"/one", "/two"})
        before = await daemon.events()
        assert {event["data"]["node"] for event in before} == {dss.node_name}
        assert await daemon.sigterm() == 0
        await dss.go_down()  # it cannot tell its name now, and keeps it all the same
        await daemon.start()
        await daemon.ready()
        await dss.go_up()
        dss.world.instant_run("P000", "S001", lasted=timedelta(milliseconds=1))

        async def seen():
            return len(await daemon.events("fake")) >= len(before) + 2

        await eventually(seen)
        assert len(await daemon.items("/api/v1/nodes")) == 1
        assert all("S000" in post.body.decode() or "Scenario 0" in post.body.decode() for post in sink.posts)

        async def up():
            return await daemon.metric('dss_node_up{dss_node="fake"}') == 1

        await eventually(up)
        assert list((tmp_path / "state").rglob("*.db")) != []
