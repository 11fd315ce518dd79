"""``stale``: rings when an active scenario has had no good run for too long, ends with the next good one."""

from dataclasses import replace
from datetime import timedelta

from tocsin.config.model import Rule
from tocsin.kit.clock import format_duration, format_utc, isoformat
from tocsin.model.event import END_EVENTS, Event, is_good
from tocsin.model.rule_state import StaleState
from tocsin.rules.view import RECHECK, AlertContent, EvaluationResult, RuleStatus, View
from tocsin.rules.words import place

OFF_RECHECK = timedelta(minutes=30)  # how soon a switched-off scenario is asked for again


def on_event(_rule: Rule, state: StaleState | None, event: Event) -> StaleState | None:
    if event.name not in END_EVENTS or event.run is None or not is_good(event.run.outcome):
        return state
    known = state or StaleState()
    if known.since is not None and event.time <= known.since:
        return state
    return replace(known, since=event.time, good=True)


def evaluate(rule: Rule, state: StaleState, view: View) -> EvaluationResult:
    scenario = view.scenario
    if scenario is None or scenario.gone or state.since is None or rule.no_success_for is None:
        return EvaluationResult(state, RuleStatus.WAIT)
    if scenario.active is False:
        return EvaluationResult(replace(state, off=True), RuleStatus.WAIT, view.now + OFF_RECHECK)
    since = max(view.now, state.since) if state.off else state.since
    if state.off:
        state = replace(state, off=False, since=since, good=False)
    due = since + rule.no_success_for
    if view.now < due:
        return EvaluationResult(state, RuleStatus.QUIET, due, at=since if state.good else None)
    if scenario.active is None or not view.fresh(due):
        return EvaluationResult(state, RuleStatus.WAIT, view.now + RECHECK)
    said = "The last good run ended" if state.good else "No good run was seen since"
    shown = AlertContent(
        starts_at=due,
        evidence=isoformat(since),
        summary=f"{place(view)} has had no good run for {format_duration(rule.no_success_for)}",
        description=f"{said} {format_utc(since)}.",
        facts={"last_good": isoformat(since) if state.good else ""},
    )
    return EvaluationResult(state, RuleStatus.RING, shown=shown)
