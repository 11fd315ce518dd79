"""The same timeline through a real Alertmanager and through ours, with one text for route, inhibition and intervals.

Alertmanager lives through it in real time; then the same things happen here at the very moments at which they happened
there, and what was told must be the same at the same ticks. All groups are told at odd seconds and everything happens
between two of them, so that half a tick of delay changes nothing. If this process was woken later than that, it all
happens again at a third of the pace. Needs Debian's ``prometheus-alertmanager``.

An emptied group lives on for up to half a minute in Alertmanager and ends at once here; so nothing fires again in a
group that was empty.
"""

import asyncio
import os
import shutil
import struct
import subprocess
import zoneinfo
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests.decide.world import World, key
from tests.fakedss import free_port
from tocsin.app.reload import Source
from tocsin.model.labels import parse_matchers
from tocsin.model.notification import GroupNotice
from tocsin.store import alerts

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None, reason="prometheus-alertmanager is not installed"
    ),
]

# Seconds, what happens, project, scenario. Groups wait 1, then look every 2, and repeat after 5. Noon is at 8.
TIMELINE: list[tuple[float, str, str, str]] = [
    *((0.0, "fire", project, "A") for project in
      ("REPEAT", "SHORT", "GROW", "SILENCED", "DROPPED", "BRIEF", "BLINK", "MUTED", "ACTIVE", "TWICE", "ALL")),
    (0.0, "fire", "ALL", "B"),
    (0.5, "end", "BRIEF", "A"),  # before anyone was told
    (1.7, "end", "BLINK", "A"),  # and back before the next tick
    (2.0, "fire", "GROW", "B"),
    (2.0, "silence", "SILENCED", ""),
    (2.0, "silence", "DROPPED", ""),
    (2.0, "down", "", ""),
    (2.3, "fire", "BLINK", "A"),
    (4.0, "fire", "INHIBITED", "A"),
    (4.0, "end", "GROW", "A"),
    (4.0, "end", "DROPPED", "A"),  # in a silence
    (6.0, "up", "", ""),
    (6.0, "end", "TWICE", "A"),
    (6.0, "end", "SHORT", "A"),  # where twice the repeat interval is no longer than the group interval
    (6.0, "unsilence", "DROPPED", ""),
    (8.0, "unsilence", "SILENCED", ""),
    *((10.0, "end", project, "A") for project in ("REPEAT", "SILENCED", "MUTED", "ACTIVE", "ALL")),
    (10.0, "end", "GROW", "B"),
]  # fmt: skip
NOON, LAST = 8, 12
LATEST = 0.4  # of a second; within it a delay moves nothing to another tick
RECEIVERS = ("ops", "second", "quiet")
Told = list[tuple[int, str, str, str]]  # tick, receiver, group labels, alerts


def sections(pace: int) -> dict[str, object]:
    """What both read, word for word."""
    return {
        "route": {
            "receiver": "ops", "group_by": ["alertname", "project"],
            "group_wait": f"{pace}s", "group_interval": f"{2 * pace}s", "repeat_interval": f"{5 * pace}s",
            "routes": [
                {"matchers": ['project="TWICE"'], "receiver": "second", "continue": True},
                {"matchers": ["project=~TW.*"], "receiver": "quiet"},
                {"matchers": ["project=ALL"], "group_by": ["..."]},
                {"matchers": ["project=SHORT"], "repeat_interval": f"{pace}s"},
                {"matchers": ["project=MUTED"], "mute_time_intervals": ["mornings"]},
                {"matchers": ["project=ACTIVE"], "active_time_intervals": ["mornings"]},
            ],
        },
        "inhibit_rules": [{
            "source_matchers": ["alertname=NodeDown"], "target_matchers": ['alertname=~"Scenario.*"'], "equal": ["dss_node"],
        }],
        "time_intervals": [{"name": "mornings", "time_intervals": [
            {"times": [{"start_time": "00:00", "end_time": "12:00"}], "location": "Test/Noon"},
        ]}],
    }  # fmt: skip


