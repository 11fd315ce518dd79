"""The outbox as senders use it, on both databases."""

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy.event import listens_for

from tests.deliver.builders import NOW, alert, config, event, group, hook, owed
from tests.deliveries import get_delivery
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.result import SendResult, delivered
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.kit.clock import SystemClock
from tocsin.model.notification import (
    Attempt,
    AttemptOutcome,
    EventNotice,
    Notification,
    NotificationState,
    SummaryNotice,
)
from tocsin.store import Store, deliveries, outbox
from tocsin.store.outbox import Claimed, ReadyRow, Receipt, Settled
from tocsin.store.query import list_deliveries

LEASE = timedelta(seconds=30)


async def turns(store: Store, channel: str = "ops/hook", limit: int = 100, now=NOW) -> list[ReadyRow]:
    return (await store.read(outbox.ready_rows, {channel: limit}, now))[channel].rows


async def claim(store: Store, holder: str = "a", now=NOW) -> Claimed:
    return await store.write(outbox.claim, await turns(store, now=now), holder, now, now + LEASE)


def receipt(one: Notification, state: NotificationState, *, holder: str = "a", number: int = 1, due=NOW) -> Receipt:
    outcome = AttemptOutcome.DELIVERED if state is NotificationState.DELIVERED else AttemptOutcome.FAILED
    return Receipt(holder, Attempt(one.id, number, NOW, NOW, outcome, "note"), state, due, "why")


async def state(store: Store, one: Notification) -> NotificationState:
    return (await store.read(outbox.load_notifications, [one.id]))[one.id].state


async def test_every_kind_of_notice_comes_back_as_it_was(store: Store) -> None:
    notices: list[Any] = [
        EventNotice(event(), "nightly", "subject", None, ("log",), {"a": "b"}, "template"),
        group(alert(1), alert(2, ended=True)),
        SummaryNotice("prod", NOW - LEASE, NOW, {"FAILED": 2}, (event(),)),
    ]
    rows = [owed(notice, ordering_key=f"l{n}") for n, notice in enumerate(notices)]
    await store.write(outbox.enqueue, rows)
    claimed = await claim(store)
    loaded = outbox.load_claimed(claimed.rows)
    assert [one.notice for one in loaded.values()] == notices


async def test_only_the_first_row_of_a_lane_has_its_turn(store: Store) -> None:
    rows = [owed(), owed(), owed(ordering_key="other"), owed(channel="x")]
    await store.write(outbox.enqueue, rows)
    claimed = await claim(store)
    loaded = outbox.load_claimed(claimed.rows)
    assert [one.id for one in loaded.values()] == [rows[0].id, rows[2].id]
    waiting = (await store.read(outbox.ready_rows, {"ops/hook": 9}, NOW))["ops/hook"]
    assert (waiting.rows, waiting.more) == ([], True)
    await store.write(outbox.save_receipts, [receipt(rows[0], NotificationState.DELIVERED)])
    loaded = outbox.load_claimed((await claim(store)).rows)
    assert [one.id for one in loaded.values()] == [rows[1].id]


async def test_two_claimers_never_get_the_same_row(store: Store) -> None:
    await store.write(outbox.enqueue, [owed(ordering_key=f"l{n}") for n in range(60)])
    await store.write(outbox.enqueue, [owed(group(alert(n)), ordering_key=f"g{n}") for n in range(20)])
    same = await turns(store)
    assert len(same) == 80
    claimed = await asyncio.gather(
        *(store.write(outbox.claim, same, holder, NOW, NOW + LEASE) for holder in ("a", "b", "c"))
    )
    assert sorted(len(one.rows) for one in claimed) == [0, 0, 80]


async def test_a_lease_that_ran_out_can_be_claimed_and_the_lost_try_counts(store: Store) -> None:
    one = owed()
    await store.write(outbox.enqueue, [one])
    await claim(store, "a")
    assert await turns(store, now=NOW + timedelta(seconds=29)) == []
    assert len((await claim(store, "b", NOW + LEASE)).rows) == 1
    found = await store.read(get_delivery, one.id)
    assert found
    assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.UNKNOWN]
    assert found.notification.attempts == 1


async def test_a_failure_told_by_one_who_lost_the_lease_changes_nothing_but_a_delivery_counts(store: Store) -> None:
    one = owed()
    await store.write(outbox.enqueue, [one])
    await claim(store, "a")
    await claim(store, "b", NOW + LEASE)
    await store.write(outbox.save_receipts, [receipt(one, NotificationState.PENDING, holder="a")])
    assert await state(store, one) == NotificationState.SENDING
    await store.write(outbox.save_receipts, [receipt(one, NotificationState.DELIVERED, holder="a")])
    await store.write(outbox.save_receipts, [receipt(one, NotificationState.PENDING, holder="b", number=2)])
    assert await state(store, one) == NotificationState.DELIVERED


