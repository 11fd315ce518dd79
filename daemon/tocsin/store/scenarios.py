"""Rows of nodes, projects and scenarios, with DSS's own mail reporters; and what rules read of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Connection, bindparam, func, literal_column, select, true, update

from tocsin.kit.clock import EPOCH, to_ms
from tocsin.model.event import ScenarioFacts
from tocsin.model.run import ScenarioKey
from tocsin.model.scenario import MailReporter, NodeView, ScenarioView
from tocsin.store.schema import mail_reporters, nodes, projects, scenarios
from tocsin.store.sql import (
    SCENARIO,
    BulkWrite,
    Keyed,
    columns,
    emptied,
    has_key,
    insert,
    key_values,
    maker,
    readable,
    shallow,
    shared_key,
    upsert,
)

# --- nodes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it was last seen. ``watched_since`` and ``resumed_at`` are on DSS's clock, the others on Tocsin's."""

    node: str
    watched_since: datetime
    up: bool | None = None  # None: neither answered nor failed yet
    down_reason: str | None = None
    down_since: datetime | None = None
    down_event_id: str | None = None
    problem: str | None = None
    last_ok_at: datetime | None = None
    clock_offset_ms: int = 0  # DSS's clock minus ours
    clock_offset_least_ms: int | None = None  # the least of it for hours
    dss_version: str | None = None
    node_type: str | None = None
    sweep_trusted: bool = True
    last_sweep_at: datetime | None = None
    last_discovery_at: datetime | None = None
    backfilling: bool = False
    resumed_at: datetime | None = None
    scope: str | None = None


_to_node = maker(NodeRow)
_MOST_OFFSET_MS = 100 * 365 * 86_400_000  # of a clock; what a damaged row says beyond it is cut
_VIEWED_OF_NODE = (
    "node", "up", "backfilling", "down_since", "down_reason", "clock_offset_ms", "clock_offset_least_ms", "problem",
)  # fmt: skip


def ensure_node(connection: Connection, node: str, watched_since: datetime) -> NodeRow:
    """The node's row; a new one has this ``watched_since``."""
    fresh = insert(connection, nodes).values(node=node, watched_since=watched_since)
    connection.execute(fresh.on_conflict_do_nothing())
    row = get_node(connection, node)
    assert row is not None
    return row


def get_node(connection: Connection, node: str) -> NodeRow | None:
    row = connection.execute(select(nodes).where(nodes.c.node == node)).one_or_none()
    return None if row is None else _to_node(row)


def all_nodes(connection: Connection) -> list[NodeRow]:
    return list(map(_to_node, connection.execute(select(nodes).order_by(nodes.c.node))))


def save_node(connection: Connection, row: NodeRow) -> None:
    """Write the whole row of a node that exists; only its watcher does."""
    connection.execute(update(nodes).where(nodes.c.node == row.node).values(shallow(row)))


def node_views(connection: Connection) -> dict[str, NodeView]:
    """Every node, as rules see it."""

    def offset(milliseconds: int) -> timedelta:
        return timedelta(milliseconds=min(max(milliseconds, -_MOST_OFFSET_MS), _MOST_OFFSET_MS))

    return {
        node: NodeView(node, *others, offset(now), None if least is None else offset(least), problem)  # type: ignore[call-arg]
        for node, *others, now, least, problem in connection.execute(select(*columns(nodes, *_VIEWED_OF_NODE)))
    }


# --- projects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project in scope. ``missing`` counts the complete lists in a row that lacked it."""

    node: str
    project: str
    name: str | None
    in_scope_since: datetime
    missing: int = 0
    gone_at: datetime | None = None


def load_projects(connection: Connection, node: str) -> list[ProjectRow]:
    query = select(projects).where(projects.c.node == node).order_by(projects.c.project)
    return list(map(maker(ProjectRow), connection.execute(query)))


