"""Probes, metrics and status answer from memory."""

from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tests.web.harness import Daemon
from tests.web.rows import KEY, NOW, put_node, put_scenario


async def test_a_living_process_is_healthy(client: ClientSession) -> None:
    async with client.get("/-/healthy") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_a_dead_root_task_is_not_healthy_and_is_named(client: ClientSession, daemon: Daemon) -> None:
    daemon.tasks["decide"] = False
    async with client.get("/-/healthy") as answer:
        assert answer.status == 503
        assert answer.content_type == "application/problem+json"
        assert (await answer.json())["detail"] == "these tasks have ended: decide"


async def test_a_stuck_loop_is_not_healthy(client: ClientSession, daemon: Daemon) -> None:
    daemon.clock.seconds = 1031.0
    async with client.get("/-/healthy") as answer:
        assert answer.status == 503


async def test_health_does_not_ask_the_store(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.close()
    for address in ("/-/healthy", "/-/ready", "/metrics", "/api/v1/status"):
        async with client.get(address) as answer:
            assert (address, answer.status) == (address, 200)


async def test_a_process_that_is_not_ready_says_why(client: ClientSession, daemon: Daemon) -> None:
    daemon.not_ready = "the store is not open"
    async with client.get("/-/ready") as answer:
        assert answer.status == 503
        assert (await answer.json())["detail"] == "the store is not open"


async def test_metrics_show_what_the_last_refresh_read(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(put_node)
    await daemon.store.write(put_scenario)
    await daemon.exposition.refresh(daemon.store, NOW, daemon.config)
    async with client.get("/metrics") as answer:
        families = {one.name: one for one in text_string_to_metric_families(await answer.text())}
    assert families["dss_scenario_active"].samples[0].labels == {
        "dss_node": "prod", "project": "SALES", "scenario": KEY.scenario,
    }  # fmt: skip


async def test_a_scrape_that_stops_half_way_harms_no_other(client: ClientSession, daemon: Daemon) -> None:
    await daemon.store.write(put_node)
    for number in range(400):
        await daemon.store.write(put_scenario, KEY._replace(scenario=f"S{number}" + "x" * 2_000))
    await daemon.exposition.refresh(daemon.store, NOW, daemon.config)
    with capture_logs() as logs:
        for _ in range(20):
            async with client.get("/metrics") as answer:
                await answer.content.read(1_000)
                answer.close()  # the connection too, with most of the body on its way
        async with client.get("/metrics") as answer:
            text = await answer.text()
    assert text.count("dss_scenario_active{") == 400
    assert [line for line in logs if line["log_level"] in ("warning", "error")] == []


async def test_openmetrics_is_served_to_who_asks(client: ClientSession) -> None:
    async with client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}) as answer:
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert (await answer.text()).endswith("# EOF\n")


async def test_status_tells_version_tasks_and_nodes(client: ClientSession, daemon: Daemon) -> None:
    daemon.nodes["prod"] = {"up": True}
    async with client.get("/api/v1/status") as answer:
        status = await answer.json()
    assert status["ready"] is True
    assert status["time"] == "2026-03-01T12:00:00.000Z"
    assert status["tasks"] == {"decide": True, "deliver": True}
    assert status["nodes"] == {"prod": {"up": True}}
