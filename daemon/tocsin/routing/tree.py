"""The routing tree: which receivers get an alert and in which group, and the tree as text.

Alertmanager's rules: a route is entered when all of its matchers hold; its children are tried in order and the first
that matches ends the search unless it says ``continue``; a route none of whose children match is itself a match. Beside
these, and unknown to Alertmanager, stand the routes of receivers that tags name, and the steps of escalations. The
texts are those of ``amtool config routes``. A group is identified by the matchers along the path, the receiver and the
group labels, never by a position in the file: after a reload that only moves routes, nothing is sent again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tocsin.config.model import Route
from tocsin.kit.clock import format_duration
from tocsin.model.labels import Labels, all_match, matchers_text
from tocsin.model.matcher_index import MatcherIndex

_CACHE_SIZE = 20_000
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_STEM = "│\N{NO-BREAK SPACE}\N{NO-BREAK SPACE} "  # byte for byte what amtool prints


@dataclass(frozen=True, slots=True)
class Match:
    """A route that takes a label set, and the group into which it puts the alert."""

    route: Route
    group_labels: Labels
    group_key: str


@dataclass(frozen=True, slots=True)
class Placed:
    route: Route
    parent: "Placed | None" = None


def walk(root: Route) -> Iterator[Placed]:
    """Every route of the tree, parents first, in the order of the file."""
    waiting = [Placed(root)]
    while waiting:
        placed = waiting.pop()
        yield placed
        waiting += [Placed(child, placed) for child in reversed(placed.route.routes)]


def matching_routes(root: Route, labels: Labels) -> list[Route]:
    """The routes that take ``labels``, in the order of the file; none when the root does not match."""
    return _enter(root, lambda route: all_match(route.matchers, labels))


def _enter(route: Route, holds: Callable[[Route], object]) -> list[Route]:
    if not holds(route):
        return []
    matches: list[Route] = []
    also: list[Route] = []
    ended = False
    for child in route.routes:
        if child.also:
            also += _enter(child, holds)
        elif not ended:
            deeper = _enter(child, holds)
            matches += deeper
            ended = bool(deeper) and not child.continues
    matches = matches or [route]
    notified = _surely_notified(matches)
    return matches + [match for match in also if match.receiver not in notified]


def _surely_notified(routes: Iterable[Route]) -> set[str]:
    """The receivers that are notified at any time."""
    return {route.receiver for route in routes if not (route.mute_time_intervals or route.active_time_intervals)}


def _with_escalations(taken: list[Route]) -> list[Route]:
    """Routes with the steps of their escalation; a receiver that is notified anyway is not escalated to."""
    steps: dict[str, Route] = {}
    for step in (step for route in taken for step in route.escalations):
        steps.setdefault(step.receiver, step)
    notified = _surely_notified(taken)
    return taken + [step for name, step in steps.items() if name not in notified]


def group_key(receiver: str, path: Sequence[str], group_labels: Labels) -> str:
    """The identity of a group, readable: ``receiver:{}/{severity="critical"}:{alertname="NodeDown"}``."""
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in sorted(group_labels.items())]
    return f"{receiver}:{'/'.join(path)}:{{{', '.join(pairs)}}}"


class Router:
    """A tree with a cache: label sets for which the same routes' matchers hold take the same routes."""

    def __init__(self, root: Route) -> None:
        self.root = root
        self._routes = [placed.route for placed in walk(root)]
        self._index = MatcherIndex(route.matchers for route in self._routes)

        with_steps = [step for route in self._routes for step in (route, *route.escalations)]
        self._by_path = {(route.receiver, route.path): route for route in reversed(with_steps)}  # the first counts
        self._escalates = len(with_steps) > len(self._routes)
        bit = {id(route): 1 << index for index, route in enumerate(self._routes)}
        self._take = lru_cache(_CACHE_SIZE)(lambda holding: _enter(root, lambda route: holding & bit[id(route)]))

    def match(self, labels: Labels, reachable: Collection[str] | None = None) -> list[Match]:
        """The matches of a label set; of several with one group key only the first.

        ``reachable``: receivers of which one must be among them; else the first route of the tree with one is added.
        """
        taken = self._take(self._index.matching(labels))
        if reachable is not None and not any(route.receiver in reachable for route in taken):
            taken = [*taken, *[route for route in self._routes if route.receiver in reachable][:1]]
        matches: dict[str, Match] = {}
        for route in _with_escalations(taken) if self._escalates else taken:
            names = () if route.digest else route.group_by  # a digest is one message
            group_labels = labels if names == ("...",) else {name: labels[name] for name in names if labels.get(name)}
            key = group_key(route.receiver, route.path, group_labels)
            matches.setdefault(key, Match(route, dict(group_labels), key))
        return list(matches.values())

    def find(self, receiver: str, path: tuple[str, ...]) -> Route | None:
        """The route of a group that was written earlier; None when the tree no longer has it."""
        return self._by_path.get((receiver, path))


def matching_receivers(root: Route, labels: Labels) -> list[str]:
    """The receivers that get an alert, in order, and as often as they get it."""
    return [route.receiver for route in matching_routes(root, labels)]


def format_tree(root: Route) -> str:
    """The tree with box-drawing branches, each route with its matchers and receiver."""

    def label(route: Route) -> str:
        steps = "".join(f"  after {format_duration(s.group_wait)}: {s.receiver}" for s in route.escalations)
        more = "  also: true" if route.also else "  continue: true" if route.continues else ""
        return f"{_name(route)}{more}  receiver: {route.receiver}{steps}"

    return "\n".join([".", *_branches([root], "", label)])


def format_matching(root: Route, labels: Labels) -> str:
    """The part of the tree that the labels take; receivers stand only where a notification would leave."""
    hit = {id(route) for route in matching_routes(root, labels)}

    def is_taken(route: Route) -> bool:
        return id(route) in hit or any(is_taken(child) for child in route.routes)

    def label(route: Route) -> str:
        return f"{_name(route)}  receiver: {route.receiver}" if id(route) in hit else _name(route)

    return "\n".join([".", *_branches([root], "", label, is_taken)])


def _name(route: Route) -> str:
    return matchers_text(route.matchers) if route.matchers else "default-route"


def _branches(
    routes: Sequence[Route],
    indent: str,
    label: Callable[[Route], str],
    included: Callable[[Route], bool] = lambda _: True,
) -> Iterator[str]:
    routes = [route for route in routes if included(route)]
    for route in routes:
        last = route is routes[-1]
        yield f"{indent}{'└── ' if last else '├── '}{label(route)}"
        yield from _branches(route.routes, indent + ("    " if last else _STEM), label, included)
