"""Values that only another version knows, or that a damaged file holds: every column of every table in turn.

A store with one of everything gets a foreign value in one column of all rows. Then the process starts anew on it: it
decides, routes, delivers, lists, scrapes and prunes, and what happens to another scenario is told as if nothing were.
"""

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from multidict import MultiDict
from prometheus_client import CollectorRegistry
from sqlalchemy import BigInteger, Column, Integer, Table, text
from structlog.testing import capture_logs

from tests.decide.world import T0, World, channel, config, key, minutes
from tests.deliver.builders import HandClock
from tocsin.app.loops import prune_all
from tocsin.config.model import DEFAULT_RULES, Config, Receiver, Reporter, Rule
from tocsin.decide.explain import explain_run
from tocsin.deliver import result
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.metrics.snapshot import SnapshotReader
from tocsin.model.decision import DecisionReason
from tocsin.model.event import EventName
from tocsin.model.labels import parse_matcher
from tocsin.model.notification import GroupNotice
from tocsin.model.run import Details, RunError, Step
from tocsin.model.scenario import MailReporter
from tocsin.store import Store, alerts, events, query, runs, scenarios, schema
from tocsin.store.schema import Document, Moment
from tocsin.web.pages import Asked
from tocsin.web.reads import read_events
from tocsin.web.views import read_alerts, read_deliveries, read_overview, read_scenario_list, read_search, read_silences

POISONED = key("NIGHTLY")
OTHER = key("OTHER", project="FINANCE")  # in a group of its own
LATER = T0 + timedelta(hours=1)
CONFIG = config(
    receivers=(Receiver("ops", (channel("ops/slack"), channel("ops/dead"))),),
    reporters=(Reporter("ends", "ops", frozenset({EventName.RUN_FAILED, EventName.RUN_FINISHED})),),
    rules=(*DEFAULT_RULES, Rule("Stale", "stale", no_success_for=timedelta(hours=30))),
)


@dataclass
class Post:
    """Takes every message, but for the channel that refuses all."""

    name: str
    sent: list[Outgoing] = field(default_factory=list)
    concurrency = 4

    async def send(self, outgoing: Outgoing) -> result.SendResult:
        if self.name == "ops/dead":
            return result.refused("no such receiver")
        self.sent.append(outgoing)
        return result.delivered()

    async def close(self) -> None:
        pass


async def deliver(store: Store, now: HandClock, config: Config = CONFIG) -> list[Outgoing]:
    """What a sender that starts now delivers."""
    posts: dict[str, Post] = {}
    sender = Sender(
        store, holder="me", clock=now, metrics=DeliverMetrics(CollectorRegistry()), random=Random(1),
        connect=lambda one: posts.setdefault(one.name, Post(one.name)), wake=lambda: None,
    )  # fmt: skip
    for _ in range(5):
        await sender.step(now.now(), config)
        await sender.idle()
    await sender.close(timedelta(0))
    return [outgoing for post in posts.values() for outgoing in post.sent]


async def fill(store: Store) -> None:
    """At least one row in every table with documents, enums or moments."""
    world = await World(store, CONFIG).begin()
    await world.expect(T0 + timedelta(hours=20))
    failed = await world.run(T0, "FAILED")
    await world.step(T0 + minutes(2))
    await world.step(T0 + minutes(10))
    await deliver(store, HandClock(T0 + minutes(11)))
    await world.down(T0 + minutes(12), "prod")
    await world.step(T0 + minutes(13))
    await world.up(T0 + minutes(14), "prod")
    await world.step(T0 + minutes(15))
    await world.start(T0 + minutes(16))  # goes on
    await world.run(T0 + minutes(17), "FAILED", key("SECOND"))  # not decided yet
    assert failed.run is not None
    run = failed.run.key

    def more(connection: Any) -> None:
        error, step = RunError("refused", "ERR", "Oops", "build"), Step("s", "build", "build", "FAILED", None)
        runs.put_details(connection, Details(run, T0, error, (step,), "log", None))
        matcher = parse_matcher('project="NOTHING"')
        alerts.insert_silence(connection, [matcher], T0, T0 + timedelta(days=2), "ann", "quiet", T0)
        scenarios.put_mail_reporters(connection, [(POISONED, (MailReporter("r1", "mail", recipient="a@b"),))])
        events.withhold(connection, [("prod", "ops", failed.id)])

    await store.write(more)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import asyncio

    path = tmp_path_factory.mktemp("filled") / "tocsin.db"

    async def make() -> None:
        store = Store(f"sqlite:///{path}")
        await store.open()
        await fill(store)
        await store.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def store(filled: Path, tmp_path: Path) -> AsyncIterator[Store]:
    shutil.copy(filled, tmp_path / "tocsin.db")
    store = Store(f"sqlite:///{tmp_path / 'tocsin.db'}")
    await store.open()
    yield store
    await store.close()


