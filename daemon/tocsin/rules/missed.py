"""``missed``: an expected start that did not come, seen with fresh eyes.

An expected start is judged once it is due: DSS launches a fired trigger after 60 s, and catches up on a late one for
a tenth of its period (both facts from Dataiku's documentation and forum), so nothing is missed before
``at + 60 s + max(grace, period / 10)``. It is met by a run that a trigger started in that time; a run that people or
other scenarios started does not meet it, but while any run was open DSS evaluates no triggers, so an occurrence then
is withdrawn, not missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tocsin.config.model import Rule
from tocsin.kit.clock import format_utc, isoformat
from tocsin.model.event import Event, EventName
from tocsin.model.rule_state import MissedState
from tocsin.model.run import Run
from tocsin.model.scenario import LAUNCH_DELAY, StartState, keeps_triggers_off, may_meet
from tocsin.rules.view import RECHECK, AlertContent, EvaluationResult, RuleStatus, View
from tocsin.rules.words import place, times

LATENESS = 10  # DSS catches up on an occurrence for a tenth of its period
DEFAULT_GRACE = timedelta(minutes=10)  # where no rule of this kind matches


@dataclass(frozen=True, slots=True)
class StartStatus:
    """``evaluate_at`` is when a pending one is worth another look, on the node's clock."""

    state: StartState
    evaluate_at: datetime | None = None


def due_of(at: datetime, grace: timedelta, following: datetime | None) -> datetime:
    """When an expected start counts as missed. ``following`` is the scenario's next expected start, if known."""
    period = following - at if following is not None and following > at else timedelta(0)
    return at + LAUNCH_DELAY + max(grace, period / LATENESS)


def evaluate_start(at: datetime, due: datetime, runs: Sequence[Run], view: View) -> StartStatus:
    """What became of the start expected at ``at``, as far as rows tell. ``runs`` are those open or begun since."""
    scenario = view.scenario
    if scenario is None or scenario.gone or scenario.active is False:
        return StartStatus(StartState.WITHDRAWN)
    if any(may_meet(run, at) and run.start <= due for run in runs):
        return StartStatus(StartState.MET)
    if any(keeps_triggers_off(run, at) for run in runs):
        return StartStatus(StartState.WITHDRAWN)
    if view.now < due:
        return StartStatus(StartState.PENDING, due)
    read = scenario.status_read_at
    active_since_due = scenario.active is True and read is not None and read + view.node.clock_offset > due
    if not (view.fresh(due) and active_since_due):
        return StartStatus(StartState.PENDING, view.now + RECHECK)
    return StartStatus(StartState.MISSED)


def miss(state: MissedState | None, at: datetime, due: datetime) -> MissedState:
    """The state after one more missed start; one that was counted before changes nothing."""
    state = state or MissedState()
    if state.judged is not None and at <= state.judged:
        return state
    if state.count == 0 or state.met is not None:
        state = MissedState(ringing=state.ringing, dismissed=state.dismissed, first=at, due=due)
    return replace(state, count=state.count + 1, last=at, judged=at)


def on_event(_rule: Rule, state: MissedState | None, event: Event) -> MissedState | None:
    if event.name is not EventName.RUN_STARTED or state is None or state.last is None:
        return state
    return replace(state, met=event.time) if event.time > state.last else state


def evaluate(_rule: Rule, state: MissedState, view: View) -> EvaluationResult:
    if state.first is None or state.last is None or state.due is None or state.met is not None:
        calm = MissedState(ringing=state.ringing, dismissed=state.dismissed, judged=state.judged)
        return EvaluationResult(calm, RuleStatus.QUIET, at=state.met)
    again = "" if state.count == 1 else f" {times(state.count)}"
    since = f", and {state.count - 1} more until {format_utc(state.last)}" if state.count > 1 else ""
    shown = AlertContent(
        starts_at=state.due,
        evidence=isoformat(state.last),
        summary=f"{place(view)} did not start when it should{again}",
        description=f"A start was expected at {format_utc(state.first)} and no run of its triggers was seen{since}.",
        count=state.count,
        facts={"expected_start": isoformat(state.last)},
    )
    return EvaluationResult(state, RuleStatus.RING, shown=shown)
