"""Older versions of the official client, each in a process of its own, keep the same contract."""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sim.driven import running
from tocsin.sim import DEFAULT_KEY

pytestmark = pytest.mark.e2e

CONTRACT = Path(__file__).with_name("contract.py")


def installed(version: str) -> Path:
    """A folder that holds this version of the client, installed once a machine."""
    folder = Path(tempfile.gettempdir()) / "tocsin-test-clients" / version
    if not (folder / "dataikuapi").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        with tempfile.TemporaryDirectory() as fresh:
            done = subprocess.run(
                [*command, "--target", fresh, f"dataiku-api-client=={version}"],
                capture_output=True,
                text=True,
                timeout=90,
            )
            if done.returncode:
                pytest.skip(f"pip cannot install dataiku-api-client {version}: {done.stderr.strip()[-200:]}")
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another worker was quicker
                (Path(fresh) / "dataikuapi").rename(folder / "dataikuapi")
    return folder


@pytest.mark.parametrize("version", ["15.2.0", "14.0.0", "12.6.0"])
async def test_the_contract_holds_for_version(version):
    path = "" if version == "15.2.0" else str(await asyncio.to_thread(installed, version))
    async with running(speed=20) as sim:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CONTRACT), sim.url, DEFAULT_KEY,
            env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = (await asyncio.wait_for(process.communicate(), 60))[0].decode()
    assert process.returncode == 0, said
    assert said.startswith("kept")
    assert path in said
