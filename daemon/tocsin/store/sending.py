"""The outbox as the sender uses it: whose turn it is, claim, receipt.

Rows of one (channel, ordering_key) go one after another, and a lease on the row says who sends it. A group's ordering_key holds
snapshots, so only its newest row is worth sending; what it supersedes is decided in the transaction that claims it.
Any number of replicas may call these functions; a row whose lease ran out belongs to whoever claims it next.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    bindparam,
    delete,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)

from tocsin.kit.clock import to_ms
from tocsin.model.notification import (
    Attempt,
    AttemptOutcome,
    DeadReason,
    GroupNotice,
    Notification,
    NotificationState,
    still_to_say,
)
from tocsin.store.outbox import to_notification
from tocsin.store.schema import attempts, moment_of, outbox, outbox_waits
from tocsin.store.sql import Keyed, chunks, insert, readable, upsert, whole

_PAGE = 1_000
_ENOUGH = 4  # a quarter of what is wanted will do, once four times as many rows were looked at
_CLOCK_SKEW = timedelta(hours=1)  # an alert's start is on DSS's clock, a receipt on ours
_DIED = "the process that sent it ended before it knew the outcome"
# Written out, not bound: a partial index serves only a query whose condition the planner can read.
OPEN_STATES: tuple[ColumnElement[str], ...] = (literal_column("'pending'"), literal_column("'sending'"))
OPEN = outbox.c.state.in_(OPEN_STATES)
_GROUP = outbox.c.kind == literal_column("'group'")


@dataclass(frozen=True, slots=True)
class ReadyRow:
    """The first open row of its ordering_key; of a group, any row of it."""

    n: int
    channel: str
    ordering_key: str
    group: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a channel may send now, oldest first, and when more falls due; None: nothing more is known.

    ``more``: another look soon will find more, behind these or behind a row that is on its way.
    """

    rows: list[ReadyRow]
    next_due: datetime | None
    more: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """A notification that reached a final state without a send."""

    receiver: str
    channel: str
    state: NotificationState


@dataclass(frozen=True, slots=True)
class Claimed:
    """Rows that are now leased, by number, and what they took the place of."""

    rows: list[int]
    settled: list[Settled]


@dataclass(frozen=True, slots=True)
class Receipt:
    """How one try ended, and what becomes of its row.

    ``state`` is DELIVERED or DEAD; OWED: again at ``due_at``; SENDING: it may still arrive, so the ordering_key is held until
    ``due_at``. Only a receipt of DELIVERED counts when another sender has taken the row meanwhile.
    """

    holder: str
    attempt: Attempt
    state: NotificationState
    due_at: datetime
    reason: str | None = None
    dead_reason: DeadReason | None = None


def waiting(connection: Connection, wanted: Mapping[str, int], now: datetime) -> dict[str, Waiting]:
    """For each channel the rows that may be sent now, at most as many as wanted."""
    return {channel: _waiting(connection, channel, limit, now) for channel, limit in wanted.items()}


def _waiting(connection: Connection, channel: str, limit: int, now: datetime) -> Waiting:
    now_ms = to_ms(now)
    heads: dict[str, int | None] = {}  # a ordering_key's due time; None while one of its rows is on its way
    groups: dict[str, int] = {}
    singles: list[ReadyRow] = []
    more = False
    for looked, row in enumerate(_open_rows(connection, channel), 1):
        n, ordering_key, kind, state, due, lease_until = row
        if ordering_key not in heads:
            flying = state == "sending" and lease_until > now_ms
            heads[ordering_key] = None if flying else due
            if kind == "group":
                groups[ordering_key] = n
            elif not flying and due <= now_ms:
                singles.append(ReadyRow(n, channel, ordering_key, False))
        elif (head := heads[ordering_key]) is None:
            more = True
        elif ordering_key in groups:
            heads[ordering_key] = due
        elif head <= now_ms:
            more = True
        if len(singles) >= limit or (_ENOUGH * len(singles) >= limit and looked >= _ENOUGH * limit):
            more = True
            break
    due_lanes = {ordering_key for ordering_key, due in heads.items() if due is not None and due <= now_ms}
    ready = singles + [
        ReadyRow(n, channel, ordering_key, True) for ordering_key, n in groups.items() if ordering_key in due_lanes
    ]
    ready.sort(key=lambda row: row.n)
    later = min((due for due in heads.values() if due is not None and due > now_ms), default=None)
    return Waiting(ready[:limit], None if later is None else moment_of(later), more or len(ready) > limit)


_HEADS = (  # plain numbers: of the thousands of rows that a look reads, few are used
    select(
        outbox.c.n,
        outbox.c.ordering_key,
        outbox.c.kind,
        outbox.c.state,
        type_coerce(outbox.c.due_at, BigInteger),
        type_coerce(outbox.c.lease_until, BigInteger),
    )
    .where(OPEN, outbox.c.channel == bindparam("channel"), outbox.c.n > bindparam("after"))
    .order_by(outbox.c.n)
    .limit(_PAGE)
)


