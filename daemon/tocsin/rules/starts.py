"""Rules about expected starts that did not come: ``missed`` for a scenario, and a stalled scheduler for its node.

DSS launches a fired trigger after 60 s and catches up on a late one for a tenth of its period (both facts from Dataiku's
documentation and forum), so nothing is missed before ``at + 60 s + max(grace, period / 10)``. A run that a trigger
started in that time meets an expected start. While any run is open DSS evaluates no triggers: an occurrence then is
withdrawn, not missed.

The cohort of a missed start is what its node should have started around the same time. When a fifth of it, and at least
ten, are missed, ``NodeSchedulerStalled`` fires and the scenarios' own alerts stay quiet. While starts that are due but
were not polled since could still make it so many, single missed starts wait, ``PATIENCE`` at most.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from tocsin.config.model import Rule
from tocsin.kit.clock import format_utc, isoformat
from tocsin.model.alert import STALLED_ALERT, STALLED_SEVERITY
from tocsin.model.event import Event, EventName
from tocsin.model.rule_state import MissedState, StalledState
from tocsin.model.run import Run
from tocsin.model.scenario import LAUNCH_DELAY, StartState, keeps_triggers_off, may_meet
from tocsin.rules.rule import RECHECK, AlertContent, CompiledRule, EvaluationResult, RuleStatus, RuleView, reset, times

LATENESS = 10  # DSS catches up on an occurrence for a tenth of its period
DEFAULT_GRACE = timedelta(minutes=10)  # where no rule of this kind matches
WINDOW = timedelta(minutes=15)  # starts expected within it belong together
PATIENCE = timedelta(minutes=5)
AT_LEAST = 10
SHARE = 5  # a fifth
STALL_RECHECK = timedelta(minutes=1)  # how soon a stall is evaluated again


def due_of(at: datetime, grace: timedelta, following: datetime | None) -> datetime:
    """When an expected start counts as missed. ``following`` is the scenario's next expected start, if known."""
    period = following - at if following is not None and following > at else timedelta(0)
    return at + LAUNCH_DELAY + max(grace, period / LATENESS)


def evaluate_start(
    at: datetime, due: datetime, runs: Sequence[Run], view: RuleView
) -> tuple[StartState, datetime | None]:
    """What became of the start expected at ``at``, as far as rows tell, and when a pending one is worth another
    evaluation, on the node's clock. ``runs`` are those open or begun since."""
    scenario = view.scenario
    if scenario is None or scenario.gone or scenario.active is False:
        return StartState.WITHDRAWN, None
    if any(may_meet(run, at) and run.start <= due for run in runs):
        return StartState.MET, None
    if any(keeps_triggers_off(run, at) for run in runs):
        return StartState.WITHDRAWN, None
    if view.now < due:
        return StartState.PENDING, due
    read = scenario.status_read_at
    active_since_due = scenario.active is True and read is not None and read + view.node.clock_offset > due
    if not (view.fresh(due) and active_since_due):
        return StartState.PENDING, view.now + RECHECK
    return StartState.MISSED, None


class MissedRule(CompiledRule[MissedState]):
    """Fires when an expected start did not come, resolves with the next one that does."""

    state_type = MissedState

    def __init__(self, id_: str, config: Rule) -> None:
        super().__init__(id_, config)
        self.stalled = StalledRule(f"{id_}/stalled", config)

    def add_missed(self, state: MissedState | None, at: datetime, due: datetime) -> MissedState:
        """The state after a missed start; one that was counted before changes nothing."""
        state = state or MissedState()
        if state.last_counted is not None and at <= state.last_counted:
            return state
        if state.count == 0 or state.met is not None:
            state = replace(reset(state), first=at, due=due)
        return replace(state, count=state.count + 1, last=at, last_counted=at)

    def on_event(self, state: MissedState | None, event: Event) -> MissedState | None:
        if event.name is not EventName.RUN_STARTED or state is None or state.last is None:
            return state
        return replace(state, met=event.time) if event.time > state.last else state

    def evaluate(self, state: MissedState, view: RuleView) -> EvaluationResult:
        if state.first is None or state.last is None or state.due is None or state.met is not None:
            return EvaluationResult(
                replace(reset(state), last_counted=state.last_counted), RuleStatus.INACTIVE, at=state.met
            )
        again = "" if state.count == 1 else f" {times(state.count)}"
        since = f", and {state.count - 1} more until {format_utc(state.last)}" if state.count > 1 else ""
        first = format_utc(state.first)
        content = AlertContent(
            starts_at=state.due,
            evidence=isoformat(state.last),
            summary=f"{view.subject} did not start when it should{again}",
            description=f"A start was expected at {first} and no run of its triggers was seen{since}.",
            count=state.count,
            facts={"expected_start": isoformat(state.last)},
        )
        return EvaluationResult(state, RuleStatus.FIRING, content=content)


class Cohort(msgspec.Struct, frozen=True):
    """The starts that a node should have made together; ``unseen`` are due but were not polled since."""

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


def group_moments(moments: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """Moments that lie within ``WINDOW`` of the next, as (first, last) of each group."""
    groups: list[tuple[datetime, datetime]] = []
    for at in sorted(moments):
        if groups and at - groups[-1][1] <= WINDOW:
            groups[-1] = (groups[-1][0], at)
        else:
            groups.append((at, at))
    return groups


class StalledRule(CompiledRule[StalledState]):
    """Fires once for a node whose automatic starts are missed together. Each ``missed`` rule has one."""

    state_type = StalledState
    about_nodes = True

    def __init__(self, id_: str, config: Rule) -> None:
        super().__init__(id_, config)
        self.alert, self.severity = STALLED_ALERT, STALLED_SEVERITY

    def covers(self, state: StalledState | None, cohort: Cohort) -> bool:
        """Whether the node's alert covers these missed starts."""
        firing = state is not None and state.firing is not None and state.over is None
        return cohort.stalled or (firing and cohort.share)

    def add_cohort(self, state: StalledState | None, cohort: Cohort) -> StalledState:
        """The node's state after a cohort that is stalled, or that a stall explains."""
        state = state or StalledState()
        state = state if state.over is None else reset(state)
        return replace(
            state,
            since=min(state.since or cohort.first, cohort.first),
            last=max(state.last or cohort.last, cohort.last),
            missed=state.missed + cohort.missed,
            expected=state.expected + cohort.met + cohort.missed,
        )

    def on_met(self, state: StalledState, last_met: datetime | None) -> StalledState:
        """A stall is over when a start that was expected later has come."""
        if last_met is not None and state.last is not None and last_met > state.last:
            return replace(state, over=last_met)
        return state

    def evaluate(self, state: StalledState, view: RuleView) -> EvaluationResult:
        if state.since is None or state.over is not None:
            return EvaluationResult(reset(state), RuleStatus.INACTIVE, at=state.over)
        content = AlertContent(
            starts_at=view.now,
            evidence=f"{isoformat(state.since)}/{state.missed}",
            summary=f"The scheduler of DSS node {view.node.node} does not start scenarios",
            description=f"{state.missed} of {state.expected} expected starts since {format_utc(state.since)} did not "
            "come. Look whether DSS runs and whether automatic triggers were switched off for the node or its projects.",
            count=state.missed,
            facts={"expected_start": isoformat(state.since)},
        )
        return EvaluationResult(state, RuleStatus.FIRING, view.now + STALL_RECHECK, content=content)
