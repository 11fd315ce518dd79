"""The faked DSS: the official client can read it, its faults are what they say, its ledger tells the truth."""

import asyncio
import json
import ssl
import sys
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import aiohttp
import dataikuapi
import pytest

from tests.fakedss import Answer, Dialect, FakeDSS, Life, between, eventually, faults, make_certificate
from tests.fakedss.answers import Wire
from tests.fakedss.process import ROOT

LAST_RUNS = "/dip/publicapi/projects/P/scenarios/S/get-last-runs?limit=10&onlyFinishedRuns=False"


@pytest.fixture
async def dss():
    async with FakeDSS() as fake:
        fake.world.add_scenario("P", "S", "Nightly", tags=("daily",))
        yield fake


@pytest.fixture
async def web():
    async with aiohttp.ClientSession() as session:
        yield session


async def get(web, dss, path, key=None, **more):
    headers = {"Authorization": f"Bearer {key or dss.api_key}"}
    async with web.get(dss.url + path, headers=headers, **more) as response:
        return response.status, response.headers, await response.read()


async def runs(web, dss):
    return json.loads((await get(web, dss, LAST_RUNS))[2])


async def test_the_official_client_reads_projects_scenarios_runs_details_log_and_futures(dss):
    run_id = dss.start_run("P", "S")

    def read_while_running():
        client = dataikuapi.DSSClient(dss.url, dss.admin_key)
        [future] = client.list_running_scenarios(all_users=True)
        scenario = client.get_project("P").get_scenario("S")
        return client, future["payload"]["targets"][0]["objectId"], scenario.get_current_run().id

    client, target, current = await asyncio.to_thread(read_while_running)
    assert (target, current) == ("S", run_id)
    dss.end_run("P", "S", "FAILED", error="no such table")

    def read_after():
        project = client.get_project("P")
        scenario = project.get_scenario("S")
        run = scenario.get_run(run_id)
        day = dss.world.now().date()
        by_date = scenario.get_runs_by_date(day - timedelta(days=1), day + timedelta(days=2))
        assert [item["id"] for item in project.list_scenarios()] == ["S"]
        assert client.list_project_keys() == ["P"]
        assert client.get_instance_info().node_name == "fake"
        assert scenario.get_status().running is False
        assert scenario.get_settings().active is True
        assert "no such table" in run.get_log()
        return run.outcome, run.get_details().first_error_details["message"], [r.id for r in by_date]

    assert await asyncio.to_thread(read_after) == ("FAILED", "no such table", [run_id])


@pytest.mark.parametrize("auth", ["Bearer", "user", "password", "ticket"])
@pytest.mark.parametrize("path", ["//dip/publicapi/projects", "/public/api/projects/"])
async def test_both_prefixes_take_the_key_in_every_place_and_tell_the_version(dss, web, auth, path):
    key = dss.api_key
    headers = {
        "Bearer": {"Authorization": f"Bearer {key}"},
        "user": {"Authorization": f"Basic {b64encode(f'{key}:'.encode()).decode()}"},
        "password": {"Authorization": f"Basic {b64encode(f':{key}'.encode()).decode()}"},
        "ticket": {"X-DKU-APITicket": key},
    }[auth]
    async with web.get(dss.url + path, headers=headers) as response:
        assert [item["projectKey"] for item in await response.json()] == ["P"]
        assert response.headers["DSS-Version"] == dss.dialect.version


async def test_the_servers_clock_rules_date_header_runs_and_local_run_ids(web):
    noon = datetime(2026, 1, 15, 12, tzinfo=UTC)
    async with FakeDSS("Asia/Seoul", clock_ms=lambda: round(noon.timestamp() * 1000)) as dss:
        dss.world.add_scenario("P", "S")
        dss.jump(timedelta(hours=1))
        assert dss.start_run("P", "S") == "2026-01-15-22-00-00-000"
        _, headers, _ = await get(web, dss, LAST_RUNS)
        assert headers["Date"] == "Thu, 15 Jan 2026 13:00:00 GMT"


async def test_in_the_autumn_night_two_runs_an_hour_apart_share_a_run_id(dss):
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    ids = []
    for start in (first, first + timedelta(hours=1)):
        ids.append(dss.start_run("P", "S", start))
        dss.end_run("P", "S", at=start + timedelta(minutes=1))
    assert ids == ["2026-10-25-02-30-00-000"] * 2


