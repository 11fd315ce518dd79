"""What deciding costs: processor time an event in batches of 500, and of what time alone makes due.

Events stand ready in the store; nothing else runs. Processor time of the store's thread is counted, so that other
work on the machine disturbs little; a plain loop measured beside it tells how fast the machine is just now.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from tocsin.app import decide
from tocsin.app.plan import Plan, make_plan
from tocsin.judge.defaults import DEFAULT_RULES
from tocsin.model.config import Channel, Config, InhibitRule, Node, Receiver, Reporter, StoreConfig
from tocsin.model.event import END_EVENTS, Event, EventName, ScenarioFacts, end_event_name, run_event_id
from tocsin.model.labels import parse_matchers
from tocsin.model.run import Run, ScenarioKey
from tocsin.route.tree import RouteSpec, build_tree
from tocsin.store import Store, events, nodes, scenarios
from tocsin.store.scenarios import ScenarioRow

T0 = datetime(2026, 3, 2, 6, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench judge", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--scenarios", type=int, default=2_000)
    options = parser.parse_args(arguments)
    began = time.thread_time()
    sum(range(5_000_000))
    print(f"five million additions take {(time.thread_time() - began) * 1000:.0f} ms on this machine now")
    for name, every in (("one run in 20 fails", 20), ("every run fails", 1), ("all is well", 0)):
        asyncio.run(measure(name, options.events, options.scenarios, every))


async def measure(name: str, count: int, fleet: int, fail_every: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{Path(folder) / 'bench.db'}")
        await store.open()
        keys = [ScenarioKey("bench", f"P{n % 200}", f"S{n}") for n in range(fleet)]
        await store.write(prepare, keys)
        await store.write(events.insert_events, history(keys, count // 2, fail_every))
        plan = make_plan(configuration())
        now = T0 + count * SECOND
        took = await store.write(timed, decide.decide_events, plan, now)
        print(f"{name:20} events {took * 1e6 / count:7.0f} µs each   {count / took:8.0f} a second of processor time")
        took = await store.write(timed, decide.flush_groups, plan, now + timedelta(minutes=1))
        print(f"{'':20} groups told in {took * 1000:7.1f} ms")
        took = await store.write(timed, decide.decide_time, plan, now + timedelta(minutes=2))
        print(f"{'':20} what is due by time in {took * 1000:7.1f} ms")
        await store.close()


def timed(
    connection: Connection, work: Callable[[Connection, Plan, datetime], decide.Outcome], plan: Plan, now: datetime
) -> float:
    """Processor seconds until nothing of this kind waits."""
    began = time.thread_time()
    while work(connection, plan, now).full:
        pass
    return time.thread_time() - began


def configuration() -> Config:
    """The shipped rules, a tree of some size, an inhibit rule, and a reporter with the usual condition."""
    teams = tuple(
        RouteSpec(matchers=parse_matchers(f'project=~"P{n}.*"'), group_by=("alertname", "project")) for n in range(10)
    )
    return Config(
        nodes=(Node("bench", "https://dss.example.com"),),
        store=StoreConfig("sqlite:////unused"),
        receivers=(Receiver("ops", (Channel("ops/a", "ops"), Channel("ops/b", "ops"))),),
        reporters=(Reporter("mail", "ops", END_EVENTS, condition="outcome != 'SUCCESS'"),),
        rules=DEFAULT_RULES,
        route=build_tree(RouteSpec("ops", group_by=("alertname",), routes=teams)),
        inhibit_rules=(
            InhibitRule(parse_matchers("alertname=NodeDown"), parse_matchers('alertname=~"Scenario.*"'), ("dss_node",)),
        ),
    )


def prepare(connection: Connection, keys: list[ScenarioKey]) -> None:
    row = nodes.ensure_node(connection, "bench", T0)
    nodes.save_node(connection, replace(row, up=True))
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
