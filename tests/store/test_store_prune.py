from datetime import timedelta

from sqlalchemy import func, insert, select

from tests.decide.world import T0, World, config, key, minutes
from tocsin.config.model import Reporter
from tocsin.model.event import END_EVENTS
from tocsin.model.run import Details
from tocsin.store import Store, runs, schema
from tocsin.store.prune import Pruned, prune

RETENTION = timedelta(days=90)
LATER = T0 + timedelta(days=365)


async def count(store: Store, name: str) -> int:
    table = schema.metadata.tables[name]
    return await store.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one())


async def prune_all(store: Store) -> list[Pruned]:
    done: list[Pruned] = []
    after = None
    while not done or done[-1].more:
        done.append(await store.write(prune, LATER, RETENTION, after))
        after = done[-1].after
    return done


async def test_what_is_old_goes_and_what_is_needed_stays(store: Store) -> None:
    world = await World(store, config(reporters=(Reporter("all", "ops", END_EVENTS),))).begin()
    for index in range(60):
        event = await world.run(T0 + minutes(10 * index), "FAILED" if index == 3 else "SUCCESS")
        assert event.run
        if index == 3:
            await world.step(T0 + minutes(32))
            await world.step(T0 + minutes(33))
        if index < 5:
            await store.write(runs.put_details, Details(event.run.key, T0))
    await world.run(T0 + timedelta(days=400), "SUCCESS")
    await world.start(T0 - timedelta(days=1))  # open
    await world.step(T0 + minutes(700))
    await world.step(T0 + minutes(701))
    await store.write(lambda c: c.execute(schema.notification_log.update().values(at=T0)) and None)
    sent = schema.outbox.update().where(schema.outbox.c.n <= 40)
    await store.write(lambda c: c.execute(sent.values(state="delivered", settled_at=T0)) and None)
    dead = schema.outbox.update().where(schema.outbox.c.n == 40)
    await store.write(lambda c: c.execute(dead.values(state="dead")) and None)
    row = {"notification_id": "x", "number": 1, "started_at": T0, "ended_at": T0, "outcome": "failed", "note": ""}
    await store.write(lambda c: c.execute(insert(schema.attempts), row) and None)
    await world.start(T0 + timedelta(days=2), trigger="manual")  # not decided
    owed = await count(store, "outbox") - 39  # the dead one stays: somebody may send it again
    assert (await count(store, "events"), await count(store, "runs")) == (124, 63)
    (done,) = await prune_all(store)
    assert {name: number for name, number in done.rows.items() if number} == {
        "events": 121,
        "decisions": 4,  # rang, first, ended, resolved
        "outbox": 39,
        "alerts": 1,
        "notification_log": 1,
        "attempts": 1,
        "outbox_waits": 33,  # of those that went without details
        "runs": 12,
    }
    assert await count(store, "events") == 3  # two of next year, one undecided
    assert await count(store, "outbox") == owed
    assert await count(store, "runs") == 51  # the newest fifty, and an older one that is open
    assert await count(store, "run_details") == 0
    assert [one.rows for one in await prune_all(store)] == [dict.fromkeys(done.rows, 0)]


async def test_a_batch_is_bounded_and_goes_on(store: Store) -> None:
    world = await World(store).begin()
    for index in range(150):
        await world.scenario(key(f"S{index:03}"))
    rows = [{"at": T0, "stage": "rule", "subject": "x", "reason": "firing"}] * 1200
    await store.write(lambda c: c.execute(insert(schema.decisions), rows) and None)
    done = await prune_all(store)
    assert [one.rows["decisions"] for one in done] == [500, 500, 200, 0]
    assert [one.after.scenario if one.after else None for one in done] == ["S098", None, "S098", None]
