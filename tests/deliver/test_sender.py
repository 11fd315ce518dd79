import asyncio
import json
from datetime import timedelta
from random import Random

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from tests.deliver.builders import HandClock, Inbox, alert, config, event, group, hook, owed
from tests.deliveries import get_delivery
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.model.notification import AttemptOutcome, EventNotice, Notification, NotificationState
from tocsin.store import Store, deliveries, outbox


async def put(store: Store, *notifications: Notification) -> None:
    await store.write(outbox.enqueue, list(notifications))


async def state_of(store: Store, one: Notification) -> NotificationState:
    found = await store.read(get_delivery, one.id)
    assert found
    return found.notification.state


async def outcomes(store: Store, one: Notification) -> list[tuple[AttemptOutcome, str]]:
    found = await store.read(get_delivery, one.id)
    assert found
    return [(attempt.outcome, attempt.note) for attempt in found.attempts]


def answers(*statuses: int, **headers: str):
    left = list(statuses)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=left.pop(0) if len(left) > 1 else left[0], headers=headers, text="so it is")

    return answer


async def test_what_is_owed_is_sent_once_and_has_a_receipt(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock, registry: CollectorRegistry
) -> None:
    one = owed()
    await put(store, one)
    settings = config(hook(inbox.url))
    assert await sender.step(clock.now(), settings) is None
    await sender.idle()
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert inbox.ids == [one.id]
    assert await outcomes(store, one) == [(AttemptOutcome.DELIVERED, "HTTP 200")]
    assert await state_of(store, one) == NotificationState.DELIVERED
    labels = {"receiver": "ops", "channel": "ops/hook"}
    assert registry.get_sample_value("tocsin_notifications_total", labels | {"outcome": "delivered"}) == 1
    assert registry.get_sample_value("tocsin_notifications_total", labels | {"outcome": "dead"}) == 0


