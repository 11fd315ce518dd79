"""A real Prometheus scrapes the demo: durations, exemplars, and every query of the dashboards and rules."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.deploy.charts import run
from tests.deploy.metric_names import SAMPLES
from tests.deploy.test_deploy_dashboards import FILES, expressions, load
from tests.deploy.test_deploy_rules import RULES, rules
from tests.fakedss import DaemonProcess, eventually, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# The panels that a healthy demo has nothing for.
QUIET = {"Overdue", "Answers of DSS other than 2xx", "Alertmanagers"}  # the demo sends to none
# And those whose steps of minutes may all fall before the demo.
QUIET |= {"Time to recovery, 7d", "Time to recovery, 30d", "Without a good run for 26 hours, 30d"}
# No sample until something happens, or without an Alertmanager.
TROUBLE = {"tocsin_dss_invalid_items_total", "tocsin_rule_errors_total", "tocsin_alertmanager_up"}
TROUBLE |= {"tocsin_alertmanager_alerts_sent_total", "tocsin_alertmanager_errors_total"}
CHOSEN = {"job": "tocsin", "dss_node": "demo", "project": "SALES_FORECAST", "scenario": "NIGHTLY_REBUILD"}


class Prometheus:
    """Asks the HTTP API of one."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def ask(self, path: str, **params: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, params=params) as response:
            answer = await response.json()
        assert answer["status"] == "success", (answer, params)
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of a query at this moment; a query that is not answered fails."""
        data = await self.ask("/api/v1/query", query=expression)
        found: list[dict[str, Any]] = data["result"]
        return [sample for sample in found if sample["value"][1] != "NaN"]

    async def exemplars(self, series: str) -> list[dict[str, Any]]:
        """The exemplars of series that were kept until now."""
        found: list[dict[str, Any]] = await self.ask(
            "/api/v1/query_exemplars", query=series, start="0", end=str(time.time())
        )
        return found


@pytest.fixture
async def demo() -> AsyncIterator[DaemonProcess]:
    listen = f"127.0.0.1:{free_port()}"
    async with DaemonProcess(url=f"http://{listen}", verb=("demo", "--listen", listen)) as daemon:
        yield daemon


@pytest.fixture
async def prometheus(demo: DaemonProcess, tool: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Prometheus]:
    """It scrapes every second, keeps exemplars, and evaluates our rules."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in RULES],
        "scrape_configs": [{"job_name": "tocsin", "static_configs": [{"targets": [demo.url.removeprefix("http://")]}]}],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    listen = f"127.0.0.1:{free_port()}"
    log = tmp_path / "prometheus.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            tool("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yaml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={listen}",
            "--enable-feature=exemplar-storage",
            stderr=stderr,
        )
    server = Prometheus(f"http://{listen}")

    async def scraped() -> bool:
        assert process.returncode is None, log.read_text()
        try:
            return bool(await server.query('up{job="tocsin"} == 1'))
        except (aiohttp.ClientError, ConnectionError):
            return False

    try:
        await eventually(scraped)
        yield server
    finally:
        process.terminate()
        await process.wait()


def panels() -> Iterator[tuple[str, str]]:
    """Title and query of every target, of the demo's most lively scenario where one is chosen."""
    for file in FILES:
        for panel in load(file)["panels"]:
            for expression in expressions({"panels": [panel]}, **CHOSEN):
                yield panel["title"], expression.replace(f'=~"{CHOSEN["project"]}"', '=~".*"')


async def test_a_prometheus_answers_for_durations_exemplars_dashboards_and_rules(
    demo: DaemonProcess, prometheus: Prometheus, tool: Callable[[str], str]
) -> None:
    quantile = "histogram_quantile(0.9, sum by (le) (rate(dss_scenario_run_duration_seconds_bucket[1m])))"
    found: Any = await eventually(lambda: prometheus.query(quantile))
    assert 1 < float(found[0]["value"][1]) < 300

    exemplars = "dss_scenario_run_duration_seconds_bucket"
    kept: Any = await eventually(lambda: prometheus.exemplars(exemplars))
    runs = {exemplar["labels"]["run_id"] for series in kept for exemplar in series["exemplars"]}
    assert {run for run in runs if not re.fullmatch(r"\d{4}(-\d\d){5}-\d{3}", run)} == set()

    silent = set(panels())

    async def all_have_spoken() -> bool:
        for panel in sorted(silent):
            if await prometheus.query(panel[1]):
                silent.discard(panel)
        return {title for title, _ in silent} <= QUIET

    try:
        await eventually(all_have_spoken, within=150, every=1)
    except TimeoutError:
        assert {title for title, _ in silent} == QUIET  # names the panel that never had data

    known = set(await prometheus.ask("/api/v1/label/__name__/values"))
    used = {name for rule in rules() for name in re.findall(r"\b(?:dss|tocsin)_[a-z_]+\b", rule["expr"])} - {"dss_node"}
    assert (used | SAMPLES) - known <= TROUBLE

    groups = (await prometheus.ask("/api/v1/rules"))["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in evaluated if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in evaluated} == {rule["alert"] for rule in rules()}

    checked = run(tool("promtool"), "check", "metrics", text=await demo.text("/metrics"))
    assert (checked.stdout, checked.stderr) == ("", "")
