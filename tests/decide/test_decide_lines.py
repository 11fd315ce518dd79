"""The lines of the log for events of runs and changes of alerts."""

from datetime import timedelta

import pytest

from tests.decide.world import T0, World, key, minutes
from tocsin.kit import lines
from tocsin.model.event import EventName

PLACE = {"dss_node": "prod", "project": "SALES", "scenario": "NIGHTLY"}


@pytest.fixture
def written():
    """The lines that would be written, with their levels."""
    found = []

    def write(package, level, make, count):
        found.extend((level, dict(line)) for line in make())

    before = lines._writer
    lines.set_line_writer(write)
    yield found
    lines.set_line_writer(before)


async def test_a_run_has_a_line_for_each_event_and_each_change_of_its_alert(world: World, written: list) -> None:
    await world.scenario(key())
    for at, outcome in ((0, "FAILED"), (5, "FAILED"), (10, "SUCCESS")):
        await world.run(T0 + minutes(at), outcome, length=timedelta(seconds=4.5))
        await world.step(T0 + minutes(at + 1))
    events = [line for _, line in written if line["event"].startswith("run_")]
    assert [line["event"] for line in events] == ["run_started", "run_failed"] * 2 + ["run_started", "run_finished"]
    assert all(line.items() >= PLACE.items() and line["run"] for line in events)
    assert "outcome" not in events[0]
    assert (events[1]["outcome"], events[1]["seconds"]) == ("FAILED", 4.5)
    changes = [line for _, line in written if line["event"].startswith("alert_")]
    assert [line["event"] for line in changes] == ["alert_firing", "alert_updated", "alert_resolved"]
    for line in changes:
        assert line.items() >= {"alertname": "ScenarioFailed", **PLACE}.items()
        assert list(line)[-1] == "alert"
    assert {level for level, _ in written} == {"info"}


async def test_an_event_of_a_node_has_no_second_line(world: World, written: list) -> None:
    await world.node_event(EventName.NODE_DOWN, T0, "prod")
    await world.step(T0)
    assert written == []
