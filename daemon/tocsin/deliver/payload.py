"""What the native webhook posts: events as CloudEvents, groups in Alertmanager's webhook format, version 4. Pure.

Source of the latter's fields: Alertmanager's documentation of ``webhook_config`` and the replies of version 0.25;
``notification_reason`` came with 0.32.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tocsin.deliver.context import error_words
from tocsin.kit.clock import isoformat
from tocsin.model.alert import Alert
from tocsin.model.cloudevent import Json, to_cloudevent
from tocsin.model.decision import DecisionReason
from tocsin.model.event import Event
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
            document = _event(event, details)
            kind = _CLOUDEVENT
        case GroupNotice() as group:
            document = _group(group, details, external_url or "")
            kind = "application/json"
        case SummaryNotice() as summary:
            document = _summary(summary, details, notification.id)
            kind = _CLOUDEVENT
    body = _compact(document)
    return Payload(kind, (_compact(_whole(document)) if _ODD.search(body) else body).encode("ascii"))


_ODD = re.compile(r"\\u(?:d[89a-f]|0000)")  # halves of a sign, a NUL, or what looks like them


def _whole(value: Json) -> Json:
    """Without NULs and halves of signs: JSON can write them, and most receivers cannot read them."""
    match value:
        case str():
            return value.replace("\0", "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {str(_whole(name)): _whole(part) for name, part in value.items()}
        case list():
            return [_whole(part) for part in value]
    return value


def _event(event: Event, details: Mapping[RunKey, Details]) -> Json:
    return to_cloudevent(event, details.get(event.run.key) if event.run else None)


def _group(group: GroupNotice, details: Mapping[RunKey, Details], external_url: str) -> Json:
    shown = group.alerts[:MAX_ALERTS]
    annotations = [_annotations(alert, details) for alert in group.alerts]
    return {
        "version": "4",
        "groupKey": group.group_key,
        "truncatedAlerts": group.truncated + len(group.alerts) - len(shown),
        "status": "firing" if group.firing else "resolved",
        "receiver": group.receiver,
        "notification_reason": _reason(group),
        "groupLabels": dict(group.group_labels),
        "commonLabels": _common([alert.labels for alert in group.alerts]),
        "commonAnnotations": _common(annotations),
        "externalURL": external_url,
        "alerts": [_alert(*one) for one in zip(shown, annotations, strict=False)],
    }


def _reason(group: GroupNotice) -> str:
    """Why this is sent, in Alertmanager's words (``notification_reason``, from its version 0.32 on)."""
    match group.reason:
        case DecisionReason.FIRST:
            return "first notification"
        case DecisionReason.NEW_ALERTS:
            return "new alerts added"
        case DecisionReason.RESOLVED:
            return "some alerts resolved" if group.firing else "all alerts resolved"
        case DecisionReason.REPEAT:
            return "repeat interval elapsed"
        case _:
            return "unknown"


def _annotations(alert: Alert, details: Mapping[RunKey, Details]) -> dict[str, str]:
    """The alert's own, with what became known after it rang: the first error, how many runs, and how it ended."""
    read = details.get(alert.run) if alert.run else None
    later = {
        "first_error": error_words(read.error) if read and read.error else "",
        "failed_step": (read.error.step if read and read.error else None) or "",
        "count": str(alert.count),
        "end_reason": alert.end_reason or "",
    }
    return {name: value for name, value in later.items() if value} | dict(alert.annotations)


def _alert(alert: Alert, annotations: Mapping[str, str]) -> Json:
    return {
        "status": "firing" if alert.firing else "resolved",
        "labels": dict(alert.labels),
        "annotations": dict(annotations),
        "startsAt": isoformat(alert.starts_at),
        "endsAt": isoformat(alert.ends_at) if alert.ends_at else _NEVER,
        "generatorURL": alert.annotations.get("run_url", ""),
        "fingerprint": alert.fingerprint,
    }


def _common(sets: Sequence[Labels]) -> dict[str, Json]:
    first, *others = sets or [{}]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _summary(summary: SummaryNotice, details: Mapping[RunKey, Details], id_: str) -> Json:
    return {
        "specversion": "1.0",
        "id": id_,
        "type": "tocsin.summary",
        "source": f"/nodes/{quote(summary.node, safe='')}",
        "time": isoformat(summary.until),
        "datacontenttype": "application/json",
        "data": {
            "node": summary.node,
            "since": isoformat(summary.since),
            "until": isoformat(summary.until),
            "runs_by_outcome": dict(summary.runs_by_outcome),
            "worst": [_event(event, details) for event in summary.worst],
        },
    }
