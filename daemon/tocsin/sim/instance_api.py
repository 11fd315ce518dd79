"""Everything beside the scenarios: projects, variables, futures, jobs, and what the instance says of itself."""

from aiohttp import web

from tocsin.sim import views
from tocsin.sim.behaviour import Document
from tocsin.sim.http import ADMIN, READ, RUN, WRITE, ApiCall, SimRoute, bad_request, done, forbidden, not_found
from tocsin.sim.nouns import SimJob, SimProject, SimRun, SimScenario
from tocsin.sim.variables import project_variables

_KEPT_IN_SETTINGS = ("disableAutomaticTriggers", "settings", "exposedObjects")


async def list_projects(call: ApiCall) -> object:
    return [p.document for p in call.sim.world.projects.values() if call.key.admin or call.key.sees(p.key)]


async def create_project(call: ApiCall) -> object:
    body = await call.body()
    key = body.get("projectKey")
    if not isinstance(key, str) or not key:
        raise bad_request("A project needs a projectKey")
    if key in call.sim.world.projects:
        raise bad_request(f"Project already exists: {key}")
    more = {name: body[name] for name in ("shortDesc", "tags") if body.get(name)}
    owner = str(body.get("owner") or call.key.user)
    project = call.sim.world.add_project(key, str(body.get("name") or key), owner, **more)
    call.sim.archive.keep_project(project)
    return done(f"Created project {key}")


async def delete_project(call: ApiCall) -> object:
    project = call.project
    for scenario in list(project.scenarios.values()):
        call.sim.engine.delete(scenario)
    del call.sim.world.projects[project.key]
    call.sim.archive.drop_project(project.key)
    return done(f"Deleted project {project.key}")


async def get_project_settings(call: ApiCall) -> object:
    document = call.project.document
    settings = {key: document[key] for key in _KEPT_IN_SETTINGS if key in document}
    return {"projectKey": document["projectKey"], "settings": {}, "exposedObjects": {"objects": []}, **settings}


async def put_project_settings(call: ApiCall) -> object:
    body, project = await call.body(), call.project
    project.document.update({key: body[key] for key in _KEPT_IN_SETTINGS if key in body})
    call.sim.engine.switched()
    call.sim.engine.variables_changed(project.key)
    return done(f"Updated project {project.key}")


async def put_variables(call: ApiCall) -> object:
    body, project = await call.body(), call.project
    parts = {part: body.get(part, {}) for part in ("standard", "local")}
    if not all(isinstance(value, dict) for value in parts.values()):
        raise bad_request("standard and local must be objects")
    project.variables = parts
    call.sim.engine.variables_changed(project.key)
    return done("Updated variables")


async def resolved_variables(call: ApiCall) -> object:
    resolved = project_variables(call.sim.world, call.project.key)
    if call.flag("typed"):
        return resolved
    return {key: value if isinstance(value, str) else web.json_response(value).text for key, value in resolved.items()}


async def put_global_variables(call: ApiCall) -> object:
    call.sim.world.variables = await call.body()
    call.sim.engine.variables_changed(None)
    return done("Updated variables")


async def auth_info(call: ApiCall) -> object:
    key = call.key
    groups = ["administrators"] if key.admin else ["data_team"]
    user: Document = {
        "authIdentifier": key.user,
        "associatedDSSUser": key.user,
        "groups": groups,
        "adminKey": key.admin,
    }
    return {**user, "secrets": []} if call.flag("withSecrets") else user


async def instance_info(call: ApiCall) -> object:
    world = call.sim.world
    return {
        "nodeId": world.node_name,
        "nodeName": world.node_name,
        "nodeType": world.node_type,
        "dssVersion": world.dss_version,
    }


async def usage_summary(call: ApiCall) -> object:
    scenarios = list(call.sim.world.every_scenario())
    with_triggers = sum(1 for s in scenarios if s.definition["active"] and s.definition["triggers"])
    return {
        "projects": len(call.sim.world.projects),
        "scenarios": {"all": len(scenarios), "activeWithTriggers": with_triggers},
    }


async def list_futures(call: ApiCall) -> object:
    """Runs that go on. Those of other users are an administrator's to see; nothing but runs has a future here."""
    everyones = call.flag("allUsers")
    if everyones and not call.key.admin:
        raise forbidden("Action forbidden, only administrators may list the futures of all users")
    if not call.flag("withScenarios", default=True):
        return []
    now = call.sim.clock.now()
    states = [views.future(scenario, run, now) for scenario, run in call.sim.world.running()]
    return states if everyones else [state for state in states if state["owner"] == call.key.user]


