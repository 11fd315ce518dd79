"""Rules about the runs of one scenario: ``failed``, ``overlong``, ``short``, ``stale``."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from msgspec.structs import replace

from tocsin.config.model import Rule
from tocsin.kit.clock import format_duration, format_utc, human_duration, isoformat, to_ms
from tocsin.model.event import END_EVENTS, Event, EventName, end_event_name, is_good
from tocsin.model.rule_state import FailedState, OverlongState, ShortState, StaleState
from tocsin.model.run import LOST, Outcome
from tocsin.model.scenario import ScenarioView
from tocsin.rules.rule import (
    OFF_RECHECK,
    AlertContent,
    CompiledRule,
    EvaluationResult,
    RuleStatus,
    RuleView,
    reset,
    times,
)


class FailedRule(CompiledRule[FailedState]):
    """Fires after so many failures in a row, resolves after so many good runs. ABORTED is neither."""

    state_type = FailedState

    def __init__(self, id_: str, config: Rule) -> None:
        super().__init__(id_, config)
        self.begins = frozenset(map(end_event_name, config.outcomes))

    def on_event(self, state: FailedState | None, event: Event) -> FailedState | None:
        run = event.run
        if event.name not in END_EVENTS or run is None:
            return state
        if run.outcome not in self.config.outcomes:
            if state is None or not is_good(run.outcome):
                return state
            if state.crossed is None:
                return replace(reset(state), turns=self._recent(state.turns, event.time))
            state = replace(state, good=state.good + 1)
            if state.good == 1:
                state = self._turn(state, event.time)
            flapping = self.config.flapping if state.flapping else None
            enough = max(self.config.resolve_after, flapping.steady if flapping else 0)
            return replace(state, recovered=event.time) if state.good == enough else state
        state = state or FailedState()
        if state.failures == 0 or state.recovered is not None:
            # `firing` stays: while history is read back, a streak may end and another begin before anyone is notified.
            turns = () if state.flapping else self._recent(state.turns, event.time)
            state = replace(reset(state), first=event.time, previous=event.previous_outcome, turns=turns)
        failures = state.failures + 1
        begins = state.crossed is None and failures >= self.config.after
        if begins or (state.crossed is not None and state.good):
            state = self._turn(state, event.time)
        return replace(
            state,
            failures=failures,
            good=0,
            crossed=event.time if begins else state.crossed,
            run=run.key,
            outcome=run.outcome,
            url=event.run_url,
        )

    def _recent(self, turns: Sequence[datetime], now: datetime) -> tuple[datetime, ...]:
        flapping = self.config.flapping
        return () if flapping is None else tuple(at for at in turns if at > now - flapping.within)

    def _turn(self, state: FailedState, at: datetime) -> FailedState:
        """It turned from good to bad or back."""
        flapping = self.config.flapping
        if flapping is None:
            return state
        turns = (*self._recent(state.turns, at), at)[-flapping.changes :]
        return replace(state, turns=turns, flapping=state.flapping or (at if len(turns) >= flapping.changes else None))

    def evaluate(self, state: FailedState, view: RuleView) -> EvaluationResult:
        if state.recovered is not None:
            turns = () if state.flapping else state.turns
            return EvaluationResult(replace(reset(state), turns=turns), RuleStatus.INACTIVE, at=state.recovered)
        if state.crossed is None or state.run is None or state.first is None:
            return EvaluationResult(state, RuleStatus.INACTIVE)
        how = f"{state.outcome} ({LOST})" if state.outcome == Outcome.UNKNOWN else state.outcome
        again = "" if state.failures == 1 else f" {times(state.failures)} in a row"
        before = f" Before that: {state.previous}." if state.previous else ""
        evidence = f"{state.run.run_id}/{to_ms(state.run.start)}"
        summary = f"{view.subject} ended {how}{again}"
        description = f"Run {state.run.run_id} ended {how}; failing since {format_utc(state.first)}.{before}"
        facts = {"previous_outcome": state.previous or "", "run_url": state.url or ""}
        if (flapping := self.config.flapping) is not None and state.flapping is not None:
            evidence += "/flapping"
            summary = f"{view.subject} is flapping: good and bad runs by turns"
            description = (
                f"It turned {flapping.changes} times between good and bad within {format_duration(flapping.within)}, up to "
                f"{format_utc(state.flapping)}. The last bad run was {state.run.run_id} ({how}). This goes on firing until "
                f"{flapping.steady} good runs in a row; single turns are not told."
            )
            facts["flapping_since"] = isoformat(state.flapping)
        content = AlertContent(
            starts_at=state.crossed,
            evidence=evidence,
            summary=summary,
            description=description,
            count=state.failures,
            run=state.run,
            facts=facts,
        )
        return EvaluationResult(state, RuleStatus.FIRING, content=content)


class OverlongRule(CompiledRule[OverlongState]):
    """Fires while a run takes far longer than it should, resolves with its end.

    "Usual" is the median of the last good runs, read only when the run is older than the shortest limit that could
    hold. No event makes it fire, only time: a run that was over by the time it was seen is of no interest.
    """

    state_type = OverlongState
    begins = frozenset({EventName.RUN_STARTED})

    def needs_history(self, state: OverlongState) -> bool:
        return state.run is not None and state.limit is None

    def on_event(self, state: OverlongState | None, event: Event) -> OverlongState | None:
        if event.run is None:
            return state
        if event.name is EventName.RUN_STARTED:
            state = state or OverlongState()
            return OverlongState(run=event.run.key, url=event.run_url, firing=state.firing, dismissed=state.dismissed)
        if event.name in END_EVENTS and state is not None and state.run == event.run.key:
            return replace(state, ended=event.time)
        return state

    def evaluate(self, state: OverlongState, view: RuleView) -> EvaluationResult:
        rule, run = self.config, state.run
        if run is None or state.ended is not None:
            return EvaluationResult(reset(state), RuleStatus.INACTIVE, at=state.ended)
        # A new run that is not overlong ends the alert of an older one whose end was never seen.
        not_yet = RuleStatus.UNKNOWN if state.firing is None else RuleStatus.INACTIVE
        earliest = run.start + (rule.least_duration if rule.longer_than is None else rule.longer_than)
        if view.now < earliest:
            return EvaluationResult(state, not_yet, earliest)
        if view.durations is None:
            return EvaluationResult(state, RuleStatus.UNKNOWN, view.now)  # an event: its own end may be the next one
        limit = state.limit
        if limit is None:
            limit, seconds = earliest, None
            if rule.longer_than is None:
                if rule.times_usual is None or len(view.durations) < max(rule.min_runs, 1):
                    return EvaluationResult(state, RuleStatus.UNKNOWN)  # nothing is usual yet
                seconds = median(duration.total_seconds() for duration in view.durations)
                limit = max(earliest, run.start + timedelta(seconds=seconds * rule.times_usual))
            state = replace(state, limit=limit, usual_seconds=seconds)
        if view.now < limit:
            return EvaluationResult(state, not_yet, limit)
        if not view.fresh(limit):
            return view.unseen(state)
        allowed = human_duration(limit - run.start)
        usual = "" if state.usual_seconds is None else human_duration(timedelta(seconds=state.usual_seconds))
        why = f"usually it takes {usual}" if usual else "the limit that its rule sets"
        content = AlertContent(
            starts_at=limit,
            evidence=f"{run.run_id}/{to_ms(run.start)}",
            summary=f"{view.subject} has been running for more than {allowed}",
            description=f"Run {run.run_id} started {format_utc(run.start)} and still runs after {allowed}; {why}.",
            run=run,
            facts={"usual_duration": usual, "run_url": state.url or ""},
        )
        return EvaluationResult(state, RuleStatus.FIRING, content=content)


class ShortRule(CompiledRule[ShortState]):
    """Fires for a good run that took far less than it usually does, resolves with the next good one that did not. "Usual" is
    the median of the good runs before it."""

    state_type = ShortState
    begins = frozenset({EventName.RUN_FINISHED})

    def needs_history(self, state: ShortState) -> bool:
        return True

    def on_event(self, state: ShortState | None, event: Event) -> ShortState | None:
        if event.run is None or event.name not in END_EVENTS or not is_good(event.run.outcome):
            return state
        return replace(state or ShortState(), run=event.run.key, end=event.time, url=event.run_url)

    def evaluate(self, state: ShortState, view: RuleView) -> EvaluationResult:
        run, end, below = state.run, state.end, self.config.below_usual
        if run is None or end is None or below is None:
            return EvaluationResult(reset(state), RuleStatus.INACTIVE)
        if view.durations is None:
            return EvaluationResult(state, RuleStatus.UNKNOWN, view.now)  # an event: the tick after it reads them
        before = view.durations[1:]  # the first is its own
        took = max(end - run.start, timedelta(0))
        usual = timedelta(seconds=median(each.total_seconds() for each in before)) if before else timedelta(0)
        if len(before) < self.config.min_runs or took >= below * usual:
            return EvaluationResult(reset(state), RuleStatus.INACTIVE, at=end)
        content = AlertContent(
            starts_at=end,
            evidence=f"{run.run_id}/{to_ms(run.start)}",
            summary=f"{view.subject} took only {human_duration(took)}; usually it takes {human_duration(usual)}",
            description=f"Run {run.run_id} was good, but took less than {below:.0%} of its usual duration. It may have found no "
            "data, or done nothing.",
            run=run,
            facts={"usual_duration": human_duration(usual), "run_url": state.url or ""},
        )
        return EvaluationResult(state, RuleStatus.FIRING, content=content)


class StaleRule(CompiledRule[StaleState]):
    """Fires when an active scenario has had no good run for too long, resolves with the next good one."""

    state_type = StaleState
    begins = frozenset({EventName.RUN_FINISHED})
    times_all = True

    def first_state(self, scenario: ScenarioView, last_good: datetime | None, since: datetime) -> StaleState:
        return StaleState(since=last_good or scenario.watched_since, good=last_good is not None)

    def switched_off(self, state: StaleState, now: datetime) -> StaleState:
        return replace(state, firing=None, off=True)

    def on_event(self, state: StaleState | None, event: Event) -> StaleState | None:
        if event.name not in END_EVENTS or event.run is None or not is_good(event.run.outcome):
            return state
        if state is not None and state.since is not None and event.time <= state.since:
            return state
        return replace(state or StaleState(), since=event.time, good=True)

    def evaluate(self, state: StaleState, view: RuleView) -> EvaluationResult:
        scenario, allowed = view.scenario, self.config.no_success_for
        if scenario is None or scenario.gone or state.since is None or allowed is None:
            return EvaluationResult(state, RuleStatus.UNKNOWN)
        if scenario.active is False:
            return EvaluationResult(replace(state, off=True), RuleStatus.UNKNOWN, view.now + OFF_RECHECK)
        since = state.since
        if state.off:
            since = max(view.now, since)
            state = replace(state, off=False, since=since, good=False)
        due = since + allowed
        if view.now < due:
            return EvaluationResult(state, RuleStatus.INACTIVE, due, at=since if state.good else None)
        if scenario.active is None or not view.fresh(due):
            return view.unseen(state)
        last = "The last good run ended" if state.good else "No good run was seen since"
        content = AlertContent(
            starts_at=due,
            evidence=isoformat(since),
            summary=f"{view.subject} has had no good run for {format_duration(allowed)}",
            description=f"{last} {format_utc(since)}.",
            facts={"last_good": isoformat(since) if state.good else ""},
        )
        return EvaluationResult(state, RuleStatus.FIRING, content=content)
