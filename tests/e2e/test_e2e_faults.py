"""A node that fails in any way is counted, told of once and retried; the others go on; then all is as if not."""

import asyncio
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import time_ns

import pytest

from tests.fakedss import DaemonProcess, Differences, FakeDSS, Life, between, config_for, eventually, faults, node

Act = Callable[[FakeDSS], object]
LOUD = ("warning", "error", "critical")


def loud_lines(daemon, word, since=0):
    """The log lines above info that hold the word, without the first ``since`` lines of the log."""
    lines = [line for line in daemon.log[since:] if str(line.get("level")).lower() in LOUD]
    return [line for line in lines if word in str(line)]


BROKEN = {
    "wrong-key": (lambda dss: dss.revoke_key(dss.api_key), "unauthorized"),
    "no-rights": (lambda dss: dss.fail(faults.forbidden()), "forbidden"),
    "resets": (lambda dss: dss.fail(faults.reset()), "unreachable"),
    "login-page": (lambda dss: dss.fail(faults.html(200)), "invalid_reply"),
    "cut-json": (lambda dss: dss.fail(faults.cut_json()), "invalid_reply"),
    "json-null": (lambda dss: dss.fail(faults.reply(None)), "invalid_reply"),
    "s500": (lambda dss: dss.fail(faults.status(500)), None),
    "proxy-502": (lambda dss: dss.fail(faults.html(502)), None),
}
"""What breaks a node, and the reason that must be told (None: any)."""


@pytest.mark.parametrize("when", ["from the start", "later"])
async def test_broken_nodes_are_down_for_a_reason_told_once_and_recover(tmp_path, dss, sink, when):
    async with AsyncExitStack() as stack:
        broken = {case: await stack.enter_async_context(FakeDSS(node_name=case)) for case in BROKEN}
        nodes = [node("good", dss), *(node(case, bad, sweep=False) for case, bad in broken.items())]
        for bad in broken.values():
            bad.world.populate(1, 2)
        daemon = DaemonProcess(config_for(tmp_path, nodes, sink))

        def break_all():
            for case, bad in broken.items():
                BROKEN[case][0](bad)

        async def ups():
            return {case: await daemon.metric(f'dss_node_up{{dss_node="{case}"}}') for case in broken}

        if when == "from the start":
            break_all()
        await stack.enter_async_context(daemon)
        if when == "later":
            await daemon.watching(6 + 2 * len(broken))
            # Without an admin key a sweep is refused once, which is no news of a node that breaks.
            await eventually(lambda: len(loud_lines(daemon, "sweep_refused")) == len(broken))
            break_all()
        before = len(daemon.log) if when == "later" else 0

        async def all_down():
            return set((await ups()).values()) == {0.0}

        await eventually(all_down)
        asked = {case: bad.counts.total() + 2 for case, bad in broken.items()}
        await eventually(lambda: all(broken[case].counts.total() >= count for case, count in asked.items()), within=60)
        downs = [event for event in await daemon.events() if event["type"] == "tocsin.node.down"]
        reasons = {event["data"]["node"]: event["data"]["reason"] for event in downs}
        assert reasons == {case: reason or reasons.get(case) for case, (_, reason) in BROKEN.items()}
        status = str(await daemon.json("/api/v1/status"))
        assert [reason for reason in reasons.values() if reason not in status] == []
        loud = {case: [line["event"] for line in loud_lines(daemon, f"'{case}'", before)] for case in broken}
        assert loud == {case: ["node_down"] for case in broken}

        await daemon.watching(6)
        dss.world.instant_run("P000", "S000", "FAILED")
        await eventually(lambda: "tocsin.run.failed" in [post.json.get("type") for post in sink.posts])

        for bad in broken.values():
            bad.rules.clear()
            bad.restore_key(bad.api_key)

        async def all_up():
            return set((await ups()).values()) == {1.0}

        await eventually(all_up)
        await daemon.watching(6 + 2 * len(broken))
        for bad in broken.values():
            bad.world.instant_run("P000", "S000", "FAILED")

        async def lost():
            events = await daemon.events()
            return {
                case: diff
                for case, bad in broken.items()
                if (diff := bad.ledger.compare(e for e in events if e["data"]["node"] == case)) != Differences()
            }

        async def all_told():
            return not await lost()

        await eventually(all_told)


