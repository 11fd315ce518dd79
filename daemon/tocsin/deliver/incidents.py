"""Incidents of PagerDuty and Opsgenie: one for a group of alerts, open while any of them fires. Pure: requests made of a
notice, and results of answers. The key of an incident depends on the group alone, so it is the same after a restart or a
reload. Sources: PagerDuty's documentation of Events API v2, Opsgenie's of its Alert API."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from tocsin.deliver.escape import clean_text, to_one_line, truncate
from tocsin.deliver.message import Message, fullest
from tocsin.deliver.result import Cause, SendResult, delivered, failed, json_object, refused, result_of_status
from tocsin.kit.clock import isoformat
from tocsin.kit.strings import derived_id
from tocsin.model.labels import Labels, common_labels
from tocsin.model.notification import GroupNotice

_SUMMARY = 1_024  # characters of PagerDuty's summary
_DETAIL = 2_000  # characters of one of PagerDuty's custom details; an event may have 512 KB
_LINKS = 10
_TEXTS = {"message": 130, "description": 15_000, "entity": 512, "note": 25_000}  # Opsgenie's limits
_TAGS, _TAG = 20, 50
_DETAILS = 8_000  # characters of Opsgenie's details, names and values together
_NAMES = 20  # scenarios that are listed under one error
_NAME, _ERROR = 60, 500  # characters of each, so that what is listed fits into a detail

# Most severe first; a severity that is not among them counts as the first.
_PAGERDUTY_SEVERITIES = {"critical": "critical", "error": "error", "warning": "warning", "info": "info", "none": "info"}
_OPSGENIE_PRIORITIES = {"critical": "P1", "error": "P2", "warning": "P3", "info": "P5", "none": "P5"}


@dataclass(frozen=True, slots=True)
class IncidentRequest:
    """``path`` is relative to the service's address."""

    path: str
    body: dict[str, Any]


def incident_key(group_key: str) -> str:
    return derived_id("incident", group_key)


def severity(group: GroupNotice) -> str:
    """Of the most severe alert that fires."""
    order = list(_PAGERDUTY_SEVERITIES)
    severities = [alert.labels.get("severity", "") for alert in group.firing or group.alerts]
    return min((item if item in order else order[0] for item in severities), key=order.index, default=order[0])


def pagerduty_events(
    group: GroupNotice, message: Message, routing_key: str, external_url: str | None
) -> list[dict[str, Any]]:
    """What opens or updates the incident, and acknowledges it when all that fires is acknowledged; or what closes it."""
    key = {"routing_key": routing_key, "dedup_key": incident_key(group.group_key)}
    if not group.firing:
        return [key | {"event_action": "resolve"}]
    event: dict[str, Any] = key | {"event_action": "trigger"}
    labels = common_labels([alert.labels for alert in group.firing or group.alerts])
    payload = {
        "summary": to_one_line(message.headline, _SUMMARY),
        "source": _source(labels),
        "severity": _PAGERDUTY_SEVERITIES[severity(group)],
        "timestamp": isoformat(min(alert.starts_at for alert in group.firing)),
        "custom_details": {name: truncate(text, _DETAIL) for name, text in _details(group, message).items()},
    }
    links = [{"href": link.url, "text": clean_text(link.label)} for link in message.links]
    component = labels.get("scenario_name") or labels.get("scenario") or labels.get("project")
    places = (("component", component), ("group", labels.get("project")), ("class", labels.get("alertname")))
    event["payload"] = payload | {name: to_one_line(value, _TEXTS["entity"]) for name, value in places if value}
    event |= {"links": links[:_LINKS], "client": "Tocsin"}
    event |= {"client_url": external_url} if external_url else {}
    return [event, key | {"event_action": "acknowledge"}] if group.acknowledged else [event]


def opsgenie_requests(group: GroupNotice, message: Message) -> list[IncidentRequest]:
    """What opens, updates or closes the alert: Opsgenie keeps the words of an open one, so news go into a note."""
    alias = incident_key(group.group_key)
    text = fullest(message, _plain_text, lambda text: len(text) <= _TEXTS["description"])
    news = {"source": "Tocsin", "note": truncate(f"{message.headline}\n{text}".strip(), _TEXTS["note"])}
    if not group.firing:
        return [IncidentRequest(_opsgenie_path(alias, "close"), news)]
    labels = common_labels([alert.labels for alert in group.firing or group.alerts])
    details = fullest(
        message,
        lambda part: _details(group, part) | {link.label: link.url for link in part.links},
        lambda found: _length(found) <= _DETAILS,
    )
    while _length(details) > _DETAILS:  # of addresses alone
        details.popitem()
    tags = [labels.get("alertname", ""), severity(group), *labels.get("tags", "").strip(",").split(",")]
    body = {
        "message": to_one_line(message.headline, _TEXTS["message"]),
        "alias": alias,
        "description": truncate(text, _TEXTS["description"]),
        "details": details,
        "tags": [to_one_line(tag, _TAG) for tag in tags if tag][:_TAGS],
        "entity": to_one_line(_source(labels), _TEXTS["entity"]),
        "source": "Tocsin",
        "priority": _OPSGENIE_PRIORITIES[severity(group)],
    }
    requests = [IncidentRequest("v2/alerts", body)]
    if group.reason != "first":
        requests.append(IncidentRequest(_opsgenie_path(alias, "notes"), news))
    if group.acknowledged:
        requests.append(IncidentRequest(_opsgenie_path(alias, "acknowledge"), {"source": "Tocsin"}))
    return requests