async def test_last_runs_are_newest_first_and_keep_the_limit_and_the_filter(dss, web):
    old = dss.world.instant_run("P", "S", "WARNING", ago=timedelta(hours=1))
    new = dss.start_run("P", "S")
    assert [(r["runId"], r["end"] > 0, "result" in r) for r in await runs(web, dss)] == [
        (new, False, False),
        (old, True, True),
    ]
    _, _, finished = await get(web, dss, LAST_RUNS.replace("False", "True"))
    assert [r["runId"] for r in json.loads(finished)] == [old]
    dss.dialect.max_limit = 1
    assert [r["runId"] for r in await runs(web, dss)] == [new]


async def test_futures_of_others_are_for_the_admin_key_alone(dss, web):
    path = "/dip/publicapi/futures/?withScenarios=True&withNotScenarios=False&allUsers=True"
    dss.start_run("P", "S")
    assert (await get(web, dss, path))[0] == 403
    assert len(json.loads((await get(web, dss, path, dss.admin_key))[2])) == 1
    dss.dialect.futures_of_others = "empty"
    assert (await get(web, dss, path))[2] == b"[]"


async def test_a_revoked_key_a_hidden_project_and_a_missing_one_answer_as_dss_does(dss, web):
    async def ask(path=LAST_RUNS):
        status, _, body = await get(web, dss, path)
        return status, json.loads(body)

    dss.hide_project("P")
    assert [(await ask())[0], (await ask("/public/api/projects/"))[1]] == [403, []]
    dss.show_project("P")
    dss.revoke_key(dss.api_key)
    status, body = await ask()
    assert (status, body["message"]) == (401, "Unknown API Key")
    dss.restore_key(dss.api_key)
    dss.world.remove_project("P")
    assert (await ask())[0] == 404
    dss.dialect.missing_is_500 = True
    status, body = await ask()
    assert (status, "does not exist" in body["message"]) == (500, True)


async def test_a_write_is_refused_and_remembered(dss, web):
    headers = {"Authorization": f"Bearer {dss.api_key}"}
    async with web.post(dss.url + "/public/api/projects/P/scenarios/S/run", headers=headers) as response:
        assert response.status == 405
    assert dss.writes == ["POST /public/api/projects/P/scenarios/S/run"]


REPLIES = {
    "status": (faults.status(500), 500, b"errorType"),
    "too_many": (faults.too_many("7"), 429, b"Slow down"),
    "html": (faults.html(502), 502, b"<h1>502</h1>"),
    "forbidden": (faults.forbidden(), 403, b"forbidden"),
    "null": (faults.reply(None), 200, b"null"),
    "cut_json": (faults.cut_json(), 200, b'[{"scenario"'),
    "missing": (faults.missing("runId"), 200, b'"end"'),
    "nulled": (faults.nulled("runId"), 200, b'"runId": null, "start"'),
    "drip": (faults.drip(0.0001, 100), 200, b'"runId"'),
    "slow": (faults.slow(0.01), 200, b'"runId"'),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_fault_answers_as_it_says_and_ends_with_its_rule(dss, web, name):
    fault, status, piece = REPLIES[name]
    dss.world.instant_run("P", "S")
    with dss.fail(fault, "last_runs"):
        got, headers, body = await get(web, dss, LAST_RUNS)
        assert (got, piece in body) == (status, True)
        assert headers.get("Retry-After") == ("7" if name == "too_many" else None)
    assert len(await runs(web, dss)) == 1


async def test_strangers_stand_among_the_true_items_shuffled_and_in_ten_megabytes(dss, web):
    for _ in range(3):
        dss.world.instant_run("P", "S")
        dss.jump(timedelta(seconds=1))
    plain = await runs(web, dss)
    for fault in (faults.strangers(), faults.shuffled(seed=2), faults.huge(10)):
        dss.fail(fault)
    _, _, body = await get(web, dss, LAST_RUNS)
    mixed = json.loads(body)
    true = [item for item in mixed if isinstance(item, dict) and item.get("runId")]
    assert (len(mixed), len(body) > 10_000_000) == (9, True)
    assert true != plain
    assert sorted(true, key=lambda run: -run["start"]) == plain


def test_sprinkled_faults_come_in_their_shares_and_from_their_seed():
    def draw(seed):
        fault = faults.sprinkled(seed)
        return [fault(Answer(body=b"{}")) for _ in range(20_000)]

    drawn = draw(1)
    assert drawn == draw(1) != draw(2)
    kinds = Counter((one.status, "Retry-After" in one.headers, one.wire, one.delay) for one in drawn)
    shares = {kind: round(count / 200) for kind, count in kinds.items()}
    assert shares == {
        (200, False, Wire.WHOLE, 0): 91,
        (200, False, Wire.WHOLE, 5): 1,
        (200, False, Wire.RESET, 0): 2,
        (429, False, Wire.WHOLE, 0): 1,
        (429, True, Wire.WHOLE, 0): 1,
        (500, False, Wire.WHOLE, 0): 4,
    }


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.reset(), aiohttp.ClientOSError),
        (faults.reset_after_headers(), aiohttp.ClientError),
        (faults.truncated(), aiohttp.ClientPayloadError),
        (faults.never(), TimeoutError),
    ],
)
async def test_a_broken_wire_breaks_the_request_and_the_next_one_is_well(dss, web, fault, error):
    with dss.fail(fault), pytest.raises(error):
        await get(web, dss, LAST_RUNS, timeout=aiohttp.ClientTimeout(0.2))
    assert await runs(web, dss) == []


