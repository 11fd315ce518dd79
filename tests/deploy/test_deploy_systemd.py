"""The unit of systemd, and what the daemon tells systemd."""

import asyncio
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.charts import REPOSITORY, run
from tests.fakedss import DaemonProcess, FakeDSS, WebhookSink, config_for, eventually
from tocsin.kit.systemd import notify, watchdog_seconds

UNIT = REPOSITORY / "deploy" / "systemd" / "tocsin.service"


def test_the_unit_is_sound_and_hardened(tool: Callable[[str], str], tmp_path: Path) -> None:
    text = re.sub(r"/opt/tocsin/bin/tocsin", "/bin/true", UNIT.read_text("utf-8"))
    (tmp_path / "tocsin.service").write_text(text)
    said = run(tool("systemd-analyze"), "verify", "--man=no", tmp_path / "tocsin.service", ok=False)
    assert "tocsin.service" not in said.stderr, said.stderr
    rated = run(tool("systemd-analyze"), "security", "--offline=yes", tmp_path / "tocsin.service", ok=False)
    found = re.search(r"exposure level for tocsin.service: ([\d.]+)", rated.stdout)
    assert found is None or float(found[1]) < 2.5, rated.stdout


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return listening


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    assert (notify("READY=1"), watchdog_seconds()) == (False, None)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert notify("READY=1") is False


def test_the_watchdog_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_seconds() == 60
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None


async def test_the_daemon_says_that_it_is_ready_well_and_stopping(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    said: list[str] = []

    def heard(word: str) -> bool:
        try:
            while True:
                said.append(manager.recv(4096).decode())
        except BlockingIOError:
            return any(word in line for line in said)

    with manager:
        async with FakeDSS() as dss, WebhookSink() as sink:
            async with DaemonProcess(config_for(tmp_path, {"prod": dss}, sink)) as daemon:
                await eventually(lambda: heard("READY=1"))
                await eventually(lambda: heard("WATCHDOG=1"))
                assert await daemon.sigterm() == 0
            await asyncio.to_thread(heard, "")
        assert heard("STOPPING=1")
    assert said[0].startswith("READY=1\nSTATUS=watching 1 nodes")