@contextmanager
def noon_at(moment: datetime, folder: Path) -> Iterator[None]:
    """A time zone, for both, in which it is noon at this moment, so that nobody needs to wait for a full minute."""
    zone = folder / "Test" / "Noon"
    zone.parent.mkdir(parents=True, exist_ok=True)
    noon = datetime(moment.year, moment.month, moment.day, 12, tzinfo=UTC)
    offset = round((noon - moment).total_seconds())
    zone.write_bytes(
        b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 5) + struct.pack(">lbb", offset, 0, 0) + b"NOON\0"
    )
    before = zoneinfo.TZPATH
    zoneinfo.ZoneInfo.clear_cache(only_keys=["Test/Noon"])
    zoneinfo.reset_tzpath([str(folder), *before])
    try:
        yield
    finally:
        zoneinfo.reset_tzpath(before)


def node_of(project: str) -> str:
    return "other" if project in ("", "INHIBITED") else "prod"


# --- theirs --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def alertmanager(place: Path, pace: int, heard: list[tuple[datetime, dict[str, Any]]]) -> AsyncIterator[str]:
    async def hook(request: web.Request) -> web.Response:
        heard.append((datetime.now(UTC), await request.json()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    receivers = [
        {"name": name, "webhook_configs": [{"url": url, "send_resolved": name != "quiet"}]} for name in RECEIVERS
    ]
    file = place / "alertmanager.yml"
    file.write_text(yaml.safe_dump(sections(pace) | {"receivers": receivers}), "utf-8")
    port = free_port()
    process = subprocess.Popen(
        ["prometheus-alertmanager", f"--config.file={file}", f"--storage.path={place / 'data'}", "--cluster.listen-address=",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"ZONEINFO": str(place)},
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        await runner.cleanup()


async def ready(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get("/-/ready"):
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def theirs(place: Path, pace: int, begin: datetime) -> tuple[list[datetime], Told, float]:
    """When each thing happened, what was told, and by how much of a pace this process was late at worst."""
    heard: list[tuple[datetime, dict[str, Any]]] = []
    moments: list[datetime] = []
    silence: dict[str, str] = {}
    late = 0.0
    async with alertmanager(place, pace, heard) as base, aiohttp.ClientSession(base, raise_for_status=True) as session:
        await ready(session)
        for second, what, project, name in [*TIMELINE, (LAST, "", "", "")]:
            coming = begin + timedelta(seconds=second * pace)
            while (now := datetime.now(UTC)) < coming:
                woken = now + timedelta(seconds=min((coming - now).total_seconds(), 0.1))
                await asyncio.sleep((woken - now).total_seconds())
                late = max(late, (datetime.now(UTC) - woken).total_seconds())
            late = max(late, (now - coming).total_seconds())
            if not what:
                break
            moments.append(now)
            later = now + timedelta(hours=1)
            if what == "silence":
                async with session.post("/api/v2/silences", json={
                    "matchers": [{"name": "project", "value": project, "isRegex": False}], "createdBy": "me", "comment": "x",
                    "startsAt": now.isoformat(), "endsAt": later.isoformat(),
                }) as answer:  # fmt: skip
                    silence[project] = (await answer.json())["silenceID"]
            elif what == "unsilence":
                await session.delete(f"/api/v2/silence/{silence[project]}")
            else:
                over = what in ("end", "up")
                alert = {"labels": labels(project, name), "endsAt": (now if over else later).isoformat()}
                await session.post("/api/v2/alerts", json=[alert if over else alert | {"startsAt": now.isoformat()}])
    return moments, [
        row(at - begin, pace, body["receiver"], body["groupLabels"],
            [f"{one['labels'].get('scenario', 'node')} {one['status']}" for one in body["alerts"]])
        for at, body in heard
    ], late / pace  # fmt: skip


def labels(project: str, name: str) -> dict[str, str]:
    if not project:
        return {"alertname": "NodeDown", "severity": "critical", "dss_node": node_of(project)}
    return {
        "alertname": "ScenarioFailed",
        "severity": "warning",
        "dss_node": node_of(project),
        "project": project,
        "scenario": name,
        "scenario_name": name.title(),
    }


def row(
    since: timedelta, pace: int, receiver: str, group: Mapping[str, str], alerts: Sequence[str]
) -> tuple[int, str, str, str]:
    tick = round((since.total_seconds() / pace - 1) / 2)
    return tick, receiver, " ".join(group[name] for name in sorted(group)), ", ".join(sorted(alerts))


# --- ours ----------------------------------------------------------------------------------------------------------------


async def ours(world: World, place: Path, pace: int, begin: datetime, moments: Sequence[datetime]) -> Told:
    file = place / "tocsin.yaml"
    channels = {
        name: [{"name": name, "webhook": "http://127.0.0.1:1", "send_resolved": name != "quiet"}] for name in RECEIVERS
    }
    file.write_text(yaml.safe_dump(sections(pace) | {
        "nodes": [{"name": name, "url": "http://127.0.0.1:1", "api_key": "k"} for name in ("prod", "other")],
        "receivers": [{"name": name, "channels": found} for name, found in channels.items()],
        "rules": [{"alert": "ScenarioFailed", "kind": "failed"},
                  {"alert": "NodeDown", "kind": "node_down", "for": "0s", "severity": "critical"}],
    }), "utf-8")  # fmt: skip
    world.config = Source(file).load()
    await world.restart(begin)
    await world.node("other")
    for project, name in {(project, name) for _, _, project, name in TIMELINE if name}:
        await world.scenario(key(name, project, node_of(project)))
    told: Told = []
    coming = list(zip(moments, TIMELINE, strict=True))
    last = begin + timedelta(seconds=LAST * pace)
    due: datetime | None = begin
    while due is not None and due <= last:
        for now, (_, what, project, name) in [one for one in coming if one[0] <= due]:
            coming.pop(0)
            await happen(world, now, what, project, name)
            await world.step(now)
        due = await world.step(due)
        for one in await world.notifications():
            assert isinstance(one.notice, GroupNotice)
            words = [
                f"{alert.labels.get('scenario', 'node')} {'firing' if alert.firing else 'resolved'}"
                for alert in one.notice.alerts
            ]
            told.append(row(one.created_at - begin, pace, one.receiver, one.notice.group_labels, words))
        due = min(filter(None, (due, coming[0][0] if coming else None)), default=None)
    return told


async def happen(world: World, now: datetime, what: str, project: str, name: str) -> None:
    of = key(name, project, node_of(project))
    match what:
        case "fire" | "end":
            await world.start(now - timedelta(milliseconds=50), of)
            await world.end(now, "FAILED" if what == "fire" else "SUCCESS", of)
        case "silence":
            matchers = parse_matchers(f"project={project}")
            await world.store.write(alerts.insert_silence, matchers, now, now + timedelta(hours=1), "me", "", now)
        case "unsilence":
            for one in await world.store.read(alerts.active_silences, now):
                if one.matchers == parse_matchers(f"project={project}"):
                    await world.store.write(alerts.end_silence, one.id, now)
        case "down":
            await world.down(now, of.node)
        case _:
            await world.up(now, of.node)


async def test_a_real_alertmanager_tells_the_same_at_the_same_ticks(world: World, tmp_path: Path) -> None:
    for pace in (1, 3):
        place = tmp_path / str(pace)
        begin = datetime.now(UTC) + timedelta(seconds=1)  # it starts in half of it
        with noon_at(begin + timedelta(seconds=NOON * pace), place):
            moments, expected, late = await theirs(place, pace, begin)
            if late < LATEST or pace == 3:
                told = await ours(world, place, pace, begin, moments)
                break
    assert sorted(told) == sorted(expected)  # groups that are told at one tick have no order among them
    heard = Counter(group.split(" ")[-1] for _, _, group, _ in told)
    assert (heard["BRIEF"], heard["INHIBITED"], heard["MUTED"], heard["GROW"]) == (0, 1, 2, 4)