def _open_rows(connection: Connection, channel: str) -> Iterator[tuple[int, str, str, str, int, int]]:
    after = 0
    while True:
        page = connection.execute(_HEADS, {"channel": channel, "after": after}).all()
        yield from map(tuple, page)
        if len(page) < _PAGE:
            return
        after = page[-1][0]


# --- claim -----------------------------------------------------------------------------------------------------------


def claim(connection: Connection, ready: Sequence[ReadyRow], holder: str, now: datetime, until: datetime) -> Claimed:
    """Lease the rows that are still ready; one that another sender claimed meanwhile is left out."""
    taken = [
        locked for part in chunks([row.n for row in ready if not row.group]) for locked in _lock(connection, part, now)
    ]
    settled: list[Settled] = []
    ordering_keys: dict[str, list[str]] = {}
    for row in ready:
        if row.group:
            ordering_keys.setdefault(row.channel, []).append(row.ordering_key)
    for channel, names in ordering_keys.items():
        for part in chunks(names):
            taken += _newest(connection, _lock_lanes(connection, channel, part), now, settled)
    _note_dead_senders(connection, taken)
    for numbers in chunks([row.n for row in taken]):
        mine = outbox.c.n.in_(numbers)
        ids = select(outbox.c.id).where(mine)
        connection.execute(delete(outbox_waits).where(outbox_waits.c.notification_id.in_(ids)))
        lease = {"state": "sending", "lease_holder": holder, "lease_until": until}
        connection.execute(update(outbox).where(mine).values(lease))
    return Claimed([row.n for row in taken], settled)


class _Locked(NamedTuple):
    n: int
    id: str
    receiver: str
    channel: str
    ordering_key: str
    state: str
    attempts: int
    due_at: datetime
    lease_until: datetime | None


_LOCKED = select(*(outbox.c[name] for name in _Locked._fields)).where(OPEN)


def _flies(row: _Locked, now: datetime) -> bool:
    return row.state == "sending" and row.lease_until is not None and row.lease_until > now


def _lock(connection: Connection, numbers: Sequence[int], now: datetime) -> list[_Locked]:
    rows = connection.execute(_LOCKED.where(outbox.c.n.in_(numbers)).with_for_update(skip_locked=True))
    return [locked for row in rows if not _flies(locked := _Locked(*row), now)]


def _lock_lanes(connection: Connection, channel: str, ordering_keys: Sequence[str]) -> Iterable[list[_Locked]]:
    """The open rows of each ordering_key, oldest first. A ordering_key is judged as a whole, so here another claimer is waited for."""
    query = _LOCKED.where(_GROUP, outbox.c.channel == channel, outbox.c.ordering_key.in_(ordering_keys))
    by_lane: dict[str, list[_Locked]] = {}
    for row in connection.execute(query.order_by(outbox.c.n).with_for_update()):
        by_lane.setdefault(row.ordering_key, []).append(_Locked(*row))
    return by_lane.values()


def _newest(
    connection: Connection, ordering_keys: Iterable[Sequence[_Locked]], now: datetime, settled: list[Settled]
) -> list[_Locked]:
    """The row to send of each group's ordering_key of one channel, if its turn has come. Older rows are superseded, and all
    are cancelled if nothing is left to say."""
    due = [rows for rows in ordering_keys if not any(_flies(row, now) for row in rows) and rows[-1].due_at <= now]
    usual = _told_before(connection, [rows[-1] for rows in due if len(rows) == 1])
    behind = [rows for rows in due if rows[-1].n not in usual]
    notices = _notices(connection, [row.n for rows in behind for row in rows])
    told = _told(connection, [rows[-1] for rows in behind], notices.values(), now)
    taken = [rows[-1] for rows in due if rows[-1].n in usual]
    finished: dict[NotificationState, list[_Locked]] = {}
    changed: list[dict[str, object]] = []
    for *older, newest in behind:
        last = notices.get(newest.n)
        if last is None:  # it cannot be read: whoever loads it gives it up
            taken.append(newest)
            continue
        unsent = [notices[row.n] for row in older if row.n in notices]
        say = still_to_say(last, unsent, told.get(newest.ordering_key, frozenset()))
        if say is None:
            finished.setdefault(NotificationState.CANCELLED, []).extend((*older, newest))
            continue
        finished.setdefault(NotificationState.SUPERSEDED, []).extend(older)
        taken.append(newest)
        if say is not last:
            changed.append({"of": newest.n, "say": say})
    for state, rows in finished.items():
        settled += _settle_unsent(connection, rows, state, now)
    if changed:
        connection.execute(_CHANGED, changed)
    return taken


