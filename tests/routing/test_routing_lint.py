import ast
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tocsin import rules as judge
from tocsin.config.intervals import TimeInterval, TimeRange
from tocsin.config.model import (
    DEFAULT_INHIBIT_RULES,
    DEFAULT_RULES,
    Channel,
    Config,
    Digest,
    InhibitRule,
    Node,
    PagerDutyConfig,
    Receiver,
    Reporter,
    Route,
    Rule,
    StoreConfig,
    build_tree,
)
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matchers
from tocsin.routing.lint import lint, unknown_label

NOW = datetime(2026, 3, 2, tzinfo=UTC)
NIGHTS = TimeInterval("nights", (TimeRange(times=((0, 6 * 60),)),))


def route(matchers: str, receiver: str | None = None, *routes: Route, **more: object) -> Route:
    return Route(receiver, parse_matchers(matchers), routes=routes, **more)  # type: ignore[arg-type]


def config(*routes: Route, **more: object) -> Config:
    plain = Config(
        nodes=(Node("prod", "https://dss"),),
        store=StoreConfig("sqlite:////x"),
        receivers=(Receiver("ops", (Channel("ops/a", "ops"),)),),
        rules=DEFAULT_RULES,
        route=build_tree(Route("ops", routes=routes)),
        inhibit_rules=(),
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
def test_routes_that_no_alert_takes_are_errors(routes: list[Route], expected: list[str]) -> None:
    found = findings(config(*routes))
    assert len(found) == len(expected)
    assert all(part in line and line.startswith("error") for part, line in zip(expected, found, strict=True))


def test_what_is_misspelt_is_named_with_what_was_meant() -> None:
    (label,) = findings(config(route('node="prod"')))
    assert label.endswith("can match: there is no label 'node'; did you mean 'dss_node'?")
    (value,) = findings(config(route('severity="critcal"')))
    assert value.endswith("can match: severity is never 'critcal'; did you mean 'critical'?")


def test_unused_names_and_reporters_that_hear_nothing_are_found() -> None:
    failed = frozenset({EventName.RUN_FAILED})
    found = findings(
        config(
            receivers=(Receiver("ops", (Channel("ops/a", "ops"),)), Receiver("idle", ())),
            time_intervals=(NIGHTS,),
            reporters=(
                Reporter("mail", "ops", failed, condition="outcome or"),
                Reporter("never", "ops", failed, parse_matchers("outcome=ABORTED")),
                Reporter("typo", "ops", failed, parse_matchers("scenrio=X")),
                Reporter(
                    "good", "ops", failed | {EventName.RUN_FINISHED}, parse_matchers("outcome=WARNING, tags=~.*x.*")
                ),
            ),
        )
    )
    assert found == [
        "error reporter mail: its condition cannot be read and counts as true: 'outcome or': expected an operator such "
        "as && or == at position 8, found 'or'",
        "error reporter never: none of its events can match {outcome=\"ABORTED\"}: outcome is never 'ABORTED'",
        "error reporter typo: none of its events can match {scenrio=\"X\"}: there is no label 'scenrio'; did you mean "
        "'scenario'?",
        "warning receiver idle: no route and no reporter uses it",
        "warning receiver idle: it has no channel, so nobody is notified",
        "warning time interval nights: no route uses it",
    ]


def test_inhibition_that_cannot_be_or_is_equal_everywhere_is_found() -> None:
    down, fails = parse_matchers("alertname=NodeDwn"), parse_matchers("severity=warning")
    assert findings(config(inhibit_rules=(InhibitRule(down, fails, ("dss_nod",)),))) == [
        'warning inhibit_rules: no alert of these rules can match its source {alertname="NodeDwn"}: alertname is never '
        "'NodeDwn'; did you mean 'NodeDown'?",
        "warning inhibit_rules: no alert has the label 'dss_nod' of equal, so it is equal everywhere; did you mean 'dss_node'?",
    ]


def test_a_critical_alert_that_nobody_hears_at_night_is_a_warning() -> None:
    muted = config(route("severity=critical", None, mute_time_intervals=("nights",)), time_intervals=(NIGHTS,))
    (found,) = findings(muted)
    assert "a critical NodeSchedulerStalled would be sent to nobody at Monday 00:00 UTC" in found
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
                TimeInterval("never", (TimeRange(days_of_month=((30, 31),), months=((2, 2),)),)),
                TimeInterval("empty", ()),
                TimeInterval("leap", (TimeRange(days_of_month=((29, 29),), months=((2, 2),)),)),
            ),
        )
    )
    assert found == [
        "error time interval empty: it is empty",
        "warning time interval never: one of its entries holds no day in the next 8 years",
        'warning route {project="A"}: repeat_interval is shorter than group_interval, which is the soonest that a '
        "group is flushed",
    ]


