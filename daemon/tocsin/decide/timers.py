"""What time alone changes: due rules, expected starts, scenarios that are gone or switched off, summaries after a
backfill, and channels that do not deliver.

Every ``missed`` rule that matches evaluates an expected start with its own grace; the most patient settles the row.
Missed starts of one node are weighed together before any of them fires.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tocsin.decide.evaluate import CompiledConfig, RuleEvaluation, StepResult, place_of
from tocsin.decide.external import end_expired
from tocsin.model.alert import CHANNEL_ALERT, EndReason
from tocsin.model.decision import DecisionReason, Stage
from tocsin.model.rule_state import DeadlineState, MissedState, OverlongState, StalledState
from tocsin.model.run import Run, ScenarioKey
from tocsin.model.scenario import ScenarioView, StartState
from tocsin.routing.reporters import summary_notifications
from tocsin.rules import outages
from tocsin.rules import starts as missed
from tocsin.rules.rule import OFF_RECHECK, RECHECK, AnyRule, Fired, Resolved, S
from tocsin.rules.starts import Cohort, MissedRule
from tocsin.store import Connection, alerts, deliveries, events, rule_states, runs, scenarios, starts
from tocsin.store.alerts import AlertRow
from tocsin.store.rule_states import RuleStateRow, StateKey
from tocsin.store.starts import StartKey

BATCH = 200  # due states of one transaction
STARTS_BATCH = 500  # expected starts of one transaction
_OVERLAP = timedelta(hours=1)  # of two checks of channels: for receipts that came late, and senders whose clock differs

UntimedScenario = tuple[AnyRule, ScenarioView, datetime | None]  # with the end of its last good run


def find_untimed(connection: Connection, compiled: CompiledConfig) -> tuple[list[UntimedScenario], set[str]]:
    """The scenarios that a rule about every scenario does not time yet, though they were polled; and the alert names of such
    rules that match no scenario. Reads only; it may take a moment in a large fleet."""
    ids = {rule.id for rule in compiled.rules.values() if rule.times_all}
    if not ids:
        return [], set()
    known = rule_states.stored_keys(connection, ids)
    polled = [scenario for scenario in scenarios.watched_scenarios(connection) if scenario.polled_at is not None]
    timed = [
        (rule, scenario)
        for scenario in polled
        for rule in compiled.rules_for(compiled.scenario_labels(scenario))
        if rule.times_all
    ]
    new = [(rule, scenario) for rule, scenario in timed if StateKey(rule.id, *scenario.key) not in known]
    last_good = runs.last_good(connection, {scenario.key for _, scenario in new})
    idle = ids - {rule.id for rule, _ in timed} if polled else set()
    found = [(rule, scenario, last_good.get(scenario.key)) for rule, scenario in new]
    return found, {compiled.rules[id_].alert for id_ in idle}


def decide_time(
    connection: Connection, compiled: CompiledConfig, now: datetime, untimed: Sequence[UntimedScenario] = ()
) -> StepResult:
    """One transaction of what is due. ``untimed`` are scenarios that rules begin to time."""
    due = rule_states.due_states(connection, now, BATCH)
    keys = {ScenarioKey(*row.key[1:]) for row in due if row.key.scenario}
    known = scenarios.scenario_views(connection, keys)
    evaluation = RuleEvaluation(connection, compiled, now, known, {row.key: row for row in due})
    _tick_due(evaluation, due)
    _end_orphans(evaluation)
    end_expired(evaluation)
    more = _evaluate_starts(evaluation)
    timed = rule_states.load_states(connection, {scenario.key for _, scenario, _ in untimed})
    for rule, scenario, last_good in untimed:
        key = StateKey(rule.id, *scenario.key)
        if key not in timed:
            evaluation.scenarios[scenario.key] = scenario
            evaluation.tick(key, rule.first_state(scenario, last_good, compiled.config.loaded_at or now), rule)
    _enqueue_summaries(evaluation)
    evaluation.write()
    evaluation.result.full = more or len(due) >= BATCH
    dues = (rule_states.next_due(connection, now), starts.next_start(connection, now), alerts.next_expiry(connection))
    evaluation.result.next_due = min(filter(None, dues), default=None)
    return evaluation.result


def _tick_due(evaluation: RuleEvaluation, due: Sequence[RuleStateRow]) -> None:
    connection, compiled, now = evaluation.connection, evaluation.compiled, evaluation.now
    overlong = {row.state.run for row in due if isinstance(row.state, OverlongState)}
    runs_over = runs.ended(connection, {run for run in overlong if run})
    rules = compiled.rules
    historic = {
        ScenarioKey(*row.key[1:])
        for row in due
        if row.state and (rule := rules.get(row.key.rule)) and isinstance(row.state, rule.state_type)
        if rule.needs_history(row.state)
    }
    usual, open_runs = runs.good_durations(connection, historic), runs.open_run_keys(connection, historic)
    for row in due:
        key, state, view = row.key, row.state, evaluation.view(row.key)
        rule = rules.get(key.rule)
        if rule is None or not isinstance(state, rule.state_type):
            evaluation.put(key, None, None)
        elif view.scenario is not None and not view.scenario.backfilled:
            evaluation.put(key, state, now + RECHECK)
        elif isinstance(rule, missed.StalledRule):
            evaluation.tick(key, rule.on_met(state, starts.last_met(connection, key.node)), rule)
        elif (
            rule.times_all and view.scenario and rule not in compiled.rules_for(compiled.scenario_labels(view.scenario))
        ):
            if state.firing is not None:  # renamed, or tagged anew: the rule holds for it no longer
                evaluation.end(rule.id, state.firing.alert_id, now, EndReason.UNWATCHED)
            evaluation.put(key, None, None)
        elif (
            isinstance(state, DeadlineState)
            and state.firing is not None
            and not state.unscheduled
            and view.scenario is not None
            and view.scenario.active is False
        ):  # it fired while something else ran a scenario that was switched off, and now nothing does
            evaluation.end(rule.id, state.firing.alert_id, now, EndReason.DEACTIVATED)
            evaluation.put(key, rule.switched_off(state, view.now), now + OFF_RECHECK)
        elif isinstance(state, OverlongState) and state.ended is None and state.run in runs_over:
            evaluation.put(key, state, now + RECHECK)  # the event of its end is on the way
        else:
            place = ScenarioKey(*key[1:])
            history = replace(view, durations=usual.get(place, ()), open_run=open_runs.get(place))
            evaluation.tick(key, state, rule, history)


def _end_orphans(evaluation: RuleEvaluation) -> None:
    orphans = alerts.orphaned_alerts(evaluation.connection)
    if not orphans:
        return
    evaluation.load(place_of(row.alert) for row, _ in orphans)
    for row, reason in orphans:
        evaluation.end(row.rule, row.alert.id, evaluation.now, reason)
        key = StateKey(row.rule, *place_of(row.alert))
        state = evaluation.states[key].state if key in evaluation.states else None
        rule = evaluation.compiled.rules.get(row.rule)
        if rule and rule.times_all and isinstance(state, rule.state_type) and reason is EndReason.DEACTIVATED:
            evaluation.put(key, rule.switched_off(state, evaluation.view(key).now), evaluation.now + OFF_RECHECK)
        else:
            evaluation.put(key, None, None)


def _enqueue_summaries(evaluation: RuleEvaluation) -> None:
    """What was withheld while a node's history was read back, in one message a receiver."""
    connection = evaluation.connection
    for node in events.nodes_with_withheld(connection):
        view = evaluation.nodes.get(node)
        if (view and view.backfilling) or any(key.node == node for key in events.late_after(connection, 0)):
            continue
        for receiver, late in events.release_withheld(connection, node).items():
            channels = evaluation.compiled.channels.get(receiver, ())
            evaluation.enqueue(summary_notifications(node, receiver, late, channels, evaluation.now))
            reason = DecisionReason.SUMMARY if channels else DecisionReason.NO_CHANNEL
            evaluation.note(receiver, reason, f"{node}: {len(late)} events", stage=Stage.BACKFILL)


