"""The routing tree: which receivers hear of an alert, and in which group it stands there.

Alertmanager's rules to the letter: a route is entered when all of its matchers hold; its children are tried in order
and the first that matches ends the search unless it says ``continue``; a route none of whose children match is itself
a match. ``amtool config routes test`` on the same tree answers the same, and a test compares both on random trees.

A group is identified by the matchers along the path, the receiver and the group labels, never by a position in the
file: after a reload that only moves routes, nothing is sent again.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tocsin.config.model import Route
from tocsin.model.labels import Labels, all_match
from tocsin.model.matcher_index import MatcherIndex

_CACHE_SIZE = 20_000


@dataclass(frozen=True, slots=True)
class Match:
    """A route that hears of a label set, and the group in which the alert stands there."""

    route: Route
    group_labels: Labels
    group_key: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A route and its place in the tree."""

    route: Route
    parent: "Placed | None" = None


def walk(root: Route) -> Iterator[Placed]:
    """Every route of the tree, parents first, in the order of the file."""
    waiting = [Placed(root)]
    while waiting:
        placed = waiting.pop()
        yield placed
        waiting += [Placed(child, placed) for child in reversed(placed.route.routes)]


def matching_routes(root: Route, labels: Labels) -> tuple[Route, ...]:
    """The routes that hear of ``labels``, in the order of the file; empty when the root itself does not match."""
    return tuple(_enter(root, lambda route: all_match(route.matchers, labels)))


def _enter(route: Route, holds: Callable[[Route], object]) -> list[Route]:
    if not holds(route):
        return []
    found: list[Route] = []
    for child in route.routes:
        deeper = _enter(child, holds)
        found += deeper
        if deeper and not child.continues:
            break
    return found or [route]


def group_key(receiver: str, path: Sequence[str], group_labels: Labels) -> str:
    """The identity of a group, readable: ``receiver:{}/{severity="critical"}:{alertname="NodeDown"}``."""
    pairs = ", ".join(f"{name}={_quoted(value)}" for name, value in sorted(group_labels.items()))
    return f"{receiver}:{'/'.join(path)}:{{{pairs}}}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(slots=True)
class Router:
    """One tree with a memory: label sets for which the same routes' matchers hold take the same way."""

    root: Route
    _index: MatcherIndex = field(init=False)
    _bit: dict[int, int] = field(init=False)  # of the index, by the id of a route
    _ways: dict[int, tuple[Route, ...]] = field(init=False, default_factory=dict)
    _by_path: dict[tuple[str, tuple[str, ...]], Route] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        routes = [placed.route for placed in walk(self.root)]
        self._index = MatcherIndex(route.matchers for route in routes)
        self._bit = {id(route): 1 << index for index, route in enumerate(routes)}
        for route in routes:
            self._by_path.setdefault((route.receiver, route.path), route)

    def match(self, labels: Labels, hearing: Collection[str] | None = None) -> tuple[Match, ...]:
        """The matches of a label set; of several with one group key only the first.

        ``hearing``: receivers of which one must be among them; else the first route of the tree that has one is too.
        """
        found: dict[str, Match] = {}
        way = self._way(labels)
        if hearing is not None and not any(route.receiver in hearing for route in way):
            way += tuple(islice((one.route for one in walk(self.root) if one.route.receiver in hearing), 1))
        for route in way:
            own = _group_labels(route, labels)
            key = group_key(route.receiver, route.path, own)
            found.setdefault(key, Match(route, own, key))
        return tuple(found.values())

    def find(self, receiver: str, path: tuple[str, ...]) -> Route | None:
        """The route of a group that was written earlier; None when the tree no longer has it."""
        return self._by_path.get((receiver, path))

    def _way(self, labels: Labels) -> tuple[Route, ...]:
        holding = self._index.matching(labels)
        way = self._ways.get(holding)
        if way is None:
            if len(self._ways) >= _CACHE_SIZE:
                self._ways.clear()
            way = self._ways[holding] = tuple(_enter(self.root, lambda route: holding & self._bit[id(route)]))
        return way


def _group_labels(route: Route, labels: Labels) -> dict[str, str]:
    if route.group_by_all:
        return dict(labels)
    return {name: labels[name] for name in route.group_by if labels.get(name)}