async def test_rules_count_choose_and_compose(dss, web):
    async def statuses(count):
        return [(await get(web, dss, LAST_RUNS))[0] for _ in range(count)]

    dss.fail(faults.status(500), "last_runs", nth=[1, 3])
    dss.fail(faults.status(503), project="OTHER")
    assert await statuses(4) == [500, 200, 500, 200]
    dss.rules.clear()
    dss.fail(faults.status(500), probability=0.5, seed=1)
    drawn = await statuses(20)
    dss.rules.clear()
    dss.fail(faults.status(500), probability=0.5, seed=1)
    assert await statuses(20) == drawn
    assert set(drawn) == {200, 500}
    dss.rules.clear()
    dss.fail(faults.status(500), until=0)
    assert await statuses(1) == [200]


async def test_a_held_answer_waits_for_the_test(dss, web):
    gate = asyncio.Event()
    dss.fail(faults.held(gate))
    asking = asyncio.create_task(get(web, dss, LAST_RUNS))
    await eventually(lambda: dss.in_flight == 1, every=0.001)
    assert not asking.done()
    gate.set()
    assert (await asking)[0] == 200


async def test_a_node_that_goes_down_refuses_and_comes_back_on_the_same_port(dss, web):
    url = dss.url
    assert await runs(web, dss) == []
    await dss.go_down()
    with pytest.raises(aiohttp.ClientConnectionError):
        await runs(web, dss)
    await dss.go_up()
    assert (await runs(web, dss), dss.url) == ([], url)


@pytest.mark.e2e
async def test_tls_is_trusted_by_its_own_file_until_the_certificate_ran_out(tmp_path, web):
    good, old = make_certificate(tmp_path), make_certificate(tmp_path, "old", expired=True)
    trust = ssl.create_default_context(cafile=good.cert_file)
    trust.load_verify_locations(old.cert_file)
    async with FakeDSS(tls=good) as dss:
        status, _, _ = await get(web, dss, "/public/api/projects/", ssl=trust)
        assert (dss.url.split(":")[0], status) == ("https", 200)
        await dss.go_down()
        dss.show_certificate(old)
        await dss.go_up()
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
            await get(web, dss, "/public/api/projects/", ssl=trust)


async def test_the_ledger_keeps_what_dss_forgets(dss, web):
    done = dss.world.instant_run("P", "S")
    dss.world.clear_history()
    dss.start_run("P", "S")
    dss.world.restart("vanished")
    assert await runs(web, dss) == []
    assert [run.id for run in dss.ledger.finished()] == [done]
    aborted = dss.start_run("P", "S")
    dss.world.restart()
    assert [(r["runId"], r["result"]["outcome"]) for r in await runs(web, dss)] == [(aborted, "ABORTED")]
    assert (len(dss.ledger.started()), dss.ledger.running()) == (3, [])


