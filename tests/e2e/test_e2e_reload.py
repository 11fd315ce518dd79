"""A reload swaps the whole configuration while the watch goes on, or nothing at all."""

import asyncio
import json
import os
import random
import re
import signal
from collections import Counter
from datetime import timedelta

import pytest
import yaml

from tests.fakedss import DaemonProcess, Differences, FakeDSS, Life, between, config_for, eventually, node

SUCCESSFUL = "tocsin_config_last_reload_successful"
COUNTS = re.compile(r"^tocsin_\w+_(total|bucket|count|sum)\{")  # what was counted stays counted


def change(config, **keys):
    """Write the file anew with these top-level keys replaced."""
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | keys))


def two_hooks(sink):
    """Keys that make a second receiver hear what the first one hears."""
    names = {"hook": sink.url, "second": sink.url.replace("/hook", "/second")}
    return {
        "receivers": [{"name": n, "channels": [{"name": n, "webhook": url}]} for n, url in names.items()],
        "reporters": [
            {"name": n, "on": ["run.started", "run.finished", "run.failed", "run.aborted"], "receiver": n}
            for n in names
        ],
    }


def mount(config, text):
    """Show the file as Kubernetes mounts a Secret: its folder is a link that is swapped for another."""
    fresh = config.parent / f"..{len(list(config.parent.iterdir()))}"
    fresh.mkdir()
    (fresh / config.name).write_text(text)
    (config.parent / "..tmp").symlink_to(fresh.name)
    os.replace(config.parent / "..tmp", config.parent / "..data")
    if not config.is_symlink():
        config.unlink()
        config.symlink_to(f"..data/{config.name}")


async def last_reload(daemon):
    return (await daemon.json("/api/v1/status"))["config"]["last_reload"]


@pytest.mark.parametrize("how", ["signal", "post", "file alone", "symlink swap"])
async def test_a_new_receiver_hears_and_no_run_is_lost_or_told_twice(tmp_path, dss, sink, how):
    config = config_for(tmp_path, {"prod": dss}, sink)
    if how == "symlink swap":
        mount(config, config.read_text())
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        await eventually(lambda: len(sink.posts) == 1)
        asked, before = dss.asked("projects"), (await last_reload(daemon))["at"]
        if how == "symlink swap":
            mount(config, yaml.safe_dump(yaml.safe_load(config.read_text()) | two_hooks(sink)))
        else:
            change(config, **two_hooks(sink))
        if how == "signal":
            daemon.send_signal(signal.SIGHUP)
        if how == "post":
            status, told = await daemon.post("/-/reload")
            assert (status, told["needs_restart"]) == (200, [])

        async def reloaded():
            return (await last_reload(daemon))["at"] != before

        await eventually(reloaded)
        assert (await last_reload(daemon))["successful"]
        dss.end_run("P000", "S000", "FAILED")
        dss.world.instant_run("P001", "S001")
        await eventually(lambda: len(sink.posts) >= 1 + 2 * 3)
        notices = sorted((post.path, post.json["type"].removeprefix("tocsin.run.")) for post in sink.posts)
        ends = ["failed", "finished", "started"]
        assert notices == sorted([("/hook", "started"), *((p, e) for p in ("/hook", "/second") for e in ends)])
        assert dss.ledger.compare(await daemon.events()) == Differences()
        assert await daemon.metric(SUCCESSFUL) == 1
        assert dss.asked("projects") - asked < 60  # the watch went on; it did not begin anew


