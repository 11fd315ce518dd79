"""The outbox: notifications from their enqueuing to their receipt or their end as dead letters.

Rows of one channel and ordering key go one after another, and a lease on the row says who sends it. The rows of a
group's ordering key hold snapshots, so only the newest is worth sending; what it supersedes is decided in the
transaction that claims it. Any number of replicas may call these functions; a row whose lease ran out belongs to
whoever claims it next.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Delete,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from tocsin.kit.clock import to_ms
from tocsin.model.notification import (
    Attempt,
    AttemptOutcome,
    DeadReason,
    EventNotice,
    GroupNotice,
    Notification,
    NotificationState,
    SummaryNotice,
    merge_unsent,
)
from tocsin.model.run import RunKey
from tocsin.store.engine import StoreUnavailable
from tocsin.store.schema import (
    Document,
    Unreadable,
    attempts,
    document_text,
    moment_of,
    outbox,
    outbox_waits,
    sent_messages,
)
from tocsin.store.sql import (
    BulkWrite,
    Keyed,
    bulk_upsert,
    chunks,
    columns,
    insert,
    key_values,
    maker,
    pack,
    plain,
    readable,
    shallow,
    unfold,
    upsert,
)

_PAGE = 1_000
_FAILOVERS = 200
_ENOUGH = 4  # a quarter of the limit will do, once four times as many rows were read
_CLOCK_SKEW = timedelta(hours=1)  # an alert's start is on DSS's clock, a receipt on ours
# Written out, not bound: a partial index serves only a query whose condition the planner can read.
OPEN_STATES: tuple[ColumnElement[str], ...] = (literal_column("'pending'"), literal_column("'sending'"))
OPEN = outbox.c.state.in_(OPEN_STATES)
_GROUP = outbox.c.kind == literal_column("'group'")
_KINDS = {EventNotice: "event", GroupNotice: "group", SummaryNotice: "summary"}
_UNSENT = {
    NotificationState.CANCELLED: "it ended before its start was delivered",
    NotificationState.SUPERSEDED: "a newer state of the group took its place",
}
_FREE: dict[str, object] = {"lease_holder": None, "lease_until": None}


@dataclass(frozen=True, slots=True)
class ReadyRow:
    """The first open row of its ordering key; of a group, any row of it."""

    n: int
    channel: str
    ordering_key: str
    group: bool


@dataclass(frozen=True, slots=True)
class ReadyRows:
    """What a channel may send now, oldest first, and when more falls due; None: nothing more is known.

    ``more``: the next read will find more, behind these or behind a row that is being sent.
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


class ClaimedRow(NamedTuple):
    """A leased row as it is stored, without what its state implies; times are epoch milliseconds."""

    n: int
    id: str
    receiver: str
    channel: str
    ordering_key: str
    kind: str
    created_at: int
    due_at: int
    attempts: int
    reason: str | None
    notice: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Rows that are now leased, the oldest first, and what they took the place of."""

    rows: list[ClaimedRow]
    settled: list[Settled]


@dataclass(frozen=True, slots=True)
class SentMessage:
    """Where the message stands that a channel edits in place; ``place`` is of the channel's kind."""

    channel: str
    thread: str
    place: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Receipt:
    """How one attempt ended, and what becomes of its row.

    ``state`` is DELIVERED or DEAD; PENDING: again at ``due_at``; SENDING: it may still arrive, so the ordering key is
    held until ``due_at``. Only a receipt of DELIVERED counts when another sender has claimed the row meanwhile.
    """

    holder: str
    attempt: Attempt
    state: NotificationState
    due_at: datetime
    reason: str | None = None
    dead_reason: DeadReason | None = None
    sent: SentMessage | None = None


# --- enqueue and read -------------------------------------------------------------------------------------------------


