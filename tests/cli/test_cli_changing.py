"""The verbs that change something: what is done, what is kept, and what is told."""

import asyncio
import json
import signal

import pytest
from aiohttp import web

from tests.cli.driven import READER, WRITER, end_of
from tocsin.cli.dss.address import format_address

pytestmark = pytest.mark.e2e


def results(rows):
    return {row["scenario"]: row["result"] for row in rows}


async def test_scenarios_run_at_once_and_the_exit_code_tells_whether_all_succeeded(dss):
    good = await dss.run(
        "scenario", "run", "SALES/NIGHTLY_*", "--wait", "--timeout", "60s", "--param", "day=1", "--json"
    )
    assert (good.code, good.err) == (0, "")
    assert {row["scenario"]: row["outcome"] for row in good.json} == {
        "NIGHTLY_A": "SUCCESS",
        "NIGHTLY_B": "WARNING",
        "NIGHTLY_OFF": "SUCCESS",
    }
    run = dss.sim.world.scenario("SALES", "NIGHTLY_A").runs[good.json[0]["run"]]
    assert run.document["trigger"]["params"] == {"day": "1"}
    strict, bad = await asyncio.gather(
        dss.run("scenario", "run", "SALES/NIGHTLY_B", "--wait", "--strict"),
        dss.run("scenario", "run", "SALES/BROKEN", "SALES/NIGHTLY_A", "--wait"),
    )
    assert (strict.code, bad.code) == (1, 1)
    assert "FAILED" in bad.out
    assert "SUCCESS" in bad.out


async def test_a_wait_that_never_ends_ends_in_time_and_says_that_the_run_goes_on(dss):
    said = await dss.run("scenario", "run", "SALES/ENDLESS", "--timeout", "500ms", "--json")
    assert (said.code, said.json[0]["outcome"]) == (1, None)
    assert "goes on in DSS" in said.json[0]["note"]
    waited, twice = await asyncio.gather(
        dss.run("runs", "wait", "SALES/ENDLESS/current", "--timeout", "500ms"),
        dss.run("scenario", "run", "SALES/ENDLESS", "--wait", "--json"),
    )
    assert (waited.code, waited.err.count("\n")) == (1, 1)
    assert "not within 0.5 s" in waited.err
    assert (twice.code, "cancelled" in twice.json[0]["note"]) == (1, True)
    aborted = await dss.run("runs", "abort", said.json[0]["address"], "--timeout", "60s", "--json")
    assert (aborted.code, aborted.json[0]["outcome"]) == (0, "ABORTED")
    again, idle = await asyncio.gather(
        dss.run("runs", "abort", said.json[0]["address"]), dss.ask("scenario", "abort", "SALES/*")
    )
    assert (again.code, "has ended already" in again.err) == (1, True)
    assert set(results(idle).values()) == {"unchanged"}


async def test_who_interrupts_a_wait_is_told_what_goes_on(dss):
    process = await dss.begin("scenario", "run", "SALES/ENDLESS", "SALES/NIGHTLY_A", "--wait")
    while not any(path.endswith("/ENDLESS/get-last-runs") for _, path in dss.proxy.asked):
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    ended = await end_of(process)
    assert (ended.code, ended.err) == (130, "tocsin: interrupted\n")
    (line,) = [line for line in ended.lines if "/SALES/ENDLESS/" in line]
    assert line.endswith("goes on in DSS")
    assert dss.sim.world.scenario("SALES", "ENDLESS").current is not None


async def test_what_is_disabled_with_save_is_enabled_from_there_and_nothing_else(dss):
    tried = await dss.ask("scenario", "disable", "SALES/*", "--save", "kept.json", "--dry-run")
    assert (dss.folder / "kept.json").exists() is False
    assert dss.definition("NIGHTLY_A")["active"] is True
    done = await dss.ask("scenario", "disable", "SALES/*", "--save", "kept.json")
    assert {k for k, v in results(tried).items() if v == "would change"} == {"NIGHTLY_A", "NIGHTLY_B"}
    assert {k for k, v in results(done).items() if v == "changed"} == {"NIGHTLY_A", "NIGHTLY_B"}
    assert [s.id for s in dss.sim.world.every_scenario() if s.definition["active"]] == ["X", "X"]
    assert not any(path.endswith("/scenarios/BROKEN") for _, path in dss.proxy.asked)  # it is off: nothing to read
    twice = await dss.run("scenario", "disable", "SALES/*", "--save", "kept.json")
    assert (twice.code, "remembers an earlier disable" in twice.err) == (1, True)
    back = await dss.ask("scenario", "enable", "--from", "kept.json")
    assert results(back) == {"NIGHTLY_A": "changed", "NIGHTLY_B": "changed"}
    assert [s.id for s in dss.sim.world.every_scenario() if s.definition["active"]] == [
        "NIGHTLY_A",
        "NIGHTLY_B",
        "X",
        "X",
    ]


