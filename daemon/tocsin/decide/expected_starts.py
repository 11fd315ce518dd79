"""Expected starts at work: which came, which are missed, and whether a node's scheduler stands still.

A start is judged by every ``missed`` rule that matches its scenario, each with its own grace; the row is settled by
the most patient of them. Missed starts of one node are weighed together before any of them rings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tocsin.decide.evaluate import Judging
from tocsin.model.decision import Verdict
from tocsin.model.rule_state import MissedState, StalledState
from tocsin.model.sight import SeenRun, scenario_labels
from tocsin.rules import missed, stalled
from tocsin.rules.missed import DEFAULT_GRACE, Start, StartVerdict
from tocsin.rules.rules import LiveRule
from tocsin.rules.stalled import Cohort
from tocsin.rules.view import RECHECK
from tocsin.store import rule_states, sight, starts
from tocsin.store.rule_states import StateKey
from tocsin.store.starts import StartKey

LIMIT = 500  # of one transaction


@dataclass(frozen=True, slots=True)
class _Miss:
    """A start that one rule calls missed. ``due`` is on the node's clock."""

    key: StartKey
    live: LiveRule
    due: datetime


@dataclass(frozen=True, slots=True)
class _Judged:
    """A start with the verdict of its row."""

    key: StartKey
    row: StartVerdict
    misses: tuple[_Miss, ...]
    unseen: bool  # due, but not looked at since


def judge_starts(judging: Judging) -> bool:
    """Judge the expected starts whose time has come; answers whether more wait."""
    keys = starts.to_judge(judging.connection, judging.now, LIMIT)
    if not keys:
        return False
    _load(judging, keys)
    around = starts.runs_around(judging.connection, keys)
    following = starts.following(judging.connection, keys)
    judged = [_judge(judging, key, around[key], following.get(key)) for key in keys]
    held: set[StartKey] = set()
    for node in sorted({key.scenario.node for key in keys}):
        held |= _weigh(judging, node, [one for one in judged if one.key.scenario.node == node])
    settled = [(one.key, *_row(judging, one, one.key in held)) for one in judged]
    starts.settle(judging.connection, settled, judging.now)
    return len(keys) >= LIMIT


def _load(judging: Judging, keys: Sequence[StartKey]) -> None:
    scenarios = {key.scenario for key in keys}
    judging.scenarios |= sight.scenario_sights(judging.connection, scenarios)
    places: set[tuple[str, str, str]] = set(scenarios) | {(key.scenario.node, "", "") for key in keys}
    for key, known in rule_states.load(judging.connection, places).items():
        judging.states.setdefault(key, known)


def _judge(judging: Judging, key: StartKey, around: Sequence[SeenRun], following: datetime | None) -> _Judged:
    view = judging.view(StateKey("", *key.scenario))
    scenario = view.scenario
    if following is None and scenario is not None:
        following = scenario.next_run
    labels = scenario_labels(scenario) if scenario else {}
    rules = [live for live in judging.plan.rules_for(labels) if live.rule.kind == "missed"]
    misses: list[_Miss] = []
    row: StartVerdict | None = None
    soonest: datetime | None = None
    unseen = False
    for live in sorted(rules, key=lambda one: one.rule.grace):
        due = missed.due_of(key.at, live.rule.grace, following)
        row = missed.judge_start(key.at, due, around, view)
        if row.state is Start.MISSED:
            misses.append(_Miss(key, live, due))
        elif row.judge_at is not None:
            soonest = min(soonest or row.judge_at, row.judge_at)
            unseen = unseen or view.now >= due
    if row is None:
        row = missed.judge_start(key.at, missed.due_of(key.at, DEFAULT_GRACE, following), around, view)
        soonest = row.judge_at
    return _Judged(key, replace(row, judge_at=soonest), tuple(misses), unseen)


def _row(judging: Judging, one: _Judged, held: bool) -> tuple[str, datetime | None]:
    offset = judging.view(StateKey("", *one.key.scenario)).node.clock_offset
    if held:
        return Start.PENDING.value, judging.now + RECHECK
    again = one.row.judge_at
    return one.row.state.value, None if again is None else again - offset


def _weigh(judging: Judging, node: str, judged: Sequence[_Judged]) -> set[StartKey]:
    """Ring for what a node has missed, once for all or one by one; answers the starts whose verdict must wait."""
    fresh = [miss for one in judged for miss in one.misses if not _counted(judging, miss)]
    held: set[StartKey] = set()
    for first, last in stalled.clusters([miss.key.at for miss in fresh]):
        mine = [miss for miss in fresh if first <= miss.key.at <= last]
        cohort = _cohort(judging, node, first, last, {miss.key for miss in mine}, judged)
        owner = _owner(judging)
        place = StateKey(owner.stalled_id, node)
        known = judging.states.get(place)
        state = known.state if known and isinstance(known.state, StalledState) else None
        view = judging.view(place)
        if stalled.speaks_for(state, cohort):
            judging.tick(place, stalled.feel(state, cohort), owner)
            for miss in mine:
                note = f"start expected at {miss.key.at.isoformat()}; the node's alert speaks for it"
                judging.decide(miss.live, Verdict.WITHHELD, f"{'/'.join(miss.key.scenario)}: {note}", None)
            continue
        for miss in mine:
            if cohort.undecided and view.now < miss.due + stalled.PATIENCE:
                held.add(miss.key)
            else:
                _ring(judging, miss)
    return held


def _counted(judging: Judging, miss: _Miss) -> bool:
    known = judging.states.get(StateKey(miss.live.id, *miss.key.scenario))
    state = known.state if known else None
    return isinstance(state, MissedState) and state.judged is not None and miss.key.at <= state.judged


def _ring(judging: Judging, miss: _Miss) -> None:
    key = StateKey(miss.live.id, *miss.key.scenario)
    known = judging.states.get(key)
    old = known.state if known and isinstance(known.state, MissedState) else None
    judging.tick(key, missed.miss(old, miss.key.at, miss.due), miss.live)


def _owner(judging: Judging) -> LiveRule:
    """The rule that holds the alerts about whole nodes: the first of its kind."""
    return next(live for live in judging.plan.rules.values() if live.rule.kind == "missed")


def _cohort(
    judging: Judging, node: str, first: datetime, last: datetime, missed_now: set[StartKey], judged: Sequence[_Judged]
) -> Cohort:
    begin = min(first, last - stalled.WINDOW)
    rows = starts.tally(judging.connection, node, begin, last)
    unseen = sum(one.unseen and begin <= one.key.at <= last and one.key not in missed_now for one in judged)
    met_now = sum(
        one.row.state is Start.MET and begin <= one.key.at <= last for one in judged
    )  # still pending in the rows
    return Cohort(first, last, rows.met + met_now, rows.missed + len(missed_now), unseen)


def look_for_ends(judging: Judging, key: StateKey, state: StalledState, live: LiveRule) -> None:
    """Ask whether a stalled scheduler starts scenarios again."""
    judging.tick(key, stalled.hear(state, starts.last_met(judging.connection, key.node)), live)
