"""Alerts in an existing Alertmanager: Debian's, and servers that refuse, hang or are away."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from tests.deliver.builders import HandClock, Inbox, alert, config
from tests.fakedss import eventually, free_port
from tocsin.config.model import AlertingConfig, AlertmanagerConfig, Config
from tocsin.deliver.alertmanagers import AlertmanagerMetrics, AlertmanagerSender
from tocsin.kit.clock import SystemClock
from tocsin.model.alert import Alert, EndReason
from tocsin.store import Store, alerts
from tocsin.store.alerts import AlertEnd, AlertRow

DELAY = timedelta(minutes=1)


def settings(*urls: str, delay: timedelta = DELAY) -> Config:
    peers = tuple(AlertmanagerConfig(url) for url in urls)
    return replace(config(), alerting=AlertingConfig(peers, delay))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def sender(store: Store, clock: HandClock, registry: CollectorRegistry) -> AsyncIterator[AlertmanagerSender]:
    sender = AlertmanagerSender(store, clock, AlertmanagerMetrics(registry))
    yield sender
    await sender.close()


async def put(store: Store, now: datetime, *items: Alert) -> None:
    rows = [AlertRow(replace(item, starts_at=now - timedelta(minutes=1)), "rule") for item in items]
    await store.write(alerts.put_alerts, rows, now)


async def end(store: Store, now: datetime, *items: Alert) -> None:
    await store.write(alerts.end_alerts, [AlertEnd(item.id, now, EndReason.RESOLVED) for item in items], now)


def posted(inbox: Inbox) -> list[list[str]]:
    """The scenarios in each request."""
    return [[item["labels"]["scenario"] for item in json.loads(request.body)] for request in inbox.received]


async def test_an_alert_is_sent_at_once_again_each_delay_and_its_end_for_fifteen_minutes(
    store: Store, sender: AlertmanagerSender, inbox: Inbox, clock: HandClock
) -> None:
    base = inbox.url.removesuffix("/hook")

    async def step() -> list[list[str]]:
        before = len(inbox.received)
        await sender.step(clock.now(), settings(base))
        await sender.idle()
        return posted(inbox)[before:]

    await put(store, clock.now(), alert(1))
    assert await step() == [["S1"]]
    first = json.loads(inbox.received[0].body)[0]
    assert inbox.received[0].path == "/api/v2/alerts"
    assert first["endsAt"] == "2026-03-01T12:04:00.000Z"
    assert first["startsAt"] == "2026-03-01T11:59:00.000Z"
    clock.forward(seconds=30)
    await put(store, clock.now(), alert(2))
    assert await step() == [["S2"]]
    clock.forward(seconds=30)
    assert await step() == [["S1"]]
    clock.forward(seconds=10)
    await end(store, clock.now(), alert(1))
    assert await step() == [["S1"]]
    assert json.loads(inbox.received[-1].body)[0]["endsAt"] == "2026-03-01T12:01:10.000Z"
    ended = 0
    for _ in range(20):
        clock.forward(minutes=1)
        ended += sum("S1" in batch for batch in await step())
    assert ended == 15


async def test_a_request_has_64_alerts_at_most(
    store: Store, sender: AlertmanagerSender, inbox: Inbox, clock: HandClock
) -> None:
    await put(store, clock.now(), *(alert(n) for n in range(150)))
    await sender.step(clock.now(), settings(inbox.url.removesuffix("/hook")))
    await sender.idle()
    assert [len(batch) for batch in posted(inbox)] == [64, 64, 22]


async def test_one_bad_label_costs_no_other_alert(
    store: Store, sender: AlertmanagerSender, inbox: Inbox, clock: HandClock, registry: CollectorRegistry
) -> None:
    accepted: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        names = [item["labels"]["scenario"] for item in await request.json()]
        if "S7" in names:
            return web.json_response("bad label", status=400)
        accepted.extend(names)
        return web.Response()

    inbox.answer = answer
    base = inbox.url.removesuffix("/hook")
    await put(store, clock.now(), *(alert(n) for n in range(20)))
    await sender.step(clock.now(), settings(base))
    await sender.idle()
    assert sorted(accepted) == sorted(f"S{n}" for n in range(20) if n != 7)
    assert registry.get_sample_value("tocsin_alertmanager_errors_total", {"alertmanager": base}) == 1


async def test_an_alert_that_is_always_refused_is_logged_once_and_the_alertmanager_works(
    store: Store,
    sender: AlertmanagerSender,
    inbox: Inbox,
    clock: HandClock,
    registry: CollectorRegistry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def answer(request: web.Request) -> web.Response:
        bad = "S7" in [item["labels"]["scenario"] for item in await request.json()]
        return web.json_response("bad label", status=400) if bad else web.Response()

    inbox.answer = answer
    base = inbox.url.removesuffix("/hook")
    await put(store, clock.now(), *(alert(n) for n in range(20)))
    for _ in range(3):
        await sender.step(clock.now(), settings(base))
        await sender.idle()
        clock.forward(minutes=1)
    out = capsys.readouterr().out
    assert (out.count("alertmanager_refused_alert"), out.count("alertmanager_failing")) == (1, 0)
    assert registry.get_sample_value("tocsin_alertmanager_up", {"alertmanager": base}) == 1


async def test_a_refused_login_is_asked_once_a_step(
    store: Store, sender: AlertmanagerSender, inbox: Inbox, clock: HandClock
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=401)

    inbox.answer = answer
    await put(store, clock.now(), *(alert(n) for n in range(150)))
    await sender.step(clock.now(), settings(inbox.url.removesuffix("/hook")))
    await sender.idle()
    assert len(inbox.received) == 1


async def test_one_that_hangs_or_is_away_holds_up_no_other_and_hears_all_when_it_is_back(
    store: Store, sender: AlertmanagerSender, inbox: Inbox, clock: HandClock, registry: CollectorRegistry
) -> None:
    release = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    other = Inbox(answer=hang)
    runner = await other.start()
    away = f"http://127.0.0.1:{free_port()}"
    urls = settings(inbox.url.removesuffix("/hook"), other.url.removesuffix("/hook"), away)
    await put(store, clock.now(), alert(1))
    for _ in range(3):
        await sender.step(clock.now(), urls)
        await eventually(lambda: inbox.received and other.received)
        clock.forward(seconds=61)
    assert len(other.received) == 1
    await eventually(lambda: sender.peers[away].error)
    assert registry.get_sample_value("tocsin_alertmanager_up", {"alertmanager": away}) == 0
    release.set()
    await eventually(lambda: sender.peers[other.url.removesuffix("/hook")].sent)
    await sender.step(clock.now(), urls)
    await sender.idle()
    assert len(other.received) == 2
    await runner.cleanup()


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("prometheus-alertmanager is not installed")
    (tmp_path / "am.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    url = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [program, f"--config.file={tmp_path}/am.yml", f"--storage.path={tmp_path}", f"--web.listen-address={url}",
         "--cluster.listen-address=", "--log.level=error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"http://{url}"
    process.kill()
    process.wait()


@pytest.mark.e2e
async def test_a_real_alertmanager_shows_the_alert_until_it_ends(store: Store, alertmanager: str) -> None:
    clock = SystemClock()
    sender = AlertmanagerSender(store, clock, AlertmanagerMetrics(CollectorRegistry()))
    one = alert(1, tags="", scenario_name="Nächtlich \U0001f525")

    async def shown() -> list[str]:
        process = await asyncio.create_subprocess_exec(
            "amtool", f"--alertmanager.url={alertmanager}", "alert", "query", "-o", "json",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        return [item["labels"]["scenario_name"] for item in json.loads(out)]

    async def sent() -> list[str]:
        await sender.step(clock.now(), settings(alertmanager, delay=timedelta(seconds=2)))
        await sender.idle()
        return await shown()

    async def answers() -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{alertmanager}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(answers)
    await put(store, datetime.now(UTC), one)
    assert await sent() == ["Nächtlich \U0001f525"]
    await asyncio.sleep(3)
    assert await sent() == ["Nächtlich \U0001f525"]
    await end(store, datetime.now(UTC), one)
    assert await sent() == []
    await sender.close()