_CHANGED = update(outbox).where(outbox.c.n == bindparam("of")).values(notice=bindparam("say"))


def _told_before(connection: Connection, newest: Sequence[_Locked]) -> set[int]:
    """Those of these rows whose flush before was delivered, as almost always, or had none before."""
    keys = [(row.channel, row.ordering_key, row.n) for row in newest]
    return {row[0] for row in _BEFORE.rows(connection, keys) if row[1] in (None, "delivered")}


def _before(wanted: Subquery) -> Select[Any]:
    other = outbox.alias()
    before = (
        select(other.c.state)
        .where(
            other.c.kind == literal_column("'group'"),
            other.c.channel == wanted.c.k0,
            other.c.ordering_key == wanted.c.k1,
        )
        .where(other.c.n < wanted.c.k2)
        .order_by(other.c.n.desc())
        .limit(1)
        .correlate(wanted)
        .scalar_subquery()
    )
    return select(wanted.c.k2, before)


_BEFORE = Keyed(_before, [outbox.c.channel, outbox.c.ordering_key, outbox.c.n])
_BODIES = select(outbox.c.n, outbox.c.ordering_key, outbox.c.notice).order_by(outbox.c.n)


def _notices(connection: Connection, numbers: Sequence[int]) -> dict[int, GroupNotice]:
    """The snapshots of these rows; one that cannot be read is absent."""
    found: dict[int, GroupNotice] = {}
    for part in chunks(numbers):
        rows = connection.execute(_BODIES.where(outbox.c.n.in_(part)))
        found.update(readable(connection, outbox, rows, lambda row: (row.n, row.notice)))
    return found


def _told(
    connection: Connection, newest: Sequence[_Locked], notices: Iterable[GroupNotice], now: datetime
) -> dict[str, frozenset[str]]:
    """The alerts whose start has arrived on these ordering_keys of one channel, or may have, by ordering_key."""
    if not newest:
        return {}
    started = min((alert.starts_at for notice in notices for alert in notice.ended), default=now)
    uncertain = select(attempts.c.notification_id).where(attempts.c.outcome == AttemptOutcome.UNKNOWN.value)
    arrived = or_(outbox.c.state.in_(["delivered", "sending"]), outbox.c.id.in_(uncertain))
    recent = or_(outbox.c.settled_at.is_(None), outbox.c.settled_at >= started - _CLOCK_SKEW)
    mine = (
        _GROUP,
        outbox.c.channel == newest[0].channel,
        outbox.c.ordering_key.in_([row.ordering_key for row in newest]),
    )
    rows = connection.execute(_BODIES.where(*mine, arrived, recent))
    found: dict[str, frozenset[str]] = {}
    for ordering_key, firing in readable(connection, outbox, rows, lambda row: (row.ordering_key, row.notice.firing)):
        found[ordering_key] = found.get(ordering_key, frozenset()) | {alert.id for alert in firing}
    return found


def _settle_unsent(
    connection: Connection, rows: Sequence[_Locked], state: NotificationState, now: datetime
) -> list[Settled]:
    if rows:
        final = {"state": state.value, "reason": _UNSENT[state], "settled_at": now}
        unsent = outbox.c.n.in_([row.n for row in rows])
        connection.execute(update(outbox).where(unsent).values(**final, lease_holder=None, lease_until=None))
    return [Settled(row.receiver, row.channel, state) for row in rows]


_UNSENT = {
    NotificationState.CANCELLED: "it ended before its start was delivered",
    NotificationState.SUPERSEDED: "a newer state of the group took its place",
}


def _note_dead_senders(connection: Connection, taken: Sequence[_Locked]) -> None:
    """A row whose lease ran out may have arrived: that try counts, with an unknown outcome."""
    died = [row for row in taken if row.state == "sending"]
    if not died:
        return
    connection.execute(
        insert(connection, attempts).on_conflict_do_nothing(),
        [
            {
                "notification_id": row.id,
                "number": row.attempts + 1,
                "started_at": row.lease_until,
                "ended_at": row.lease_until,
                "outcome": AttemptOutcome.UNKNOWN.value,
                "note": _DIED,
            }
            for row in died
        ],
    )
    numbers = [row.n for row in died]
    connection.execute(update(outbox).where(outbox.c.n.in_(numbers)).values(attempts=outbox.c.attempts + 1))


# --- after the claim -------------------------------------------------------------------------------------------------


def load(connection: Connection, numbers: Sequence[int]) -> dict[int, Notification]:
    """The notifications of claimed rows. Raises ``ValueError`` when one of them cannot be read back."""
    return {
        row.n: to_notification(whole(row))
        for part in chunks(numbers)
        for row in connection.execute(select(outbox).where(outbox.c.n.in_(part)))
    }


