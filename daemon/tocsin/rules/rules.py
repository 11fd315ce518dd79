"""One door to all rules: which kind hears what, and how a verdict becomes an alert.

A rule hears an event (``hear``), or only time passes; then it is asked (``judge``), and its answer is held against
the alert that it has open (``settle``). While history is being read back only ``hear`` is called, so that what was
over before anyone could be told makes no alert: the net change comes out at the end.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from tocsin.config.model import Rule
from tocsin.kit.clock import isoformat, to_ms
from tocsin.model.alert import STALLED_ALERT, STALLED_SEVERITY, Alert, EndReason, alert_id, fingerprint
from tocsin.model.event import Event, EventName, end_event_name, tags_label
from tocsin.model.labels import Labels, matchers_text
from tocsin.model.rule_state import (
    AnyRuleState,
    FailedState,
    MissedState,
    NodeDownState,
    OverlongState,
    Ringing,
    StaleState,
    StalledState,
)
from tocsin.rules import failed, missed, node_down, overlong, stale, stalled
from tocsin.rules.view import AlertContent, EvaluationResult, RuleStatus, View
from tocsin.rules.words import fill


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule and its identity, by which its states and alerts are found again after a reload."""

    id: str
    rule: Rule
    begins: frozenset[EventName]  # events that matter although nothing is remembered; others change only what is

    @property
    def about_nodes(self) -> bool:
        return self.rule.kind == "node_down"

    @property
    def stalled_id(self) -> str:
        """The identity under which a ``missed`` rule keeps its view of whole nodes."""
        return f"{self.id}/stalled"


def compile_rule(rule: Rule) -> CompiledRule:
    """Identity is the alert name, a digest of the kind, the matchers and the rule's own labels, and the severity."""
    own = sorted(rule.labels.items())
    text = f"{rule.kind}|{matchers_text(rule.match)}|{own!r}"
    id_ = f"{rule.alert}:{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}:{rule.severity}"
    return CompiledRule(id_, rule, _begins(rule))


def apart_from_severity(rule_id: str) -> tuple[str, str]:
    """What rules that differ in nothing but their severity have in common: of ``live``'s ids, or of ``stalled_id``."""
    head, _, tail = rule_id.rpartition(":")
    return head, tail.partition("/")[2]


def _begins(rule: Rule) -> frozenset[EventName]:
    match rule.kind:
        case "failed":
            return frozenset(end_event_name(outcome) for outcome in rule.outcomes)
        case "overlong":
            return frozenset({EventName.RUN_STARTED})
        case "stale":
            return frozenset({EventName.RUN_FINISHED})
        case "node_down":
            return frozenset({EventName.NODE_DOWN})
        case "missed":
            return frozenset()  # what is missed is no event
        case _:
            assert_never(rule.kind)


def on_event(rule: Rule, state: AnyRuleState | None, event: Event) -> AnyRuleState | None:
    """The state after an event; the same object when the event says nothing to this rule."""
    match rule.kind:
        case "failed":
            return failed.on_event(rule, state if isinstance(state, FailedState) else None, event)
        case "missed":
            return missed.on_event(rule, state if isinstance(state, MissedState) else None, event)
        case "overlong":
            return overlong.on_event(rule, state if isinstance(state, OverlongState) else None, event)
        case "stale":
            return stale.on_event(rule, state if isinstance(state, StaleState) else None, event)
        case "node_down":
            return node_down.on_event(rule, state if isinstance(state, NodeDownState) else None, event)
        case _:
            assert_never(rule.kind)


def evaluate(rule: Rule, state: AnyRuleState, view: View) -> EvaluationResult:
    """What the rule says of this state at this moment."""
    match state:
        case FailedState():
            return failed.evaluate(rule, state, view)
        case MissedState():
            return missed.evaluate(rule, state, view)
        case OverlongState():
            return overlong.evaluate(rule, state, view)
        case StaleState():
            return stale.evaluate(rule, state, view)
        case NodeDownState():
            return node_down.evaluate(rule, state, view)
        case StalledState():
            return stalled.evaluate(rule, state, view)
        case _:
            assert_never(state)


@dataclass(frozen=True, slots=True)
class Fired:
    alert: Alert


@dataclass(frozen=True, slots=True)
class Updated:
    """A ringing alert that now shows something else: a further failure."""

    alert: Alert


@dataclass(frozen=True, slots=True)
class Resolved:
    alert_id: str
    at: datetime
    reason: EndReason


AlertChange = Fired | Updated | Resolved