def enqueue(
    connection: Connection, new: Sequence[Notification], waits: Mapping[str, Sequence[RunKey]] | None = None
) -> list[Notification]:
    """Write notifications that are not there yet, and return those.

    ``waits`` names, by notification id, the runs whose details it wants: it is due at its ``due_at``, or as soon as
    the details of all of them were read (see ``runs.put_details``).
    """
    by_id = {item.id: item for item in new}
    for (known,) in _KNOWN.rows(connection, [(id_,) for id_ in by_id]):
        by_id.pop(known, None)
    rows = [
        (
            item.id, item.receiver, item.channel, item.ordering_key, _KINDS[type(item.notice)],
            item.notice.event.id if isinstance(item.notice, EventNotice) else None, to_ms(item.created_at),
            to_ms(item.due_at), item.state.value, item.attempts, item.reason,
            item.dead_reason and item.dead_reason.value, document_text(item.notice),
        )
        for item in by_id.values()
    ]  # fmt: skip
    if _ENQUEUE.execute(connection, rows) != len(rows):  # it cannot be: the leader alone enqueues, on one thread
        raise StoreUnavailable("another process has enqueued the same notifications")
    waiting = [
        key_values(outbox_waits, (id_, *run)) for id_, runs in (waits or {}).items() if id_ in by_id for run in runs
    ]
    if waiting:
        connection.execute(insert(connection, outbox_waits).on_conflict_do_nothing(), waiting)
    return list(by_id.values())


_KNOWN = Keyed(select(outbox.c.id), [outbox.c.id])
_ENQUEUE = bulk_upsert(
    outbox,
    ("id", "receiver", "channel", "ordering_key", "kind", "event_id", "created_at", "due_at", "state", "attempts",
     "reason", "dead_reason", "notice"),
)  # fmt: skip


def known_dead_reason(value: str | None) -> DeadReason | None:
    """None also for a reason that only a newer version knows: it serves counting alone."""
    return DeadReason(value) if value in set(DeadReason) else None


def reason_of(row: Mapping[str, Any]) -> str | None:
    """Why it is dead, superseded or cancelled, or is tried again; of a delivered row it is the attempt's note."""
    return None if row["state"] == "delivered" else row["reason"]


to_notification = maker(Notification, dead_reason=lambda row: known_dead_reason(row["dead_reason"]), reason=reason_of)
"""A notification from a row with all columns of the outbox."""


def load_notifications(connection: Connection, ids: Sequence[str]) -> dict[str, Notification]:
    """Notifications by id, as far as they can be read."""
    by_id: dict[str, Notification] = {}
    for part in chunks(ids):
        rows = connection.execute(select(outbox).where(outbox.c.id.in_(part)))
        by_id.update((item.id, item) for item in readable(connection, outbox, rows, to_notification))
    return by_id


# --- ready rows -------------------------------------------------------------------------------------------------------

_OPEN_ROWS = (  # plain numbers: of the thousands of rows that are read, few are used
    select(
        *columns(outbox, "n", "ordering_key", "kind", "state"),
        type_coerce(outbox.c.due_at, BigInteger),
        type_coerce(outbox.c.lease_until, BigInteger),
    )
    .where(OPEN, outbox.c.channel == bindparam("channel"), outbox.c.n > bindparam("after"))
    .order_by(outbox.c.n)
    .limit(_PAGE)
)


def ready_rows(connection: Connection, limits: Mapping[str, int], now: datetime) -> dict[str, ReadyRows]:
    """For each channel the rows that may be sent now, at most as many as its limit."""
    return {channel: _ready_rows(connection, channel, limit, to_ms(now)) for channel, limit in limits.items()}


def _ready_rows(connection: Connection, channel: str, limit: int, now_ms: int) -> ReadyRows:
    heads: dict[str, int | None] = {}  # an ordering key's due time; None while one of its rows is being sent
    groups: dict[str, int] = {}
    singles: list[ReadyRow] = []
    more = False
    for count, (n, key, kind, state, due, lease_until) in enumerate(_open_rows(connection, channel), 1):
        if key not in heads:
            in_flight = state == "sending" and lease_until > now_ms
            heads[key] = None if in_flight else due
            if kind == "group":
                groups[key] = n
            elif not in_flight and due <= now_ms:
                singles.append(ReadyRow(n, channel, key, False))
        elif (head := heads[key]) is None:
            more = True
        elif key in groups:
            heads[key] = due
        elif head <= now_ms:
            more = True
        if len(singles) >= limit or (_ENOUGH * len(singles) >= limit and count >= _ENOUGH * limit):
            more = True
            break
    due_keys = {key for key, due in heads.items() if due is not None and due <= now_ms}
    ready = singles + [ReadyRow(n, channel, key, True) for key, n in groups.items() if key in due_keys]
    ready.sort(key=lambda row: row.n)
    later = min((due for due in heads.values() if due is not None and due > now_ms), default=None)
    return ReadyRows(ready[:limit], None if later is None else moment_of(later), more or len(ready) > limit)