# --- what is written over what ---------------------------------------------------------------------------------------

FOREIGN_DOCUMENTS = ['{"alien": true}', "no json at all", '["\\ud800"]', '[{"x": [null]}]', "", '{"n": 1e999999}']
ENUMS = {
    "nodes": ["down_reason"], "scenarios": ["last_outcome", "type"], "expected_starts": ["state"],
    "runs": ["outcome", "trigger_type"], "events": ["event"], "alerts": ["end_reason", "alertname"],
    "notification_log": ["reason"], "decisions": ["stage", "reason"], "outbox": ["kind", "state"],
    "attempts": ["outcome"], "rule_states": ["state"],
}  # fmt: skip
PARTS = {  # a word inside a document that a newer version knows
    ("events", "body"): ('"run.failed"', '"run.paused"'),
    ("outbox", "notice"): ('"run.failed"', '"run.paused"'),
    ("alerts", "labels"): ('"alertname"', '"alertgroup"'),
    ("groups", "labels"): ('"ScenarioFailed"', "17"),
    ("silences", "matchers"): ("project", "{"),
    ("rule_states", "state"): ('"failed"', '"unheard_of"'),
}


def poisons() -> Iterator[Any]:
    """(table, statement, parameters), with a name."""
    number = 0
    for table in schema.metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, Document):
                foreign = FOREIGN_DOCUMENTS[number % len(FOREIGN_DOCUMENTS)]
                yield poison(table, column, f"{column.name}={foreign}", "?", foreign)
                number += 1
        for name in ENUMS.get(table.name, ()):
            yield poison(table, table.c[name], f"{name}=alien", "?", "alien")
        for word, value in (("endless", 2**62), ("ancient", -(2**62))):
            moments = [one for one in table.columns if isinstance(one.type, Moment) and not one.primary_key]
            if moments:
                yield all_of(table, moments, f"moments {word}", value)
            numbers = [one for one in table.columns if plain_number(one) and not one.primary_key]
            if numbers:
                yield all_of(table, numbers, f"numbers {word}", value)
        for one in table.columns:
            if isinstance(one.type, Moment) and one.primary_key:
                yield poison(table, one, f"{one.name} endless", f'"{one.name}" + ?', 2**61)
        texts = [one for one in table.columns if type(one.type).__name__ == "Text" and not one.primary_key]
        if texts and table.name not in ("leases",):
            yield all_of(table, texts, "texts NUL", "a\0b")
            yield all_of(table, texts, "texts broken", "x", "CAST(x'61eda08062ff' AS TEXT)")
    for (name, column_name), (word, foreign) in PARTS.items():
        table = schema.metadata.tables[name]
        changed = f"replace(\"{column_name}\", '{word}', '{foreign}')"
        yield poison(table, table.c[column_name], f"{column_name} has {foreign}", changed)


def plain_number(column: Column[Any]) -> bool:
    return isinstance(column.type, Integer | BigInteger) and column.name not in ("seq", "n", "version")


def poison(table: Table, column: Column[Any], name: str, expression: str, *values: object) -> Any:
    statement = f'UPDATE "{table.name}" SET "{column.name}" = {expression} WHERE "{column.name}" IS NOT NULL'
    marks = pytest.mark.slow if "endless" in name else ()
    return pytest.param(table.name, statement, values, id=f"{table.name} {name}", marks=marks)


