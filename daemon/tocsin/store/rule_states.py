"""Rows of what rules remember, and when time alone may change their minds."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter
from sqlalchemy import Connection, bindparam, delete, func, select

from tocsin.model.rule_state import STATE_VERSION, AnyRuleState
from tocsin.store.schema import nodes, rule_states
from tocsin.store.sql import Keyed, set_aside, upsert

_STATE: TypeAdapter[AnyRuleState] = TypeAdapter(Annotated[AnyRuleState, Field(discriminator="kind")])
_COLUMNS = (
    rule_states.c.rule,
    rule_states.c.node,
    rule_states.c.project,
    rule_states.c.scenario,
    rule_states.c.version,
    rule_states.c.state,
    rule_states.c.due_at,
)

_LOADED = Keyed(select(*_COLUMNS), (rule_states.c.node, rule_states.c.project, rule_states.c.scenario))


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


def load(connection: Connection, places: Collection[tuple[str, str, str]]) -> dict[StateKey, RuleStateRow]:
    """What all rules remember of these (node, project, scenario)."""
    found: dict[StateKey, RuleStateRow] = {}
    for row in _LOADED.rows(connection, places):
        one = _remembered(connection, row)
        found[one.key] = one
    return found


def due(connection: Connection, now: datetime, limit: int) -> list[RuleStateRow]:
    """What is due. Rows about scenarios of a node that is down or reading back wait until it is clear."""
    clear = (rule_states.c.scenario == "") | (nodes.c.up.is_(True) & nodes.c.backfilling.is_(False))
    query = (
        select(*_COLUMNS)
        .join_from(rule_states, nodes, nodes.c.node == rule_states.c.node, isouter=True)
        .where(rule_states.c.due_at <= now, clear)
        .order_by(rule_states.c.due_at)
        .limit(limit)
    )
    return [_remembered(connection, row) for row in connection.execute(query)]


def next_due(connection: Connection, after: datetime) -> datetime | None:
    """The earliest due time later than ``after``."""
    query = select(func.min(rule_states.c.due_at)).where(rule_states.c.due_at > after)
    found: datetime | None = connection.execute(query).scalar_one_or_none()
    return found


def save(connection: Connection, states: Sequence[RuleStateRow]) -> None:
    """Write states over older ones; a state of None takes the row away."""
    gone = [one.key._asdict() for one in states if one.state is None]
    if gone:
        connection.execute(
            delete(rule_states).where(*(rule_states.c[name] == bindparam(f"k_{name}") for name in StateKey._fields)),
            [{f"k_{name}": value for name, value in key.items()} for key in gone],
        )
    kept = [_row(one) for one in states if one.state is not None]
    upsert(connection, rule_states, kept, ("version", "state", "due_at"))


def rules(connection: Connection) -> set[str]:
    """The rules that remember something."""
    return set(connection.execute(select(rule_states.c.rule).distinct()).scalars())


def of_rules(connection: Connection, wanted: Collection[str]) -> list[RuleStateRow]:
    """All that these rules remember."""
    if not wanted:
        return []
    query = select(*_COLUMNS).where(rule_states.c.rule.in_(sorted(wanted)))
    return [_remembered(connection, row) for row in connection.execute(query)]


def forget_rules(connection: Connection, keep: Iterable[str]) -> int:
    """Take away the rows of rules that are not in ``keep``; answers how many."""
    return connection.execute(delete(rule_states).where(rule_states.c.rule.not_in(sorted(keep)))).rowcount


def forget_nodes(connection: Connection, keep: Iterable[str]) -> int:
    """Take away all that rules remember of nodes that are not in ``keep``; answers how many rows."""
    return connection.execute(delete(rule_states).where(rule_states.c.node.not_in(sorted(keep)))).rowcount


def known(connection: Connection, rules: Collection[str]) -> set[StateKey]:
    """What these rules have a row for."""
    query = select(rule_states.c.rule, rule_states.c.node, rule_states.c.project, rule_states.c.scenario)
    return {StateKey(*row) for row in connection.execute(query.where(rule_states.c.rule.in_(sorted(rules))))}


def _remembered(connection: Connection, row: Sequence[Any]) -> RuleStateRow:
    rule, node, project, scenario, version, text, due_at = row
    return RuleStateRow(StateKey(rule, node, project, scenario), _state(connection, row, version, text), due_at)


def _state(connection: Connection, row: Sequence[Any], version: int, text: str) -> AnyRuleState | None:
    try:
        if version <= STATE_VERSION:
            return _STATE.validate_json(text)
        raise ValueError(f"of version {version}, this one knows {STATE_VERSION}")
    except ValueError as error:
        set_aside(connection, rule_states, row, error)
        return None


def _row(one: RuleStateRow) -> dict[str, object]:
    assert one.state is not None
    return one.key._asdict() | {
        "version": STATE_VERSION,
        "state": _STATE.dump_json(one.state).decode(),
        "due_at": one.due_at,
    }
