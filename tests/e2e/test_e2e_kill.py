"""A daemon that is killed (see also ``chaos``), or asked to stop, loses nothing."""

import asyncio
import signal
from datetime import timedelta

import pytest

from tests.fakedss import DaemonProcess, Differences, config_for, eventually, faults


async def test_what_was_only_told_to_a_dead_end_is_sent_again_after_a_kill_under_its_id(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        sink.default = faults.never()
        dss.start_run("P000", "S000")
        await eventually(lambda: sink.posts)
        await daemon.kill9()
        sink.default = None
        await daemon.start()
        await daemon.ready()
        await eventually(lambda: len(sink.posts) >= 2)
        assert {post.json["type"] for post in sink.posts} == {"tocsin.run.started"}
        assert len({post.headers["webhook-id"] for post in sink.posts}) == 1


async def test_sigterm_ends_with_exit_code_0_and_a_new_start_goes_on(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        dss.start_run("P000", "S000")
        await eventually(lambda: sink.posts)
        assert await daemon.sigterm() == 0
        assert in_order(daemon)
        dss.end_run("P000", "S000", "FAILED")
        await daemon.start()
        await daemon.ready()
        await eventually(lambda: heard(sink, "/hook") == ["tocsin.run.started", "tocsin.run.failed"])
        assert dss.ledger.compare(await daemon.events()) == Differences()


async def test_sigterm_ends_while_sends_hang_and_they_are_repeated_after_a_new_start(tmp_path, dss, sink):
    channels = [
        {"name": "hook", "webhook": sink.url, "timeout": "12s"},
        {"name": "thread", "url": f"json://127.0.0.1:{sink.port}/thread", "timeout": "12s"},
    ]
    config = config_for(tmp_path, {"prod": dss}, sink, receivers=[{"name": "hook", "channels": channels}])
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        sink.default = faults.never()
        dss.start_run("P000", "S000")
        await eventually(lambda: {post.path for post in sink.posts} == {"/hook", "/thread"})
        daemon.send_signal(signal.SIGTERM)

        async def not_ready():
            return await daemon.status_of("/-/ready") == 503

        await eventually(not_ready)
        assert await daemon.status_of("/-/healthy") == 200
        dss.end_run("P000", "S000", "FAILED")  # nobody watches any more
        assert await daemon.wait() == 0
        assert in_order(daemon)
        assert heard(sink, "/hook") == ["tocsin.run.started"]
        sink.default = None
        await daemon.start()
        await daemon.ready()
        await eventually(lambda: sorted(heard(sink, "/hook")) == ["tocsin.run.failed", *2 * ["tocsin.run.started"]])
        await eventually(lambda: len(heard(sink, "/thread")) == 3)
        started = {p.headers["webhook-id"] for p in sink.posts if p.json.get("type") == "tocsin.run.started"}
        assert len(started) == 1
        assert dss.ledger.compare(await daemon.events()) == Differences()


def heard(sink, path):
    """The types of the events that were posted to a path, in order; None for what is no event."""
    return [post.json.get("type") for post in sink.posts if post.path == path]


def in_order(daemon):
    """Whether the last life said that it was stopping and then that it had stopped, and nothing went wrong."""
    lines = daemon.log[[line["event"] for line in daemon.log].index("stopping") :]
    loud = [line for line in lines if line["level"] not in ("debug", "info", "warning")]
    wild = [line for line in daemon.stderr if not line.startswith("{")]
    assert (loud, wild) == ([], [])
    return lines[-1]["event"] == "stopped"


@pytest.mark.parametrize("seconds", [0, 0.5, 1])
async def test_sigterm_at_any_moment_of_the_start_is_no_failure(tmp_path, dss, sink, seconds):
    daemon = DaemonProcess(config_for(tmp_path, {"prod": dss}, sink))
    try:
        await daemon.start()
        await eventually(lambda: daemon.catches(signal.SIGTERM), every=0.01)
        await asyncio.sleep(seconds)
        assert await daemon.sigterm() == 0
        assert [line for line in daemon.stderr if not line.startswith("{")] == []
    finally:
        await daemon.kill9()


async def test_sigterm_during_the_start_ends_it_too(tmp_path, dss, sink):
    daemon = DaemonProcess(config_for(tmp_path, {"prod": dss}, sink))
    try:
        dss.fail(faults.never())
        await daemon.start()
        await eventually(lambda: dss.in_flight)
        assert await daemon.sigterm() == 0
    finally:
        await daemon.kill9()


async def test_a_backlog_of_hundreds_at_sigterm_is_sent_once_each_before_and_after(tmp_path, dss, sink):
    answers = asyncio.Event()
    channel = {"name": "hook", "webhook": sink.url, "timeout": "2m"}
    config = config_for(tmp_path, {"prod": dss}, sink, receivers=[{"name": "hook", "channels": [channel]}])
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        sink.default = faults.held(answers)
        for number in range(200):
            dss.world.instant_run(f"P00{number % 2}", f"S00{number % 3}", lasted=timedelta(milliseconds=1))
            await asyncio.sleep(0.005)  # run ids are made of the time

        async def all_seen():
            return not dss.ledger.compare(await daemon.events()).lost

        await eventually(all_seen, within=120)
        daemon.send_signal(signal.SIGTERM)

        async def not_ready():
            return await daemon.status_of("/-/ready") == 503

        await eventually(not_ready)
        answers.set()
        assert await daemon.wait() == 0
        assert in_order(daemon)
        before = len(sink.posts)
        await daemon.start()
        await daemon.ready()
        wanted = {event["id"] for event in await daemon.events()}
        assert before < len(wanted)
        await eventually(lambda: {post.json["id"] for post in sink.posts} >= wanted, within=120)
        assert dss.ledger.compare(await daemon.events()) == Differences()
        ids = [post.headers["webhook-id"] for post in sink.posts]
        assert len(ids) == len(set(ids))