def _open_rows(connection: Connection, channel: str) -> Iterator[tuple[int, str, str, str, int, int]]:
    after = 0
    while True:
        page = connection.execute(_OPEN_ROWS, {"channel": channel, "after": after}).all()
        yield from map(tuple, page)
        if len(page) < _PAGE:
            return
        after = page[-1][0]


# --- claim ------------------------------------------------------------------------------------------------------------


def claim(connection: Connection, ready: Sequence[ReadyRow], holder: str, now: datetime, until: datetime) -> Claimed:
    """Lease the rows that are still ready; one that another sender claimed meanwhile is left out."""
    numbers = [row.n for row in ready if not row.group]
    settled: list[Settled] = []
    for channel in dict.fromkeys(row.channel for row in ready if row.group):
        for part in chunks([row.ordering_key for row in ready if row.group and row.channel == channel]):
            numbers += _newest(connection, _lock_keys(connection, channel, part), now, settled)
    keys = {"keys": pack((n,) for n in numbers), "now": now}
    claims = _claims(connection.dialect.name)
    _note_dead_senders(connection, list(map(_Locked._make, connection.execute(claims.lapsed, keys))))
    leased = connection.execute(claims.lease, keys | {"holder": holder, "until": until})
    rows = sorted(map(ClaimedRow._make, leased))
    connection.execute(claims.end_waits, {"keys": pack((row.id,) for row in rows)})
    return Claimed(rows, settled)


class _Claims(NamedTuple):
    """Statements about many rows at once; see ``sql.unfold``."""

    lapsed: Select[Any]
    lease: ReturningUpdate[Any]
    end_waits: Delete


@lru_cache(maxsize=2)
def _claims(dialect: str) -> _Claims:
    numbers = unfold(dialect, [outbox.c.n])
    state = func.coalesce(outbox.c.state, "")  # hidden from the planner, which would else begin with all open rows
    over = and_(state == "sending", outbox.c.lease_until <= bindparam("now"))
    these = select(outbox.c.n).join_from(numbers, outbox, outbox.c.n == numbers.c.k0)
    free = these.where(or_(state == "pending", over))
    lease = {"state": "sending", "lease_holder": bindparam("holder"), "lease_until": bindparam("until")}
    raw = (type_coerce(plain(outbox.c[name]), Text if name == "notice" else plain(outbox.c[name]).type)
           for name in ClaimedRow._fields)  # fmt: skip
    return _Claims(
        _LOCKED.where(outbox.c.n.in_(these), over).with_for_update(skip_locked=True),
        update(outbox)
        .where(outbox.c.n.in_(free.with_for_update(skip_locked=True, of=outbox)))
        .values(lease)
        .returning(*raw),
        delete(outbox_waits).where(outbox_waits.c.notification_id.in_(select(unfold(dialect, [outbox.c.id]).c.k0))),
    )


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

    def in_flight(self, now: datetime) -> bool:
        return self.state == "sending" and self.lease_until is not None and self.lease_until > now


_LOCKED = select(*columns(outbox, *_Locked._fields)).where(OPEN)


def _lock_keys(connection: Connection, channel: str, ordering_keys: Sequence[str]) -> Iterable[list[_Locked]]:
    """The open rows of each ordering key, oldest first. A key is decided as a whole, so here another claimer is waited
    for."""
    query = _LOCKED.where(_GROUP, outbox.c.channel == channel, outbox.c.ordering_key.in_(ordering_keys))
    by_key: dict[str, list[_Locked]] = {}
    for row in connection.execute(query.order_by(outbox.c.n).with_for_update()):
        by_key.setdefault(row.ordering_key, []).append(_Locked(*row))
    return by_key.values()


