"""A disk that fills up pauses the daemon; when there is room again it goes on, and nothing is lost or doubled."""

import subprocess
from collections import Counter
from contextlib import suppress

import pytest

from tests.fakedss import DaemonProcess, config_for, eventually


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes, which only root can mount."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place):
    """Take all the room that is left; answers the file that holds it."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):  # no space left
                while True:
                    file.write(b"\0" * size)
    return ballast


async def test_a_full_disk_pauses_the_daemon_and_loses_nothing(tmp_path, small_disk, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink, store={"url": f"sqlite:///{small_disk / 'tocsin.db'}"})
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)

        def lines(event):
            return [line for line in daemon.log if line.get("event") == event]

        def ended():
            return Counter(post.json["id"] for post in sink.posts if post.json["type"] != "tocsin.run.started")

        ballast = fill(small_disk)
        for project in range(2):
            for scenario in range(3):
                outcome = "FAILED" if scenario else "SUCCESS"
                dss.world.instant_run(f"P00{project}", f"S00{scenario}", outcome)
        await eventually(lambda: lines("store_unavailable"))
        assert (await daemon.text("/-/healthy")) == "ok\n"
        told_while_full = len(ended())
        ballast.unlink()
        await eventually(lambda: lines("store_available"))
        await eventually(lambda: len(ended()) == 6, within=120)
        assert set(ended().values()) == {1}
        assert told_while_full < 6
        stages = Counter(line.get("stage") for line in lines("store_unavailable"))
        assert max(stages.values()) == 1, stages
        assert [line for line in daemon.stderr if "Traceback" in line] == []
        await daemon.sigterm()
        assert await daemon.wait() == 0