@dataclass(frozen=True, slots=True)
class _EvaluatedStart:
    key: StartKey
    status: StartState
    again: datetime | None  # when a pending one is worth another evaluation
    missed: list[tuple[MissedRule, datetime]]  # the rules that call it missed: since when, on the node's clock
    unseen: bool  # due, but not polled since


def _evaluate_starts(evaluation: RuleEvaluation) -> bool:
    """Evaluate the expected starts whose time has come; returns whether more wait."""
    connection = evaluation.connection
    keys = starts.starts_to_evaluate(connection, evaluation.now, STARTS_BATCH)
    if not keys:
        return False
    evaluation.load({key.scenario for key in keys} | {(key.scenario.node, "", "") for key in keys})
    around, following = starts.runs_around(connection, keys), starts.next_starts(connection, keys)
    evaluated = [_evaluate_start(evaluation, key, around[key], following.get(key)) for key in keys]
    held: set[StartKey] = set()
    for node in sorted({key.scenario.node for key in keys}):
        held |= _fire_missed(evaluation, node, [start for start in evaluated if start.key.scenario.node == node])
    settled: list[tuple[StartKey, str, datetime | None]] = []
    for start in evaluated:
        if start.key in held:
            settled.append((start.key, StartState.PENDING.value, evaluation.now + RECHECK))
        else:
            offset = evaluation.view(StateKey("", *start.key.scenario)).node.clock_offset
            settled.append((start.key, start.status.value, None if start.again is None else start.again - offset))
    starts.save_starts(connection, settled, evaluation.now)
    return len(keys) >= STARTS_BATCH


