"""A store that cannot be used any more ends the process with one line and a code that is not zero."""

import os

import pytest

from tests.fakedss import DaemonProcess, config_for


def scribble(folder):
    """Write nonsense over all that SQLite keeps of the store."""
    for file in folder.glob("tocsin.db*"):
        if not file.name.endswith((".lock", "-shm")):
            with file.open("r+b") as opened:
                opened.write(os.urandom(max(file.stat().st_size, 4096)))


async def test_a_store_that_was_scribbled_over_ends_the_daemon_with_one_line(tmp_path, dss, sink):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        scribble(tmp_path)
        assert await daemon.wait() == 1
        loud = [line["event"] for line in daemon.log if line["level"] in ("error", "critical")]
        assert loud == ["store_failed"]
        assert [line for line in daemon.stderr if not line.startswith("{")] == []


@pytest.mark.parametrize("end", ["", "-wal"])
async def test_a_store_that_was_deleted_underneath_ends_the_daemon_with_one_line(tmp_path, dss, sink, end):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        await daemon.watching(6)
        (tmp_path / f"tocsin.db{end}").unlink()
        assert await daemon.wait() == 1
        loud = [line["event"] for line in daemon.log if line["level"] in ("error", "critical")]
        assert loud == ["store_failed"]


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready"])
async def test_a_living_daemon_says_so(tmp_path, dss, sink, path):
    async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
        assert (await daemon.text(path), await daemon.metric("tocsin_store_up")) == ("ok\n", 1.0)
