"""What the rows say about a node or a scenario when a rule judges it."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tocsin.model.event import tags_label
from tocsin.model.labels import Labels
from tocsin.model.run import ScenarioKey


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as last seen. ``up`` is None until the first answer or failure."""

    node: str
    up: bool | None = None
    backfilling: bool = False
    down_since: datetime | None = None
    down_reason: str | None = None
    clock_offset: timedelta = timedelta(0)  # DSS's clock minus ours
    least_clock_offset: timedelta | None = None  # the least of it for hours

    @property
    def cautious(self) -> "NodeView":
        """The node with the least that its clock showed lately: when it leaps ahead for a while, nothing is overdue."""
        least = self.clock_offset if self.least_clock_offset is None else self.least_clock_offset
        return replace(self, clock_offset=min(self.clock_offset, least))

    @property
    def clear(self) -> bool:
        """Whether time alone may speak here: the node answers, and its history is read back."""
        return self.up is True and not self.backfilling


@dataclass(frozen=True, slots=True)
class ScenarioView:
    """A scenario as last seen. Moments of Tocsin's own doing (``polled_at``, ``status_read_at``) are on its clock."""

    key: ScenarioKey
    name: str
    tags: tuple[str, ...] = ()
    active: bool | None = None
    gone: bool = False
    watched_since: datetime | None = None
    polled_at: datetime | None = None  # when the last good look was begun
    status_read_at: datetime | None = None  # when the request that told `active` and `next_run` was begun
    next_run: datetime | None = None
    backfilled: bool = True


def scenario_labels(sight: ScenarioView) -> Labels:
    """The labels that a rule's ``match`` sees when no event is at hand."""
    return {
        "dss_node": sight.key.node,
        "project": sight.key.project,
        "scenario": sight.key.scenario,
        "scenario_name": sight.name,
        "tags": tags_label(sight.tags),
    }
