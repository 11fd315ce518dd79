"""The rule about work that must be done by a wall time: ``deadline``.

A window ends at ``by`` and begins at ``from``, or at the deadline before. A good run that ends inside meets it; wall times are
those of the rule's location on that very day.
"""

import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from tocsin.config.intervals import Ranges, on_weekday, wall_time
from tocsin.config.model import Rule
from tocsin.kit.clock import format_local, human_duration, isoformat
from tocsin.model.event import END_EVENTS, Event, EventName, is_good
from tocsin.model.rule_state import DeadlineState
from tocsin.model.scenario import NOT_SCHEDULED, ScenarioView
from tocsin.rules.rule import OFF_RECHECK, AlertContent, CompiledRule, EvaluationResult, RuleStatus, RuleView

LEAST_RUNS = 3  # that make a duration usual
_PERCENTILE = 0.9
_DAYS = 16  # around a day: two weekly deadlines behind it and two ahead


class Window(NamedTuple):
    """A good run must end after ``begin`` and until ``by``."""

    begin: datetime
    by: datetime


@lru_cache(maxsize=1024)
def windows(by: int, begin: int | None, days: Ranges, location: str, day: date) -> Sequence[Window]:
    """The windows around a day, in order. One that a clock change leaves without length is left out."""
    around = [day + timedelta(days=count) for count in range(-_DAYS, _DAYS + 1)]
    on = [each for each in around if on_weekday(days, each)]
    ends = [wall_time(each, by, location) for each in on]
    if begin is None:
        return [Window(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]
    before = timedelta(days=0 if begin < by else 1)
    found = [Window(wall_time(each - before, begin, location), end) for each, end in zip(on, ends, strict=True)]
    return [window for window in found if window.begin < window.by]


def usual_duration(durations: Sequence[timedelta]) -> timedelta | None:
    """The 90th percentile of the last good runs; None while they are too few."""
    if len(durations) < LEAST_RUNS:
        return None
    return sorted(durations)[math.ceil(_PERCENTILE * len(durations)) - 1]


class DeadlineRule(CompiledRule[DeadlineState]):
    """Fires when no good run has ended in the window, or with ``predict`` when none is likely to; resolves with the next
    good run. A switched-off scenario has no deadlines, unless something other than a trigger runs it."""

    state_type = DeadlineState
    begins = frozenset({EventName.RUN_FINISHED})
    times_all = True

    def __init__(self, id_: str, config: Rule) -> None:
        super().__init__(id_, config)
        self._location = config.location or "UTC"
        self._zone = ZoneInfo(self._location)

    def first_state(self, scenario: ScenarioView, last_good: datetime | None, since: datetime) -> DeadlineState:
        return DeadlineState(since=max(scenario.watched_since or since, since), good=last_good)

    def switched_off(self, state: DeadlineState, now: datetime) -> DeadlineState:
        return replace(state, firing=None, since=now)

    def needs_history(self, state: DeadlineState) -> bool:
        return True

    def on_event(self, state: DeadlineState | None, event: Event) -> DeadlineState | None:
        run = event.run
        good = run is not None and event.name in END_EVENTS and is_good(run.outcome)
        if run is None or (state is None and not good):
            return state
        state = state or DeadlineState(since=max(event.time, event.detected_at))
        if event.name is EventName.RUN_STARTED or event.name in END_EVENTS:
            unscheduled = run.trigger_type in NOT_SCHEDULED
            if self.config.predict or unscheduled is not state.unscheduled:
                latest = f"{run.run_id} {event.name.value}" if self.config.predict else None
                state = replace(state, unscheduled=unscheduled, latest=latest)
        if good and (state.good is None or event.time > state.good):
            state = replace(state, good=event.time)
        return state

    def evaluate(self, state: DeadlineState, view: RuleView) -> EvaluationResult:
        scenario, rule, good, since = view.scenario, self.config, state.good, state.since
        if scenario is None or scenario.gone or rule.by is None or since is None:
            return EvaluationResult(state, RuleStatus.UNKNOWN)
        around = windows(rule.by, rule.from_, rule.days, self._location, view.now.astimezone(self._zone).date())
        last = max((window for window in around if window.by <= view.now), default=None)
        coming = min(window for window in around if window.by > view.now)
        if scenario.active is True and state.unscheduled:
            state = replace(state, unscheduled=False)  # what runs it once it is switched off is still to be seen
        if scenario.active is not True and not state.unscheduled:
            due = min(coming.by, view.now + OFF_RECHECK)
            return EvaluationResult(replace(state, since=view.now), RuleStatus.UNKNOWN, due)
        if last is not None and last.by > since and (good is None or good <= last.begin):
            if not view.fresh(last.by):
                return view.unseen(state)
            due = min(coming.by, view.now + OFF_RECHECK)
            return EvaluationResult(state, RuleStatus.FIRING, due, content=self._late(state, view, last))
        if not rule.predict or (good is not None and good > coming.begin):
            return EvaluationResult(state, RuleStatus.INACTIVE, coming.by, at=good)
        if state.firing is not None and (good is None or good < state.firing.starts_at):
            return EvaluationResult(state, RuleStatus.FIRING, coming.by)  # the next good run ends it, nothing before
        return self._predict(state, view, coming)

    def _predict(self, state: DeadlineState, view: RuleView, window: Window) -> EvaluationResult:
        if view.durations is None:
            return EvaluationResult(state, RuleStatus.UNKNOWN, view.now)  # an event: the tick after it reads them
        usual = usual_duration(view.durations)
        if usual is None:
            return EvaluationResult(state, RuleStatus.INACTIVE, window.by, at=state.good)
        late_since = window.by - usual
        if view.open_run is not None:
            if view.open_run.start <= late_since:
                return EvaluationResult(state, RuleStatus.INACTIVE, window.by, at=state.good)
            late_since = view.open_run.start
        late_since = max(late_since, window.begin, state.since or window.begin)
        if view.now < late_since:
            return EvaluationResult(state, RuleStatus.INACTIVE, late_since, at=state.good)
        if not view.fresh(late_since):
            return view.unseen(state)
        begun = view.open_run.start if view.open_run else None
        how = "has not started" if begun is None else f"started {self._written(begun)}"
        content = AlertContent(
            starts_at=late_since,
            evidence=_evidence(state, window, " predicted"),
            summary=f"{view.subject} will be late for {self._written(window.by)}",
            description=f"It usually takes {human_duration(usual)} and {how}, but a good run has to end by "
            f"{self._written(window.by)}. {self._last_good(state)}",
            run=view.open_run,
            facts=self._facts(state, window) | {"usual_duration": human_duration(usual)},
        )
        return EvaluationResult(state, RuleStatus.FIRING, window.by, content=content)

    def _late(self, state: DeadlineState, view: RuleView, window: Window) -> AlertContent:
        running = "" if view.open_run is None else f" A run goes on since {self._written(view.open_run.start)}."
        return AlertContent(
            starts_at=window.by,
            evidence=_evidence(state, window),
            summary=f"{view.subject} was not done by {self._written(window.by)}",
            description=f"No good run ended between {self._written(window.begin)} and {self._written(window.by)}. "
            f"{self._last_good(state)}{running}",
            run=view.open_run,
            facts=self._facts(state, window),
        )

    def _written(self, moment: datetime) -> str:
        return format_local(moment, self._zone)

    def _last_good(self, state: DeadlineState) -> str:
        return f"The last good run ended {self._written(state.good)}." if state.good else "No good run was ever seen."

    def _facts(self, state: DeadlineState, window: Window) -> dict[str, str]:
        return {"deadline": isoformat(window.by), "last_good": isoformat(state.good) if state.good else ""}


def _evidence(state: DeadlineState, window: Window, sign: str = "") -> str:
    """One deadline that was ended by hand does not fire again, even if it was ended while it was a prediction."""
    name = isoformat(window.by)
    return state.dismissed if state.dismissed and state.dismissed.startswith(name) else name + sign
