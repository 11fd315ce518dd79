"""The daemon runs on uvloop where that is installed, and on asyncio's own loop elsewhere."""

import asyncio
import sys

import pytest
import uvloop

from tocsin.app.run import new_event_loop


async def answer() -> tuple[bool, int]:
    async with asyncio.timeout(30):
        return isinstance(asyncio.get_running_loop(), uvloop.Loop), await asyncio.to_thread(lambda: 7)


def test_uvloop_is_the_default() -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(answer()) == (True, 7)


def test_without_uvloop_asyncio_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(answer()) == (False, 7)