def test_rules_that_cannot_be_told_apart_or_never_end_are_found() -> None:
    twice = Rule("A", "failed", after=3), Rule("A", "failed")
    blind = Rule("B", "failed", match=parse_matchers("outcome=FAILED"))
    odd = Rule("C", "stale", match=parse_matchers("outcome=FAILED"))
    typo = Rule("D", "failed", match=parse_matchers("projct=A"))
    found = findings(config(rules=(*twice, blind, odd, typo)))
    assert found == [
        "error rule A: another rule has the same alert name, severity, matchers and labels; give one a label",
        "error rule D: no scenario can match {projct=\"A\"}: there is no label 'projct'; did you mean 'project'?",
        "warning rule B: its match on outcome also hides the runs that would end its alerts",
        "warning rule C: it is about scenarios, which have no outcome; take it out of its match",
    ]


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (Rule("A", "failed", after=3, match=parse_matchers("project=SALES")), True),
        (Rule("A", "overlong"), True),
        (Rule("A", "failed", after=3, match=parse_matchers("project=SALES"), severity="critical"), False),
        (Rule("A", "failed", after=3, match=parse_matchers("project=SALES"), labels={"team": "x"}), False),
        (Rule("A", "node_down", match=parse_matchers("dss_node=prod")), False),
    ],
)
def test_rules_that_share_one_alert_are_found(other: Rule, shared: bool) -> None:
    found = findings(config(rules=(Rule("A", "failed", match=parse_matchers("project!=HR")), other)))
    assert [finding for finding in found if "share one alert" in finding] == (
        [
            "warning rule A: another rule of the same alert name, severity and labels holds for the same scenarios, and "
            "the two share one alert; give one a label or another severity"
        ]
        if shared
        else []
    )
    apart = Rule("A", "failed", match=parse_matchers("project=HR"))
    assert findings(config(rules=(Rule("A", "failed", match=parse_matchers("project!=HR")), apart))) == []


def test_shipped_inhibit_rules_that_have_nothing_to_do_are_no_finding() -> None:
    file = {("rules", 0): 1}
    assert findings(config(rules=(Rule("A", "failed"),), inhibit_rules=DEFAULT_INHIBIT_RULES, lines=file)) == []
    written = file | {("inhibit_rules", index): 2 for index in range(2)}
    assert len(findings(config(rules=(Rule("A", "failed"),), inhibit_rules=DEFAULT_INHIBIT_RULES, lines=written))) == 2


def test_a_label_that_no_alert_has_is_no_group() -> None:
    root = build_tree(Route("ops", group_by=("alertname", "team", "node")))
    found = findings(config(route=root, rules=(Rule("A", "failed", labels={"team": "x"}),)))
    assert found == ["warning route: no alert has the label 'node' of group_by; did you mean 'dss_node'?"]