async def get_future(call: ApiCall) -> object:
    scenario, run = _future(call)
    return views.future(scenario, run, call.sim.clock.now(), with_result=not call.flag("peek"))


async def abort_future(call: ApiCall) -> object:
    scenario, run = _future(call)
    if scenario.current is run:
        call.sim.engine.abort(scenario)
    return web.Response()


async def list_jobs(call: ApiCall) -> object:
    project = call.project
    return [views.job_item(project, job) for job in sorted(project.jobs.values(), key=lambda job: -job.start)]


async def running_jobs(call: ApiCall) -> object:
    return [views.job_item(call.project, job) for job in call.project.jobs.values() if not job.end]


async def all_running_jobs(call: ApiCall) -> object:
    everyones = call.flag("allUsers", default=True) and call.key.admin
    found = [(p, job) for p in call.sim.world.projects.values() for job in p.jobs.values() if not job.end]
    return [views.job_item(project, job) for project, job in found if everyones or job.login == call.key.user]


async def start_job(call: ApiCall) -> object:
    body, project = await call.body(), call.project
    outputs = body.get("outputs")
    if not isinstance(outputs, list) or not outputs or not all(isinstance(o, dict) for o in outputs):
        raise bad_request("A job needs at least one output")
    job = call.sim.engine.start_job(project, body, call.key.user)
    return views.job_definition(project, job)


async def job_log(call: ApiCall) -> object:
    return web.Response(text=_job(call)[1].log.text(call.sim.world.zone))


async def abort_job(call: ApiCall) -> object:
    job = _job(call)[1]
    if job.live is not None:
        job.live.abort.set()
    return done("Abort requested")


def _future(call: ApiCall) -> tuple[SimScenario, SimRun]:
    found = call.sim.engine.futures.get(call.ids[0])
    if found is None:
        raise not_found(f"future does not exist: {call.ids[0]}")
    scenario, run = found
    owns = run.document["runAsUser"]["realUserLogin"] == call.key.user or call.key.sees(scenario.project_key)
    if not (call.key.admin or owns):
        raise forbidden("Action forbidden, this future is not yours")
    return found


def _job(call: ApiCall) -> tuple[SimProject, SimJob]:
    project = call.project
    if call.ids[1] not in project.jobs:
        raise not_found(f"job does not exist: {project.key} {call.ids[1]}")
    return project, project.jobs[call.ids[1]]


ROUTES = (
    SimRoute("GET", "projects", READ, list_projects),
    SimRoute("POST", "projects", ADMIN, create_project),
    SimRoute("GET", "projects/*", READ, lambda call: call.project.document),
    SimRoute("DELETE", "projects/*", ADMIN, delete_project),
    SimRoute("GET", "projects/*/settings", READ, get_project_settings),
    SimRoute("PUT", "projects/*/settings", WRITE, put_project_settings),
    SimRoute("GET", "projects/*/variables", READ, lambda call: call.project.variables),
    SimRoute("PUT", "projects/*/variables", WRITE, put_variables),
    SimRoute("GET", "projects/*/variables-resolved", READ, resolved_variables),
    SimRoute("GET", "admin/variables", ADMIN, lambda call: call.sim.world.variables),
    SimRoute("PUT", "admin/variables", ADMIN, put_global_variables),
    SimRoute("GET", "admin/monitoring/global-usage-summary", ADMIN, usage_summary),
    SimRoute("GET", "auth/info", READ, auth_info),
    SimRoute("GET", "instance-info", READ, instance_info),
    SimRoute("GET", "futures", READ, list_futures),
    SimRoute("GET", "futures/*", READ, get_future),
    SimRoute("DELETE", "futures/*", RUN, abort_future),
    SimRoute("GET", "jobs/running", READ, all_running_jobs),
    SimRoute("GET", "projects/*/jobs", READ, list_jobs),
    SimRoute("POST", "projects/*/jobs", RUN, start_job),
    SimRoute("GET", "projects/*/jobs/running", READ, running_jobs),
    SimRoute("GET", "projects/*/jobs/*", READ, lambda call: views.job_status(*_job(call))),
    SimRoute("GET", "projects/*/jobs/*/log", READ, job_log),
    SimRoute("POST", "projects/*/jobs/*/abort", RUN, abort_job),
)
