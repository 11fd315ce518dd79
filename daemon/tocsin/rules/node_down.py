"""``node_down``: rings when a node has been down for as long as the rule holds, ends when it answers again."""

from dataclasses import replace

from tocsin.config.model import Rule
from tocsin.kit.clock import format_utc, isoformat
from tocsin.model.event import Event, EventName
from tocsin.model.rule_state import NodeDownState
from tocsin.rules.view import AlertContent, EvaluationResult, RuleStatus, View


def on_event(_rule: Rule, state: NodeDownState | None, event: Event) -> NodeDownState | None:
    match event.name:
        case EventName.NODE_DOWN:
            reason = event.reason.value if event.reason else None
            return replace(state or NodeDownState(), since=event.time, reason=reason, up=None)
        case EventName.NODE_UP if state is not None:
            return replace(state, up=event.time)
        case _:
            return state


def evaluate(rule: Rule, state: NodeDownState, view: View) -> EvaluationResult:
    if state.since is None or state.up is not None:
        calm = NodeDownState(ringing=state.ringing, dismissed=state.dismissed)
        return EvaluationResult(calm, RuleStatus.QUIET, at=state.up)
    due = state.since + rule.hold
    if view.now < due:
        return EvaluationResult(state, RuleStatus.WAIT, due)
    why = (state.reason or "unreachable").replace("_", " ")
    shown = AlertContent(
        starts_at=due,
        evidence=isoformat(state.since),
        summary=f"DSS node {view.node.node} cannot be watched: {why}",
        description=f"Down since {format_utc(state.since)} ({why}). Its scenarios are not seen; what ran meanwhile is "
        "read back when it answers again.",
        facts={"reason": state.reason or ""},
    )
    return EvaluationResult(state, RuleStatus.RING, shown=shown)