def _newest(
    connection: Connection, keys: Iterable[Sequence[_Locked]], now: datetime, settled: list[Settled]
) -> list[int]:
    """The number of the row to send of each group of one channel, if it is ready. Older rows are superseded, and all
    are cancelled if nothing is left to say."""
    due = [rows for rows in keys if not any(row.in_flight(now) for row in rows) and rows[-1].due_at <= now]
    # Almost always there is one row, and the flush before it was delivered or there was none.
    before = _BEFORE.rows(
        connection, [(rows[-1].channel, rows[-1].ordering_key, rows[-1].n) for rows in due if len(rows) == 1]
    )
    usual = {row[0] for row in before if row[1] in (None, "delivered")}
    behind = [rows for rows in due if rows[-1].n not in usual]
    notices: dict[int, GroupNotice] = {}
    for part in chunks([row.n for rows in behind for row in rows]):
        read = connection.execute(_NOTICES.where(outbox.c.n.in_(part)))
        notices.update(readable(connection, outbox, read, lambda row: (row.n, row.notice)))
    arrived = _arrived(connection, [rows[-1] for rows in behind], notices.values(), now)
    claimed = list(usual)
    finished: dict[NotificationState, list[_Locked]] = {}
    changed: list[dict[str, object]] = []
    for *older, newest in behind:
        last = notices.get(newest.n)
        if last is None:  # it cannot be read: whoever loads it gives it up
            claimed.append(newest.n)
            continue
        unsent = [notices[row.n] for row in older if row.n in notices]
        say = merge_unsent(last, unsent, arrived.get(newest.ordering_key, frozenset()))
        if say is None:
            finished.setdefault(NotificationState.CANCELLED, []).extend((*older, newest))
            continue
        finished.setdefault(NotificationState.SUPERSEDED, []).extend(older)
        claimed.append(newest.n)
        if say is not last:
            changed.append({"number": newest.n, "say": say})
    for state, rows in finished.items():
        if rows:
            final = {"state": state.value, "reason": _UNSENT[state], "settled_at": now, **_FREE}
            connection.execute(update(outbox).where(outbox.c.n.in_([row.n for row in rows])).values(final))
        settled += (Settled(row.receiver, row.channel, state) for row in rows)
    if changed:
        newer = update(outbox).where(outbox.c.n == bindparam("number")).values(notice=bindparam("say"))
        connection.execute(newer, changed)
    return claimed


def _state_before(keys: Subquery) -> Select[Any]:
    other = outbox.alias()
    same_key = (other.c.channel == keys.c.k0, other.c.ordering_key == keys.c.k1, other.c.n < keys.c.k2)
    before = select(other.c.state).where(other.c.kind == literal_column("'group'"), *same_key)
    newest = before.order_by(other.c.n.desc()).limit(1).correlate(keys).scalar_subquery()
    return select(keys.c.k2, newest)


_BEFORE = Keyed(_state_before, columns(outbox, "channel", "ordering_key", "n"))
_NOTICES = select(*columns(outbox, "n", "ordering_key", "notice")).order_by(outbox.c.n)


def _arrived(
    connection: Connection, newest: Sequence[_Locked], notices: Iterable[GroupNotice], now: datetime
) -> dict[str, frozenset[str]]:
    """The alerts whose start has arrived, or may have, by ordering key of one channel."""
    if not newest:
        return {}
    started = min((alert.starts_at for notice in notices for alert in notice.resolved), default=now)
    uncertain = select(attempts.c.notification_id).where(attempts.c.outcome == AttemptOutcome.UNKNOWN.value)
    query = _NOTICES.where(
        _GROUP,
        outbox.c.channel == newest[0].channel,
        outbox.c.ordering_key.in_([row.ordering_key for row in newest]),
        or_(outbox.c.state.in_(["delivered", "sending"]), outbox.c.id.in_(uncertain)),
        or_(outbox.c.settled_at.is_(None), outbox.c.settled_at >= started - _CLOCK_SKEW),
    )
    arrived: dict[str, frozenset[str]] = {}
    rows = readable(connection, outbox, connection.execute(query), lambda row: (row.ordering_key, row.notice.firing))
    for key, firing in rows:
        arrived[key] = arrived.get(key, frozenset()) | {alert.id for alert in firing}
    return arrived


def _note_dead_senders(connection: Connection, lapsed: Sequence[_Locked]) -> None:
    """A row whose lease ran out may have arrived: that attempt counts, with an unknown outcome."""
    note = "the process that sent it ended before it knew the outcome"
    dead = [
        Attempt(row.id, row.attempts + 1, until, until, AttemptOutcome.UNKNOWN, note)
        for row in lapsed
        if (until := row.lease_until) is not None
    ]
    if dead:
        connection.execute(insert(connection, attempts).on_conflict_do_nothing(), list(map(shallow, dead)))
    for part in chunks([row.n for row in lapsed]):
        connection.execute(update(outbox).where(outbox.c.n.in_(part)).values(attempts=outbox.c.attempts + 1))