def renew(connection: Connection, numbers: Sequence[int], holder: str, until: datetime) -> None:
    """Hold on to rows that wait for their send."""
    for part in chunks(numbers):
        mine = update(outbox).where(outbox.c.n.in_(part), outbox.c.lease_holder == holder, OPEN)
        connection.execute(mine.values(lease_until=until))


def release(connection: Connection, numbers: Sequence[int], holder: str) -> None:
    """Give back rows that were claimed and not sent."""
    for part in chunks(numbers):
        mine = update(outbox).where(outbox.c.n.in_(part), outbox.c.lease_holder == holder, OPEN)
        connection.execute(mine.values(state="pending", lease_holder=None, lease_until=None))


def expire_leases(connection: Connection, now: datetime) -> None:
    """End every lease: for a store that only one process can use, right after its start."""
    connection.execute(update(outbox).where(OPEN, outbox.c.state == "sending").values(lease_until=now))


_DELIVERED = (
    update(outbox)
    .where(outbox.c.id == bindparam("of"), OPEN)
    .values(state="delivered", attempts=bindparam("tries"), reason=None, settled_at=bindparam("at"))
    .values(lease_holder=None, lease_until=None)
)
_NOT_YET = (
    update(outbox)
    .where(outbox.c.id == bindparam("of"), OPEN, outbox.c.lease_holder == bindparam("by"))
    .values(state=bindparam("new"), attempts=bindparam("tries"), reason=bindparam("why"))
    .values(dead_reason=bindparam("dead"), due_at=bindparam("due"), settled_at=bindparam("at"))
    .values(lease_holder=bindparam("holder"), lease_until=bindparam("until"))
)


def settle(connection: Connection, receipts: Sequence[Receipt]) -> None:
    """Write receipts, of one row in their order."""
    done = [_delivered(one) for one in receipts if one.state is NotificationState.DELIVERED]
    others = [_not_yet(one) for one in receipts if one.state is not NotificationState.DELIVERED]
    if others:
        connection.execute(_NOT_YET, others)
    if done:
        connection.execute(_DELIVERED, done)
    upsert(connection, attempts, [_attempt(one.attempt) for one in receipts], ("ended_at", "outcome", "note"))


def _delivered(one: Receipt) -> dict[str, object]:
    return {"of": one.attempt.notification_id, "tries": one.attempt.number, "at": one.attempt.ended_at}


def _not_yet(one: Receipt) -> dict[str, object]:
    held = one.state is NotificationState.SENDING
    return {
        "of": one.attempt.notification_id,
        "by": one.holder,
        "new": one.state.value,
        "tries": one.attempt.number - held,  # counted once its outcome is known
        "why": one.reason,
        "dead": (one.dead_reason or DeadReason.REFUSED).value if one.state is NotificationState.DEAD else None,
        "due": one.due_at,
        "at": one.attempt.ended_at if one.state is NotificationState.DEAD else None,
        "holder": one.holder if held else None,
        "until": one.due_at if held else None,
    }


def _attempt(one: Attempt) -> dict[str, object]:
    return {
        "notification_id": one.notification_id,
        "number": one.number,
        "started_at": one.started_at,
        "ended_at": one.ended_at,
        "outcome": one.outcome.value,
        "note": one.note,
    }


def retry_now(connection: Connection, channel: str, now: datetime) -> None:
    """Let what waits for another try on this channel go now: it works again."""
    waits = (OPEN, outbox.c.channel == channel, outbox.c.state == "pending", outbox.c.attempts > 0)
    connection.execute(update(outbox).where(*waits, outbox.c.due_at > now).values(due_at=now))


def dead_letter(connection: Connection, n: int, now: datetime) -> None:
    """Give up one row that cannot be read back."""
    dead = _given_up(DeadReason.UNREADABLE, "its row cannot be read", now)
    connection.execute(update(outbox).where(outbox.c.n == n, OPEN).values(dead))


def dead_letter_orphans(connection: Connection, channels: Iterable[str], now: datetime) -> list[Settled]:
    """Give up what is owed to channels that no longer exist."""
    free = or_(outbox.c.state == "pending", outbox.c.lease_until <= now)
    gone = (OPEN, free, outbox.c.channel.not_in(sorted(channels)))
    dead = _given_up(DeadReason.CHANNEL_GONE, "its channel is no longer in the configuration", now)
    buried = update(outbox).where(*gone).values(dead).returning(outbox.c.receiver, outbox.c.channel)
    return [Settled(row.receiver, row.channel, NotificationState.DEAD) for row in connection.execute(buried)]


def _given_up(why: DeadReason, words: str, now: datetime) -> dict[str, object]:
    dead = {"state": NotificationState.DEAD.value, "dead_reason": why.value, "reason": words, "settled_at": now}
    return {**dead, "lease_holder": None, "lease_until": None}
