"""The endpoints: scenarios with their runs and reports, projects, futures, jobs, messaging channels, the instance.

docs/sim.md says what is emulated. Mail channels of type smtp really send.
"""

import itertools
import json

from aiohttp import web

from tocsin.kit.clock import to_ms
from tocsin.sim import documents
from tocsin.sim.behaviour import Document, as_list
from tocsin.sim.entities import SimJob, SimProject, SimRun, SimScenario
from tocsin.sim.http import (
    ADMIN,
    READ,
    RUN,
    WRITE,
    ApiCall,
    RequestRefused,
    SimRoute,
    bad_request,
    forbidden,
    not_found,
)
from tocsin.sim.reporters import (
    MAIL_TYPES,
    MESSAGING_ERROR,
    MessageNotSent,
    SimMail,
    html_report,
    junit_project,
    junit_run,
    testing_status,
)

_MAX_RUNS = 10_000
_LIGHT_FIELDS = ("active", "checklists", "description", "shortDesc", "tags")  # what a PUT of the light form changes
_PROJECT_SETTINGS = ("disableAutomaticTriggers", "settings", "exposedObjects")
_CHANNEL_TYPES = (*MAIL_TYPES, "slack", "msft-teams", "google-chat", "twilio", "shell")


def _done(message: str) -> Document:
    """The answer of a change that returns nothing else; clients insist on an object."""
    return {"msg": message}


# Scenarios


async def _definition(call: ApiCall) -> Document:
    """The definition in the body."""
    try:
        return documents.checked_definition(await call.body())
    except documents.BadDefinition as error:
        raise bad_request(f"Could not parse a Scenario from request body: {error}") from None


def _require_admin(call: ApiCall) -> None:
    if not call.key.admin:
        raise forbidden("Action forbidden, only administrators may set the user that a scenario runs as")


async def _create_scenario(call: ApiCall) -> object:
    body = await _definition(call)
    if not body.get("name"):
        raise bad_request("Could not parse a Scenario from request body: missing name")
    if body.get("runAsUser"):
        _require_admin(call)
    if any(body["name"] == scenario.definition["name"] for scenario in call.project.scenarios.values()):
        raise bad_request(f"Scenario already exists: {call.project.key}, {body['name']}")
    if "versionTag" in body:  # the definition of another scenario, which is copied under the new name
        body.pop("id", None)
    for key in ("projectKey", "versionTag", "creationTag"):
        body.pop(key, None)
    scenario = call.world.add_scenario(call.project, body, now=call.now, login=call.key.user)
    call.engine.changed(scenario)
    message = f"Created scenario {scenario.project_key}.{scenario.id}"
    return {**documents.scenario_item(scenario, call.now), **_done(message)}


async def _put_definition(call: ApiCall) -> object:
    body, scenario = await _definition(call), call.scenario
    if body.get("runAsUser") != scenario.definition.get("runAsUser"):
        _require_admin(call)
    return _save(call, scenario, body)


async def _put_light(call: ApiCall) -> object:
    body, scenario = await _definition(call), call.scenario
    if not body.get("name"):
        raise bad_request("Could not parse a Scenario from request body")
    return _save(call, scenario, {**scenario.definition, **{key: body[key] for key in _LIGHT_FIELDS if key in body}})


def _save(call: ApiCall, scenario: SimScenario, new: Document) -> Document:
    scenario.definition = documents.replaced_definition(scenario.definition, new, call.key.user, call.now)
    call.engine.changed(scenario)
    return _done(f"Updated scenario {scenario.project_key}.{scenario.id}")


async def _put_payload(call: ApiCall) -> object:
    script = (await call.body()).get("script")
    if not isinstance(script, str):
        raise bad_request("script must be a text")
    call.scenario.payload = script
    call.engine.changed(call.scenario)
    return _done("Updated payload")


def _delete_scenario(call: ApiCall) -> object:
    scenario = call.scenario
    call.engine.delete(scenario)
    return _done(f"Deleted scenario {scenario.project_key}.{scenario.id}")


