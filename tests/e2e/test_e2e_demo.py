"""The demo keeps its promise, from the source and from the wheel alone."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakedss import DaemonProcess, eventually, free_port


async def listed(url):
    """What an inbox holds, newest first."""
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as response:
        return await response.json()


def inbox(daemon, name):
    """Where the demo says that an inbox is; None until it does."""
    found = [line.split()[-1] for line in daemon.stdout if line.strip().startswith(name)]
    return found[0] + ".json" if found else None


async def test_the_demo_delivers_a_failure_its_recovery_and_a_slack_message():
    listen = f"127.0.0.1:{free_port()}"
    async with DaemonProcess(url=f"http://{listen}", verb=("demo", "--listen", listen)) as demo:
        await eventually(lambda: inbox(demo, "Slack inbox"))
        mails, slack = inbox(demo, "mail inbox"), inbox(demo, "Slack inbox")

        async def told():
            subjects = [mail["subject"] for mail in await listed(mails)]
            failed = [subject for subject in subjects if re.match(r"(?!Resolved).*FAILED", subject)]
            resolved = [subject for subject in subjects if subject.startswith("Resolved: ")]
            return failed and resolved and await listed(slack)

        await eventually(told, within=180, every=1)

        async def counted():
            lines = (await demo.text("/metrics")).splitlines()
            runs = [line for line in lines if line.startswith("dss_scenario_runs_total{")]
            return sum(float(line.split()[-1]) for line in runs) > 0

        await eventually(counted)
        (newest, *_) = await listed(mails)
        assert (newest["text"] != "", newest["html"] != "") == (True, True)
        assert listen in newest["text"]  # its links lead to this page
        assert await demo.sigterm() == 0
        assert demo.stderr == []


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo_in_a_clean_environment(tmp_path, repository):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TOCSIN_"))}

    def run(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
        """Far from the checkout, so that nothing of it is imported by chance."""
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=env, capture_output=True, text=True, **more
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run(sys.executable, "-m", "pip", "wheel", repository, "--no-deps", "--quiet", "--wheel-dir", tmp_path)
    (wheel,) = tmp_path.glob("tocsin-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python, tocsin = tmp_path / "venv/bin/python", tmp_path / "venv/bin/tocsin"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", wheel)
    place = run(python, "-c", "import tocsin; print(tocsin.__file__)").stdout
    assert Path(place).is_relative_to(tmp_path)
    assert run(tocsin, "--version").stdout.startswith("tocsin ")
    said = run(tocsin, "demo", "--listen", "127.0.0.1:0", "--seconds", "5").stdout
    assert re.search(r"Tocsin +http://127\.0\.0\.1:\d+/", said)


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tocsin", "demo", "--seconds", "1", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "daemon")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_beyond_loopback_the_demo_makes_a_token_and_says_so():
    port = free_port()
    said = run_demo("--listen", f"0.0.0.0:{port}")
    assert said.returncode == 0, said.stderr
    assert re.search(r"^  token +[\w-]{20,}$", said.stdout, re.MULTILINE)
    assert "TOCSIN_TOKEN_FILE=" in said.stdout
    assert f":{port}/scenarios" in said.stdout


def test_a_port_in_use_names_the_flag_that_helps():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = run_demo("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "in use; set --listen" in said.stderr
