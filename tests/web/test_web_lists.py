"""The lists of the API: pages, cursors, filters, shapes."""

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession
from jsonschema import Draft202012Validator
from sqlalchemy import Connection

from tests.web.harness import Daemon
from tests.web.rows import (
    KEY,
    NOW,
    a_run,
    ago,
    an_alert,
    an_event,
    put_alert,
    put_error,
    put_events,
    put_node,
    put_notification,
    put_run,
    put_scenario,
)
from tocsin.config.intervals import TimeInterval, TimeRange
from tocsin.config.model import InhibitRule, Route
from tocsin.model.alert import Acknowledgement, EndReason
from tocsin.model.cloudevent import event_schema
from tocsin.model.labels import parse_matchers
from tocsin.model.notification import EventNotice, GroupNotice
from tocsin.model.run import ScenarioKey
from tocsin.store import schema
from tocsin.store.alerts import end_alert, set_acknowledged


async def get(client: ClientSession, address: str) -> Any:
    async with client.get(address) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        return body


async def walk(client: ClientSession, address: str) -> list[Any]:
    """All items, page after page."""
    items, after = [], ""
    for _ in range(50):
        page = await get(client, address + after)
        items += page["items"]
        if page["next"] is None:
            return items
        after = f"&after={page['next']}"
    raise AssertionError("the pages do not end")


async def test_events_come_in_their_public_order_as_cloudevents_with_details(
    client: ClientSession, daemon: Daemon
) -> None:
    run = a_run(outcome="FAILED")

    def fill(connection: Connection) -> None:
        put_events(connection, an_event(a_run(minutes_ago=20)), an_event(run))
        put_error(connection, run, "boom")

    await daemon.store.write(fill)
    page = await get(client, "/api/v1/events")
    assert [(one["seq"], one["type"]) for one in page["items"]] == [
        (1, "tocsin.run.finished"), (2, "tocsin.run.failed"),
    ]  # fmt: skip
    assert page["next"] is None
    assert page["items"][1]["data"]["error"]["message"] == "boom"
    for one in page["items"]:
        Draft202012Validator(event_schema()).validate(one)


async def test_the_cursor_of_events_is_the_seq_of_the_last_one(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(
        lambda connection: put_events(connection, *(an_event(a_run(minutes_ago=9 - n)) for n in range(5)))
    )
    first = await get(client, "/api/v1/events?limit=2")
    assert (len(first["items"]), first["next"]) == (2, "2")
    assert [one["seq"] for one in await walk(client, "/api/v1/events?limit=2")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("event=run.failed", [2]),
        ("outcome=SUCCESS", [1]),
        ("outcome=SUCCESS&outcome=FAILED", [1, 2]),
        ("dss_node=prod&project=SALES&scenario=NIGHTLY", [1, 2, 3]),
        ("project=OTHER", []),
        ("tags=,daily,&event=run.started", [3]),
        ("limit=1&outcome=FAILED", [2]),
    ],
)
async def test_events_can_be_filtered_by_their_labels(
    client: ClientSession, daemon: Daemon, filters: str, expected: list[int]
) -> None:
    await daemon.store.write(
        lambda connection: put_events(
            connection,
            an_event(a_run(minutes_ago=9)),
            an_event(a_run(minutes_ago=8, outcome="FAILED")),
            an_event(a_run(minutes_ago=7, seconds=None)),
        )
    )
    assert [one["seq"] for one in await walk(client, f"/api/v1/events?{filters}")] == expected