async def _launch(call: ApiCall) -> object:
    params = await call.body()
    auth = documents.auth_context(call.key.user, "PERSONAL_API_KEY")
    return call.engine.launch(call.scenario, documents.BY_API, params, auth).document


def _abort_scenario(call: ApiCall) -> object:
    return _done("Abort requested" if call.engine.abort(call.scenario) else "Scenario is not running")


def _last_runs(call: ApiCall) -> object:
    limit = min(max(0, call.number("limit", 10)), _MAX_RUNS)
    newest = call.scenario.newest_first(call.flag("onlyFinishedRuns"))
    return [run.document for run in itertools.islice(newest, limit)]


def _runs_by_date(call: ApiCall) -> object:
    first, after = (call.text("fromDate") or "")[:10], (call.text("toDate") or "")[:10] or "9999"
    zone = call.world.zone
    days = ((run, run.start.astimezone(zone).date().isoformat()) for run in call.scenario.newest_first())
    return [run.document for run, day in days if first <= day < after]


def _run_for_trigger(call: ApiCall) -> object:
    fire = call.scenario.fires.get((call.text("triggerId") or "", call.text("triggerRunId") or ""))
    if fire is None or fire.run is None or fire.run.id not in call.scenario.runs:
        return {}
    return {"scenarioRun": fire.run.document}


def _trigger_fire(call: ApiCall) -> object:
    fire = call.scenario.fires.get((call.ids[2], call.text("triggerRunId") or ""))
    if fire is None:
        raise not_found(f"trigger run does not exist: {call.ids[2]} {call.text('triggerRunId')}")
    return fire.document


def _run(call: ApiCall, *, tested: bool = False) -> SimRun:
    run = call.scenario.runs.get(call.ids[2])
    if run is None:
        raise not_found(f"scenario run does not exist: {call.ids[0]}.{call.ids[1]} {call.ids[2]}")
    if tested and not run.document["scenario"].get("markedAsTest"):
        raise bad_request("Reports are only available for test scenarios")
    return run


def _run_details(call: ApiCall) -> object:
    run = _run(call)
    return {"scenarioRun": run.document, "stepRuns": run.step_runs}


def _run_log(call: ApiCall) -> object:
    return web.Response(text=_run(call).log.text(call.world.zone, call.text("stepId")))


def _step_report(call: ApiCall) -> object:
    report = junit_run(_run(call, tested=True), call.text("stepId") or "")
    if report is None:
        raise not_found(f"step run does not exist: {call.text('stepId')}")
    return _xml(report)


def _xml(text: str | None) -> web.Response:
    return web.Response(text=text, content_type="application/xml")


def _discussions(call: ApiCall) -> dict[str, Document]:
    if call.ids[1] != "SCENARIO":
        raise not_found(f"discussions of {call.ids[1]} objects are not emulated")
    return call.project.scenario(call.ids[2]).discussions


def _discussion(call: ApiCall) -> Document:
    try:
        return _discussions(call)[call.ids[3]]
    except KeyError:
        raise not_found(f"discussion does not exist: {call.ids[3]}") from None


def _list_discussions(call: ApiCall) -> object:
    return [
        {key: value for key, value in discussion.items() if key != "replies"}
        for discussion in _discussions(call).values()
    ]


async def _create_discussion(call: ApiCall) -> object:
    body, discussions = await call.body(), _discussions(call)
    discussion: Document = {"id": documents.opaque_id(), "topic": str(body.get("topic", "")), "replies": []}
    discussions[discussion["id"]] = discussion
    return _reply(call, body, discussion)


async def _put_discussion(call: ApiCall) -> object:
    body, discussion = await call.body(), _discussion(call)
    discussion["topic"] = str(body.get("topic", discussion["topic"]))
    call.engine.changed(call.project.scenario(call.ids[2]))
    return discussion


async def _add_reply(call: ApiCall) -> object:
    return _reply(call, await call.body(), _discussion(call))


