"""``failed``: rings after so many failures in a row, ends after so many good runs. ABORTED is neither."""

from dataclasses import replace

from tocsin.config.model import Rule
from tocsin.kit.clock import format_utc, to_ms
from tocsin.model.event import END_EVENTS, Event, is_good
from tocsin.model.rule_state import FailedState
from tocsin.model.run import LOST, Outcome
from tocsin.rules.view import AlertContent, EvaluationResult, RuleStatus, View
from tocsin.rules.words import place, times


def on_event(rule: Rule, state: FailedState | None, event: Event) -> FailedState | None:
    """The streak after this event; the same state when it says nothing."""
    if event.name not in END_EVENTS or event.run is None:
        return state
    if event.run.outcome in rule.outcomes:
        return _failure(rule, state or FailedState(), event)
    if state is None or not is_good(event.run.outcome):
        return state
    if state.crossed is None:
        return _blank(state)
    good = state.good + 1
    return replace(state, good=good, recovered=event.time if good == rule.resolve_after else state.recovered)


def _failure(rule: Rule, state: FailedState, event: Event) -> FailedState:
    assert event.run is not None
    if state.failures == 0 or state.recovered is not None:
        # `ringing` stays: while history is read back, a streak may end and another begin before anyone is told.
        state = replace(_blank(state), first=event.time, previous=event.previous_outcome)
    failures = state.failures + 1
    return replace(
        state,
        failures=failures,
        good=0,
        crossed=event.time if state.crossed is None and failures >= rule.after else state.crossed,
        run=event.run.key,
        outcome=event.run.outcome,
        url=event.run_url,
    )


def _blank(state: FailedState) -> FailedState:
    return FailedState(ringing=state.ringing, dismissed=state.dismissed)


def evaluate(_rule: Rule, state: FailedState, view: View) -> EvaluationResult:
    if state.recovered is not None:
        return EvaluationResult(_blank(state), RuleStatus.QUIET, at=state.recovered)
    if state.crossed is None or state.run is None or state.first is None:
        return EvaluationResult(state, RuleStatus.QUIET)
    lost = f" ({LOST})" if state.outcome == Outcome.UNKNOWN else ""
    again = "" if state.failures == 1 else f" {times(state.failures)} in a row"
    before = f" Before that: {state.previous}." if state.previous else ""
    shown = AlertContent(
        starts_at=state.crossed,
        evidence=f"{state.run.run_id}/{to_ms(state.run.start)}",
        summary=f"{place(view)} ended {state.outcome}{lost}{again}",
        description=f"Run {state.run.run_id} ended {state.outcome}{lost}; failing since {format_utc(state.first)}.{before}",
        count=state.failures,
        run=state.run,
        facts={"previous_outcome": state.previous or "", "run_url": state.url or ""},
    )
    return EvaluationResult(state, RuleStatus.RING, shown=shown)
