"""Expected starts at work: which came, which are missed, and whether a node's scheduler stands still.

A start is judged by every ``missed`` rule that matches its scenario, each with its own grace; the row is settled by
the most patient of them. Missed starts of one node are weighed together before any of them rings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tocsin.decide.evaluate import RuleEvaluation
from tocsin.model.decision import DecisionReason
from tocsin.model.rule_state import MissedState, StalledState
from tocsin.model.run import Run
from tocsin.model.scenario import StartState, scenario_labels
from tocsin.rules import missed, stalled
from tocsin.rules.missed import DEFAULT_GRACE, StartStatus
from tocsin.rules.rules import CompiledRule
from tocsin.rules.stalled import Cohort
from tocsin.rules.view import RECHECK
from tocsin.store import rule_states, starts
from tocsin.store.rule_states import StateKey
from tocsin.store.scenarios import scenario_views
from tocsin.store.starts import StartKey

LIMIT = 500  # of one transaction


@dataclass(frozen=True, slots=True)
class _Miss:
    """A start that one rule calls missed. ``due`` is on the node's clock."""

    key: StartKey
    live: CompiledRule
    due: datetime


@dataclass(frozen=True, slots=True)
class _Judged:
    """A start with the verdict of its row."""

    key: StartKey
    row: StartStatus
    misses: tuple[_Miss, ...]
    unseen: bool  # due, but not looked at since


def evaluate_starts(evaluation: RuleEvaluation) -> bool:
    """Judge the expected starts whose time has come; answers whether more wait."""
    keys = starts.starts_to_evaluate(evaluation.connection, evaluation.now, LIMIT)
    if not keys:
        return False
    _load(evaluation, keys)
    around = starts.runs_around(evaluation.connection, keys)
    following = starts.next_starts(evaluation.connection, keys)
    judged = [_judge(evaluation, key, around[key], following.get(key)) for key in keys]
    held: set[StartKey] = set()
    for node in sorted({key.scenario.node for key in keys}):
        held |= _weigh(evaluation, node, [one for one in judged if one.key.scenario.node == node])
    settled = [(one.key, *_row(evaluation, one, one.key in held)) for one in judged]
    starts.save_starts(evaluation.connection, settled, evaluation.now)
    return len(keys) >= LIMIT


def _load(evaluation: RuleEvaluation, keys: Sequence[StartKey]) -> None:
    scenarios = {key.scenario for key in keys}
    evaluation.scenarios |= scenario_views(evaluation.connection, scenarios)
    places: set[tuple[str, str, str]] = set(scenarios) | {(key.scenario.node, "", "") for key in keys}
    for key, known in rule_states.load(evaluation.connection, places).items():
        evaluation.states.setdefault(key, known)


def _judge(evaluation: RuleEvaluation, key: StartKey, around: Sequence[Run], following: datetime | None) -> _Judged:
    view = evaluation.view(StateKey("", *key.scenario))
    scenario = view.scenario
    if following is None and scenario is not None:
        following = scenario.next_run
    labels = scenario_labels(scenario) if scenario else {}
    rules = [live for live in evaluation.compiled.rules_for(labels) if live.rule.kind == "missed"]
    misses: list[_Miss] = []
    row: StartStatus | None = None
    soonest: datetime | None = None
    unseen = False
    for live in sorted(rules, key=lambda one: one.rule.grace):
        due = missed.due_of(key.at, live.rule.grace, following)
        row = missed.evaluate_start(key.at, due, around, view)
        if row.state is StartState.MISSED:
            misses.append(_Miss(key, live, due))
        elif row.evaluate_at is not None:
            soonest = min(soonest or row.evaluate_at, row.evaluate_at)
            unseen = unseen or view.now >= due
    if row is None:
        row = missed.evaluate_start(key.at, missed.due_of(key.at, DEFAULT_GRACE, following), around, view)
        soonest = row.evaluate_at
    return _Judged(key, replace(row, evaluate_at=soonest), tuple(misses), unseen)


def _row(evaluation: RuleEvaluation, one: _Judged, held: bool) -> tuple[str, datetime | None]:
    offset = evaluation.view(StateKey("", *one.key.scenario)).node.clock_offset
    if held:
        return StartState.PENDING.value, evaluation.now + RECHECK
    again = one.row.evaluate_at
    return one.row.state.value, None if again is None else again - offset


def _weigh(evaluation: RuleEvaluation, node: str, judged: Sequence[_Judged]) -> set[StartKey]:
    """Ring for what a node has missed, once for all or one by one; answers the starts whose verdict must wait."""
    fresh = [miss for one in judged for miss in one.misses if not _counted(evaluation, miss)]
    held: set[StartKey] = set()
    for first, last in stalled.clusters([miss.key.at for miss in fresh]):
        mine = [miss for miss in fresh if first <= miss.key.at <= last]
        cohort = _cohort(evaluation, node, first, last, {miss.key for miss in mine}, judged)
        owner = _owner(evaluation)
        place = StateKey(owner.stalled_id, node)
        known = evaluation.states.get(place)
        state = known.state if known and isinstance(known.state, StalledState) else None
        view = evaluation.view(place)
        if stalled.speaks_for(state, cohort):
            evaluation.tick(place, stalled.feel(state, cohort), owner)
            for miss in mine:
                note = f"start expected at {miss.key.at.isoformat()}; the node's alert speaks for it"
                evaluation.decide(miss.live, DecisionReason.WITHHELD, f"{'/'.join(miss.key.scenario)}: {note}", None)
            continue
        for miss in mine:
            if cohort.undecided and view.now < miss.due + stalled.PATIENCE:
                held.add(miss.key)
            else:
                _ring(evaluation, miss)
    return held


def _counted(evaluation: RuleEvaluation, miss: _Miss) -> bool:
    known = evaluation.states.get(StateKey(miss.live.id, *miss.key.scenario))
    state = known.state if known else None
    return isinstance(state, MissedState) and state.judged is not None and miss.key.at <= state.judged


def _ring(evaluation: RuleEvaluation, miss: _Miss) -> None:
    key = StateKey(miss.live.id, *miss.key.scenario)
    known = evaluation.states.get(key)
    old = known.state if known and isinstance(known.state, MissedState) else None
    evaluation.tick(key, missed.miss(old, miss.key.at, miss.due), miss.live)


def _owner(evaluation: RuleEvaluation) -> CompiledRule:
    """The rule that holds the alerts about whole nodes: the first of its kind."""
    return next(live for live in evaluation.compiled.rules.values() if live.rule.kind == "missed")


def _cohort(
    evaluation: RuleEvaluation,
    node: str,
    first: datetime,
    last: datetime,
    missed_now: set[StartKey],
    judged: Sequence[_Judged],
) -> Cohort:
    begin = min(first, last - stalled.WINDOW)
    rows = starts.count_starts(evaluation.connection, node, begin, last)
    unseen = sum(one.unseen and begin <= one.key.at <= last and one.key not in missed_now for one in judged)
    met_now = sum(
        one.row.state is StartState.MET and begin <= one.key.at <= last for one in judged
    )  # still pending in the rows
    return Cohort(first, last, rows.met + met_now, rows.missed + len(missed_now), unseen)


def look_for_ends(evaluation: RuleEvaluation, key: StateKey, state: StalledState, live: CompiledRule) -> None:
    """Ask whether a stalled scheduler starts scenarios again."""
    evaluation.tick(key, stalled.on_event(state, starts.last_met(evaluation.connection, key.node)), live)
