"""The verb ``doctor``: asks the real parts whether they do what the configuration needs, and says what to mend. It
reads only: nothing is sent to a channel, and nothing is changed in DSS or the store."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tocsin.cli import show
from tocsin.cli.exits import DONE, NO
from tocsin.cli.verb import ConfigOption, JsonOption, command, load_config

if TYPE_CHECKING:
    from tocsin.config.model import Channel, Config, Node, Route
    from tocsin.deliver.reach import CheckResult
    from tocsin.dss import DSSClient, DSSError, RequestReport
    from tocsin.model.labels import Matcher

_TIMEOUT = 15.0  # seconds, for one request
_OLDEST, _NEWEST = 12, 15  # major versions of DSS that Tocsin is tested with
_CLOCK_NOTED, _CLOCK_WRONG = timedelta(seconds=10), timedelta(minutes=5)
_MOST_PROJECTS = 100  # whose scenarios are counted
_SHOWN = 5  # names in a note


@command(None, "doctor")
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask every node, the store and every channel whether they work; sends nothing. Exit 1 if anything fails."""
    from tocsin.app.logs import configure_logging
    from tocsin.app.run import hard_exit

    settings = load_config(config)
    configure_logging("critical", "auto")
    with show.spinner("asking the nodes, the store and the channels"):
        results = asyncio.run(examine_parts(settings))
    ok = all(result.result != "failed" for _, result in results)
    rows = [{"part": part, **asdict(result)} for part, result in results]
    if as_json:
        show.print_json({"ok": ok, "checks": rows})
    else:
        show.rows(rows, ["part", "check", "result", "note"])
        for part, result in results:
            if result.remedy:
                print(f"\n{part}, {result.check} ({result.result}): {result.remedy}.")
        print("\nall is well" if ok else "\nnot all is well: mend what failed, and run doctor again")
    hard_exit(DONE if ok else NO)


async def examine_parts(config: "Config") -> list[tuple[str, "CheckResult"]]:
    """The results of all parts, in the order of the configuration."""
    nodes = [_NodeExaminer(node) for node in config.nodes]
    parts = [
        (f"node {node.name}", _gather(examiner.examine())) for node, examiner in zip(config.nodes, nodes, strict=True)
    ]
    parts.append(("store", asyncio.to_thread(lambda: list(_examine_store(config)))))
    parts += [(f"channel {name}", _gather(_examine_channel(it))) for name, it in config.channels().items()]
    parts += [
        (f"alertmanager {peer.url}", asyncio.to_thread(_reach_url, peer.url, peer))
        for peer in config.alerting.alertmanagers
    ]
    found = await asyncio.gather(*(work for _, work in parts))
    results = [(part, result) for (part, _), results in zip(parts, found, strict=True) for result in results]
    return results + [("configuration", result) for result in _unseen_projects(config, nodes)]


async def _gather(results: "AsyncIterator[CheckResult]") -> "list[CheckResult]":
    return [result async for result in results]


def _result(check: str, result: Any, note: str, remedy: str = "") -> "CheckResult":
    from tocsin.deliver.reach import CheckResult

    return CheckResult(check, result, note, remedy)


# --- nodes ------------------------------------------------------------------------------------------------------------