# --- after the claim --------------------------------------------------------------------------------------------------


_READ_NOTICE = {kind: Document(notice).read for notice, kind in _KINDS.items()}


def load_claimed(rows: Iterable[ClaimedRow]) -> dict[int, Notification]:
    """The notifications of claimed rows, by number; those that cannot be read back are absent."""
    loaded: dict[int, Notification] = {}
    for row in rows:
        notice = _READ_NOTICE[row.kind](row.notice) if row.kind in _READ_NOTICE else None
        if notice is not None and not isinstance(notice, Unreadable):
            loaded[row.n] = Notification(
                row.id, row.receiver, row.channel, row.ordering_key, notice, moment_of(row.created_at),
                moment_of(row.due_at), NotificationState.SENDING, row.attempts, row.reason,
            )  # fmt: skip
    return loaded


def extend_leases(connection: Connection, numbers: Sequence[int], holder: str, until: datetime) -> None:
    """Hold on to rows that wait for their send."""
    _update_claimed(connection, numbers, holder, {"lease_until": until})


def release_claims(connection: Connection, numbers: Sequence[int], holder: str) -> None:
    """Give back rows that were claimed and not sent."""
    _update_claimed(connection, numbers, holder, _FREE | {"state": "pending"})


def _update_claimed(connection: Connection, numbers: Sequence[int], holder: str, values: Mapping[str, object]) -> None:
    for part in chunks(numbers):
        claimed = update(outbox).where(outbox.c.n.in_(part), outbox.c.lease_holder == holder, OPEN)
        connection.execute(claimed.values(values))


def expire_leases(connection: Connection, now: datetime) -> None:
    """End every lease: for a store that only one process can use, right after its start."""
    connection.execute(update(outbox).where(OPEN, outbox.c.state == "sending").values(lease_until=now))


_IS_OPEN = (outbox.c.id == bindparam("of"), OPEN)
_DELIVERED = BulkWrite(
    ("tries", "why", "at", "of"),
    lambda _: (
        update(outbox)
        .where(*_IS_OPEN)
        .values(state=literal_column("'delivered'"), attempts=bindparam("tries"), reason=bindparam("why"))
        .values(settled_at=bindparam("at"), lease_holder=null(), lease_until=null())
    ),
)
_NOT_DELIVERED = BulkWrite(
    ("new", "tries", "why", "dead", "due", "at", "holder", "until", "of", "by"),
    lambda _: (
        update(outbox)
        .where(*_IS_OPEN, outbox.c.lease_holder == bindparam("by"))
        .values(state=bindparam("new"), attempts=bindparam("tries"), reason=bindparam("why"))
        .values(dead_reason=bindparam("dead"), due_at=bindparam("due"), settled_at=bindparam("at"))
        .values(lease_holder=bindparam("holder"), lease_until=bindparam("until"))
    ),
)
_CHANGING = ("ended_at", "outcome", "note")
_ATTEMPTS = bulk_upsert(attempts, ("notification_id", "number", "started_at", *_CHANGING), _CHANGING)
_KNOWN_ATTEMPT = BulkWrite(
    (*_CHANGING, "of", "tries"),
    lambda _: (
        update(attempts)
        .where(attempts.c.notification_id == bindparam("of"), attempts.c.number == bindparam("tries"))
        .values({name: bindparam(name) for name in _CHANGING})
    ),
)


