"""The scenario endpoints: definitions, runs, fires, reports. Table 2.1 of the wire's facts, in docs/sim.md."""

import itertools

from aiohttp import web

from tocsin.kit.clock import to_ms
from tocsin.sim import documents, views
from tocsin.sim.behaviour import Document
from tocsin.sim.http import READ, RUN, WRITE, ApiCall, SimRoute, bad_request, done, forbidden, not_found
from tocsin.sim.nouns import SimRun
from tocsin.sim.reports import html_report, junit_project, junit_run, junit_step, testing_status
from tocsin.sim.shapes import BadDefinition, checked_definition

_MAX_RUNS = 10_000


async def list_scenarios(call: ApiCall) -> object:
    now = call.sim.clock.now()
    return [views.light(scenario, now) for scenario in call.project.scenarios.values()]


async def create(call: ApiCall) -> object:
    body = await _definition(call)
    if not body.get("name"):
        raise bad_request("Could not parse a Scenario from request body: missing name")
    if body.get("runAsUser"):
        _only_admins(call)
    if any(body["name"] == one.definition["name"] for one in call.project.scenarios.values()):
        raise bad_request(f"Scenario already exists: {call.project.key}, {body['name']}")
    if "versionTag" in body:  # the definition of another scenario, which is copied under the new name
        body.pop("id", None)
    for key in ("projectKey", "versionTag", "creationTag"):
        body.pop(key, None)
    body.setdefault("type", "step_based")
    now = call.sim.clock.now()
    scenario = call.sim.world.add_scenario(call.project, body, now=now, login=call.key.user)
    call.sim.engine.changed(scenario)
    return {**views.light(scenario, now), "msg": f"Created scenario {scenario.project_key}.{scenario.id}"}


async def put_definition(call: ApiCall) -> object:
    body, scenario = await _definition(call), call.scenario
    if body.get("runAsUser") != scenario.definition.get("runAsUser"):
        _only_admins(call)
    scenario.definition = documents.replaced(scenario.definition, body, call.key.user, call.sim.clock.now())
    call.sim.engine.changed(scenario)
    return done(f"Updated scenario {scenario.project_key}.{scenario.id}")


async def delete(call: ApiCall) -> object:
    scenario = call.scenario
    call.sim.engine.delete(scenario)
    return done(f"Deleted scenario {scenario.project_key}.{scenario.id}")


async def put_light(call: ApiCall) -> object:
    body, scenario = await _definition(call), call.scenario
    if not body.get("name"):
        raise bad_request("Could not parse a Scenario from request body")
    scenario.definition = documents.light_replaced(scenario.definition, body, call.key.user, call.sim.clock.now())
    call.sim.engine.changed(scenario)
    return done(f"Updated scenario {scenario.project_key}.{scenario.id}")


async def put_payload(call: ApiCall) -> object:
    script = (await call.body()).get("script")
    if not isinstance(script, str):
        raise bad_request("script must be a text")
    call.scenario.payload = script
    call.sim.engine.changed(call.scenario)
    return done("Updated payload")


async def run(call: ApiCall) -> object:
    params = await call.body()
    auth = documents.auth_context(call.key.user, "PERSONAL_API_KEY")
    return call.sim.engine.launch(call.scenario, documents.BY_API, params, auth).document


async def abort(call: ApiCall) -> object:
    asked = call.sim.engine.abort(call.scenario)
    return done("Abort requested" if asked else "Scenario is not running")


async def last_runs(call: ApiCall) -> object:
    limit = min(max(0, call.number("limit", 10)), _MAX_RUNS)
    newest = call.scenario.newest_first(call.flag("onlyFinishedRuns"))
    return [found.document for found in itertools.islice(newest, limit)]


async def runs_by_date(call: ApiCall) -> object:
    first, after = _day(call, "fromDate") or "", _day(call, "toDate") or "9999"
    zone = call.sim.world.zone
    newest = call.scenario.newest_first()
    return [r.document for r in newest if first <= documents.local_day(r.document["start"], zone) < after]


async def run_for_trigger(call: ApiCall) -> object:
    fire = call.scenario.fires.get((call.text("triggerId") or "", call.text("triggerRunId") or ""))
    launched = None if fire is None else fire.run
    if launched is None or launched.id not in call.scenario.runs:
        return {}
    return {"scenarioRun": launched.document}


async def trigger_fire(call: ApiCall) -> object:
    fire = call.scenario.fires.get((call.ids[2], call.text("triggerRunId") or ""))
    if fire is None:
        raise not_found(f"trigger run does not exist: {call.ids[2]} {call.text('triggerRunId')}")
    return fire.document


async def run_log(call: ApiCall) -> object:
    return web.Response(text=_run(call).log.text(call.sim.world.zone, call.text("stepId")))


async def step_report(call: ApiCall) -> object:
    found = junit_step(_tested(call), call.text("stepId") or "")
    if found is None:
        raise not_found(f"step run does not exist: {call.text('stepId')}")
    return _xml(found)


async def project_html_report(call: ApiCall) -> object:
    return web.Response(text=html_report(call.project), content_type="text/html")


