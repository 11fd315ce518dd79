from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tocsin.judge.defaults import DEFAULT_RULES
from tocsin.model.config import (
    Channel,
    Config,
    InhibitRule,
    Node,
    Receiver,
    Reporter,
    Rule,
    StoreConfig,
    TimeInterval,
    Times,
)
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matchers
from tocsin.route.lint import lint
from tocsin.route.tree import RouteSpec, build_tree

NOW = datetime(2026, 3, 2, tzinfo=UTC)
NIGHTS = TimeInterval("nights", (Times(times=((0, 6 * 60),)),))


def route(matchers: str, receiver: str | None = None, *routes: RouteSpec, **more: object) -> RouteSpec:
    return RouteSpec(receiver, parse_matchers(matchers), routes=routes, **more)  # type: ignore[arg-type]


def config(*routes: RouteSpec, **more: object) -> Config:
    plain = Config(
        nodes=(Node("prod", "https://dss"),),
        store=StoreConfig("sqlite:////x"),
        receivers=(Receiver("ops", (Channel("ops/a", "ops"),)),),
        rules=DEFAULT_RULES,
        route=build_tree(RouteSpec("ops", routes=routes)),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def findings(config: Config) -> list[str]:
    return [f"{one.severity} {one.where}: {one.message}" for one in lint(config, NOW)]


def test_a_sound_configuration_has_no_findings() -> None:
    sound = config(
        route('severity="critical"', None, continues=True),
        route('severity="warning", project=~"A.*"', None, mute_time_intervals=("nights",)),
        route('severity="warning", project="B"'),
        route('alertname="NodeSchedulerStalled"'),
        time_intervals=(NIGHTS,),
        inhibit_rules=(InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers('alertname=~"S.*"')),),
    )
    assert findings(sound) == []


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([route('severity="critcal"')], ['{severity="critcal"}: no alert of these rules can match']),
        ([route('node="prod"')], ['{node="prod"}: no alert of these rules can match']),
        ([route('dss_node=~"test.*"')], ['{dss_node=~"test.*"}: no alert of these rules can match']),
        ([route("project=A", None, route("project=B"))], ['{project="A"} {project="B"}: no alert of']),
        ([route("project=A, project=~B.*")], ['{project="A",project=~"B.*"}: no alert of these rules']),
        ([route("alertname=NodeDown, project=A")], ['{alertname="NodeDown",project="A"}: no alert of']),
        ([route("", None), route("project=A")], ['{project="A"}: never reached: {} before it takes all']),
        ([route("project=~A.*"), route("project=~A.*, severity=warning")], ["never reached"]),
        ([route("project=~A.*"), route("project=AB", None, route("tags=x"))], ["never reached"]),
        ([route("severity=warning"), route("severity=critical"), route("project=A")], ["never reached"]),
        ([route('severity=~"warning|critical"'), route("")], ["never reached"]),
        ([route("project=~A.*", continues=True), route("project=AB")], []),
        ([route("project=AB"), route("project=~A.*")], []),
    ],
)
def test_routes_that_no_alert_takes_are_errors(routes: list[RouteSpec], expected: list[str]) -> None:
    found = findings(config(*routes))
    assert len(found) == len(expected)
    assert all(part in line and line.startswith("error") for part, line in zip(expected, found, strict=True))


def test_unknown_and_unused_names_are_found() -> None:
    found = findings(
        config(
            route("project=A", "opps", mute_time_intervals=("night",)),
            receivers=(Receiver("ops", (Channel("ops/a", "ops"),)), Receiver("idle", ())),
            time_intervals=(NIGHTS,),
            reporters=(Reporter("mail", "nobody", frozenset({EventName.RUN_FAILED}), condition="outcome or"),),
        )
    )
    assert found == [
        "error route {} {project=\"A\"}: the receiver 'opps' is not defined; did you mean 'ops'?",
        "error reporter mail: the receiver 'nobody' is not defined",
        "error route {} {project=\"A\"}: the time interval 'night' is not defined; did you mean 'nights'?",
        "error reporter mail: its condition cannot be read and counts as true: 'outcome or': expected an operator such "
        "as && or == at position 8, found 'or'",
        "warning receiver idle: no route and no reporter uses it",
        "warning receiver idle: it has no channel, so nobody hears",
        "warning time interval nights: no route uses it",
    ]


def test_a_critical_alert_that_nobody_hears_at_night_is_a_warning() -> None:
    muted = config(route("severity=critical", None, mute_time_intervals=("nights",)), time_intervals=(NIGHTS,))
    (found,) = findings(muted)
    assert "a critical NodeSchedulerStalled would be told to nobody at Monday 00:00 UTC" in found
    covered = config(
        route("severity=critical", None, mute_time_intervals=("nights",), continues=True),
        route("severity=critical", None, active_time_intervals=("nights",)),
        time_intervals=(NIGHTS,),
    )
    assert findings(covered) == []


def test_intervals_without_a_day_and_short_repeats_are_found() -> None:
    found = findings(
        config(
            route(
                "project=A", None, mute_time_intervals=("never", "empty", "leap"), repeat_interval=timedelta(minutes=1)
            ),
            time_intervals=(
                TimeInterval("never", (Times(days_of_month=((30, 31),), months=((2, 2),)),)),
                TimeInterval("empty", ()),
                TimeInterval("leap", (Times(days_of_month=((29, 29),), months=((2, 2),)),)),
            ),
        )
    )
    assert found == [
        "error time interval empty: it is empty",
        "warning time interval never: one of its entries holds no day in the next 8 years",
        'warning route {} {project="A"}: repeat_interval is shorter than group_interval, which is the soonest that a '
        "group is told",
    ]


def test_rules_that_cannot_be_told_apart_or_never_end_are_found() -> None:
    twice = Rule("A", "failed", after=3), Rule("A", "failed", severity="critical")
    blind = Rule("B", "failed", match=parse_matchers("outcome=FAILED"))
    empty = Rule("C", "overlong"), Rule("D", "stale")
    found = findings(config(rules=(*twice, blind, *empty)))
    assert [line.split(":")[0] for line in found] == ["error rule A", "error rule C", "error rule D", "warning rule B"]


def test_the_root_takes_everything() -> None:
    root = build_tree(RouteSpec("ops", parse_matchers("a=b")))
    assert findings(config(route=root))[0].startswith("error route: the root route takes no matchers")


def test_a_label_that_no_alert_has_is_no_group() -> None:
    root = build_tree(RouteSpec("ops", group_by=("alertname", "team", "node")))
    found = findings(config(route=root, rules=(Rule("A", "failed", labels={"team": "x"}),)))
    assert found == ["warning route: no alert has the label 'node' of group_by"]