async def test_an_edit_keeps_as_whom_a_scenario_runs(dss):
    kept, moved = await asyncio.gather(
        dss.ask("scenario", "disable", "SALES/NIGHTLY_A"),
        dss.ask("scenario", "disable", "SALES/NIGHTLY_B", "--no-keep-run-as"),
    )
    assert "runAsUser set to amelie" in kept[0]["detail"]
    assert "runs as admin from now on, no longer as amelie" in moved[0]["detail"]
    shown = [await dss.ask("scenario", "show", f"SALES/{id}") for id in ("NIGHTLY_A", "NIGHTLY_B")]
    assert [row["effective_run_as"] for row in shown] == ["amelie", "admin"]
    refused = await dss.run("scenario", "disable", "OTHER/X", key=WRITER.secret)
    assert (refused.code, "--no-keep-run-as" in refused.err, refused.err.count("\n")) == (4, True, 1)
    assert dss.definition("X", "OTHER")["active"] is True


async def test_a_bulk_change_that_fails_half_way_tells_what_is_done_and_goes_on_when_run_again(dss):
    def broken(request):
        if request.method == "PUT" and "NIGHTLY_B" in request.path:
            return web.json_response({"errorType": "java.lang.Error", "message": "disk full, invalid"}, status=500)
        return None

    dss.proxy.faults.append(broken)
    half = await dss.run("scenario", "disable", "SALES/NIGHTLY_A", "SALES/NIGHTLY_B", "--save", "kept.json")
    assert half.code == 1
    assert "NIGHTLY_A  changed" in half.out
    assert "SALES/NIGHTLY_B: DSS failed at the request: disk full" in half.err
    assert "1 changed, 1 failed" in half.err
    assert (dss.definition("NIGHTLY_A")["active"], dss.definition("NIGHTLY_B")["active"]) == (False, True)
    dss.proxy.faults.clear()
    rest = await dss.run("scenario", "disable", "SALES/NIGHTLY_A", "SALES/NIGHTLY_B", "--save", "kept.json")
    assert (rest.code, "1 changed, 1 unchanged" in rest.err) == (0, True)
    await dss.ask("scenario", "enable", "--from", "kept.json")
    assert (dss.definition("NIGHTLY_A")["active"], dss.definition("NIGHTLY_B")["active"]) == (True, True)


async def test_when_dss_goes_away_the_rest_is_not_tried(dss):
    def away(request):
        if request.method == "PUT":
            request.transport.abort()
        return

    dss.proxy.faults.append(away)
    everyone = [format_address("SALES", id) for id in dss.sim.world.project("SALES").scenarios]
    (dss.folder / "all.json").write_text(json.dumps({"complete": False, "scenarios": everyone}))
    said = await dss.run("scenario", "enable", "--from", "all.json", "--no-keep-run-as", "--json")
    counts = list(results(said.json).values())
    assert said.code == 3
    assert (counts.count("unchanged"), "failed" in counts) == (2, True)
    assert {"changed", "interrupted"}.isdisjoint(counts)


async def test_scenarios_are_handed_over_to_another_user(dss):
    tried = await dss.ask("scenario", "reassign", "SALES", "--from", "amelie", "--to", "bob", "--dry-run")
    assert set(results(tried).values()) == {"would change"}
    done = await dss.ask("scenario", "reassign", "--from", "amelie", "--to", "bob")
    assert {row["project"] for row in done if row["result"] == "changed"} == {"SALES"}
    assert dss.definition("BROKEN")["runAsUser"] == "bob"
    assert "runAsUser" not in dss.definition("X", "OTHER")
    refused = await dss.run("scenario", "reassign", "OTHER/X", "--from", "jonas", "--to", "bob", key=WRITER.secret)
    assert refused.code == 4


async def test_a_scenario_is_created_defined_and_deleted(dss):
    (dss.folder / "script.py").write_text("print(1)\n")
    made = await dss.ask("scenario", "create", "SALES/Étape v2", "--type", "custom_python", "--code", "script.py")
    assert made["scenario"] == "_tape_v2"
    address = made["address"]
    code = await dss.run("scenario", "code", address)
    assert code.out == "print(1)\n"
    changed = await dss.ask("scenario", "code", address, "--set", "-", stdin="print(2)\n")
    assert changed[0]["result"] == "changed"
    assert (await dss.run("scenario", "code", address)).out == "print(2)\n"
    pattern = await dss.run("scenario", "delete", "SALES/_tape*")
    assert (pattern.code, "--yes" in pattern.err) == (2, True)
    tried = await dss.ask("scenario", "delete", "SALES/_tape*", "--dry-run")
    assert results(tried) == {"_tape_v2": "would change"}
    assert results(await dss.ask("scenario", "delete", address)) == {"_tape_v2": "changed"}
    gone = await dss.run("scenario", "delete", address)
    assert (gone.code, gone.out, gone.err.count("\n")) == (1, "", 1)