async def test_a_broken_reload_changes_nothing_and_says_why(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        good = config.read_text()
        config.write_text(good + "reciever: []\n")
        status, told = await daemon.post("/-/reload")
        line = good.count("\n") + 1
        assert status == 422
        assert [f"{config}:{line}: reciever: unknown key; did you mean 'receivers'?"] == told["errors"]
        assert (await last_reload(daemon))["successful"] is False
        assert await daemon.metric(SUCCESSFUL) == 0
        for broken in ("", "nodes: [", "\0", "nodes: " + "[" * 2000, "- 1"):
            config.write_text(broken)
            status, told = await daemon.post("/-/reload")
            assert (status, len(told["errors"]) > 0) == (422, True), broken
        config.unlink()
        assert (await daemon.post("/-/reload"))[0] == 422
        dss.start_run("P000", "S000")
        await eventually(lambda: [post.json["type"] for post in sink.posts] == ["tocsin.run.started"])

        async def good_again():
            return await daemon.metric(SUCCESSFUL) == 1

        config.write_text(good)
        await eventually(good_again)
        assert [line for line in daemon.stderr if "Traceback" in line] == []


async def test_nodes_come_and_go_by_reload_and_the_others_do_not_notice(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    async with DaemonProcess(config) as daemon, FakeDSS(node_name="other") as other:
        other.world.populate(1, 2)
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        await eventually(lambda: len(sink.posts) == 1)
        change(config, nodes=[node("prod", dss), node("other", other)])
        assert (await daemon.post("/-/reload"))[0] == 200
        await daemon.watching(8)
        other.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
        await eventually(lambda: len(sink.posts) == 3)
        change(config, nodes=[node("prod", dss)], http={"listen": "127.0.0.1:1"})
        assert (await daemon.post("/-/reload"))[1]["needs_restart"] == ["http.listen"]
        asked = other.counts.total()
        dss.end_run("P000", "S000")
        await eventually(lambda: len(sink.posts) == 4)

        async def forgotten():
            lines = [line for line in (await daemon.text("/metrics")).splitlines() if '"other"' in line]
            return not [line for line in lines if not COUNTS.search(line)]

        await eventually(forgotten)
        await asyncio.sleep(0.5)
        assert other.counts.total() - asked <= 8  # what was on its way
        assert dss.ledger.compare(await daemon.events("prod")) == Differences()


async def test_a_reload_changes_what_a_package_logs(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    change(config, log={"levels": {"app": "error"}})

    def said(daemon):
        return [line["event"] for line in daemon.log].count("reloaded")

    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        change(config, log={"levels": {}})
        await daemon.post("/-/reload")
        before = said(daemon)
        await daemon.post("/-/reload")
        await eventually(lambda: said(daemon) == 1)
        assert before == 0


async def test_rotated_secrets_serve_without_restart_and_reload(tmp_path, dss, sink):
    key, hook = tmp_path / "key", tmp_path / "hook"
    key.write_text(dss.api_key)
    hook.write_text(sink.url)
    prod = node("prod", dss, sweep=False) | {"api_key_file": str(key)}
    del prod["api_key"]
    channels = [{"name": "hook", "webhook_file": str(hook)}]
    config = config_for(tmp_path, [prod], sink, receivers=[{"name": "hook", "channels": channels}])
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        await eventually(lambda: [post.path for post in sink.posts] == ["/hook"])
        dss.api_key = "another"
        key.write_text("another")
        hook.write_text(sink.url.replace("/hook", "/moved"))
        dss.end_run("P000", "S000")
        await eventually(lambda: [post.path for post in sink.posts] == ["/hook", "/moved"])
        assert {event["type"] for event in await daemon.events()} == {"tocsin.run.started", "tocsin.run.finished"}
        assert [line for line in daemon.log if line["event"] == "reloaded"] == []


BROKEN = ("", "nodes: [", "\0", "- 1", "nodes: []\n", "reciever: []\n")


@pytest.mark.slow
async def test_a_storm_of_reloads_loses_nothing_sends_nothing_twice_and_leaves_nothing_behind(tmp_path, dss, sink):
    """A hundred under load, by signal, by POST and by a swapped link alone, every third of a broken file."""
    chance = random.Random(5)
    config = config_for(tmp_path, {"prod": dss}, sink)
    good = yaml.safe_load(config.read_text())
    mount(config, config.read_text())

    def reloads():
        return Counter(line["event"] for line in map(json.loads, filter(about_reloads, daemon.stderr)))

    def about_reloads(line):
        return '"event": "reload' in line

    async with DaemonProcess(config) as daemon, FakeDSS(node_name="other") as other:
        other.world.populate(1, 2)
        await daemon.watching(6)
        life = Life(dss.world, 10, between(0.05, 2), seed=3)
        living = asyncio.create_task(life.live())
        await eventually(lambda: len(sink.posts) > 20)
        threads, descriptors = daemon.held()
        for turn in range(100):
            broken, done = turn % 3 == 2, reloads().total()
            changed = {"nodes": [*good["nodes"], node("other", other)]} if turn % 10 < 5 else {"rules": []}
            mount(config, BROKEN[turn % len(BROKEN)] if broken else yaml.safe_dump(good | changed) + f"# {turn}\n")
            how = chance.choices(["post", "signal", "link"], [5, 4, 1])[0]
            if how == "signal":
                daemon.send_signal(signal.SIGHUP)
            if how == "post":
                assert (await daemon.post("/-/reload"))[0] == (422 if broken else 200)
            await eventually(lambda done=done: reloads().total() > done)  # type: ignore[misc]
        mount(config, yaml.safe_dump(good))
        assert (await daemon.post("/-/reload"))[0] == 200
        await eventually(lambda: reloads().total() > 100)
        assert reloads()["reload_failed"] >= 33
        living.cancel()
        life.finish()
        await eventually(lambda: len(sink.posts) >= 2 * len(dss.world.ledger.runs))
        assert dss.ledger.compare(await daemon.events("prod")) == Differences()
        assert [id for id, times in Counter(post.json["id"] for post in sink.posts).items() if times > 1] == []
        begun = Counter(line["dss_node"] for line in daemon.log if line["event"] == "backfill_complete")
        assert begun["prod"] == 1  # it was never watched anew
        assert [line for line in daemon.stderr if "Traceback" in line] == []
        now = daemon.held()  # pools fill up to a few; what a reload left behind would stand here a hundred times
        assert (now[0] - threads < 12, now[1] - descriptors < 20) == (True, True), (threads, descriptors, now)


async def test_two_hundred_signals_a_second_for_five_seconds_stop_nothing(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)

        async def storm():
            for _ in range(1_000):
                daemon.send_signal(signal.SIGHUP)
                await asyncio.sleep(1 / 200)

        storming = asyncio.create_task(storm())
        probes, runs = [], 0
        while not storming.done():
            dss.world.instant_run("P000", "S000", lasted=timedelta(milliseconds=1))
            runs += 1
            probes += [await daemon.status_of("/-/healthy"), await daemon.status_of("/-/ready")]
            await asyncio.sleep(0.1)
        await storming
        await eventually(lambda: len(sink.posts) >= 2 * runs)
        assert set(probes) == {200}
        assert (await last_reload(daemon))["successful"]
        assert dss.ledger.compare(await daemon.events()) == Differences()
        assert len({post.json["id"] for post in sink.posts}) == len(sink.posts) == 2 * runs
        begun = Counter(line["dss_node"] for line in daemon.log if line["event"] == "backfill_complete")
        assert begun["prod"] == 1
        assert await daemon.sigterm() == 0
