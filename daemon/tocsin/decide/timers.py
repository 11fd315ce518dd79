"""What time alone changes: rules that are due, expected starts, what is gone or switched off, and summaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from tocsin.decide import expected_starts as starts
from tocsin.decide.compiled import CompiledConfig
from tocsin.decide.evaluate import RuleEvaluation, place_of
from tocsin.decide.outcome import Outcome
from tocsin.model.alert import EndReason
from tocsin.model.decision import Decision, DecisionReason, Stage
from tocsin.model.notification import Notification
from tocsin.model.rule_state import OverlongState, StaleState, StalledState
from tocsin.model.run import RunKey, ScenarioKey
from tocsin.model.scenario import ScenarioView, scenario_labels
from tocsin.routing import reporters as report
from tocsin.rules.rules import CompiledRule
from tocsin.rules.stale import OFF_RECHECK
from tocsin.rules.view import RECHECK
from tocsin.store import alerts, events, outbox, rule_states, scenarios
from tocsin.store.rule_states import RuleStateRow, StateKey
from tocsin.store.runs import ended, good_durations, last_good
from tocsin.store.starts import next_start

Durations = Mapping[ScenarioKey, Sequence[timedelta]]
BATCH = 200  # due states of one transaction


@dataclass(frozen=True, slots=True)
class UntrackedScenario:
    """A scenario that a ``stale`` rule does not time yet, and when its last good run ended."""

    live: CompiledRule
    scenario: ScenarioView
    good: datetime | None


def decide_time(
    connection: Connection, compiled: CompiledConfig, now: datetime, fresh: Sequence[UntrackedScenario] = ()
) -> Outcome:
    """What time alone changes: due rules, expected starts, alerts whose scenario is gone or switched off.

    ``fresh`` are scenarios that ``stale`` rules begin to time.
    """
    due = rule_states.due(connection, now, BATCH)
    keys = {ScenarioKey(*one.key[1:]) for one in due if one.key.scenario}
    evaluation = RuleEvaluation(
        connection,
        compiled,
        now,
        scenarios.node_views(connection),
        scenarios.scenario_views(connection, keys),
        {one.key: one for one in due},
    )
    runs = {one.state.run for one in due if isinstance(one.state, OverlongState) and one.state.run}
    over = ended(connection, runs)
    unlimited = (one.state.run for one in due if isinstance(one.state, OverlongState) and one.state.limit is None)
    usual = good_durations(connection, {run.scenario for run in unlimited if run is not None})
    for one in due:
        _tick(evaluation, one, over, usual)
    _orphans(evaluation)
    more = starts.evaluate_starts(evaluation)
    _begin_timing(evaluation, fresh)
    owed = _summaries(evaluation)
    evaluation.write()
    dues = (rule_states.next_due(connection, now), next_start(connection, now))
    return Outcome(
        full=more or len(due) >= BATCH,
        alerts=evaluation.changed,
        owed=owed,
        made=evaluation.made,
        errors=evaluation.errors,
        next_due=min(filter(None, dues), default=None),
    )


def _tick(evaluation: RuleEvaluation, one: RuleStateRow, over: set[RunKey], usual: Durations) -> None:
    live = evaluation.compiled.rules.get(one.key.rule.removesuffix("/stalled"))
    view = evaluation.view(one.key)
    if live is None or one.state is None:
        evaluation.put(one.key, None, None)
    elif view.scenario is not None and not view.scenario.backfilled:
        evaluation.put(one.key, one.state, evaluation.now + RECHECK)
    elif isinstance(one.state, StalledState):
        starts.look_for_ends(evaluation, one.key, one.state, live)
    elif isinstance(one.state, OverlongState):
        _tick_overlong(evaluation, one.key, one.state, live, over, usual)
    else:
        evaluation.tick(one.key, one.state, live)


def _tick_overlong(
    evaluation: RuleEvaluation,
    key: StateKey,
    state: OverlongState,
    live: CompiledRule,
    over: set[RunKey],
    usual: Durations,
) -> None:
    if state.ended is None and state.run in over:
        evaluation.put(key, state, evaluation.now + RECHECK)  # the event of its end is on the way
        return
    durations = usual.get(state.run.scenario, ()) if state.run is not None else ()
    evaluation.tick(key, state, live, replace(evaluation.view(key), durations=tuple(durations)))


def _orphans(evaluation: RuleEvaluation) -> None:
    """End the alerts of what is gone or was switched off, and forget why they rang."""
    found = alerts.orphans(evaluation.connection)
    if not found:
        return
    known = rule_states.load(evaluation.connection, {place_of(filed.alert) for filed, _ in found})
    evaluation.states = known | evaluation.states
    for filed, reason in found:
        evaluation.end(filed.rule, filed.alert.id, evaluation.now, reason)
        key = StateKey(filed.rule, *place_of(filed.alert))
        state = evaluation.states[key].state if key in evaluation.states else None
        if isinstance(state, StaleState) and reason is EndReason.DEACTIVATED:
            evaluation.put(key, replace(state, ringing=None, off=True), evaluation.now + OFF_RECHECK)
        else:
            evaluation.put(key, None, None)


def untracked(connection: Connection, compiled: CompiledConfig) -> list[UntrackedScenario]:
    """The scenarios that a ``stale`` rule does not time yet. Reads only; it may take a moment in a large fleet."""
    rules = {live.id for live in compiled.rules.values() if live.rule.kind == "stale"}
    if not rules:
        return []
    known = rule_states.known(connection, rules)
    new = [
        (live, one)
        for one in scenarios.watched_scenarios(connection)
        for live in compiled.rules_for(scenario_labels(one))
        if live.id in rules and StateKey(live.id, *one.key) not in known
    ]
    good = last_good(connection, {one.key for _, one in new})
    return [UntrackedScenario(live, one, good.get(one.key)) for live, one in new]


def _begin_timing(evaluation: RuleEvaluation, fresh: Sequence[UntrackedScenario]) -> None:
    known = rule_states.load(evaluation.connection, {one.scenario.key for one in fresh})
    for one in fresh:
        key = StateKey(one.live.id, *one.scenario.key)
        if key not in known:
            evaluation.scenarios[one.scenario.key] = one.scenario
            since = one.good or one.scenario.watched_since
            evaluation.tick(key, StaleState(since=since, good=one.good is not None), one.live)


def _summaries(evaluation: RuleEvaluation) -> list[Notification]:
    """What was withheld while a node's history was read back, in one message a receiver."""
    owed: list[Notification] = []
    for node in events.nodes_with_withheld(evaluation.connection):
        seen = evaluation.nodes.get(node)
        if seen is not None and seen.backfilling:
            continue
        if any(key.node == node for key in events.late_after(evaluation.connection, 0)):
            continue
        for receiver, late in events.release_withheld(evaluation.connection, node).items():
            channels = evaluation.compiled.channels.get(receiver, ())
            owed += report.summary(node, receiver, late, channels, evaluation.now)
            reason = DecisionReason.SUMMARY if channels else DecisionReason.NO_CHANNEL
            note = f"{node}: {len(late)} events"
            evaluation.made.append(Decision(evaluation.now, Stage.BACKFILL, receiver, reason, note))
    return outbox.owe(evaluation.connection, owed)
