"""What the console's pages read beyond the lists of the API: counts, sorted and searched lists, a scenario's history.

Every statement is bounded or walks an index. What is filtered and sorted over all rows is read as few raw columns;
whole rows are read for the page that is shown.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from secrets import token_hex
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Subquery, Text, and_, func, or_, select, tuple_, type_coerce
from sqlalchemy.sql.elements import UnaryExpression

from tocsin.kit.clock import to_ms
from tocsin.model.labels import Labels
from tocsin.model.run import BAD_OUTCOMES, GOOD_OUTCOMES, RunError, RunKey, ScenarioKey
from tocsin.store.alerts import to_silence
from tocsin.store.query import (
    AlertRecord,
    DeliveryRecord,
    RunRecord,
    ScenarioRecord,
    SilenceRecord,
    alert_record,
    delivery_records,
    silence_record,
    to_run_records,
)
from tocsin.store.runs import get_details
from tocsin.store.schema import alerts, decisions, events, moment_of, outbox, runs, scenarios, silences
from tocsin.store.schema import keys as shared_keys
from tocsin.store.sql import SCENARIO, Keyed, bulk_upsert, columns, equals, is_key, maker, plain, readable

BARS = 20  # runs of a scenario that a list shows
MOST_LISTED = 5_000  # notifications that a filter looks at, the newest first
MOST_ENDED = 2_000  # alerts that have ended and are looked at
_MOST_FIRING = 20_000
_FIRING = alerts.c.ends_at.is_(None)
_PLACE = columns(scenarios, *SCENARIO)


def _contains(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    return type_coerce(column, Text).icontains(text, autoescape=True)


# --- every page ---------------------------------------------------------------------------------------------------------


def count_firing(connection: Connection) -> int:
    return connection.scalar(select(func.count()).where(_FIRING)) or 0


def change_mark(connection: Connection) -> str:
    """A text that differs once something has happened that pages show."""
    newest = (events.c.seq, decisions.c.n, outbox.c.n, plain(outbox.c.settled_at), plain(silences.c.ends_at))
    parts = [
        *(select(func.max(column)) for column in newest),
        select(func.count()).select_from(silences),
        select(func.count(), func.count(type_coerce(alerts.c.acknowledged, Text))).where(_FIRING),
    ]
    return "/".join(str(value) for part in parts for row in connection.execute(part) for value in row)


# --- alerts -------------------------------------------------------------------------------------------------------------


class ListedAlert(NamedTuple):
    """What a list of alerts is filtered, sorted and counted by. ``acknowledged``: until when in epoch milliseconds, 0 for
    the end of the alert, None where nobody has it."""

    id: str
    labels: Labels
    starts_ms: int
    ends_ms: int | None
    acknowledged: int | None


class _Until(msgspec.Struct):
    until: datetime | None = None


_read_labels: Callable[[str], Labels] = lru_cache(8192)(msgspec.json.Decoder(dict[str, str]).decode)  # pages ask often
_read_until = msgspec.json.Decoder(_Until).decode


_NEWEST_ENDED = select(alerts.c.id).where(alerts.c.ends_at.is_not(None)).order_by(alerts.c.ends_at.desc(), alerts.c.id)


def is_ended_cut(connection: Connection) -> bool:
    """Whether more alerts have ended than lists look at."""
    return connection.scalar(_NEWEST_ENDED.limit(1).offset(MOST_ENDED)) is not None


def listed_alerts(connection: Connection, *, firing: bool, text: str = "") -> list[ListedAlert]:
    """The alerts that fire, or the newest of those that have ended; ``text`` stands in labels, annotations or the id."""
    labels, acknowledged = (type_coerce(column, Text) for column in (alerts.c.labels, alerts.c.acknowledged))
    query = select(alerts.c.id, labels, plain(alerts.c.starts_at), plain(alerts.c.ends_at), acknowledged)
    if firing:
        query = query.where(_FIRING).limit(_MOST_FIRING)
    else:
        newest = _NEWEST_ENDED.limit(MOST_ENDED).subquery()
        query = query.join(newest, newest.c.id == alerts.c.id).order_by(alerts.c.ends_at.desc(), alerts.c.id)
    if text:
        query = query.where(or_(*(_contains(alerts.c[name], text) for name in ("labels", "annotations", "id"))))
    found = []
    for id_, labels_text, starts, ends, acknowledged_text in connection.execute(query).all():
        try:
            until = acknowledged_text and _read_until(acknowledged_text).until
            by = None if acknowledged_text is None else to_ms(until) if until else 0
            found.append(ListedAlert(id_, _read_labels(labels_text), starts, ends, by))
        except ValueError:  # set aside where alerts are read whole
            continue
    return found


def alerts_by_id(connection: Connection, ids: Sequence[str]) -> list[AlertRecord]:
    """Alerts in this order; those that are unknown or cannot be read are left out."""
    rows = connection.execute(select(alerts).where(alerts.c.id.in_(ids)))
    by_id = {alert.id: alert for alert in readable(connection, alerts, rows, alert_record)}
    return [by_id[id_] for id_ in ids if id_ in by_id]


def alerts_of(connection: Connection, place: ScenarioKey, limit: int) -> list[AlertRecord]:
    """A scenario's alerts, those that fire first, then the newest; of a node itself where both names are empty."""
    query = select(alerts).where(equals(alerts, SCENARIO, place))
    rows = connection.execute(query.order_by(_FIRING.desc(), alerts.c.starts_at.desc()).limit(limit))
    return readable(connection, alerts, rows, alert_record)


