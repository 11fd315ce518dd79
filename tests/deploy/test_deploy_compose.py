"""The stack to try: its files are sound, and the same parts do what it promises when they are started from packages."""

import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from click.testing import CliRunner

from tests.deploy.charts import REPOSITORY, run
from tests.fakedss import eventually, free_port
from tocsin import __version__
from tocsin.cli.commands import app

STACK = REPOSITORY / "deploy" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((STACK / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# Those of the Compose Specification that are used here, with their types.
KEYS: dict[str, type | tuple[type, ...]] = {
    "image": str, "build": dict, "command": list, "ports": list, "volumes": list, "environment": dict,
    "depends_on": list, "restart": str, "healthcheck": dict, "read_only": bool, "cap_drop": list,
    "security_opt": list, "tmpfs": list, "stop_grace_period": str,
}  # fmt: skip


def default(text: str) -> str:
    """A value of Compose's with its variables at their defaults."""
    head, found, rest = text.partition("${")
    return text if not found else head + rest.partition(":-")[2].replace("}", "", 1)


def test_services_are_written_as_compose_reads_them_and_open_no_port_to_others() -> None:
    assert COMPOSE.keys() == {"name", "services", "volumes"}
    for name, service in SERVICES.items():
        for key, value in service.items():
            assert isinstance(value, KEYS[key]), (name, key)
        assert set(service.get("depends_on", ())) <= SERVICES.keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert not service["image"].endswith(":latest")
    assert {service["image"] for name, service in SERVICES.items() if name in ("dss", "tocsin")} == {
        f"tocsin:{__version__}"
    }


def test_what_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in map(default, service.get("volumes", ())):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (STACK / source).exists(), volume


def test_each_part_accepts_its_configuration(tool: Callable[[str], str], tmp_path: Path) -> None:
    checked = CliRunner().invoke(app, ["check", "--config", str(STACK / "tocsin.yaml")])
    assert checked.output.endswith(": good\n")
    run(tool("promtool"), "check", "config", "--syntax-only", STACK / "prometheus.yml")
    run(tool("amtool"), "check-config", STACK / "alertmanager.yml")


def test_grafana_finds_its_data_sources_and_dashboards() -> None:
    sources = yaml.safe_load((STACK / "grafana/datasources/tocsin.yaml").read_text("utf-8"))
    assert sources["apiVersion"] == 1
    hosts = {source["url"].split("/")[2] for source in sources["datasources"]}
    assert hosts == {"prometheus:9090", "alertmanager:9093", "tocsin:8080"}
    assert all({"name", "uid", "type", "access", "url"} <= source.keys() for source in sources["datasources"])
    (provider,) = yaml.safe_load((STACK / "grafana/dashboards/tocsin.yaml").read_text("utf-8"))["providers"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    folder = STACK / mounts[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).exists()
    assert all(json.loads(file.read_text("utf-8"))["uid"] for file in folder.glob("*.json"))


def test_the_token_is_one_everywhere() -> None:
    token = (STACK / "example-secrets/token").read_text("utf-8").strip()
    assert hashlib.sha256(token.encode()).hexdigest() in (STACK / "example-secrets/tokens").read_text("utf-8")
    assert f"Bearer {token}" in (STACK / "grafana/datasources/tocsin.yaml").read_text("utf-8")
    assert (STACK / "example-secrets/dss-api-key").read_text("utf-8").strip() in SERVICES["dss"]["command"]


@asynccontextmanager
async def process(log: Path, *command: object) -> AsyncIterator[None]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "daemon")}
    with log.open("wb") as out:
        started = await asyncio.create_subprocess_exec(
            *map(str, command), cwd=log.parent, env=environment, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        started.terminate()
        await started.wait()


async def ask(url: str, path: str) -> Any:
    """None until it answers."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url + path) as response:
            return await response.json()
    except (aiohttp.ClientError, OSError):
        return None


@pytest.mark.timeout(180)
async def test_alerts_reach_alertmanager_and_prometheus_sees_tocsin(tool: Callable[[str], str], tmp_path: Path) -> None:
    places = {
        name: f"127.0.0.1:{free_port()}"
        for name in ("dss:11200", "tocsin:8080", "alertmanager:9093", "prometheus:9090")
    }
    files = shutil.copytree(STACK, tmp_path / "stack")
    shutil.copytree(REPOSITORY / "deploy/helm/tocsin/files/rules", files / "rules")
    shutil.copy(STACK / "example-secrets/token", files / "token")
    local = places | {"0.0.0.0:8080": places["tocsin:8080"], "/var/lib/tocsin": f"/{tmp_path}".removeprefix("/")}
    for file in (*files.glob("*.y*ml"),):
        text = file.read_text("utf-8")
        for name, place in local.items():
            text = text.replace(name, place)
        file.write_text(text, "utf-8")
    dss, _, alertmanager, prometheus = places.values()
    python = (sys.executable, "-m", "tocsin")
    key = (STACK / "example-secrets/dss-api-key").read_text("utf-8").strip()
    silent = f"--web.listen-address={alertmanager}", "--cluster.listen-address="
    async with (
        process(files / "sim.log", *python, "sim", "--listen", dss, "--api-key", key),
        process(files / "am.log", tool("prometheus-alertmanager"), "--config.file=alertmanager.yml", f"--storage.path={tmp_path}/am", *silent),
        process(files / "tocsin.log", *python, "run", "--config", "tocsin.yaml"),
        process(
            files / "prometheus.log", tool("prometheus"), "--config.file=prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={prometheus}", "--enable-feature=exemplar-storage",
        ),
    ):  # fmt: skip

        async def told() -> bool:
            alerts = await ask(f"http://{alertmanager}", "/api/v2/alerts")
            return any(alert["labels"].get("dss_node") == "demo" for alert in alerts or ())

        async def scraped() -> bool:
            up = await ask(f"http://{prometheus}", '/api/v1/query?query=up{job="tocsin"}==1')
            return bool(up and up["data"]["result"])

        await eventually(scraped, within=100, every=0.5)
        await eventually(told, within=100, every=0.5)
        found = await ask(f"http://{prometheus}", "/api/v1/alertmanagers")
        assert len(found["data"]["activeAlertmanagers"]) == 2
