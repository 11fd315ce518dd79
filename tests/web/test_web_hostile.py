"""Queries, paths and cursors that no row can answer: each is a 400 on both databases, never a 500."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from yarl import URL

from tests.conftest import empty_postgres
from tests.web.harness import Daemon
from tests.web.rows import (
    KEY,
    a_run,
    an_alert,
    an_event,
    put_alert,
    put_events,
    put_node,
    put_notification,
    put_run,
    put_scenario,
)
from tocsin.model.notification import EventNotice
from tocsin.store import Store
from tocsin.web import reads

LISTS = {
    "nodes": ("dss_node",), "scenarios": reads.SCENARIO_FILTERS, "runs": reads.RUN_FILTERS,
    "alerts": ("state", "alertname", "severity", "any_label"), "deliveries": reads.DELIVERY_FILTERS,
    "silences": ("state",), "events": reads.EVENT_FILTERS,
}  # fmt: skip
NUL, HUGE = "a%00b", "9" * 40


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'tocsin.db'}"
    else:
        url = empty_postgres(request.getfixturevalue("postgres_url"))
    store = Store(url)
    await store.open()
    await store.write(fill)
    yield store
    await store.close()


def fill(connection) -> None:  # type: ignore[no-untyped-def]
    put_node(connection)
    put_scenario(connection)
    put_run(connection, a_run())
    put_events(connection, an_event(a_run()))
    put_alert(connection, an_alert())
    put_notification(connection, "d1", EventNotice(an_event(a_run()), "nightly"))


def cursor(value: object) -> str:
    return packed(json.dumps(value))


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def cursors() -> Iterator[str]:
    texts = (KEY.node, KEY.project, KEY.scenario, "run")
    for wrong in (2**63, -(2**63) - 1, 10**400):
        yield cursor([wrong])
        yield cursor([wrong, "id"])
        yield cursor([wrong, *texts])
    for wrong_text in ("a\0b", "\ud800", "x\udfff"):
        yield cursor([wrong_text])
        yield cursor([1, wrong_text])
        yield cursor([wrong_text, "p", "s"])
        yield cursor([1, *texts[:3], wrong_text])
    yield packed("[" * 4_000)
    yield packed("[" * 2_000 + "]" * 2_000)
    yield packed('{"a":' * 900)
    yield packed("1" * 4_500)
    yield from ("", "%00", "%ff%fe", "é", "=", "NaN", packed("NaN"), packed("[Infinity]"), "1e400", "0x10", "-1", HUGE)


async def status(client: ClientSession, address: str) -> int:
    async with client.get(URL(address, encoded=True)) as answer:
        if answer.status != 200:
            assert answer.content_type == "application/problem+json"
        return answer.status


async def test_a_nul_or_a_huge_number_in_any_parameter_is_refused(client: ClientSession) -> None:
    for name, parameters in LISTS.items():
        for parameter in (*parameters, "limit", "after"):
            assert await status(client, f"/api/v1/{name}?{parameter}={NUL}") == 400, (name, parameter)
            assert await status(client, f"/api/v1/{name}?{parameter}=x&{parameter}=%00") == 400, (name, parameter)
            assert await status(client, f"/api/v1/{name}?{parameter}={HUGE}") in (200, 400), (name, parameter)
            assert await status(client, f"/api/v1/{name}?{parameter}=%ED%A0%80") in (200, 400), (name, parameter)
        assert await status(client, f"/api/v1/{name}?{NUL}=x") == 400
        assert await status(client, f"/api/v1/{name}?limit={HUGE}") == 400


async def test_a_crafted_cursor_is_refused_by_every_list(client: ClientSession) -> None:
    for name in LISTS:
        for crafted in cursors():
            answer = await status(client, f"/api/v1/{name}?after={quote(crafted, safe='%')}")
            assert answer == (400 if crafted and crafted != "%ff%fe" else answer), (name, crafted[:40])
            assert answer in (200, 400), (name, crafted[:40])


async def test_a_cursor_of_one_list_is_refused_or_harmless_in_another(client: ClientSession) -> None:
    for foreign in (cursor([1]), cursor(["a"]), cursor([1, "a"]), cursor(["a", "b", "c"]), cursor([1, *"abcd"]), "7"):
        for name in LISTS:
            assert await status(client, f"/api/v1/{name}?after={foreign}") in (200, 400), name


@pytest.mark.parametrize("part", ["a%00b", "%00", HUGE, "%ED%A0%80", "%F0%9F%98%80", "a" * 3_000])
async def test_an_odd_path_is_refused_or_not_found(client: ClientSession, part: str) -> None:
    wanted = {400} if "%00" in part else {400, 404}
    for address in (f"explain/{part}/p/s/r", f"explain/n/{part}/s/r", f"explain/n/p/{part}/r", f"explain/n/p/s/{part}"):
        assert await status(client, f"/api/v1/{address}") in wanted, address
    assert await status(client, f"/runs/n/p/s/{part}") in wanted


async def test_a_change_of_what_no_row_can_be_is_refused(client: ClientSession, daemon: Daemon) -> None:
    for method, path in (
        ("DELETE", "/api/v1/silences/a%00b"), ("POST", "/api/v1/alerts/a%00b/resolve"),
        ("POST", "/api/v1/deliveries/a%00b/retry"),
    ):  # fmt: skip
        async with client.request(method, URL(path, encoded=True)) as answer:
            assert answer.status == 400, path
    for field in ("comment", "created_by"):
        body = {"matchers": ['project="X"'], "duration": "1h", "created_by": "ann", field: "a\0b"}
        async with client.post("/api/v1/silences", json=body) as answer:
            assert answer.status == 400, field
    raw = '{"matchers": ["project=\\"X\\""], "duration": "1h", "created_by": "ann", "comment": "\\ud800"}'
    async with client.post("/api/v1/silences", data=raw, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 400