async def test_a_definition_is_printed_edited_and_set_unless_somebody_saved_meanwhile(dss):
    read = await dss.run("scenario", "settings", "SALES/BROKEN")
    (dss.folder / "d.json").write_text(read.out.replace('"name": "BROKEN"', '"name": "Broken"'))
    assert (await dss.ask("scenario", "settings", "SALES/BROKEN", "--set", "d.json"))[0]["result"] == "changed"
    assert dss.definition("BROKEN")["name"] == "Broken"
    late = await dss.run("scenario", "settings", "SALES/BROKEN", "--set", "d.json")
    assert (late.code, "saved by somebody" in late.err, late.err.count("\n")) == (1, True, 1)
    for text in ("{", "[]"):
        wrong = await dss.run("scenario", "settings", "SALES/BROKEN", "--set", "-", stdin=text)
        assert (wrong.code, wrong.err.count("\n")) == (2, 1)


async def test_a_definition_that_changes_between_read_and_save_is_not_written_over(dss):
    reads = []

    def another_editor(request):
        if request.method == "GET" and request.path.endswith("/scenarios/NIGHTLY_A"):
            reads.append(request)
            if len(reads) == 2:
                dss.definition("NIGHTLY_A")["versionTag"] = {"versionNumber": 9, "lastModifiedBy": {"login": "eve"}}
        return

    dss.proxy.faults.append(another_editor)
    said = await dss.run("scenario", "disable", "SALES/NIGHTLY_A")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "saved by eve; run this again" in said.err
    assert dss.definition("NIGHTLY_A")["active"] is True


async def test_triggers_of_each_kind_are_added_listed_and_removed(dss):
    kinds = (
        ("periodic", "--every", "30"),
        ("hourly", "--at", "00:05"),
        ("daily", "--at", "3:15", "--days", "mon,Friday", "--timezone", "Europe/Paris"),
        ("monthly", "--run-on", "LAST_DAY_OF_THE_MONTH", "--name", "month"),
        ("--definition", "-"),
    )
    follow = json.dumps({"type": "follow_scenariorun", "name": "after", "params": {"scenarioId": "BROKEN"}})
    for words in kinds:
        await dss.ask("scenario", "trigger", "add", "SALES/NIGHTLY_OFF", *words, stdin=follow)
    rows = await dss.ask("scenario", "trigger", "list", "SALES/NIGHTLY_OFF")
    assert [row["params"].get("frequency") for row in rows] == ["Minutely", "Hourly", "Weekly", "Monthly", None]
    assert (rows[2]["params"]["daysOfWeek"], rows[2]["params"]["hour"]) == (["Monday", "Friday"], 3)
    assert [row["name"] for row in rows[3:]] == ["month", "after"]
    await dss.ask("scenario", "trigger", "remove", "SALES/NIGHTLY_OFF", rows[0]["id"])
    await dss.ask("scenario", "trigger", "remove", "SALES/NIGHTLY_OFF", "month")
    twice, none, no_kind, no_time, no_zone = await asyncio.gather(
        dss.run("scenario", "trigger", "remove", "SALES/NIGHTLY_OFF", "Time-based"),
        dss.run("scenario", "trigger", "remove", "SALES/NIGHTLY_OFF", "nope"),
        dss.run("scenario", "trigger", "add", "SALES/NIGHTLY_OFF"),
        dss.run("scenario", "trigger", "add", "SALES/NIGHTLY_OFF", "daily", "--at", "25:00"),
        dss.run("scenario", "trigger", "add", "SALES/NIGHTLY_OFF", "daily", "--timezone", "Mars/Olympus"),
    )
    assert (twice.code, "2 triggers" in twice.err) == (1, True)
    assert (none.code, no_kind.code, no_time.code, no_zone.code) == (1, 2, 2, 2)
    assert len(dss.definition("NIGHTLY_OFF")["triggers"]) == 3


async def test_a_key_that_may_only_read_changes_nothing(dss):
    codes = await asyncio.gather(
        dss.run("scenario", "run", "SALES/NIGHTLY_A", key=READER.secret),
        dss.run("scenario", "delete", "SALES/NIGHTLY_A", key=READER.secret),
        dss.run("scenario", "create", "SALES/New", key=READER.secret),
        dss.run("scenario", "disable", "SALES/*", key=READER.secret),
    )
    assert [said.code for said in codes] == [4, 4, 4, 4]
    assert [said.err.count("\n") for said in codes[:3]] == [1, 1, 1]