def _reply(call: ApiCall, body: Document, discussion: Document) -> Document:
    reply = {"text": str(body.get("reply", "")), "author": call.key.user, "time": to_ms(call.now), "editedOn": 0}
    discussion["replies"].append(reply)
    call.engine.changed(call.project.scenario(call.ids[2]))
    return discussion


# Projects and variables


async def _create_project(call: ApiCall) -> object:
    body = await call.body()
    key = body.get("projectKey")
    if not isinstance(key, str) or not key:
        raise bad_request("A project needs a projectKey")
    if key in call.world.projects:
        raise bad_request(f"Project already exists: {key}")
    more = {name: body[name] for name in ("shortDesc", "tags") if body.get(name)}
    owner = str(body.get("owner") or call.key.user)
    call.world.add_project(key, str(body.get("name") or key), owner, **more)
    call.engine.variables_changed(key)
    return _done(f"Created project {key}")


def _delete_project(call: ApiCall) -> object:
    project = call.project
    for scenario in list(project.scenarios.values()):
        call.engine.delete(scenario)
    del call.world.projects[project.key]
    call.engine.archive.drop(project.key)
    return _done(f"Deleted project {project.key}")


def _project_settings(call: ApiCall) -> object:
    document = call.project.document
    settings = {key: document[key] for key in _PROJECT_SETTINGS if key in document}
    return {"projectKey": document["projectKey"], "settings": {}, "exposedObjects": {"objects": []}, **settings}


async def _put_project_settings(call: ApiCall) -> object:
    body, project = await call.body(), call.project
    project.document.update({key: body[key] for key in _PROJECT_SETTINGS if key in body})
    call.engine.switched()
    call.engine.variables_changed(project.key)
    return _done(f"Updated project {project.key}")


async def _put_variables(call: ApiCall) -> object:
    body, project = await call.body(), call.project
    variables = {part: body.get(part, {}) for part in ("standard", "local")}
    if not all(isinstance(value, dict) for value in variables.values()):
        raise bad_request("standard and local must be objects")
    project.variables = variables
    call.engine.variables_changed(project.key)
    return _done("Updated variables")


def _resolved_variables(call: ApiCall) -> object:
    resolved = call.world.project_variables(call.project.key)
    if call.flag("typed"):
        return resolved
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in resolved.items()}


async def _put_global_variables(call: ApiCall) -> object:
    call.world.variables = await call.body()
    call.engine.variables_changed(None)
    return _done("Updated variables")


# The instance


def _auth_info(call: ApiCall) -> object:
    key = call.key
    groups = ["administrators"] if key.admin else ["data_team"]
    user = {**dict.fromkeys(("authIdentifier", "associatedDSSUser"), key.user), "groups": groups, "adminKey": key.admin}
    return {**user, "secrets": []} if call.flag("withSecrets") else user


def _instance_info(call: ApiCall) -> object:
    names = dict.fromkeys(("nodeId", "nodeName"), call.world.node_name)
    return {**names, "nodeType": call.world.node_type, "dssVersion": call.world.dss_version}


def _usage_summary(call: ApiCall) -> object:
    scenarios = list(call.world.every_scenario())
    active = sum(1 for s in scenarios if s.definition["active"] and s.definition["triggers"])
    return {"projects": len(call.world.projects), "scenarios": {"all": len(scenarios), "activeWithTriggers": active}}


# Futures and jobs


def _list_futures(call: ApiCall) -> object:
    """Runs in progress. Those of other users are an administrator's to see; nothing but runs has a future here."""
    all_users = call.flag("allUsers")
    if all_users and not call.key.admin:
        raise forbidden("Action forbidden, only administrators may list the futures of all users")
    if not call.flag("withScenarios", default=True):
        return []
    running = ((scenario, scenario.current) for scenario in call.world.every_scenario())
    states = [documents.future_state(scenario, run, call.now) for scenario, run in running if run is not None]
    return [state for state in states if all_users or state["owner"] == call.key.user]


