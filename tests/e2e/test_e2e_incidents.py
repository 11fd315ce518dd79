"""A life of an incident through the real daemon: fire, repeat, kill -9, acknowledge, resolve."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web

from tests.fakedss import DaemonProcess, config_for, eventually
from tocsin.sim.services import EmulatedOpsgenie, EmulatedPagerDuty, EmulatedSlack, service_routes

KEY = "k" * 32


@pytest.fixture
async def services() -> AsyncIterator[tuple[EmulatedPagerDuty, EmulatedOpsgenie, EmulatedSlack, str]]:
    def now() -> datetime:
        return datetime.now(UTC)

    found = EmulatedPagerDuty(now, KEY), EmulatedOpsgenie(now, "genie"), EmulatedSlack(now, "xoxb")
    app = web.Application()
    app.add_routes(service_routes(*found))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield *found, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_an_incident_has_one_key_from_its_first_failure_to_its_end(tmp_path, dss, sink, services):
    pagerduty, opsgenie, slack, url = services
    channels = [
        {"name": "pd", "pagerduty": {"routing_key": KEY, "url": f"{url}/pagerduty/v2/enqueue"}},
        {"name": "genie", "opsgenie": {"api_key": "genie", "url": f"{url}/opsgenie"}},
        {"name": "chat", "slack": {"token": "xoxb", "channel": "C0ALERTS", "api_url": f"{url}/slack/api"}},
    ]
    config = config_for(
        tmp_path, {"prod": dss}, sink, reporters=[],
        rules=[{"alert": "ScenarioFailed", "kind": "failed"}],
        receivers=[{"name": "ops", "channels": channels}],
        route={"receiver": "ops", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "3s"},
    )  # fmt: skip

    def actions() -> list[str]:
        return [action for incident in pagerduty.incidents for action in incident.actions]

    def roots() -> list[str]:
        return [item.text for item in slack.messages.get("C0ALERTS", ()) if item.thread_ts is None]

    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        await asyncio.sleep(1.5)
        dss.end_run("P000", "S000", "FAILED")
        await eventually(lambda: actions() and opsgenie.alerts and roots())
        await eventually(lambda: actions().count("trigger") >= 2)  # it repeats
        await daemon.kill9()
        await daemon.start()
        await daemon.ready()
        before = len(actions())
        await eventually(lambda: len(actions()) > before)
        (alert,) = await daemon.items("/api/v1/alerts")
        ack = f"{daemon.url}/api/v1/alerts/{alert['id']}/ack"
        async with aiohttp.ClientSession() as session, session.post(ack, json={"by": "ann"}) as answer:
            assert answer.status == 200
        await eventually(lambda: "acknowledge" in actions() and opsgenie.alerts[0].acknowledged)
        repeats = actions().count("trigger")
        await asyncio.sleep(5)
        assert actions().count("trigger") <= repeats + 1
        dss.start_run("P000", "S000")
        await asyncio.sleep(1.5)
        dss.end_run("P000", "S000", "SUCCESS")
        await eventually(lambda: "resolve" in actions() and opsgenie.alerts[0].status == "closed")
        await eventually(lambda: roots()[0].startswith("\u2705"))
        await daemon.sigterm()
    assert len(pagerduty.incidents) == 1
    assert actions()[-1] == "resolve"
    assert len(opsgenie.alerts) == 1
    assert len(roots()) == 1
