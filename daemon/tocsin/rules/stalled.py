"""A stalled scheduler rings once: many expected starts of one node, missed together, are one fact about the node.

The cohort of a missed start is what the node should have started around the same time. When a fifth of it, and at
least ten, are missed, ``NodeSchedulerStalled`` rings and the scenarios' own alerts keep quiet. While starts that are
due but were not looked at since could still make it so many, single misses wait, ``PATIENCE`` at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tocsin.config.model import Rule
from tocsin.kit.clock import format_utc, isoformat
from tocsin.model.rule_state import StalledState
from tocsin.rules.view import AlertContent, EvaluationResult, RuleStatus, View

WINDOW = timedelta(minutes=15)  # starts expected within it belong together
PATIENCE = timedelta(minutes=5)
AT_LEAST = 10
SHARE = 5  # a fifth
RECHECK = timedelta(minutes=1)  # how soon a stall is looked at again


@dataclass(frozen=True, slots=True)
class Cohort:
    """The starts that a node should have made together; ``unseen`` are due but were not looked at since."""

    first: datetime  # of the missed ones
    last: datetime
    met: int = 0
    missed: int = 0
    unseen: int = 0

    @property
    def share(self) -> bool:
        return self.missed * SHARE >= self.met + self.missed

    @property
    def stalled(self) -> bool:
        return self.missed >= AT_LEAST and self.share

    @property
    def undecided(self) -> bool:
        """Whether the unseen ones could still make it a stall."""
        return self.unseen > 0 and replace(self, missed=self.missed + self.unseen).stalled


def clusters(missed: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """Moments that lie close together as (first, last) of each cluster."""
    found: list[tuple[datetime, datetime]] = []
    for at in sorted(missed):
        if found and at - found[-1][1] <= WINDOW:
            found[-1] = (found[-1][0], at)
        else:
            found.append((at, at))
    return found


def speaks_for(state: StalledState | None, cohort: Cohort) -> bool:
    """Whether the node's alert speaks for these missed starts, so that the scenarios' own keep quiet."""
    ringing = state is not None and state.ringing is not None and state.over is None
    return cohort.stalled or (ringing and cohort.share)


def feel(state: StalledState | None, cohort: Cohort) -> StalledState:
    """The node's state after a cohort that is stalled, or that a stall explains."""
    state = state or StalledState()
    if state.over is not None:
        state = StalledState(ringing=state.ringing, dismissed=state.dismissed)
    return replace(
        state,
        since=min(state.since or cohort.first, cohort.first),
        last=max(state.last or cohort.last, cohort.last),
        missed=state.missed + cohort.missed,
        expected=state.expected + cohort.met + cohort.missed,
    )


def on_event(state: StalledState, last_met: datetime | None) -> StalledState:
    """A stall is over when a start that was expected later has come."""
    if last_met is not None and state.last is not None and last_met > state.last:
        return replace(state, over=last_met)
    return state


def evaluate(_rule: Rule, state: StalledState, view: View) -> EvaluationResult:
    if state.since is None or state.over is not None:
        calm = StalledState(ringing=state.ringing, dismissed=state.dismissed)
        return EvaluationResult(calm, RuleStatus.QUIET, at=state.over)
    shown = AlertContent(
        starts_at=view.now,
        evidence=f"{isoformat(state.since)}/{state.missed}",
        summary=f"The scheduler of DSS node {view.node.node} does not start scenarios",
        description=f"{state.missed} of {state.expected} expected starts since {format_utc(state.since)} did not come. "
        "Look whether DSS runs and whether automatic triggers were switched off for the node or its projects.",
        count=state.missed,
        facts={"expected_start": isoformat(state.since)},
    )
    return EvaluationResult(state, RuleStatus.RING, view.now + RECHECK, shown=shown)