# --- scenarios ----------------------------------------------------------------------------------------------------------


class ScenarioCounts(NamedTuple):
    watched: int
    active: int


@dataclass(frozen=True, slots=True)
class ScenarioFilter:
    """What a list of scenarios is narrowed to. ``state`` is one of ``SCENARIO_STATES``; empty: all that are not gone."""

    state: str = ""
    text: str = ""  # in its name, id or project
    node: str = ""
    project: str = ""
    sort: str = "state"
    keep: Callable[[ScenarioKey, str, tuple[str, ...]], bool] | None = None  # of its key, name and tags


@dataclass(frozen=True, slots=True)
class BarRun:
    """A run as a bar of a list; ``seconds`` None while it runs."""

    run_id: str
    start: datetime
    seconds: float | None
    outcome: str | None


def _state_conditions() -> dict[str, ColumnElement[bool]]:
    key = tuple_(*_PLACE)
    is_open = and_(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    return {
        "failing": scenarios.c.last_outcome.in_(BAD_OUTCOMES),
        "firing": key.in_(select(*columns(alerts, *SCENARIO)).where(_FIRING)),
        "running": key.in_(select(*columns(runs, *SCENARIO)).where(is_open)),
        "ok": scenarios.c.last_outcome.in_(sorted(GOOD_OUTCOMES)),
        "inactive": scenarios.c.active.is_(False),
    }


_IN_STATE = _state_conditions()
SCENARIO_STATES = (*_IN_STATE, "gone")


def _ordering(sort: str) -> list[ColumnElement[Any] | UnaryExpression[Any]]:
    by_name: list[ColumnElement[Any]] = [func.lower(scenarios.c.name), *_PLACE]
    column: ColumnElement[Any]
    match sort.removeprefix("-"):
        case "project":
            return (
                [by_name[1].desc(), by_name[2].desc(), *by_name] if sort.startswith("-") else [*by_name[1:3], *by_name]
            )
        case "next":
            column = plain(scenarios.c.next_run)
        case "last":
            column = plain(scenarios.c.last_end)
        case "state":
            worst = scenarios.c.last_outcome.in_(BAD_OUTCOMES)
            parts: list[ColumnElement[Any]] = [worst, scenarios.c.active]
            return [*((part if sort.startswith("-") else part.desc()).nulls_last() for part in parts), *by_name]
        case _:
            return [by_name[0].desc() if sort.startswith("-") else by_name[0], *_PLACE]
    return [(column.desc() if sort.startswith("-") else column).nulls_last(), *by_name]


def count_scenarios(connection: Connection, watched: Collection[str]) -> ScenarioCounts:
    """How many scenarios of these nodes are watched, and how many of them are switched on."""
    query = select(scenarios.c.active, func.count()).where(
        scenarios.c.gone_at.is_(None), scenarios.c.node.in_(sorted(watched))
    )
    by_switch = {row[0]: row[1] for row in connection.execute(query.group_by(scenarios.c.active))}
    return ScenarioCounts(sum(by_switch.values()), by_switch.get(True, 0))


_tags = lru_cache(4096)(msgspec.json.Decoder(tuple[str, ...]).decode)  # many scenarios have the same
_to_scenario = maker(ScenarioRecord)
_of_keys = Keyed(select(scenarios), _PLACE)


def find_scenarios(
    connection: Connection, wanted: ScenarioFilter, first: int, limit: int
) -> tuple[list[ScenarioRecord], int]:
    """A part of the scenarios that are wanted, and how many there are."""
    gone = scenarios.c.gone_at.is_not(None) if wanted.state == "gone" else scenarios.c.gone_at.is_(None)
    conditions: list[ColumnElement[bool]] = [gone]
    if wanted.state in _IN_STATE:
        conditions.append(_IN_STATE[wanted.state])
    for column, value in ((scenarios.c.node, wanted.node), (scenarios.c.project, wanted.project)):
        if value:
            conditions.append(column == value)
    if wanted.text:
        named = columns(scenarios, "name", "scenario", "project")
        conditions.append(or_(*(_contains(column, wanted.text) for column in named)))
    ordered = select(scenarios).where(*conditions).order_by(*_ordering(wanted.sort))
    if wanted.keep is None:
        total = connection.scalar(select(func.count()).select_from(scenarios).where(*conditions)) or 0
        rows = connection.execute(ordered.offset(first).limit(limit))
        return readable(connection, scenarios, rows, _to_scenario), total
    labelled = ordered.with_only_columns(*_PLACE, scenarios.c.name, type_coerce(scenarios.c.tags, Text))
    kept = [
        ScenarioKey(*place)
        for *place, name, tags in connection.execute(labelled).all()
        if wanted.keep(ScenarioKey(*place), name, _tags(tags))
    ]
    found = scenarios_by_key(connection, kept[first : first + limit])
    return [found[key] for key in kept[first : first + limit] if key in found], len(kept)


def scenarios_by_key(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, ScenarioRecord]:
    rows = _of_keys.rows(connection, keys)
    found = readable(connection, scenarios, rows, _to_scenario)
    return {ScenarioKey(row.node, row.project, row.scenario): row for row in found}


def _newest(keys: Subquery) -> Select[Any]:
    """Two walks along the primary key for each scenario: to the oldest run of a list, and back from it."""
    other = runs.alias()
    starts = select(plain(other.c.start)).where(is_key(other, keys)).order_by(other.c.start.desc())
    oldest = starts.limit(1).offset(BARS - 1).correlate(keys).scalar_subquery()
    shown = columns(runs, *SCENARIO, "run_id", "outcome")
    return (
        select(*shown, plain(runs.c.start), plain(runs.c.end))
        .join_from(keys, runs, is_key(runs, keys))
        .where(plain(runs.c.start) >= func.coalesce(oldest, plain(runs.c.start)))
        .order_by(runs.c.start)
    )


_BARS = Keyed(_newest, columns(runs, *SCENARIO))


def newest_runs(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, list[BarRun]]:
    """The last runs of each of these scenarios, the oldest first."""
    by_key: dict[ScenarioKey, list[BarRun]] = {}
    for *place, run_id, outcome, start, end in _BARS.rows(connection, keys):
        seconds = None if end is None else max(end - start, 0) / 1000
        by_key.setdefault(ScenarioKey(*place), []).append(BarRun(run_id, moment_of(start), seconds, outcome))
    return by_key


# --- runs ---------------------------------------------------------------------------------------------------------------


def runs_of(connection: Connection, place: ScenarioKey, limit: int, before: datetime | None = None) -> list[RunRecord]:
    """The newest runs of a scenario with their first errors, those that began before a moment."""
    query = select(runs).where(equals(runs, SCENARIO, place))
    if before is not None:
        query = query.where(runs.c.start < before)
    return to_run_records(connection, connection.execute(query.order_by(runs.c.start.desc()).limit(limit)).all())


def failures_since(connection: Connection, since: datetime, limit: int) -> list[RunRecord]:
    """The failed and lost runs that ended after a moment, the newest first."""
    failed = select(runs).where(runs.c.end >= since, runs.c.outcome.in_(BAD_OUTCOMES))
    return to_run_records(connection, connection.execute(failed.order_by(runs.c.end.desc()).limit(limit)).all())


def count_running(connection: Connection) -> int:
    query = select(func.count()).select_from(runs).where(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    return connection.scalar(query) or 0


def longest_running(connection: Connection, limit: int) -> list[RunRecord]:
    """The runs that have been running for longest."""
    query = select(runs).where(runs.c.end.is_(None), runs.c.absent_since.is_(None))
    return to_run_records(connection, connection.execute(query.order_by(runs.c.start).limit(limit)).all())


def find_runs(connection: Connection, text: str, limit: int) -> list[RunRecord]:
    """The newest runs whose id begins with a text."""
    query = select(runs).where(runs.c.run_id.startswith(text, autoescape=True))
    return to_run_records(connection, connection.execute(query.order_by(runs.c.start.desc()).limit(limit)).all())


def errors_of(connection: Connection, keys: Iterable[RunKey]) -> dict[RunKey, RunError]:
    """The first errors of those runs that have one."""
    return {key: details.error for key, details in get_details(connection, keys).items() if details.error}


# --- deliveries ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """What a list of notifications is narrowed to; empty: nothing."""

    state: str = ""
    channels: tuple[str, ...] | None = None
    text: str = ""  # in what they are about, or in why they failed
    since: datetime | None = None
    until: datetime | None = None


def find_deliveries(connection: Connection, wanted: DeliveryFilter) -> tuple[list[int], bool]:
    """The numbers of the notifications that are wanted, the newest first, as far as they are among the last ones, and
    whether older ones were left out."""
    query = select(outbox.c.n).limit(MOST_LISTED)
    if wanted.state:
        query = query.where(outbox.c.state == wanted.state)
    if wanted.channels is not None:
        # ``n + 0``: an index that knows the channel is far smaller than the table, which the planner would else walk.
        query = query.where(outbox.c.channel.in_(wanted.channels)).order_by((outbox.c.n + 0).desc())
    else:
        query = query.order_by(outbox.c.n.desc())
    if wanted.since is not None:
        query = query.where(outbox.c.n >= _first_since(connection, wanted.since))
    if wanted.until is not None:
        query = query.where(outbox.c.n < _first_since(connection, wanted.until))
    if wanted.text and (exact := list(connection.execute(query.where(outbox.c.id == wanted.text)).scalars())):
        return exact, False
    numbers = list(connection.execute(query).scalars())
    cut = len(numbers) == MOST_LISTED
    if not wanted.text or not numbers:
        return numbers, cut
    said = or_(_contains(outbox.c.notice, wanted.text), _contains(outbox.c.reason, wanted.text))
    newest = query.subquery()
    matching = set(connection.execute(select(outbox.c.n).join(newest, newest.c.n == outbox.c.n).where(said)).scalars())
    return [number for number in numbers if number in matching], cut


def deliveries_by_number(connection: Connection, numbers: Sequence[int]) -> list[DeliveryRecord]:
    rows = connection.execute(select(outbox).where(outbox.c.n.in_(numbers)).order_by(outbox.c.n.desc()))
    return delivery_records(connection, readable(connection, outbox, rows, lambda row: row))


def ids_of_deliveries(connection: Connection, numbers: Sequence[int]) -> list[str]:
    return list(connection.execute(select(outbox.c.id).where(outbox.c.n.in_(numbers))).scalars())


def _first_since(connection: Connection, moment: datetime) -> int:
    """The number of the first notification that was enqueued at or after a moment: numbers rise with time."""
    low: int = connection.scalar(select(func.min(outbox.c.n))) or 0
    high: int = (connection.scalar(select(func.max(outbox.c.n))) or 0) + 1
    while low < high:
        middle = (low + high) // 2
        query = select(outbox.c.n, outbox.c.created_at).where(outbox.c.n >= middle).order_by(outbox.c.n).limit(1)
        row = connection.execute(query).one_or_none()
        if row is None or row.created_at >= moment:
            high = middle
        else:
            low = row.n + 1
    return low


# --- silences -----------------------------------------------------------------------------------------------------------


def all_silences(connection: Connection, now: datetime) -> list[SilenceRecord]:
    """Silences, those that end last first; of very many the first."""
    rows = connection.execute(select(silences).order_by(silences.c.ends_at.desc(), silences.c.id).limit(MOST_ENDED))
    return readable(connection, silences, rows, lambda row: silence_record(to_silence(row), now))


# --- sessions ---------------------------------------------------------------------------------------------------------

_MAKE_KEY = bulk_upsert(shared_keys, ("name", "value"))  # one that is there stays
_SESSIONS = "sessions"


def session_key(connection: Connection) -> bytes:
    """The random key that signs sessions, which all processes on this store share, for a writing transaction."""
    _MAKE_KEY.execute(connection, [(_SESSIONS, token_hex(32))])
    return bytes.fromhex(
        connection.execute(select(shared_keys.c.value).where(shared_keys.c.name == _SESSIONS)).scalar_one()
    )