@dataclass
class _NodeExaminer:
    node: "Node"
    reports: "list[RequestReport]" = field(default_factory=list)
    offset: timedelta | None = None  # of DSS's clock
    projects: Collection[str] | None = None  # that the key sees; None: not read
    running: set[tuple[str, str]] = field(default_factory=set)  # as the lists of scenarios say

    async def examine(self) -> "AsyncIterator[CheckResult]":
        from tocsin.cli.dss.session import node_client
        from tocsin.dss import errors

        reachable = True
        for result in await asyncio.to_thread(_reach_url, self.node.url, self.node):
            if reachable := result.result != "failed":
                yield result
            else:
                yield await self._with_other_address(result)
        if not reachable:
            return
        try:
            client = node_client(self.node, on_request=self._answered, timeout=_TIMEOUT, retries=0)
        except ValueError as error:
            yield _result("api", "failed", str(error), "correct the node's url, headers or proxy")
            return
        async with client:
            try:
                user = await client.get_auth_info()
            except (errors.DSSUnauthorized, errors.DSSForbidden) as error:
                yield self._key_refused(error)
                return
            except errors.DSSError as error:
                yield await self._with_other_address(_result("api", "failed", _words(error), _api_remedy(error)))
                return
            yield _result("key", "ok", f"of {user.get('authIdentifier') or 'a user without a name'}")
            yield self._version()
            yield self._clock()
            async for result in self._rights(client):
                yield result

    def _answered(self, report: "RequestReport") -> None:
        self.reports.append(report)
        if report.server_date is not None and report.error is None:
            from tocsin.kit.clock import SystemClock

            offset = report.server_date + timedelta(seconds=0.5) - SystemClock().now()
            if self.offset is None or abs(offset) < abs(self.offset):
                self.offset = offset

    async def _with_other_address(self, result: "CheckResult") -> "CheckResult":
        """The failure, with the address at which DSS does answer as its remedy, where one near by is found."""
        if result.check in ("name", "port"):
            return result
        for url in _other_addresses(self.node.url):
            if await self._is_dss(url):
                return replace(result, remedy=f"write url: {url}, where DSS answers")
        return result

    async def _is_dss(self, url: str) -> bool:
        """Whether a DSS answers there. No key is sent: the address may be unencrypted or another server's."""
        from tocsin.cli.dss.session import node_client
        from tocsin.dss import errors

        reports: list[RequestReport] = []
        public: dict[str, Any] = {
            "jwt_bearer_token": None,
            "api_key": "doctor",
            "no_check_certificate": True,
            "extra_headers": {},
        }
        node = replace(self.node, url=url)
        async with node_client(node, on_request=reports.append, timeout=5.0, retries=0, **public) as client:
            try:
                await client.get_auth_info()
            except errors.DSSError as error:
                refused = isinstance(error, errors.DSSUnauthorized | errors.DSSForbidden)
                return any(report.dss_version for report in reports) or (refused and error.error_type is not None)
        return True

    def _key_refused(self, error: "DSSError") -> "CheckResult":
        if error.status is None:
            return _result(
                "key", "failed", error.reason, "correct api_key_file or bearer_file: it must hold the secret alone"
            )
        if error.error_type is None and not self.reports[-1].dss_version:
            note = f"a gateway before DSS answers {error.status}"
            return _result(
                "key", "failed", note, "give it what it asks for under headers, or have it let the API's path through"
            )
        remedy = (
            "make a key in DSS (Administration, Security, API keys), and put it into the file that api_key_file names"
        )
        return _result("key", "failed", f"DSS refuses it: {_words(error)}", remedy)

    def _version(self) -> "CheckResult":
        version = next((report.dss_version for report in self.reports if report.dss_version), None)
        if version is None:
            return _result(
                "version",
                "warning",
                "DSS does not say its version",
                "check that no gateway removes the header DSS-Version",
            )
        major = version.partition(".")[0]
        if major.isdecimal() and not _OLDEST <= int(major) <= _NEWEST:
            note = f"DSS {version}; Tocsin is tested with {_OLDEST} to {_NEWEST}"
            return _result("version", "warning", note, "watch the first runs, and report what is wrong")
        return _result("version", "ok", f"DSS {version}")

    def _clock(self) -> "CheckResult":
        from tocsin.kit.clock import human_duration

        if self.offset is None:
            return _result("clock", "skipped", "the answers have no Date header")
        size = abs(self.offset)
        if size < timedelta(seconds=2):
            return _result("clock", "ok", "as this machine's")
        note = f"{human_duration(size)} {'ahead of' if self.offset > timedelta(0) else 'behind'} this machine's"
        if size < _CLOCK_NOTED:
            return _result("clock", "ok", note)
        remedy = "set the clock of the machine that is wrong, and keep it by NTP"
        return _result("clock", "failed" if size >= _CLOCK_WRONG else "warning", note, remedy)

    async def _rights(self, client: "DSSClient") -> "AsyncIterator[CheckResult]":
        from tocsin.cli.dss.session import in_scope
        from tocsin.dss import DSSError

        scope = self.node.projects
        try:
            keys = await client.list_project_keys()
        except DSSError as error:
            yield _result("projects", "failed", _words(error), "give the key the right to read projects")
            return
        self.projects = set(keys)
        within = sorted(key for key in keys if in_scope(key, scope.include, scope.exclude))
        note = f"the key sees {len(keys)}, {len(within)} of them in scope"
        lost = [glob for glob in scope.include if glob != "*" and not any(in_scope(key, [glob], ()) for key in keys)]
        if not within:
            remedy = "give the key the right to read the projects, or widen projects.include"
            yield _result("projects", "failed", note, remedy)
            return
        if lost:
            remedy = "give the key the right to read them, or correct projects.include"
            kind = "failed" if any(not set(glob) & set("*?[") for glob in lost) else "warning"
            yield _result("projects", kind, f"{note}; it sees none of {_names(lost)}", remedy)
        else:
            yield _result("projects", "ok", note)
        async for result in self._scenarios(client, within):
            yield result

    async def _scenarios(self, client: "DSSClient", projects: Sequence[str]) -> "AsyncIterator[CheckResult]":
        from tocsin.cli.dss.session import in_scope
        from tocsin.dss import DSSError
        from tocsin.dss.fields import only_texts

        scope, pause = self.node.scenarios, 1 / self.node.watch.max_requests_per_second
        found: list[tuple[str, str, bool]] = []
        refused: dict[str, DSSError] = {}
        for key in projects[:_MOST_PROJECTS]:
            try:
                items = await client.get_project(key).list_scenarios()
            except DSSError as error:
                refused[key] = error
                continue
            finally:
                await asyncio.sleep(pause if len(projects) > _SHOWN else 0)
            for item in items:
                tags = set(only_texts(item.get("tags")))
                if in_scope(item.id, scope.include, scope.exclude) and (not scope.tags or tags & set(scope.tags)):
                    found.append((key, item.id, item.get("active") is True))
                    if item.get("running"):
                        self.running.add((key, item.id))
        active = sum(active for *_, active in found)
        note = f"{len(found)} scenarios in scope, {active} of them active"
        note += f" (in the first {_MOST_PROJECTS} projects)" if len(projects) > _MOST_PROJECTS else ""
        if refused:
            first = next(iter(refused.values()))
            remedy = "give the key the right Read project content on them, or take them out by projects.exclude"
            yield _result("scenarios", "failed", f"{note}; not those of {_names(refused)}: {_words(first)}", remedy)
        elif not found:
            yield _result("scenarios", "warning", note, "nothing is watched: widen scenarios.include or scenarios.tags")
        else:
            yield _result("scenarios", "ok", note)
        if found:
            yield await self._runs(client, found)
        yield await self._sweep(client)

    async def _runs(self, client: "DSSClient", found: Sequence[tuple[str, str, bool]]) -> "CheckResult":
        from tocsin.dss import DSSError

        key, id_, _ = max(found, key=lambda item: item[2])
        try:
            runs = await client.get_project(key).get_scenario(id_).get_last_runs(1)
            for run in runs[:1]:
                await run.get_details()
        except DSSError as error:
            return _result(
                "runs", "failed", f"of {key}/{id_}: {_words(error)}", "give the key the right Read project content"
            )
        return _result("runs", "ok", f"those of {key}/{id_} can be read" + ("" if runs else "; it has none yet"))

    async def _sweep(self, client: "DSSClient") -> "CheckResult":
        from tocsin.cli.dss.session import node_client
        from tocsin.dss import DSSError
        from tocsin.watch.read import read_running

        node, own_key = self.node, self.node.sweep_api_key
        without = "without it starts are seen by the lists of scenarios, which takes longer"
        remedy = f"set sweep_api_key_file to an admin key, for this one request alone; {without}"
        admin = node_client(node, api_key=own_key.read, jwt_bearer_token=None, timeout=_TIMEOUT) if own_key else client
        try:
            swept = dict(read_running(await admin.list_running_scenarios_raw(all_users=True)).items)
        except DSSError as error:
            if own_key:
                return _result("sweep", "failed", _words(error), "make sweep_api_key_file hold a valid admin key")
            return _result("sweep", "warning", f"the key may not see what all users run: {_words(error)}", remedy)
        finally:
            if admin is not client:
                await admin.close()
        if self.running and not self.running & swept.keys():
            note = f"it does not show what runs now, as {_names('/'.join(place) for place in self.running)}"
            return _result("sweep", "warning", note, remedy)
        note = "shows what runs" if self.running else "allowed; nothing ran that would show whether it sees all"
        return _result("sweep", "ok", note)