def _evaluate_start(
    evaluation: RuleEvaluation, key: StartKey, around: Sequence[Run], following: datetime | None
) -> _EvaluatedStart:
    view = evaluation.view(StateKey("", *key.scenario))
    scenario = view.scenario
    if following is None and scenario is not None:
        following = scenario.next_run
    matching = evaluation.compiled.rules_for(evaluation.compiled.scenario_labels(scenario) if scenario else {})
    rules = sorted((rule for rule in matching if isinstance(rule, MissedRule)), key=lambda rule: rule.config.grace)
    if not rules:
        due = missed.due_of(key.at, missed.DEFAULT_GRACE, following)
        return _EvaluatedStart(key, *missed.evaluate_start(key.at, due, around, view), [], unseen=False)
    calling: list[tuple[MissedRule, datetime]] = []
    pending: list[datetime] = []
    unseen = False
    for rule in rules:
        due = missed.due_of(key.at, rule.config.grace, following)
        status, again = missed.evaluate_start(key.at, due, around, view)
        if status is StartState.MISSED:
            calling.append((rule, due))
        elif again is not None:
            pending.append(again)
            unseen = unseen or view.now >= due
    return _EvaluatedStart(key, status, min(pending, default=None), calling, unseen)


def _fire_missed(evaluation: RuleEvaluation, node: str, evaluated: Sequence[_EvaluatedStart]) -> set[StartKey]:
    """Fire for what a node has missed, once for all or one by one; returns the starts that must wait."""
    fresh: list[tuple[StartKey, MissedRule, datetime]] = []
    for start in evaluated:
        for rule, due in start.missed:
            state = _state(evaluation, StateKey(rule.id, *start.key.scenario), MissedState)
            if (
                state is None or state.last_counted is None or start.key.at > state.last_counted
            ):  # else it is counted already
                fresh.append((start.key, rule, due))
    held: set[StartKey] = set()
    for first, last in missed.group_moments([key.at for key, _, _ in fresh]):
        group = [(key, rule, due) for key, rule, due in fresh if first <= key.at <= last]
        begin = min(first, last - missed.WINDOW)
        rows = starts.count_starts(evaluation.connection, node, begin, last)
        near = [start for start in evaluated if begin <= start.key.at <= last]  # still pending in the rows
        missed_now = {key for key, _, _ in group}
        met = rows.met + sum(start.status is StartState.MET for start in near)
        unseen = sum(start.unseen and start.key not in missed_now for start in near)
        cohort = Cohort(first, last, met, rows.missed + len(missed_now), unseen)
        covered, stalled = False, evaluation.compiled.stalled
        now = evaluation.view(StateKey("", node)).now
        if stalled is not None:
            place = StateKey(stalled.id, node)
            known = _state(evaluation, place, StalledState)
            if covered := stalled.covers(known, cohort):
                evaluation.tick(place, stalled.add_cohort(known, cohort), stalled)
        for key, rule, due in group:
            if covered:
                note = f"start expected at {key.at.isoformat()}; covered by the node's alert"
                evaluation.note(rule.alert, DecisionReason.WITHHELD, f"{'/'.join(key.scenario)}: {note}")
            elif cohort.undecided and now < due + missed.PATIENCE:
                held.add(key)
            else:
                state_key = StateKey(rule.id, *key.scenario)
                state = _state(evaluation, state_key, MissedState)
                evaluation.tick(state_key, rule.add_missed(state, key.at, due), rule)
    return held


