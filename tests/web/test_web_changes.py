"""Changing things over the API, and asking why."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession
from sqlalchemy import Connection

from tests.web.harness import Daemon, Serve
from tests.web.rows import NOW, a_run, an_alert, an_event, put_alert, put_notification
from tocsin.config.problems import ReloadResult
from tocsin.config.tokens import Role, make_token
from tocsin.model.notification import EventNotice, NotificationState
from tocsin.model.run import ScenarioKey


async def send(client: ClientSession, method: str, path: str, status: int, **more: Any) -> Any:
    async with client.request(method, path, **more) as answer:
        body = await answer.json(content_type=None)
        assert answer.status == status, body
        assert answer.content_type == ("application/json" if status < 400 else "application/problem+json")
        return body


async def test_a_silence_is_made_listed_and_ended(client: ClientSession) -> None:
    wanted = {"matchers": ['project="SALES"', "scenario=~NIGHTLY.*"], "duration": "2h", "comment": "moving house"}
    made = await send(client, "POST", "/api/v1/silences", 201, json=wanted)
    assert made == {
        "id": made["id"], "state": "active", "matchers": ['project="SALES"', 'scenario=~"NIGHTLY.*"'],
        "starts_at": "2026-03-01T12:00:00.000Z", "ends_at": "2026-03-01T14:00:00.000Z",
        "created_by": "loopback", "comment": "moving house", "covers": 0, "warnings": [],
    }  # fmt: skip
    assert (made.pop("covers"), made.pop("warnings")) == (0, [])
    assert (await send(client, "GET", "/api/v1/silences?state=active", 200))["items"] == [made]
    ended = await send(client, "DELETE", f"/api/v1/silences/{made['id']}", 200)
    assert (ended["state"], ended["ends_at"]) == ("expired", "2026-03-01T12:00:00.000Z")
    assert (await send(client, "GET", "/api/v1/silences?state=active", 200))["items"] == []


async def test_an_author_is_who_the_token_says(daemon: Daemon, serve: Serve, tmp_path: Any) -> None:
    token, line = make_token("ann", Role.OPERATOR)
    (tmp_path / "tokens").write_text(line)
    daemon.http(tokens_file=str(tmp_path / "tokens"))
    wanted = {"matchers": ["project=SALES"], "duration": "1h", "created_by": "someone else"}
    headers = {"Authorization": f"Bearer {token}"}
    made = await send(await serve(), "POST", "/api/v1/silences", 201, json=wanted, headers=headers)
    assert made["created_by"] == "ann"


@pytest.mark.parametrize(
    "changes",
    [
        {"matchers": []}, {"matchers": ["nonsense"]}, {"matchers": ["a=~("]}, {"matchers": ["a=~.*"]},
        {"matchers": [r"a=~(?:\\pL{1000})"]}, {"matchers": ["a=~" + r"\pL" * 60]}, {"matchers": ['"a"="\\ud800"']},
        {"duration": "soon"}, {"duration": "99999999999999y"}, {"duration": "0"}, {"ends_at": "2026-03-01T13:00:00Z"},
        {"duration": None}, {"duration": None, "ends_at": "2026-03-01T13:00:00"},
        {"duration": None, "ends_at": "2025-03-01T13:00:00Z"}, {"surprise": 1}, {"matchers": ["a=b"] * 51},
        {"starts_at": "9999-12-31T23:00:00Z", "duration": "2h"},
    ],
)  # fmt: skip
async def test_a_silence_that_makes_no_sense_is_refused(client: ClientSession, changes: dict[str, object]) -> None:
    wanted = {"matchers": ["project=SALES"], "duration": "1h"} | changes
    assert (await send(client, "POST", "/api/v1/silences", 400, json=wanted))["detail"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400), (b"[" * 100_000, "application/json", 400), (b"\xff", "application/json", 400),
        (b"matchers=a", "application/x-www-form-urlencoded", 415), (b"{}", "text/plain", 415),
        (b" " * 300_000, "application/json", 413),
    ],
)  # fmt: skip
async def test_a_body_that_is_not_json_or_too_large_is_refused(
    client: ClientSession, body: bytes, kind: str, status: int
) -> None:
    await send(client, "POST", "/api/v1/silences", status, data=body, headers={"Content-Type": kind})


async def test_what_is_not_there_cannot_be_ended_resolved_sent_again_or_explained(client: ClientSession) -> None:
    await send(client, "DELETE", "/api/v1/silences/x", 404)
    await send(client, "POST", "/api/v1/alerts/x/resolve", 404)
    await send(client, "POST", "/api/v1/alerts/x/ack", 404)
    await send(client, "POST", "/api/v1/alerts/x/unack", 404)
    await send(client, "POST", "/api/v1/deliveries/x/retry", 404)
    await send(client, "GET", "/api/v1/explain/prod/SALES/NIGHTLY/x", 404)


async def test_alerts_are_resolved_and_deliveries_sent_again_by_who_asks(client: ClientSession, daemon: Daemon) -> None:
    daemon.known = {"a1", "d1"}
    assert await send(client, "POST", "/api/v1/alerts/a1/resolve", 200) == {"id": "a1", "resolved": True}
    assert await send(client, "POST", "/api/v1/deliveries/d1/retry", 200) == {"id": "d1", "state": "pending"}
    assert (daemon.resolved, daemon.retried) == ([("a1", "loopback")], ["d1"])


async def test_an_alert_is_acknowledged_until_a_time_and_no_longer(client: ClientSession, daemon: Daemon) -> None:
    daemon.known = {"a1"}
    answer = await send(
        client, "POST", "/api/v1/alerts/a1/ack", 200, json={"by": "ann", "duration": "2h", "comment": "on it"}
    )
    assert answer["acknowledged"] == {
        "by": "ann", "at": "2026-03-01T12:00:00.000Z", "until": "2026-03-01T14:00:00.000Z", "comment": "on it",
    }  # fmt: skip
    assert (await send(client, "POST", "/api/v1/alerts/a1/ack", 200))["acknowledged"]["until"] is None
    assert await send(client, "POST", "/api/v1/alerts/a1/unack", 200) == {"id": "a1", "acknowledged": None}
    assert [by and by.by for _, by in daemon.acknowledged] == ["ann", "loopback", None]


@pytest.mark.parametrize("body", [
    {"duration": "soon"}, {"duration": "0"}, {"until": "2025-01-01T00:00:00Z"}, {"until": "2027-01-01"},
    {"duration": "1h", "until": "2027-01-01T00:00:00Z"}, {"who": "ann"}, {"comment": "\ud800"},
])  # fmt: skip
async def test_an_acknowledgement_that_makes_no_sense_is_refused(
    client: ClientSession, daemon: Daemon, body: dict[str, object]
) -> None:
    await send(client, "POST", "/api/v1/alerts/a1/ack", 400, json=body)
    assert daemon.acknowledged == []


async def test_a_reload_says_what_became_of_it(client: ClientSession, daemon: Daemon) -> None:
    daemon.reload_result = ReloadResult(NOW, needs_restart=("store.url",))
    assert await send(client, "POST", "/-/reload", 200) == {
        "at": "2026-03-01T12:00:00.000Z", "needs_restart": ["store.url"],
    }  # fmt: skip
    daemon.reload_result = ReloadResult(NOW, ("tocsin.yaml:3: unknown key",))
    refused = await send(client, "POST", "/-/reload", 422)
    assert refused["errors"] == ["tocsin.yaml:3: unknown key"]


class Hidden:
    """A secret that must not be shown."""

    def reveal(self) -> str:
        return "hunter2"

    async def read(self) -> str:
        return self.reveal()


async def test_the_configuration_is_shown_without_its_secrets(client: ClientSession, daemon: Daemon) -> None:
    from dataclasses import replace

    from tocsin.config.model import Channel, Node, Receiver, StoreConfig

    daemon.config = replace(
        daemon.config,
        nodes=(
            Node("prod", "https://user:hunter2@dss", api_key=Hidden(), headers={"X-Gateway": "hunter2"},
                 proxy="http://me:hunter2@proxy:3128"),
        ),
        store=StoreConfig("postgresql://tocsin:hunter2@db/tocsin"),
        receivers=(Receiver("ops", (Channel("slack", "ops", url=Hidden(), headers={"X": Hidden()}),)),),
    )  # fmt: skip
    shown = await send(client, "GET", "/api/v1/config", 200)
    assert "hunter2" not in json.dumps(shown)
    assert shown["nodes"][0]["url"] == "https://***@dss"
    assert shown["nodes"][0]["watch"]["sweep_interval"] == "2s"
    assert shown["receivers"][0]["channels"][0]["url"] == "***"


async def test_a_silence_says_what_it_covers_and_warns_of_a_misspelt_label(
    client: ClientSession, daemon: Daemon
) -> None:
    def fill(connection: Connection) -> None:
        put_alert(connection, an_alert())
        put_alert(connection, an_alert(key=ScenarioKey("prod", "SALES", "B")))
        put_alert(connection, an_alert(key=ScenarioKey("prod", "CRM", "A")))

    await daemon.store.write(fill)
    body = {"matchers": ["project=SALES"], "duration": "1h"}
    created = await send(client, "POST", "/api/v1/silences", 201, json=body)
    assert (created["covers"], created["warnings"], len(UUID(created["id"]).hex)) == (2, [], 32)
    created = await send(client, "POST", "/api/v1/silences", 201, json=body | {"matchers": ["projct=SALES"]})
    assert created["covers"] == 0
    assert created["warnings"] == ["no alert has the label 'projct'; did you mean 'project'?"]


async def test_an_id_may_be_cut_where_it_is_still_unique(client: ClientSession, daemon: Daemon) -> None:
    silences = [
        await send(client, "POST", "/api/v1/silences", 201, json={"matchers": ["project=A"], "duration": "1h"})
        for _ in range(20)
    ]
    wanted = silences[3]["id"]
    assert (await send(client, "GET", f"/api/v1/silences/{wanted[:20]}", 200))["id"] == wanted
    assert (await send(client, "DELETE", f"/api/v1/silences/{wanted[:20]}", 200))["state"] == "expired"
    (often, _), *_ = Counter(silence["id"][0] for silence in silences).most_common(1)
    assert "several" in (await send(client, "GET", f"/api/v1/silences/{often}", 404))["detail"]
    await send(client, "GET", "/api/v1/silences/%25", 404)
    alert = an_alert()
    await daemon.store.write(put_alert, alert)
    daemon.known = {alert.id}
    assert (await send(client, "POST", f"/api/v1/alerts/{alert.id[:8]}/resolve", 200))["id"] == alert.id
    assert (await send(client, "GET", f"/api/v1/alerts/{alert.id[:8]}", 200))["id"] == alert.id


async def test_dead_letters_that_match_are_sent_again(client: ClientSession, daemon: Daemon) -> None:
    def fill(connection: Connection) -> None:
        for number in range(6):
            event = an_event(a_run(ScenarioKey("prod", "SALES" if number % 2 else "CRM", "A")))
            state = NotificationState.DELIVERED if number == 5 else NotificationState.DEAD
            put_notification(connection, f"d{number}", EventNotice(event, "nightly"), state=state)

    await daemon.store.write(fill)

    async def again(query: str = "", **body: object) -> list[str]:
        daemon.retried.clear()
        await send(client, "POST", f"/api/v1/deliveries/retry{query}", 200, json=body)
        return sorted(daemon.retried)

    assert await again("?project=SALES") == ["d1", "d3"]
    assert await again(project="CRM", state="dead") == ["d0", "d2", "d4"]
    assert await again("?matcher=project!=CRM&channel=ops-slack") == ["d1", "d3"]
    assert await again("?channel=other") == []
    assert await again("?limit=1") == ["d4"]
    assert await again() == ["d0", "d1", "d2", "d3", "d4"]
    for query, body in (("?chanel=x", {}), ("?state=pending", {}), ("", {"channel": 1}), ("?matcher=x", {}), ("", [])):
        await send(client, "POST", f"/api/v1/deliveries/retry{query}", 400, json=body)


@pytest.mark.parametrize("address", [
    "postgresql://tocsin:pa/ss-word@db.example.com/tocsin",
    "postgresql://tocsin:pa@ss-word@db.example.com/tocsin",
    "postgresql://tocsin@db.example.com/tocsin?password=pa/ss-word&sslmode=require",
    "postgresql://db.example.com/tocsin?sslpassword=ss-word",
])  # fmt: skip
async def test_no_password_of_the_store_is_shown(client: ClientSession, daemon: Daemon, address: str) -> None:
    daemon.config = replace(daemon.config, store=replace(daemon.config.store, url=address))
    assert "ss-word" not in str(await send(client, "GET", "/api/v1/config", 200))
