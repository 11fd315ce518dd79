"""The endpoints: scenarios with their runs and reports, projects, futures, jobs, messaging channels, the instance."""

import itertools
import json

from aiohttp import web

from tocsin.kit.clock import to_ms
from tocsin.sim import documents, reporters
from tocsin.sim.behaviour import Document, SimError, as_list
from tocsin.sim.engine import Engine
from tocsin.sim.entities import NoSuchObject, SimJob, SimProject, SimRun, SimScenario, look_up
from tocsin.sim.http import ADMIN, READ, RUN, WRITE, ActionForbidden, ApiKey, SimRoute

_MAX_RUNS = 10_000
_LIGHT_FIELDS = ("active", "checklists", "description", "shortDesc", "tags")  # what a PUT of the light form changes
_PROJECT_SETTINGS = ("disableAutomaticTriggers", "settings", "exposedObjects")
_CHANNEL_TYPES = (*reporters.MAIL_TYPES, "slack", "msft-teams", "google-chat", "twilio", "shell")


class ApiCall:
    """One request, its key and the ids in its path; each public method answers an endpoint of ``ROUTES``."""

    def __init__(self, request: web.Request, key: ApiKey, ids: tuple[str, ...], engine: Engine) -> None:
        self.request = request
        self.key = key
        self.ids = ids
        self.engine = engine
        self.world = engine.world
        self.now = engine.clock.now()

    def text(self, name: str) -> str:
        return self.request.query.get(name, "")

    def flag(self, name: str, default: bool = False) -> bool:
        return self.request.query.get(name, str(default)).lower() in ("true", "1", "yes")

    async def json(self) -> object:
        raw = await self.request.read()
        try:
            return json.loads(raw) if raw.strip() else {}  # an empty body is an empty object
        except (ValueError, RecursionError) as error:
            raise SimError(f"Could not parse the request body as JSON: {error}") from None

    async def body(self) -> Document:
        parsed = await self.json()
        if not isinstance(parsed, dict):
            raise SimError("The request body must be a JSON object")
        return parsed

    @property
    def project(self) -> SimProject:
        return self.world.project(self.ids[0])

    @property
    def scenario(self) -> SimScenario:
        return self.project.scenario(self.ids[1])

    async def _definition(self) -> Document:
        try:
            return documents.checked_definition(await self.body())
        except documents.BadDefinition as error:
            raise SimError(f"Could not parse a Scenario from request body: {error}") from None

    def _require_admin(self) -> None:
        if not self.key.admin:
            raise ActionForbidden("Action forbidden, only administrators may set the user that a scenario runs as")

    async def create_scenario(self) -> object:
        body = await self._definition()
        if not body.get("name"):
            raise SimError("Could not parse a Scenario from request body: missing name")
        if body.get("runAsUser"):
            self._require_admin()
        if any(body["name"] == scenario.definition["name"] for scenario in self.project.scenarios.values()):
            raise SimError(f"Scenario already exists: {self.project.key}, {body['name']}")
        if "versionTag" in body:  # the definition of another scenario, which is copied under the new name
            body.pop("id", None)
        for key in ("projectKey", "versionTag", "creationTag"):
            body.pop(key, None)
        scenario = self.world.add_scenario(self.project, body, now=self.now, login=self.key.user)
        self.engine.changed(scenario)
        message = f"Created scenario {scenario.project_key}.{scenario.id}"
        return {**documents.scenario_item(scenario, self.now), "msg": message}

    async def put_definition(self) -> object:
        body, scenario = await self._definition(), self.scenario
        if body.get("runAsUser") != scenario.definition.get("runAsUser"):
            self._require_admin()
        return self._save(scenario, body)

    async def put_light(self) -> object:
        body, scenario = await self._definition(), self.scenario
        if not body.get("name"):
            raise SimError("Could not parse a Scenario from request body")
        return self._save(scenario, {**scenario.definition, **{key: body[key] for key in _LIGHT_FIELDS if key in body}})

    def _save(self, scenario: SimScenario, new: Document) -> Document:
        scenario.definition = documents.replaced_definition(scenario.definition, new, self.key.user, self.now)
        self.engine.changed(scenario)
        return _done(f"Updated scenario {scenario.project_key}.{scenario.id}")

    async def put_payload(self) -> object:
        script = (await self.body()).get("script")
        if not isinstance(script, str):
            raise SimError("script must be a text")
        self.scenario.payload = script
        self.engine.changed(self.scenario)
        return _done("Updated payload")

    def delete_scenario(self) -> object:
        scenario = self.scenario
        self.engine.delete(scenario)
        return _done(f"Deleted scenario {scenario.project_key}.{scenario.id}")

    async def launch(self) -> object:
        params = await self.body()
        auth = documents.auth_context(self.key.user, "PERSONAL_API_KEY")
        return self.engine.launch(self.scenario, documents.BY_API, params, auth).document

    def abort_scenario(self) -> object:
        return _done("Abort requested" if self.engine.abort(self.scenario) else "Scenario is not running")

    def last_runs(self) -> object:
        text = self.request.query.get("limit", "10")
        try:
            limit = min(max(0, int(text)), _MAX_RUNS)
        except ValueError:
            raise SimError(f"limit must be a whole number, not {text!r}") from None
        newest = self.scenario.newest_first(self.flag("onlyFinishedRuns"))
        return [run.document for run in itertools.islice(newest, limit)]

    def runs_by_date(self) -> object:
        first, after = self.text("fromDate")[:10], self.text("toDate")[:10] or "9999"
        zone, newest = self.world.zone, self.scenario.newest_first()
        return [run.document for run in newest if first <= run.start.astimezone(zone).date().isoformat() < after]

    def run_for_trigger(self) -> object:
        fire = self.scenario.fires.get((self.text("triggerId"), self.text("triggerRunId")))
        run = None if fire is None else fire.run
        return {} if run is None or run.id not in self.scenario.runs else {"scenarioRun": run.document}

    def trigger_fire(self) -> object:
        key = self.ids[2], self.text("triggerRunId")
        return look_up(self.scenario.fires, key, "trigger run", " ".join(key)).document

    def _run(self, *, tested: bool = False) -> SimRun:
        run = look_up(self.scenario.runs, self.ids[2], "scenario run", " ".join(self.ids))
        if tested and not run.document["scenario"].get("markedAsTest"):
            raise SimError("Reports are only available for test scenarios")
        return run

    def run_details(self) -> object:
        run = self._run()
        return {"scenarioRun": run.document, "stepRuns": run.step_runs}

    def run_log(self) -> object:
        return web.Response(text=self._run().log.text(self.world.zone, self.request.query.get("stepId")))

    def step_report(self) -> object:
        report = reporters.junit_run(self._run(tested=True), self.text("stepId"))
        if report is None:
            raise NoSuchObject(f"step run does not exist: {self.text('stepId')}")
        return _xml(report)

    def html_report(self) -> object:
        return web.Response(text=reporters.html_report(self.project), content_type="text/html")

    def _discussed(self) -> SimScenario:
        if self.ids[1] != "SCENARIO":
            raise NoSuchObject(f"discussions of {self.ids[1]} objects are not emulated")
        return self.project.scenario(self.ids[2])

    def discussion(self) -> Document:
        return look_up(self._discussed().discussions, self.ids[3], "discussion", self.ids[3])

    def list_discussions(self) -> object:
        discussions = self._discussed().discussions.values()
        return [{key: value for key, value in item.items() if key != "replies"} for item in discussions]

    async def create_discussion(self) -> object:
        body, discussions = await self.body(), self._discussed().discussions
        discussion: Document = {"id": documents.opaque_id(), "topic": str(body.get("topic", "")), "replies": []}
        discussions[discussion["id"]] = discussion
        return self._reply(body, discussion)

    async def put_discussion(self) -> object:
        body, discussion = await self.body(), self.discussion()
        discussion["topic"] = str(body.get("topic", discussion["topic"]))
        self.engine.changed(self._discussed())
        return discussion

    async def add_reply(self) -> object:
        return self._reply(await self.body(), self.discussion())

    def _reply(self, body: Document, discussion: Document) -> Document:
        reply = {"text": str(body.get("reply", "")), "author": self.key.user, "time": to_ms(self.now), "editedOn": 0}
        discussion["replies"].append(reply)
        self.engine.changed(self._discussed())
        return discussion

    async def create_project(self) -> object:
        body = await self.body()
        key = body.get("projectKey")
        if not isinstance(key, str) or not key:
            raise SimError("A project needs a projectKey")
        if key in self.world.projects:
            raise SimError(f"Project already exists: {key}")
        more = {name: body[name] for name in ("shortDesc", "tags") if body.get(name)}
        name, owner = str(body.get("name") or key), str(body.get("owner") or self.key.user)
        self.engine.archive.keep_project(self.world.add_project(key, name, owner, **more))
        return _done(f"Created project {key}")

    def delete_project(self) -> object:
        project = self.project
        for scenario in list(project.scenarios.values()):
            self.engine.delete(scenario)
        del self.world.projects[project.key]
        self.engine.archive.drop(project.key)
        return _done(f"Deleted project {project.key}")

    def project_settings(self) -> object:
        document = self.project.document
        settings = {key: document[key] for key in _PROJECT_SETTINGS if key in document}
        return {"projectKey": document["projectKey"], "settings": {}, "exposedObjects": {"objects": []}, **settings}

    async def put_project_settings(self) -> object:
        body, project = await self.body(), self.project
        project.document.update({key: body[key] for key in _PROJECT_SETTINGS if key in body})
        self.engine.switched()
        self.engine.archive.keep_project(project)
        return _done(f"Updated project {project.key}")

    async def put_variables(self) -> object:
        body, project = await self.body(), self.project
        variables = {part: body.get(part, {}) for part in ("standard", "local")}
        if not all(isinstance(value, dict) for value in variables.values()):
            raise SimError("standard and local must be objects")
        project.variables = variables
        self.engine.archive.keep_project(project)
        return _done("Updated variables")

    def resolved_variables(self) -> object:
        resolved = self.world.project_variables(self.project.key)
        if self.flag("typed"):
            return resolved
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in resolved.items()}

    async def put_global_variables(self) -> object:
        self.world.variables = await self.body()
        self.engine.archive.keep_instance(self.world)
        return _done("Updated variables")

    def auth_info(self) -> object:
        key, groups = self.key, ["administrators" if self.key.admin else "data_team"]
        names = dict.fromkeys(("authIdentifier", "associatedDSSUser"), key.user)
        user = {**names, "groups": groups, "adminKey": key.admin}
        return {**user, "secrets": []} if self.flag("withSecrets") else user

    def instance_info(self) -> object:
        names = dict.fromkeys(("nodeId", "nodeName"), self.world.node_name)
        return {**names, "nodeType": self.world.node_type, "dssVersion": self.world.dss_version}

    def usage_summary(self) -> object:
        scenarios = list(self.world.every_scenario())
        active = sum(1 for s in scenarios if s.definition["active"] and s.definition["triggers"])
        counts = {"all": len(scenarios), "activeWithTriggers": active}
        return {"projects": len(self.world.projects), "scenarios": counts}

    def list_futures(self) -> object:
        """Runs in progress, those of other users for an administrator; nothing but runs has a future here."""
        all_users = self.flag("allUsers")
        if all_users and not self.key.admin:
            raise ActionForbidden("Action forbidden, only administrators may list the futures of all users")
        if not self.flag("withScenarios", default=True):
            return []
        runs = ((scenario, scenario.current) for scenario in self.world.every_scenario())
        states = [documents.future_state(scenario, run, self.now) for scenario, run in runs if run is not None]
        return [state for state in states if all_users or state["owner"] == self.key.user]

    def _future(self) -> tuple[SimScenario, SimRun]:
        scenario, run = look_up(self.engine.futures, self.ids[0], "future", self.ids[0])
        owns = run.document["runAsUser"]["realUserLogin"] == self.key.user or self.key.sees(scenario.project_key)
        if not owns:
            raise ActionForbidden("Action forbidden, this future is not yours")
        return scenario, run

    def future(self) -> object:
        return documents.future_state(*self._future(), self.now, with_result=not self.flag("peek"))

    def abort_future(self) -> object:
        scenario, run = self._future()
        if scenario.current is run:
            self.engine.abort(scenario)
        return web.Response()

    def list_jobs(self) -> object:
        project = self.project
        return [documents.job_item(project, job) for job in sorted(project.jobs.values(), key=lambda job: -job.start)]

    def running_jobs(self) -> object:
        return [documents.job_item(self.project, job) for job in self.project.jobs.values() if not job.end]

    def all_running_jobs(self) -> object:
        all_users = self.flag("allUsers", default=True) and self.key.admin
        jobs = ((project, job) for project in self.world.projects.values() for job in project.jobs.values())
        running = [(project, job) for project, job in jobs if not job.end]
        return [documents.job_item(*entry) for entry in running if all_users or entry[1].login == self.key.user]

    async def start_job(self) -> object:
        body, project = await self.body(), self.project
        outputs = body.get("outputs")
        if not isinstance(outputs, list) or not outputs or not all(isinstance(output, dict) for output in outputs):
            raise SimError("A job needs at least one output")
        return documents.job_definition(project, self.engine.start_job(project, body, self.key.user))

    def _job(self) -> SimJob:
        return look_up(self.project.jobs, self.ids[1], "job", " ".join(self.ids))

    def abort_job(self) -> object:
        job = self._job()
        if job.live is not None:
            job.live.abort.set()
        return _done("Abort requested")

    def _channel(self) -> Document:
        return look_up(self.world.channels, self.ids[0], "messaging channel", self.ids[0])

    def list_channels(self) -> object:
        items = [_channel_item(channel) for channel in self.world.channels.values()]
        for query, key in (("channelType", "type"), ("channelFamily", "family")):
            if value := self.text(query):
                items = [item for item in items if item.get(key) == value]
        return items

    async def create_channel(self) -> object:
        body = await self.body()
        if body.get("type") not in _CHANNEL_TYPES:
            raise SimError(f"Unknown channel type: {body.get('type')}")
        channel_id = str(body.get("id") or documents.opaque_id())
        if channel_id in self.world.channels:
            raise SimError(f"Messaging channel already exists: {channel_id}")
        channel = {"id": channel_id, "type": body["type"], "configuration": body.get("configuration") or {}}
        self.world.channels[channel_id] = {**channel, "permissions": body.get("permissions")}
        self.engine.archive.keep_instance(self.world)
        return _channel_item(channel)

    def delete_channel(self) -> object:
        del self.world.channels[self._channel()["id"]]
        self.engine.archive.keep_instance(self.world)
        return web.Response()

    async def put_channel_settings(self) -> object:
        body, channel = await self.body(), self._channel()
        if not isinstance(body.get("configuration"), dict):
            raise SimError("A channel's settings hold a configuration")
        channel["configuration"] = body["configuration"]
        self.engine.archive.keep_instance(self.world)
        return web.Response()

    async def put_permissions(self) -> object:
        permissions = await self.json()
        if not isinstance(permissions, list):
            raise SimError("Permissions are a list")
        self._channel()["permissions"] = permissions
        self.engine.archive.keep_instance(self.world)
        return web.Response()

    async def send_mail(self) -> object:
        """A multipart form: the part ``message`` is JSON, each part ``attachments`` a file."""
        channel = self._channel()
        permissions = None if self.key.admin else channel["permissions"]
        if permissions is not None and not any(p.get("user") == self.key.user and p.get("canUse") for p in permissions):
            raise ActionForbidden(f"Action forbidden, you may not use channel {channel['id']}")
        form = await self.request.post()
        try:
            message = json.loads(_part(form["message"])[1])
            to = tuple(str(address) for address in message["to"])
        except (KeyError, ValueError, TypeError):
            raise SimError("The part `message` must be JSON with at least `to`") from None
        subject, body, sender = (str(message.get(key) or "") for key in ("subject", "body", "from"))
        cc, bcc = (tuple(as_list(message.get(key))) for key in ("cc", "bcc"))
        files = tuple(_part(part) for part in form.getall("attachments", ()))
        mail = reporters.SimMail(to, subject, body, sender, cc, bcc, not message.get("plainText"), files)
        await self.engine.reporters.send_mail(channel["id"], mail, self.key.user)
        return _done("sent")


