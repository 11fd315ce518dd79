"""The official client, call for call: what it sends, ours sends too."""

import asyncio
import importlib
import inspect
import json
import warnings
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from aiohttp import web

from tocsin import dss

dataikuapi = pytest.importorskip("dataikuapi", reason="the official client is not installed")

RUN = {
    "runId": "R",
    "start": 1,
    "end": 2,
    "scenario": {"projectKey": "P", "id": "S", "markedAsTest": True},
    "result": {"outcome": "SUCCESS"},
}
FIRE = {"runId": "F", "trigger": {"id": "T"}, "cancelled": False}
CHANNEL = {"id": "C", "type": "smtp", "family": "mail"}
DISCUSSION = {"id": "D", "topic": "t", "replies": []}


def answer(request: web.BaseRequest) -> Any:
    path = request.path.removeprefix("/dip/publicapi")
    match path.rstrip("/").rsplit("/", 1)[-1]:
        case "run" | "T":
            return FIRE
        case "get-last-runs" | "get-runs-by-date":
            return [RUN]
        case "R" | "get-run-for-trigger":
            return {"scenarioRun": RUN, "stepRuns": []}
        case "light":
            return {"active": True, "running": False}
        case "projects":
            return [{"projectKey": "P"}]
        case "scenarios" if request.method == "POST":
            return {"id": "S"}
        case "scenarios" | "jobs" | "running" | "futures":
            return [{"id": "S", "name": "S", "markedAsTest": True, "jobId": "J", "projectKey": "P"}]
        case "messaging-channels":
            return [CHANNEL]
        case "variables":
            return {"standard": {}, "local": {}}
        case "SCENARIO" | "D" | "replies":
            return DISCUSSION
    if path.endswith("/discussions/SCENARIO/S/"):
        return [DISCUSSION] if request.method == "GET" else DISCUSSION
    return {"id": "S", "type": "custom_python", "active": True, "triggers": [], "script": "x", "jobId": "J"} | CHANNEL


Call = Callable[[Any], Any]


def project(client: Any) -> Any:
    return client.get_project("P")


def scenario(client: Any) -> Any:
    return client.get_project("P").get_scenario("S")


# Each takes a client of either kind and returns a value or an awaitable; two-step calls go through `after`.
CALLS: dict[str, Call] = {
    "auth info": lambda c: c.get_auth_info(),
    "instance info": lambda c: c.get_instance_info(),
    "projects": lambda c: c.list_projects(),
    "running scenarios": lambda c: c.list_running_scenarios(all_users=True),
    "futures": lambda c: c.list_futures(),
    "running jobs": lambda c: c.list_running_jobs(),
    "global variables": lambda c: c.get_global_variables(),
    "peek": lambda c: c.get_future("J").peek_state(),
    "state": lambda c: c.get_future("J").get_state(),
    "abort future": lambda c: c.get_future("J").abort(),
    "channel": lambda c: c.get_messaging_channel("C"),
    "channels": lambda c: c.list_messaging_channels(channel_family="mail", channel_type="smtp"),
    "summary": lambda c: project(c).get_summary(),
    "project settings": lambda c: project(c).get_settings(),
    "variables": lambda c: project(c).get_variables(),
    "set variables": lambda c: project(c).set_variables({"standard": {"a": 1}, "local": {}}),
    "update variables": lambda c: project(c).update_variables({"a": 1}),
    "jobs": lambda c: project(c).list_jobs(),
    "running jobs of a project": lambda c: project(c).list_running_jobs(),
    "job": lambda c: project(c).get_job("J").get_status(),
    "job log": lambda c: project(c).get_job("J").get_log(),
    "job activity log": lambda c: project(c).get_job("J").get_log("act"),
    "abort job": lambda c: project(c).get_job("J").abort(),
    "scenarios": lambda c: project(c).list_scenarios(),
    "scenario objects": lambda c: project(c).list_scenarios("objects"),
    "test scenarios": lambda c: project(c).list_test_scenarios(),
    "testing status": lambda c: project(c).get_testing_status("b1"),
    "test report": lambda c: project(c).get_last_test_scenario_runs_report(),
    "test html report": lambda c: project(c).get_last_test_scenario_runs_html_report("b1"),
    "create": lambda c: project(c).create_scenario("S", "step_based"),
    "run": lambda c: scenario(c).run({"a": 1}),
    "run without parameters": lambda c: scenario(c).run(),
    "abort": lambda c: scenario(c).abort(),
    "delete": lambda c: scenario(c).delete(),
    "status": lambda c: scenario(c).get_status(),
    "settings": lambda c: scenario(c).get_settings(),
    "last runs": lambda c: scenario(c).get_last_runs(limit=3, only_finished_runs=True),
    "runs by date": lambda c: scenario(c).get_runs_by_date(date(2026, 1, 1), date(2026, 1, 2)),
    "current run": lambda c: scenario(c).get_current_run(),
    "one run": lambda c: scenario(c).get_run("R"),
    "trigger fire": lambda c: scenario(c).get_trigger_fire("T", "F"),
    "definition": lambda c: scenario(c).get_definition(),
    "full definition": lambda c: scenario(c).get_definition(with_status=False),
    "set definition": lambda c: scenario(c).set_definition({"id": "S"}),
    "payload": lambda c: scenario(c).get_payload(),
    "set payload": lambda c: scenario(c).set_payload("x"),
    "discussions": lambda c: scenario(c).get_object_discussions().list_discussions(),
    "discussion": lambda c: scenario(c).get_object_discussions().get_discussion("D"),
    "new discussion": lambda c: scenario(c).get_object_discussions().create_discussion("t", "m"),
}
THEN: dict[str, tuple[str, Call]] = {
    "details": ("one run", lambda run: run.get_details()),
    "refresh": ("one run", lambda run: run.refresh()),
    "log": ("one run", lambda run: run.get_log()),
    "step log": ("one run", lambda run: run.get_log("st")),
    "report": ("one run", lambda run: run.get_report()),
    "step report": ("one run", lambda run: run.get_step_run_report("st")),
    "run of a fire": ("run", lambda fire: fire.get_scenario_run()),
    "cancelled": ("run", lambda fire: fire.is_cancelled(refresh=True)),
    "reply": ("discussion", lambda discussion: discussion.add_reply("r")),
    "metadata": ("discussion", lambda discussion: discussion.set_metadata({"id": "D", "topic": "u"})),
}