def _future(call: ApiCall) -> tuple[SimScenario, SimRun]:
    future = call.engine.futures.get(call.ids[0])
    if future is None:
        raise not_found(f"future does not exist: {call.ids[0]}")
    scenario, run = future
    owns = run.document["runAsUser"]["realUserLogin"] == call.key.user or call.key.sees(scenario.project_key)
    if not (call.key.admin or owns):
        raise forbidden("Action forbidden, this future is not yours")
    return future


def _abort_future(call: ApiCall) -> object:
    scenario, run = _future(call)
    if scenario.current is run:
        call.engine.abort(scenario)
    return web.Response()


def _list_jobs(call: ApiCall, *, running: bool = False) -> object:
    project = call.project
    jobs = [job for job in project.jobs.values() if not (running and job.end)]
    jobs = jobs if running else sorted(jobs, key=lambda job: -job.start)
    return [documents.job_item(project, job) for job in jobs]


def _all_running_jobs(call: ApiCall) -> object:
    all_users = call.flag("allUsers", default=True) and call.key.admin
    running = [
        (project, job) for project in call.world.projects.values() for job in project.jobs.values() if not job.end
    ]
    return [documents.job_item(project, job) for project, job in running if all_users or job.login == call.key.user]


async def _start_job(call: ApiCall) -> object:
    body, project = await call.body(), call.project
    outputs = body.get("outputs")
    if not isinstance(outputs, list) or not outputs or not all(isinstance(output, dict) for output in outputs):
        raise bad_request("A job needs at least one output")
    return documents.job_definition(project, call.engine.start_job(project, body, call.key.user))


def _job(call: ApiCall) -> tuple[SimProject, SimJob]:
    project = call.project
    if call.ids[1] not in project.jobs:
        raise not_found(f"job does not exist: {project.key} {call.ids[1]}")
    return project, project.jobs[call.ids[1]]


def _abort_job(call: ApiCall) -> object:
    job = _job(call)[1]
    if job.live is not None:
        job.live.abort.set()
    return _done("Abort requested")


# Messaging channels


def _channel(call: ApiCall) -> Document:
    try:
        return call.world.channels[call.ids[0]]
    except KeyError:
        raise not_found(f"messaging channel does not exist: {call.ids[0]}") from None


def _channel_item(channel: Document) -> Document:
    """A channel as everyone may see it."""
    item = {"id": channel["id"], "type": channel["type"]}
    if channel["type"] in MAIL_TYPES:
        configuration = channel["configuration"]
        item |= {"family": "mail", "sender": configuration.get("sender")}
        item["useCurrentUserAsSender"] = bool(configuration.get("useCurrentUserAsSender"))
    return item


def _list_channels(call: ApiCall) -> object:
    items = [_channel_item(channel) for channel in call.world.channels.values()]
    for query, key in (("channelType", "type"), ("channelFamily", "family")):
        if value := call.text(query):
            items = [item for item in items if item.get(key) == value]
    return items


async def _create_channel(call: ApiCall) -> object:
    body = await call.body()
    if body.get("type") not in _CHANNEL_TYPES:
        raise bad_request(f"Unknown channel type: {body.get('type')}")
    channel_id = str(body.get("id") or documents.opaque_id())
    if channel_id in call.world.channels:
        raise bad_request(f"Messaging channel already exists: {channel_id}")
    channel = {"id": channel_id, "type": body["type"], "configuration": body.get("configuration") or {}}
    call.world.channels[channel_id] = {**channel, "permissions": body.get("permissions")}
    call.engine.variables_changed(None)
    return _channel_item(channel)


def _delete_channel(call: ApiCall) -> object:
    del call.world.channels[_channel(call)["id"]]
    call.engine.variables_changed(None)
    return web.Response()


def _channel_settings(call: ApiCall) -> object:
    channel = _channel(call)
    return {key: channel[key] for key in ("id", "type", "configuration")}