def put_projects(connection: Connection, rows: Sequence[ProjectRow]) -> None:
    """Write projects over what is known of them."""
    newer = [field.name for field in fields(ProjectRow) if field.name not in ("node", "project")]
    upsert(connection, projects, [shallow(row) for row in rows], newer)


# --- scenarios --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScenarioRow:
    """A scenario as it was last read. Times are DSS's, but for ``polled_at``, ``status_read_at`` and ``gone_at``."""

    key: ScenarioKey
    name: str
    tags: tuple[str, ...]
    type: str | None
    active: bool | None
    run_as: str | None
    follows: tuple[tuple[str, str], ...]
    watched_since: datetime
    watermark: datetime = EPOCH
    cursor: datetime | None = None
    polled_at: datetime | None = None
    status_read_at: datetime | None = None
    next_run: datetime | None = None
    last_end: datetime | None = None
    last_outcome: str | None = None
    missing: int = 0
    gone_at: datetime | None = None
    backfilled: bool = False

    @property
    def facts(self) -> ScenarioFacts:
        return ScenarioFacts(self.key.scenario, self.name, self.tags, self.type)


class ScenarioProgress(msgspec.Struct, frozen=True):
    """How far a scenario's runs were read before a poll. Times are DSS's."""

    watched_since: datetime
    watermark: datetime
    cursor: datetime | None = None
    last_end: datetime | None = None
    last_outcome: str | None = None


class PolledScenario(msgspec.Struct, frozen=True):
    """What a good poll leaves in a scenario's row."""

    key: ScenarioKey
    polled_at: datetime
    cursor: datetime | None
    last_end: datetime | None
    last_outcome: str | None
    reporter_failures: int = 0  # new ones


_KEY = columns(scenarios, *SCENARIO)
_FIELDS = [field.name for field in fields(ScenarioRow) if field.name != "key"]
_READ_IN_LISTS = ("name", "tags", "type", "active", "run_as", "status_read_at", "next_run")
_PROGRESS = Keyed(select(*_KEY, *columns(scenarios, *ScenarioProgress.__struct_fields__)), _KEY)
_VIEWED = (
    *_KEY,
    *columns(scenarios, "name", "tags", "active"),
    scenarios.c.gone_at.is_not(None),
    *columns(scenarios, "watched_since", "polled_at", "status_read_at", "next_run", "backfilled"),
)
_VIEWS = Keyed(select(*_VIEWED), _KEY)
_POLLED = ("polled_at", "cursor", "last_end", "last_outcome")
_FAILURES = scenarios.c.reporter_failures + bindparam("failures", type_=BigInteger())
_SAVE_POLL = BulkWrite(
    [*(f"new_{name}" for name in _POLLED), "failures", *(f"key_{name}" for name in SCENARIO)],
    lambda _: (
        update(scenarios)
        .where(has_key(scenarios))
        .values({name: bindparam(f"new_{name}", type_=scenarios.c[name].type) for name in _POLLED})
        .values(reporter_failures=_FAILURES, backfilled=true())
    ),
)


def count_known(connection: Connection) -> tuple[int, int]:
    """How many projects and scenarios of all nodes are there."""
    return tuple(  # type: ignore[return-value] # of the two tables
        connection.execute(select(func.count()).select_from(table).where(table.c.gone_at.is_(None))).scalar_one()
        for table in (projects, scenarios)
    )


def load_scenarios(connection: Connection, node: str) -> list[ScenarioRow]:
    """All scenarios of a node, the gone ones too."""
    query = select(*_KEY, *columns(scenarios, *_FIELDS)).where(scenarios.c.node == node)
    rows = emptied(connection, scenarios, connection.execute(query))
    return [ScenarioRow(shared_key(*row[:3]), *row[3:]) for row in rows]


