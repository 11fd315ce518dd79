"""The wire itself: credentials, paths and errors as other clients may write them."""

import base64

import aiohttp
import pytest

from tests.sim.driven import running
from tocsin.sim import ApiKey, BadWorld, World


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def get(sim, path, headers, **options):
    async with aiohttp.ClientSession() as session, session.get(sim.url + path, headers=headers, **options) as reply:
        return reply.status, await reply.json(content_type=None), reply.headers


@pytest.mark.parametrize(
    "headers",
    [
        basic("k", ""),
        basic("", "k"),
        {"Authorization": "Bearer k"},
        {"Authorization": "bearer k"},
        {"X-DKU-APITicket": "k"},
    ],
)
async def test_every_way_to_present_a_key_is_accepted(headers):
    async with running(api_keys=["k"]) as sim:
        status, body, answered = await get(sim, "/public/api/auth/info", headers)
    assert (status, body["adminKey"]) == (200, True)
    assert answered["DSS-Version"] == "14.7.0"
    assert "DSS-API-Version" in answered


@pytest.mark.parametrize("headers", [{}, basic("wrong", ""), {"Authorization": "Basic ///"}, {"Authorization": "x"}])
async def test_an_unknown_key_is_refused_in_dsss_words(sim, headers):
    status, body, answered = await get(sim, "/dip/publicapi/projects/", headers)
    assert status == 401
    assert body["errorType"] == "com.dataiku.dip.exceptions.NotAuthenticatedException"
    assert body["detailedMessage"]
    assert "DSS-Version" in answered


@pytest.mark.parametrize(
    "path",
    [
        "/dip/publicapi/projects/SALES/scenarios",
        "/public/api/projects/SALES/scenarios/",
        "//dip/publicapi/projects//SALES/scenarios//",
        "/public/api/projects/%53ALES/scenarios/?x=y",
    ],
)
async def test_paths_are_read_with_tolerance(path):
    async with running(api_keys=["k"]) as sim:
        status, body, _ = await get(sim, path, basic("k", ""))
    assert (status, len(body)) == (200, 3)


@pytest.mark.parametrize(
    "path",
    [
        "projects/NOPE/scenarios/",
        "projects/SALES/scenarios/NOPE",
        "projects/SALES/scenarios/NOPE/light",
        "projects/SALES/scenarios/NIGHTLY/2020-01-01-00-00-00-000/",
        "projects/SALES/scenarios/NIGHTLY/2020-01-01-00-00-00-000/log",
        "projects/SALES/scenarios/trigger/NIGHTLY/manual?triggerRunId=x",
        "projects/SALES/jobs/NOPE/",
        "futures/NOPE",
        "nothing/here",
    ],
)
async def test_what_does_not_exist_is_a_404_in_dsss_words(path):
    async with running(api_keys=["k"]) as sim:
        status, body, _ = await get(sim, f"/public/api/{path}", basic("k", ""))
    assert (status, body["errorType"]) == (404, "com.dataiku.dip.server.controllers.NotFoundException")


async def test_literal_names_win_over_ids():
    world = World()
    project = world.add_project("P")
    for scenario_id in ("trigger", "light", "testing-status"):
        world.add_scenario(project, {"id": scenario_id})
    async with running(world, api_keys=["k"]) as sim:
        status, body, _ = await get(sim, "/public/api/projects/P/scenarios/testing-status", basic("k", ""))
        assert (status, body) == (200, {"nbTotalRanScenarios": 0, "nbScenariosPerOutcome": {}})
        status, body, _ = await get(sim, "/public/api/projects/P/scenarios/trigger/light", basic("k", ""))
        assert (status, body["id"]) == (200, "trigger")


async def test_a_head_answers_as_a_get_without_the_body():
    async with running(api_keys=["k"]) as sim, aiohttp.ClientSession() as session:
        for path, status in (
            ("/projects/", 200),
            ("/projects/SALES/scenarios/NIGHTLY/light", 200),
            ("/projects/X", 404),
        ):
            url = f"{sim.url}/public/api{path}"
            async with session.get(url, headers=basic("k", "")) as told:
                body = await told.read()
            async with session.head(url, headers=basic("k", "")) as head:
                assert (head.status, await head.read()) == (status, b"")
                assert head.headers["Content-Length"] == str(len(body))
                assert head.headers["Content-Type"] == told.headers["Content-Type"]


