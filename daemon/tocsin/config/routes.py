"""The routing tree with its inherited values filled in, as Alertmanager inherits them."""

from dataclasses import dataclass, replace
from datetime import timedelta

from tocsin.config.model import Route
from tocsin.model.labels import Matcher, matchers_text


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route as it is written; None means "as my parent says"."""

    receiver: str | None = None
    matchers: tuple[Matcher, ...] = ()
    continues: bool = False
    group_by: tuple[str, ...] | None = None  # ("...",) groups by all labels
    group_wait: timedelta | None = None
    group_interval: timedelta | None = None
    repeat_interval: timedelta | None = None
    mute_time_intervals: tuple[str, ...] = ()  # not inherited, as in Alertmanager
    active_time_intervals: tuple[str, ...] = ()
    routes: tuple["RouteSpec", ...] = ()
    line: int | None = None


def build_tree(spec: RouteSpec, parent: Route | None = None) -> Route:
    """The tree with every inherited value filled in. The root must name a receiver, or ``ValueError`` is raised."""
    heir = parent or Route(receiver="")
    group_by, everything = heir.group_by, heir.group_by_all
    if spec.group_by is not None:
        everything = "..." in spec.group_by
        group_by = () if everything else spec.group_by
    own = Route(
        receiver=spec.receiver or heir.receiver,
        matchers=spec.matchers,
        continues=spec.continues,
        group_by=group_by,
        group_by_all=everything,
        group_wait=heir.group_wait if spec.group_wait is None else spec.group_wait,
        group_interval=heir.group_interval if spec.group_interval is None else spec.group_interval,
        repeat_interval=heir.repeat_interval if spec.repeat_interval is None else spec.repeat_interval,
        mute_time_intervals=spec.mute_time_intervals,
        active_time_intervals=spec.active_time_intervals,
        path=(*(heir.path if parent else ()), matchers_text(spec.matchers)),
        line=spec.line,
    )
    if not own.receiver:
        raise ValueError("the root route must name a receiver")
    return replace(own, routes=tuple(build_tree(child, own) for child in spec.routes))
