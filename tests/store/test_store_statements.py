"""How many statements a piece of work makes: it must not grow with the rows that it is about."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from multidict import MultiDict
from sqlalchemy import Connection, Engine, bindparam, event

from tests.decide.world import T0, World, config, key, minutes
from tests.web.rows import (
    NOW,
    a_run,
    an_alert,
    an_event,
    put_alert,
    put_bucket,
    put_events,
    put_node,
    put_notification,
    put_run,
    put_scenario,
)
from tocsin.config.model import Reporter, Rule
from tocsin.model.alert import Alert
from tocsin.model.event import EventName
from tocsin.model.notification import EventNotice, GroupNotice, Notification
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, deliveries, outbox, query, schema, series
from tocsin.store.outbox import ReadyRow
from tocsin.store.prune import forget_runs
from tocsin.web.pages import Asked
from tocsin.web.reads import read_events
from tocsin.web.views import read_overview

FEW, MANY = 3, 40
DELIVERED = (
    schema.outbox.update().where(schema.outbox.c.id == bindparam("of")).values(state="delivered", settled_at=NOW)
)
SCANNED = query.SCAN_LIMIT // query.SCAN_BATCH + 1


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[[], Awaitable[Store]]:
    """Opens empty stores."""
    count = iter(range(100))

    async def make() -> Store:
        store = Store(f"sqlite:///{tmp_path / f'{next(count)}.db'}")
        await store.open()
        return store

    return make


@contextmanager
def counting() -> Iterator[list[str]]:
    """The statements of all connections inside it."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield statements
    event.remove(Engine, "before_cursor_execute", note)


Work = Callable[[Store, int], Awaitable[list[str]]]


def fleet(count: int) -> list[ScenarioKey]:
    return [key(f"S{index:03}") for index in range(count)]


async def recoveries(store: Store, count: int) -> list[str]:
    world = await World(store).begin()
    for one in fleet(count):
        await world.scenario(one)
        await world.run(T0, "FAILED", one)
    await world.step(T0 + minutes(2))
    for one in fleet(count):
        await world.run(T0 + minutes(3), "SUCCESS", one)
    with counting() as statements:
        await world.step(T0 + minutes(5))
    assert await world.alerts(firing=True) == []
    return statements


async def failures_and_recoveries_at_once(store: Store, count: int) -> list[str]:
    world = await World(store).begin()
    for one in fleet(count):
        await world.scenario(one)
        for index, outcome in enumerate(("FAILED", "FAILED", "SUCCESS", "FAILED", "SUCCESS", "FAILED")):
            await world.run(T0 + minutes(2 * index), outcome, one)
    with counting() as statements:
        await world.step(T0 + minutes(20))
    assert len(await world.alerts(firing=True)) == count
    assert len(await world.alerts()) == 3 * count
    return statements


async def late_starts(store: Store, count: int) -> list[str]:
    reporter = Reporter("starts", "ops", frozenset({EventName.RUN_STARTED}))
    world = await World(store, config(reporters=(reporter,))).begin()
    for one in fleet(count):
        await world.scenario(one)
        await world.start(T0, one, late=True)
    with counting() as statements:
        await world.step(T0 + minutes(2))
    return statements


async def overlong_runs(store: Store, count: int) -> list[str]:
    rule = Rule("Overlong", "overlong", times_usual=2.0)
    world = await World(store, config(rules=(rule,))).begin()
    for one in fleet(count):
        await world.scenario(one)
        for index in range(6):
            await world.run(T0 + minutes(2 * index), "SUCCESS", one)
        await world.start(T0 + minutes(20), one)
    await world.step(T0 + minutes(21))
    await world.look(T0 + minutes(50))
    with counting() as statements:
        await world.step(T0 + minutes(50))
    assert len(await world.alerts(firing=True)) == count
    return statements


async def scenarios_that_vanish(store: Store, count: int) -> list[str]:
    world = await World(store).begin()
    for one in fleet(count):
        await world.scenario(one)
        await world.run(T0, "FAILED", one)
    await world.step(T0 + minutes(2))
    for one in fleet(count):
        await world.scenario(one, gone_at=T0 + minutes(3))
    with counting() as statements:
        await world.step(T0 + minutes(4))
    assert await world.alerts(firing=True) == []
    return statements


async def claims(store: Store, count: int) -> list[str]:
    """Group ordering_keys: one half with a flush that was delivered before, the other with flushes that were not."""

    def fill(connection: Connection) -> list[ReadyRow]:
        turns = []
        for ordering_key in range(count):
            ended = a_group(ordering_key, ended=ordering_key % 2 == 1)
            for number, notice in enumerate((a_group(ordering_key), ended)):
                one = Notification(
                    f"{ordering_key}-{number}", "ops", "ops/hook", f"ordering_key{ordering_key}", notice, NOW, NOW
                )
                outbox.enqueue(connection, [one])
                if number == 0 and ordering_key % 2 == 0:
                    connection.execute(DELIVERED, {"of": one.id})
        found = outbox.ready_rows(connection, {"ops/hook": 1000}, NOW)["ops/hook"].rows
        turns += found
        return turns

    turns = await store.write(fill)
    assert len(turns) == count
    with counting() as statements:
        await store.write(outbox.claim, turns, "me", NOW, NOW + timedelta(minutes=1))
    return statements


