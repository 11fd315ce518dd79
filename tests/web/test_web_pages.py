"""The page for people: complete, escaped, without anything inline."""

import re

from aiohttp import ClientSession
from sqlalchemy import Connection

from tests.web.harness import Daemon
from tests.web.rows import (
    KEY,
    a_run,
    ago,
    an_alert,
    an_event,
    put_alert,
    put_error,
    put_node,
    put_notification,
    put_run,
    put_scenario,
)
from tocsin.model.notification import EventNotice
from tocsin.model.run import ScenarioKey


async def page(client: ClientSession, address: str = "/") -> str:
    async with client.get(address) as answer:
        text = await answer.text()
        assert (answer.status, answer.content_type) == (200, "text/html"), text
        return text


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


async def test_an_empty_daemon_has_a_page(client: ClientSession) -> None:
    text = words(await page(client))
    for sentence in ("No alert is firing.", "Nothing runs.", "No failure is known.", "No node has been seen yet."):
        assert sentence in text


async def test_the_page_tells_what_is_up_what_runs_what_rings_and_what_failed(
    client: ClientSession, daemon: Daemon
) -> None:
    failed = a_run(minutes_ago=5, outcome="FAILED")

    def fill(connection: Connection) -> None:
        put_node(connection, up=False, down_reason="unreachable", down_since=ago(minutes=3), problem="no route")
        put_scenario(connection)
        for minutes in (120, 90, 60):
            put_run(connection, a_run(minutes_ago=minutes, seconds=600))
        put_run(connection, failed)
        put_error(connection, failed, "disk full", step="build orders")
        put_run(connection, a_run(minutes_ago=2.5, seconds=None))
        put_alert(connection, an_alert())
        put_notification(connection, "d1", EventNotice(an_event(failed), "nightly"))

    await daemon.store.write(fill)
    text = words(await page(client))
    for sentence in (
        "0/1 nodes up", "1 firing", "1 running", "unreachable", "no route", "ScenarioFailed rings", "25 % of 10m",
        "build orders: disk full", "run.failed prod/SALES/NIGHTLY", "prod / SALES / NIGHTLY",
    ):  # fmt: skip
        assert sentence in text


async def test_hostile_names_stay_text(client: ClientSession, daemon: Daemon) -> None:
    evil = '"><script>alert(1)</script>'
    key = ScenarioKey("prod", "SALES", evil)
    run = a_run(key, outcome="FAILED", run_id="../../" + evil)

    def fill(connection: Connection) -> None:
        put_node(connection, dss_version=evil)
        put_run(connection, run)
        put_run(connection, a_run(key, seconds=None))
        put_error(connection, run, evil, step=evil)
        put_alert(connection, an_alert(key=key, annotations={"summary": evil}))
        put_notification(connection, "d1", EventNotice(an_event(run), "nightly"))

    await daemon.store.write(fill)
    text = await page(client)
    assert evil not in text
    assert "<script>" not in text


async def test_nothing_is_inline_so_that_the_policy_can_forbid_it(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(put_node)
    text = await page(client)
    assert not re.search(r"<style|style=|<script>| on[a-z]+=", text)
    async with client.get("/") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_style_and_script_are_served_and_nothing_else_is(client: ClientSession) -> None:
    for name, status in (("tocsin.css", 200), ("tocsin.js", 200), ("base.html", 404), ("..%2f__init__.py", 404)):
        async with client.get(f"/static/{name}") as answer:
            assert (name, answer.status) == (name, status)


async def test_a_daemon_that_is_not_ready_says_so_on_its_page(client: ClientSession, daemon: Daemon) -> None:
    daemon.not_ready = f"not yet, says {KEY.node}"
    assert "Not ready: not yet, says prod" in words(await page(client))