def _reach_url(url: str, owner: Any) -> "list[CheckResult]":
    """``owner``: what has ``tls`` and ``proxy``. Blocks."""
    from yarl import URL

    from tocsin.deliver.reach import Server, reach
    from tocsin.kit.clock import SystemClock
    from tocsin.kit.proxy import environment_proxy

    server = Server.of_url(url)
    proxy = owner.proxy
    if proxy is None:
        proxy = environment_proxy(URL(url).scheme, server.host, server.port)
    return list(reach(server, owner.tls, proxy, SystemClock().now().timestamp()))


def _other_addresses(url: str) -> list[str]:
    """Where DSS may be in place of ``url``: without its path, or its end, and with the other scheme."""
    from yarl import URL

    from tocsin.app.validate import address_before_page

    bases = dict.fromkeys((url, address_before_page(url) or url, str(URL(url).origin())))
    port = URL(url).explicit_port
    swapped = {
        base: str(URL(base).with_scheme("http" if URL(base).scheme == "https" else "https").with_port(port))
        for base in bases
    }
    return [address.rstrip("/") for address in dict.fromkeys((*bases, *swapped.values())) if address != url]


def _words(error: "DSSError") -> str:
    from tocsin.cli.dss.session import describe_error

    return describe_error(error)


def _api_remedy(error: "DSSError") -> str:
    from tocsin.dss import errors

    match error:
        case errors.DSSUnreachable():
            return "check the way to the node, and the proxy if there is one between"
        case errors.DSSInvalidReply() | errors.DSSNotFound():
            return (
                "give the address of DSS itself; where single sign-on or a log-in page stands before it, have it let "
                "/dip/publicapi through, or set headers or bearer_file to what it asks for"
            )
        case errors.DSSThrottled():
            return "try again later; lower watch.max_requests_per_second if it happens often"
        case _:
            return "read what the node, or the proxy before it, says, and mend it there"