async def test_runs_come_newest_first_page_by_page_with_their_first_error(
    client: ClientSession, daemon: Daemon
) -> None:
    runs = [a_run(minutes_ago=n, outcome="FAILED" if n == 3 else "SUCCESS") for n in range(1, 8)]

    def fill(connection: Connection) -> None:
        for run in runs:
            put_run(connection, run)
        put_error(connection, runs[2], "boom")

    await daemon.store.write(fill)
    items = await walk(client, "/api/v1/runs?limit=3")
    assert [one["run_id"] for one in items] == [run.run_id for run in runs]
    assert items[2]["error"] == {"code": "ERR", "title": "Oops", "message": "boom", "step": "build"}
    assert items[0]["duration_seconds"] == 60.0


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("scenario_name=A name", ["A"]),
        ("tags=,daily,", ["B", "A"]),
        ("tags=,weekly,", []),
        ("tags=,daily,&scenario=B", ["B"]),
    ],
)
async def test_runs_are_found_by_the_name_and_tags_of_their_scenario(
    client: ClientSession, daemon: Daemon, filters: str, expected: list[str]
) -> None:
    keys = [ScenarioKey("prod", "SALES", name) for name in ("A", "B")]

    def fill(connection: Connection) -> None:
        for age, key in enumerate(keys):
            put_scenario(connection, key)
            put_run(connection, a_run(key, minutes_ago=9 - age))

    await daemon.store.write(fill)
    assert [one["scenario"] for one in await walk(client, f"/api/v1/runs?limit=1&{filters}")] == expected


async def test_runs_that_start_in_the_same_millisecond_are_all_listed(client: ClientSession, daemon: Daemon) -> None:
    keys = [ScenarioKey("prod", "SALES", f"S{n}") for n in range(5)]

    def fill(connection: Connection) -> None:
        for key in keys:
            put_run(connection, a_run(key))

    await daemon.store.write(fill)
    items = await walk(client, "/api/v1/runs?limit=2")
    assert sorted(one["scenario"] for one in items) == [key.scenario for key in keys]


@pytest.mark.parametrize(("state", "expected"), [("running", [None]), ("ended", ["SUCCESS"])])
async def test_runs_can_be_filtered_by_state(
    client: ClientSession, daemon: Daemon, state: str, expected: list[str | None]
) -> None:
    def fill(connection: Connection) -> None:
        put_run(connection, a_run(minutes_ago=5))
        put_run(connection, a_run(minutes_ago=1, seconds=None))

    await daemon.store.write(fill)
    items = await walk(client, f"/api/v1/runs?limit=1&state={state}")
    assert [one["outcome"] for one in items] == expected


async def test_nodes_and_scenarios_show_their_state(client: ClientSession, daemon: Daemon) -> None:
    def fill(connection: Connection) -> None:
        put_node(connection)
        put_node(connection, "auto", up=False, down_reason="unreachable", down_since=ago(minutes=1))
        put_scenario(connection, next_run=ago(minutes=-30))
        put_scenario(connection, ScenarioKey("prod", "SALES", "WEEKLY"), active=None)

    await daemon.store.write(fill)
    nodes = await get(client, "/api/v1/nodes")
    assert [(one["node"], one["up"], one["down_reason"]) for one in nodes["items"]] == [
        ("auto", False, "unreachable"), ("prod", True, None),
    ]  # fmt: skip
    scenarios = await walk(client, "/api/v1/scenarios?limit=1")
    assert [(one["scenario"], one["active"], one["next_run"], one["tags"]) for one in scenarios] == [
        ("NIGHTLY", True, "2026-03-01T12:30:00.000Z", ["daily"]), ("WEEKLY", None, None, ["daily"]),
    ]  # fmt: skip
    assert len(await walk(client, "/api/v1/scenarios?scenario_name=WEEKLY%20name")) == 1
    assert [len(await walk(client, f"/api/v1/scenarios?tags={tags}")) for tags in (",daily,", ",weekly,")] == [2, 0]


async def test_alerts_are_filtered_by_state_and_by_any_label(client: ClientSession, daemon: Daemon) -> None:
    def fill(connection: Connection) -> None:
        put_alert(connection, an_alert())
        put_alert(connection, an_alert("ScenarioMissed", severity="critical", ends_at=NOW,
                                       end_reason=EndReason.RESOLVED))  # fmt: skip

    await daemon.store.write(fill)
    for filters, expected in (
        ("", {"ScenarioFailed", "ScenarioMissed"}), ("state=firing", {"ScenarioFailed"}),
        ("state=resolved", {"ScenarioMissed"}), ("severity=critical", {"ScenarioMissed"}),
        ("alertname=ScenarioFailed&project=SALES", {"ScenarioFailed"}), ("team=sales", set()),
    ):  # fmt: skip
        found = await get(client, f"/api/v1/alerts?{filters}")
        assert (filters, {one["labels"]["alertname"] for one in found["items"]}) == (filters, expected)


