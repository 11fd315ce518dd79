"""The nodes that one invocation may ask, what its addresses mean on them, and what their errors are to people."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tocsin import __version__
from tocsin.cli.dss.address import Address, AddressPart, format_address, listing_address, run_address, scenario_address
from tocsin.cli.exits import DONE, NO, NOT_ALLOWED, UNREACHABLE, USAGE, Failure, one_line, print_stderr
from tocsin.cli.show import progress
from tocsin.cli.verb import Where, load_config
from tocsin.dss import DSSClient, DSSError, DSSScenario, DSSScenarioRun, errors
from tocsin.dss.fields import get_object, get_text, get_time, only_texts
from tocsin.dss.wire import Raw
from tocsin.kit.clock import SystemClock

if TYPE_CHECKING:
    from tocsin.config.model import Config, Node

T = TypeVar("T")
R = TypeVar("R")
Item = dict[str, object]
"""A row that is printed; its keys are those of docs/cli.md and stay."""
_NOT_OF_ALL = (errors.DSSForbidden, errors.DSSInvalidReply, errors.DSSNotFound, errors.DSSServerError)


def describe_error(error: DSSError) -> str:
    elsewhere = isinstance(error, errors.DSSUnreachable | errors.DSSInvalidReply)
    reason = one_line(error.reason)
    return f"{error.sentence}{f' at {error.url}' if error.url and elsewhere else ''}{f': {reason}' if reason else ''}"


def exit_code(error: DSSError) -> int:
    match error:
        case errors.DSSUnreachable() | errors.DSSInvalidReply() | errors.DSSThrottled():
            return UNREACHABLE
        case errors.DSSServerError(transient=True):
            return UNREACHABLE
        case errors.DSSUnauthorized() | errors.DSSForbidden() | errors.DSSServerError(denied=True):
            return NOT_ALLOWED
        case _:
            return NO


def node_client(node: "Node", **options: Any) -> DSSClient:
    """A client of a configured node; ``options`` are further ones of ``DSSClient``, or others than the node's. Raises
    ``ValueError`` if its address cannot be one."""
    cert, key = node.tls.client_cert_file, node.tls.client_key_file
    own: dict[str, Any] = {
        "api_key": node.api_key.read if node.api_key else None,
        "jwt_bearer_token": node.bearer.read if node.bearer else None,
        "extra_headers": node.headers,
        "no_check_certificate": not node.tls.verify,
        "client_certificate": (cert, key) if cert and key else cert,
        "ca_file": node.tls.ca_file,
        "proxy": node.proxy,
        "user_agent": f"tocsin/{__version__}",
        "max_polls": node.watch.max_concurrency,
    }
    return DSSClient(node.url, **own | options)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One scenario that an address names. ``item`` is its entry in the project's list, if that was read."""

    node: str
    project: str
    id: str
    scenario: DSSScenario
    item: Raw

    def __str__(self) -> str:
        return format_address(self.node, self.project, self.id)

    @property
    def place(self) -> Item:
        return {"address": str(self), "node": self.node, "project": self.project, "scenario": self.id}

    def run_row(self, run: DSSScenarioRun) -> Item:
        return {
            **self.place,
            "address": format_address(self.node, self.project, self.id, run.id),
            "run": run.id,
            "outcome": None if run.running else run.outcome,
            "start": run.start_time,
            "end": None if run.running else get_time(run.run, "end") or get_time(get_object(run.run, "result"), "end"),
            "duration_seconds": timedelta(seconds=run.duration),
            "trigger": {key: get_text(run.trigger, key) for key in ("type", "name")},
            "run_as": get_text(get_object(run.run, "runAsUser"), "realUserLogin"),
        }


