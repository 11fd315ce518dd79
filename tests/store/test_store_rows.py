from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from tocsin.model.event import Event, EventName, ScenarioFacts, run_event_id
from tocsin.model.notification import EventNotice, Notification
from tocsin.model.run import Details, Run, RunError, ScenarioKey, Step
from tocsin.store import Store, events, outbox, runs, schema, series, writer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def started(number: int) -> Event:
    run = Run(ScenarioKey("prod", "SALES", "NIGHTLY"), f"run-{number}", NOW + timedelta(minutes=number))
    return Event(
        id=run_event_id(run, EventName.RUN_STARTED),
        name=EventName.RUN_STARTED,
        node="prod",
        time=run.start,
        detected_at=NOW,
        project="SALES",
        scenario=ScenarioFacts("NIGHTLY", "Nightly", ("daily",)),
        run=run,
    )


async def test_events_are_written_once_and_come_back_whole(store: Store) -> None:
    assert await store.write(events.insert_events, [started(1), started(2)]) == [started(1), started(2)]
    assert await store.write(events.insert_events, [started(2), started(3), started(3)]) == [started(3)]
    waiting = await store.read(events.undecided, 10)
    assert [one.event for one in waiting] == [started(1), started(2), started(3)]
    assert await store.write(events.mark_decided, waiting[:2], NOW) == range(1, 3)
    decided = await store.read(events.list_events)
    assert [(event.seq, event.id) for event in decided] == [(1, started(1).id), (2, started(2).id)]
    assert [one.event for one in await store.read(events.undecided, 10)] == [started(3)]


async def test_details_release_the_notifications_that_wait_for_them(store: Store) -> None:
    event = started(1)
    assert event.run
    notice = EventNotice(event, "nightly")
    owed = Notification("a" * 32, "ops", "ops/json", "ordering_key", notice, NOW, NOW + timedelta(seconds=15))
    assert await store.write(outbox.enqueue, [owed], {owed.id: [event.run.key]}) == [owed]
    assert await store.write(outbox.enqueue, [owed]) == []
    read = Details(
        event.run.key,
        NOW + timedelta(seconds=2),
        RunError("boom"),
        (Step("s", "Build", "build_flowitem", "FAILED", timedelta(seconds=3), ("j",)),),
    )
    await store.write(runs.put_details, read)
    assert await store.read(runs.get_details, [event.run.key]) == {event.run.key: read}
    found = await store.read(outbox.load_notifications, [owed.id])
    assert found[owed.id].due_at == NOW + timedelta(seconds=2)
    assert found[owed.id].notice == notice


async def test_only_one_leads_and_the_old_one_cannot_write(store: Store) -> None:
    first = await store.write(writer.acquire_lease, "a", NOW)
    assert first
    assert await store.write(writer.acquire_lease, "b", NOW) is None
    second = await store.write(writer.acquire_lease, "b", NOW + timedelta(seconds=16))
    assert second
    assert second.epoch == first.epoch + 1


async def test_other_bounds_begin_the_histograms_anew_and_the_runs_so_far_count_on(store: Store) -> None:
    def durations(connection: Connection) -> dict[int, tuple[int, float]]:
        table = schema.duration_buckets.c
        return {
            le: (runs, seconds)
            for le, runs, seconds in connection.execute(select(table.le_ms, table.runs, table.seconds))
        }

    def ended(number: int, seconds: float) -> Run:
        start = NOW + timedelta(minutes=number)
        return Run(
            ScenarioKey("prod", "SALES", "NIGHTLY"),
            f"run-{number}",
            start,
            start + timedelta(seconds=seconds),
            "SUCCESS",
        )

    for bounds, seconds in (((10, 60), 5), ((10, 60), 30), ((10, 20, 60), 15), ((10, 20, 60), 90), ((5,), 1)):
        await store.write(series.set_bucket_layout, bounds)
        await store.write(series.count_runs, [ended(seconds, seconds)], bounds)
        if seconds == 30:
            assert await store.read(durations) == {10_000: (1, 5), 60_000: (1, 30)}
        if seconds == 90:
            assert await store.read(durations) == {series.FORMER: (2, 35), 20_000: (1, 15), series.INFINITE: (1, 90)}
    assert await store.read(durations) == {series.FORMER: (4, 140), 5_000: (1, 1)}
