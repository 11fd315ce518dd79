"""The daemon as a real process, and the configuration that points it at fakes."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.fakedss.server import FakeDSS
from tests.fakedss.sinks import WebhookSink

ROOT = Path(__file__).parents[2]
RUN_EVENTS = ["run.started", "run.finished", "run.failed", "run.aborted"]


_FIRST_EPHEMERAL = 32_768  # from here on the system hands out ports by itself (Linux)
_ports = count(random.SystemRandom().randrange(10_000, _FIRST_EPHEMERAL - 2_000))


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to nobody before the caller does."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def node(name: str, dss: FakeDSS, *, sweep: bool = True, **watch: object) -> dict[str, object]:
    """A node of the configuration, at a pace for tests; ``sweep`` hands over the admin key for it."""
    pace = {
        "sweep_interval": "200ms",
        "discovery_interval": "1s",
        "max_poll_interval": "2s",
        "max_requests_per_second": 100,
        "details_wait": "2s",
    }
    keys = {"api_key": dss.api_key} | ({"sweep_api_key": dss.admin_key} if sweep else {})
    return {"name": name, "url": dss.url, **keys, "watch": pace | watch}


def config_for(
    folder: Path, nodes: Mapping[str, FakeDSS] | Sequence[dict[str, object]], sink: WebhookSink, **more: object
) -> Path:
    """Write ``tocsin.yaml``: these nodes, one webhook receiver, one reporter of all run events. ``more`` are
    top-level keys that replace the given ones (None: leave the key out)."""
    if isinstance(nodes, Mapping):
        nodes = [node(name, dss) for name, dss in nodes.items()]
    config = {
        "nodes": list(nodes),
        "store": {"url": f"sqlite:///{folder / 'tocsin.db'}"},
        "http": {"listen": f"127.0.0.1:{free_port()}"},
        "receivers": [{"name": "hook", "channels": [{"name": "hook", "webhook": sink.url}]}],
        "reporters": [{"name": "all", "on": RUN_EVENTS, "receiver": "hook"}],
    } | more
    path = folder / "tocsin.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return path


async def eventually(condition: Callable[[], object], within: float = 60.0, every: float = 0.05) -> object:
    """Ask again until the condition (plain or a coroutine function) is true; its value then."""
    async with asyncio.timeout(within):
        while True:
            value = condition()
            value = await value if inspect.isawaitable(value) else value
            if value:
                return value
            await asyncio.sleep(every)


class DaemonProcess:
    """``tocsin run`` (or another verb) as a process; ``start`` again after ``kill9`` or ``sigterm`` is a restart.

    As an async context manager it starts, waits until ready, and leaves nothing behind. ``stdout`` and
    ``stderr`` keep all lines of all its lives. ``module`` is what the next life runs: Tocsin, or what wraps it.
    """

    def __init__(
        self,
        config: Path | None = None,
        *,
        url: str = "",
        env: Mapping[str, str] | None = None,
        verb: Sequence[str] = ("run",),
    ) -> None:
        self.url = url or "http://" + (_listen(config) if config else "127.0.0.1:8080")
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.module: Sequence[str] = ("tocsin",)
        self.inside: Sequence[str] = ()  # a command that runs another one
        self.passing: Sequence[int] = ()  # file descriptors that it inherits
        self._words = [*verb, *(["--config", str(config)] if config else [])]
        self._env = _environment() | dict(env or {})
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> DaemonProcess:
        try:
            await self.start()
            await self.ready()
        except BaseException:
            await self.kill9()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill9()

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *(*self.inside, sys.executable, "-m", *self.module, *self._words),
            env=self._env,
            cwd=ROOT,
            pass_fds=self.passing,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            limit=1 << 24,  # bytes of one line: a log line may hold the beginning of a reply
        )
        self._readers = [
            asyncio.create_task(_keep(stream, lines))
            for stream, lines in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr))
            if stream is not None
        ]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ready(self, within: float = 60.0) -> None:
        """Until ``/-/ready`` says 200; a daemon that ended instead fails with what it wrote."""

        async def answers() -> bool:
            if not self.alive:
                raise AssertionError("the daemon ended before it was ready:\n" + "\n".join(self.stderr[-20:]))
            return (await self.status_of("/-/ready")) == 200

        await eventually(answers, within)

    async def status_of(self, path: str) -> int:
        """The HTTP status of a GET, 0 where nobody answers."""
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
                return response.status
        except (aiohttp.ClientError, ConnectionError):
            return 0

    async def text(self, path: str) -> str:
        async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(self.url + path) as response:
            return await response.text()

    async def post(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a POST without a body."""
        async with aiohttp.ClientSession() as session, session.post(self.url + path) as response:
            return response.status, await response.json(content_type=None)

    async def json(self, path: str) -> dict[str, object]:
        value = json.loads(await self.text(path))
        assert isinstance(value, dict)
        return value

    async def items(self, path: str) -> list[dict[str, Any]]:
        """All items of a list of the HTTP API, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = await self.json(f"{path}?limit=500{after}")
            items = page["items"]
            assert isinstance(items, list)
            found += items
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    async def watching(self, scenarios: int) -> None:
        """Until so many scenarios are known: what happens from now on is no baseline."""

        async def known() -> bool:
            return len(await self.items("/api/v1/scenarios")) >= scenarios

        await eventually(known)

    async def events(self, node: str | None = None) -> list[dict[str, Any]]:
        """All events in the order of the store, or those of one node."""
        events = await self.items("/api/v1/events")
        return [event for event in events if node in (None, event["data"]["node"])]

    async def metric(self, sample: str) -> float | None:
        """The value of a sample, written as in the exposition: ``dss_node_up{dss_node="prod"}``."""
        for line in (await self.text("/metrics")).splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return None

    @property
    def log(self) -> list[dict[str, object]]:
        """The log lines of both streams that are JSON."""
        return [json.loads(line) for line in self.stdout + self.stderr if line.startswith("{")]

    async def kill9(self) -> None:
        """SIGKILL; nothing happens to one that ended."""
        if self.alive and self._process is not None:
            self._process.kill()
        await self._reap()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def catches(self, number: signal.Signals) -> bool:
        """Whether the process has a handler for a signal by now (Linux)."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught, 16) >> (number - 1) & 1)

    def held(self) -> tuple[int, int]:
        """How many threads and how many file descriptors the process has now (Linux)."""
        assert self._process is not None
        place = Path(f"/proc/{self._process.pid}")
        return len(list((place / "task").iterdir())), len(list((place / "fd").iterdir()))

    async def sigterm(self, within: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        self.send_signal(signal.SIGTERM)
        return await self.wait(within)

    async def wait(self, within: float = 60.0) -> int:
        """The exit code of a daemon that ends by itself."""
        assert self._process is not None
        async with asyncio.timeout(within):
            code = await self._process.wait()
        await self._reap()
        return code

    async def _reap(self) -> None:
        if self._process is not None:
            await self._process.wait()
        await asyncio.gather(*self._readers)
        self._readers = []


def _listen(config: Path) -> str:
    return str(yaml.safe_load(config.read_text())["http"]["listen"])


def _environment() -> dict[str, str]:
    """This process's own without the settings of a daemon or a proxy, and with the source on the path."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TOCSIN_") and not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT / "daemon"), "PYTHONUNBUFFERED": "1"}


async def _keep(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode(errors="replace").rstrip("\n"))
