"""Rows of projects, scenarios and their expected starts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, literal_column, select, update

from tocsin.kit.clock import EPOCH
from tocsin.model.event import ScenarioFacts
from tocsin.model.run import ScenarioKey
from tocsin.store.schema import expected_starts, projects, scenarios
from tocsin.store.sql import Keyed, emptied, upsert

_PLACE = ("node", "project", "scenario")


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project in scope. ``missing`` counts the complete lists in a row that lacked it."""

    node: str
    project: str
    name: str | None
    in_scope_since: datetime
    missing: int = 0
    gone_at: datetime | None = None


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


@dataclass(frozen=True, slots=True)
class Past:
    """What a look must know of its scenario. Times are DSS's."""

    watched_since: datetime
    watermark: datetime
    cursor: datetime | None = None
    last_end: datetime | None = None
    last_outcome: str | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a good look leaves in a scenario's row."""

    key: ScenarioKey
    polled_at: datetime
    cursor: datetime | None
    last_end: datetime | None
    last_outcome: str | None
    reporter_failures: int = 0


# --- projects --------------------------------------------------------------------------------------------------------


def load_projects(connection: Connection, node: str) -> list[ProjectRow]:
    query = select(projects).where(projects.c.node == node).order_by(projects.c.project)
    return [ProjectRow(**row) for row in connection.execute(query).mappings()]


def put_projects(connection: Connection, rows: Sequence[ProjectRow]) -> None:
    """Write projects over what is known of them."""
    names = [column.name for column in projects.columns]
    changing = [name for name in names if name not in ("node", "project")]
    upsert(connection, projects, [{name: getattr(row, name) for name in names} for row in rows], changing)


# --- scenarios -------------------------------------------------------------------------------------------------------

_READ_IN_LISTS = ("name", "tags", "type", "active", "run_as", "status_read_at", "next_run")
_STATE = ("watched_since", "missing", "gone_at")


def load_scenarios(connection: Connection, node: str) -> list[ScenarioRow]:
    """All scenarios of a node, the gone ones too."""
    query = select(scenarios).where(scenarios.c.node == node)
    rows = connection.execute(query)
    names = tuple(rows.keys())
    return [_row(dict(zip(names, row, strict=True))) for row in emptied(connection, scenarios, rows)]


def pasts(connection: Connection, keys: Sequence[ScenarioKey]) -> dict[ScenarioKey, Past]:
    """What looks at these scenarios must know; one that is not in the store is absent."""
    return {ScenarioKey(*row[:3]): Past(*row[3:]) for row in _PASTS.rows(connection, keys)}


_WITHDRAWN = expected_starts.c.state == literal_column("'withdrawn'")
_PLACE_COLUMNS = [scenarios.c[name] for name in _PLACE]
_PAST = ("watched_since", "watermark", "cursor", "last_end", "last_outcome")
_PASTS = Keyed(select(*_PLACE_COLUMNS, *(scenarios.c[name] for name in _PAST)), _PLACE_COLUMNS)


def put_scenarios(connection: Connection, rows: Sequence[ScenarioRow]) -> None:
    """Write what lists and discovery say; what looks say (cursor, last run, watermark) stays as it is.

    Whether a scenario is backfilled is for looks and ``begin_backfill`` to say; one that was gone and is back is not.
    """
    back = [dict(zip((f"key_{name}" for name in _PLACE), row.key, strict=True)) for row in rows if not row.backfilled]
    if back:
        connection.execute(_BACK, back)
    upsert(connection, scenarios, [_columns(row) for row in rows], (*_READ_IN_LISTS, *_STATE))


_BACK = (
    update(scenarios)
    .where(*(scenarios.c[name] == bindparam(f"key_{name}") for name in _PLACE), scenarios.c.gone_at.is_not(None))
    .values(backfilled=False)
)


