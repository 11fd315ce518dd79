"""The same timeline through a real Alertmanager and through ours; what is told must be the same, in the same order.

It takes half a minute of wall time and a machine that is not overloaded, so it runs only with
``TOCSIN_ALERTMANAGER=1``; it needs Debian's ``prometheus-alertmanager``.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests.decide.world import T0, World, channel, config, key
from tocsin.model.config import InhibitRule, Receiver, Rule
from tocsin.model.labels import parse_matchers
from tocsin.model.notification import GroupNotice
from tocsin.route.tree import RouteSpec, build_tree
from tocsin.store import silences

pytestmark = pytest.mark.skipif(
    not (os.environ.get("TOCSIN_ALERTMANAGER") and shutil.which("prometheus-alertmanager")),
    reason="set TOCSIN_ALERTMANAGER=1 and install prometheus-alertmanager",
)

SECOND = timedelta(seconds=1)
# An emptied group lives on for up to half a minute in Alertmanager, and ends at once here: C comes and goes between two
# flushes of both. Seconds, what happens, to whom. Group wait 1 s, interval 2 s, repeat 9 s; what happens falls between two flushes.
TIMELINE: list[tuple[float, str, str]] = [
    (0.0, "fire", "A"),
    (1.5, "fire", "B"),
    (3.6, "end", "A"),
    (5.5, "silence", "B"),
    (8.5, "end", "B"),
    (9.6, "unsilence", "B"),
    (10.2, "fire", "B"),
    (17.5, "end", "B"),
    (19.6, "fire", "C"),
    (19.9, "end", "C"),
    (25.0, "down", "node"),
    (26.5, "fire", "D"),
    (28.6, "up", "node"),
    (33.5, "end", "D"),
]
LAST = 37
Told = list[tuple[str, ...]]


def ours_config() -> object:
    spec = RouteSpec(
        "ops", group_by=("alertname",), group_wait=SECOND, group_interval=2 * SECOND, repeat_interval=9 * SECOND
    )
    return config(
        rules=(Rule("ScenarioFailed", "failed"), Rule("NodeDown", "node_down", hold=timedelta(0))),
        route=build_tree(spec),
        receivers=(Receiver("ops", (channel("ops/hook"),)),),
        inhibit_rules=(
            InhibitRule(
                parse_matchers("alertname=NodeDown"), parse_matchers("alertname=ScenarioFailed"), ("dss_node",)
            ),
        ),
    )


async def ours(world: World) -> Told:
    world.config = ours_config()  # type: ignore[assignment]
    for name in "ABCD":
        await world.scenario(key(name))
    told: Told = []
    waiting = list(TIMELINE)
    due: datetime | None = None
    now = T0
    silence = None
    while waiting or now < T0 + LAST * SECOND:
        coming = T0 + waiting[0][0] * SECOND if waiting else T0 + LAST * SECOND
        now = min(coming, due) if due else coming
        if waiting and now == coming:
            _, what, name = waiting.pop(0)
            match what:
                case "fire" | "end":
                    await world.start(now - SECOND / 20, key(name))
                    await world.end(now, "FAILED" if what == "fire" else "SUCCESS", key(name))
                case "silence":
                    silence = await world.store.write(
                        silences.add, parse_matchers(f"scenario={name}"), now, now + timedelta(hours=1), "me", "", now
                    )
                case "unsilence":
                    assert silence
                    await world.store.write(silences.expire, silence.id, now)
                case "down":
                    await world.down(now)
                case _:
                    await world.up(now)
        due = await world.step(now)
        for one in await world.notifications():
            assert isinstance(one.notice, GroupNotice)
            told.append(
                tuple(sorted(f"{alert.labels.get('scenario', 'node')} {'firing' if alert.firing else 'resolved'}"
                             for alert in one.notice.alerts))
            )  # fmt: skip
    return told


@asynccontextmanager
async def alertmanager(place: Path, told: Told) -> AsyncIterator[str]:
    async def hook(request: web.Request) -> web.Response:
        body = await request.json()
        told.append(tuple(sorted(f"{one['labels'].get('scenario', 'node')} {one['status']}" for one in body["alerts"])))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = runner.addresses[0][1]
    file = place / "am.yml"
    document = {
        "route": {
            "receiver": "ops", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "2s", "repeat_interval": "9s",
        },
        "receivers": [{"name": "ops", "webhook_configs": [{"url": f"http://127.0.0.1:{address}/", "send_resolved": True}]}],
        "inhibit_rules": [{"source_matchers": ["alertname=NodeDown"], "target_matchers": ["alertname=ScenarioFailed"], "equal": ["dss_node"]}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(document), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["prometheus-alertmanager", f"--config.file={file}", f"--storage.path={place / 'data'}", "--cluster.listen-address=",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        await runner.cleanup()


async def theirs(place: Path) -> Told:
    told: Told = []
    async with alertmanager(place, told) as base, aiohttp.ClientSession() as session:
        for _ in range(100):
            try:
                async with session.get(f"{base}/-/ready") as answer:
                    if answer.status == 200:
                        break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        begin, silence = time.monotonic(), ""
        for at, what, name in TIMELINE:
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            now = datetime.now(UTC)
            if what == "silence":
                body = {
                    "matchers": [{"name": "scenario", "value": name, "isRegex": False}], "startsAt": now.isoformat(),
                    "endsAt": (now + timedelta(hours=1)).isoformat(), "createdBy": "me", "comment": "x",
                }  # fmt: skip
                async with session.post(f"{base}/api/v2/silences", json=body) as answer:
                    silence = (await answer.json())["silenceID"]
                continue
            if what == "unsilence":
                async with session.delete(f"{base}/api/v2/silence/{silence}") as answer:
                    assert answer.status == 200
                continue
            labels = {"alertname": "NodeDown", "dss_node": "prod"}
            if what in ("fire", "end"):
                labels = {"alertname": "ScenarioFailed", "dss_node": "prod", "project": "SALES", "scenario": name}
            ends = now if what in ("end", "up") else now + timedelta(hours=1)
            alert = {"labels": labels, "startsAt": now.isoformat(), "endsAt": ends.isoformat()}
            if what in ("end", "up"):
                del alert["startsAt"]
            async with session.post(f"{base}/api/v2/alerts", json=[alert]) as answer:
                assert answer.status == 200, await answer.text()
        await asyncio.sleep(max(0.0, begin + LAST - time.monotonic()))
    return told


async def test_a_real_alertmanager_tells_the_same(world: World, tmp_path: Path) -> None:
    expected = await theirs(tmp_path)
    assert await ours(world) == expected
    assert len(expected) >= 9
