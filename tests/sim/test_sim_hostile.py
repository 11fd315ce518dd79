"""Requests that make no sense get an answer that says so; what has been accepted can be lived with."""

import copy
import random
from typing import Any

import aiohttp
import pytest

from tests.sim.driven import running
from tocsin.sim import DEFAULT_KEY

JUNK = [
    None,
    0,
    -1,
    1e308,
    True,
    "",
    "x",
    "é" * 300,
    "\x00",
    "${x",
    [],
    [None],
    [[]],
    {},
    {"a": None},
    {"type": 3},
    "temporal",
]
DEFINITION = {
    "name": "Fuzz",
    "type": "step_based",
    "active": True,
    "tags": ["a"],
    "runAsUser": "bob",
    "delayedTriggersBehavior": {"delayWhileRunning": True},
    "triggers": [
        {"id": "t", "type": "temporal", "name": "n", "active": True, "params": {"frequency": "Daily", "hour": 2, "minute": 5}},
        {"id": "f", "type": "follow_scenariorun", "active": True, "params": {"scenarioId": "SCRIPT"}},
    ],
    "reporters": [
        {"name": "r", "active": True, "phase": "END", "runConditionEnabled": True, "runCondition": "outcome == 'x'",
         "messaging": {"type": "webhook-scenario", "configuration": {"url": "x", "headers": [{"key": "a", "value": "b"}]}}},
    ],
    "params": {
        "steps": [
            {"type": "build_flowitem", "name": "b", "runConditionType": "RUN_CONDITIONALLY", "runConditionExpression": "true",
             "params": {"builds": [{"itemId": "x"}], "sim": {"duration": "1s", "outcomes": "FAILED"}}},
            {"type": "define_vars", "name": "d", "runConditionType": "RUN_ALWAYS", "maxRetriesOnFail": 1,
             "params": {"variables": {"a": "b"}, "definitions": [{"key": "k", "value": "v"}]}},
            {"type": "run_scenario", "name": "s", "params": {"scenarioId": "SCRIPT"}},
        ]
    },
}  # fmt: skip


def places(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutated(rng):
    definition = copy.deepcopy(DEFINITION)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([path for path in places(definition) if path])
        target: Any = definition
        for key in path[:-1]:
            target = target[key]
        if rng.random() < 0.2 and isinstance(target, dict):
            del target[path[-1]]
        else:
            target[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return definition


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(4))
async def test_mutated_definitions_are_refused_or_lived_with(seed):
    rng = random.Random(seed)
    async with running(api_keys=["k"]) as sim, aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as http:

        async def call(method, path, **options):
            async with http.request(method, f"{sim.url}/public/api/projects/SALES/scenarios{path}", **options) as reply:
                return reply.status, await reply.json()

        for turn in range(60):
            definition = mutated(rng)
            method, path = ("POST", "/") if turn % 3 == 0 else ("PUT", "/NIGHTLY")
            status, body = await call(method, path, json=definition)
            assert status in (200, 400), (definition, body)
            created = body.get("id", "NIGHTLY") if status == 200 else "NIGHTLY"
            for reading in ("/", f"/{created}", f"/{created}/light"):
                assert (await call("GET", reading))[0] == 200, definition
            if status == 200:
                assert (await call("POST", f"/{created}/run"))[0] == 200, definition
                await sim.push("10s")
                status, runs = await call("GET", f"/{created}/get-last-runs?limit=3")
                assert status == 200, definition
                for run in runs:
                    assert (await call("GET", f"/{created}/{run['runId']}/"))[0] == 200
                if created != "NIGHTLY":
                    assert (await call("DELETE", f"/{created}"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "projects/SALES/variables", {"standard": []}),
        ("PUT", "projects/SALES/scenarios/SCRIPT/payload", {"script": 3}),
        ("POST", "projects/SALES/jobs", {}),
        ("POST", "projects/SALES/jobs", {"outputs": ["x"]}),
        ("POST", "projects/SALES/jobs", {"outputs": [{}], "sim": {"outcomes": "MAYBE"}}),
        ("POST", "projects", {}),
        ("POST", "projects", {"projectKey": "SALES"}),
        ("POST", "messaging-channels", {"type": "pigeon"}),
        ("POST", "projects/SALES/scenarios", {"name": "x", "id": "NIGHTLY"}),
        ("POST", "projects/SALES/scenarios", {"type": "step_based"}),
    ],
)
async def test_bodies_that_make_no_sense_are_a_400(sim, method, path, body):
    session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {DEFAULT_KEY}"})
    async with session, session.request(method, f"{sim.url}/public/api/{path}", json=body) as reply:
        assert (reply.status, (await reply.json())["errorType"]) == (400, "java.lang.IllegalArgumentException")


async def test_an_interceptor_can_answer_in_dsss_place(sim):
    async def broken(request):
        return aiohttp.web.Response(status=502, text="<html>Bad gateway</html>")

    sim.sim.intercept = broken
    async with aiohttp.ClientSession() as http, http.get(f"{sim.url}/public/api/projects/") as reply:
        assert (reply.status, await reply.text()) == (502, "<html>Bad gateway</html>")
