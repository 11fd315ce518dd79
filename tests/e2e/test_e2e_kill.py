"""A daemon that is killed, or asked to stop, loses nothing."""

import asyncio
import random
from collections import defaultdict

import pytest

from tests.fakedss import DaemonProcess, Differences, Life, between, config_for, eventually, faults
from tests.fakedss.ledger import fact_of


async def test_killed_again_and_again_it_has_every_event_once_and_every_notification_under_one_id(
    tmp_path, dss, sink
):
    chance = random.Random(7)
    daemon = DaemonProcess(config_for(tmp_path, {"prod": dss}, sink))
    try:
        await daemon.start()
        await daemon.ready()
        await daemon.watching(6)
        life = Life(dss.world, 4, between(0.05, 4), seed=7)
        living = asyncio.create_task(life.live())
        for _ in range(8):
            await asyncio.sleep(chance.uniform(0.2, 4))  # from the middle of a start to well at work
            await daemon.kill9()
            await daemon.start()
        living.cancel()
        life.finish()
        await daemon.ready()

        async def all_told():
            events = await daemon.events()
            heard = {post.json["id"] for post in sink.posts if fact_of(post.json)}
            owed = {e["id"] for e in events if not (e["data"]["late"] and e["type"] == "tocsin.run.started")}
            return not dss.ledger.compare(events).lost and owed <= heard

        await eventually(all_told, within=60)
        assert dss.ledger.compare(await daemon.events()) == Differences()
        delivery_ids = defaultdict(set)
        for post in sink.posts:
            if fact_of(post.json):
                delivery_ids[post.json["id"]].add(post.headers["webhook-id"])
        assert [ids for ids in delivery_ids.values() if len(ids) != 1] == []
        known = {event["id"] for event in await daemon.events()}
        assert set(delivery_ids) <= known
    finally:
        await daemon.kill9()


async def test_what_was_only_told_to_a_dead_end_is_sent_again_after_a_kill_under_its_id(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        sink.default = faults.never()
        dss.start_run("P000", "S000")
        await eventually(lambda: sink.posts)
        await daemon.kill9()
        sink.default = None
        await daemon.start()
        await daemon.ready()
        await eventually(lambda: len(sink.posts) >= 2)
        assert {post.json["type"] for post in sink.posts} == {"tocsin.run.started"}
        assert len({post.headers["webhook-id"] for post in sink.posts}) == 1


@pytest.mark.parametrize("hangs", [False, True], ids=["idle", "while a send hangs"])
async def test_sigterm_ends_with_exit_code_0_and_a_new_start_goes_on(tmp_path, dss, sink, hangs):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        sink.default = faults.never() if hangs else None
        dss.start_run("P000", "S000")
        await eventually(lambda: sink.posts)
        assert await daemon.sigterm() == 0
        assert [line for line in daemon.stderr if "Traceback" in line] == []
        sink.default = None
        dss.end_run("P000", "S000", "FAILED")
        await daemon.start()
        await daemon.ready()
        ended = eventually(
            lambda: "tocsin.run.failed" in [post.json.get("type") for post in sink.posts], within=60
        )
        await ended
        assert dss.ledger.compare(await daemon.events()) == Differences()


async def test_sigterm_during_the_start_ends_it_too(tmp_path, dss, sink):
    daemon = DaemonProcess(config_for(tmp_path, {"prod": dss}, sink))
    try:
        dss.fail(faults.never())
        await daemon.start()
        await eventually(lambda: dss.in_flight)
        assert await daemon.sigterm() == 0
    finally:
        await daemon.kill9()