def all_of(table: Table, columns: list[Column[Any]], name: str, value: object, expression: str = "?") -> Any:
    changes = ", ".join(f'"{one.name}" = {expression}' for one in columns)
    values = (value,) * len(columns) if expression == "?" else ()
    statement = f'UPDATE "{table.name}" SET {changes}'
    return pytest.param(table.name, statement, values, id=f"{table.name} {name}", marks=pytest.mark.slow)


# --- what must go on -------------------------------------------------------------------------------------------------


async def everything(world: World, clock: HandClock) -> list[Outgoing]:
    """A process that starts, and all that it does for a quarter of an hour."""
    store = world.store
    watched = await store.read(scenarios.load_scenarios, "prod")
    await store.read(scenarios.scenario_progress, [one.key for one in watched])
    await store.write(scenarios.ensure_node, "prod", T0)
    await world.restart(clock.now())
    await world.node(up=True, backfilling=False, clock_offset_ms=0)
    await world.scenario(OTHER)
    await world.step(clock.now())
    await world.run(clock.now(), "FAILED", OTHER)
    sent: list[Outgoing] = []
    for _ in range(3):
        clock.forward(minutes=6)
        await world.step(clock.now())
    sent += await deliver(store, clock)
    clock.forward(days=2)
    await world.step(clock.now())
    return sent


async def lists(store: Store, clock: HandClock) -> None:
    now = clock.now()
    for wanted in ({}, {"tags": [""]}, {"severity": ["warning"]}):
        for read in (query.list_nodes, query.list_scenarios, query.list_runs, query.list_alerts, query.list_deliveries):
            await store.browse(read, wanted, 3)
        await store.browse(query.list_silences, wanted, 3, now=now)
        await store.browse(read_events, wanted if "severity" not in wanted else {"outcome": ["FAILED"]}, 3, 0)
    for page in (read_overview, read_alerts, read_scenario_list, read_deliveries, read_silences, read_search):
        await store.browse(page, Asked(MultiDict(q="S", state=""), {}, CONFIG, now))
    for one in (POISONED, OTHER):
        await store.browse(explain_run, one, None, CONFIG)
    await store.read(SnapshotReader().read, now, CONFIG)


@pytest.mark.parametrize(("table", "statement", "values"), [*poisons()])
async def test_a_foreign_value_stops_nobody(
    store: Store, table: str, statement: str, values: tuple[object, ...]
) -> None:
    await store.write(lambda connection: connection.exec_driver_sql(statement, values) and None)
    world, clock = World(store, CONFIG), HandClock(LATER)
    await lists(store, clock)
    sent = await everything(world, clock)
    await lists(store, clock)
    await prune_all(store, clock.now(), timedelta(days=1))
    alerts = await store.browse(query.list_alerts, {"scenario": ["OTHER"]}, 10)
    groups = [one.notification.notice for one in sent if isinstance(one.notification.notice, GroupNotice)]
    told = {notice.receiver for notice in groups if notice.group_labels.get("project") == "FINANCE"}
    assert told == {"ops"}
    assert [one.labels["alertname"] for one in alerts.items][-1:] == ["ScenarioFailed"]


async def test_a_row_is_reported_once_and_counted(store: Store) -> None:
    await store.write(lambda c: c.execute(text("UPDATE alerts SET annotations = '[]'")) and None)
    with capture_logs() as lines:
        for _ in range(3):
            await store.browse(query.list_alerts, {}, 10)
    about = [line for line in lines if line["event"] == "row_set_aside"]
    assert [line["table"] for line in about] == ["alerts"] * store.set_aside.counts()["alerts"]
    assert about[0]["reason"] == "document: Expected `object`, got `array`"


async def test_an_event_that_cannot_be_read_is_decided_as_unreadable_and_read_no_more(store: Store) -> None:
    broken = """UPDATE events SET body = replace(body, '"run.failed"', '"run.paused"') WHERE processed_at IS NULL"""
    await store.write(lambda c: c.execute(text(broken)) and None)
    world = World(store, CONFIG)
    await world.restart(LATER)
    await world.step(LATER)
    about = [one for one in await world.decisions() if one.reason is DecisionReason.UNREADABLE]
    assert len(about) == 1
    assert await store.read(events.undecided, 10) == []
    await world.restart(LATER)
    await world.step(LATER)
    assert [one for one in await world.decisions() if one.reason is DecisionReason.UNREADABLE] == about
