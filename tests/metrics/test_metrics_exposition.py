"""The series made from rows: values, absences, formats; held against prometheus_client's own parsers."""

import gzip
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from sqlalchemy import Connection

from docs.generate import series
from tests.web.rows import (
    CONFIG,
    KEY,
    NOW,
    a_run,
    ago,
    an_alert,
    an_event,
    put_alert,
    put_bucket,
    put_events,
    put_node,
    put_run,
    put_scenario,
    put_total,
)
from tocsin.config.model import InhibitRule, MetricsConfig, Node, Rule
from tocsin.kit.clock import to_ms
from tocsin.metrics.exposition import Exposition, ProcessMetrics
from tocsin.metrics.families import FAMILIES
from tocsin.metrics.text import exemplar
from tocsin.model.alert import Acknowledgement
from tocsin.model.labels import parse_matchers
from tocsin.model.run import ScenarioKey
from tocsin.store import Store, schema
from tocsin.store.alerts import set_acknowledged
from tocsin.store.series import set_bucket_layout

SCENARIO = {"dss_node": "prod", "project": "SALES", "scenario": "NIGHTLY"}
PROJECT = {"dss_node": "prod", "project": "SALES"}
TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text; version=1.0.0"
HOSTILE = ScenarioKey("prod", "SALES", 'a"b\\c\nd{},é' + "x" * 10_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'tocsin.db'}")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def exposition() -> Iterable[Exposition]:
    exposition = Exposition(CollectorRegistry())
    yield exposition
    exposition.close()


def fill(connection: Connection) -> None:
    """A scenario that failed twice and runs, one that was never looked at, and one with a hostile name."""
    put_node(connection)
    put_node(connection, "new", up=None, last_discovery_at=None, last_ok_at=None, dss_version=None)
    put_scenario(connection, next_run=ago(minutes=-30), reporter_failures=2)
    put_scenario(connection, ScenarioKey("new", "P", "S"), active=None, polled_at=None)
    put_scenario(connection, HOSTILE, active=False)
    failed = a_run(minutes_ago=30, seconds=4, outcome="FAILED")
    for run in (
        a_run(minutes_ago=60, seconds=90),
        a_run(minutes_ago=50, outcome="FAILED"),
        a_run(minutes_ago=40, outcome="ABORTED"),
        failed,
        a_run(minutes_ago=2, seconds=None),
        a_run(HOSTILE, seconds=1.5, outcome="WARNING"),
    ):
        put_run(connection, run)
    put_total(connection, KEY, "SUCCESS", 7, 630.5)
    put_total(connection, KEY, "FAILED", 2, 64)
    put_bucket(connection, KEY, "FAILED", 5_000, 1, 4, failed)
    put_bucket(connection, KEY, "FAILED", 60_000, 1, 60)
    put_bucket(connection, KEY, "FAILED", -1, 1, 100_000)


async def scrape(exposition: Exposition, accept: str = TEXT) -> list[Metric]:
    body, _ = await exposition.render(accept, "")
    text = body.decode()
    return list(parse_openmetrics(text) if accept == OPENMETRICS else parse_text(text))


def samples(families: Iterable[Metric], name: str) -> list[tuple[dict[str, str], float]]:
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


