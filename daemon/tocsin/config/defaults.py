"""The rules and inhibit rules of a configuration that names none."""

from datetime import timedelta

from tocsin.config.model import InhibitRule, Rule
from tocsin.model.labels import parse_matchers

DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(alert="ScenarioFailed", kind="failed"),
    Rule(alert="ScenarioMissed", kind="missed", grace=timedelta(minutes=10)),
    Rule(alert="ScenarioOverlong", kind="overlong", times_usual=3.0, at_least=timedelta(minutes=15), min_runs=5),
    Rule(alert="NodeDown", kind="node_down", severity="critical", hold=timedelta(minutes=2)),
)

DEFAULT_INHIBIT_RULES: tuple[InhibitRule, ...] = (
    InhibitRule(
        parse_matchers('alertname="NodeDown"'), parse_matchers('alertname=~"Scenario.*|CommonCause"'), ("dss_node",)
    ),
    InhibitRule(
        parse_matchers('severity="critical"'),
        parse_matchers('severity=~"warning|info"'),
        ("alertname", "dss_node", "project", "scenario"),
    ),
)
