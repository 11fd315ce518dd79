"""What people and the monitoring ask of the outbox: how much waits, which channels fail, dead letters sent again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Subquery, and_, func, or_, select, update

from tocsin.model.notification import Attempt, AttemptOutcome, DeadReason
from tocsin.store.outbox import OPEN, OPEN_STATES, known_dead_reason
from tocsin.store.schema import attempts, outbox
from tocsin.store.sql import Keyed, chunks, columns, maker, plain, readable

_NEWEST = 1_000  # dead letters that are read for channels that refuse one message after another
_OLDEST = 500  # open rows of a channel that are read for attempts in vain: the oldest are tried first


@dataclass(frozen=True, slots=True)
class ChannelFailure:
    """A channel has delivered nothing after ``since``, when it failed; ``reason``: in words."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class OutboxDepth:
    """Open rows, when the oldest was enqueued, how many of each channel, and how many dead letters by reason."""

    open: int
    oldest_created_at: datetime | None
    dead: Mapping[DeadReason, int]
    channels: Mapping[str, int] = field(default_factory=dict)


_to_attempt = maker(Attempt)


def load_attempts(connection: Connection, rows: Iterable[Any]) -> dict[str, list[Attempt]]:
    """The attempts to send these whole rows of the outbox, by notification id and in order. A first attempt that
    succeeded has no row of its own: when it began is not known."""
    by_id: dict[str, list[Attempt]] = {row.id: [] for row in rows}
    for part in chunks(list(by_id)):
        query = select(attempts).where(attempts.c.notification_id.in_(part)).order_by(attempts.c.number)
        for attempt in readable(connection, attempts, connection.execute(query), _to_attempt):
            by_id[attempt.notification_id].append(attempt)
    for row in rows:
        if row.state == "delivered" and row.attempts == 1 and not by_id[row.id]:
            at = row.settled_at
            by_id[row.id].append(Attempt(row.id, 1, at, at, AttemptOutcome.DELIVERED, row.reason or ""))
    return by_id


def retry_dead(connection: Connection, ids: Sequence[str] | None, now: datetime) -> list[str]:
    """Send dead letters again, all of them for None; returns the ids of those that were dead."""
    fresh = {"state": "pending", "due_at": now, "reason": "sent again by hand", "dead_reason": None, "settled_at": None}
    again = update(outbox).where(outbox.c.state == "dead").values(**fresh).returning(outbox.c.id)
    parts = [again] if ids is None else [again.where(outbox.c.id.in_(part)) for part in chunks(ids)]
    return [id_ for part in parts for id_ in connection.execute(part).scalars()]


def outbox_depth(connection: Connection) -> OutboxDepth:
    """How much waits in the outbox."""
    per_channel = select(outbox.c.channel, func.count().label("rows"), func.min(outbox.c.n).label("first"))
    waiting = connection.execute(per_channel.where(OPEN).group_by(outbox.c.channel)).all()
    first = min((row.first for row in waiting), default=None)
    oldest = select(outbox.c.created_at).where(outbox.c.n == first)
    # Dead letters alone have a reason, and its index holds nothing else.
    dead = select(outbox.c.dead_reason, func.count()).where(outbox.c.dead_reason.is_not(None))
    by_reason = dict.fromkeys(DeadReason, 0)
    for why, rows in connection.execute(dead.group_by(outbox.c.dead_reason)):
        by_reason[known_dead_reason(why) or DeadReason.REFUSED] += rows
    return OutboxDepth(
        sum(row.rows for row in waiting),
        connection.execute(oldest).scalar_one_or_none(),
        by_reason,
        {row.channel: row.rows for row in waiting},
    )


