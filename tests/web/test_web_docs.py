"""What is served is documented: a name that is missing from the docs fails here."""

from pathlib import Path

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
