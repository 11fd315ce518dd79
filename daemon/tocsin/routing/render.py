"""The routing tree as text, in the forms of ``amtool config routes show`` and ``routes test``."""

from collections.abc import Callable, Sequence

from tocsin.config.model import Route
from tocsin.model.labels import Labels, matchers_text
from tocsin.routing.tree import matching_routes

_STEM = "│\N{NO-BREAK SPACE}\N{NO-BREAK SPACE} "  # byte for byte what amtool prints


def show(root: Route) -> str:
    """The tree with box-drawing branches, each route with its matchers and receiver."""
    return "\n".join([".", *_branches([root], "", _full)])


def receivers(root: Route, labels: Labels) -> str:
    """The receivers that would hear, comma-separated on one line; one that hears twice stands there twice."""
    return ",".join(route.receiver for route in matching_routes(root, labels))


def hears_exactly(root: Route, labels: Labels, expected: Sequence[str]) -> bool:
    """Whether exactly these receivers would hear, in this order."""
    return [route.receiver for route in matching_routes(root, labels)] == list(expected)


def show_matching(root: Route, labels: Labels) -> str:
    """The part of the tree that the labels take; receivers stand only where a notification would leave."""
    hit = {id(route) for route in matching_routes(root, labels)}

    def on_the_way(route: Route) -> bool:
        return id(route) in hit or any(on_the_way(child) for child in route.routes)

    def label(route: Route) -> str:
        name = matchers_text(route.matchers) if route.matchers else "default-route"
        return f"{name}  receiver: {route.receiver}" if id(route) in hit else name

    return "\n".join([".", *_branches([root] if on_the_way(root) else [], "", label, on_the_way)])


def _full(route: Route) -> str:
    name = matchers_text(route.matchers) if route.matchers else "default-route"
    return f"{name}{'  continue: true' if route.continues else ''}  receiver: {route.receiver}"


def _branches(
    routes: Sequence[Route],
    indent: str,
    label: Callable[[Route], str],
    wanted: Callable[[Route], bool] = lambda _: True,
) -> list[str]:
    lines: list[str] = []
    shown = [route for route in routes if wanted(route)]
    for route in shown:
        last = route is shown[-1]
        lines.append(f"{indent}{'└── ' if last else '├── '}{label(route)}")
        lines += _branches(route.routes, indent + ("    " if last else _STEM), label, wanted)
    return lines