def failing_channels(
    connection: Connection, channels: Iterable[str], created_before: datetime, dead_after: datetime
) -> dict[str, ChannelFailure]:
    """Those of these channels that have delivered nothing since their newest failed row.

    Failed rows: open ones tried twice that were enqueued before ``created_before``, as far as they are among the
    oldest of the channel; those that died after ``dead_after`` when they had been tried twice, and alert groups. A
    reporter's message that was refused at once may be to blame itself, with its recipients; the second one in a row is
    not.
    """
    channels = list(channels)
    tried = or_(outbox.c.attempts > 1, and_(outbox.c.kind == "group", outbox.c.attempts > 0))
    # Hidden from the planner, which would else read every dead letter there is: they are kept for long.
    lately = (func.coalesce(outbox.c.state, "") == "dead", outbox.c.settled_at > dead_after)
    dead = select(*columns(outbox, "channel", "settled_at", "reason")).order_by(outbox.c.settled_at)
    died = connection.execute(dead.where(*lately, outbox.c.channel.in_(channels), tried))
    oldest = _OLDEST_OPEN.rows(connection, [(name,) for name in channels])
    waits = sorted((row[:3] for row in oldest if row[3] > 1 and row[1] <= created_before), key=lambda row: row[1])
    failing: dict[str, ChannelFailure] = {}
    for rows in (died, waits):  # the newest of each; what waits counts first
        against = {name: ChannelFailure(at, reason or "") for name, at, reason in rows}
        working = delivered_since(connection, {name: failure.since for name, failure in against.items()})
        failing |= {name: failure for name, failure in against.items() if name not in working}
    # Those whose newest two dead letters were refused with nothing delivered since the first of the two.
    newest = select(*columns(outbox, "channel", "settled_at", "reason", "attempts")).where(outbox.c.state == "dead")
    recent = newest.order_by(outbox.c.n.desc()).limit(_NEWEST).subquery()
    others = [name for name in channels if name not in failing]
    refused = select(recent).where(recent.c.attempts > 0, recent.c.channel.in_(others))
    by_channel: dict[str, list[Any]] = {}
    for row in connection.execute(refused.order_by(recent.c.settled_at.desc())):
        by_channel.setdefault(row.channel, []).append(row)
    twice = {
        name: (rows[0], rows[1])
        for name, rows in by_channel.items()
        if len(rows) > 1 and rows[0].settled_at > dead_after
    }
    working = delivered_since(connection, {name: before.settled_at for name, (_, before) in twice.items()})
    failures = {name: ChannelFailure(last.settled_at, last.reason or "") for name, (last, _) in twice.items()}
    return failing | {name: failure for name, failure in failures.items() if name not in working}


def _oldest_open(keys: Subquery) -> Select[Any]:
    other = outbox.alias()
    open_rows = select(other.c.n).where(other.c.state.in_(OPEN_STATES), other.c.channel == keys.c.k0)
    last = open_rows.order_by(other.c.n).limit(1).offset(_OLDEST - 1).correlate(keys).scalar_subquery()
    return (
        select(*columns(outbox, "channel", "created_at", "reason", "attempts"))
        .join_from(keys, outbox, outbox.c.channel == keys.c.k0)
        .where(OPEN, outbox.c.n <= func.coalesce(last, outbox.c.n))
    )


def _delivered(keys: Subquery) -> Select[Any]:
    # Almost every row is a delivered one: hidden from the planner, which would else begin with them.
    delivered = func.coalesce(outbox.c.state, "") == "delivered"
    later = plain(outbox.c.settled_at) > keys.c.k1
    row = select(outbox.c.channel).where(later, outbox.c.channel == keys.c.k0, delivered)
    return select(keys.c.k0).where(row.correlate(keys).exists())


_OLDEST_OPEN = Keyed(_oldest_open, [outbox.c.channel])
_DELIVERED = Keyed(_delivered, [outbox.c.channel, outbox.c.settled_at])


def delivered_since(connection: Connection, moments: Mapping[str, datetime]) -> set[str]:
    """The channels that delivered anything after the moment that is named for each."""
    return {row[0] for row in _DELIVERED.rows(connection, moments.items())}