def a_group(ordering_key: int, *, ended: bool = False) -> GroupNotice:
    alert: Alert = an_alert(key=ScenarioKey("prod", "P", f"S{ordering_key}"))
    if ended:
        alert = replace(alert, ends_at=NOW)
    return GroupNotice(f"ordering_key{ordering_key}", "ops", {}, (alert,), "first")


async def troubles(store: Store, count: int) -> list[str]:
    channels = [f"ops/{index}" for index in range(count)]

    def fill(connection: Connection) -> None:
        for name in channels:
            notice = EventNotice(an_event(a_run()), "nightly")
            one = Notification(name, "ops", name, "ordering_key", notice, NOW, NOW, attempts=3)
            outbox.enqueue(connection, [one])

    await store.write(fill)
    with counting() as statements:
        found = await store.read(
            deliveries.failing_channels, channels, NOW + timedelta(hours=1), NOW - timedelta(hours=1)
        )
    assert len(found) == count
    return statements


async def forgotten_runs(store: Store, count: int) -> list[str]:
    def fill(connection: Connection) -> None:
        put_node(connection)
        for one in fleet(count):
            put_scenario(connection, one, watermark=NOW - timedelta(days=9))
            for index in range(5):
                put_run(connection, a_run(one, minutes_ago=100 + index))

    await store.write(fill)
    with counting() as statements:
        gone, _ = await store.write(forget_runs, NOW, None, 2)
    assert gone == 3 * count
    return statements


async def buckets(store: Store, count: int) -> list[str]:
    places = [("prod", f"P{index}") for index in range(count)]
    await store.write(
        lambda c: [put_bucket(c, ScenarioKey(*place, "S"), "SUCCESS", 1000, 1, 1.0) for place in places] and None
    )
    with counting() as statements:
        found = await store.read(series.project_buckets, places)
    assert len(found) == count
    return statements


@pytest.mark.parametrize(
    "work",
    [
        recoveries, failures_and_recoveries_at_once, late_starts, overlong_runs, scenarios_that_vanish, claims,
        troubles, forgotten_runs, buckets,
    ],
)  # fmt: skip
async def test_a_batch_makes_as_many_statements_as_a_few_rows(
    open_store: Callable[[], Awaitable[Store]], work: Work
) -> None:
    counts = {}
    for count in (FEW, MANY):
        store = await open_store()
        counts[count] = len(await work(store, count))
        await store.close()
    assert counts[MANY] == counts[FEW]


# --- lists -----------------------------------------------------------------------------------------------------------


def many_rows(connection: Connection) -> None:
    put_node(connection)
    for index in range(60):
        one = ScenarioKey("prod", "SALES", f"S{index}")
        put_scenario(connection, one)
        run = a_run(one, minutes_ago=10 + index, outcome="FAILED")
        put_run(connection, run)
        put_run(connection, a_run(one, minutes_ago=5, seconds=None))
        put_events(connection, an_event(run))
        put_alert(connection, an_alert(key=one))
        put_notification(connection, f"d{index}", EventNotice(an_event(run), "nightly"))


@pytest.mark.parametrize(
    ("read", "wanted", "most"),
    [
        (query.list_nodes, {}, 1), (query.list_scenarios, {}, 1), (query.list_scenarios, {"tags": ["none"]}, 1),
        (query.list_runs, {}, 2), (query.list_runs, {"tags": ["none"]}, 1), (query.list_alerts, {}, 1),
        (query.list_alerts, {"severity": ["none"]}, 1), (query.list_deliveries, {}, 2),
        (query.list_deliveries, {"severity": ["none"]}, 1), (query.list_deliveries, {"outcome": ["FAILED"]}, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("limit", [1, 50])
async def test_a_list_makes_few_statements_whatever_its_filter_and_limit(
    open_store: Callable[[], Awaitable[Store]], read: Any, wanted: dict[str, list[str]], most: int, limit: int
) -> None:
    store = await open_store()
    await store.write(many_rows)
    with counting() as statements:
        await store.browse(read, wanted, limit)
    await store.close()
    assert len(statements) <= most


async def test_a_filter_that_nothing_fits_reads_in_batches(open_store: Callable[[], Awaitable[Store]]) -> None:
    def fill(connection: Connection) -> None:
        alerts = (an_alert(name=f"A{index}", starts_at=NOW - timedelta(seconds=index)) for index in range(2_200))
        for alert in alerts:
            put_alert(connection, alert)

    store = await open_store()
    await store.write(fill)
    with counting() as statements:
        page = await store.browse(query.list_alerts, {"severity": ["none"]}, 1)
    await store.close()
    assert (page.items, page.next is not None) == ((), True)
    assert len(statements) <= SCANNED


async def test_events_and_the_front_page_make_few_statements(open_store: Callable[[], Awaitable[Store]]) -> None:
    store = await open_store()
    await store.write(many_rows)
    for wanted in ({}, {"outcome": ["none"]}, {"tags": [",daily,"]}):
        for limit in (1, 50):
            with counting() as statements:
                await store.browse(read_events, wanted, limit, 0)
            assert len(statements) <= 2
    with counting() as statements:
        await store.browse(read_overview, Asked(MultiDict(), {}, config(), NOW))
    await store.close()
    assert len(statements) <= 16
