"""Bringing rows in line with a configuration that has just come into force, at the start or by a reload."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tocsin.decide.evaluate import CompiledConfig, RuleEvaluation, StepResult, place_of, route_alerts
from tocsin.model.alert import CHANNEL_ALERT, EXTERNAL_RULE, EndReason
from tocsin.model.rule_state import NodeDownState
from tocsin.model.run import ScenarioKey
from tocsin.rules import renamed_rules
from tocsin.rules.causes import CommonCauseRule
from tocsin.store import Connection, alerts, groups, rule_states
from tocsin.store.alerts import AlertRow
from tocsin.store.rule_states import StateKey
from tocsin.store.scenarios import scenario_views


def reconcile(connection: Connection, compiled: CompiledConfig, now: datetime) -> StepResult:
    """Alerts of rules and nodes that were removed end as unwatched. A rule that got another severity keeps what it
    remembers; its alerts end as unwatched and fire as what they are now. All are put where the present tree routes
    them. A group that is still there is not touched."""
    evaluation = RuleEvaluation(connection, compiled, now)
    firing = alerts.firing_alerts(connection)
    renamed = renamed_rules(rule_states.stored_rules(connection), compiled.rules)
    _carry_over(evaluation, renamed, [row for row in firing if row.rule in renamed])
    _end_unwatched(evaluation, [row for row in firing if row.rule not in {CHANNEL_ALERT, EXTERNAL_RULE, *renamed}])
    rule_states.forget_rules(connection, compiled.rules)
    rule_states.forget_nodes(connection, compiled.nodes)
    rule_states.make_due(connection, (rule.id for rule in compiled.rules.values() if rule.times_all), now)
    _relabel(evaluation, [row for row in firing if row.rule in compiled.rules])
    # Let new rules about nodes know what is down already; its event came before they did.
    down = [node for name, node in evaluation.nodes.items() if node.up is False and name in compiled.nodes]
    states = rule_states.load_states(connection, [(node.node, "", "") for node in down])
    for node in down:
        for rule in compiled.rules_for({**compiled.extra_labels(node.node, ()), "dss_node": node.node}):
            key = StateKey(rule.id, node.node)
            if rule.about_nodes and key not in states:
                evaluation.tick(key, NodeDownState(since=node.down_since, reason=node.down_reason), rule)
    evaluation.write()
    _regroup(evaluation)
    return evaluation.result


def _carry_over(evaluation: RuleEvaluation, renamed: Mapping[str, str], firing: Sequence[AlertRow]) -> None:
    """Keep what renamed rules remember, and let their alerts go on under their new identities."""
    states = rule_states.states_of_rules(evaluation.connection, renamed)
    scenarios = {ScenarioKey(*row.key[1:]) for row in states if row.key.scenario}
    evaluation.scenarios |= scenario_views(evaluation.connection, scenarios)
    held = {row.alert.id: row.alert for row in firing}
    for row in states:
        key = row.key._replace(rule=renamed[row.key.rule])
        rule, state = evaluation.compiled.rules[key.rule], row.state
        old = held.pop(state.firing.alert_id, None) if state and state.firing else None
        if state is not None and old is not None and key.node in evaluation.compiled.nodes:
            alert = rule.relabel(old, evaluation.view(key), evaluation.now)
            if alert.fingerprint == old.fingerprint:
                evaluation.update(key, alert)
            else:
                evaluation.end(row.key.rule, old.id, evaluation.now, EndReason.UNWATCHED)
                state = evaluation.fire(rule, key, state, alert)
        elif old is not None:
            evaluation.end(row.key.rule, old.id, evaluation.now, EndReason.UNWATCHED)
        evaluation.put(key, state, row.due_at)
    for alert_id in held:
        evaluation.end("", alert_id, evaluation.now, EndReason.UNWATCHED)  # no state holds it: else it would never end


def _end_unwatched(evaluation: RuleEvaluation, firing: Sequence[AlertRow]) -> None:
    """End the alerts of rules and nodes that were removed; one that another rule shares goes on as that rule's."""
    rules, nodes = evaluation.compiled.rules, evaluation.compiled.nodes
    gone = [row for row in firing if row.rule not in rules or row.alert.labels["dss_node"] not in nodes]
    places = {place_of(row.alert) for row in gone if row.alert.labels["dss_node"] in nodes}
    heirs = {
        state.state.firing.alert_id: key.rule
        for key, state in rule_states.load_states(evaluation.connection, places).items()
        if key.rule in rules and state.state and state.state.firing
    }
    for row in gone:
        if row.alert.id in heirs:
            evaluation.put_row(replace(row, rule=heirs[row.alert.id]))
        else:
            evaluation.end(row.rule, row.alert.id, evaluation.now, EndReason.UNWATCHED)


def _relabel(evaluation: RuleEvaluation, firing: Sequence[AlertRow]) -> None:
    evaluation.load({place_of(row.alert) for row in firing})
    for row in firing:
        key = StateKey(row.rule, *place_of(row.alert))
        known, rule = evaluation.states.get(key), evaluation.compiled.rules[row.rule]
        if isinstance(rule, CommonCauseRule):
            continue  # it keeps no state
        if known is None or known.state is None:
            evaluation.end(row.rule, row.alert.id, evaluation.now, EndReason.UNWATCHED)  # else it would never end
            continue
        labels = rule.alert_labels(evaluation.view(key))
        if labels != row.alert.labels:
            evaluation.update(key, replace(row.alert, labels=labels))


def _regroup(evaluation: RuleEvaluation) -> None:
    """Put every alert of which a receiver may still be notified where the tree routes it, and nowhere else."""
    connection = evaluation.connection
    inside = groups.members(connection, [group.key for group in groups.all_groups(connection)])
    standing = {(key, member.alert.fingerprint): member for key, members in inside.items() for member in members}
    current = {row.alert.id: row.alert for row in alerts.firing_alerts(connection)}
    current |= {member.alert.id: member.alert for member in standing.values()}
    joining = route_alerts(evaluation.compiled, current.values(), evaluation.now)
    routed = {(entry.group.key, entry.fingerprint) for entry in joining}
    groups.remove_members(connection, [place for place in standing if place not in routed])
    entering = [entry for entry in joining if (entry.group.key, entry.fingerprint) not in standing]
    groups.add_members(connection, [entry for entry in entering if current[entry.alert_id].firing], evaluation.now)
    groups.drop_empty(connection)
