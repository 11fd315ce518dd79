"""What deciding costs: 10 000 scenarios, the shipped rules and 1 000 more, 1 000 routes, all with regular expressions.

Events stand ready in the store; nothing else runs. Processor time of the store's thread is counted, so that other
work on the machine disturbs little; a plain loop measured beside it tells how fast the machine is just now. Then
10 000 runs are open, each with a timer: a tick while none is due, and the ticks in which all are.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, func, select

from tocsin.config.model import (
    DEFAULT_INHIBIT_RULES,
    DEFAULT_RULES,
    Channel,
    Config,
    InhibitRule,
    Node,
    Receiver,
    Reporter,
    Route,
    Rule,
    StoreConfig,
    build_tree,
)
from tocsin.decide.causes import apply_cause_changes, find_cause_changes
from tocsin.decide.decide import decide_events
from tocsin.decide.evaluate import CompiledConfig, StepResult
from tocsin.decide.flush import flush
from tocsin.decide.timers import decide_time
from tocsin.model.event import END_EVENTS, Event, EventName, ScenarioFacts, end_event_name, run_event_id
from tocsin.model.labels import parse_matchers
from tocsin.model.run import Details, Run, RunError, ScenarioKey
from tocsin.store import Store, events, scenarios
from tocsin.store.runs import RunRow, put_details, put_runs
from tocsin.store.scenarios import ScenarioRow
from tocsin.store.schema import rule_states

T0 = datetime(2026, 3, 2, 6, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench evaluate", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--scenarios", type=int, default=10_000)
    parser.add_argument(
        "--patterns", type=int, default=1_000, help="rules with regular expressions, and as many routes"
    )
    options = parser.parse_args(arguments)
    began = time.thread_time()
    sum(range(5_000_000))
    print(f"five million additions take {(time.thread_time() - began) * 1000:.0f} ms on this machine now")
    compiled = CompiledConfig(configuration(options.patterns))
    for name, every in (("all is well", 0), ("one run in 20 fails", 20), ("every run fails", 1)):
        asyncio.run(measure_events(name, compiled, options.events, options.scenarios, every))
    asyncio.run(measure_timers(compiled, options.scenarios))
    for name, errors in (("one error", 1), ("as many errors", options.scenarios)):
        asyncio.run(measure_causes(name, options.scenarios, errors))


async def measure_events(name: str, compiled: CompiledConfig, count: int, fleet: int, fail_every: int) -> None:
    async with fleet_of(fleet) as (store, keys):
        await store.write(events.insert_events, history(keys, count // 2, fail_every))
        now = T0 + count * SECOND
        took = await store.write(batches, decide_events, compiled, now)
        each = sum(took) / count
        print(f"{name:20} events: {each * 1e6:.0f} µs each, {1 / each:,.0f} a second; {tell(took)}")
        took = await store.write(batches, flush, compiled, now + timedelta(minutes=1))
        print(f"{'':20} groups flushed: {tell(took)}")


async def measure_timers(compiled: CompiledConfig, fleet: int) -> None:
    async with fleet_of(fleet) as (store, keys):
        runs = [Run(key, "run", T0, trigger_type="temporal") for key in keys]
        await store.write(events.insert_events, [event(EventName.RUN_STARTED, run, T0) for run in runs])
        await store.write(batches, decide_events, compiled, T0)
        timers = await store.read(count_timers)
        took = await store.write(batches, decide_time, compiled, T0 + timedelta(minutes=1))
        print(f"{timers:,} open timers    a tick while none is due: {tell(took)}")
        took = await store.write(batches, decide_time, compiled, T0 + timedelta(hours=2))
        print(f"{'':20} all of them due at once: {tell(took)}")


async def measure_causes(name: str, fleet: int, errors: int) -> None:
    """All scenarios fail within ten minutes; common causes are looked for, and every group is flushed."""
    cause = Rule("CommonCause", "common_cause", severity="critical")
    compiled = CompiledConfig(
        replace(configuration(1), rules=(DEFAULT_RULES[0], cause), inhibit_rules=DEFAULT_INHIBIT_RULES)
    )
    async with fleet_of(fleet) as (store, keys):
        every = timedelta(minutes=10) / fleet
        failed = [Run(key, "run", T0, T0 + n * every, "FAILED", "temporal") for n, key in enumerate(keys)]
        words = ["".join(chr(97 + int(digit)) for digit in str(n % errors)) for n in range(fleet)]
        details = [Details(run.key, run.end or T0, RunError(word)) for run, word in zip(failed, words, strict=True)]
        await store.write(put_runs, [RunRow(run, baseline=False, late=False, seen_at=T0) for run in failed])
        await store.write(lambda connection: [put_details(connection, found) for found in details] and None)
        await store.write(events.insert_events, [event(EventName.RUN_FAILED, run, run.end or T0) for run in failed])
        now = T0 + timedelta(minutes=10)
        await store.write(batches, decide_events, compiled, now)

        def check(connection: Connection, compiled: CompiledConfig, now: datetime) -> StepResult:
            return apply_cause_changes(connection, compiled, now, find_cause_changes(connection, compiled, now, T0)[0])

        took = await store.write(batches, check, compiled, now)
        again = await store.write(batches, check, compiled, now + SECOND)
        print(f"{fleet:,} failures with {name}: looked for a common cause in {tell(took)}; again in {tell(again)}")
        took = await store.write(batches, flush, compiled, now + timedelta(minutes=2))
        print(f"{'':20} groups flushed: {tell(took)}")


@asynccontextmanager
async def fleet_of(size: int) -> AsyncIterator[tuple[Store, list[ScenarioKey]]]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{Path(folder) / 'bench.db'}")
        await store.open()
        keys = [ScenarioKey("bench", f"P{n % 200}", f"S{n}_{n % 1000}") for n in range(size)]
        await store.write(prepare, keys)
        yield store, keys
        await store.close()


def batches(
    connection: Connection,
    work: Callable[[Connection, CompiledConfig, datetime], StepResult],
    compiled: CompiledConfig,
    now: datetime,
) -> list[float]:
    """Processor seconds of each transaction's work until nothing of this kind waits."""
    took: list[float] = []
    full = True
    while full:
        began = time.thread_time()
        full = work(connection, compiled, now).full
        took.append(time.thread_time() - began)
    return took


