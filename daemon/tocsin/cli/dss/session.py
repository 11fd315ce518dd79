"""The nodes that one invocation may ask, and what its addresses mean on them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from tocsin import __version__
from tocsin.cli.dss.address import ANY, Address, Part, listing_address, run_address, scenario_address, shown
from tocsin.cli.dss.trouble import exit_code, told
from tocsin.cli.exits import DONE, USAGE, Failure, tell
from tocsin.cli.show import progress
from tocsin.cli.verb import Where, load_config
from tocsin.dss import (
    DSSClient,
    DSSError,
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSScenario,
    DSSScenarioRun,
    DSSServerError,
)
from tocsin.dss.fields import only_texts
from tocsin.dss.wire import Raw
from tocsin.kit.clock import SystemClock

if TYPE_CHECKING:
    from tocsin.config.model import Config, Node

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One scenario that an address names. ``item`` is its entry in the project's list, if that was read."""

    node: str
    project: str
    id: str
    scenario: DSSScenario
    item: Raw

    def __str__(self) -> str:
        return shown(self.node, self.project, self.id)

    @property
    def place(self) -> dict[str, object]:
        """How every row about this scenario begins."""
        return {"address": str(self), "node": self.node, "project": self.project, "scenario": self.id}


class Session:
    """The nodes of this invocation, each connected when it is first needed."""

    def __init__(self, where: Where) -> None:
        if where.api_key_file is not None and where.url is None:
            raise Failure("--api-key-file belongs to --url", USAGE)
        self.clock = SystemClock()
        self.code = DONE
        self.config: Config | None = load_config(where.config) if where.url is None or where.config else None
        nodes = self.config.nodes if self.config and where.url is None else (_given_node(where),)
        if where.node not in (None, *(known.name for known in nodes)):
            raise Failure(_unknown(where.node or "", nodes), USAGE)
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
            raise Failure(told(error), exit_code(error)) from None
        finally:
            for client in session._clients.values():
                await client.close()

    def client(self, node: str) -> DSSClient:
        """The client of a node. Raises ``Failure`` if its address cannot be one."""
        if node not in self._clients:
            try:
                self._clients[node] = _connect(self.nodes[node])
            except ValueError as error:
                raise Failure(str(error), USAGE) from None
        return self._clients[node]

    async def user(self, node: str) -> str | None:
        """The login that the credentials of a node stand for, if DSS says."""
        if node not in self._users:
            login = (await self.client(node).get_auth_info()).get("authIdentifier")
            self._users[node] = login if isinstance(login, str) else None
        return self._users[node]

    def trouble(self, where: str, error: DSSError) -> None:
        """Tell what an answer is going to lack, and remember it for the exit code."""
        tell(f"{where} is left out: {told(error)}")
        self.code = max(self.code, exit_code(error))

    def nodes_of(self, part: Part | None) -> list[str]:
        """The nodes that an address means; the only one if it does not say. Raises ``Failure``."""
        if part is None and len(self.nodes) > 1:
            names = ", ".join(self.nodes)
            raise Failure(f"there are several nodes ({names}): begin the address with one, or say --node", USAGE)
        found = [name for name in self.nodes if part is None or part.matches(name)]
        if not found and part is not None:
            raise Failure(_unknown(part.exact, self.nodes.values()), USAGE)
        return found

    def one(self, text: str) -> Target:
        """The scenario that an address without globs names; whether it exists is not asked."""
        return self._exactly(scenario_address(text))

    async def find(self, addresses: Iterable[str], *, listed: bool = False) -> list[Target]:
        """The scenarios that addresses mean, each once. Globs find what the node's scope lets in; with ``listed``
        every target has its list entry. Raises ``Failure`` for an address that means nothing."""
        return await self._find_all(list(map(scenario_address, addresses)), listed)

    async def find_or_all(self, addresses: Sequence[str] | None) -> list[Target]:
        """As ``find`` with list entries, where a project alone stands for its scenarios, and nothing for everything in
        the scope of every node."""
        if addresses:
            return await self._find_all(list(map(listing_address, addresses)), True)
        return [target for node in self.nodes for target in await self._find(node, Address(None, ANY), True)]

    async def run(self, text: str) -> tuple[Target, DSSScenarioRun]:
        """The run that an address names. Raises ``Failure`` if there is no last or no current one."""
        address = run_address(text, self.nodes)
        target = self._exactly(address)
        match address.run:
            case "last" | None:
                found = next(iter(await target.scenario.get_last_runs(1)), None)
            case "current":
                found = await target.scenario.get_current_run()
            case id:
                found = await target.scenario.get_run(id)
        if found is None:
            raise Failure(f"{target} {'is not running' if address.run == 'current' else 'has no run yet'}")
        return target, found

    def _exactly(self, address: Address) -> Target:
        if address.is_glob:
            raise Failure("this takes one scenario, not a pattern", USAGE)
        (node,) = self.nodes_of(address.node)
        return self._target(node, address.project.exact, address.scenario.exact)

    async def _find_all(self, addresses: Sequence[Address], listed: bool) -> list[Target]:
        found: dict[str, Target] = {}
        for address in addresses:
            some = [t for node in self.nodes_of(address.node) for t in await self._find(node, address, listed)]
            if not some:
                raise Failure(f"no scenario matches {address}")
            found |= {str(target): target for target in some}
        return list(found.values())

    async def _find(self, node: str, address: Address, listed: bool) -> list[Target]:
        project, scenario = address.project, address.scenario
        if not (project.is_glob or scenario.is_glob or listed):
            return [self._target(node, project.exact, scenario.exact)]
        if project.is_glob:
            scope = self.nodes[node].projects
            keys = await self.client(node).list_project_keys()
            keys = [key for key in keys if project.matches(key) and in_scope(key, scope.include, scope.exclude)]
            read = await self.each("reading projects", keys, lambda key: self._of_project(node, key), shown)
            some = [target for _, targets in read for target in targets]
        else:
            some = await self._of_project(node, project.exact)
        found = [target for target in some if scenario.matches(target.id)]
        return [target for target in found if self._in_scope(target)] if scenario.is_glob else found

    def _in_scope(self, target: Target) -> bool:
        scope = self.nodes[target.node].scenarios
        tagged = not scope.tags or not set(scope.tags).isdisjoint(only_texts(target.item.get("tags")))
        return tagged and in_scope(target.id, scope.include, scope.exclude)

    async def each(
        self, what: str, things: Sequence[T], read: Callable[[T], Awaitable[R]], name: Callable[[T], str] = str
    ) -> list[tuple[T, R]]:
        """Read something of each, a few at a time. One of many that cannot be read is told and left out."""
        slots = asyncio.Semaphore(self.concurrency)
        found: dict[int, R] = {}

        async def one(place: int, thing: T) -> None:
            async with slots:
                try:
                    found[place] = await read(thing)
                except (DSSForbidden, DSSInvalidReply, DSSNotFound, DSSServerError) as error:
                    if len(things) == 1:
                        raise
                    self.trouble(name(thing), error)
                step()

        with progress(what, len(things)) as step:
            await asyncio.gather(*(one(place, thing) for place, thing in enumerate(things)))
        return [(thing, found[place]) for place, thing in enumerate(things) if place in found]

    async def _of_project(self, node: str, project: str) -> list[Target]:
        items = await self.client(node).get_project(project).list_scenarios()
        return [self._target(node, project, item.id, item) for item in items if item.get("id")]

    def _target(self, node: str, project: str, id: str, item: Raw | None = None) -> Target:
        return Target(node, project, id, self.client(node).get_project(project).get_scenario(id), item or {})


def in_scope(identifier: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Whether globs of the configuration let an identifier in."""

    def found(globs: Iterable[str]) -> bool:
        return any(fnmatchcase(identifier, glob) for glob in globs)

    return found(include) and not found(exclude)


def _unknown(node: str, nodes: Iterable["Node"]) -> str:
    from tocsin.kit.strings import did_you_mean

    names = [known.name for known in nodes]
    return f"no node is named {node!r}{did_you_mean(node, names)}; known: {', '.join(names)}"


def _given_node(where: Where) -> "Node":
    from tocsin.config.load import api_key_from_environment
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


def _connect(node: "Node") -> DSSClient:
    """A client with all that the configuration says of a node. Raises ``ValueError``."""
    cert, key = node.tls.client_cert_file, node.tls.client_key_file
    return DSSClient(
        node.url,
        api_key=node.api_key.read if node.api_key else None,
        jwt_bearer_token=node.bearer.read if node.bearer else None,
        extra_headers=node.headers,
        no_check_certificate=not node.tls.verify,
        client_certificate=(cert, key) if cert and key else cert,
        ca_file=node.tls.ca_file,
        proxy=node.proxy,
        user_agent=f"tocsin/{__version__}",
        max_polls=node.watch.max_concurrency,
    )