def _state(evaluation: RuleEvaluation, key: StateKey, kind: type[S]) -> S | None:
    row = evaluation.states.get(key)
    return row.state if row and isinstance(row.state, kind) else None


def find_channel_changes(
    connection: Connection, compiled: CompiledConfig, now: datetime, last_check: datetime | None
) -> list[Fired | Resolved]:
    """What is to change about ``ChannelFailing``. Reads only, what came since the last check: what that found stands."""
    recently = min(last_check or now, now) - _OVERLAP
    known = alerts.alerts_of_rule(connection, CHANNEL_ALERT, recently)
    firing = {alert.failing_channel: alert.starts_at for alert in known if alert.firing and alert.failing_channel}
    lately = {name: max(since, recently) if last_check else since for name, since in firing.items()}
    delivering = deliveries.delivered_since(connection, lately)
    channels = compiled.config.channels()
    others = [name for name in channels if name not in firing]
    troubles = deliveries.failing_channels(connection, others, now - outages.PATIENCE, recently)
    if troubles:
        known = alerts.alerts_of_rule(connection, CHANNEL_ALERT, min(trouble.since for trouble in troubles.values()))
    failing = {name: (trouble.since, trouble.reason) for name, trouble in troubles.items()}
    return outages.evaluate_channels(known, failing, delivering, channels, now)


def apply_channel_changes(
    connection: Connection, compiled: CompiledConfig, now: datetime, changes: Iterable[Fired | Resolved]
) -> StepResult:
    """Write what was found. With a new alert the standing ones are routed anew, since fewer channels deliver them."""
    evaluation = RuleEvaluation(connection, compiled, now)
    firing = alerts.firing_ids(connection)
    fired = False
    for change in changes:
        match change:
            case Fired(alert):
                fired = True
                if alert.fingerprint in firing:  # it has a row that could not be read: write it anew
                    alert = replace(alert, id=firing[alert.fingerprint])
                evaluation.put_row(AlertRow(alert, CHANNEL_ALERT))
                about = (alert.fingerprint, alert.id)
                evaluation.note(alert.name, DecisionReason.FIRING, alert.annotations["summary"], alert=about)
            case Resolved(alert_id, at, reason):
                evaluation.end(CHANNEL_ALERT, alert_id, at, reason)
    if fired:
        known = alerts.alerts_of_rule(connection, CHANNEL_ALERT, now)
        evaluation.route_again(alert for alert in known if alert.firing)
    evaluation.write()
    return evaluation.result
