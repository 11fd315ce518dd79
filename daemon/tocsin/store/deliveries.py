"""Deliveries for people: list, show, send a dead letter again, and how much waits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Subquery, and_, func, or_, select, update

from tocsin.model.notification import Attempt, AttemptOutcome, DeadReason, Notification
from tocsin.store.outbox import dead_reason, to_notification
from tocsin.store.schema import attempts, outbox
from tocsin.store.sending import OPEN, OPEN_STATES
from tocsin.store.sql import Keyed, plain

_NEWEST = 1_000  # dead letters that are looked at for channels that refuse one message after another
_OLDEST = 500  # open rows of a channel that are looked at for tries in vain: the oldest are tried first


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification with its tries. ``n`` is its place in the list, for paging; ``settled_at``: None while open."""

    n: int
    notification: Notification
    settled_at: datetime | None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """A channel that has delivered nothing after ``since``, when it owed or gave up something; ``reason``: in words."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """What waits: open rows, when the oldest was owed, how many of which channel; and how many dead letters, by why."""

    open: int
    oldest_owed_at: datetime | None
    dead: Mapping[DeadReason, int]
    channels: Mapping[str, int] = field(default_factory=dict)


def get_delivery(connection: Connection, id_: str) -> Delivery | None:
    """One delivery with all of its attempts."""
    row = connection.execute(select(outbox).where(outbox.c.id == id_)).one_or_none()
    if row is None:
        return None
    tries = select(attempts).where(attempts.c.notification_id == id_).order_by(attempts.c.number)
    return Delivery(
        row.n,
        to_notification(row),
        row.settled_at,
        tuple(
            Attempt(id_, try_.number, try_.started_at, try_.ended_at, AttemptOutcome(try_.outcome), try_.note)
            for try_ in connection.execute(tries)
        ),
    )


def retry(connection: Connection, ids: Sequence[str] | None, now: datetime) -> list[str]:
    """Send dead letters again, all of them for None; answers the ids of those that were dead."""
    again = update(outbox).where(outbox.c.state == "dead")
    if ids is not None:
        again = again.where(outbox.c.id.in_(ids))
    fresh = {"state": "pending", "due_at": now, "reason": "sent again by hand", "dead_reason": None, "settled_at": None}
    return list(connection.execute(again.values(**fresh).returning(outbox.c.id)).scalars())


def depth(connection: Connection) -> OutboxDepth:
    """How much waits in the outbox."""
    waiting = connection.execute(
        select(outbox.c.channel, func.count().label("rows"), func.min(outbox.c.n).label("first"))
        .where(OPEN)
        .group_by(outbox.c.channel)
    ).all()
    first = min((row.first for row in waiting), default=None)
    oldest = select(outbox.c.created_at).where(outbox.c.n == first)
    # Dead letters alone have a reason, and its index holds nothing else.
    dead = select(outbox.c.dead_reason, func.count()).where(outbox.c.dead_reason.is_not(None))
    given_up = dict.fromkeys(DeadReason, 0)
    for why, rows in connection.execute(dead.group_by(outbox.c.dead_reason)):
        given_up[dead_reason(why) or DeadReason.REFUSED] += rows
    return OutboxDepth(
        sum(row.rows for row in waiting),
        connection.execute(oldest).scalar_one_or_none(),
        given_up,
        {row.channel: row.rows for row in waiting},
    )


def troubles(
    connection: Connection, channels: Iterable[str], created_before: datetime, dead_after: datetime
) -> dict[str, Trouble]:
    """Those of these channels that do not deliver: since the newest row that speaks against them they delivered nothing.

    Rows that do: open ones tried twice that were owed before ``created_before``, as far as they are among the oldest of
    the channel; those that died after ``dead_after`` when they had been tried twice, and alert groups. A reporter's
    message that was refused at once may be to blame itself, with its recipients; the second one in a row is not.
    """
    channels = list(channels)
    tried = or_(outbox.c.attempts > 1, and_(outbox.c.kind == "group", outbox.c.attempts > 0))
    # Hidden from the planner, which would else read every dead letter there is: they are kept for long.
    lately = (func.coalesce(outbox.c.state, "") == "dead", outbox.c.settled_at > dead_after)
    dead = select(outbox.c.channel, outbox.c.settled_at, outbox.c.reason).order_by(outbox.c.settled_at)
    died = connection.execute(dead.where(*lately, outbox.c.channel.in_(channels), tried))
    oldest = _OLDEST_OPEN.rows(connection, [(name,) for name in channels])
    waits = sorted((row[:3] for row in oldest if row[3] > 1 and row[1] <= created_before), key=lambda row: row[1])
    found: dict[str, Trouble] = {}
    for rows in (died, waits):  # the newest of each; what waits counts first
        against = {name: Trouble(at, reason or "") for name, at, reason in rows}
        working = delivered_since(connection, {name: one.since for name, one in against.items()})
        found |= {name: one for name, one in against.items() if name not in working}
    refusals = _newest_refusals(connection, [name for name in channels if name not in found])
    newest = {name: rows for name, rows in refusals.items() if rows[0].settled_at > dead_after}
    working = delivered_since(connection, {name: before.settled_at for name, (_, before) in newest.items()})
    found |= {
        name: Trouble(last.settled_at, last.reason or "") for name, (last, _) in newest.items() if name not in working
    }
    return found


def _newest_refusals(connection: Connection, channels: Sequence[str]) -> dict[str, tuple[Row[Any], Row[Any]]]:
    """The newest two dead letters of each channel that has two, as far as they are among the newest of all."""
    columns = (outbox.c.channel, outbox.c.settled_at, outbox.c.reason, outbox.c.attempts)
    newest = select(*columns).where(outbox.c.state == "dead").order_by(outbox.c.n.desc()).limit(_NEWEST).subquery()
    tried = select(newest).where(newest.c.attempts > 0, newest.c.channel.in_(channels))
    of: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(tried.order_by(newest.c.settled_at.desc())):
        of.setdefault(row.channel, []).append(row)
    return {name: (rows[0], rows[1]) for name, rows in of.items() if len(rows) > 1}


def _oldest_open(wanted: Subquery) -> Select[Any]:
    other = outbox.alias()
    last = (
        select(other.c.n)
        .where(other.c.state.in_(OPEN_STATES), other.c.channel == wanted.c.k0)
        .order_by(other.c.n)
        .limit(1)
        .offset(_OLDEST - 1)
        .correlate(wanted)
        .scalar_subquery()
    )
    return (
        select(outbox.c.channel, outbox.c.created_at, outbox.c.reason, outbox.c.attempts)
        .join_from(wanted, outbox, outbox.c.channel == wanted.c.k0)
        .where(OPEN, outbox.c.n <= func.coalesce(last, outbox.c.n))
    )


_OLDEST_OPEN = Keyed(_oldest_open, [outbox.c.channel])


def delivered_since(connection: Connection, moments: Mapping[str, datetime]) -> set[str]:
    """The channels that delivered anything after the moment that is named for each."""
    return {row[0] for row in _DELIVERED.rows(connection, moments.items())}


def _delivered(wanted: Subquery) -> Select[Any]:
    # Almost every row is a delivered one: hidden from the planner, which would else begin with them.
    delivered = func.coalesce(outbox.c.state, "") == "delivered"
    later = plain(outbox.c.settled_at) > wanted.c.k1
    found = select(outbox.c.channel).where(later, outbox.c.channel == wanted.c.k0, delivered)
    return select(wanted.c.k0).where(found.correlate(wanted).exists())


_DELIVERED = Keyed(_delivered, [outbox.c.channel, outbox.c.settled_at])
