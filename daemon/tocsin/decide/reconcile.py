"""Bringing rows in line with a configuration that has just come into force."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from tocsin.decide.compiled import CompiledConfig
from tocsin.decide.evaluate import RuleEvaluation, enter_groups, place_of
from tocsin.decide.outcome import Outcome
from tocsin.model.alert import CHANNEL_ALERT, EndReason
from tocsin.model.rule_state import NodeDownState
from tocsin.model.run import ScenarioKey
from tocsin.rules.rules import alert_labels, apart_from_severity, reidentified
from tocsin.store import alerts, groups, rule_states, scenarios
from tocsin.store.rule_states import StateKey


def reconcile(connection: Connection, compiled: CompiledConfig, now: datetime) -> Outcome:
    """Bring rows in line with a configuration that has just come into force, at the start or by a reload.

    Alerts of rules and nodes that were taken away end as unwatched. A rule that got another severity keeps what it
    remembers; its alerts end as unwatched and fire as what they are now. All are put where the present tree wants
    them. A group that is still there is not touched.
    """
    evaluation = RuleEvaluation(connection, compiled, now, scenarios.node_views(connection), {}, {})
    ringing = alerts.firing(connection)
    renamed = renamed_rules(rule_states.rules(connection), compiled.rule_ids)
    _rename(evaluation, renamed, ringing)
    _end_unwatched(
        evaluation, [filed for filed in ringing if filed.rule != CHANNEL_ALERT and filed.rule not in renamed]
    )
    rule_states.forget_rules(connection, compiled.rule_ids)
    rule_states.forget_nodes(connection, compiled.nodes)
    _repaint(evaluation, [filed for filed in ringing if filed.rule in compiled.rule_ids])
    _remember_down(evaluation)
    evaluation.write()
    _regroup(connection, compiled, now)
    return Outcome(alerts=evaluation.changed, made=evaluation.made, errors=evaluation.errors)


def _end_unwatched(evaluation: RuleEvaluation, ringing: Sequence[alerts.AlertRow]) -> None:
    """End the alerts of rules and nodes that were taken away; one that another rule shares goes on as that rule's."""
    compiled = evaluation.compiled
    gone = [
        one
        for one in ringing
        if one.rule not in compiled.rule_ids or one.alert.labels["dss_node"] not in compiled.nodes
    ]
    places = {place_of(filed.alert) for filed in gone if filed.alert.labels["dss_node"] in compiled.nodes}
    heirs = {
        one.state.ringing.alert_id: key.rule
        for key, one in rule_states.load(evaluation.connection, places).items()
        if key.rule in compiled.rule_ids and one.state and one.state.ringing
    }
    for filed in gone:
        if filed.alert.id in heirs:
            evaluation.put_in(replace(filed, rule=heirs[filed.alert.id]))
        else:
            evaluation.end(filed.rule, filed.alert.id, evaluation.now, EndReason.UNWATCHED)


def renamed_rules(stored: Iterable[str], present: Collection[str]) -> dict[str, str]:
    """Rules of which nothing but the severity has changed: the identity in the rows → the present one."""
    gone: dict[tuple[str, str], list[str]] = {}
    new: dict[tuple[str, str], list[str]] = {}
    stored = set(stored)
    for rule in sorted(stored.difference(present)):
        gone.setdefault(apart_from_severity(rule), []).append(rule)
    for rule in sorted(set(present) - stored):
        new.setdefault(apart_from_severity(rule), []).append(rule)
    return {rules[0]: new[same][0] for same, rules in gone.items() if len(rules) == len(new.get(same, ())) == 1}


def _rename(evaluation: RuleEvaluation, renamed: Mapping[str, str], ringing: Sequence[alerts.AlertRow]) -> None:
    """Carry over what rules remember, and let their alerts go on under their new identities."""
    states = rule_states.of_rules(evaluation.connection, renamed)
    keys = {ScenarioKey(*one.key[1:]) for one in states if one.key.scenario}
    evaluation.scenarios |= scenarios.scenario_views(evaluation.connection, keys)
    held = {filed.alert.id: filed.alert for filed in ringing if filed.rule in renamed}
    for one in states:
        key = one.key._replace(rule=renamed[one.key.rule])
        live, state = evaluation.compiled.rules[key.rule.removesuffix("/stalled")], one.state
        old = held.pop(state.ringing.alert_id, None) if state and state.ringing else None
        if state is not None and old is not None and key.node in evaluation.compiled.nodes:
            alert = reidentified(live.rule, state, evaluation.view(key), old, evaluation.now)
            if alert.fingerprint == old.fingerprint:
                evaluation.file(alert, key)
            else:
                evaluation.end(one.key.rule, old.id, evaluation.now, EndReason.UNWATCHED)
                state = evaluation.ring(live, key, state, alert, None)
        elif old is not None:
            evaluation.end(one.key.rule, old.id, evaluation.now, EndReason.UNWATCHED)
        evaluation.put(key, state, one.due_at)
    for alert_id in held:
        evaluation.end("", alert_id, evaluation.now, EndReason.UNWATCHED)  # no state holds it: else it would never end


def _repaint(evaluation: RuleEvaluation, ringing: Sequence[alerts.AlertRow]) -> None:
    places = {place_of(filed.alert) for filed in ringing}
    evaluation.scenarios |= scenarios.scenario_views(
        evaluation.connection, {ScenarioKey(*place) for place in places if place[2]}
    )
    evaluation.states |= rule_states.load(evaluation.connection, places)
    for filed in ringing:
        key = StateKey(filed.rule, *place_of(filed.alert))
        known = evaluation.states.get(key)
        live = evaluation.compiled.rules.get(filed.rule.removesuffix("/stalled"))
        if known is None or known.state is None or live is None:
            evaluation.end(filed.rule, filed.alert.id, evaluation.now, EndReason.UNWATCHED)  # else it would never end
            continue
        labels = alert_labels(live.rule, known.state, evaluation.view(key))
        if labels != filed.alert.labels:
            evaluation.file(replace(filed.alert, labels=labels), key)


def _remember_down(evaluation: RuleEvaluation) -> None:
    """Let rules about nodes know what is down already; its event came before they did."""
    known = evaluation.compiled.nodes
    down = {name: node for name, node in evaluation.nodes.items() if node.up is False and name in known}
    states = rule_states.load(evaluation.connection, [(name, "", "") for name in down])
    for name, node in down.items():
        for live in evaluation.compiled.rules_for({"dss_node": name}):
            key = StateKey(live.id, name)
            if live.about_nodes and key not in states:
                evaluation.tick(key, NodeDownState(since=node.down_since, reason=node.down_reason), live)


def _regroup(connection: Connection, compiled: CompiledConfig, now: datetime) -> None:
    """Put every alert that a receiver may still hear of where the tree wants it, and take it out of where not."""
    known = groups.every(connection)
    inside = groups.members(connection, [group.key for group in known])
    live = {filed.alert.id: filed.alert for filed in alerts.firing(connection)}
    live |= {member.alert.id: member.alert for members in inside.values() for member in members}
    joining, _ = enter_groups(compiled, live.values(), now)
    wanted = {(one.group.key, one.fingerprint) for one in joining}
    standing = {(key, member.alert.fingerprint): member for key, members in inside.items() for member in members}
    groups.leave(connection, [place for place in standing if place not in wanted])
    groups.join(
        connection,
        [one for one in joining if (one.group.key, one.fingerprint) not in standing and live[one.alert_id].firing],
    )
    groups.drop_empty(connection)
