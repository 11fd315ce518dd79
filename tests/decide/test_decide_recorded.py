"""Events that are decided in the transaction that records them come out as those that wait in the table."""

import asyncio
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from tests.decide.world import T0, World, config, key, minutes
from tocsin.config.model import DEFAULT_RULES, Reporter
from tocsin.decide.evaluate import CompiledConfig, StepResult
from tocsin.decide.flush import flush
from tocsin.model.decision import DecisionReason
from tocsin.model.event import END_EVENTS
from tocsin.store import Store, StoreUnavailable, events, groups, schema

REPORTER = Reporter("ends", "ops", END_EVENTS, condition="outcome != 'ABORTED'")
CONFIG = config(reporters=(REPORTER,))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    store = Store(f"sqlite:///{tmp_path / 'tocsin.db'}")
    await store.open()
    world = await World(store, CONFIG, decides_at_once=True).begin()
    await world.step(T0)
    return world


async def seqs(world: World) -> list[int | None]:
    query = select(schema.events.c.seq).order_by(schema.events.c.n)
    return await world.store.read(lambda c: list(c.execute(query).scalars()))


async def test_what_is_recorded_is_decided_with_it(world: World) -> None:
    await world.run(T0, "FAILED")
    await asyncio.sleep(0)
    assert await seqs(world) == [1, 2]
    assert await world.alerts(firing=True) == ["ScenarioFailed"]
    assert [type(one.notice).__name__ for one in await world.notifications()] == ["EventNotice"]
    assert world.rung == 1
    labels = {"stage": "rule", "reason": "firing"}
    assert world.registry.get_sample_value("tocsin_decisions_total", labels) == 1


async def test_nothing_overtakes_an_event_that_waits(world: World) -> None:
    world.decides_at_once = False
    await world.run(T0, "FAILED")
    world.decides_at_once = True
    await world.run(T0 + minutes(5), "SUCCESS")
    assert await seqs(world) == [None] * 4
    await world.step(T0 + minutes(7))
    assert await seqs(world) == [1, 2, 3, 4]
    await world.run(T0 + minutes(10), "FAILED")
    assert await seqs(world) == [1, 2, 3, 4, 5, 6]


async def test_before_the_first_step_events_wait(world: World) -> None:
    await world.restart(T0)
    await world.run(T0, "FAILED")
    assert await seqs(world) == [None, None]
    await world.step(T0 + minutes(2))
    assert await world.alerts(firing=True) == ["ScenarioFailed"]


async def test_what_is_recorded_while_a_step_runs_is_due_at_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    decider = world.decider
    assert decider is not None
    write, woken = decider._write, []
    monkeypatch.setattr(decider, "_wake", lambda: woken.append(1))

    async def write_then_record(work: Any, compiled: CompiledConfig, now: datetime) -> StepResult:
        result = await write(work, compiled, now)
        if work is flush:  # the step has read its groups
            await world.run(T0, "FAILED")
            await asyncio.sleep(0)
        return result

    monkeypatch.setattr(decider, "_write", write_then_record)
    failed = config(reporters=(REPORTER,), rules=[rule for rule in DEFAULT_RULES if rule.kind == "failed"])
    due = await decider.step(T0, failed)
    first_flush = await world.store.read(groups.next_flush)
    assert first_flush is not None
    assert due == first_flush
    assert woken == []


async def test_of_a_transaction_that_is_undone_nothing_is_counted(world: World) -> None:
    await world.start(T0)
    decider, run = world.decider, world.open_runs[key()]
    event = world.event(next(iter(END_EVENTS)), replace(run, end=T0 + minutes(1), outcome="FAILED"), T0 + minutes(1))

    def fail(connection: Connection) -> None:
        assert decider is not None
        assert decider.decide_recorded(connection, [event], T0 + minutes(1))
        raise ValueError("undone")

    with pytest.raises(ValueError, match="undone"):
        await world.store.write(fail)
    await asyncio.sleep(0)
    assert world.rung == 0
    assert await world.store.read(events.events_by_id, [event.id]) == {}
    assert await world.notifications() == []


async def test_what_cannot_be_decided_is_recorded_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr("tocsin.decide.decide.ReporterEvaluation", fail)
        await world.run(T0, "FAILED")
        assert await seqs(world) == [None, None]
        with pytest.raises(ValueError, match="a bug"):
            await world.step(T0 + minutes(2))
    await world.step(T0 + minutes(2))
    assert await seqs(world) == [1, 2]
    assert await world.alerts(firing=True) == ["ScenarioFailed"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_database_that_fails_inside_a_rule_is_no_error_of_the_rule(
    world: World, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    busy = sqlite3.OperationalError("the database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY

    def lost(*_: object) -> None:
        raise OperationalError("SELECT", {}, busy)

    async def fail() -> None:
        await world.run(T0, "FAILED")
        await world.step(T0 + minutes(2))

    world.decides_at_once = at_once
    with monkeypatch.context() as broken:
        broken.setattr("tocsin.decide.evaluate.alerts.firing_ids", lost)
        with pytest.raises(StoreUnavailable):
            await fail()
    world.open_runs.clear()
    await world.run(T0 + minutes(10), "FAILED")
    await world.step(T0 + minutes(12))
    assert await world.alerts(firing=True) == ["ScenarioFailed"]
    assert [one for one in await world.decisions() if one.reason is DecisionReason.ERROR] == []


@pytest.mark.parametrize("seed", range(4))
async def test_both_ways_say_the_same(tmp_path: Path, seed: int) -> None:
    async def play(name: str, *, at_once: bool) -> object:
        store = Store(f"sqlite:///{tmp_path / name}.db")
        await store.open()
        world = await World(store, config(reporters=(REPORTER,), rules=DEFAULT_RULES), decides_at_once=at_once).begin()
        await world.scenario(key("OTHER"))
        await world.step(T0)
        random = Random(seed)
        sent: list[object] = []
        for index in range(12):
            now = T0 + minutes(5 * index)
            outcome = random.choice(["SUCCESS", "FAILED", "FAILED", "ABORTED", "WARNING"])
            await world.run(now, outcome, key(random.choice(["NIGHTLY", "OTHER"])), length=timedelta(seconds=30))
            await world.step(now + timedelta(seconds=31))
            if random.random() < 0.5:
                await world.step(now + minutes(3))
            sent += [(one.channel, one.ordering_key) for one in await world.notifications()]
        decisions = [(one.subject, one.reason, one.note) for one in await world.decisions()]
        alerts, places = await world.every_alert(), await seqs(world)
        await store.close()
        return sent, decisions, [(alert.name, alert.count, alert.starts_at) for alert in alerts], places

    assert await play("table", at_once=False) == await play("record", at_once=True)