def save_receipts(connection: Connection, receipts: Sequence[Receipt]) -> None:
    """Write receipts, of one row in their order. A first attempt that succeeds has no row of its own, unless it has one
    already as it was late: ``reason`` has its note; see ``deliveries.load_attempts``."""
    delivered: list[tuple[Any, ...]] = []
    others, tries, first = [], [], []
    for receipt in receipts:
        attempt, state = receipt.attempt, receipt.state
        id_, number, ended = attempt.notification_id, attempt.number, to_ms(attempt.ended_at)
        of_attempt = (ended, attempt.outcome.value, attempt.note)
        if state is NotificationState.DELIVERED and number == 1:
            delivered.append((number, attempt.note, ended, id_))
            first.append((*of_attempt, id_, number))
            continue
        tries.append((id_, number, to_ms(attempt.started_at), *of_attempt))
        if state is NotificationState.DELIVERED:
            delivered.append((number, None, ended, id_))
            continue
        held, dead = state is NotificationState.SENDING, state is NotificationState.DEAD
        due = to_ms(receipt.due_at)
        others.append((
            state.value,
            number - held,  # counted once its outcome is known
            receipt.reason,
            (receipt.dead_reason or DeadReason.REFUSED).value if dead else None,
            due,
            ended if dead else None,
            receipt.holder if held else None,
            due if held else None,
            id_,
            receipt.holder,
        ))  # fmt: skip
    _NOT_DELIVERED.execute(connection, others)
    _DELIVERED.execute(connection, delivered)
    _ATTEMPTS.execute(connection, tries)
    _KNOWN_ATTEMPT.execute(connection, first)
    places = {
        (sent.channel, sent.thread): {"place": sent.place, "updated_at": receipt.attempt.ended_at}
        for receipt in receipts
        if (sent := receipt.sent) is not None
    }
    rows = [{"channel": channel, "thread": thread, **values} for (channel, thread), values in places.items()]
    upsert(connection, sent_messages, rows, ("place", "updated_at"))


def sent_messages_of(connection: Connection, threads: Collection[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """The places of messages, by channel and thread, as far as there are any."""
    rows = _SENT.rows(connection, threads)
    places = readable(connection, sent_messages, rows, lambda row: ((row.channel, row.thread), row.place))
    return dict(places)


_SENT = Keyed(select(sent_messages), columns(sent_messages, "channel", "thread"))


def undelivered(
    connection: Connection, channels: Collection[str], before: datetime, dead_since: datetime
) -> list[Notification]:
    """What no other receiver was notified of, though these channels have not delivered it: rows of before ``before`` that
    are still open, and those that became dead letters at ``dead_since`` or later. At most a few hundred."""
    own = (outbox.c.channel.in_(sorted(channels)), outbox.c.failed_over_at.is_(None))
    late = select(outbox).where(OPEN, *own, outbox.c.created_at <= before)
    dead = select(outbox).where(outbox.c.dead_reason.is_not(None), *own, outbox.c.settled_at >= dead_since)
    rows = [row for query in (late, dead) for row in connection.execute(query.order_by(outbox.c.n).limit(_FAILOVERS))]
    return readable(connection, outbox, rows, to_notification)


def mark_failed_over(connection: Connection, ids: Collection[str], now: datetime) -> set[str]:
    """Note it on rows that are still undelivered and not marked yet; returns the ids of those."""
    marked: set[str] = set()
    waits = (or_(OPEN, outbox.c.dead_reason.is_not(None)), outbox.c.failed_over_at.is_(None))
    for part in chunks(sorted(ids)):
        mark = update(outbox).where(outbox.c.id.in_(part), *waits).values(failed_over_at=now)
        marked.update(connection.execute(mark.returning(outbox.c.id)).scalars())
    return marked


def retry_now(connection: Connection, channel: str, now: datetime) -> None:
    """Make what waits for another attempt on this channel due now: it works again."""
    waits = (OPEN, outbox.c.channel == channel, outbox.c.state == "pending", outbox.c.attempts > 0)
    connection.execute(update(outbox).where(*waits, outbox.c.due_at > now).values(due_at=now))


def dead_letter(connection: Connection, n: int, now: datetime) -> None:
    """Give up one row that cannot be read back."""
    dead = _dead(DeadReason.UNREADABLE, "its row cannot be read", now)
    connection.execute(update(outbox).where(outbox.c.n == n, OPEN).values(dead))


def dead_letter_orphans(connection: Connection, channels: Iterable[str], now: datetime) -> list[Settled]:
    """Give up what is enqueued for channels that no longer exist."""
    free = or_(outbox.c.state == "pending", outbox.c.lease_until <= now)
    orphans = update(outbox).where(OPEN, free, outbox.c.channel.not_in(sorted(channels)))
    dead = _dead(DeadReason.CHANNEL_GONE, "its channel is no longer in the configuration", now)
    rows = connection.execute(orphans.values(dead).returning(outbox.c.receiver, outbox.c.channel))
    return [Settled(row.receiver, row.channel, NotificationState.DEAD) for row in rows]


def _dead(why: DeadReason, words: str, now: datetime) -> dict[str, object]:
    dead = {"state": NotificationState.DEAD.value, "dead_reason": why.value, "reason": words, "settled_at": now}
    return _FREE | dead