def pagerduty_result(status: int, body: str, retry_after: timedelta | None) -> SendResult:
    """A 400 is for good; an accepted event says ``success`` in its answer."""
    document = json_object(body)
    if status == 202 and document.get("status", "success") != "success":
        return failed(f"HTTP 202: {document.get('status')}: {document.get('message', '')}", cause=Cause.RECEIVER)
    errors = document.get("errors")
    said = "; ".join(map(str, errors)) if isinstance(errors, list) and errors else str(document.get("message", body))
    if status == 400:
        cause = Cause.CREDENTIALS if "routing" in said.lower() else Cause.MESSAGE
        return refused(f"HTTP 400: {said}", cause=cause)
    return result_of_status(status, said, retry_after)


def opsgenie_result(request: IncidentRequest, status: int, body: str, retry_after: timedelta | None) -> SendResult:
    """An alert that is not there needs no closing and no note."""
    if status == 404 and request.path != "v2/alerts":
        return delivered("HTTP 404: the alert is not open any more")
    return result_of_status(status, str(json_object(body).get("message", body)), retry_after)


def opsgenie_outcome(request: IncidentRequest, status: int, body: str) -> SendResult | None:
    """What became of an accepted request, from Opsgenie's answer to the question; None: it is not processed yet, or
    nobody knows. An alert that is not there needs no closing and no note."""
    data = json_object(body).get("data")
    if status != 200 or not isinstance(data, dict):
        return None
    words = str(data.get("status", ""))
    if data.get("isSuccess", data.get("success")) is not False or request.path != "v2/alerts":
        return delivered(f"HTTP 202: {words or 'processed'}")
    return failed(f"HTTP 202, but then: {words}", cause=Cause.MESSAGE)


def _length(details: Mapping[str, str]) -> int:
    return sum(map(len, (*details, *details.values())))


def _opsgenie_path(alias: str, action: str) -> str:
    return f"v2/alerts/{quote(alias, safe='')}/{action}?identifierType=alias"


def _source(labels: Labels) -> str:
    """What is affected: node, project and scenario, as far as all alerts share them."""
    places = [labels[name] for name in ("dss_node", "project", "scenario") if labels.get(name)]
    return clean_text("/".join(places)) or "Tocsin"


def _details(group: GroupNotice, message: Message) -> dict[str, str]:
    """Counts, lines and errors by name, as texts."""
    details = {"firing": str(len(group.firing)), "resolved": str(len(group.resolved))}
    details |= {line.label: clean_text(line.value) for line in message.lines}
    if message.error is not None and message.error.message:
        details["Error"] = clean_text(message.error.message)
    for number, section in enumerate(message.sections, 1):
        items, more = section.listed(_NAMES)
        listed = ", ".join(to_one_line(item.name, _NAME) for item in items) + (f" and {more} more" if more else "")
        error = f"{truncate(section.error.message, _ERROR)}: " if section.error and section.error.message else ""
        details[f"{number}. {section.size} {section.state}"] = clean_text(f"{error}{listed}")
    if message.more:
        details["Others"] = f"and {message.more} more"
    return details


def _plain_text(message: Message) -> str:
    """Lines, errors and links, the most important first."""
    lines = []
    if message.error is not None and message.error.message:
        lines.append(f"{message.error.title}: {message.error.message}")
    for section in message.sections:
        error = f": {section.error.message}" if section.error and section.error.message else ""
        lines.append(f"{section.size} {section.state}{error}")
        items, more = section.listed(_NAMES)
        lines += [f"- {item.title}" for item in items]
        lines += [f"- and {more} more"] if more else []
    lines += [f"and {message.more} more"] if message.more else []
    lines += [f"{line.label}: {line.value}" for line in message.lines]
    lines += [f"{link.label}: {link.url}" for link in message.links]
    return clean_text("\n".join(lines))
