"""A run that dies with its node rings, with words that say what became of it, and its recovery is told."""

from datetime import timedelta

import pytest

from tests.fakedss import DaemonProcess, config_for, eventually


@pytest.mark.slow
async def test_a_run_that_dies_with_its_node_rings_until_the_next_good_one(tmp_path, dss, sink):
    route = {"receiver": "hook", "group_wait": "0s", "group_interval": "1s"}
    config = config_for(tmp_path, {"prod": dss}, sink, route=route, reporters=None)
    scenario = next(dss.world.all_scenarios())

    def alerts(status):
        groups = [post.json for post in sink.posts if "alerts" in post.json]
        shown = [alert for group in groups for alert in group["alerts"] if alert["status"] == status]
        return [alert for alert in shown if alert["labels"]["alertname"] == "ScenarioFailed"]

    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.start_run(*scenario.key, at=dss.world.now() - timedelta(minutes=2))
        await eventually(lambda: daemon.items("/api/v1/runs"))
        await dss.go_down()
        dss.world.restart("vanished")
        await dss.go_up()
        await eventually(lambda: alerts("firing"), within=150)
        (alert, *_) = alerts("firing")
        assert "DSS lost this run" in alert["annotations"]["summary"]
        assert alert["labels"]["scenario"] == scenario.id
        ends = [event["data"]["run"]["outcome"] for event in await daemon.events() if event["data"]["run"]["end"]]
        assert ends == ["UNKNOWN"]
        dss.world.instant_run(*scenario.key)
        await eventually(lambda: alerts("resolved"))