async def test_a_daemon_starts_while_dss_refuses_connections_and_finds_it_later(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    await dss.go_down()
    async with DaemonProcess(config) as daemon:

        async def unreachable():
            return "unreachable" in str(await daemon.json("/api/v1/status"))

        await eventually(unreachable)
        await dss.go_up()
        await daemon.watching(6)
        assert len(loud_lines(daemon, "unreachable")) == 1


async def test_one_scenario_that_makes_no_sense_stops_no_other(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        with dss.fail(faults.missing("runId", "start"), "last_runs", "P000", "S000") as rule:
            for scenario in dss.world.all_scenarios():
                dss.world.instant_run(scenario.project, scenario.id)

            async def all_but_one():
                lost = dss.ledger.compare(await daemon.events()).lost
                return rule.applied and {fact[1:3] for fact in lost} == {("P000", "S000")}

            await eventually(all_but_one)

        async def all_told():
            return not dss.ledger.compare(await daemon.events()).lost

        await eventually(all_told)
        assert dss.ledger.compare(await daemon.events()) == Differences()


@dataclass(frozen=True)
class Trial:
    """A node with one trouble: what begins it, what ends it, and the moment at which its clock starts."""

    begin: Act
    end: Act = lambda dss: dss.rules.clear()
    clock: datetime | None = None


def often(fault, operation="*"):
    return Trial(lambda dss: dss.fail(fault, operation, probability=0.4, seed=3))


HOUR = timedelta(hours=1)
TRIALS = {
    "s500": often(faults.status(500)),
    "s429": often(faults.too_many()),
    "s429-retry-after": often(faults.too_many("1")),
    "s429-nonsense": often(faults.too_many("soon")),
    "proxy-502": often(faults.html(502)),
    "proxy-404": often(faults.html(404)),
    "login-page": often(faults.html(200)),
    "redirect": often(faults.redirect("/login/")),
    "s401": often(faults.unauthorized()),
    "s403": often(faults.forbidden(), "last_runs"),
    "reset": often(faults.reset()),
    "reset-after-headers": often(faults.reset_after_headers()),
    "truncated": often(faults.truncated()),
    "cut-json": often(faults.cut_json()),
    "drip": often(faults.drip(0.01, 200)),
    "never": Trial(lambda dss: dss.fail(faults.never(), probability=0.1, seed=3)),
    "slow": often(faults.slow(0.5)),
    "null": often(faults.reply(None)),
    "wrong-type": often(faults.wrong_type()),
    "strangers": Trial(lambda dss: dss.fail(faults.strangers())),
    "shuffled": Trial(lambda dss: dss.fail(faults.shuffled(3))),
    "huge": Trial(lambda dss: dss.fail(faults.huge(10), "last_runs", nth=[3, 5])),
    "nulled": often(faults.nulled("runId", "start", "end"), "last_runs"),
    "missing": often(faults.missing("scenario", "result", "trigger"), "last_runs"),
    "no-futures": Trial(lambda dss: dss.fail(faults.reply([]), "futures")),
    "key-revoked": Trial(lambda dss: dss.revoke_key(dss.api_key), lambda dss: dss.restore_key(dss.api_key)),
    "project-lost": Trial(lambda dss: dss.hide_project("P001"), lambda dss: dss.show_project("P001")),
    "restarted": Trial(lambda dss: dss.world.restart()),
    "forgot-a-run": Trial(lambda dss: dss.world.restart("vanished")),
    "jumps-an-hour": Trial(lambda dss: dss.jump(HOUR), lambda dss: dss.jump(-HOUR)),
    "spring-night": Trial(lambda dss: None, clock=datetime(2027, 3, 28, 0, 59, 50, tzinfo=UTC)),
    "autumn-night": Trial(lambda dss: None, clock=datetime(2027, 10, 31, 0, 59, 50, tzinfo=UTC)),
}


def started_at(clock):
    """A clock in milliseconds that shows this moment now, or the true one."""
    offset = 0 if clock is None else round(clock.timestamp() * 1000) - time_ns() // 1_000_000
    return lambda: time_ns() // 1_000_000 + offset


async def test_after_every_trouble_the_ledger_and_the_event_log_agree(tmp_path, sink):
    async with AsyncExitStack() as stack:
        fleet = {}
        for name, trial in TRIALS.items():
            fleet[name] = await stack.enter_async_context(FakeDSS(node_name=name, clock_ms=started_at(trial.clock)))
            fleet[name].world.populate(2, 2)
        config = config_for(tmp_path, [node(name, dss, sweep_interval="1s") for name, dss in fleet.items()], sink)
        daemon = await stack.enter_async_context(DaemonProcess(config))
        await daemon.watching(4 * len(fleet))
        lives = [Life(dss.world, 0.7, between(0.1, 4), seed=i) for i, dss in enumerate(fleet.values())]
        living = [asyncio.create_task(life.live()) for life in lives]
        await asyncio.sleep(3)
        for name, trial in TRIALS.items():
            trial.begin(fleet[name])
        await asyncio.sleep(15)
        for name, trial in TRIALS.items():
            trial.end(fleet[name])
        await asyncio.sleep(3)
        for life, task in zip(lives, living, strict=True):
            task.cancel()
            life.finish()

        async def disagreements():
            events = await daemon.events()
            found = {
                name: dss.ledger.compare([e for e in events if e["data"]["node"] == name])
                for name, dss in fleet.items()
            }
            return {name: diff for name, diff in found.items() if diff != Differences()}

        async def nothing_lost():
            return not any(diff.lost for diff in (await disagreements()).values())

        try:
            await eventually(nothing_lost, within=60, every=1)
        finally:
            assert await disagreements() == {}
        assert {name: dss.writes for name, dss in fleet.items() if dss.writes} == {}
        assert [line for line in daemon.stderr if re.search("Traceback|never retrieved", line)] == []
