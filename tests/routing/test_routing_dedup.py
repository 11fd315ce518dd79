from datetime import UTC, datetime, timedelta

import pytest

from tocsin.config.model import InhibitRule
from tocsin.model.decision import Verdict
from tocsin.model.group import Notified
from tocsin.model.labels import parse_matchers
from tocsin.routing.dedup import decide
from tocsin.routing.mute import Inhibitor

NOW = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def told(firing: str, ended: str = "", ago: timedelta = timedelta(minutes=5)) -> Notified:
    return Notified(frozenset(firing), frozenset(ended), NOW - ago)


@pytest.mark.parametrize(
    ("before", "firing", "ended", "send_resolved", "expected"),
    [
        (None, "a", "", True, Verdict.FIRST),
        (None, "", "a", True, Verdict.NO_CHANGE),
        (told("a"), "a", "", True, Verdict.NO_CHANGE),
        (told("a"), "ab", "", True, Verdict.NEW_ALERTS),
        (told("ab"), "a", "", True, Verdict.NO_CHANGE),
        (told("ab"), "a", "b", True, Verdict.RESOLVED),
        (told("ab"), "a", "b", False, Verdict.NO_CHANGE),
        (told("a"), "", "a", True, Verdict.RESOLVED),
        (told("a"), "", "a", False, Verdict.NO_CHANGE),
        (told("a"), "", "b", True, Verdict.RESOLVED),
        (told("", "a"), "", "b", True, Verdict.NO_CHANGE),
        (told("", "a"), "a", "", True, Verdict.NEW_ALERTS),
        (told("a", "b"), "a", "b", True, Verdict.NO_CHANGE),
        (told("a", ago=HOUR), "a", "", True, Verdict.NO_CHANGE),
        (told("a", ago=HOUR + timedelta(milliseconds=1)), "a", "", True, Verdict.REPEAT),
        (told("a", ago=2 * HOUR + 14 * MINUTE), "a", "", True, Verdict.REPEAT),
        (told("a", ago=2 * HOUR + 15 * MINUTE), "a", "", True, Verdict.FIRST),
        (told("", "a", ago=3 * HOUR), "b", "", True, Verdict.FIRST),
        (told("a", ago=3 * HOUR), "", "a", True, Verdict.RESOLVED),  # an end that is due, however late
        (told("ab", ago=3 * HOUR), "b", "a", True, Verdict.RESOLVED),
        (told("a", ago=3 * HOUR), "c", "a", True, Verdict.NEW_ALERTS),
        (told("a", ago=3 * HOUR), "", "b", True, Verdict.NO_CHANGE),
    ],
)
def test_what_was_told_is_told_again_only_when_it_changed(
    before: Notified | None, firing: str, ended: str, send_resolved: bool, expected: Verdict
) -> None:
    wanted = decide(
        before,
        frozenset(firing),
        frozenset(ended),
        send_resolved=send_resolved,
        repeat_interval=HOUR,
        group_interval=5 * MINUTE,
        now=NOW,
    )
    assert wanted.verdict is expected
    assert wanted.send is (expected is not Verdict.NO_CHANGE)


@pytest.mark.parametrize("repeat", [1, 10, 29, 30, 31, 44, 59, 60, 61])
def test_however_short_the_repeat_interval_is_a_flush_knows_what_the_last_one_told(repeat: int) -> None:
    for late in (0, 1, 14):
        wanted = decide(
            told("a", ago=HOUR + late * MINUTE),
            frozenset("a"),
            frozenset(),
            send_resolved=True,
            repeat_interval=repeat * MINUTE,
            group_interval=HOUR,
            now=NOW,
        )
        assert wanted.verdict is (Verdict.REPEAT if repeat < 60 + late else Verdict.NO_CHANGE)


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
    assert (Inhibitor([RULE], firing).inhibits(target) is not None) is expected
