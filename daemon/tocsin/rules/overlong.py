"""``overlong``: rings while a run takes far longer than it should, ends with the run.

"Usual" is the median of the last good runs. It is asked for only when the run is older than the shortest limit that
could hold, so that ordinary runs cost one row and no query. No event makes it ring, only time: what is begun and over
by the time it is seen was never anyone's business.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median

from tocsin.config.model import Rule
from tocsin.kit.clock import format_utc, human_duration, to_ms
from tocsin.model.event import END_EVENTS, Event, EventName
from tocsin.model.rule_state import OverlongState
from tocsin.model.run import RunKey
from tocsin.rules.view import RECHECK, AlertContent, EvaluationResult, RuleStatus, View
from tocsin.rules.words import place


def on_event(_rule: Rule, state: OverlongState | None, event: Event) -> OverlongState | None:
    if event.run is None:
        return state
    if event.name is EventName.RUN_STARTED:
        kept = state or OverlongState()
        return OverlongState(run=event.run.key, url=event.run_url, ringing=kept.ringing, dismissed=kept.dismissed)
    if event.name in END_EVENTS and state is not None and state.run == event.run.key:
        return replace(state, ended=event.time)
    return state


def evaluate(rule: Rule, state: OverlongState, view: View) -> EvaluationResult:
    run = state.run
    if run is None or state.ended is not None:
        calm = OverlongState(ringing=state.ringing, dismissed=state.dismissed)
        return EvaluationResult(calm, RuleStatus.QUIET, at=state.ended)
    earliest = run.start + (rule.at_least if rule.longer_than is None else rule.longer_than)
    if view.now < earliest:
        return EvaluationResult(state, _not_yet(state), earliest)
    if view.durations is None:
        return EvaluationResult(state, RuleStatus.WAIT, view.now)  # an event: its own end may be the next one
    if state.limit is None:
        limit, usual = _limit(rule, run.start, view.durations)
        if limit is None:
            return EvaluationResult(state, RuleStatus.WAIT)  # nothing is usual yet
        state = replace(state, limit=limit, usual_seconds=usual)
    assert state.limit is not None
    if view.now < state.limit:
        return EvaluationResult(state, _not_yet(state), state.limit)
    if not view.fresh(state.limit):
        return EvaluationResult(state, RuleStatus.WAIT, view.now + RECHECK)
    return EvaluationResult(state, RuleStatus.RING, shown=_portrait(state, run, state.limit, view))


def _not_yet(state: OverlongState) -> RuleStatus:
    """A new run that is not overlong ends the alert of an older one whose end was never seen."""
    return RuleStatus.WAIT if state.ringing is None else RuleStatus.QUIET


def _limit(rule: Rule, start: datetime, durations: tuple[timedelta, ...]) -> tuple[datetime | None, float | None]:
    if rule.longer_than is not None:
        return start + rule.longer_than, None
    if rule.times_usual is None or len(durations) < max(rule.min_runs, 1):
        return None, None
    usual = median(duration.total_seconds() for duration in durations)
    return start + max(rule.at_least, timedelta(seconds=usual * rule.times_usual)), usual


def _portrait(state: OverlongState, run: RunKey, limit: datetime, view: View) -> AlertContent:
    allowed = human_duration(limit - run.start)
    usual = "" if state.usual_seconds is None else human_duration(timedelta(seconds=state.usual_seconds))
    why = f"usually it takes {usual}" if usual else "the limit that its rule sets"
    return AlertContent(
        starts_at=limit,
        evidence=f"{run.run_id}/{to_ms(run.start)}",
        summary=f"{place(view)} has been running for more than {allowed}",
        description=f"Run {run.run_id} started {format_utc(run.start)} and still runs after {allowed}; {why}.",
        run=run,
        facts={"usual_duration": usual, "run_url": state.url or ""},
    )