def put_scenarios(connection: Connection, rows: Sequence[ScenarioRow]) -> None:
    """Write what lists and discovery say; what polls say (cursor, last run, watermark) stays as it is.

    Whether a scenario is backfilled is for polls and ``begin_backfill`` to say; one that was gone and is back is not.
    """
    back = [key_values(scenarios, row.key, "key_") for row in rows if not row.backfilled]
    if back:
        returned = update(scenarios).where(has_key(scenarios), scenarios.c.gone_at.is_not(None))
        connection.execute(returned.values(backfilled=False), back)
    values = [{name: getattr(row, name) for name in _FIELDS} | key_values(scenarios, row.key) for row in rows]
    upsert(connection, scenarios, values, (*_READ_IN_LISTS, "watched_since", "missing", "gone_at"))


def scenario_progress(connection: Connection, keys: Sequence[ScenarioKey]) -> dict[ScenarioKey, ScenarioProgress]:
    """What polls of these scenarios must know; one that is not in the store is absent."""
    return {ScenarioKey(*row[:3]): ScenarioProgress(*row[3:]) for row in _PROGRESS.rows(connection, keys)}


def save_polls(connection: Connection, polled: Sequence[PolledScenario]) -> None:
    """Write what good polls said. A scenario that was polled is backfilled."""
    rows = []
    for poll in polled:
        moments = (poll.polled_at, poll.cursor, poll.last_end)
        plain = (None if at is None else to_ms(at) for at in moments)
        rows.append((*plain, poll.last_outcome, poll.reporter_failures, *poll.key))
    _SAVE_POLL.execute(connection, rows)


def put_follows(connection: Connection, key: ScenarioKey, follows: tuple[tuple[str, str], ...]) -> None:
    """The (project, scenario) pairs whose ends trigger this scenario."""
    connection.execute(update(scenarios).where(has_key(scenarios, key)).values(follows=follows))


def begin_backfill(connection: Connection, node: str) -> None:
    """All scenarios of a node wait for a poll before their time rules are evaluated again."""
    present = (scenarios.c.node == node, scenarios.c.gone_at.is_(None))
    connection.execute(update(scenarios).where(*present).values(backfilled=False))


def scenario_views(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, ScenarioView]:
    """These scenarios, as rules see them; one without a row is absent."""
    return {view.key: view for view in _to_views(connection, _VIEWS.rows(connection, keys))}


def watched_scenarios(connection: Connection) -> list[ScenarioView]:
    """Every scenario that is not gone."""
    return _to_views(connection, connection.execute(select(*_VIEWED).where(scenarios.c.gone_at.is_(None))))


def _to_views(connection: Connection, rows: Iterable[Any]) -> list[ScenarioView]:
    return [ScenarioView(ScenarioKey(*row[:3]), *row[3:]) for row in emptied(connection, scenarios, rows)]


# --- DSS's own mail reporters -----------------------------------------------------------------------------------------

_REPORTERS_KEY = columns(mail_reporters, *SCENARIO)
_REPORTERS = Keyed(select(*_REPORTERS_KEY, mail_reporters.c.reporters), _REPORTERS_KEY)
_CHANGED = mail_reporters.c.reporters != literal_column("excluded.reporters")


def put_mail_reporters(connection: Connection, rows: Sequence[tuple[ScenarioKey, tuple[MailReporter, ...]]]) -> None:
    """Write what these scenarios have now; rows that say so already are not touched."""
    new = [key_values(mail_reporters, key) | {"reporters": reporters} for key, reporters in rows]
    upsert(connection, mail_reporters, new, ("reporters",), where=_CHANGED)


def get_mail_reporters(
    connection: Connection, keys: Collection[ScenarioKey]
) -> dict[ScenarioKey, tuple[MailReporter, ...]]:
    """The mail reporters of these scenarios; one whose reporters were never read is absent."""
    rows = _REPORTERS.rows(connection, keys)
    return dict(readable(connection, mail_reporters, rows, lambda row: (ScenarioKey(*row[:3]), row[3])))
