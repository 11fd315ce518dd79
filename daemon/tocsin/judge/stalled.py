"""A stalled scheduler rings once: many expected starts of one node, missed together, are one fact about the node.

The cohort of a node is its expected starts that fell due within the last ``WINDOW``. When a fifth of them, and at
least ten, are missed, ``NodeSchedulerStalled`` rings and the scenarios' own alerts keep quiet. While starts that are
due but not yet seen could still make it so many, single misses wait, ``PATIENCE`` at most.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tocsin.judge.view import Judgement, Portrait, Verdict, View
from tocsin.judge.words import moment
from tocsin.kit.clock import isoformat
from tocsin.model.config import Rule
from tocsin.model.rule_state import StalledState

WINDOW = timedelta(minutes=15)
PATIENCE = timedelta(minutes=5)
AT_LEAST = 10
SHARE = 5  # a fifth


@dataclass(frozen=True, slots=True)
class Cohort:
    """The expected starts of a node that fell due lately; ``unseen`` are due but were not looked at since."""

    met: int = 0
    missed: int = 0
    unseen: int = 0
    first: datetime | None = None  # of the missed ones
    last: datetime | None = None
    last_met: datetime | None = None

    @property
    def stalled(self) -> bool:
        return self.missed >= AT_LEAST and self.missed * SHARE >= self.met + self.missed

    @property
    def undecided(self) -> bool:
        """Whether the unseen ones could still make it a stall."""
        worst = self.missed + self.unseen
        return self.unseen > 0 and worst >= AT_LEAST and worst * SHARE >= self.met + worst


def feel(state: StalledState | None, cohort: Cohort) -> StalledState | None:
    """The node's state with what its cohort shows now. A stall is over when a later start came and few are missed."""
    if cohort.stalled:
        state = state or StalledState()
        return replace(
            state,
            since=state.since or cohort.first,
            last=max(filter(None, (state.last, cohort.last)), default=None),
            missed=max(state.missed, cohort.missed),
            expected=max(state.expected, cohort.met + cohort.missed),
            over=None,
        )
    met = cohort.last_met
    if state is not None and state.last is not None and met is not None and met > state.last:
        return replace(state, over=met)
    return state


def judge(_rule: Rule, state: StalledState, view: View) -> Judgement:
    if state.since is None or state.over is not None:
        calm = StalledState(ringing=state.ringing, dismissed=state.dismissed)
        return Judgement(calm, Verdict.QUIET, at=view.now)
    return Judgement(state, Verdict.RING)


def portrait(_rule: Rule, state: StalledState, view: View) -> Portrait:
    assert state.since is not None
    return Portrait(
        starts_at=view.now,
        evidence=f"{isoformat(state.since)}/{state.missed}",
        summary=f"The scheduler of DSS node {view.node.node} starts nothing",
        description=f"{state.missed} of {state.expected} expected starts since {moment(state.since)} did not come. "
        "Look whether DSS runs and whether automatic triggers were switched off for the node or its projects.",
        count=state.missed,
        facts={"expected_start": isoformat(state.since)},
    )
