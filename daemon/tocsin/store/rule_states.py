"""Rows of what rules remember, and when time alone may change what they say."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter
from sqlalchemy import Connection, delete, func, select

from tocsin.model.rule_state import STATE_VERSION, AnyRuleState
from tocsin.store.schema import nodes, rule_states
from tocsin.store.sql import SCENARIO, Keyed, columns, has_key, key_values, set_aside, upsert

_STATE: TypeAdapter[AnyRuleState] = TypeAdapter(Annotated[AnyRuleState, Field(discriminator="kind")])


class StateKey(NamedTuple):
    """One rule's memory of one scenario, or of a node: then ``project`` and ``scenario`` are empty."""

    rule: str
    node: str
    project: str = ""
    scenario: str = ""


@dataclass(frozen=True, slots=True)
class RuleStateRow:
    """A row. ``state`` is None when another version of Tocsin wrote it in a way that this one cannot read."""

    key: StateKey
    state: AnyRuleState | None
    due_at: datetime | None = None


_KEY = columns(rule_states, *StateKey._fields)
_ROW = select(*_KEY, *columns(rule_states, "version", "state", "due_at"))
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
    gone = [key_values(rule_states, row.key, "key_") for row in rows if row.state is None]
    if gone:
        connection.execute(delete(rule_states).where(has_key(rule_states)), gone)
    values = [
        key_values(rule_states, row.key)
        | {"version": STATE_VERSION, "state": _STATE.dump_json(row.state).decode(), "due_at": row.due_at}
        for row in rows
        if row.state is not None
    ]
    upsert(connection, rule_states, values, ("version", "state", "due_at"))


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
            state = _STATE.validate_json(text)
        except ValueError as error:
            set_aside(connection, rule_states, row, error)
        read.append(RuleStateRow(StateKey(*key), state, due_at))
    return read