def _names(names: Any) -> str:
    every = sorted(names)
    more = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- the rest ---------------------------------------------------------------------------------------------------------


def _examine_store(config: "Config") -> "Iterator[CheckResult]":
    """Opens nothing for writing. Blocks."""
    from shutil import disk_usage

    from tocsin.store import StoreRefused
    from tocsin.store.engine import check_sqlite_place, is_sqlite, parse_url, shown_url, sqlite_path
    from tocsin.store.migrate import stored_revision
    from tocsin.store.schema import SCHEMA_REVISION

    try:
        url = parse_url(config.store.url)
        where = shown_url(url)
        if is_sqlite(url):
            path = sqlite_path(url)
            if not path.parent.exists():
                yield _result("place", "ok", f"{path.parent} is made at the first start")
                return
            check_sqlite_place(path)
            free = disk_usage(path.parent).free // 1024**2
            remedy = "make room: a store of 10 000 scenarios takes some hundred MB"
            yield _result(
                "place", "ok" if free > 1024 else "warning", f"{path}, {free} MB free", "" if free > 1024 else remedy
            )
            if not path.exists():
                yield _result("revision", "ok", "the store is made at the first start")
                return
        revision = stored_revision(url)
    except StoreRefused as error:
        yield _result("open", "failed", str(error), "correct store.url, or mend the database")
        return
    if revision in (SCHEMA_REVISION, None):
        yield _result("revision", "ok", f"{where}: {revision or 'empty; its tables are made at the first start'}")
    else:
        note = f"{where} has {revision}, this version wants {SCHEMA_REVISION}"
        yield _result(
            "revision", "warning", note, "the next start brings it up to date, or says why not; see docs/upgrade.md"
        )


async def _examine_channel(channel: "Channel") -> "AsyncIterator[CheckResult]":
    from tocsin.deliver.reach import reach, slack_scopes
    from tocsin.deliver.transport import channel_server
    from tocsin.kit.clock import SystemClock

    clock = SystemClock()
    try:
        server, proxy = await asyncio.to_thread(channel_server, channel)
    except OSError as error:
        yield _result(
            "secret",
            "failed",
            f"cannot be read: {error.strerror or error}",
            "correct the file or variable that it is read from",
        )
        return
    except ValueError as error:
        yield _result("server", "skipped", str(error), "try it with: tocsin notify test RECEIVER")
        return
    results = await asyncio.to_thread(lambda: list(reach(server, channel.tls, proxy, clock.now().timestamp())))
    for result in results:
        yield result
    if channel.slack is not None:
        yield await slack_scopes(channel, channel.slack, clock)


def _unseen_projects(config: "Config", nodes: "Sequence[_NodeExaminer]") -> "Iterator[CheckResult]":
    """Projects that rules, reporters or routes name and that no key sees."""
    if any(node.projects is None for node in nodes):
        return
    for where, matchers in _all_matchers(config):
        on = [m.value for m in matchers if m.name == "dss_node" and m.op == "="]
        seen = {key for node in nodes if node.node.name in on or not on for key in node.projects or ()}
        for project in (m.value for m in matchers if m.name == "project" and m.op == "=" and m.value not in seen):
            remedy = "give the key the right to read it, or correct the name"
            yield _result("projects", "failed", f"{where} names {project}, which no key sees", remedy)


def _all_matchers(config: "Config") -> "Iterator[tuple[str, Sequence[Matcher]]]":
    yield from ((f"the rule {rule.alert}", rule.match) for rule in config.rules)
    yield from ((f"the reporter {reporter.name}", reporter.match) for reporter in config.reporters)

    def of_route(route: "Route") -> "Iterator[tuple[str, Sequence[Matcher]]]":
        yield f"the route to {route.receiver}", route.matchers
        for child in route.routes:
            yield from of_route(child)

    if config.route is not None:
        yield from of_route(config.route)