async def test_an_encoded_slash_belongs_to_the_id():
    world = World()
    world.add_scenario(world.add_project("P"), {"id": "a/b"})
    async with running(world, api_keys=["k"]) as sim:
        status, body, _ = await get(sim, "/public/api/projects/P/scenarios/a%2Fb/light", basic("k", ""))
    assert (status, body["id"]) == (200, "a/b")


@pytest.mark.parametrize("limit", ["x", "1.5", ""])
async def test_a_limit_that_is_no_number_is_a_400(limit):
    async with running(api_keys=["k"]) as sim:
        path = f"/public/api/projects/SALES/scenarios/NIGHTLY/get-last-runs?limit={limit}"
        status, body, _ = await get(sim, path, basic("k", ""))
    assert (status, body["errorType"]) == (400, "java.lang.IllegalArgumentException")


async def test_booleans_are_read_in_any_case():
    async with running(api_keys=["k"]) as sim:
        sim.sim.engine.launch(sim.world_scenario(), {"id": "manual", "type": "manual"}, {}, {})
        await sim.push("1s")
        base = "/public/api/projects/SALES/scenarios/NIGHTLY/get-last-runs"
        found = [
            len((await get(sim, f"{base}?onlyFinishedRuns={f}", basic("k", "")))[1])
            for f in ("True", "true", "1", "False")
        ]
    assert found == [5, 5, 5, 6]


async def test_the_date_header_is_the_worlds_own_time():
    async with running(api_keys=["k"]) as sim:
        await sim.push("400d")
        _, _, headers = await get(sim, "/public/api/auth/info", basic("k", ""))
        assert headers["Date"] == sim.sim.clock.now().strftime("%a, %d %b %Y %H:%M:%S GMT")


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 400), (b"", 200), (b"{}", 200)])
async def test_bodies_are_json_objects_whatever_their_type_says(body, status):
    async with running(api_keys=["k"]) as sim, aiohttp.ClientSession(headers=basic("k", "")) as session:
        url = f"{sim.url}/public/api/projects/SALES/scenarios/NIGHTLY/run/"
        async with session.post(url, data=body, headers={"Content-Type": "text/plain"}) as reply:
            assert reply.status == status
            assert isinstance(await reply.json(), dict)


async def test_rights_of_a_key_are_checked():
    key = ApiKey("k", user="bob", admin=False, projects=frozenset({"SALES"}), rights=frozenset({"READ_CONF"}))
    async with running(api_keys=[key]) as sim, aiohttp.ClientSession(headers=basic("k", "")) as session:
        url = f"{sim.url}/public/api/projects/SALES/scenarios/NIGHTLY"
        statuses = []
        for method, path in (("GET", ""), ("POST", "/run"), ("DELETE", ""), ("PUT", "/light")):
            async with session.request(method, url + path) as reply:
                statuses.append(reply.status)
    assert statuses == [200, 403, 403, 403]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("projects: [{key: P, scenarios: [{id: S, behaviour: {duration: soon}}]}]", "P.S.behaviour.duration"),
        ("projects: [{key: P, scenarios: [{id: S, behaviour: {outcomes: MAYBE}}]}]", "MAYBE is no outcome"),
        ("projects: [{key: P, scenarios: [{id: S, behaviour: {speed: 3}}]}]", "unknown speed"),
        ("projects: [{key: P, scenarios: [{id: S, steps: [{name: x}]}]}]", "neither type, build nor python"),
        (
            "projects: [{key: P, scenarios: [{id: S, triggers: [{type: temporal, params: {frequency: x}}]}]}]",
            "P.S.triggers",
        ),
        ("projects: [{name: x}]", "without key"),
        ("timezone: Mars/Olympus", "timezone"),
        ("- a", "expected keys and values"),
        ("a: [", "not YAML"),
    ],
)
def test_a_world_that_makes_no_sense_is_refused_with_the_place(text, names):
    with pytest.raises(BadWorld, match=names):
        World.from_yaml(text)
