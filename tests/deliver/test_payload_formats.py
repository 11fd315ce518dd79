"""What a webhook posts is read by the official CloudEvents SDK, and says why Alertmanager's format was sent."""

import json
from dataclasses import replace
from datetime import timedelta

import jsonschema
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import from_json

from tests.deliver.builders import NOW, alert, event, group, owed
from tocsin.deliver.webhook import build_payload
from tocsin.model.cloudevent import event_schema
from tocsin.model.event import DownReason, Event, EventName, FailedReporter
from tocsin.model.notification import EventNotice, Notice, SummaryNotice


def body(notice: Notice) -> bytes:
    return build_payload(owed(notice), {}, None).body


def about(name: EventName) -> Event:
    if name in (EventName.NODE_DOWN, EventName.NODE_UP):
        reason = DownReason.UNREACHABLE if name is EventName.NODE_DOWN else None
        return Event("0" * 32, name, "prod", NOW, NOW, reason=reason)
    reporter = FailedReporter("mail", "mail-scenario", "no route") if name is EventName.REPORTER_FAILED else None
    return replace(event(), name=name, reporter=reporter, seq=7)


@pytest.mark.parametrize("name", list(EventName))
def test_each_event_is_read_by_the_cloudevents_sdk_and_fits_our_schema(name: EventName) -> None:
    said = about(name)
    text = body(EventNotice(said, "nightly-mail"))
    document = json.loads(text)
    jsonschema.validate(document, event_schema())
    read = JSONFormat().read(CloudEvent, text)
    assert isinstance(read, CloudEvent)
    assert (read.get_type(), read.get_id()) == (f"tocsin.{name.value}", said.id)
    assert read.get_subject() == (said.run.run_id if said.run else None)
    assert from_json(text).get_attributes()["source"] == read.get_source()
    assert [key for key, value in document.items() if value is None] == []


def test_a_summary_is_read_by_the_cloudevents_sdk() -> None:
    summary = SummaryNotice("prod", NOW - timedelta(hours=2), NOW, {"FAILED": 3}, (event(),))
    read = JSONFormat().read(CloudEvent, body(summary))
    assert isinstance(read, CloudEvent)
    assert (read.get_type(), read.get_subject(), read.get_source()) == ("tocsin.summary", None, "/nodes/prod")


@pytest.mark.parametrize(
    ("reason", "ended", "words"),
    [
        ("first", False, "first notification"),
        ("new_alerts", False, "new alerts added"),
        ("resolved", False, "some alerts resolved"),
        ("resolved", True, "all alerts resolved"),
        ("repeat", False, "repeat interval elapsed"),
        ("something newer", False, "unknown"),
    ],
)
def test_a_group_says_in_alertmanagers_words_why_it_is_sent(reason: str, ended: bool, words: str) -> None:
    notice = replace(group(alert(1, ended=ended), alert(2, ended=True)), reason=reason)
    assert json.loads(body(notice))["notification_reason"] == words