def _done(message: str) -> Document:
    return {"msg": message}  # clients insist on an object


def _xml(text: str | None) -> web.Response:
    return web.Response(text=text, content_type="application/xml")


def _channel_item(channel: Document) -> Document:
    item = {"id": channel["id"], "type": channel["type"]}
    if channel["type"] in reporters.MAIL_TYPES:
        configuration = channel["configuration"]
        item |= {"family": "mail", "sender": configuration.get("sender")}
        item["useCurrentUserAsSender"] = bool(configuration.get("useCurrentUserAsSender"))
    return item


def _part(part: object) -> tuple[str, bytes]:
    if isinstance(part, web.FileField):
        return part.filename, part.file.read()
    return "attachment", part.encode() if isinstance(part, str) else b""


_S = "projects/*/scenarios"
_D = "projects/*/discussions/*/*"
_J = "projects/*/jobs"
_C = "messaging-channels"

ROUTES: tuple[SimRoute, ...] = (
    ("GET", _S, READ, lambda call: [documents.scenario_item(s, call.now) for s in call.project.scenarios.values()]),
    ("POST", _S, WRITE, ApiCall.create_scenario),
    ("GET", f"{_S}/*", READ, lambda call: call.scenario.definition),
    ("PUT", f"{_S}/*", WRITE, ApiCall.put_definition),
    ("DELETE", f"{_S}/*", WRITE, ApiCall.delete_scenario),
    ("GET", f"{_S}/*/light", READ, lambda call: documents.scenario_item(call.scenario, call.now)),
    ("PUT", f"{_S}/*/light", WRITE, ApiCall.put_light),
    ("GET", f"{_S}/*/payload", READ, lambda call: {"script": call.scenario.payload}),
    ("PUT", f"{_S}/*/payload", WRITE, ApiCall.put_payload),
    ("POST", f"{_S}/*/run", RUN, ApiCall.launch),
    ("POST", f"{_S}/*/abort", RUN, ApiCall.abort_scenario),
    ("GET", f"{_S}/*/get-last-runs", READ, ApiCall.last_runs),
    ("GET", f"{_S}/*/get-runs-by-date", READ, ApiCall.runs_by_date),
    ("GET", f"{_S}/*/get-run-for-trigger", READ, ApiCall.run_for_trigger),
    ("GET", f"{_S}/*/*", READ, ApiCall.run_details),
    ("GET", f"{_S}/*/*/log", READ, ApiCall.run_log),
    ("GET", f"{_S}/*/*/scenario-run-report", READ, lambda call: _xml(reporters.junit_run(call._run(tested=True)))),
    ("GET", f"{_S}/*/*/step-run-report", READ, ApiCall.step_report),
    ("GET", f"{_S}/trigger/*/*", READ, ApiCall.trigger_fire),
    ("GET", f"{_S}/last-test-scenario-runs-report", READ, lambda call: _xml(reporters.junit_project(call.project))),
    ("GET", f"{_S}/last-test-scenario-runs-html-report", READ, ApiCall.html_report),
    ("GET", f"{_S}/testing-status", READ, lambda call: reporters.testing_status(call.project)),
    ("GET", _D, READ, ApiCall.list_discussions),
    ("POST", _D, WRITE, ApiCall.create_discussion),
    ("GET", f"{_D}/*", READ, ApiCall.discussion),
    ("PUT", f"{_D}/*", WRITE, ApiCall.put_discussion),
    ("POST", f"{_D}/*/replies", WRITE, ApiCall.add_reply),
    ("GET", "projects", READ, lambda call: [p.document for p in call.world.projects.values() if call.key.sees(p.key)]),
    ("POST", "projects", ADMIN, ApiCall.create_project),
    ("GET", "projects/*", READ, lambda call: call.project.document),
    ("DELETE", "projects/*", ADMIN, ApiCall.delete_project),
    ("GET", "projects/*/settings", READ, ApiCall.project_settings),
    ("PUT", "projects/*/settings", WRITE, ApiCall.put_project_settings),
    ("GET", "projects/*/variables", READ, lambda call: call.project.variables),
    ("PUT", "projects/*/variables", WRITE, ApiCall.put_variables),
    ("GET", "projects/*/variables-resolved", READ, ApiCall.resolved_variables),
    ("GET", "admin/variables", ADMIN, lambda call: call.world.variables),
    ("PUT", "admin/variables", ADMIN, ApiCall.put_global_variables),
    ("GET", "admin/monitoring/global-usage-summary", ADMIN, ApiCall.usage_summary),
    ("GET", "auth/info", READ, ApiCall.auth_info),
    ("GET", "instance-info", READ, ApiCall.instance_info),
    ("GET", "futures", READ, ApiCall.list_futures),
    ("GET", "futures/*", READ, ApiCall.future),
    ("DELETE", "futures/*", RUN, ApiCall.abort_future),
    ("GET", "jobs/running", READ, ApiCall.all_running_jobs),
    ("GET", _J, READ, ApiCall.list_jobs),
    ("POST", _J, RUN, ApiCall.start_job),
    ("GET", f"{_J}/running", READ, ApiCall.running_jobs),
    ("GET", f"{_J}/*", READ, lambda call: documents.job_status(call.project, call._job())),
    ("GET", f"{_J}/*/log", READ, lambda call: web.Response(text=call._job().log.text(call.world.zone))),
    ("POST", f"{_J}/*/abort", RUN, ApiCall.abort_job),
    ("GET", _C, READ, ApiCall.list_channels),
    ("POST", _C, ADMIN, ApiCall.create_channel),
    ("GET", f"{_C}/*", READ, lambda call: _channel_item(call._channel())),
    ("DELETE", f"{_C}/*", ADMIN, ApiCall.delete_channel),
    ("GET", f"{_C}/*/settings", ADMIN, lambda call: {k: call._channel()[k] for k in ("id", "type", "configuration")}),
    ("PUT", f"{_C}/*/settings", ADMIN, ApiCall.put_channel_settings),
    ("GET", f"{_C}/*/permissions", ADMIN, lambda call: as_list(call._channel()["permissions"])),
    ("PUT", f"{_C}/*/permissions", ADMIN, ApiCall.put_permissions),
    ("POST", f"{_C}/*/actions/send", RUN, ApiCall.send_mail),
)