@pytest.mark.parametrize("name", [*CALLS, *THEN])
async def test_both_clients_send_the_same(serve: Any, connect: Any, name: str) -> None:
    server = await serve(answer)
    first, *then = [CALLS[name]] if name in CALLS else [CALLS[THEN[name][0]], THEN[name][1]]

    def official() -> None:
        value = dataikuapi.DSSClient(server.url, "key")
        for call in (first, *then):
            value = call(value)

    async def ours() -> None:
        value = connect(server)
        for call in (first, *then):
            value = call(value)
            value = await value if inspect.isawaitable(value) else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        await asyncio.to_thread(official)
        theirs, server.asked = server.asked, []
        await ours()
    assert [said(a) for a in server.asked] == [said(a) for a in theirs]


NOT_OURS = {
    "DSSFuture": {"from_resp", "get_result_wait_if_needed"}  # for calls that ours does not have
}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("scenario", n) for n, _ in inspect.getmembers(dataikuapi.dss.scenario, inspect.isclass) if n in vars(dss)),
        *(("job", n) for n in ("DSSJob", "DSSJobListItem")),
        *(("discussion", n) for n in ("DSSObjectDiscussions", "DSSDiscussion", "DSSDiscussionReply")),
        ("future", "DSSFuture"),
    ],
)
def test_every_method_and_property_of_the_official_class_is_there(module: str, name: str) -> None:
    theirs = getattr(importlib.import_module(f"dataikuapi.dss.{module}"), name)
    public = {attribute for attribute in vars(theirs) if not attribute.startswith("_")}
    assert public - set(dir(getattr(dss, name))) == NOT_OURS.get(name, set())


def arguments(method: Any) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name != "self"]


@pytest.mark.parametrize("name", ["DSSScenario", "DSSScenarioSettings", "DSSScenarioRun", "DSSTriggerFire"])
def test_methods_take_the_arguments_of_the_official_ones_in_their_order(name: str) -> None:
    theirs, ours = getattr(dataikuapi.dss.scenario, name), getattr(dss, name)
    methods = [n for n, found in vars(theirs).items() if not n.startswith("_") and inspect.isfunction(found)]
    for method in methods:
        expected = arguments(getattr(theirs, method))
        assert (method, arguments(getattr(ours, method))[: len(expected)]) == (method, expected)


def test_every_class_of_the_official_scenario_module_is_there() -> None:
    classes = inspect.getmembers(dataikuapi.dss.scenario, inspect.isclass)
    theirs = {name for name, found in classes if found.__module__ == "dataikuapi.dss.scenario"}
    assert theirs - set(vars(dss)) == set()


def said(asked: Any) -> tuple[str, str, list[str], Any]:
    path, _, query = asked.target.partition("?")
    return asked.method, path, sorted(query.split("&")), json.loads(asked.body) if asked.body else None