async def _put_channel_settings(call: ApiCall) -> object:
    body, channel = await call.body(), _channel(call)
    if not isinstance(body.get("configuration"), dict):
        raise bad_request("A channel's settings hold a configuration")
    channel["configuration"] = body["configuration"]
    call.engine.variables_changed(None)
    return web.Response()


async def _put_permissions(call: ApiCall) -> object:
    permissions = await call.json()
    if not isinstance(permissions, list):
        raise bad_request("Permissions are a list")
    _channel(call)["permissions"] = permissions
    call.engine.variables_changed(None)
    return web.Response()


async def _send_mail(call: ApiCall) -> object:
    """A multipart form: the part ``message`` is JSON, each part ``attachments`` a file."""
    channel = _channel(call)
    permissions = None if call.key.admin else channel["permissions"]
    if permissions is not None and not any(p.get("user") == call.key.user and p.get("canUse") for p in permissions):
        raise forbidden(f"Action forbidden, you may not use channel {channel['id']}")
    form = await call.request.post()
    try:
        message = json.loads(_part(form["message"])[1])
        to = tuple(str(address) for address in message["to"])
    except (KeyError, ValueError, TypeError):
        raise bad_request("The part `message` must be JSON with at least `to`") from None
    mail = SimMail(
        to=to,
        subject=str(message.get("subject") or ""),
        body=str(message.get("body") or ""),
        sender=str(message.get("from") or ""),
        cc=tuple(as_list(message.get("cc"))),
        bcc=tuple(as_list(message.get("bcc"))),
        html=not message.get("plainText"),
        attachments=tuple(_part(part) for part in form.getall("attachments", ())),
    )
    try:
        await call.reporters.send_mail(channel["id"], mail, call.key.user)
    except MessageNotSent as error:
        raise RequestRefused(500, MESSAGING_ERROR, str(error)) from None
    return _done("sent")


def _part(part: object) -> tuple[str, bytes]:
    """The name and content of a part of a form."""
    if isinstance(part, web.FileField):
        return part.filename, part.file.read()
    return "attachment", part.encode() if isinstance(part, str) else b""


_S = "projects/*/scenarios"
_D = "projects/*/discussions/*/*"
_J = "projects/*/jobs"
_C = "messaging-channels"

