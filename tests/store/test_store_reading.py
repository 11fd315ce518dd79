"""What the API, the pages and the metrics read, on both databases."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.web.rows import (
    KEY,
    NOW,
    a_run,
    ago,
    an_alert,
    an_event,
    put_alert,
    put_bucket,
    put_error,
    put_events,
    put_node,
    put_notification,
    put_run,
    put_scenario,
    put_total,
)
from tocsin.kit.clock import to_ms
from tocsin.model.alert import EndReason
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.notification import EventNotice
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, alerts, query, schema, series
from tocsin.store.alerts import record_decisions
from tocsin.store.events import event_totals
from tocsin.store.explanation import load_run_explanation
from tocsin.store.query import BadCursor, Page
from tocsin.store.runs import good_durations, usual_durations
from tocsin.store.series import Bucket, LastRun, NodeFacts, ProjectOutcome

Reading = Callable[..., Page[Any]]
KEYS = [ScenarioKey("prod", "SALES", name) for name in ("a", "B", "é", "Z z", "_")]


def fill(connection: Connection) -> None:
    """Several rows of everything that is listed, many of them at the same moment."""
    for name in ("prod", "auto", "Édition"):
        put_node(connection, name)
    for key in KEYS:
        put_scenario(connection, key)
        for minutes in (30, 20):
            put_run(connection, a_run(key, minutes_ago=minutes))
        alert = an_alert(key=key)
        put_alert(connection, alert)
        put_notification(connection, f"d-{key.scenario}", EventNotice(an_event(a_run(key)), "nightly"))


@pytest.mark.parametrize(
    ("read", "count"),
    [
        (query.list_nodes, 3), (query.list_scenarios, 5), (query.list_runs, 10), (query.list_alerts, 5),
        (query.list_deliveries, 5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_hold_every_row_once_in_one_order(store: Store, read: Reading, count: int, limit: int) -> None:
    await store.write(fill)
    whole = (await store.read(read, {}, 100)).items
    seen: list[Any] = []
    after = None
    while True:
        page = await store.read(read, {}, limit, after)
        seen += page.items
        if page.next is None:
            break
        after = page.next
    assert len(whole) == count
    assert tuple(seen) == whole


async def test_rows_written_between_two_pages_neither_repeat_nor_shift(store: Store) -> None:
    await store.write(fill)
    first = await store.read(query.list_runs, {}, 4)
    await store.write(put_run, a_run(minutes_ago=1))
    second = await store.read(query.list_runs, {}, 100, first.next)
    assert len({(one.scenario, one.run_id) for one in (*first.items, *second.items)}) == 10


@pytest.mark.parametrize("cursor", ["x", "W10", "WzFd", "WyJhIl0", "bnVsbA", "WzEsICJhIiwgImIiLCAiYyIsIDVd"])
async def test_a_cursor_of_elsewhere_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await store.read(query.list_runs, {}, 10, cursor)


async def test_what_is_filtered_in_python_stops_after_a_bounded_scan(store: Store) -> None:
    def many(connection: Connection) -> None:
        rows = query.SCAN_LIMIT + 10
        labels = {"alertname": "A", "dss_node": "n", "project": "p", "scenario": "s"}
        connection.execute(
            schema.alerts.insert(),
            [
                {"id": f"{n:05}", "fingerprint": f"{n}", "alertname": "A", "rule": "r", "node": "n", "project": "p",
                 "scenario": "s", "labels": labels | ({"team": "x"} if n == 0 else {}), "annotations": {},
                 "starts_at": ago(hours=1), "count": 1, "updated_at": NOW, "was_active": True}
                for n in range(rows)
            ],
        )  # fmt: skip

    await store.write(many)
    first = await store.read(query.list_alerts, {"team": ["x"]}, 5)
    assert (first.items, first.next is None) == ((), False)
    second = await store.read(query.list_alerts, {"team": ["x"]}, 5, first.next)
    assert [one.id for one in second.items] == ["00000"]


async def test_states_are_told_apart(store: Store) -> None:
    def fill(connection: Connection) -> None:
        put_run(connection, a_run(minutes_ago=9))
        put_run(connection, a_run(minutes_ago=2, seconds=None))
        put_run(connection, a_run(KEYS[0], minutes_ago=3, seconds=None))
        lost = schema.runs.c.scenario == KEYS[0].scenario
        connection.execute(schema.runs.update().where(lost).values(absent_since=NOW))
        put_alert(connection, an_alert())
        put_alert(connection, an_alert("Old", ends_at=NOW, end_reason=EndReason.RESOLVED))

    await store.write(fill)
    running = await store.read(query.list_runs, {"state": ["running"]}, 10)
    assert [(one.scenario, one.end) for one in running.items] == [("NIGHTLY", None)]
    both = await store.read(query.list_runs, {"state": ["running", "ended"]}, 10)
    assert len(both.items) == 3
    ended = await store.read(query.list_alerts, {"state": ["resolved"]}, 10)
    assert [(one.labels["alertname"], one.end_reason) for one in ended.items] == [("Old", EndReason.RESOLVED)]


async def test_silences_are_listed_by_state(store: Store) -> None:
    from tocsin.model.labels import parse_matcher

    for starts, ends in ((-60, 60), (30, 90), (-1, 1)):
        await store.write(
            alerts.insert_silence, [parse_matcher("a=b")], NOW + timedelta(minutes=starts), NOW + timedelta(minutes=ends),
            "ann", "", ago(hours=2),
        )  # fmt: skip
    later = NOW + timedelta(minutes=5)
    for state, count in (("active", 1), ("pending", 1), ("expired", 1)):
        page = await store.read(query.list_silences, {"state": [state]}, 10, now=later)
        assert (state, len(page.items)) == (state, count)


async def test_the_usual_duration_is_the_median_of_good_runs(store: Store) -> None:
    def fill(connection: Connection) -> None:
        for n, seconds in enumerate((60, 70, 500)):
            put_run(connection, a_run(minutes_ago=100 - n, seconds=seconds))
        put_run(connection, a_run(minutes_ago=5, seconds=1, outcome="FAILED"))

    await store.write(fill)
    assert await store.read(usual_durations, [KEY, KEYS[0]]) == {KEY: timedelta(seconds=70)}


async def test_what_is_usual_is_made_of_the_last_twenty_good_runs(store: Store) -> None:
    def fill(connection: Connection) -> None:
        for n in range(30):
            put_run(connection, a_run(minutes_ago=100 - n, seconds=1000 if n < 10 else n))
            put_run(connection, a_run(KEYS[0], minutes_ago=100 - n, seconds=5))

    await store.write(fill)
    found = await store.read(good_durations, [KEY, KEYS[0], KEYS[1]])
    assert found[KEY] == [timedelta(seconds=n) for n in range(29, 9, -1)]
    assert found[KEYS[0]] == [timedelta(seconds=5)] * 20
    assert KEYS[1] not in found


async def test_the_last_failures_come_newest_end_first(store: Store) -> None:
    def fill(connection: Connection) -> None:
        put_run(connection, a_run(minutes_ago=60, seconds=3500, outcome="FAILED", run_id="long"))
        put_run(connection, a_run(minutes_ago=30, outcome="FAILED", run_id="short"))
        put_run(connection, a_run(minutes_ago=5))
        put_error(connection, a_run(minutes_ago=30, outcome="FAILED", run_id="short"), "boom")

    await store.write(fill)
    found = await store.read(query.last_failures, 5)
    assert [(one.run_id, one.error.message if one.error else None) for one in found] == [
        ("long", None), ("short", "boom"),
    ]  # fmt: skip


async def test_series_read_what_a_scenario_has_done(store: Store) -> None:
    def fill(connection: Connection) -> None:
        put_node(connection)
        put_node(connection, "new", up=None, last_discovery_at=None)
        put_scenario(connection, next_run=NOW, reporter_failures=3)
        put_scenario(connection, KEYS[0], gone_at=NOW)
        put_scenario(connection, KEYS[1], polled_at=ago(hours=2))
        put_run(connection, a_run(minutes_ago=50))
        put_run(connection, a_run(minutes_ago=40, outcome="FAILED"))
        put_run(connection, a_run(minutes_ago=30, outcome="ABORTED"))
        put_run(connection, a_run(minutes_ago=20, outcome="FAILED", run_id="last"), baseline=True)
        put_run(connection, a_run(minutes_ago=3, seconds=None))
        put_total(connection, KEY, "SUCCESS", 4, 40.5)
        put_total(connection, KEY, "FAILED", 2, 2)
        put_run(connection, a_run(KEYS[1]))

    await store.write(fill)
    assert await store.read(series.node_facts) == [
        NodeFacts("new", None, False, "14.1.0", None),
        NodeFacts("prod", True, True, "14.1.0", None),
    ]
    facts = await store.read(series.scenario_samples, {})
    assert list(facts) == [KEYS[1], KEY]
    assert facts[KEY][1:6] == (to_ms(ago(days=1)), to_ms(ago(seconds=30)), True, to_ms(NOW), 3)
    again = await store.read(series.scenario_samples, facts)
    assert all(again[key] is facts[key] for key in facts)
    assert await store.read(series.running_since) == {KEY: to_ms(ago(minutes=3))}
    histories = await store.read(series.histories, to_ms(ago(minutes=5)))
    assert list(histories) == [KEY]
    start = to_ms(ago(minutes=20))
    assert histories[KEY].last == LastRun("last", start, start + 60_000, "FAILED", False)
    assert histories[KEY].last_good == to_ms(ago(minutes=49))
    assert histories[KEY].failures == 2
    assert histories[KEY].totals == (("FAILED", 2, 2.0), ("SUCCESS", 4, 40.5))
    assert set(await store.read(series.histories, 0)) == {KEY, KEYS[1]}


async def test_buckets_ascend_and_the_last_has_no_bound(store: Store) -> None:
    run = a_run(seconds=4)

    def fill(connection: Connection) -> None:
        put_bucket(connection, KEY, "SUCCESS", -1, 1, 99_999)
        put_bucket(connection, KEY, "SUCCESS", 60_000, 2, 90)
        put_bucket(connection, KEY, "SUCCESS", 5_000, 1, 4, run)
        put_bucket(connection, ScenarioKey("prod", "OTHER", ""), "SUCCESS", 5_000, 1, 4)

    await store.write(fill)
    found = await store.read(series.project_buckets, [("prod", "SALES")])
    at = to_ms(ago(minutes=10)) + 4000
    assert found == {
        ProjectOutcome("prod", "SALES", "SUCCESS"): (
            Bucket(5_000, 1, 4.0, "NIGHTLY", run.run_id, 4.0, at), Bucket(60_000, 2, 90.0, None, None, None, None),
            Bucket(None, 1, 99_999.0, None, None, None, None),
        )
    }  # fmt: skip
    assert len(await store.read(series.project_buckets)) == 2


async def test_decided_events_are_counted_once_by_name(store: Store) -> None:
    run = an_event(a_run())
    await store.write(put_events, run, an_event(a_run(minutes_ago=30, outcome="FAILED")))
    await store.write(put_events, run, an_event(a_run(minutes_ago=40)))
    assert await store.read(event_totals) == {"run.finished": 2, "run.failed": 1}


async def test_a_story_is_told_from_rows(store: Store) -> None:
    run = a_run(outcome="FAILED")
    event, alert = an_event(run), an_alert(ends_at=ago(minutes=1), end_reason=EndReason.RESOLVED)

    def fill(connection: Connection) -> None:
        put_run(connection, run)
        put_events(connection, event)
        put_alert(connection, alert)
        put_notification(connection, "d1", EventNotice(event, "nightly"))
        made = [
            Decision(
                ago(minutes=5), Stage.RULE, "ScenarioFailed", DecisionReason.FIRING, None, event.id, None, alert.id
            ),
            Decision(ago(minutes=5), Stage.ROUTE, "g", DecisionReason.ROUTED, None, None, None, alert.id),
            Decision(ago(minutes=4), Stage.FLUSH, "g → pager", DecisionReason.FIRST, None),
            Decision(ago(minutes=1), Stage.RULE, "ScenarioFailed", DecisionReason.RESOLVED, None, None, None, alert.id),
            Decision(NOW + timedelta(hours=1), Stage.FLUSH, "g → pager", DecisionReason.FIRST, None),
        ]
        record_decisions(connection, made)

    await store.write(fill)
    story = await store.read(load_run_explanation, KEY, run.run_id, ["pager"])
    assert story is not None
    assert [one.stage for one in story.decisions] == [Stage.RULE, Stage.ROUTE, Stage.FLUSH, Stage.REPORTER]
    assert [one.id for one in story.deliveries] == ["d1"]
    assert [one.end_reason for one in story.alerts] == [EndReason.RESOLVED]
    assert await store.read(load_run_explanation, KEY, "unknown", []) is None
