"""What is served is documented: a name that is missing from the docs fails here."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from tocsin.app.decide import DecideMetrics
from tocsin.deliver.metrics import DeliverMetrics
from tocsin.metrics import AppMetrics
from tocsin.metrics.families import FAMILIES
from tocsin.watch.metrics import WatchMetrics
from tocsin.web.lists import DELIVERY_FILTERS, EVENT_FILTERS, RUN_FILTERS, SCENARIO_FILTERS
from tocsin.web.routes import all_routes


def test_every_address_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "http-api.md").read_text()
    ours = [route.operation.path for route in all_routes() if route.operation.path != "/static/{name}"]
    assert [path for path in ours if path not in text] == []


def test_every_filter_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "http-api.md").read_text()
    ours = {*EVENT_FILTERS, *RUN_FILTERS, *SCENARIO_FILTERS, *DELIVERY_FILTERS} - {"alertname", "severity"}
    assert sorted(name for name in ours if f"`{name}`" not in text) == []


def every_struct() -> tuple[CollectorRegistry, list[object]]:
    registry = CollectorRegistry()
    return registry, [struct(registry) for struct in (AppMetrics, DecideMetrics, DeliverMetrics, WatchMetrics)]


def test_no_series_has_a_label_that_prometheus_owns() -> None:
    owned = {"instance", "job", "endpoint", "service", "namespace", "pod", "container"}
    own = [metric for struct in every_struct()[1] for metric in vars(struct).values()]
    labels = {label for metric in own for label in getattr(metric, "_labelnames", ())}
    labels |= {label for family in FAMILIES for label in family.labels}
    assert {"dss_node", "alertname", "channel", "scenario"} <= labels
    assert labels & owned == set()


def test_every_series_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "metrics.md").read_text()
    families = [(family.name, family.kind) for family in FAMILIES]
    families += [(metric.name, metric.type) for metric in every_struct()[0].collect()]
    names = [f"{name}_total" if kind == "counter" else name for name, kind in families]
    assert [name for name in names if f"`{name}" not in text] == []
