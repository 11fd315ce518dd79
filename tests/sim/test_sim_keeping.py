"""The emulated DSS across restarts, and as a command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dataikuapi
import pytest
import yaml

from tests.sim.driven import WORLD, running
from tocsin.sim import NotAnArchive, SqliteArchive, World

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


async def test_definitions_and_history_survive_a_restart(tmp_path):
    path = tmp_path / "deep" / "sim.db"
    async with running(archive=SqliteArchive(path)) as sim:
        await sim.ask(sim.scenario().run)
        await sim.push("20s")
        settings = await sim.ask(sim.scenario().get_settings)
        settings.active = False
        await sim.ask(settings.save)
        created = await sim.ask(sim.client().get_project("EMPTY").create_scenario, "Mine", "custom_python")
        await sim.ask(sim.scenario("AFTER").delete)
        await sim.ask(sim.client().get_project("SALES").update_variables, {"country": "DE"})
        discussions = await sim.ask(sim.scenario().get_object_discussions)
        await sim.ask(discussions.create_discussion, "Why?", "No idea")
        before = [run.get_info() for run in await sim.ask(sim.scenario().get_last_runs)]
    async with running("projects: []", archive=SqliteArchive(path)) as sim:
        assert await sim.ask(sim.client().list_project_keys) == ["SALES", "EMPTY"]
        assert [run.get_info() for run in await sim.ask(sim.scenario().get_last_runs)] == before
        assert (await sim.ask(sim.scenario().get_settings)).active is False
        assert (await sim.ask(sim.scenario(created.id, "EMPTY").get_settings)).code == ""
        assert "AFTER" not in sim.sim.world.project("SALES").scenarios
        assert (await sim.ask(sim.client().get_project("SALES").get_variables))["standard"] == {"country": "DE"}
        kept = await sim.ask((await sim.ask(sim.scenario().get_object_discussions)).list_discussions)
        assert [one.get_metadata()["topic"] for one in kept] == ["Why?"]
        assert sim.sim.clock.now().timestamp() * 1000 >= before[0]["end"]
        run = (await sim.ask(sim.scenario().get_last_runs))[0]
        details = await sim.ask(run.get_details)
        assert details.first_error_details["message"] == "Out of memory"
        job = sim.client().get_project("SALES").get_job(details.last_step.job_ids[0])
        assert (await sim.ask(job.get_status))["baseStatus"]["state"] == "FAILED"
        assert "Build orders" in await sim.ask(run.get_log)
        await sim.ask(sim.scenario().run)
        await sim.push("20s")
        assert (await sim.ask(sim.scenario().get_last_finished_run)).outcome == "SUCCESS"


async def test_a_run_that_a_restart_cut_off_comes_back_as_aborted(tmp_path):
    path = tmp_path / "sim.db"
    async with running(archive=SqliteArchive(path)) as sim:
        await sim.ask(sim.scenario().run)
        await sim.push("2s")
        cut = sim.world_scenario().current.id
    async with running(archive=SqliteArchive(path)) as sim:
        run = await sim.ask(sim.scenario().get_run, cut)
        assert run.outcome == "ABORTED"
        assert await sim.ask(sim.client().list_running_scenarios, all_users=True) == []


async def test_the_bound_of_the_history_holds_in_the_file_too(tmp_path):
    path = tmp_path / "sim.db"
    world = World.from_yaml(WORLD)
    world.history_limit = 3
    async with running(world, archive=SqliteArchive(path)) as sim:
        for _ in range(4):
            await sim.ask(sim.scenario().run)
            await sim.push("15s")
    async with running(archive=SqliteArchive(path)) as sim:
        assert len(sim.world_scenario().runs) == 3
        sim.sim.engine.clear_history(sim.world_scenario())
    async with running(world, archive=SqliteArchive(path)) as sim:
        await sim.ask(sim.scenario().get_settings)
        count = "SELECT count(*) FROM documents WHERE scenario = 'NIGHTLY' AND run != ''"
        assert sim.sim.archive._db.execute(count).fetchone() == (0,)


@pytest.mark.parametrize("content", [b"hello, I am a text file and quite a long one" * 100, None])
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    import sqlite3

    path = tmp_path / "other"
    if content is None:
        with sqlite3.connect(path) as database:
            database.execute("create table mine (a)")
        database.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(NotAnArchive):
        SqliteArchive(path)
    assert path.read_bytes() == before


def test_the_world_of_the_documentation_is_one():
    text = (ROOT / "docs" / "sim.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]
    world = World.from_yaml(example)
    assert set(world.projects) == {"SALES"}
    scenarios = yaml.safe_load(example)["projects"][0]["scenarios"]
    assert set(world.projects["SALES"].scenarios) == {entry["id"] for entry in scenarios}


def start(*arguments):
    code = "from tocsin.cli.serve import sim; sim()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "daemon"), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_and_ends_cleanly(tmp_path, ending):
    process = start("--listen", "127.0.0.1:0", "--api-key", "k", "--db", str(tmp_path / "s.db"), "--speed", "10")
    try:
        line = process.stdout.readline()
        url = line.split()[3]
        assert line == f"Emulated DSS on {url}  API key: k\n"
        assert "SALES_FORECAST" in dataikuapi.DSSClient(url, "k").list_project_keys()
        process.send_signal(ending)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "nowhere"], "is not HOST:PORT"),
        (["--world", "no-such-file"], "No such file"),
        (["--world", "pyproject.toml"], "tocsin sim: pyproject.toml"),
        (["--db", "pyproject.toml"], "is not a database of this simulator"),
        (["--speed", "-1"], "speed"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments, says):
    process = start(*arguments)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert says in " ".join(err.split())
    assert "Traceback" not in err
