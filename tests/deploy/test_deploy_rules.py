"""The alerting rules: they parse, they ring when they should, and use nothing but the contract's metrics."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.deploy.charts import CHART, HERE, REPOSITORY, Chart, only, run
from tests.deploy.metric_names import COUNTERS, SAMPLES

RULES = sorted((CHART / "files" / "rules").glob("*.yaml"))


def rules() -> list[dict[str, str]]:
    return [
        rule for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"] for rule in group["rules"]
    ]


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.stem)
def test_prometheus_takes_the_rule_file(tool: Callable[[str], str], file: Path) -> None:
    run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", file)


def test_prometheus_takes_the_rules_as_the_chart_renders_them(
    chart: Chart, tool: Callable[[str], str], tmp_path: Path
) -> None:
    spec = only(chart.render("everything"), "PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    run(tool("promtool"), "check", "rules", tmp_path / "rules.yaml")


def test_the_rules_ring_when_they_should(tool: Callable[[str], str], tmp_path: Path) -> None:
    for file in (*RULES, HERE / "rules.test.yaml"):
        shutil.copy(file, tmp_path)
    run(tool("promtool"), "test", "rules", "rules.test.yaml", cwd=tmp_path)


def test_every_rule_has_a_test_that_rings_and_one_that_does_not() -> None:
    cases = yaml.safe_load((HERE / "rules.test.yaml").read_text("utf-8"))["tests"]
    told = [case for test in cases for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in told if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in told if not case.get("exp_alerts")} == names


def test_the_rules_use_the_contract_s_metrics_and_mark_every_one_for_the_chart() -> None:
    for rule in rules():
        selectors = re.findall(r"\b((?:dss|tocsin)_[a-z_]+)\b(\{[^}]*\})?", rule["expr"])
        used = {(name, braces) for name, braces in selectors if name not in ("dss_node",)}
        assert {name for name, _ in used} <= SAMPLES, rule["alert"]
        assert {braces for _, braces in used} <= {'{job="tocsin"}'}, rule["alert"]


def test_counters_are_never_compared_by_themselves() -> None:
    """A restart would ring. The one exception divides two counters to know the usual duration."""
    for rule in rules():
        if rule["alert"] != "DssScenarioOverlong":
            for name in COUNTERS & set(re.findall(r"[a-z_]+", rule["expr"])):
                assert re.search(rf"(increase|rate)\({name}\{{", rule["expr"]), rule["alert"]


def test_every_rule_has_a_runbook_and_every_runbook_a_rule() -> None:
    pages = {page.stem: page.read_text("utf-8") for page in (REPOSITORY / "docs" / "runbooks").glob("*.md")}
    assert set(pages) == {rule["alert"] for rule in rules()}
    for rule in rules():
        page = pages[rule["alert"]]
        assert page.startswith(f"# {rule['alert']}\n\nSeverity: {rule['labels']['severity']}.\n"), rule["alert"]  # type: ignore[index]
        assert "**What to do.**" in page, rule["alert"]


def test_every_rule_is_in_the_list_of_the_docs() -> None:
    text = (REPOSITORY / "docs" / "kubernetes.md").read_text("utf-8")
    assert [rule["alert"] for rule in rules() if f"(runbooks/{rule['alert']}.md)" not in text] == []


def test_the_chart_says_where_an_alert_s_runbook_is(chart: Chart) -> None:
    sets = ["prometheusRule.enabled=true", "prometheusRule.runbookUrl=https://wiki/runbooks/"]
    groups = only(chart.render(sets=sets), "PrometheusRule")["spec"]["groups"]
    told = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert told["TocsinDown"] == "https://wiki/runbooks/TocsinDown.md"


def test_severities_are_the_two_that_tocsin_uses_too() -> None:
    assert {json.loads(json.dumps(rule["labels"]))["severity"] for rule in rules()} == {"warning", "critical"}
