from datetime import UTC, datetime, timedelta

import pytest

from tocsin.config.model import Channel, InhibitRule, Route
from tocsin.model.alert import NotificationLogEntry
from tocsin.model.decision import DecisionReason
from tocsin.model.labels import parse_matchers
from tocsin.routing.stages import Inhibitor, deduplicate

NOW = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def told(firing: str, ended: str = "", ago: timedelta = timedelta(minutes=5)) -> NotificationLogEntry:
    return NotificationLogEntry(frozenset(firing), frozenset(ended), NOW - ago)


@pytest.mark.parametrize(
    ("before", "firing", "ended", "send_resolved", "expected"),
    [
        (None, "a", "", True, DecisionReason.FIRST),
        (None, "", "a", True, DecisionReason.NO_CHANGE),
        (told("a"), "a", "", True, DecisionReason.NO_CHANGE),
        (told("a"), "ab", "", True, DecisionReason.NEW_ALERTS),
        (told("ab"), "a", "", True, DecisionReason.NO_CHANGE),
        (told("ab"), "a", "b", True, DecisionReason.RESOLVED),
        (told("ab"), "a", "b", False, DecisionReason.NO_CHANGE),
        (told("a"), "", "a", True, DecisionReason.RESOLVED),
        (told("a"), "", "a", False, DecisionReason.NO_CHANGE),
        (told("a"), "", "b", True, DecisionReason.RESOLVED),
        (told("", "a"), "", "b", True, DecisionReason.NO_CHANGE),
        (told("", "a"), "a", "", True, DecisionReason.NEW_ALERTS),
        (told("a", "b"), "a", "b", True, DecisionReason.NO_CHANGE),
        (told("a", ago=HOUR), "a", "", True, DecisionReason.NO_CHANGE),
        (told("a", ago=HOUR + timedelta(milliseconds=1)), "a", "", True, DecisionReason.REPEAT),
        (told("a", ago=2 * HOUR + 14 * MINUTE), "a", "", True, DecisionReason.REPEAT),
        (told("a", ago=2 * HOUR + 15 * MINUTE), "a", "", True, DecisionReason.FIRST),
        (told("", "a", ago=3 * HOUR), "b", "", True, DecisionReason.FIRST),
        (told("a", ago=3 * HOUR), "", "a", True, DecisionReason.RESOLVED),  # an end that is due, however late
        (told("ab", ago=3 * HOUR), "b", "a", True, DecisionReason.RESOLVED),
        (told("a", ago=3 * HOUR), "c", "a", True, DecisionReason.NEW_ALERTS),
        (told("a", ago=3 * HOUR), "", "b", True, DecisionReason.NO_CHANGE),
    ],
)
def test_what_was_told_is_told_again_only_when_it_changed(
    before: NotificationLogEntry | None, firing: str, ended: str, send_resolved: bool, expected: DecisionReason
) -> None:
    channel = Channel("ops/slack", "ops", send_resolved=send_resolved)
    route = Route("ops", repeat_interval=HOUR, group_interval=5 * MINUTE)
    decision = deduplicate(before, NotificationLogEntry(frozenset(firing), frozenset(ended), NOW), channel, route)
    assert decision.reason is expected
    assert decision.send is (expected is not DecisionReason.NO_CHANGE)


@pytest.mark.parametrize("repeat", [1, 10, 29, 30, 31, 44, 59, 60, 61])
def test_however_short_the_repeat_interval_is_a_flush_knows_what_the_last_one_told(repeat: int) -> None:
    for late in (0, 1, 14):
        route = Route("ops", repeat_interval=repeat * MINUTE, group_interval=HOUR)
        current = NotificationLogEntry(frozenset("a"), frozenset(), NOW)
        decision = deduplicate(told("a", ago=HOUR + late * MINUTE), current, Channel("ops/slack", "ops"), route)
        assert decision.reason is (DecisionReason.REPEAT if repeat < 60 + late else DecisionReason.NO_CHANGE)


RULE = InhibitRule(parse_matchers("kind=source"), parse_matchers("kind=~.+"), ("node",))


@pytest.mark.parametrize(
    ("target", "firing", "expected"),
    [
        ({"kind": "target", "node": "a"}, [{"kind": "source", "node": "a"}], True),
        ({"kind": "target", "node": "a"}, [{"kind": "source", "node": "b"}], False),
        ({"kind": "target"}, [{"kind": "source"}], True),  # absent on both sides is equal
        ({"kind": "target"}, [{"kind": "source", "node": "a"}], False),
        ({"kind": "source", "node": "a"}, [{"kind": "source", "node": "a"}], False),  # itself
        ({"other": "x"}, [{"kind": "source"}], False),
        ({"kind": "target"}, [], False),
    ],
)
def test_a_firing_source_inhibits_what_is_equal(
    target: dict[str, str], firing: list[dict[str, str]], expected: bool
) -> None:
    assert (
        Inhibitor([RULE], {str(n): labels for n, labels in enumerate(firing)}).inhibits(target) is not None
    ) is expected