ROUTES = (
    SimRoute("GET", _S, READ, lambda c: [documents.scenario_item(s, c.now) for s in c.project.scenarios.values()]),
    SimRoute("POST", _S, WRITE, _create_scenario),
    SimRoute("GET", f"{_S}/*", READ, lambda c: c.scenario.definition),
    SimRoute("PUT", f"{_S}/*", WRITE, _put_definition),
    SimRoute("DELETE", f"{_S}/*", WRITE, _delete_scenario),
    SimRoute("GET", f"{_S}/*/light", READ, lambda c: documents.scenario_item(c.scenario, c.now)),
    SimRoute("PUT", f"{_S}/*/light", WRITE, _put_light),
    SimRoute("GET", f"{_S}/*/payload", READ, lambda c: {"script": c.scenario.payload}),
    SimRoute("PUT", f"{_S}/*/payload", WRITE, _put_payload),
    SimRoute("POST", f"{_S}/*/run", RUN, _launch),
    SimRoute("POST", f"{_S}/*/abort", RUN, _abort_scenario),
    SimRoute("GET", f"{_S}/*/get-last-runs", READ, _last_runs),
    SimRoute("GET", f"{_S}/*/get-runs-by-date", READ, _runs_by_date),
    SimRoute("GET", f"{_S}/*/get-run-for-trigger", READ, _run_for_trigger),
    SimRoute("GET", f"{_S}/*/*", READ, _run_details),
    SimRoute("GET", f"{_S}/*/*/log", READ, _run_log),
    SimRoute("GET", f"{_S}/*/*/scenario-run-report", READ, lambda c: _xml(junit_run(_run(c, tested=True)))),
    SimRoute("GET", f"{_S}/*/*/step-run-report", READ, _step_report),
    SimRoute("GET", f"{_S}/trigger/*/*", READ, _trigger_fire),
    SimRoute("GET", f"{_S}/last-test-scenario-runs-report", READ, lambda c: _xml(junit_project(c.project))),
    SimRoute(
        "GET",
        f"{_S}/last-test-scenario-runs-html-report",
        READ,
        lambda c: web.Response(text=html_report(c.project), content_type="text/html"),
    ),
    SimRoute("GET", f"{_S}/testing-status", READ, lambda c: testing_status(c.project)),
    SimRoute("GET", _D, READ, _list_discussions),
    SimRoute("POST", _D, WRITE, _create_discussion),
    SimRoute("GET", f"{_D}/*", READ, _discussion),
    SimRoute("PUT", f"{_D}/*", WRITE, _put_discussion),
    SimRoute("POST", f"{_D}/*/replies", WRITE, _add_reply),
    SimRoute(
        "GET",
        "projects",
        READ,
        lambda c: [p.document for p in c.world.projects.values() if c.key.admin or c.key.sees(p.key)],
    ),
    SimRoute("POST", "projects", ADMIN, _create_project),
    SimRoute("GET", "projects/*", READ, lambda c: c.project.document),
    SimRoute("DELETE", "projects/*", ADMIN, _delete_project),
    SimRoute("GET", "projects/*/settings", READ, _project_settings),
    SimRoute("PUT", "projects/*/settings", WRITE, _put_project_settings),
    SimRoute("GET", "projects/*/variables", READ, lambda c: c.project.variables),
    SimRoute("PUT", "projects/*/variables", WRITE, _put_variables),
    SimRoute("GET", "projects/*/variables-resolved", READ, _resolved_variables),
    SimRoute("GET", "admin/variables", ADMIN, lambda c: c.world.variables),
    SimRoute("PUT", "admin/variables", ADMIN, _put_global_variables),
    SimRoute("GET", "admin/monitoring/global-usage-summary", ADMIN, _usage_summary),
    SimRoute("GET", "auth/info", READ, _auth_info),
    SimRoute("GET", "instance-info", READ, _instance_info),
    SimRoute("GET", "futures", READ, _list_futures),
    SimRoute(
        "GET", "futures/*", READ, lambda c: documents.future_state(*_future(c), c.now, with_result=not c.flag("peek"))
    ),
    SimRoute("DELETE", "futures/*", RUN, _abort_future),
    SimRoute("GET", "jobs/running", READ, _all_running_jobs),
    SimRoute("GET", _J, READ, _list_jobs),
    SimRoute("POST", _J, RUN, _start_job),
    SimRoute("GET", f"{_J}/running", READ, lambda c: _list_jobs(c, running=True)),
    SimRoute("GET", f"{_J}/*", READ, lambda c: documents.job_status(*_job(c))),
    SimRoute("GET", f"{_J}/*/log", READ, lambda c: web.Response(text=_job(c)[1].log.text(c.world.zone))),
    SimRoute("POST", f"{_J}/*/abort", RUN, _abort_job),
    SimRoute("GET", _C, READ, _list_channels),
    SimRoute("POST", _C, ADMIN, _create_channel),
    SimRoute("GET", f"{_C}/*", READ, lambda c: _channel_item(_channel(c))),
    SimRoute("DELETE", f"{_C}/*", ADMIN, _delete_channel),
    SimRoute("GET", f"{_C}/*/settings", ADMIN, _channel_settings),
    SimRoute("PUT", f"{_C}/*/settings", ADMIN, _put_channel_settings),
    SimRoute("GET", f"{_C}/*/permissions", ADMIN, lambda c: as_list(_channel(c)["permissions"])),
    SimRoute("PUT", f"{_C}/*/permissions", ADMIN, _put_permissions),
    SimRoute("POST", f"{_C}/*/actions/send", RUN, _send_mail),
)