def scenarios_looked(connection: Connection, looked: Sequence[Looked]) -> None:
    """Write what good looks said. A scenario that was looked at is backfilled."""
    if not looked:
        return
    connection.execute(
        _LOOKED,
        [
            {
                "key_node": one.key.node,
                "key_project": one.key.project,
                "key_scenario": one.key.scenario,
                "new_polled_at": one.polled_at,
                "new_cursor": one.cursor,
                "new_last_end": one.last_end,
                "new_last_outcome": one.last_outcome,
                "failures": one.reporter_failures,
            }
            for one in looked
        ],
    )


_LOOKED = (
    update(scenarios)
    .where(*(scenarios.c[name] == bindparam(f"key_{name}") for name in _PLACE))
    .values(
        {
            name: bindparam(f"new_{name}", type_=scenarios.c[name].type)
            for name in ("polled_at", "cursor", "last_end", "last_outcome")
        }
        | {
            "reporter_failures": scenarios.c.reporter_failures + bindparam("failures", type_=BigInteger()),
            "backfilled": True,
        }
    )
)


def put_follows(connection: Connection, key: ScenarioKey, follows: tuple[tuple[str, str], ...]) -> None:
    """The (project, scenario) pairs whose ends trigger this scenario."""
    mine = [scenarios.c[name] == value for name, value in zip(_PLACE, key, strict=True)]
    connection.execute(update(scenarios).where(*mine).values(follows=follows))


def begin_backfill(connection: Connection, node: str) -> None:
    """All scenarios of a node wait for a look before their time rules may speak again."""
    mine = update(scenarios).where(scenarios.c.node == node, scenarios.c.gone_at.is_(None))
    connection.execute(mine.values(backfilled=False))


# --- expected starts -------------------------------------------------------------------------------------------------


def pending_starts(connection: Connection, node: str) -> dict[ScenarioKey, list[datetime]]:
    """The expected starts that neither came nor were withdrawn, by scenario, the earliest first."""
    query = select(*(expected_starts.c[name] for name in (*_PLACE, "at")))
    query = query.where(expected_starts.c.node == node, expected_starts.c.state == "pending")
    found: dict[ScenarioKey, list[datetime]] = {}
    for name, project, scenario, at in connection.execute(query.order_by(expected_starts.c.at)):
        found.setdefault(ScenarioKey(name, project, scenario), []).append(at)
    return found


def expect_starts(connection: Connection, starts: Iterable[tuple[ScenarioKey, datetime]], now: datetime) -> None:
    """Remember starts that DSS announces; one that was withdrawn is expected again, others stay as they are."""
    expected = {"state": "pending", "learned_at": now, "settled_at": None}
    rows = [dict(zip(_PLACE, key, strict=True)) | {"at": at} | expected for key, at in starts]
    upsert(connection, expected_starts, rows, (*expected,), where=_WITHDRAWN)


def settle_starts(connection: Connection, settled: Iterable[tuple[ScenarioKey, datetime, str]], now: datetime) -> None:
    """Mark pending starts as ``met`` or ``withdrawn``."""
    rows = [
        dict(zip((f"key_{name}" for name in _PLACE), key, strict=True)) | {"key_at": at, "new_state": state}
        for key, at, state in settled
    ]
    if not rows:
        return
    mine = [expected_starts.c[name] == bindparam(f"key_{name}") for name in (*_PLACE, "at")]
    statement = update(expected_starts).where(*mine, expected_starts.c.state == "pending")
    connection.execute(
        statement.values(state=bindparam("new_state", type_=expected_starts.c.state.type), settled_at=now), rows
    )


# --- rows ------------------------------------------------------------------------------------------------------------

_FIELDS = (
    *_READ_IN_LISTS,
    *_STATE,
    "backfilled",
    "follows",
    "watermark",
    "cursor",
    "polled_at",
    "last_end",
    "last_outcome",
)


def _columns(row: ScenarioRow) -> dict[str, object]:
    return dict(zip(_PLACE, row.key, strict=True)) | {name: getattr(row, name) for name in _FIELDS}


def _row(fields: Mapping[str, Any]) -> ScenarioRow:
    key = ScenarioKey(fields["node"], fields["project"], fields["scenario"])
    return ScenarioRow(key, **{name: fields[name] for name in _FIELDS})