def cloud_event(fact):
    name, project, scenario, run = fact
    return {"type": f"tocsin.{name}", "data": {"project": project, "scenario": {"id": scenario}, "run": {"id": run}}}


async def test_the_ledger_tells_what_an_event_log_lost_repeated_and_invented(dss):
    watched_since = dss.world.now_ms()
    dss.world.instant_run("P", "S", ago=timedelta(hours=2))  # baseline
    for outcome in ("SUCCESS", "FAILED", "ABORTED", "WARNING"):
        dss.world.instant_run("P", "S", outcome, ago=timedelta(seconds=-1))
        dss.jump(timedelta(seconds=1))
    facts = dss.ledger.facts(watched_since)
    assert [fact[0] for fact in facts if fact[0] != "run.started"] == [
        "run.finished",
        "run.failed",
        "run.aborted",
        "run.finished",
    ]
    agree = dss.ledger.compare(map(cloud_event, facts), watched_since)
    assert (agree.lost, agree.twice, agree.invented) == ((), (), ())
    wrong = [*facts[1:], facts[2], ("run.started", "P", "S", "never")]
    found = dss.ledger.compare(map(cloud_event, wrong), watched_since)
    assert (found.lost, found.twice, found.invented) == ((facts[0],), (facts[2],), (wrong[-1],))


def a_day_of_life(seed):
    dss = FakeDSS(clock_ms=lambda: 1_800_000_000_000)
    dss.world.populate(20, 10)
    life = Life(dss.world, 0.5, between(1, 3600), seed)
    life.step(dss.clock_ms() + 86_400_000)
    return dss


@pytest.mark.e2e
def test_a_life_has_its_rate_no_overlap_and_is_the_same_for_the_same_seed():
    dss = a_day_of_life(1)
    history = [(r.scenario, r.id, r.end_ms, r.outcome) for r in dss.ledger.runs]
    assert history == [(r.scenario, r.id, r.end_ms, r.outcome) for r in a_day_of_life(1).ledger.runs]
    assert 0 < len(history) < 0.55 * 86_400
    for scenario in dss.world.all_scenarios():
        ended = [run for run in scenario.history if run.end_ms]
        assert all(a.end_ms <= b.start_ms for a, b in pairwise(ended))
    assert len(dss.world.running) == len(dss.ledger.running())


@pytest.mark.e2e
async def test_ten_thousand_scenarios_are_listed_and_counted(web):
    async with FakeDSS(dialect=Dialect(idle_start=False)) as dss:
        dss.world.populate(200, 50)
        items = []
        for project in dss.world.projects:
            _, _, body = await get(web, dss, f"/public/api/projects/{project}/scenarios/")
            items += json.loads(body)
        assert (len(items), any("start" in item for item in items)) == (10_000, False)
        assert (dss.counts["scenarios"], dss.asked("scenarios", "P00?"), dss.peak_in_flight) == (200, 10, 1)
        assert sum(dss.per_second.values()) == 200


@pytest.mark.e2e
async def test_as_a_process_it_follows_its_script_and_its_remote_control(tmp_path, web):
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"at": 0, "do": "start_run", "project": "P000", "scenario": "S001"}]))
    command = [sys.executable, "-m", "tests.fakedss", "--scenarios", "2", "--script", str(script), "--rate", "50"]
    process = await asyncio.create_subprocess_exec(*command, "--durations", "0.01:0.1", cwd=ROOT, stdout=-1)
    assert process.stdout
    try:
        url = json.loads(await process.stdout.readline())["url"]

        async def do(**action):
            async with web.post(url + "/fake/do", json=action) as response:
                return response.status, await response.json()

        async def ledger():
            async with web.get(url + "/fake/ledger") as response:
                return await response.json()

        async def the_scripted_run():
            return [r for r in await ledger() if r["scenario"] == "S001" and r["end_ms"] == 0]

        await eventually(the_scripted_run)
        assert (await do(do="instant_run", project="P000", scenario="S001"))[0] == 400  # it runs
        assert (await do(do="fail", fault="status", args=[503], nth=[1]))[0] == 200
        async with web.get(url + "/public/api/projects/", headers={"X-DKU-APITicket": "admin-key"}) as response:
            assert response.status == 503
        async with web.get(url + "/fake/counts") as response:
            assert (await response.json())["by_operation"] == {"projects": 1}
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        assert await process.wait() == 0