async def test_deliveries_show_what_was_tried(client: ClientSession, daemon: Daemon) -> None:
    def fill(connection: Connection) -> None:
        put_notification(connection, "d1", EventNotice(an_event(a_run(outcome="FAILED")), "nightly"))
        group = GroupNotice("g", "data-ops", {}, (an_alert(),), "first")
        put_notification(connection, "d2", group, channel="ops-mail")
        connection.execute(
            schema.attempts.insert(),
            {"notification_id": "d1", "number": 1, "started_at": NOW, "ended_at": NOW, "outcome": "failed",
             "note": "503"},
        )  # fmt: skip

    await daemon.store.write(fill)
    items = await walk(client, "/api/v1/deliveries?limit=1")
    assert [(one["id"], one["kind"], one["subject"], one["state"]) for one in items] == [
        ("d2", "group", "ScenarioFailed rings", "pending"),
        ("d1", "event", "run.failed prod/SALES/NIGHTLY", "pending"),
    ]
    assert [one["note"] for one in items[1]["attempts"]] == ["503"]
    for filters, expected in (("outcome=FAILED", ["d1"]), ("alertname=ScenarioFailed", ["d2"]),
                              ("channel=ops-mail", ["d2"]), ("scenario=NIGHTLY", ["d2", "d1"])):  # fmt: skip
        found = await get(client, f"/api/v1/deliveries?{filters}")
        assert (filters, [one["id"] for one in found["items"]]) == (filters, expected)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=1001", "limit=-1", "after=%21", "after=W10", "after=eyJhIjoxfQ", "projct=SALES",
     "limit=99999999999999999999999", "state=runing"],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_a_problem(client: ClientSession, query: str) -> None:
    async with client.get(f"/api/v1/runs?{query}") as answer:
        assert (answer.status, answer.content_type) == (400, "application/problem+json")


@pytest.mark.parametrize("name", ["nodes", "scenarios", "runs", "events", "alerts", "silences", "deliveries"])
async def test_an_empty_list_is_a_list(client: ClientSession, name: str) -> None:
    assert await get(client, f"/api/v1/{name}") == {"items": [], "next": None}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/api/v1/runs", 405)])
async def test_wrong_addresses_and_methods_are_problems(
    client: ClientSession, method: str, path: str, status: int
) -> None:
    async with client.request(method, path) as answer:
        assert (answer.status, answer.content_type) == (status, "application/problem+json")
        assert (await answer.json())["status"] == status


