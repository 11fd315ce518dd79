"""Two daemons on one PostgreSQL: one leads, both deliver, and whichever dies, nothing is lost or told as two."""

import asyncio
import signal
from collections import defaultdict

import pytest

from tests.conftest import empty_postgres
from tests.fakedss import DaemonProcess, Differences, Life, between, config_for, eventually


@pytest.mark.slow
async def test_the_leader_dies_and_the_other_goes_on(tmp_path, dss, sink, postgres_url):
    store = {"url": empty_postgres(postgres_url).replace("+psycopg", "")}

    def daemon(name):
        (tmp_path / name).mkdir()
        return DaemonProcess(config_for(tmp_path / name, {"prod": dss}, sink, store=store))

    async with daemon("one") as one, daemon("two") as two:
        await one.watching(6)
        life = Life(dss.world, 4, between(0.05, 4), seed=7)
        living = asyncio.create_task(life.live())
        for number in (signal.SIGKILL, signal.SIGTERM):
            leader, other = (one, two) if await leads(one) else (two, one)
            assert await leads(leader)
            await asyncio.sleep(2)
            leader.send_signal(number)
            await leader.wait()
            await eventually(lambda other=other: leads(other))
            await leader.start()
            await leader.ready()
        living.cancel()
        life.finish()

        async def all_told():
            events = await one.events()
            heard = {post.json["id"] for post in sink.posts}
            owed = {e["id"] for e in events if not (e["data"]["late"] and e["type"] == "tocsin.run.started")}
            return not dss.ledger.compare(events).lost and owed <= heard

        await eventually(all_told)
        events = await one.events()
        assert dss.ledger.compare(events) == Differences()
        assert events == await two.events()
        assert [await leads(one), await leads(two)].count(True) == 1
        delivery_ids = defaultdict(set)
        for post in sink.posts:
            delivery_ids[post.json["id"]].add(post.headers["webhook-id"])
        assert [ids for ids in delivery_ids.values() if len(ids) != 1] == []
        assert [line for line in one.stderr + two.stderr if "Traceback" in line] == []


async def leads(daemon):
    return (await daemon.json("/api/v1/status"))["leader"]
