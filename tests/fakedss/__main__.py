"""The faked DSS as a process of its own: ``python -m tests.fakedss --projects 200 --scenarios 50 --rate 0.5``.

It prints one line of JSON with its address and keys, and serves until it is ended. Beside the API it has a
remote control: ``POST /fake/do`` takes one action, ``GET /fake/ledger`` gives the runs and ``GET /fake/counts``
the requests. A script (``--script FILE``) is a JSON list of actions, each with ``at`` in seconds from the start:

    [{"at": 1, "do": "start_run", "project": "P000", "scenario": "S000"},
     {"at": 5, "do": "fail", "fault": "status", "args": [500], "operation": "last_runs", "until": 10}]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.fakedss.faults import FAULTS
from tests.fakedss.load import Life, between
from tests.fakedss.server import FakeDSS


class RemoteFakeDSS(FakeDSS):
    """A FakeDSS that another process can drive."""

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/fake/do", self._do)
        app.router.add_get("/fake/ledger", self._ledger)
        app.router.add_get("/fake/counts", self._counts)

    def do(self, action: Mapping[str, object]) -> object:
        """Carry out one action; ``do`` names it, the rest are its arguments."""
        arguments = {key: value for key, value in action.items() if key not in ("do", "at")}
        return self._actions()[str(action["do"])](**arguments)

    def _actions(self) -> dict[str, Callable[..., object]]:
        world = self.world
        here = (self.start_run, self.end_run, self.revoke_key, self.restore_key)
        there = (world.restart, world.clear_history, world.forget_running, world.populate, world.remove_scenario)
        return {action.__name__: action for action in (*here, *there, self.hide_project, self.show_project)} | {
            "add_scenario": lambda **more: world.add_scenario(**more).id,
            "instant_run": lambda ago=0, lasted=0.2, **more: world.instant_run(
                **more, ago=timedelta(seconds=ago), lasted=timedelta(seconds=lasted)
            ),
            "jump": lambda seconds: self.jump(timedelta(seconds=seconds)),
            "fail": self._fail,
            "heal": self.rules.clear,
        }

    def _fail(self, fault: str, args: list[object] | None = None, **when: Any) -> None:
        if isinstance(numbers := when.get("nth"), list):
            when["nth"] = frozenset(numbers)
        self.fail(FAULTS[fault](*(args or [])), **when)

    async def _do(self, request: web.Request) -> web.Response:
        try:
            return web.json_response({"result": self.do(await request.json())})
        except (KeyError, TypeError, ValueError) as wrong:
            return web.json_response({"error": repr(wrong)}, status=400)

    async def _ledger(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(run) for run in self.ledger.runs])

    async def _counts(self, request: web.Request) -> web.Response:
        counts = {"by_operation": self.counts, "by_second": self.per_second, "peak_in_flight": self.peak_in_flight}
        return web.json_response(counts | {"writes": self.writes})


async def play(dss: RemoteFakeDSS, script: list[dict[str, object]]) -> None:
    """Carry out a script's actions when they are due."""
    begun = asyncio.get_running_loop().time()
    for action in sorted(script, key=lambda action: float(str(action.get("at", 0)))):
        due = begun + float(str(action.get("at", 0)))
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        dss.do(action)


async def serve(options: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    dss = RemoteFakeDSS(
        zone=options.zone, delay=options.delay, port=options.port, api_key=options.api_key, admin_key=options.admin_key
    )
    dss.world.populate(options.projects, options.scenarios)
    script = json.loads(options.script.read_text()) if options.script else []
    async with dss, asyncio.TaskGroup() as tasks:
        print(json.dumps({"url": dss.url, "api_key": dss.api_key, "admin_key": dss.admin_key}), flush=True)
        shortest, longest = (float(seconds) for seconds in options.durations.split(":"))
        life = Life(dss.world, options.rate or 1.0, between(shortest, longest), options.seed)
        running = [tasks.create_task(play(dss, script))]
        if options.rate:
            running.append(tasks.create_task(life.live()))
        await ended.wait()
        for task in running:
            task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakedss", description="A faked DSS for tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key", default="project-key")
    parser.add_argument("--admin-key", default="admin-key")
    parser.add_argument("--zone", default="Europe/Paris", help="the local time zone of the node")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--projects", type=int, default=1)
    parser.add_argument("--scenarios", type=int, default=1, help="in each project")
    parser.add_argument("--rate", type=float, default=0.0, help="run starts per second on average")
    parser.add_argument("--durations", default="1:600", help="SHORTEST:LONGEST seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--script", type=Path, help="JSON file of actions")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
