"""A receipt that the database refuses concerns no other row."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from tests.conftest import empty_postgres
from tests.deliver.builders import NOW, HandClock, Inbox, config, hook, owed
from tests.deliveries import get_delivery
from tocsin.deliver.receipts import Receipts
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.model.notification import Attempt, AttemptOutcome, Notification, NotificationState
from tocsin.store import Store, outbox
from tocsin.store.outbox import ReadyRow, Receipt


def receipt(of: Notification, state: NotificationState, note: str) -> Receipt:
    outcome = AttemptOutcome.DELIVERED if state is NotificationState.DELIVERED else AttemptOutcome.FAILED
    reason = None if state is NotificationState.DELIVERED else note
    return Receipt("me", Attempt(of.id, 1, NOW, NOW, outcome, note), state, NOW, reason)


async def claimed(store: Store, *rows: Notification) -> None:
    await store.write(outbox.enqueue, rows)
    turns = [ReadyRow(n, one.channel, one.ordering_key, False) for n, one in enumerate(rows, 1)]
    await store.write(outbox.claim, turns, "me", NOW, NOW)


async def written(store: Store, bad: str) -> list[tuple[str, int, str]]:
    """The rows of three channels after receipts of one batch, the second with words that cannot be stored."""
    rows = [owed(channel=name, ordering_key=name) for name in ("ops/a", "ops/b", "ops/c")]
    await claimed(store, *rows)
    receipts = Receipts(store)
    words = ("took it", bad, "also")
    states = (NotificationState.DELIVERED, NotificationState.PENDING, NotificationState.DEAD)
    await asyncio.gather(*(receipts.write(receipt(*one)) for one in zip(rows, states, words, strict=True)))
    found = [await store.read(get_delivery, row.id) for row in rows]
    return [(one.notification.state.value, one.notification.attempts, one.attempts[0].note) for one in found if one]


async def test_a_receipt_that_cannot_be_stored_fails_no_other_and_keeps_its_outcome(store: Store) -> None:
    assert await written(store, "half a pair: \ud800") == [
        ("delivered", 1, "took it"),
        ("pending", 1, "what the receiver answered cannot be stored"),
        ("dead", 1, "also"),
    ]


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Store]:
    store = Store(empty_postgres(postgres_url))
    await store.open()
    yield store
    await store.close()


@pytest.mark.e2e
@pytest.mark.parametrize("bad", ["a NUL: \x00", "half a pair: \ud800"])
async def test_nor_on_postgresql(postgres: Store, bad: str) -> None:
    assert [one[:2] for one in await written(postgres, bad)] == [("delivered", 1), ("pending", 1), ("dead", 1)]


async def test_a_receipt_that_can_be_written_in_no_way_is_an_error_of_its_sender_alone(store: Store) -> None:
    one, other = owed(channel="ops/a"), owed(channel="ops/b", ordering_key="other")
    await claimed(store, one, other)
    receipts = Receipts(store)
    impossible = receipt(one, NotificationState.DELIVERED, "")
    impossible = replace(impossible, attempt=replace(impossible.attempt, number=2**80))
    answers = await asyncio.gather(
        receipts.write(impossible), receipts.write(receipt(other, NotificationState.DELIVERED, "")),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(answer).__name__ for answer in answers] == ["OverflowError", "NoneType"]


async def test_a_caller_that_is_cancelled_takes_no_receipt_with_it(store: Store) -> None:
    one = owed()
    await claimed(store, one)
    receipts = Receipts(store)
    writing = asyncio.create_task(receipts.write(receipt(one, NotificationState.DELIVERED, "")))
    await asyncio.sleep(0)
    writing.cancel()
    await receipts.close()
    found = await store.read(get_delivery, one.id)
    assert found
    assert found.notification.state == NotificationState.DELIVERED


@pytest.mark.e2e
async def test_a_hostile_answer_makes_nobody_send_again_on_postgresql(
    postgres: Store, inbox: Inbox, clock: HandClock
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/hook/evil":
            page = gzip.compress(b"<h1>no</h1>" * 90) + b"\x00" * 50
            return web.Response(status=502, body=page, headers={"Content-Encoding": "gzip"})
        return web.Response(status=500, body=b"\x00\xed\xa0\x80") if request.path == "/hook/rude" else web.Response()

    inbox.answer = answer
    names = ("good", "evil", "rude")
    settings = config(*(hook(f"{inbox.url}/{name}", f"ops/{name}") for name in names))
    rows = [owed(channel=f"ops/{name}", ordering_key=name) for name in names]
    await postgres.write(outbox.enqueue, rows)
    sender = Sender(postgres, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    await sender.step(clock.now(), settings)
    await sender.idle()
    clock.forward(milliseconds=500)
    await sender.step(clock.now(), settings)  # before any retry is due: what has no receipt would go again
    await sender.close(timedelta(seconds=5))
    found = [await postgres.read(get_delivery, row.id) for row in rows]
    assert [one.notification.state.value for one in found if one] == ["delivered", "pending", "pending"]
    assert [one.attempts[0].note for one in found if one] == ["HTTP 200", "HTTP 502", "HTTP 500: \ufffd\ufffd\ufffd"]
    assert sorted(inbox.ids) == sorted(row.id for row in rows)


async def test_receipts_of_one_row_are_written_in_their_order(store: Store) -> None:
    """A send that answers just after its deadline: what it answered stands, not that it was late."""
    rows = [owed(channel=f"ops/{number}", ordering_key=str(number)) for number in range(40)]
    await claimed(store, *rows)
    receipts = Receipts(store)
    late = [
        replace(
            receipt(row, NotificationState.SENDING, "late"),
            attempt=Attempt(row.id, 1, NOW, NOW, AttemptOutcome.UNKNOWN, "late"),
        )
        for row in rows
    ]
    final = [receipt(row, NotificationState.DEAD, "refused") for row in rows]
    pairs = [one for pair in zip(late, final, strict=True) for one in pair]
    await asyncio.gather(*map(receipts.write, pairs))
    found = [await store.read(get_delivery, row.id) for row in rows]
    assert {one.attempts[0].note for one in found if one} == {"refused"}
