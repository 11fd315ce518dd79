"""Rules about what Tocsin depends on: ``node_down`` for DSS nodes, and channels that do not deliver.

``ChannelFailing`` is evaluated from rows of the outbox and of its own alerts, and keeps no state: it fires when nothing
was delivered since a notification that has been pending for a while, or was given up, and resolves with the next
delivery, or with the channel. Other channels carry the alert.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from tocsin.config.model import Channel
from tocsin.kit.clock import format_utc, isoformat, to_ms
from tocsin.model.alert import CHANNEL_ALERT, CHANNEL_SEVERITY, Alert, EndReason, alert_id, fingerprint
from tocsin.model.event import Event, EventName
from tocsin.model.rule_state import NodeDownState
from tocsin.rules.rule import AlertContent, CompiledRule, EvaluationResult, Fired, Resolved, RuleStatus, RuleView, reset

PATIENCE = timedelta(minutes=2)  # how long a channel is tried in vain before it counts as failing; a restart takes less


class NodeDownRule(CompiledRule[NodeDownState]):
    """Fires when a node has been down for as long as the rule holds, resolves when it answers again."""

    state_type = NodeDownState
    about_nodes = True
    begins = frozenset({EventName.NODE_DOWN})

    def on_event(self, state: NodeDownState | None, event: Event) -> NodeDownState | None:
        if event.name is EventName.NODE_DOWN:
            reason = event.reason.value if event.reason else None
            return replace(state or NodeDownState(), since=event.time, reason=reason, up=None)
        return replace(state, up=event.time) if event.name is EventName.NODE_UP and state is not None else state

    def evaluate(self, state: NodeDownState, view: RuleView) -> EvaluationResult:
        if state.since is None or state.up is not None:
            return EvaluationResult(reset(state), RuleStatus.INACTIVE, at=state.up)
        due = state.since + self.config.hold
        if view.now < due:
            return EvaluationResult(state, RuleStatus.UNKNOWN, due)
        why = (state.reason or "unreachable").replace("_", " ")
        words = f": {view.node.problem}" if view.node.problem else ""
        content = AlertContent(
            starts_at=due,
            evidence=isoformat(state.since),
            summary=f"DSS node {view.node.node} cannot be watched: {why}",
            description=f"Down since {format_utc(state.since)} ({why}{words}). Its scenarios are not seen; what ran meanwhile "
            "is read back when it answers again.",
            facts={"reason": state.reason or ""},
        )
        return EvaluationResult(state, RuleStatus.FIRING, content=content)


def evaluate_channels(
    known: Sequence[Alert],
    failing: Mapping[str, tuple[datetime, str]],
    delivering: set[str],
    channels: Mapping[str, Channel],
    now: datetime,
) -> list[Fired | Resolved]:
    """What changes. ``known``: the alerts that fire, and those that ended a while ago; ``failing``: since when each
    channel does, and what its receiver said; ``delivering``: channels that delivered since their alert fired."""
    changes: list[Fired | Resolved] = []
    firing = {alert.labels["channel"]: alert for alert in known if alert.firing}
    for name, alert in firing.items():
        if name not in channels or name in delivering:
            reason = EndReason.RESOLVED if name in channels else EndReason.UNWATCHED
            changes.append(Resolved(alert.id, now, reason))
    dismissed = [alert for alert in known if alert.end_reason is EndReason.BY_HAND and alert.ends_at is not None]
    for name, (since, reply) in failing.items():
        is_dismissed = any(a.labels["channel"] == name and (a.ends_at or since) >= since for a in dismissed)
        if name not in channels or name in firing or is_dismissed:
            continue
        receiver = channels[name].receiver
        identity = fingerprint(CHANNEL_ALERT, CHANNEL_SEVERITY, "", None, {"channel": name})
        alert = Alert(
            id=alert_id(identity, to_ms(since), to_ms(now)),
            fingerprint=identity,
            labels={"alertname": CHANNEL_ALERT, "severity": CHANNEL_SEVERITY, "receiver": receiver, "channel": name},
            starts_at=since,
            annotations={
                "summary": f"Channel {name} of receiver {receiver} does not deliver",
                "description": f"{reply or 'no answer'}. What waits: tocsin deliveries list --channel {name}",
            },
        )
        changes.append(Fired(alert))
    return changes
