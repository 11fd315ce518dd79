"""A channel that does not deliver is an alert of its own: what cannot be heard through it is heard through the others.

It rings for rows of the outbox, not for events: when nothing was delivered since a notification that is owed for a
while, or was given up. It ends with the next delivery, or with the channel.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from tocsin.config.model import Channel
from tocsin.kit.clock import to_ms
from tocsin.model.alert import CHANNEL_ALERT, CHANNEL_SEVERITY, Alert, EndReason, alert_id, fingerprint
from tocsin.rules.rules import Fired, Resolved

PATIENCE = timedelta(minutes=2)  # how long something is owed and tried in vain before it rings; a restart takes less


def evaluate(
    known: Sequence[Alert],
    failing: Mapping[str, tuple[datetime, str]],
    working: set[str],
    channels: Mapping[str, Channel],
    now: datetime,
) -> list[Fired | Resolved]:
    """What changes. ``known``: those that ring, and those that ended a while ago; ``failing``: since when each channel
    does, and what its receiver said; ``working``: channels that delivered since their alert rang."""
    changes: list[Fired | Resolved] = []
    ringing = {alert.labels["channel"]: alert for alert in known if alert.firing}
    for name, alert in ringing.items():
        if name not in channels:
            changes.append(Resolved(alert.id, now, EndReason.UNWATCHED))
        elif name in working:
            changes.append(Resolved(alert.id, now, EndReason.RESOLVED))
    for name, (since, reason) in failing.items():
        by_hand = (one for one in known if one.labels["channel"] == name and one.end_reason is EndReason.BY_HAND)
        dismissed = any(one.ends_at is not None and one.ends_at >= since for one in by_hand)
        if name in channels and name not in ringing and not dismissed:
            changes.append(Fired(_picture(channels[name], since, reason, now)))
    return changes


def _picture(channel: Channel, since: datetime, reason: str, now: datetime) -> Alert:
    identity = fingerprint(CHANNEL_ALERT, CHANNEL_SEVERITY, "", None, {"channel": channel.name})
    return Alert(
        id=alert_id(identity, to_ms(since), to_ms(now)),
        fingerprint=identity,
        labels={
            "alertname": CHANNEL_ALERT,
            "severity": CHANNEL_SEVERITY,
            "receiver": channel.receiver,
            "channel": channel.name,
        },
        starts_at=since,
        annotations={
            "summary": f"Channel {channel.name} of receiver {channel.receiver} does not deliver",
            "description": f"{reason or 'no answer'}. What waits: tocsin deliveries list --channel {channel.name}",
        },
    )
