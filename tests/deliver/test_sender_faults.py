"""What may go wrong around the sender: kills, a store that is away, threads that hang, a changed configuration."""

import asyncio
import io
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Concatenate, ParamSpec, TypeVar

import pytest
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection

from tests.deliver.builders import HandClock, Inbox, Plain, config, hook, owed, sqlite_url
from tests.deliveries import get_delivery
from tocsin.app.logs import configure_logging
from tocsin.config.model import Channel
from tocsin.deliver.receipts import Receipts, Written
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.kit import lines
from tocsin.kit.clock import SystemClock
from tocsin.model.notification import AttemptOutcome, DeadReason, Notification, NotificationState
from tocsin.store import Store, StoreUnavailable, deliveries, outbox
from tocsin.store.outbox import Receipt
from tocsin.store.writer import Guard

pytestmark = pytest.mark.e2e

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")


def sender_of(store: Store, clock: HandClock | SystemClock, holder: str = "me") -> Sender:
    return Sender(store, holder=holder, clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1))


async def state_of(store: Store, one: Notification) -> NotificationState:
    found = await store.read(get_delivery, one.id)
    assert found
    return found.notification.state


async def drain(sender: Sender, store: Store, settings, clock) -> None:
    for _ in range(500):
        await sender.step(clock.now(), settings)
        await sender.idle()
        if not (await store.read(deliveries.outbox_depth)).open:
            return
    raise AssertionError("the outbox did not drain")