async def test_receipts_of_one_moment_are_one_batch(store: Store) -> None:
    rows = [owed(ordering_key=f"l{n}") for n in range(40)]
    await store.write(outbox.enqueue, rows)
    await claim(store)
    states = [NotificationState.DELIVERED, NotificationState.PENDING, NotificationState.DEAD, NotificationState.SENDING]
    receipts = [receipt(one, states[n % 4], due=NOW + LEASE) for n, one in enumerate(rows)]
    await store.write(outbox.save_receipts, receipts)
    found = await store.read(outbox.load_notifications, [one.id for one in rows])
    assert [found[one.id].state for one in rows] == [states[n % 4] for n in range(40)]
    assert [found[one.id].attempts for one in rows] == [1, 1, 1, 0] * 10


async def test_the_scan_for_turns_reads_an_index_of_open_rows_alone(store: Store) -> None:
    if not store.is_sqlite:
        return

    def plan(connection) -> str:
        text = str(outbox._OPEN_ROWS.compile(connection, compile_kwargs={"render_postcompile": True}))
        rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text, ("c", 0, 10, 0))
        return " ".join(str(row) for row in rows)

    assert "ix_outbox_open (channel=? AND n>?)" in await store.read(plan)


async def test_a_claim_reads_the_rows_that_it_names_alone(store: Store) -> None:
    if not store.is_sqlite:
        return
    await store.write(outbox.enqueue, [owed(ordering_key=f"l{n}") for n in range(5)])
    ready = await turns(store)
    plans: list[str] = []

    def claimed(connection) -> None:
        asked: list[tuple[str, object]] = []

        @listens_for(connection, "before_cursor_execute")
        def note(_connection, _cursor, statement, parameters, _context, _many) -> None:
            if not statement.startswith("EXPLAIN"):
                asked.append((statement, parameters))

        outbox.claim(connection, ready, "a", NOW, NOW + LEASE)
        for statement, parameters in asked:
            rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append(" ".join(str(row[3]) for row in rows if "outbox USING" in row[3]))

    await store.write(claimed)
    assert any("INTEGER PRIMARY KEY" in plan for plan in plans)
    assert not any("ix_outbox_state (state=?)" in plan or "ix_outbox_open" in plan for plan in plans)


async def test_a_first_success_has_no_row_of_its_own_and_is_shown_all_the_same(store: Store) -> None:
    first, second = owed(ordering_key="x"), owed(ordering_key="y")
    await store.write(outbox.enqueue, [first, second])
    await claim(store)
    failed, retried = (
        receipt(second, NotificationState.PENDING),
        receipt(second, NotificationState.DELIVERED, number=2),
    )
    await store.write(outbox.save_receipts, [receipt(first, NotificationState.DELIVERED), failed])
    await claim(store)
    await store.write(outbox.save_receipts, [retried])
    count = "SELECT count(*) FROM attempts"
    assert await store.read(lambda connection: connection.exec_driver_sql(count).scalar()) == 2
    for one, outcomes in ((first, ["delivered"]), (second, ["failed", "delivered"])):
        found = await store.read(get_delivery, one.id)
        assert found
        assert [attempt.outcome.value for attempt in found.attempts] == outcomes
        assert [attempt.note for attempt in found.attempts] == ["note"] * len(outcomes)
        assert found.notification.reason is None
        page = await store.read(list_deliveries, {"id": [one.id]}, 5)
        assert [attempt.outcome.value for attempt in page.items[0].attempts] == outcomes
        assert page.items[0].reason is None


async def test_released_rows_can_be_claimed_at_once_and_renewed_ones_stay(store: Store) -> None:
    await store.write(outbox.enqueue, [owed(ordering_key="x"), owed(ordering_key="y")])
    first, second = (await claim(store, "a")).rows
    await store.write(outbox.release_claims, [first.n], "a")
    await store.write(outbox.extend_leases, [second.n], "a", NOW + 2 * LEASE)
    assert (await claim(store, "b", NOW + LEASE)).rows == [first]


async def test_of_a_group_only_the_newest_row_is_claimed(store: Store) -> None:
    rows = [owed(group(alert(n)), ordering_key="g") for n in range(3)]
    await store.write(outbox.enqueue, rows)
    claimed = await claim(store)
    assert claimed.settled == [Settled("ops", "ops/hook", NotificationState.SUPERSEDED)] * 2
    assert [await state(store, one) for one in rows] == ["superseded", "superseded", "sending"]


async def test_a_group_row_under_way_is_not_superseded(store: Store) -> None:
    first, second = owed(group(alert(1)), ordering_key="g"), owed(group(alert(2)), ordering_key="g")
    await store.write(outbox.enqueue, [first])
    await claim(store)
    await store.write(outbox.enqueue, [second])
    assert (await claim(store, "b")).rows == []
    await store.write(outbox.save_receipts, [receipt(first, NotificationState.DELIVERED)])
    assert len((await claim(store, "b")).rows) == 1


async def test_the_end_of_what_only_a_dead_letter_told_is_cancelled(store: Store) -> None:
    start, end = owed(group(alert(1)), ordering_key="g"), owed(group(alert(1, ended=True)), ordering_key="g")
    await store.write(outbox.enqueue, [start])
    await claim(store)
    await store.write(outbox.save_receipts, [receipt(start, NotificationState.DEAD)])
    await store.write(outbox.enqueue, [end])
    assert (await claim(store)).settled == [Settled("ops", "ops/hook", NotificationState.CANCELLED)]