def tell(took: list[float]) -> str:
    return f"{sum(took) * 1000:.0f} ms in {len(took)} transactions, the longest {max(took) * 1000:.0f} ms"


def count_timers(connection: Connection) -> int:
    query = select(func.count()).where(rule_states.c.due_at.is_not(None))
    return connection.execute(query).scalar_one()


def configuration(patterns: int) -> Config:
    """The shipped rules and as many more, a tree of as many routes, an inhibit rule, and a reporter."""
    some = [parse_matchers(f'project=~"P[0-9]+", scenario=~"S[0-9]+_{n}"') for n in range(patterns)]
    kinds = Rule("Failed", "failed", after=2), Rule("Overlong", "overlong", longer_than=timedelta(hours=1))
    own = tuple(replace(kinds[n % 2], alert=f"{kinds[n % 2].alert}{n}", match=match) for n, match in enumerate(some))
    routes = tuple(Route(matchers=match, group_by=("alertname", "project")) for match in some)
    return Config(
        nodes=(Node("bench", "https://dss.example.com"),),
        store=StoreConfig("sqlite:////unused"),
        receivers=(Receiver("ops", (Channel("ops/a", "ops"), Channel("ops/b", "ops"))),),
        reporters=(Reporter("mail", "ops", END_EVENTS, condition="outcome != 'SUCCESS'"),),
        rules=DEFAULT_RULES + own,
        route=build_tree(Route("ops", group_by=("alertname",), routes=routes)),
        inhibit_rules=(
            InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers('alertname=~"Scenario.*"'), ("dss_node",)),
        ),
    )


def prepare(connection: Connection, keys: list[ScenarioKey]) -> None:
    row = scenarios.ensure_node(connection, "bench", T0)
    scenarios.save_node(connection, replace(row, up=True))
    scenarios.put_scenarios(
        connection,
        [ScenarioRow(key, key.scenario, ("daily",), "step_based", True, None, (), T0, backfilled=True) for key in keys],
    )


def history(keys: list[ScenarioKey], runs: int, fail_every: int) -> list[Event]:
    """Starts and ends as looks bring them: ten starts, then their ends."""
    made: list[Event] = []
    for first in range(0, runs, 10):
        ends: list[Event] = []
        for index in range(first, min(first + 10, runs)):
            start = T0 + index * SECOND
            run = Run(keys[index % len(keys)], f"run-{index}", start, trigger_type="temporal")
            outcome = "FAILED" if fail_every and index % fail_every == 0 else "SUCCESS"
            made.append(event(EventName.RUN_STARTED, run, start))
            over = replace(run, end=start + 30 * SECOND, outcome=outcome)
            ends.append(event(end_event_name(outcome), over, start + 30 * SECOND))
        made += ends
    return made


def event(name: EventName, run: Run, time_: datetime) -> Event:
    _, project, scenario = run.scenario
    facts = ScenarioFacts(scenario, scenario, ("daily",), "step_based")
    return Event(run_event_id(run, name), name, "bench", time_, time_, project, facts, run)
