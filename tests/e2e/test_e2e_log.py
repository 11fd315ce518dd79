"""A log that nobody reads stops nothing."""

import asyncio
import fcntl
import itertools
import os

import pytest

from tests.fakedss import DaemonProcess, config_for, eventually


class Unread:
    """A full pipe: nobody reads the log until ``read`` is called."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        os.write(self.writing, b"-" * 4095 + b"\n")

    def read(self) -> str:
        os.set_blocking(self._reading, False)
        try:
            return os.read(self._reading, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        os.close(self._reading)
        os.close(self.writing)


@pytest.fixture
def unread():
    pipe = Unread()
    yield pipe
    pipe.close()


class Logging(DaemonProcess):
    """A daemon whose standard error is this file descriptor."""

    def __init__(self, config, stderr: int) -> None:
        super().__init__(config)
        self.inside = ("sh", "-c", f'exec "$@" 2>/dev/fd/{stderr}', "sh")
        self.passing = (stderr,)


async def test_a_daemon_whose_log_nobody_reads_works_answers_and_stops(tmp_path, dss, sink, unread):
    config = config_for(tmp_path, {"prod": dss}, sink, log={"level": "debug"})
    async with Logging(config, unread.writing) as daemon:
        await daemon.watching(6)
        for project, scenario in itertools.product(("P000", "P001"), ("S000", "S001", "S002")):
            dss.world.instant_run(project, scenario, "FAILED")
        await eventually(lambda: len(sink.posts) == 6 * 2)
        assert await daemon.status_of("/-/healthy") == 200
        assert await daemon.metric("tocsin_log_lines_dropped_total") == 0  # they wait
        assert await daemon.sigterm() == 0


async def test_the_lines_come_once_somebody_reads(tmp_path, dss, sink, unread):
    async with Logging(config_for(tmp_path, {"prod": dss}, sink, log={"format": "json"}), unread.writing) as daemon:
        await daemon.watching(6)
        text = ""

        async def backfilled():
            nonlocal text
            text += unread.read()
            return '"backfill_complete"' in text

        await eventually(backfilled)
        assert text.index('"started"') < text.index('"backfill_complete"')
        stopping = asyncio.create_task(daemon.sigterm())

        async def stopped():
            nonlocal text
            text += unread.read()
            return '"stopped"' in text

        await eventually(stopped)
        assert await stopping == 0
