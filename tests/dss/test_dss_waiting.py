"""Asking for runs and waiting for their ends: one at a time and many at once."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
from aiohttp import web

from tocsin.dss import (
    DSSForbidden,
    DSSInvalidReply,
    DSSNotFound,
    DSSRunCancelled,
    DSSRunFailed,
    DSSScenarioRunWaiter,
    DSSServerError,
    DSSWaitTimeout,
)
from tocsin.dss.waits import SharedWaits, pauses

QUICK = {"poll_pauses": (0.001, 0.01), "retries": 0}


@dataclass
class Runner:
    """A scenario service: fires become runs after some looks, runs end after some more."""

    looks_until_run: int = 0
    looks_until_end: int = 0
    outcome: str = "SUCCESS"
    cancelled: bool = False
    forgets: bool = False  # get-last-runs never shows the run
    fires: int = 0
    params: list[Any] = field(default_factory=list)
    looks: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    busiest: int = 0

    async def __call__(self, request: web.BaseRequest) -> Any:
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        await asyncio.sleep(0)
        self.busy -= 1
        scenario = request.path.split("/scenarios/")[1].split("/")[0]
        match request.path.split("/scenarios/")[1].rstrip("/").split("/")[1:]:
            case ["run"]:
                self.counts["run"] += 1
                self.fires += 1
                self.params.append(await request.json())
                return self.fire(f"F{self.fires}")
            case ["get-run-for-trigger"]:
                self.counts["fire"] += 1
                fire = request.query["triggerRunId"]
                self.looks[fire] += 1
                return {} if self.looks[fire] <= self.looks_until_run else {"scenarioRun": self.run(fire)}
            case ["get-last-runs"]:
                self.counts["last-runs"] += 1
                self.looks[scenario] += 1
                ended = self.looks[scenario] > self.looks_until_end
                return [] if self.forgets else [self.run(f"F{n}", ended) for n in range(self.fires, 0, -1)]
            case [_, "manual"]:
                self.counts["refresh"] += 1
                return self.fire(request.query["triggerRunId"], self.cancelled)
            case [run]:
                self.counts["run-details"] += 1
                return {"scenarioRun": self.run(run.removeprefix("run-"), ended=True), "stepRuns": []}
        return web.Response(status=404)

    def fire(self, id: str, cancelled: bool = False) -> dict[str, Any]:
        return {"trigger": {"id": "manual"}, "runId": id, "cancelled": cancelled}

    def run(self, fire: str, ended: bool = False) -> dict[str, Any]:
        raw = {"runId": f"run-{fire}", "start": 1, "end": 2 if ended else 0}
        return raw | ({"result": {"outcome": self.outcome}} if ended else {})


async def scenario_of(serve: Any, connect: Any, service: Any, **options: Any) -> Any:
    client = connect(await serve(service), **{**QUICK, **options})
    return client.get_project("P").get_scenario("S")


async def test_a_run_is_asked_for_and_waited_for(serve: Any, connect: Any) -> None:
    service = Runner(looks_until_run=3, looks_until_end=4)
    scenario = await scenario_of(serve, connect, service)
    run = await scenario.run_and_wait({"day": "2026-03-01"})
    assert (run.id, run.outcome) == ("run-F1", "SUCCESS")
    assert service.params == [{"day": "2026-03-01"}]
    assert (service.counts["run"], service.counts["fire"], service.counts["last-runs"]) == (1, 4, 5)


@pytest.mark.parametrize("outcome", ["WARNING", "FAILED", "ABORTED"])
async def test_any_outcome_but_success_raises_with_the_run(serve: Any, connect: Any, outcome: str) -> None:
    scenario = await scenario_of(serve, connect, Runner(outcome=outcome))
    with pytest.raises(DSSRunFailed, match=f"run run-F1 of P/S ended with {outcome}") as caught:
        await scenario.run_and_wait()
    assert (caught.value.outcome, caught.value.run.id) == (outcome, "run-F1")


async def test_no_fail_gives_the_run_whatever_its_outcome(serve: Any, connect: Any) -> None:
    scenario = await scenario_of(serve, connect, Runner(outcome="FAILED"))
    run = await scenario.run_and_wait(no_fail=True)
    assert run.outcome == "FAILED"


async def test_a_cancelled_fire_raises_and_with_no_fail_gives_none(serve: Any, connect: Any) -> None:
    service = Runner(looks_until_run=1000, cancelled=True)
    scenario = await scenario_of(serve, connect, service)
    with pytest.raises(DSSRunCancelled, match="P/S, fire F1"):
        await scenario.run_and_wait()
    assert await scenario.run_and_wait(no_fail=True) is None
    assert service.counts["refresh"] == 2


async def test_a_fire_knows_its_run_and_whether_it_was_cancelled(serve: Any, connect: Any) -> None:
    scenario = await scenario_of(serve, connect, Runner(looks_until_run=1, cancelled=True))
    fire = await scenario.run()
    assert (fire.trigger_id, fire.run_id, fire.get_raw()["cancelled"]) == ("manual", "F1", False)
    assert await fire.get_scenario_run() is None
    assert (await fire.get_scenario_run()).id == "run-F1"
    assert (await fire.is_cancelled(), await fire.is_cancelled(refresh=True), await fire.is_cancelled()) == (
        False,
        True,
        True,
    )
    assert (await scenario.get_trigger_fire("manual", "F7")).run_id == "F7"


async def test_a_waiter_gives_the_ended_run(serve: Any, connect: Any) -> None:
    scenario = await scenario_of(serve, connect, Runner(looks_until_end=2))
    fire = await scenario.run()
    run = await fire.wait_for_scenario_run(timeout=10)
    assert (await DSSScenarioRunWaiter(run, fire).wait(timeout=10)).outcome == "SUCCESS"


async def test_an_ended_run_is_not_waited_for(serve: Any, connect: Any) -> None:
    service = Runner()
    scenario = await scenario_of(serve, connect, service)
    run = await scenario.run_and_wait()
    before = service.counts.copy()
    await run.wait_for_completion()
    assert service.counts == before


async def test_a_run_that_fell_off_the_list_of_last_runs_tells_its_own_end(serve: Any, connect: Any) -> None:
    service = Runner(forgets=True)
    scenario = await scenario_of(serve, connect, service)
    assert (await scenario.run_and_wait()).outcome == "SUCCESS"
    assert service.counts["run-details"] == 1


@pytest.mark.parametrize("service", [Runner(looks_until_run=10**6), Runner(looks_until_end=10**6)])
async def test_a_wait_ends_with_its_timeout_and_leaves_nothing_behind(
    serve: Any, connect: Any, service: Runner
) -> None:
    scenario = await scenario_of(serve, connect, service)
    with pytest.raises(DSSWaitTimeout, match=r"a run of P/S and its end: not within 0\.05 s"):
        await scenario.run_and_wait(timeout=0.05)
    assert scenario.client.waits._shared_polls == {}


async def test_cancelling_a_wait_stops_its_polls_but_not_those_of_others(serve: Any, connect: Any) -> None:
    service = Runner(looks_until_end=30)
    scenario = await scenario_of(serve, connect, service)
    first = asyncio.create_task(scenario.run_and_wait())
    second = asyncio.create_task(scenario.run_and_wait())
    while service.counts["last-runs"] < 2:
        await asyncio.sleep(0.001)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).outcome == "SUCCESS"


async def test_many_waits_for_one_scenario_share_its_polls(serve: Any, connect: Any) -> None:
    service = Runner(looks_until_end=6)
    scenario = await scenario_of(serve, connect, service)
    fires = [await scenario.run() for _ in range(20)]
    runs = [await fire.wait_for_scenario_run() for fire in fires]
    await asyncio.gather(*(run.wait_for_completion() for run in runs[-10:]))
    assert all(not run.running for run in runs[-10:])
    assert service.counts["last-runs"] == 7


async def test_many_waits_ask_a_few_at_a_time(serve: Any, connect: Any) -> None:
    service = Runner(looks_until_run=2, looks_until_end=2)
    client = connect(await serve(service), **QUICK, max_polls=3)
    scenarios = [client.get_project("P").get_scenario(f"S{n}") for n in range(40)]
    fires = [await scenario.run() for scenario in scenarios]
    service.busiest = 0
    runs = await asyncio.gather(*(fire.wait_for_scenario_run() for fire in fires))
    await asyncio.gather(*(run.wait_for_completion(no_fail=True) for run in runs))
    assert all(run.outcome == "SUCCESS" for run in runs)
    assert service.busiest <= 3


async def test_a_wait_bears_what_passes_but_not_for_ever(serve: Any, connect: Any) -> None:
    left = 5

    def flaky(request: web.BaseRequest) -> Any:
        nonlocal left
        left -= 1
        return web.Response(status=503) if left >= 0 else [{"runId": "R", "result": {"outcome": "SUCCESS"}}]

    dss = await serve([{"runId": "R"}])
    client = connect(dss, **QUICK)
    run = await client.get_project("P").get_scenario("S").get_current_run()
    dss.answer = flaky
    await run.wait_for_completion()
    assert left < 0
    run.run = {"runId": "R"}
    left = 10**6
    with pytest.raises(DSSServerError):
        await run.wait_for_completion()
    assert 10**6 - left == 21


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: web.Response(status=403), DSSForbidden),
        (lambda: web.Response(status=404), DSSNotFound),
        (lambda: web.json_response({}), DSSInvalidReply),
    ],
)
async def test_what_will_not_pass_ends_the_wait_at_once(
    serve: Any, connect: Any, answer: Any, error: type[Exception]
) -> None:
    dss = await serve([{"runId": "R"}])
    run = await connect(dss, **QUICK).get_project("P").get_scenario("S").get_current_run()
    dss.answer = lambda request: answer()
    with pytest.raises(error):
        await run.wait_for_completion()
    assert len(dss.asked) == 2


async def test_closing_the_client_ends_its_waits(serve: Any, connect: Any) -> None:
    scenario = await scenario_of(serve, connect, Runner(looks_until_end=10**6))
    wait = asyncio.create_task(scenario.run_and_wait())
    while not scenario.client.waits._shared_polls:
        await asyncio.sleep(0.001)
    await scenario.client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await wait


@pytest.mark.parametrize("fire", [{}, {"trigger": {"id": "m"}}, {"runId": "F"}, {"trigger": None, "runId": "F"}])
async def test_a_fire_that_says_not_which_it_is_is_an_invalid_reply(serve: Any, connect: Any, fire: Any) -> None:
    scenario = await scenario_of(serve, connect, fire)
    with pytest.raises(DSSInvalidReply):
        await scenario.run()


# The polling loop by itself


async def test_a_loop_that_is_closed_before_it_ran_ends_its_waits_too() -> None:
    waits = SharedWaits()
    wait = asyncio.create_task(waits.until("key", lambda: asyncio.sleep(0), lambda value: value))
    await asyncio.sleep(0)
    await waits.close()
    with pytest.raises(RuntimeError, match="closed"):
        async with asyncio.timeout(5):
            await wait


async def test_an_answer_older_than_a_wait_does_not_end_it() -> None:
    waits = SharedWaits(first_pause=0.001)
    asked, go = asyncio.Event(), asyncio.Event()
    answers = iter(["old", "new"])

    async def fetch() -> str:
        answer = next(answers)
        asked.set()
        await go.wait()
        return answer

    async def wait() -> str:
        return await waits.until("key", fetch, lambda answer: answer)

    first = asyncio.create_task(wait())
    await asked.wait()
    second = asyncio.create_task(wait())
    await asyncio.sleep(0)
    go.set()
    assert (await first, await second) == ("old", "new")


async def test_who_goes_on_to_wait_for_the_same_key_is_not_ended_with_the_wait_before() -> None:
    waits, polls = SharedWaits(first_pause=0.001, longest_pause=0.01), 0

    async def fetch() -> int:
        nonlocal polls
        polls += 1
        return polls

    async def first(count: int) -> int:
        return await waits.until("key", fetch, lambda seen: seen if seen >= count else None)

    async def both() -> int:
        await first(2)
        return await first(5)

    async with asyncio.timeout(10):
        assert list(await asyncio.gather(both(), first(2))) == [5, 2]


async def test_an_error_of_one_judge_is_its_own() -> None:
    waits = SharedWaits(first_pause=0.001)

    async def fetch() -> int:
        return 1

    def fail(value: int) -> int:
        raise LookupError(value)

    good = waits.until("key", fetch, lambda value: value)
    bad = waits.until("key", fetch, fail)
    results = await asyncio.gather(good, bad, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], LookupError)


def test_pauses_grow_by_a_tenth_up_to_the_longest() -> None:
    seconds = [round(pause, 4) for pause in islice(pauses(0.2, 0.25), 5)]
    assert seconds == [0.2, 0.22, 0.242, 0.25, 0.25]


def test_thirty_looks_take_half_a_minute() -> None:
    assert round(sum(islice(pauses(0.2, 15.0), 30)), 1) == 32.9