class Session:
    """The nodes of this invocation, each connected when it is first needed."""

    def __init__(self, where: Where) -> None:
        if where.api_key_file is not None and where.url is None:
            raise Failure("--api-key-file belongs to --url", USAGE)
        self.clock = SystemClock()
        self.code = DONE
        self.config: Config | None = load_config(where.config) if where.url is None or where.config else None
        nodes = self.config.nodes if self.config and where.url is None else (_node_at_url(where),)
        if where.node not in (None, *(known.name for known in nodes)):
            raise _unknown_node(where.node or "", nodes)
        self.nodes = {known.name: known for known in nodes if where.node in (None, known.name)}
        self.concurrency = max(node.watch.max_concurrency for node in self.nodes.values())
        self._clients: dict[str, DSSClient] = {}
        self._users: dict[str, str | None] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, where: Where) -> AsyncIterator["Session"]:
        session = cls(where)
        try:
            yield session
        except DSSError as error:
            raise Failure(describe_error(error), exit_code(error)) from None
        finally:
            for client in session._clients.values():
                await client.close()

    def client(self, name: str) -> DSSClient:
        """The client of a node. Raises ``Failure`` if its address cannot be one."""
        if name not in self._clients:
            try:
                self._clients[name] = node_client(self.nodes[name])
            except ValueError as error:
                raise Failure(str(error), USAGE) from None
        return self._clients[name]

    async def user(self, node: str) -> str | None:
        """The login that the credentials of a node stand for, if DSS says."""
        if node not in self._users:
            self._users[node] = get_text(await self.client(node).get_auth_info(), "authIdentifier")
        return self._users[node]

    def target(self, text: str) -> Target:
        """The scenario that an address without globs names; whether it exists is not asked."""
        return self._exact(scenario_address(text))

    async def find(
        self, texts: Iterable[str], *, listed: bool = False, parse: Callable[[str], Address] = scenario_address
    ) -> list[Target]:
        """The scenarios that addresses mean, each once. Globs find what the node's scope lets in; with ``listed``
        every target has its list entry. Raises ``Failure`` for an address that means nothing."""
        targets: dict[str, Target] = {}
        for address in list(map(parse, texts)):
            matching = [t for node in self._nodes_of(address.node) for t in await self._find(node, address, listed)]
            if not matching:
                raise Failure(f"no scenario matches {address}")
            targets |= {str(target): target for target in matching}
        return list(targets.values())

    async def find_or_all(self, texts: Sequence[str] | None) -> list[Target]:
        """As ``find`` with list entries, where a project alone stands for its scenarios, and nothing for everything in
        the scope of every node."""
        if texts:
            return await self.find(texts, listed=True, parse=listing_address)
        return [target for node in self.nodes for target in await self._find(node, Address(), True)]

    async def run(self, text: str) -> tuple[Target, DSSScenarioRun]:
        """The run that an address names. Raises ``Failure`` if there is no last or no current one."""
        address = run_address(text, self.nodes)
        target = self._exact(address)
        match address.run:
            case "last" | None:
                run = next(iter(await target.scenario.get_last_runs(1)), None)
            case "current":
                run = await target.scenario.get_current_run()
            case id:
                run = await target.scenario.get_run(id)
        if run is None:
            raise Failure(f"{target} {'is not running' if address.run == 'current' else 'has no run yet'}")
        return target, run

    def _nodes_of(self, part: AddressPart | None) -> list[str]:
        """The nodes that an address means; the only one if it does not say. Raises ``Failure``."""
        if part is None and len(self.nodes) > 1:
            known = ", ".join(self.nodes)
            raise Failure(f"there are several nodes ({known}): begin the address with one, or say --node", USAGE)
        names = [name for name in self.nodes if part is None or part.matches(name)]
        if not names and part is not None:
            raise _unknown_node(part.exact, self.nodes.values())
        return names

    def _exact(self, address: Address) -> Target:
        if address.is_glob:
            raise Failure("this takes one scenario, not a pattern", USAGE)
        (node,) = self._nodes_of(address.node)
        return self._target(node, address.project.exact, address.scenario.exact)

    async def _find(self, node: str, address: Address, listed: bool) -> list[Target]:
        project, scenario = address.project, address.scenario
        if not (project.is_glob or scenario.is_glob or listed):
            return [self._target(node, project.exact, scenario.exact)]
        keys = [project.exact]
        if project.is_glob:
            projects = self.nodes[node].projects
            keys = await self.client(node).list_project_keys()
            keys = [key for key in keys if project.matches(key) and in_scope(key, projects.include, projects.exclude)]

        async def read(key: str) -> list[Target]:
            items = await self.client(node).get_project(key).list_scenarios()
            return [self._target(node, key, item.id, item) for item in items if item.get("id")]

        lists = await self.read_each("reading projects", keys, read, format_address)
        targets = [target for _, listed_targets in lists for target in listed_targets if scenario.matches(target.id)]
        if not scenario.is_glob:
            return targets
        scope = self.nodes[node].scenarios
        return [
            target
            for target in targets
            if in_scope(target.id, scope.include, scope.exclude)
            and (not scope.tags or not set(scope.tags).isdisjoint(only_texts(target.item.get("tags"))))
        ]

    async def read_each(
        self, what: str, things: Sequence[T], read: Callable[[T], Awaitable[R]], name: Callable[[T], str] = str
    ) -> list[tuple[T, R]]:
        """Read something of each, a few at a time. One of many that cannot be read is reported and left out."""
        slots = asyncio.Semaphore(self.concurrency)
        results: dict[int, R] = {}

        async def read_one(place: int, thing: T) -> None:
            async with slots:
                try:
                    results[place] = await read(thing)
                except _NOT_OF_ALL as error:
                    if len(things) == 1:
                        raise
                    print_stderr(f"{name(thing)} is left out: {describe_error(error)}")
                    self.code = max(self.code, exit_code(error))
                step()

        with progress(what, len(things)) as step:
            await asyncio.gather(*(read_one(place, thing) for place, thing in enumerate(things)))
        return [(thing, results[place]) for place, thing in enumerate(things) if place in results]

    def _target(self, node: str, project: str, id: str, item: Raw | None = None) -> Target:
        return Target(node, project, id, self.client(node).get_project(project).get_scenario(id), item or {})


def in_scope(identifier: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    included, excluded = (any(fnmatchcase(identifier, glob) for glob in globs) for globs in (include, exclude))
    return included and not excluded


def _unknown_node(name: str, nodes: Iterable["Node"]) -> Failure:
    from tocsin.kit.strings import did_you_mean

    names = [node.name for node in nodes]
    return Failure(f"no node is named {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}", USAGE)


def _node_at_url(where: Where) -> "Node":
    from tocsin.config.load import api_key_from_environment
    from tocsin.config.model import Node
    from tocsin.config.secrets import FileSecret

    key = FileSecret(where.api_key_file) if where.api_key_file is not None else api_key_from_environment()
    if key is None:
        raise Failure("--url needs --api-key-file, or TOCSIN_DSS_API_KEY[_FILE] in the environment", USAGE)
    url = where.url or ""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None  # the client says what is wrong with it
    return Node(where.node or host or url, url, api_key=key)
