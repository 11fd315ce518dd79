"""Dataiku's own client and ours do the same to the same DSS, and read the same."""

import asyncio
import inspect
import json
import os
import subprocess
import sys
import time
import warnings
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli import contract_cases
from tests.cli.contract_cases import CASES, KEY, WORLD
from tocsin.dss import DSSClient
from tocsin.sim import Sim, World, WorldClock

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]
VERSIONS = ("15.2.0", "14.0.0", "12.6.0")
NOT_YET = {"12.6.0": {"logs_of_runs", "junit_reports"}}  # cases of which that version has no methods


class FixedStart:
    """A clock by which every world begins at the same moment, so that its history is the same."""

    def __init__(self):
        self._began = time.monotonic()

    def now(self):
        return datetime(2026, 3, 2, 12, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def monotonic(self):
        return time.monotonic() - self._began


async def worlds(stack, names):
    """A fresh emulated DSS for each case: their addresses."""
    urls = {}
    for name in names:
        sim = Sim(World.from_yaml(WORLD), clock=WorldClock(FixedStart(), speed=200))
        urls[name] = await sim.start()
        stack.push_async_callback(sim.stop)
    return urls


def read_by_ours():
    async def ask(function, *args, **kwargs):
        value = function(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    async def main():
        read = {}
        async with AsyncExitStack() as stack:
            for name, url in (await worlds(stack, CASES)).items():
                async with DSSClient(url, KEY, proxy="", poll_pauses=(0.02, 0.05)) as client:
                    read[name] = await CASES[name](client, ask)
        return json.loads(json.dumps(read))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.run(main())


def read_by_official(packages: Path | None):
    environment = {**os.environ, "NO_PROXY": "*", "PYTHONPATH": str(packages or "")}

    async def main():
        async with AsyncExitStack() as stack:
            urls = await worlds(stack, CASES)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, contract_cases.__file__),
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate(json.dumps(urls).encode())
            return json.loads(out)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def ours():
    return read_by_ours()


@pytest.fixture(scope="module")
def theirs(request):
    """What an official version reads; each is installed once, beside the tests' cache."""
    known = {}

    def read(version):
        if version not in known:
            known[version] = read_by_official(packages_of(request.config.cache, version))
        return known[version]

    return read


def packages_of(cache, version):
    """The folder of an older version, installed if need be; None for the one that is installed anyway."""
    if version == VERSIONS[0]:
        return None
    folder = cache.mkdir("dataiku-api-client") / version
    if not (folder / "dataikuapi").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, f"dataiku-api-client=={version}"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot install dataiku-api-client {version}: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_both_clients_read_the_same(ours, theirs, version, name):
    answer = theirs(version)[name]
    if name in NOT_YET.get(version, ()):
        assert "missing" in answer
        pytest.skip(f"{version} cannot do this: {answer['missing']}")
    assert answer.get("read", answer) == ours[name]
