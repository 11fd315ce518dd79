"""The command line as people run it: real processes against an emulated DSS, with a proxy between that can misbehave."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from tocsin.sim import DEFAULT_KEY, ApiKey, Sim, World, WorldClock

ROOT = Path(__file__).resolve().parents[2]

WORLD = """
node_name: prod
timezone: Europe/Paris
channels:
  - id: smtp-main
    type: smtp
    configuration: {host: mail.example.org, port: 587, useTLS: true, login: dss, password: "p w", sender: dss@example.org}
  - {id: team-slack, type: slack, configuration: {mode: WEBHOOK, webhookUrl: "https://hooks.slack.com/services/T0123/B0123/abcdefghijklmnopqrstuvwx"}}
projects:
  - key: SALES
    name: Sales
    owner: amelie
    tags: [emea]
    scenarios:
      - id: NIGHTLY_A
        name: Nightly rebuild
        active: true
        tags: [daily, finance]
        triggers: [{id: t1, type: temporal, name: Night, params: {frequency: Daily, hour: 2, minute: 0}}]
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        reporters:
          - name: everyone
            phase: END
            runConditionEnabled: true
            runCondition: "outcome != 'SUCCESS'"
            messaging:
              type: mail-scenario
              configuration: {channelId: smtp-main, sender: old@example.org, recipient: "a@example.org, b@example.org", subject: "DSS scenario ${scenarioName}: ${outcome}", messageSource: INLINE, message: "${scenarioName} ended", attachments: [{type: LOG}, {type: DATASET}]}
        behaviour: {duration: 4s, outcomes: SUCCESS, history: {runs: 5, outcomes: "SUCCESS, FAILED"}}
      - {id: NIGHTLY_B, active: true, tags: [daily], steps: [{build: x}], behaviour: {duration: 2s, outcomes: WARNING}}
      - {id: NIGHTLY_OFF, steps: [{build: x}], behaviour: {duration: 2s}}
      - id: BROKEN
        steps: [{id: check, name: Check, type: check_dataset}, {build: orders}]
        behaviour:
          duration: 4s
          outcomes: FAILED
          fails_at: Build orders
          errors: [{clazz: com.example.SparkDied, title: Spark died, message: Out of memory, code: ERR_OOM}]
      - {id: ENDLESS, steps: [{build: all}], behaviour: {duration: 99999h}}
      - {id: TESTED, markedAsTest: true, steps: [{build: x}], behaviour: {duration: 1s}}
      - {id: SCRIPT, type: custom_python, script: "print('hello')"}
      - {id: "a/b c?d#é", steps: [{build: x}], behaviour: {duration: 1s}}
  - key: OTHER
    owner: jonas
    scenarios:
      - {id: X, active: true, steps: [{build: x}], behaviour: {duration: 1s}}
  - {key: SANDBOX_1, scenarios: [{id: X, active: true, steps: [{build: x}], behaviour: {duration: 1s}}]}
"""

READER = ApiKey("reader-key", user="rita", admin=False, rights=frozenset({"READ_CONF"}))
WRITER = ApiKey("writer-key", user="willi", admin=False)


@dataclass
class Said:
    """What a process came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


async def end_of(process: asyncio.subprocess.Process, stdin: str = "") -> Said:
    """The end of a process."""
    out, err = await process.communicate(stdin.encode())
    assert "Traceback" not in err.decode(), err.decode()
    return Said(process.returncode or 0, out.decode(), err.decode())


Fault = Callable[[web.BaseRequest], "web.StreamResponse | None"]


@dataclass
class Proxy:
    """Forwards to the emulated DSS, unless a fault answers first. Remembers what it was asked."""

    target: str
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        for fault in self.faults:
            if (answer := fault(request)) is not None:
                return answer
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length")}
        url = URL(self.target + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, headers=kept, data=await request.read() or None) as reply,
        ):
            return web.Response(status=reply.status, body=await reply.read(), content_type=reply.content_type)


@dataclass
class Driven:
    """A started emulated DSS, and the command line that speaks to it."""

    sim: Sim
    proxy: Proxy
    folder: Path

    async def begin(self, *words: str, key: str = DEFAULT_KEY, **environment: str) -> asyncio.subprocess.Process:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TOCSIN_")}
        environment = {
            "TOCSIN_DSS_URL": self.proxy.url,
            "TOCSIN_DSS_API_KEY": key,
            "PYTHONPATH": str(ROOT / "daemon"),
            "TZ": "UTC",
            "NO_PROXY": "*",
            **environment,
        }
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tocsin", *words),
            env={**kept, **{k: v for k, v in environment.items() if v}},
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str, stdin: str = "", **options: str) -> Said:
        return await end_of(await self.begin(*words, **options), stdin)

    async def ask(self, *words: str, **options: Any) -> Any:
        """The JSON answer of a verb that succeeds."""
        done = await self.run(*words, "--json", **options)
        assert (done.code, done.err) == (0, "")
        return done.json

    def definition(self, scenario: str, project: str = "SALES") -> dict[str, Any]:
        return self.sim.world.scenario(project, scenario).definition


@asynccontextmanager
async def driven(folder: Path, *, world: str = WORLD, speed: float = 200.0) -> AsyncIterator[Driven]:
    sim = Sim(World.from_yaml(world), clock=WorldClock(speed=speed), api_keys=[DEFAULT_KEY, READER, WRITER])
    proxy = Proxy(await sim.start())
    runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield Driven(sim, proxy, folder)
    finally:
        await runner.cleanup()
        await sim.stop()
