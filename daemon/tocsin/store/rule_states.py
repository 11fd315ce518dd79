"""Rows of what rules remember, and when time alone may change what they say."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, func, select, update

from tocsin.kit.clock import to_ms
from tocsin.model.rule_state import STATE_VERSION, AnyRuleState
from tocsin.store.schema import document_text, nodes, rule_states
from tocsin.store.sql import SCENARIO, BulkWrite, Keyed, bulk_upsert, columns, has_key, set_aside

_DECODER: msgspec.json.Decoder[AnyRuleState] = msgspec.json.Decoder(AnyRuleState)


class StateKey(NamedTuple):
    """One rule's memory of one scenario, or of a node: then ``project`` and ``scenario`` are empty."""

    rule: str
    node: str
    project: str = ""
    scenario: str = ""


class RuleStateRow(msgspec.Struct, frozen=True):
    """A row. ``state`` is None when another version of Tocsin wrote it in a way that this one cannot read."""

    key: StateKey
    state: AnyRuleState | None
    due_at: datetime | None = None


_KEY = columns(rule_states, *StateKey._fields)
_DATA = ("version", "state", "due_at")
_ROW = select(*_KEY, *columns(rule_states, *_DATA))
_UPSERT = bulk_upsert(rule_states, [*StateKey._fields, *_DATA], _DATA)
_DELETE = BulkWrite(
    [f"key_{name}" for name in StateKey._fields], lambda _: delete(rule_states).where(has_key(rule_states))
)
_OF_PLACES = Keyed(_ROW, columns(rule_states, *SCENARIO))


def load_states(connection: Connection, places: Collection[tuple[str, str, str]]) -> dict[StateKey, RuleStateRow]:
    """What all rules remember of these (node, project, scenario)."""
    return {row.key: row for row in _to_rows(connection, _OF_PLACES.rows(connection, places))}


def due_states(connection: Connection, now: datetime, limit: int) -> list[RuleStateRow]:
    """What is due. Rows about scenarios of a node that is down or reading back wait until it is clear."""
    clear = (rule_states.c.scenario == "") | (nodes.c.up.is_(True) & nodes.c.backfilling.is_(False))
    query = _ROW.join_from(rule_states, nodes, nodes.c.node == rule_states.c.node, isouter=True)
    query = query.where(rule_states.c.due_at <= now, clear).order_by(rule_states.c.due_at).limit(limit)
    return _to_rows(connection, connection.execute(query))


def next_due(connection: Connection, after: datetime) -> datetime | None:
    """The earliest due time later than ``after``."""
    query = select(func.min(rule_states.c.due_at)).where(rule_states.c.due_at > after)
    moment: datetime | None = connection.execute(query).scalar_one_or_none()
    return moment


def save_states(connection: Connection, rows: Sequence[RuleStateRow]) -> None:
    """Write states over older ones; a state of None takes the row away."""
    _DELETE.execute(connection, [row.key for row in rows if row.state is None])
    _UPSERT.execute(connection, [
        (*row.key, STATE_VERSION, document_text(row.state), None if row.due_at is None else to_ms(row.due_at))
        for row in rows
        if row.state is not None
    ])  # fmt: skip


def stored_rules(connection: Connection) -> set[str]:
    """The rules that remember something."""
    return set(connection.execute(select(rule_states.c.rule).distinct()).scalars())


def states_of_rules(connection: Connection, rules: Collection[str]) -> list[RuleStateRow]:
    """All that these rules remember."""
    query = _ROW.where(rule_states.c.rule.in_(sorted(rules)))
    return _to_rows(connection, connection.execute(query)) if rules else []


def stored_keys(connection: Connection, rules: Collection[str]) -> set[StateKey]:
    """What these rules have a row for."""
    query = select(*_KEY).where(rule_states.c.rule.in_(sorted(rules)))
    return {StateKey(*row) for row in connection.execute(query)}


def make_due(connection: Connection, rules: Iterable[str], now: datetime) -> None:
    """Have these rules evaluated anew: their due times were those of another configuration."""
    later = update(rule_states).where(rule_states.c.rule.in_(sorted(rules)), rule_states.c.due_at > now)
    connection.execute(later.values(due_at=now))


def forget_rules(connection: Connection, keep: Iterable[str]) -> int:
    """Take away the rows of rules that are not in ``keep``; returns how many."""
    return connection.execute(delete(rule_states).where(rule_states.c.rule.not_in(sorted(keep)))).rowcount


def forget_nodes(connection: Connection, keep: Iterable[str]) -> int:
    """Take away all that rules remember of nodes that are not in ``keep``; returns how many rows."""
    return connection.execute(delete(rule_states).where(rule_states.c.node.not_in(sorted(keep)))).rowcount


def _to_rows(connection: Connection, rows: Iterable[Any]) -> list[RuleStateRow]:
    read: list[RuleStateRow] = []
    for row in rows:
        *key, version, text, due_at = row
        state = None
        try:
            if version > STATE_VERSION:
                raise ValueError(f"of version {version}, this one knows {STATE_VERSION}")
            state = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            set_aside(connection, rule_states, row, error)
        read.append(RuleStateRow(StateKey(*key), state, due_at))
    return read