async def list_discussions(call: ApiCall) -> object:
    kept = _discussed(call)
    return [{key: value for key, value in one.items() if key != "replies"} for one in kept.values()]


async def create_discussion(call: ApiCall) -> object:
    body, kept = await call.body(), _discussed(call)
    discussion = {"id": documents.opaque_id(), "topic": str(body.get("topic", "")), "replies": [_reply(call, body)]}
    kept[str(discussion["id"])] = discussion
    call.sim.engine.changed(call.scenario_at(2))
    return discussion


async def put_discussion(call: ApiCall) -> object:
    body, discussion = await call.body(), _discussion(call)
    discussion["topic"] = str(body.get("topic", discussion["topic"]))
    call.sim.engine.changed(call.scenario_at(2))
    return discussion


async def add_reply(call: ApiCall) -> object:
    body, discussion = await call.body(), _discussion(call)
    discussion["replies"].append(_reply(call, body))
    call.sim.engine.changed(call.scenario_at(2))
    return discussion


def _run(call: ApiCall) -> SimRun:
    try:
        return call.scenario.runs[call.ids[2]]
    except KeyError:
        raise not_found(f"scenario run does not exist: {call.ids[0]}.{call.ids[1]} {call.ids[2]}") from None


def _tested(call: ApiCall) -> SimRun:
    found = _run(call)
    if not found.document["scenario"].get("markedAsTest"):
        raise bad_request("Reports are only available for test scenarios")
    return found


async def _definition(call: ApiCall) -> Document:
    """The definition in the body."""
    try:
        return checked_definition(await call.body())
    except BadDefinition as misfit:
        raise bad_request(f"Could not parse a Scenario from request body: {misfit}") from None


def _only_admins(call: ApiCall) -> None:
    if not call.key.admin:
        raise forbidden("Action forbidden, only administrators may set the user that a scenario runs as")


def _day(call: ApiCall, name: str) -> str | None:
    value = call.text(name)
    return value[:10] if value else None


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/xml")


def _discussed(call: ApiCall) -> dict[str, Document]:
    if call.ids[1] != "SCENARIO":
        raise not_found(f"discussions of {call.ids[1]} objects are not emulated")
    return call.scenario_at(2).discussions


def _discussion(call: ApiCall) -> Document:
    try:
        return _discussed(call)[call.ids[3]]
    except KeyError:
        raise not_found(f"discussion does not exist: {call.ids[3]}") from None


def _reply(call: ApiCall, body: Document) -> Document:
    now = to_ms(call.sim.clock.now())
    return {"text": str(body.get("reply", "")), "author": call.key.user, "time": now, "editedOn": 0}


_ALL = "projects/*/scenarios"
_ONE = "projects/*/scenarios/*"
_TALK = "projects/*/discussions/*/*"

ROUTES = (
    SimRoute("GET", _ALL, READ, list_scenarios),
    SimRoute("POST", _ALL, WRITE, create),
    SimRoute("GET", _ONE, READ, lambda call: call.scenario.definition),
    SimRoute("PUT", _ONE, WRITE, put_definition),
    SimRoute("DELETE", _ONE, WRITE, delete),
    SimRoute("GET", f"{_ONE}/light", READ, lambda call: views.light(call.scenario, call.sim.clock.now())),
    SimRoute("PUT", f"{_ONE}/light", WRITE, put_light),
    SimRoute("GET", f"{_ONE}/payload", READ, lambda call: {"script": call.scenario.payload}),
    SimRoute("PUT", f"{_ONE}/payload", WRITE, put_payload),
    SimRoute("POST", f"{_ONE}/run", RUN, run),
    SimRoute("POST", f"{_ONE}/abort", RUN, abort),
    SimRoute("GET", f"{_ONE}/get-last-runs", READ, last_runs),
    SimRoute("GET", f"{_ONE}/get-runs-by-date", READ, runs_by_date),
    SimRoute("GET", f"{_ONE}/get-run-for-trigger", READ, run_for_trigger),
    SimRoute("GET", f"{_ONE}/*", READ, lambda call: _run(call).details()),
    SimRoute("GET", f"{_ONE}/*/log", READ, run_log),
    SimRoute("GET", f"{_ONE}/*/scenario-run-report", READ, lambda call: _xml(junit_run(_tested(call)))),
    SimRoute("GET", f"{_ONE}/*/step-run-report", READ, step_report),
    SimRoute("GET", f"{_ALL}/trigger/*/*", READ, trigger_fire),
    SimRoute("GET", f"{_ALL}/last-test-scenario-runs-report", READ, lambda call: _xml(junit_project(call.project))),
    SimRoute("GET", f"{_ALL}/last-test-scenario-runs-html-report", READ, project_html_report),
    SimRoute("GET", f"{_ALL}/testing-status", READ, lambda call: testing_status(call.project)),
    SimRoute("GET", _TALK, READ, list_discussions),
    SimRoute("POST", _TALK, WRITE, create_discussion),
    SimRoute("GET", f"{_TALK}/*", READ, lambda call: _discussion(call)),
    SimRoute("PUT", f"{_TALK}/*", WRITE, put_discussion),
    SimRoute("POST", f"{_TALK}/*/replies", WRITE, add_reply),
)