async def refreshed(store: Store, exposition: Exposition) -> Exposition:
    await exposition.refresh(store, NOW, replace(CONFIG, nodes=(*CONFIG.nodes, Node("new", "https://new"))))
    return exposition


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dss_scenario_runs_total", [(SCENARIO | {"outcome": "FAILED"}, 2), (SCENARIO | {"outcome": "SUCCESS"}, 7)]),
        ("dss_scenario_run_seconds_total", [(SCENARIO, 694.5)]),
        ("dss_scenario_usual_duration_seconds", [(SCENARIO, 90)]),
        ("dss_scenario_info", [(SCENARIO | {"scenario_name": "NIGHTLY name", "type": "step_based"}, 1)]),
        ("dss_node_info", [({"dss_node": "prod", "version": "14.1.0", "node_type": ""}, 1)]),
        ("dss_scenario_last_run_duration_seconds", [(SCENARIO, 4)]),
        ("dss_scenario_last_run_start_timestamp_seconds", [(SCENARIO, to_ms(ago(minutes=30)) / 1000)]),
        ("dss_scenario_last_run_end_timestamp_seconds", [(SCENARIO, to_ms(ago(minutes=30)) / 1000 + 4)]),
        ("dss_scenario_last_success_timestamp_seconds", [(SCENARIO, to_ms(ago(minutes=60)) / 1000 + 90)]),
        ("dss_scenario_last_outcome", [(SCENARIO | {"outcome": "FAILED"}, 1)]),
        ("dss_scenario_running", [(SCENARIO, 1)]),
        ("dss_scenario_running_start_timestamp_seconds", [(SCENARIO, to_ms(ago(minutes=2)) / 1000)]),
        ("dss_scenario_next_run_timestamp_seconds", [(SCENARIO, to_ms(ago(minutes=-30)) / 1000)]),
        ("dss_scenario_consecutive_failures", [(SCENARIO, 2)]),
        ("dss_scenario_active", [(SCENARIO, 1)]),
        ("dss_scenario_reporter_failures_total", [(SCENARIO, 2)]),
        ("dss_project_runs_total", [(PROJECT | {"outcome": "FAILED"}, 3)]),
        ("dss_scenario_run_duration_seconds_count", [(PROJECT | {"outcome": "FAILED"}, 3)]),
        ("dss_scenario_run_duration_seconds_sum", [(PROJECT | {"outcome": "FAILED"}, 100_064)]),
        ("dss_node_up", [({"dss_node": "prod"}, 1)]),
        ("dss_node_scenarios", [({"dss_node": "prod"}, 2)]),
        ("tocsin_metrics_scenarios_dropped", [({}, 0)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
async def test_a_series_says_what_the_rows_say(
    store: Store, exposition: Exposition, name: str, expected: list[tuple[dict[str, str], float]], accept: str
) -> None:
    await store.write(fill)
    found = samples(await scrape(await refreshed(store, exposition), accept), name)
    assert [one for one in found if one[0].get("scenario") not in (HOSTILE.scenario, "S")] == expected


async def test_buckets_are_cumulated_over_all_bounds(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    found = samples(await scrape(await refreshed(store, exposition)), "dss_scenario_run_duration_seconds_bucket")
    by_bound = {labels["le"]: value for labels, value in found}
    assert {bound: by_bound[bound] for bound in ("1.0", "5.0", "30.0", "60.0", "86400.0", "+Inf")} == {
        "1.0": 0, "5.0": 1, "30.0": 1, "60.0": 2, "86400.0": 2, "+Inf": 3,
    }  # fmt: skip


async def test_a_changed_list_of_buckets_begins_the_histogram_anew(store: Store, exposition: Exposition) -> None:
    await store.write(set_bucket_layout, CONFIG.metrics.duration_bounds)
    await store.write(fill)
    await exposition.refresh(store, NOW, CONFIG)
    changed = replace(CONFIG, metrics=MetricsConfig(duration_buckets=(2, 20)))
    await store.write(set_bucket_layout, changed.metrics.duration_bounds)
    await store.write(put_bucket, KEY, "FAILED", 20_000, 1, 4)
    await exposition.refresh(store, NOW, changed)
    families = await scrape(exposition)
    buckets = samples(families, "dss_scenario_run_duration_seconds_bucket")
    assert {labels["le"]: value for labels, value in buckets} == {"2.0": 0, "20.0": 1, "+Inf": 1}
    assert samples(families, "dss_project_runs_total") == [({**PROJECT, "outcome": "FAILED"}, 4)]


async def test_what_is_unknown_has_no_sample(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    families = await scrape(await refreshed(store, exposition))
    known = ("dss_scenario_info",)  # its scenario was listed
    labels = [sample.labels for family in families if family.name not in known for sample in family.samples]
    assert [one for one in labels if one.get("dss_node") == "new"] == []


async def test_info_has_the_labels_of_tags_and_of_the_node_and_follows_a_reload(
    store: Store, exposition: Exposition
) -> None:
    def rows(connection: Connection) -> None:
        put_node(connection, node_type="DESIGN")
        put_scenario(connection, tags=("owner: ada", "team:fin", "type:odd"))

    await store.write(rows)
    await exposition.refresh(store, NOW, CONFIG)
    node = replace(CONFIG.nodes[0], labels={"env": "live", "version": "hidden"})
    await exposition.refresh(store, NOW, replace(CONFIG, nodes=(node,), tag_labels=("owner", "type")))
    families = await scrape(exposition)
    named = {**SCENARIO, "scenario_name": "NIGHTLY name", "type": "step_based", "owner": "ada"}
    assert samples(families, "dss_scenario_info") == [(named, 1)]
    of_node = {"dss_node": "prod", "version": "14.1.0", "node_type": "DESIGN", "env": "live"}
    assert samples(families, "dss_node_info") == [(of_node, 1)]


async def test_the_usual_duration_changes_with_the_last_run_only(store: Store, exposition: Exposition) -> None:
    def usual() -> list[float]:
        return [number for _, number in samples(families, "dss_scenario_usual_duration_seconds")]

    await store.write(put_node)
    await store.write(put_scenario)
    await store.write(put_run, a_run(minutes_ago=60, seconds=90))
    await exposition.refresh(store, NOW, CONFIG)
    families = await scrape(exposition)
    assert usual() == [90]
    await store.write(put_run, a_run(minutes_ago=30, seconds=110))
    await store.write(lambda connection: connection.execute(schema.scenarios.update().values(polled_at=NOW)))
    await exposition.refresh(store, NOW + timedelta(seconds=5), CONFIG)
    families = await scrape(exposition)
    assert usual() == [100]


async def test_hostile_names_survive_both_formats(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    await refreshed(store, exposition)
    for accept in (TEXT, OPENMETRICS):
        found = samples(await scrape(exposition, accept), "dss_scenario_active")
        assert HOSTILE.scenario in [labels["scenario"] for labels, _ in found]


@pytest.mark.parametrize(
    "id_", ['a"b', "a\nb", "a\\", "\x00", "a\u2028b", 'x",y="', "é # {}", "2026-11-28-03-00-00-123"]
)
def test_no_id_breaks_the_exemplars_of_a_scrape(id_: str) -> None:
    for end in (exemplar(id_, "S", 1.5, 2.5), exemplar("run", id_, 1.5, 2.5)):
        text = f'# TYPE x histogram\nx_bucket{{le="+Inf"}} 1{end}\nx_count 1\nx_sum 1\n# EOF\n'
        (family,) = parse_openmetrics(text)
        found = family.samples[0].exemplar
        assert found is None or set(found.labels.values()) <= {id_, "S", "run"}
    assert "run" in exemplar("run", id_, 1.5, 2.5)


async def test_exemplars_name_the_run_within_the_limit(store: Store, exposition: Exposition) -> None:
    long = ScenarioKey("prod", "LONG", "S" * 120)
    run = a_run(long, outcome="FAILED", run_id="2026-03-01-11-50-00-000")

    def more(connection: Connection) -> None:
        fill(connection)
        put_scenario(connection, long)
        put_run(connection, run)
        put_total(connection, long, "FAILED", 1, 60)
        put_bucket(connection, long, "FAILED", 60_000, 1, 60, run)

    await store.write(more)
    families = await scrape(await refreshed(store, exposition), OPENMETRICS)
    exemplars = [sample.exemplar for family in families for sample in family.samples if sample.exemplar]
    assert [one.labels for one in exemplars if one.labels["run_id"] == run.run_id] == [{"run_id": run.run_id}] * 3
    assert {tuple(one.labels) for one in exemplars} == {("run_id",), ("run_id", "scenario")}
    assert all(sum(len(name) + len(text) for name, text in one.labels.items()) <= 128 for one in exemplars)


async def test_the_newest_scenarios_beyond_the_budget_have_no_series(store: Store, exposition: Exposition) -> None:
    def two(connection: Connection) -> None:
        put_scenario(connection, ScenarioKey("prod", "A", "NEW"), watched_since=NOW)
        put_scenario(connection)

    await store.write(two)
    await exposition.refresh(store, NOW, replace(CONFIG, metrics=MetricsConfig(1)))
    families = await scrape(exposition)
    assert samples(families, "dss_scenario_active") == [(SCENARIO, 1)]
    assert samples(families, "tocsin_metrics_scenarios_dropped") == [({}, 1)]


async def test_gone_things_go_away_and_counters_of_pruned_runs_stay(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    await refreshed(store, exposition)

    def later(connection: Connection) -> None:
        connection.execute(schema.runs.delete().where(schema.runs.c.end.is_not(None)))
        scenarios = schema.scenarios
        connection.execute(scenarios.update().where(scenarios.c.scenario == HOSTILE.scenario).values(gone_at=NOW))

    await store.write(later)
    restarted = Exposition(CollectorRegistry())
    families = await scrape(await refreshed(store, restarted))
    restarted.close()
    assert samples(families, "dss_scenario_active") == [(SCENARIO, 1)]
    assert samples(families, "dss_scenario_last_outcome") == []
    assert (SCENARIO | {"outcome": "SUCCESS"}, 7) in samples(families, "dss_scenario_runs_total")


async def test_a_node_that_left_the_configuration_leaves_the_metrics(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    await exposition.refresh(store, NOW, replace(CONFIG, nodes=()))
    assert [one.name for one in await scrape(exposition)] == [
        "tocsin_events", "tocsin_silences", "tocsin_metrics_scenarios_dropped"
    ]  # fmt: skip


async def test_a_refresh_reads_what_a_look_wrote_since(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    await refreshed(store, exposition)

    def look(connection: Connection) -> None:
        put_run(connection, a_run(minutes_ago=1, seconds=30))
        totals, scenarios = schema.outcome_totals, schema.scenarios
        connection.execute(totals.update().where(totals.c.outcome == "SUCCESS").values(runs=8))
        put_bucket(connection, KEY, "SUCCESS", 30_000, 1, 30)
        connection.execute(
            scenarios.update().where(scenarios.c.scenario == KEY.scenario).values(polled_at=NOW + timedelta(seconds=1))
        )

    await store.write(look)
    families = await scrape(await refreshed(store, exposition))
    assert (SCENARIO, 0) in samples(families, "dss_scenario_consecutive_failures")
    assert (SCENARIO | {"outcome": "SUCCESS"}, 8) in samples(families, "dss_scenario_runs_total")
    assert (PROJECT | {"outcome": "SUCCESS"}, 1) in samples(families, "dss_project_runs_total")


async def test_alerts_are_counted_by_name_and_state_and_silences_by_theirs(
    store: Store, exposition: Exposition
) -> None:
    def ring(connection: Connection) -> None:
        put_alert(connection, an_alert())
        other = ScenarioKey("prod", "SALES", "WEEKLY")
        put_alert(connection, an_alert(key=other))
        inhibited = ScenarioKey("prod", "CRM", "WEEKLY")
        put_alert(connection, an_alert(key=inhibited))
        put_alert(connection, an_alert("NodeDown", key=ScenarioKey("prod", "CRM", "")))
        for hours, name in ((-1, "old"), (1, "WEB")):
            held = an_alert(key=ScenarioKey("prod", "SALES", name))
            put_alert(connection, held)
            set_acknowledged(connection, held.id, Acknowledgement("ann", ago(hours=2), ago(hours=-hours)))
        silence = {"id": "s", "matchers": ('scenario="WEEKLY"',), "starts_at": ago(hours=1),
                   "ends_at": ago(hours=-1), "created_by": "ann", "comment": ""}  # fmt: skip
        connection.execute(schema.silences.insert(), silence)

    await store.write(ring)
    rules = Rule("ScenarioFailed", "failed"), Rule("NodeDown", "node_down")
    inhibit = InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers("scenario!=''"), ("project",))
    config = replace(CONFIG, rules=rules, inhibit_rules=(inhibit,))
    await exposition.refresh(store, NOW, config)
    found = samples(await scrape(exposition), "tocsin_alerts")
    assert {(labels["alertname"], labels["state"]): value for labels, value in found} == {
        ("NodeDown", "active"): 1, ("NodeDown", "suppressed"): 0, ("NodeDown", "acknowledged"): 0,
        ("ScenarioFailed", "active"): 2, ("ScenarioFailed", "suppressed"): 2, ("ScenarioFailed", "acknowledged"): 1,
    }  # fmt: skip
    silences = samples(await scrape(exposition), "tocsin_silences")
    assert {labels["state"]: value for labels, value in silences} == {"pending": 0, "active": 1, "expired": 0}


async def test_events_are_counted_by_name_from_rows_that_outlive_them(store: Store, exposition: Exposition) -> None:
    def events(connection: Connection) -> None:
        put_events(connection, an_event(a_run()), an_event(a_run(minutes_ago=20)))
        put_events(connection, an_event(a_run(minutes_ago=30, outcome="FAILED")))
        connection.execute(schema.events.delete())

    await store.write(events)
    found = samples(await scrape(await refreshed(store, exposition)), "tocsin_events_total")
    assert {labels["event"]: value for labels, value in found if value} == {"run.finished": 2, "run.failed": 1}
    assert len(found) == 7


async def test_who_no_longer_leads_shows_own_series_only(store: Store, exposition: Exposition) -> None:
    ProcessMetrics(exposition.registry)
    await store.write(fill)
    await refreshed(store, exposition)
    exposition.forget()
    names = {one.name for one in await scrape(exposition)}
    assert "tocsin_build_info" in names
    assert not any(name.startswith("dss_") for name in names)


async def test_a_compressed_scrape_is_the_same(store: Store, exposition: Exposition) -> None:
    await store.write(fill)
    await refreshed(store, exposition)
    plain, _ = await exposition.render(TEXT, "identity")
    packed, headers = await exposition.render(TEXT, "gzip, deflate")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
         "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;q=0", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=x", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)  # fmt: skip
async def test_the_format_is_negotiated(exposition: Exposition, accept: str, kind: str) -> None:
    _, headers = await exposition.render(accept, "gzip;q=0")
    assert headers["Content-Type"] == kind
    assert "Content-Encoding" not in headers


async def test_no_series_tells_when_it_was_created(exposition: Exposition) -> None:
    Counter("some", "Some.", registry=exposition.registry).inc()
    assert b"_created" not in (await exposition.render(OPENMETRICS, ""))[0]


def test_no_series_has_a_label_that_prometheus_owns() -> None:
    owned = {"instance", "job", "endpoint", "service", "namespace", "pod", "container", "le", "quantile"}
    labels = {label for _, _, labels, _ in series() for label in labels}
    assert {"dss_node", "alertname", "channel", "scenario"} <= labels
    assert labels & owned == set()


class Again(Collector):
    """The same families, given to prometheus_client to write."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        for family in self.families:
            kind = {"counter": CounterMetricFamily, "histogram": HistogramMetricFamily}.get(
                family.type, GaugeMetricFamily
            )
            copy = kind(family.name, family.documentation)
            copy.samples = [
                sample._replace(
                    exemplar=Exemplar(sample.exemplar.labels, sample.exemplar.value, sample.exemplar.timestamp)
                    if sample.exemplar
                    else None
                )
                for sample in family.samples
            ]
            yield copy


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
async def test_our_writing_says_what_prometheus_client_would_write(
    store: Store, exposition: Exposition, accept: str
) -> None:
    await store.write(fill)
    families = await scrape(await refreshed(store, exposition), accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Again(families))
    if accept == OPENMETRICS:
        theirs = list(parse_openmetrics(openmetrics.generate_latest(registry).decode()))
    else:
        theirs = list(parse_text(generate_latest(registry).decode()))
    assert families == theirs
    assert {family.name for family in FAMILIES} >= {one.name for one in families}


@pytest.mark.e2e
async def test_promtool_finds_nothing_to_complain_about(store: Store, exposition: Exposition) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus package) is not installed")
    ProcessMetrics(exposition.registry)
    await store.write(fill)
    body, _ = await (await refreshed(store, exposition)).render(TEXT, "")
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr.decode()) == (0, "")