async def test_the_end_of_what_was_delivered_before_a_dead_repeat_is_sent(store: Store) -> None:
    start, repeat = owed(group(alert(1)), ordering_key="g"), owed(group(alert(1), reason="repeat"), ordering_key="g")
    end = owed(group(alert(1, ended=True)), ordering_key="g")
    for one, became in ((start, NotificationState.DELIVERED), (repeat, NotificationState.DEAD)):
        await store.write(outbox.enqueue, [one])
        await claim(store)
        await store.write(outbox.save_receipts, [receipt(one, became)])
    await store.write(outbox.enqueue, [end])
    claimed = await claim(store)
    assert (len(claimed.rows), claimed.settled) == (1, [])


async def test_orphans_are_buried_but_not_what_is_under_way(store: Store) -> None:
    flying, waiting, kept = owed(), owed(), owed(channel="kept")
    await store.write(outbox.enqueue, [flying, waiting, kept])
    await claim(store)
    buried = await store.write(outbox.dead_letter_orphans, {"kept"}, NOW)
    assert buried == [Settled("ops", "ops/hook", NotificationState.DEAD)]
    assert [await state(store, one) for one in (flying, waiting, kept)] == ["sending", "dead", "pending"]
    assert len(await store.write(outbox.dead_letter_orphans, {"kept"}, NOW + LEASE)) == 1


async def test_the_depth_counts_open_rows_their_oldest_and_dead_letters(store: Store) -> None:
    empty = await store.read(deliveries.outbox_depth)
    assert (empty.open, empty.oldest_created_at, sum(empty.dead.values())) == (0, None, 0)
    dead = owed(ordering_key="dead")
    await store.write(outbox.enqueue, [dead, owed(at=NOW - LEASE, channel="x"), owed(ordering_key="late")])
    await claim(store)
    await store.write(outbox.save_receipts, [receipt(dead, NotificationState.DEAD)])
    depth = await store.read(deliveries.outbox_depth)
    assert (depth.open, depth.oldest_created_at, sum(depth.dead.values())) == (2, NOW - LEASE, 1)
    assert depth.channels.keys() == {"x", "ops/hook"}


async def test_a_long_blocked_lane_does_not_hide_what_comes_after_it(store: Store) -> None:
    await store.write(outbox.enqueue, [owed() for _ in range(1_050)])
    last = owed(ordering_key="last")
    await store.write(outbox.enqueue, [last])
    loaded = outbox.load_claimed((await claim(store)).rows)
    assert [one.id for one in loaded.values()][1:] == [last.id]


async def test_two_senders_on_one_store_send_everything_once(store: Store) -> None:
    sent: list[str] = []

    class Record:
        concurrency = 8

        async def send(self, outgoing: Outgoing) -> SendResult:
            await asyncio.sleep(0.001)
            sent.append(outgoing.notification.id)
            return delivered()

        async def close(self) -> None: ...

    clock = SystemClock()
    rows = [owed(ordering_key=f"l{n % 30}") for n in range(150)] + [
        owed(group(alert(n)), ordering_key=f"g{n % 10}") for n in range(30)
    ]
    await store.write(outbox.enqueue, rows)
    senders = [
        Sender(store, holder=holder, clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1),
               connect=lambda _channel: Record())
        for holder in ("a", "b")
    ]  # fmt: skip
    for one in senders:
        one._started = True  # as on PostgreSQL: none takes the other's leases
    settings = config(hook("http://127.0.0.1:9/"))
    while (await store.read(deliveries.outbox_depth)).open:
        await asyncio.gather(*(one.step(clock.now(), settings) for one in senders))
        await asyncio.gather(*(one.idle() for one in senders))
    for one in senders:
        await one.close(timedelta(0))
    assert len(sent) == len(set(sent)) == 160
    found = await store.read(outbox.load_notifications, [one.id for one in rows])
    states = [found[one.id].state for one in rows]
    assert states.count(NotificationState.SUPERSEDED) == 20
    order = {id_: place for place, id_ in enumerate(sent)}
    for ordering_key in range(30):
        places = [order[one.id] for one in rows[ordering_key:150:30]]
        assert places == sorted(places)


async def test_whether_a_channel_delivered_lately_is_read_from_an_index_alone(store: Store) -> None:
    if not store.is_sqlite:
        return

    def plan(connection) -> str:
        asked: list[tuple[str, object]] = []

        @listens_for(connection, "before_cursor_execute")
        def note(_connection, _cursor, statement, parameters, _context, _many) -> None:
            asked.append((statement, parameters))

        deliveries.delivered_since(connection, {"ops/hook": NOW})
        ((statement, parameters), *_) = asked
        return " ".join(str(row) for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters))

    assert "COVERING INDEX ix_outbox_settled_at" in await store.read(plan)
