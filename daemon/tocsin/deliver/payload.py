"""What the native webhook posts: events as CloudEvents, groups in Alertmanager's webhook format, version 4. Pure.

Source of the latter's fields: Alertmanager's documentation of ``webhook_config`` and the replies of version 0.25.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from tocsin.kit.clock import isoformat
from tocsin.model.alert import Alert
from tocsin.model.cloudevent import Json, to_cloudevent
from tocsin.model.labels import Labels
from tocsin.model.notification import EventNotice, GroupNotice, Notification, SummaryNotice
from tocsin.model.run import Details, RunKey

MAX_ALERTS = 200
_CLOUDEVENT = "application/cloudevents+json"
_compact = json.JSONEncoder(separators=(",", ":")).encode
_NEVER = "0001-01-01T00:00:00Z"  # Alertmanager's end of an alert that fires


@dataclass(frozen=True, slots=True)
class Payload:
    content_type: str
    body: bytes


def payload(notification: Notification, details: Mapping[RunKey, Details], external_url: str | None) -> Payload:
    """The body for this notification, in ASCII: what is not is escaped, so that no name can break it."""
    document: Json
    match notification.notice:
        case EventNotice(event=event):
            document = to_cloudevent(event, details.get(event.run.key) if event.run else None)
            kind = _CLOUDEVENT
        case GroupNotice() as group:
            document = _group(group, external_url or "")
            kind = "application/json"
        case SummaryNotice() as summary:
            document = _summary(summary, notification.id)
            kind = _CLOUDEVENT
    return Payload(kind, _compact(document).encode("ascii"))


def _group(group: GroupNotice, external_url: str) -> Json:
    shown = group.alerts[:MAX_ALERTS]
    return {
        "version": "4",
        "groupKey": group.group_key,
        "truncatedAlerts": group.truncated + len(group.alerts) - len(shown),
        "status": "firing" if group.firing else "resolved",
        "receiver": group.receiver,
        "groupLabels": dict(group.group_labels),
        "commonLabels": _common([alert.labels for alert in group.alerts]),
        "commonAnnotations": _common([alert.annotations for alert in group.alerts]),
        "externalURL": external_url,
        "alerts": [_alert(alert) for alert in shown],
    }


def _alert(alert: Alert) -> Json:
    return {
        "status": "firing" if alert.firing else "resolved",
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "startsAt": isoformat(alert.starts_at),
        "endsAt": isoformat(alert.ends_at) if alert.ends_at else _NEVER,
        "generatorURL": alert.annotations.get("run_url", ""),
        "fingerprint": alert.fingerprint,
    }


def _common(sets: list[Labels]) -> dict[str, Json]:
    first, *others = sets or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _summary(summary: SummaryNotice, id_: str) -> Json:
    return {
        "specversion": "1.0",
        "id": id_,
        "type": "tocsin.summary",
        "source": f"/nodes/{quote(summary.node, safe='')}",
        "subject": None,
        "time": isoformat(summary.until),
        "datacontenttype": "application/json",
        "data": {
            "node": summary.node,
            "since": isoformat(summary.since),
            "until": isoformat(summary.until),
            "runs_by_outcome": dict(summary.runs_by_outcome),
            "worst": [to_cloudevent(event) for event in summary.worst],
        },
    }
