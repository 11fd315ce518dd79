"""What a rule gets to see, and what it answers. All moments in a view are on the node's clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from tocsin.model.rule_state import AnyRuleState
from tocsin.model.run import RunKey
from tocsin.model.scenario import NodeView, ScenarioView

RECHECK = timedelta(seconds=10)  # how soon a rule that waits for fresh sight asks again


@dataclass(frozen=True, slots=True)
class View:
    """The world at one moment. ``now`` is on the node's clock, and so is everything that rules compare with it."""

    now: datetime
    node: NodeView
    scenario: ScenarioView | None = None  # None for rules about nodes, and when the row is gone
    durations: tuple[timedelta, ...] | None = None  # of the last good runs; None: not loaded
    base_url: str = ""  # of the node's web interface

    def fresh(self, since: datetime) -> bool:
        """Whether a good look was begun after ``since`` and the node hides nothing."""
        looked = self.scenario.polled_at if self.scenario else None
        return self.node.clear and looked is not None and looked + self.node.clock_offset > since


class RuleStatus(Enum):
    """What a rule says now. WAIT: it cannot tell, so what is stays."""

    RING = auto()
    QUIET = auto()
    WAIT = auto()


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A rule's answer. ``due`` is when time alone may change it; ``at`` is when it became quiet, if a fact says so."""

    state: AnyRuleState
    status: RuleStatus
    due: datetime | None = None
    at: datetime | None = None
    shown: "AlertContent | None" = None  # of one that rings


@dataclass(frozen=True, slots=True)
class AlertContent:
    """What the alert of a ringing rule shows. ``evidence`` names what it rings for; a change of it is an update."""

    starts_at: datetime
    evidence: str
    summary: str
    description: str
    count: int = 1
    run: RunKey | None = None
    facts: Mapping[str, str] = field(default_factory=dict)  # further annotations
