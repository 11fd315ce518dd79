"""Two daemons on one PostgreSQL: one leads, both deliver, and whichever dies, nothing is lost or told as two."""

import asyncio
import functools
import random
import signal
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest

from tests.conftest import empty_postgres
from tests.fakedss import DaemonProcess, Differences, Life, between, config_for, eventually

KILLS = 10


@pytest.fixture
async def pair(tmp_path, dss, sink, postgres_url):
    """Two daemons on one empty store, ready, with all scenarios known."""
    store = {"url": empty_postgres(postgres_url).replace("+psycopg", "")}

    def daemon(name):
        (tmp_path / name).mkdir()
        return DaemonProcess(config_for(tmp_path / name, {"prod": dss}, sink, store=store))

    async with daemon("one") as one, daemon("two") as two:
        await one.watching(6)
        yield one, two


@pytest.mark.slow
async def test_the_leader_is_killed_ten_times_and_the_other_goes_on(dss, sink, pair, record_property):
    chance = random.Random(11)
    takeovers = []
    leader, other = await who_leads(pair)
    async with lively(dss):
        for blow in [signal.SIGKILL] * KILLS + [signal.SIGTERM]:
            await asyncio.sleep(chance.uniform(0, 2))  # from the beginning of a leadership to well at work
            leader.send_signal(blow)
            struck = asyncio.get_running_loop().time()
            await leader.wait()
            await eventually(functools.partial(leads, other))
            takeovers.append(asyncio.get_running_loop().time() - struck)
            await leader.start()  # it is ready before the other's lease has run out
            leader, other = other, leader
    await other.ready()
    assert (leader, other) == await who_leads(pair)
    await nothing_lost_or_told_as_two(dss, sink, pair, repeated=KILLS)
    record_property("takeovers", ", ".join(f"{seconds:.1f} s" for seconds in takeovers))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 40], ids=["until-another-leads", "for-forty-seconds"])
async def test_a_leader_that_was_only_away_does_not_go_on_beside_its_successor(dss, sink, pair, seconds):
    async with lively(dss):
        leader, other = await who_leads(pair)
        leader.send_signal(signal.SIGSTOP)
        await eventually(lambda: leads(other))
        await asyncio.sleep(seconds)
        leader.send_signal(signal.SIGCONT)
        await eventually(lambda: no_longer_leads(leader))
    assert leader.alive
    assert [line for line in leader.log if line["level"] == "critical"] == []
    await nothing_lost_or_told_as_two(dss, sink, pair, repeated=1)


@asynccontextmanager
async def lively(dss):
    """Runs come and go meanwhile; at the end all of them have ended."""
    life = Life(dss.world, 4, between(0.05, 4), seed=7)
    living = asyncio.create_task(life.live())
    yield
    living.cancel()
    life.finish()


async def who_leads(pair):
    """The leader, once it shows the series that are the leader's alone, and the other, which does not."""
    one, two = pair
    leader, other = (one, two) if await leads(one) else (two, one)
    await eventually(lambda: shows_scenarios(leader))
    assert not await shows_scenarios(other)
    return leader, other


async def nothing_lost_or_told_as_two(dss, sink, pair, repeated):
    """Every event and every notification once, but sends whose receipt was being written: those under one id."""
    one, two = pair

    async def all_told():
        events = await one.events()
        heard = {post.json["id"] for post in sink.posts}
        owed = {e["id"] for e in events if not (e["data"]["late"] and e["type"] == "tocsin.run.started")}
        return not dss.ledger.compare(events).lost and owed <= heard

    async def both_show_the_same():  # details of the last runs may still come in
        return await one.events() == await two.events()

    await eventually(all_told)
    await eventually(both_show_the_same)
    assert dss.ledger.compare(await one.events()) == Differences()
    assert [await leads(one), await leads(two)].count(True) == 1
    delivery_ids = defaultdict(list)
    for post in sink.posts:
        delivery_ids[post.json["id"]].append(post.headers["webhook-id"])
    assert [ids for ids in delivery_ids.values() if len(set(ids)) != 1] == []
    assert sum(len(ids) - 1 for ids in delivery_ids.values()) <= repeated
    assert [line for line in one.stderr + two.stderr if "Traceback" in line] == []


async def leads(daemon):
    return await daemon.status_of("/-/ready") == 200 and (await daemon.json("/api/v1/status"))["leader"]


async def no_longer_leads(daemon):
    return not await leads(daemon) and not await shows_scenarios(daemon)


async def shows_scenarios(daemon):
    """Whether it shows the series of scenarios and nodes, and the gauges of watching, which are the leader's alone."""
    names = ("dss_scenario_", "dss_project_", "dss_node_", "tocsin_sweep_trusted", "tocsin_oldest_poll_age_seconds")
    return any(line.startswith(names) for line in (await daemon.text("/metrics")).splitlines())
