"""A hostile node is a node that is down, with a reason; strange values in its answers blind nobody."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.dss.hostile import ANSWERS, hostile_server
from tests.fakedss import FakeDSS, faults
from tests.fakedss.answers import Answer
from tests.watch.conftest import Start, Watching, now_ms, until, watching

pytestmark = pytest.mark.e2e


@dataclass
class HostileDSS:
    url: str
    api_key: str = "key"
    admin_key: str = "key"


async def down(found: Watching) -> bool:
    assert not found.task.done()
    return "node.down" in await found.names()


@pytest.mark.parametrize("name", ["redirect to 'mailto:a@example.com'", "a list of 57 MB", "deep lists"])
async def test_a_node_whose_answers_are_hostile_is_down(tmp_path: Path, name: str) -> None:
    async with hostile_server(lambda _: ANSWERS[name]()) as url, watching(HostileDSS(url), tmp_path) as found:  # type: ignore[arg-type]
        await until(lambda: down(found))
        assert [event.reason for event in await found.events()] == ["invalid_reply"]


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "soon"])
async def test_a_date_that_no_clock_shows_is_not_believed(dss: FakeDSS, start: Start, date: str) -> None:
    dss.world.populate(1, 2)
    dss.fail(faults.with_headers(Date=date))
    found = await start()
    since = await now_ms()
    dss.world.instant_run("P000", "S000", "FAILED")
    dss.start_run("P000", "S001")
    await until(lambda: found.agrees(since))


DEEP = "[" * 900 + "]" * 900
ODD_VALUES = ["\ud800", "\0", 10**400, 253402300799999, -1, 1e308, "x" * 100_000, {}, [], None, True, json.loads(DEEP)]


def odd_items(keys: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """Items that are good but for one value each."""
    for key in keys:
        for odd in ODD_VALUES:
            yield {"id": "S000", "projectKey": "P000", "runId": "r", "start": 1000, key: odd}


@pytest.mark.parametrize(
    ("operation", "keys"),
    [
        ("projects", ("projectKey", "name", "creationTag")),
        (
            "scenarios",
            ("id", "projectKey", "name", "tags", "nextRun", "active", "running", "runAsUser", "start", "type"),
        ),
        ("last_runs", ("runId", "start", "end", "result", "trigger", "scenario", "runAsUser", "reportersStates")),
        ("futures", ("payload", "jobId", "startTime", "alive")),
        ("run", ("scenarioRun", "stepRuns")),
    ],
)
async def test_odd_values_among_good_ones_stop_nothing(
    dss: FakeDSS, start: Start, operation: str, keys: tuple[str, ...]
) -> None:
    dss.world.populate(1, 2)

    def odd(value: object) -> object:
        if isinstance(value, list):
            return [*value, *odd_items(keys)]
        return {**value, **dict.fromkeys(keys, ODD_VALUES)} if isinstance(value, dict) else value

    dss.fail(faults._in_json(odd), operation)
    found = await start()
    since = await now_ms()
    dss.world.instant_run("P000", "S000", "FAILED")
    dss.start_run("P000", "S001")
    await until(lambda: found.agrees(since))
    assert not found.task.done()


async def test_a_start_beyond_the_calendar_is_no_start(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 2)
    dss.world.scenario("P000", "S001").next_run_ms = 253402300799999
    found = await start()
    since = await now_ms()
    dss.world.instant_run("P000", "S001", "FAILED", ago=timedelta(0))
    await until(lambda: found.agrees(since))


async def test_a_list_of_runs_that_is_too_large_is_read_by_days(dss: FakeDSS, start: Start) -> None:
    dss.world.populate(1, 1)
    found = await start()

    def large(answer: Answer) -> Answer:
        return faults.huge(17)(answer) if len(json.loads(answer.body)) > 5 else answer

    dss.fail(large, "last_runs")
    for number in range(12):
        dss.world.instant_run(
            "P000", "S000", ago=timedelta(milliseconds=5 * (12 - number)), lasted=timedelta(0, 0, 900)
        )
    await until(lambda: found.agrees(0))
    assert dss.asked("runs_by_date") > 0