def settle(
    rule: Rule, judgement: EvaluationResult, view: View, now: datetime
) -> tuple[AnyRuleState, AlertChange | None]:
    """Hold a verdict against the open alert: the state to keep, and what changes. ``now`` is on Tocsin's clock."""
    state = judgement.state
    ringing = state.ringing
    match judgement.status:
        case RuleStatus.WAIT:
            return state, None
        case RuleStatus.QUIET if ringing is None:
            return (state if state.dismissed is None else replace(state, dismissed=None)), None
        case RuleStatus.QUIET:
            assert ringing is not None
            at = max(judgement.at or view.now, ringing.starts_at)
            ended = Resolved(ringing.alert_id, at, EndReason.RESOLVED)
            return replace(state, ringing=None, dismissed=None), ended
        case RuleStatus.RING:
            assert judgement.shown is not None
            return _ring(rule, state, judgement.shown, view, now)
        case _:
            assert_never(judgement.status)


def _ring(
    rule: Rule, state: AnyRuleState, shown: AlertContent, view: View, now: datetime
) -> tuple[AnyRuleState, AlertChange | None]:
    ringing = state.ringing
    if ringing is None:
        if state.dismissed == shown.evidence:
            return state, None
        if state.dismissed is not None:
            shown = replace(shown, starts_at=view.now)  # the earlier part of it was ended by hand
        alert = build_alert(rule, state, view, shown, now)
        held = Ringing(alert.id, alert.starts_at, shown.evidence)
        return replace(state, ringing=held, dismissed=None), Fired(alert)
    if ringing.evidence == shown.evidence:
        return state, None
    held = replace(ringing, evidence=shown.evidence)
    changed = replace(state, ringing=held)
    return changed, Updated(build_alert(rule, changed, view, shown, now))


def build_alert(rule: Rule, state: AnyRuleState, view: View, shown: AlertContent, now: datetime) -> Alert:
    """The whole alert: labels, annotations, identity."""
    labels = alert_labels(rule, state, view)
    identity = _identity(rule, labels, view)
    starts_at = state.ringing.starts_at if state.ringing else shown.starts_at
    return Alert(
        id=state.ringing.alert_id if state.ringing else alert_id(identity, to_ms(starts_at), to_ms(now)),
        fingerprint=identity,
        labels=labels,
        starts_at=starts_at,
        annotations=_annotations(rule, labels, shown, view),
        count=shown.count,
        run=shown.run,
    )


def reidentified(rule: Rule, state: AnyRuleState, view: View, alert: Alert, now: datetime) -> Alert:
    """An alert that fires as the rule labels it now; another alert if that changes its identity."""
    labels = alert_labels(rule, state, view)
    identity = _identity(rule, labels, view)
    id_ = alert.id if identity == alert.fingerprint else alert_id(identity, to_ms(alert.starts_at), to_ms(now))
    return replace(alert, id=id_, fingerprint=identity, labels=labels)


def _identity(rule: Rule, labels: Labels, view: View) -> str:
    key = view.scenario.key if view.scenario else None
    return fingerprint(labels["alertname"], labels["severity"], view.node.node, key, rule.labels)


def alert_labels(rule: Rule, state: AnyRuleState, view: View) -> Labels:
    """The labels of a rule's alert; empty ones are left out, as an absent label is an empty one."""
    name, severity = rule.alert, rule.severity
    if isinstance(state, StalledState):
        name, severity = STALLED_ALERT, STALLED_SEVERITY
    key = view.scenario.key if view.scenario else None
    labels = {
        **rule.labels,
        "alertname": name,
        "severity": severity,
        "dss_node": view.node.node,
        "project": key.project if key else "",
        "scenario": key.scenario if key else "",
        "tags": tags_label(view.scenario.tags) if view.scenario else "",
    }
    return {label: value for label, value in labels.items() if value}


def _annotations(rule: Rule, labels: Mapping[str, str], shown: AlertContent, view: View) -> dict[str, str]:
    built_in = {"summary": shown.summary, "description": shown.description, **shown.facts}
    if view.scenario is not None and view.base_url:
        built_in["scenario_url"] = f"{view.scenario.key.url(view.base_url)}/"
    values = {
        **labels,
        **built_in,
        "scenario_name": view.scenario.name if view.scenario else "",
        "count": str(shown.count),
        "starts_at": isoformat(shown.starts_at),
    }
    own = {name: fill(text, values) for name, text in rule.annotations.items()}
    return {name: text for name, text in {**built_in, **own}.items() if text}