async def test_a_row_that_is_not_due_waits_and_its_time_is_answered(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    due = clock.now() + timedelta(seconds=15)
    one = owed(due_at=due)
    await put(store, one)
    assert await sender.step(clock.now(), config(hook(inbox.url))) == due
    assert inbox.ids == []
    await sender.step(clock.forward(seconds=15), config(hook(inbox.url)))
    await sender.idle()
    assert inbox.ids == [one.id]


async def test_a_passing_failure_is_tried_again_later_and_a_refusal_never(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    one = owed()
    await put(store, one)
    settings = config(hook(inbox.url))
    inbox.answer = answers(500, 400)
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert await state_of(store, one) == NotificationState.PENDING
    await sender.step(clock.forward(milliseconds=900), settings)
    assert len(inbox.received) == 1
    await sender.step(clock.forward(seconds=2), settings)
    await sender.idle()
    assert await state_of(store, one) == NotificationState.DEAD
    assert await outcomes(store, one) == [
        (AttemptOutcome.FAILED, "HTTP 500: so it is"),
        (AttemptOutcome.REFUSED, "HTTP 400: so it is"),
    ]
    assert inbox.ids == [one.id, one.id]


async def test_a_dead_letter_keeps_its_reason_and_can_be_sent_again(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    one = owed()
    await put(store, one)
    settings = config(hook(inbox.url))
    inbox.answer = answers(401, 204)
    await sender.step(clock.now(), settings)
    await sender.idle()
    found = await store.read(get_delivery, one.id)
    assert found
    assert found.notification.reason == "HTTP 401: so it is"
    assert await store.write(deliveries.retry_dead, [one.id, "f" * 32], clock.now()) == [one.id]
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert await state_of(store, one) == NotificationState.DELIVERED


async def test_rows_of_one_lane_go_in_order_even_when_the_first_fails(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    first, second, other = owed(), owed(), owed(ordering_key="other")
    await put(store, first, second, other)
    settings = config(hook(inbox.url))
    fails = True

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503 if fails and request.headers["webhook-id"] == first.id else 200)

    inbox.answer = answer
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert sorted(inbox.ids) == sorted([first.id, other.id])
    fails = False
    for _ in range(3):
        await sender.step(clock.forward(seconds=3), settings)
        await sender.idle()
    assert inbox.ids[2:] == [first.id, second.id]


async def test_a_notification_older_than_its_channel_allows_is_given_up(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    one = owed()
    await put(store, one)
    settings = config(hook(inbox.url, max_age=timedelta(minutes=5)))
    inbox.answer = answers(503)
    for _ in range(40):
        await sender.step(clock.forward(seconds=10), settings)
        await sender.idle()
    found = await store.read(get_delivery, one.id)
    assert found
    assert found.notification.state == NotificationState.DEAD
    tries = len(found.attempts)
    assert found.notification.reason == f"too old after {tries} tries: HTTP 503: so it is"
    assert found.attempts[-1].ended_at >= one.created_at + timedelta(minutes=5)


async def test_retry_after_silences_the_whole_channel(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    settings = config(hook(inbox.url))
    await put(store, owed())
    inbox.answer = answers(429, 200, **{"Retry-After": "40"})
    await sender.step(clock.now(), settings)
    await sender.idle()
    await put(store, owed(ordering_key="other"))
    assert await sender.step(clock.forward(seconds=30), settings) == clock.now() + timedelta(seconds=10)
    assert len(inbox.received) == 1
    await sender.step(clock.forward(seconds=11), settings)
    await sender.idle()
    assert len(inbox.received) == 3


async def test_a_channel_taken_out_of_the_configuration_leaves_dead_letters(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    one = owed(channel="ops/gone")
    await put(store, one)
    await sender.step(clock.now(), config(hook(inbox.url)))
    found = await store.read(get_delivery, one.id)
    assert found
    assert found.notification.state == NotificationState.DEAD
    assert found.notification.reason == "its channel is no longer in the configuration"


async def test_a_newer_flush_supersedes_an_unsent_older_one_and_keeps_its_ends(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    settings = config(hook(inbox.url))
    told = owed(group(alert(1)), ordering_key="g")
    await put(store, told)
    await sender.step(clock.now(), settings)
    await sender.idle()
    unsent = owed(group(alert(1, ended=True)), ordering_key="g")
    newest = owed(group(alert(2)), ordering_key="g")
    await put(store, unsent, newest)
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert inbox.ids == [told.id, newest.id]
    assert await state_of(store, unsent) == NotificationState.SUPERSEDED
    body = json.loads(inbox.received[-1].body)
    assert [(one["labels"]["scenario"], one["status"]) for one in body["alerts"]] == [
        ("S2", "firing"),
        ("S1", "resolved"),
    ]


async def test_an_end_before_its_start_was_delivered_cancels_both(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock, registry: CollectorRegistry
) -> None:
    settings = config(hook(inbox.url))
    start, end = owed(group(alert(1)), ordering_key="g"), owed(group(alert(1, ended=True)), ordering_key="g")
    inbox.answer = answers(503)
    await put(store, start)
    await sender.step(clock.now(), settings)
    await sender.idle()
    await put(store, end)
    await sender.step(clock.forward(seconds=1), settings)
    await sender.idle()
    assert inbox.ids == [start.id]
    assert [await state_of(store, one) for one in (start, end)] == [NotificationState.CANCELLED] * 2
    labels = {"receiver": "ops", "channel": "ops/hook", "outcome": "cancelled"}
    assert registry.get_sample_value("tocsin_notifications_total", labels) == 2


async def test_an_end_is_sent_when_its_start_may_have_arrived(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    settings = config(hook(inbox.url, timeout=timedelta(seconds=1)))
    start, end = owed(group(alert(1)), ordering_key="g"), owed(group(alert(1, ended=True)), ordering_key="g")
    hang = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await hang.wait()
        return web.Response()

    inbox.answer = answer
    await put(store, start)
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert (await outcomes(store, start))[0][0] == AttemptOutcome.UNKNOWN
    hang.set()
    await put(store, end)
    await sender.step(clock.forward(seconds=1), config(hook(inbox.url)))
    await sender.idle()
    assert inbox.ids == [start.id, end.id]


@pytest.mark.e2e
async def test_a_late_success_after_the_deadline_is_a_receipt(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    one = owed()
    await put(store, one)
    settings = config(hook(inbox.url, timeout=timedelta(seconds=1)))

    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(1.2)
        return web.Response()

    inbox.answer = answer
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert await state_of(store, one) == NotificationState.DELIVERED
    assert await outcomes(store, one) == [(AttemptOutcome.DELIVERED, "HTTP 200")]
    assert inbox.ids == [one.id]


async def test_while_a_send_hangs_its_lane_is_held_and_another_process_leaves_it_alone(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    one, behind = owed(), owed()
    await put(store, one, behind)
    settings = config(hook(inbox.url, timeout=timedelta(seconds=5)))
    hang = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await hang.wait()
        return web.Response()

    inbox.answer = answer
    await sender.step(clock.now(), settings)
    other = Sender(store, holder="other", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    other._started = True  # as on PostgreSQL: it does not take the leases of the living
    await other.step(clock.now(), settings)
    await other.close(timedelta(0))
    hang.set()
    await sender.idle()
    assert inbox.ids == [one.id]


async def test_a_process_that_was_killed_leaves_rows_that_the_next_one_sends(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:

    one = owed()
    await put(store, one)
    turns = (await store.read(outbox.ready_rows, {"ops/hook": 5}, clock.now()))["ops/hook"].rows
    await store.write(outbox.claim, turns, "killed", clock.now(), clock.now() + timedelta(seconds=30))
    sender = Sender(store, holder="next", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    await sender.step(clock.now(), config(hook(inbox.url)))
    await sender.idle()
    await sender.close(timedelta(0))
    assert inbox.ids == [one.id]
    assert await outcomes(store, one) == [
        (AttemptOutcome.UNKNOWN, "the process that sent it ended before it knew the outcome"),
        (AttemptOutcome.DELIVERED, "HTTP 200"),
    ]


@pytest.mark.e2e
async def test_a_stop_gives_back_what_waits_and_marks_what_hangs(store: Store, inbox: Inbox, clock: HandClock) -> None:
    hanging, waiting = owed(), owed(ordering_key="other")
    await put(store, hanging)
    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    settings = config(hook(inbox.url))

    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    inbox.answer = answer
    await sender.step(clock.now(), settings)
    while not inbox.received:
        await asyncio.sleep(0.01)
    await put(store, waiting)
    await sender.close(timedelta(milliseconds=10))
    assert await state_of(store, waiting) == NotificationState.PENDING
    assert await outcomes(store, hanging) == [(AttemptOutcome.UNKNOWN, "Tocsin stopped before the answer came")]
    found = await store.read(get_delivery, hanging.id)
    assert found
    assert found.notification.due_at >= clock.now() + timedelta(seconds=10)


async def test_when_a_channel_works_again_what_waits_goes_at_once(
    store: Store, sender: Sender, inbox: Inbox, clock: HandClock
) -> None:
    settings = config(hook(inbox.url))
    rows = [owed(EventNotice(event(n), "nightly"), ordering_key=f"ordering_key {n}") for n in range(6)]
    await put(store, *rows)
    inbox.answer = answers(503)
    for _ in range(6):
        await sender.step(clock.forward(seconds=60), settings)
        await sender.idle()
    inbox.answer = None
    inbox.received.clear()
    while not inbox.received:
        await sender.step(clock.forward(seconds=10), settings)
        await sender.idle()
    await sender.step(clock.now(), settings)
    await sender.idle()
    assert sorted(inbox.ids) == sorted(one.id for one in rows)


@pytest.mark.e2e
async def test_the_bell_alone_empties_an_outbox_deeper_than_what_is_looked_at_at_once(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    bell = asyncio.Event()
    sender = Sender(store, holder="one", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1),
                    wake=bell.set)  # fmt: skip
    rows = [owed(ordering_key=f"l{n}") for n in range(1_200)]
    await put(store, *rows)
    settings = config(hook(inbox.url))
    async with asyncio.timeout(20):
        while len(inbox.ids) < len(rows):
            bell.clear()
            await sender.step(clock.now(), settings)
            while not bell.is_set() and len(inbox.ids) < len(rows):
                await asyncio.sleep(0.01)
    await sender.close(timedelta(seconds=5))
    assert sorted(inbox.ids) == sorted(one.id for one in rows)


async def test_a_stop_does_not_overrule_a_receipt_that_is_being_written(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    one = owed()
    await put(store, one)
    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))
    await sender.step(clock.now(), config(hook(inbox.url)))
    (outgoing,) = sender._bulkheads["ops/hook"].leased()
    while not outgoing.concluded:
        await asyncio.sleep(0)
    await sender.close(timedelta(0))
    assert await outcomes(store, one) == [(AttemptOutcome.DELIVERED, "HTTP 200")]
    assert await state_of(store, one) == NotificationState.DELIVERED