async def test_a_closed_store_is_a_503(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.close()
    async with client.get("/api/v1/runs") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")


async def test_a_name_filter_is_data_not_sql(client: ClientSession, daemon: Daemon) -> None:
    hostile = ScenarioKey("prod", "SALES", "'; DROP TABLE runs; --<b>")
    await daemon.store.write(lambda connection: put_run(connection, a_run(hostile)))
    found = await get(client, "/api/v1/runs?scenario='; DROP TABLE runs; --<b>")
    assert [one["scenario"] for one in found["items"]] == [hostile.scenario]
    assert (await get(client, f"/api/v1/runs?scenario={KEY.scenario}"))["items"] == []


# --- every list takes since, until and matchers -----------------------------------------------------------------------


def everything(connection: Connection) -> None:
    put_node(connection)
    put_node(connection, "design", watched_since=ago(days=3))
    for number, (project, scenario) in enumerate([("SALES", "A"), ("SALES", "B"), ("CRM", "A"), ("", "")]):
        key = ScenarioKey("prod", project, scenario)
        alert = an_alert(key=key, starts_at=ago(hours=number), severity="critical" if number == 1 else "warning")
        put_alert(connection, alert)
        if project:
            run = a_run(key, 60 * number, outcome="FAILED" if number == 1 else "SUCCESS")
            put_scenario(connection, key, tags=("team: red",) if number == 1 else (), last_end=run.end)
            put_run(connection, run)
            put_events(connection, an_event(run))
            notice = GroupNotice("g", "ops", {}, (alert,), "first")
            put_notification(connection, f"d{number}", notice, created_at=ago(hours=number))
            silence = {"id": f"s{number}", "matchers": (f'project="{project}"', f"scenario={scenario}"), "created_by": "ann",
                       "starts_at": ago(hours=number), "ends_at": ago(hours=number - 0.5), "comment": ""}  # fmt: skip
            connection.execute(schema.silences.insert(), silence)


BY_MATCHER = [
    ("matcher=project=SALES", "AB"), ("matcher=project%3D~S.*", "AB"), ("matcher=project!=SALES", "A"),
    ("matcher=scenario=A&matcher=project=CRM", "A"), ("matcher=scenario=A&scenario=B", ""),
    ("matcher=project%3D~%22%22", ""), ("matcher=nothing=%22%22", "ABA"), ("matcher=nothing!=%22%22", ""),
    ("limit=1&matcher=project=SALES", "AB"), ("since=&until=&matcher=", "ABA"),
]  # fmt: skip
BY_TIME = [
    ("since=30m", "A"), ("until=30m", "BA"), ("since=90m&until=30m", "B"), ("since=2026-03-01T11:30:00Z", "A"),
    ("since=2026-03-01T12:30:00%2B01:00", "A"), ("since=2026-03-02", ""), ("until=2026-03-01", ""),
]  # fmt: skip
LISTS = ["scenarios", "runs", "alerts", "deliveries", "events", "events?order=desc"]


@pytest.mark.parametrize(
    ("name", "query", "expected"),
    [(name, *case) for name in [*LISTS, "silences"] for case in BY_MATCHER]
    + [(name, *case) for name in LISTS for case in BY_TIME],
)
async def test_lists_are_narrowed_by_matchers_and_times(
    client: ClientSession, daemon: Daemon, name: str, query: str, expected: str
) -> None:
    await daemon.store.write(everything)
    name, _, order = name.partition("?")
    if name == "alerts":
        query += "&matcher=project!=%22%22"
    items = await walk(client, f"/api/v1/{name}?{query}&{order}")
    if name == "events":
        assert [one["seq"] for one in items] == sorted((one["seq"] for one in items), reverse=bool(order))
        found = [one["data"]["scenario"]["id"] for one in items]
    elif name == "deliveries":
        found = [one["id"].translate({ord(a): b for a, b in zip("012", "ABA", strict=True)})[1:] for one in items]
    elif name == "silences":
        found = [one["matchers"][1][-2] for one in items]
    else:
        found = [one["labels"]["scenario"] if name == "alerts" else one["scenario"] for one in items]
    assert sorted(found) == sorted(expected)


async def test_labels_that_the_configuration_adds_filter_too(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(everything)
    node = replace(daemon.config.nodes[0], labels={"env": "live"})
    daemon.config = replace(daemon.config, nodes=(node,), tag_labels=("team",))
    assert len((await get(client, "/api/v1/events?env=live"))["items"]) == 3
    for name in ("scenarios", "runs"):
        assert len((await get(client, f"/api/v1/{name}?team=red"))["items"]) == 1
        assert len((await get(client, f"/api/v1/{name}?env=live&matcher=team!=red"))["items"]) == 2
    assert [one["node"] for one in (await get(client, "/api/v1/nodes?env=live"))["items"]] == ["prod"]
    assert [one["node"] for one in (await get(client, "/api/v1/nodes?since=2d"))["items"]] == ["prod"]


async def test_silences_are_those_that_hold_within_a_time(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(everything)
    items = (await get(client, "/api/v1/silences?since=80m&until=50m"))["items"]
    assert [one["id"] for one in items] == ["s1"]


@pytest.mark.parametrize("name", ["nodes", "scenarios", "runs", "events", "alerts", "silences", "deliveries"])
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("matcher=project", "'project' is not a matcher"), ("matcher=a%3D~(", "cannot be read"), ("since=yesterday", "is not a time"),
        ("until=2026-13-01", "is not a time"), ("limit=0", "from 1 to 1000"), ("limit=1001", "from 1 to 1000"), ("limit=x", "limit"),
        ("since=99999999y", "is not a time"), ("after=%20", "after"),
    ],
)  # fmt: skip
async def test_a_query_that_cannot_be_read_is_told(
    client: ClientSession, daemon: Daemon, name: str, query: str, words: str
) -> None:
    async with client.get(f"/api/v1/{name}?{query}") as answer:
        body = await answer.json()
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
        assert words in body["detail"]


async def test_a_misspelt_filter_is_told_with_what_was_meant(client: ClientSession) -> None:
    async with client.get("/api/v1/runs?projct=SALES") as answer:
        assert (answer.status, "did you mean 'project'?" in (await answer.json())["detail"]) == (400, True)


async def test_alerts_say_what_suppresses_them_and_who_has_them(client: ClientSession, daemon: Daemon) -> None:
    keys = [ScenarioKey("prod", "SALES", name) for name in "ABCDEF"]
    alerts = [an_alert(key=key) for key in keys]
    down = an_alert("NodeDown", key=ScenarioKey("prod", "", ""), severity="critical")

    def fill(connection: Connection) -> None:
        for alert in (*alerts, down):
            put_alert(connection, alert)
        row = {"starts_at": ago(hours=1), "ends_at": ago(hours=-1), "created_by": "ann", "comment": ""}
        for number in range(2):
            connection.execute(schema.silences.insert(), row | {"id": f"s{number}", "matchers": ('scenario="A"',)})
        set_acknowledged(connection, alerts[3].id, Acknowledgement("bob", ago(minutes=5), ago(hours=-1), "mine"))
        set_acknowledged(connection, alerts[4].id, Acknowledgement("bob", ago(minutes=5), ago(minutes=1)))
        end_alert(connection, alerts[5].id, NOW, EndReason.BY_HAND, NOW)

    await daemon.store.write(fill)
    nobody = {"silences": [], "inhibited_by": [], "muted_by": []}
    inhibit = InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers("scenario=B"), ("dss_node",))
    always = TimeInterval("always", (TimeRange(),))
    route = Route("ops", routes=(Route("ops", matchers=parse_matchers("scenario=C"), mute_time_intervals=("always",)),))
    daemon.config = replace(daemon.config, inhibit_rules=(inhibit,), time_intervals=(always,), route=route)
    found = {one["labels"]["scenario"]: one for one in (await get(client, "/api/v1/alerts"))["items"]}
    assert found["A"]["suppressed_by"] == nobody | {"silences": ["s0", "s1"]}
    assert found["B"]["suppressed_by"] == nobody | {"inhibited_by": [down.id]}
    assert found["C"]["suppressed_by"] == nobody | {"muted_by": ["always"]}
    assert found[""]["suppressed_by"] == found["D"]["suppressed_by"] == found["F"]["suppressed_by"] == nobody
    assert found["D"]["acknowledged"] == {
        "by": "bob", "at": "2026-03-01T11:55:00.000Z", "until": "2026-03-01T13:00:00.000Z", "comment": "mine"
    }  # fmt: skip
    assert found["E"]["acknowledged"] is None, "its time is over"
    assert (found["F"]["state"], found["F"]["end_reason"], found["A"]["end_reason"]) == ("resolved", "by_hand", None)
    status = await get(client, "/api/v1/status")
    assert status["alerts"] == {"active": 2, "suppressed": 3, "acknowledged": 1}
    assert status["silences"] == {"pending": 0, "active": 2, "expired": 0}


async def test_status_tells_blindness_from_silence(client: ClientSession, daemon: Daemon) -> None:
    def fill(connection: Connection) -> None:
        for name, active in (("A", True), ("B", False), ("C", None)):
            put_scenario(connection, ScenarioKey("prod", "SALES", name), active=active)
        put_scenario(connection, ScenarioKey("prod", "SALES", "gone"), gone_at=NOW)
        put_run(connection, a_run(seconds=None))
        put_notification(connection, "d1", EventNotice(an_event(a_run()), "nightly"))

    await daemon.store.write(fill)
    status = await get(client, "/api/v1/status")
    assert status["scenarios"] == {"watched": 3, "active": 1, "running": 1}
    assert status["deliveries"] == {"pending": 1, "dead": 0}