@pytest.mark.parametrize(
    ("source", "target", "equal", "expected"),
    [
        ("severity=critical", "severity=critical", ("dss_node",), "whatever matches its source matches its target"),
        ("alertname=NodeDown", "alertname=NodeDown", (), "whatever matches its source matches its target"),
        ("alertname=NodeDown", 'alertname=~"Scenario.*"', ("dss_node", "project"),
         "its source never has the label 'project' of equal, and its target has"),
        ('alertname=~"Scenario.*"', "alertname=NodeDown", ("scenario",),
         "its target never has the label 'scenario' of equal, and its source has"),
        ("alertname=NodeDown", 'alertname=~"Scenario.*"', ("dss_node",), None),
        ("severity=critical", 'severity=~"warning|info"', ("project",), None),
    ],
)  # fmt: skip
def test_an_inhibit_rule_that_inhibits_nothing_is_named(
    source: str, target: str, equal: tuple[str, ...], expected: str | None
) -> None:
    found = findings(config(inhibit_rules=(InhibitRule(parse_matchers(source), parse_matchers(target), equal),)))
    assert [expected in one for one in found if expected] == ([True] if expected else [])
    assert [one for one in found if "inhibits nothing" in one] == found


def test_receivers_without_a_route_are_told_that_alerts_go_nowhere() -> None:
    (found,) = [one for one in findings(config(route=None)) if one.startswith("warning route:")]
    assert found == "warning route: there is none, so no alert is sent to anybody; write `route: {receiver: ops}`"
    assert not [one for one in findings(config(route=None, rules=())) if one.startswith("warning route:")]


def test_a_misspelt_variable_of_an_annotation_is_named() -> None:
    rule = Rule("A", "failed", labels={"team": "x"}, annotations={
        "runbook_url": "https://r/${scenarioname}?t=${team}&p=${project}", "owner": "${}",
    })  # fmt: skip
    assert [one for one in findings(config(rules=(rule,))) if "annotation" in one] == [
        "warning rule A: its annotation 'runbook_url' names ${scenarioname}, which no alert has; did you mean 'scenario_name'?",
        "warning rule A: its annotation 'owner' names ${}, which no alert has",
    ]


def test_every_annotation_that_rules_make_may_stand_in_another() -> None:
    """Read from the code, so that a new one is not called misspelt."""
    made: set[str] = set()
    for module in (Path(judge.__file__).parent).glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "facts" and isinstance(node.value, ast.Dict):
                made |= {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)}
    assert {"run_url", "reason"} <= made
    rule = Rule("A", "failed", annotations={"all": "".join(f"${{{name}}}" for name in sorted(made))})
    assert [one for one in findings(config(rules=(rule,))) if "annotation" in one] == []


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ("projct=SALES", "no alert has the label 'projct'; did you mean 'project'?"),
        ("scenario=X", None),
        ("channel=ops", None),
        ('team=~"a.*"', None),
    ],
)
def test_a_silence_on_a_label_that_no_alert_has_is_found(matcher: str, expected: str | None) -> None:
    assert (
        unknown_label(parse_matchers(matcher), config(rules=(Rule("A", "failed", labels={"team": "x"}),))) == expected
    )


def test_labels_of_nodes_and_tags_are_known() -> None:
    node = Node("prod", "https://dss", labels={"env": "live"})
    named = config(route('team="finance", env="live"'), nodes=(node,), tag_labels=("team",))
    assert findings(named) == []
    assert "env is never 'test'" in findings(config(route('env="test"'), nodes=(node,)))[0]
    assert "did you mean 'team'" in findings(config(route('teem="finance"'), tag_labels=("team",)))[0]


def test_digests_that_never_come_or_open_incidents_are_errors() -> None:
    early = route("severity=warning", None, digest=Digest((300,)), mute_time_intervals=("nights",))
    assert findings(config(early, time_intervals=(NIGHTS,))) == [
        'error route {severity="warning"}: its digest never comes: the route is muted at each of its times; change them or '
        "the time intervals"
    ]
    late = replace(early, digest=Digest((300, 600)))
    assert findings(config(late, time_intervals=(NIGHTS,))) == []
    pager = Channel("pd", "ops", pagerduty=PagerDutyConfig(None))  # type: ignore[arg-type]
    told = findings(
        config(route("severity=warning", None, digest=Digest((300,))), receivers=(Receiver("ops", (pager,)),))
    )
    assert "a digest opens incidents in pagerduty hours late" in told[0]
