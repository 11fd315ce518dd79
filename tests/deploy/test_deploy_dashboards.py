"""The Grafana dashboards: sound, up to date, and made of metrics that exist."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.deploy.charts import CHART, REPOSITORY, run
from tests.deploy.metric_names import COUNTERS, GAUGES, SAMPLES

FOLDER = CHART / "files" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
Dashboard = dict[str, Any]


def load(file: Path) -> Dashboard:
    dashboard: Dashboard = json.loads(file.read_text("utf-8"))
    return dashboard


def expressions(dashboard: Dashboard, **chosen: str) -> Iterator[str]:
    """Every query with Grafana's variables filled in: those that were chosen, x for others."""
    for panel in [*dashboard["panels"], {"targets": dashboard.get("annotations", {}).get("list", [])}]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in (("__rate_interval", "5m"), ("__range", "1h"), ("__interval", "1m")):
                text = text.replace(f"${name}", value)
            yield re.sub(r"\$([a-z_]+)", lambda variable: chosen.get(variable[1], "x"), text)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", REPOSITORY / "deploy" / "grafana" / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboards"] = module
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_program_writes(program: ModuleType) -> None:
    assert {file.stem: file.read_text("utf-8") for file in FILES} == {
        name: program.render(name) for name in program.DASHBOARDS
    }, "run deploy/grafana/dashboards.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_panels_have_ids_of_their_own_and_do_not_lie_on_each_other(file: Path) -> None:
    panels = load(file)["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    covered = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(covered)) == len(covered)
    assert max(x for x, _ in covered) <= 23


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_panel_says_what_it_shows(file: Path) -> None:
    panels = [panel for panel in load(file)["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels if not panel["description"]] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_data_source_is_a_variable(file: Path) -> None:
    dashboard = load(file)
    (source,) = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    uids = set(re.findall(r'"uid": "([^"]+)"', file.read_text("utf-8"))) - {dashboard["uid"]}
    assert uids == {"${datasource}"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_variable_that_is_used_is_there_and_the_other_way_round(file: Path) -> None:
    dashboard = load(file)
    there = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps([dashboard["panels"], dashboard["templating"]])
    used = {name for name in re.findall(r"\$\{?([a-z_]+)", text) if not name.startswith("__")}
    assert used == there


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_query_parses(tool: Callable[[str], str], tmp_path: Path, file: Path) -> None:
    rules = [{"record": f"x:{i}", "expr": expr} for i, expr in enumerate(expressions(load(file)))]
    assert rules
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8"
    )
    run(tool("promtool"), "check", "rules", tmp_path / "rules.yaml")


def lively_series() -> Iterator[dict[str, str]]:
    """Four hours of one node that is up and one that is down, as two pods that both just led would show them."""
    values = {
        "dss_scenario_next_run_timestamp_seconds": {"S": "3600x240", "T": "90000x240"},  # one late, one to come
        "tocsin_oldest_poll_age_seconds": {"": "3600x240"},
        "tocsin_config_last_reload_success_timestamp_seconds": {"": "0+60x240"},  # reloaded each minute
    }
    extra = {
        "dss_scenario_runs_total": [f'outcome="{outcome}"' for outcome in ("SUCCESS", "FAILED")],
        "dss_project_runs_total": [f'outcome="{outcome}"' for outcome in ("SUCCESS", "FAILED")],
        "dss_scenario_last_outcome": ['outcome="FAILED"'],
        "tocsin_dss_requests_total": ['operation="look", code="200"', 'operation="look", code="503"'],
        "tocsin_dss_request_duration_seconds": ['operation="look"'],
        "tocsin_polls_total": ['reason="sweep"'],
        "tocsin_events_total": ['event="run.failed"'],
        "tocsin_alerts": ['alertname="ScenarioFailed", state="active"'],
        "tocsin_silences": ['state="active"'],
        "tocsin_notifications_total": ['receiver="x", channel="x", outcome="sent"'],
        "tocsin_notifications_suppressed_total": ['reason="silenced"'],
        "tocsin_decisions_total": ['stage="rule", reason="firing"'],
    }
    for name in sorted(SAMPLES):
        family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in GAUGES | COUNTERS else name
        places = [""]
        if name.startswith(("dss_scenario_run_duration", "dss_project")):
            places = ['project="x"']
        elif name.startswith("dss_scenario"):
            places = [f'project="x", scenario="{scenario}"' for scenario in ("x", "S", "T")]
        grows = name in COUNTERS or name not in GAUGES
        for pod, place, more in product(("a", "b"), places, extra.get(family, [""])):
            for bound in ("1", "+Inf") if name.endswith("_bucket") else ("",):
                labels = [f'job="x", instance="{pod}", dss_node="x"', place, more, f'le="{bound}"' if bound else ""]
                found = re.search(r'scenario="(.)"', place)
                shape = values.get(name, {}).get(found[1] if found else "", "0+3x240" if grows else "1x240")
                yield {"series": f"{name}{{{', '.join(filter(None, labels))}}}", "values": shape}
    yield {"series": 'dss_node_up{job="x", dss_node="y"}', "values": "0x240"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_query_shows_something_on_a_lively_node(tool: Callable[[str], str], tmp_path: Path, file: Path) -> None:
    """A query that parses may still match nothing, or many to many."""
    everything = [expr.replace('scenario="x"', 'scenario="S"') for expr in expressions(load(file))]
    everything = [expr.replace('=~"x"', '=~".*"') for expr in everything]
    one = {"labels": "{}", "value": 1}
    cases = [{"expr": f"clamp_max(count(({expr})), 1)", "eval_time": "3h", "exp_samples": [one]} for expr in everything]
    test = {"interval": "1m", "input_series": list(lively_series()), "promql_expr_test": cases}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}), encoding="utf-8")
    run(tool("promtool"), "test", "rules", tmp_path / "test.yaml")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_metric_is_the_contract_s(file: Path) -> None:
    dashboard = load(file)
    variables = [v["definition"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    for text in (*expressions(dashboard), *variables):
        without_strings = re.sub(r'"[^"]*"', "", text)
        names = set(re.findall(r"\b(?:dss|tocsin|process|python|go|up)_[a-z_]+\b", without_strings)) - {"dss_node"}
        assert names <= SAMPLES, text
        assert names, text


def test_the_links_between_dashboards_lead_somewhere() -> None:
    uids = {load(file)["uid"] for file in FILES}
    linked = {uid for file in FILES for uid in re.findall(r'"/d/([a-z-]+)', file.read_text("utf-8"))}
    assert linked <= uids
    assert linked


def test_together_they_show_nearly_the_whole_contract() -> None:
    text = "".join(file.read_text("utf-8") for file in FILES)
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in SAMPLES}
    assert {name for name in families if name not in text} == {
        "dss_scenario_last_run_start_timestamp_seconds"  # its end and duration are shown
    }