_DAEMON = """
import asyncio, sys
from random import Random
from prometheus_client import CollectorRegistry
from tests.deliver.builders import config, hook
from tocsin.app.logs import configure_logging
from tocsin.deliver.sender import DeliverMetrics
from tocsin.deliver.receipts import Receipts
from tocsin.deliver.sender import Sender
from tocsin.kit.clock import SystemClock
from tocsin.store import Store

async def main(store_url, hook_url):
    store, clock, bell = Store(store_url), SystemClock(), asyncio.Event()
    await store.open()
    sender = Sender(store, holder="doomed", clock=clock, metrics=DeliverMetrics(CollectorRegistry()),
                    random=Random(1), wake=bell.set)
    while True:
        bell.clear()
        await sender.step(clock.now(), config(hook(hook_url)))
        await asyncio.wait([asyncio.create_task(bell.wait())], timeout=0.2)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_again_and_again_nothing_is_lost_and_only_sends_without_receipt_repeat(
    tmp_path: Path, inbox: Inbox, python_env: dict[str, str], repository: Path
) -> None:
    rows = [owed(ordering_key=f"ordering_key {n % 40}") for n in range(400)]
    store = Store(sqlite_url(tmp_path))
    await store.open()
    await store.write(outbox.enqueue, rows)
    await store.close()
    env = python_env | {"PYTHONPATH": f"{repository / 'daemon'}:{repository}"}
    for goal in (60, 150, 240):
        doomed = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_DAEMON), sqlite_url(tmp_path), inbox.url],
            env=env,
            stdout=subprocess.DEVNULL,
        )
        try:
            while len(inbox.received) < goal:
                await asyncio.sleep(0.005)
                assert doomed.poll() is None
        finally:
            doomed.kill()
            await asyncio.to_thread(doomed.wait)
    await store.open()
    sender = sender_of(store, SystemClock())
    await drain(sender, store, config(hook(inbox.url)), SystemClock())
    await sender.close(timedelta(0))
    await store.close()
    times = Counter(inbox.ids)
    assert set(times) == {one.id for one in rows}
    assert max(times.values()) <= 4
    assert sum(times.values()) - len(rows) < 200


async def test_a_store_that_is_away_pauses_the_stage_and_loses_no_receipt(
    tmp_path: Path, inbox: Inbox, clock: HandClock
) -> None:
    class Flaky(Store):
        away = False

        async def write(self, work: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            if self.away:
                raise StoreUnavailable("disk full")
            return await super().write(work, *args, **kwargs)

        async def write_each(
            self, work: Callable[[Connection, Sequence[Item]], Sequence[T]], item: Item, guard: Guard | None = None
        ) -> T:
            if self.away:
                raise StoreUnavailable("disk full")
            return await super().write_each(work, item, guard)

    store = Flaky(sqlite_url(tmp_path))
    await store.open()
    one, other = owed(), owed(ordering_key="other")
    await store.write(outbox.enqueue, [one])
    sender = sender_of(store, clock)
    settings = config(hook(inbox.url))

    async def answer(_request: web.Request) -> web.Response:
        store.away = True
        return web.Response()

    inbox.answer = answer
    await sender.step(clock.now(), settings)
    while not store.away:
        await asyncio.sleep(0.01)
    clock.forward(seconds=20)
    assert await sender.step(clock.now(), settings) == clock.now() + timedelta(milliseconds=100)
    assert await sender.step(clock.now(), settings) == clock.now() + timedelta(milliseconds=200)
    inbox.answer, store.away = None, False
    await sender.idle()
    assert await state_of(store, one) == NotificationState.DELIVERED
    await store.write(outbox.enqueue, [other])
    await drain(sender, store, settings, clock)
    assert inbox.ids == [one.id, other.id]
    await sender.close(timedelta(0))
    await store.close()


async def test_a_thread_that_comes_back_long_after_its_deadline_still_writes_the_receipt(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    hang = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await hang.wait()
        return web.Response()

    inbox.answer = answer
    url = inbox.url.replace("http", "json") + "?rto=20&cto=20"
    channel = Channel("ops/json", "ops", url=Plain(url), timeout=timedelta(seconds=20))
    slow = Channel("ops/json", "ops", url=Plain(url), timeout=timedelta(milliseconds=300))
    sender = sender_of(store, clock)
    # The thread's own timeouts come from the long deadline, the sender's patience from the short one.
    from tocsin.deliver.transport import connector

    sender._connect = lambda _channel: connector(clock)(channel)
    one = owed(channel="ops/json")
    await store.write(outbox.enqueue, [one])
    await sender.step(clock.now(), config(slow))
    await sender.idle()
    found = await store.read(get_delivery, one.id)
    assert found
    assert found.notification.state == NotificationState.PENDING
    assert [attempt.outcome for attempt in found.attempts] == [AttemptOutcome.UNKNOWN]
    hang.set()
    while await state_of(store, one) != NotificationState.DELIVERED:
        await asyncio.sleep(0.01)
    await sender.step(clock.forward(minutes=1), config(slow))
    await sender.idle()
    assert len(inbox.received) == 1
    await sender.close(timedelta(0))


async def test_a_changed_channel_is_used_at_once_and_sends_under_way_end_on_the_old_one(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    hang = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/hook/old":
            await hang.wait()
        return web.Response()

    inbox.answer = answer
    first, second = owed(ordering_key="a"), owed(ordering_key="b")
    sender = sender_of(store, clock)
    await store.write(outbox.enqueue, [first])
    await sender.step(clock.now(), config(hook(inbox.url + "/old")))
    while not inbox.received:
        await asyncio.sleep(0.01)
    await store.write(outbox.enqueue, [second])
    await sender.step(clock.now(), config(hook(inbox.url + "/new")))
    while len(inbox.received) < 2:
        await asyncio.sleep(0.01)
    hang.set()
    await sender.idle()
    assert [(one.path, one.id) for one in inbox.received] == [("/hook/old", first.id), ("/hook/new", second.id)]
    assert [await state_of(store, one) for one in (first, second)] == [NotificationState.DELIVERED] * 2
    await sender.close(timedelta(0))


async def test_a_row_that_cannot_be_read_becomes_a_dead_letter_and_the_others_go(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    bad, good = owed(ordering_key="a"), owed(ordering_key="b")
    await store.write(outbox.enqueue, [bad, good])
    await store.write(
        lambda connection: connection.exec_driver_sql(
            "UPDATE outbox SET notice = '{\"nonsense\": 1}' WHERE id = ?", (bad.id,)
        )
    )
    sender = sender_of(store, clock)
    await sender.step(clock.now(), config(hook(inbox.url)))
    await sender.idle()
    assert inbox.ids == [good.id]
    rows = await store.read(
        lambda connection: connection.exec_driver_sql("SELECT state, reason FROM outbox WHERE id = ?", (bad.id,)).all()
    )
    assert [tuple(row) for row in rows] == [("dead", "its row cannot be read")]
    await sender.close(timedelta(0))


async def test_dead_letters_are_counted_by_why_they_died(store: Store, inbox: Inbox, clock: HandClock) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=400 if request.path == "/no" else 503)

    inbox.answer = answer
    no, away = hook(f"{inbox.url[:-5]}/no", "no"), hook(inbox.url, "away", max_age=timedelta(seconds=30))
    unreadable = owed(channel="no", ordering_key="x")
    await store.write(outbox.enqueue, [owed(channel="no"), owed(channel="away"), owed(channel="gone"), unreadable])
    broken = "UPDATE outbox SET notice = '{}' WHERE id = ?"
    await store.write(lambda connection: connection.exec_driver_sql(broken, (unreadable.id,)))
    registry = CollectorRegistry()
    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(registry), random=Random(1))
    for _ in range(8):
        await sender.step(clock.forward(seconds=10), config(no, away))
        await sender.idle()
    counted = {
        reason: registry.get_sample_value("tocsin_dead_letters", {"reason": reason})
        for reason in ("refused", "too_old", "channel_gone", "unreadable")
    }
    assert counted == dict.fromkeys(counted, 1.0)
    await sender.close(timedelta(0))


async def test_a_narrow_channel_asks_for_its_next_row_as_soon_as_a_place_is_free(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    bell = asyncio.Event()
    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1),
                    wake=bell.set)  # fmt: skip
    channel = Channel("ops/json", "ops", url=Plain(inbox.url.replace("http", "json")))
    rows = [owed(channel="ops/json", ordering_key=f"ordering_key {n % 3}") for n in range(12)]
    await store.write(outbox.enqueue, rows)
    await sender.step(clock.now(), config(channel))
    while len(inbox.received) < len(rows):
        if bell.is_set():
            bell.clear()
            await sender.step(clock.now(), config(channel))
        await asyncio.sleep(0.01)
    await sender.idle()
    assert (await store.read(deliveries.outbox_depth)).open == 0
    await sender.close(timedelta(0))


async def test_what_waits_for_its_turn_at_a_stop_is_given_back_unsent(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    rows = [owed(ordering_key=f"{n}") for n in range(3)]
    await store.write(outbox.enqueue, rows)
    sender = sender_of(store, clock)
    await sender.step(clock.now(), config(hook(inbox.url, rate=1.0)))
    while not inbox.received:
        await asyncio.sleep(0.01)
    await sender.close(timedelta(seconds=5))
    assert len(inbox.received) == 1
    states = Counter([await state_of(store, one) for one in rows])
    assert states == {NotificationState.DELIVERED: 1, NotificationState.PENDING: 2}


async def test_a_delivery_task_that_fails_is_logged_without_the_errors_words_and_its_row_is_sent_again(
    store: Store, inbox: Inbox, clock: HandClock
) -> None:
    one = owed()
    await store.write(outbox.enqueue, [one])
    sender = sender_of(store, clock)

    class Broken(Receipts):
        def add(self, receipt: Receipt, written: Written) -> None:
            raise RuntimeError("the password is hunter2")

    working, sender._receipts = sender._receipts, Broken(store)
    with structlog.testing.capture_logs() as lines:
        await sender.step(clock.now(), config(hook(inbox.url)))
        await sender.idle()
        await asyncio.sleep(0)
    (line,) = [line for line in lines if line["event"] == "delivery_task_failed"]
    assert (line["task"], line["error"]) == ("deliver ops/hook", "RuntimeError")
    assert "hunter2" not in str(line)
    sender._receipts = working
    clock.forward(seconds=31)
    await drain(sender, store, config(hook(inbox.url)), clock)
    assert inbox.ids == [one.id, one.id]
    await sender.close(timedelta(0))


async def test_what_a_receiver_repeats_is_in_no_row_and_no_line(
    store: Store, inbox: Inbox, clock: HandClock, tmp_path: Path
) -> None:
    secrets = ("tOk3n-Zq8XwPm2", "h34der-Lc9RtVb4", "p4th-Yk7NsJd1", "qu3ry-Gf6HvBz5")

    async def answer(request: web.Request) -> web.Response:
        said = f"{request.rel_url} {dict(request.headers)} {await request.text()}"
        return web.Response(status=403, text="".join(f"{said[i:]}\x00" for i in range(0, 60, 7)) + said.upper())

    inbox.answer = answer
    base = inbox.url.removeprefix("http://")
    native = hook(
        f"{inbox.url}/{secrets[2]}?key={secrets[3]}",
        headers={"Authorization": Plain(f"Bearer {secrets[0]}"), "X-Key": Plain(secrets[1])},
    )
    url = f"json://user:{secrets[0]}@{base}/{secrets[2]}?+X-Key={secrets[1]}&-q={secrets[3]}"
    other = Channel("ops/json", "ops", url=Plain(url), timeout=timedelta(seconds=20))
    rows = [owed(), owed(channel="ops/json")]
    await store.write(outbox.enqueue, rows)
    sender, log = sender_of(store, clock), io.StringIO()
    configure_logging("debug", "json", log)
    await sender.step(clock.now(), config(native, other))
    await sender.idle()
    await sender.close(timedelta(0))
    found = [await store.read(get_delivery, one.id) for one in rows]
    shown = "\n".join([log.getvalue(), *map(str, found)]).lower()
    assert [one.notification.dead_reason for one in found if one] == 2 * [DeadReason.REFUSED]
    assert "http 403" in shown
    assert not [secret[i : i + 5] for secret in secrets for i in range(10) if secret[i : i + 5].lower() in shown]


async def test_a_notification_that_arrives_fails_or_dies_has_a_line_with_its_place(
    store: Store, inbox: Inbox, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, object]] = []
    monkeypatch.setattr(lines, "_writer", lambda _package, _level, make, _count: written.extend(map(dict, make())))
    statuses = iter((500, 200, 403))

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=next(statuses))

    inbox.answer = answer
    sender = sender_of(store, clock)
    await store.write(outbox.enqueue, [owed()])
    await sender.step(clock.now(), config(hook(inbox.url)))
    await sender.idle()
    clock.forward(minutes=1)
    await drain(sender, store, config(hook(inbox.url)), clock)
    await store.write(outbox.enqueue, [owed()])
    await drain(sender, store, config(hook(inbox.url)), clock)
    await sender.close(timedelta(0))
    names = ["notification_failed", "notification_delivered", "notification_dead"]
    assert [line["event"] for line in written] == names
    for line in written:
        assert (line["receiver"], line["channel"]) == ("ops", "ops/hook")
        assert {"subject", "dss_node", "project", "scenario", "run", "attempt"} <= line.keys()
    assert written[2]["dead_reason"] == "refused"
