"""The one leader: it owns watch, decide, prune and the scenario series.

A lease is a row with a holder, an epoch and an end. Each of the leader's transactions checks the epoch again, so that
a leader that was paused and replaced cannot write. On SQLite the file's lock already keeps others out, so the lease
is simply taken; on PostgreSQL it is waited for.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from tocsin.store.errors import NotLeader
from tocsin.store.schema import leases
from tocsin.store.upsert import insert

LEADER = "leader"
LEASE_FOR = timedelta(seconds=8)  # how long a dead leader is missed
HOLD_FOR = timedelta(seconds=6)  # by the holder's own clock; LEASE_FOR less this is how far clocks may be apart
RENEW_EVERY = timedelta(seconds=2)
ASK_EVERY = timedelta(seconds=1)  # by who stands by


@dataclass(frozen=True, slots=True)
class Leadership:
    """Proof of having led since ``epoch`` began."""

    holder: str
    epoch: int

    def guard(self, connection: Connection) -> None:
        """Raises ``NotLeader`` unless this leadership still holds; to be called inside the transaction."""
        query = select(leases.c.epoch).where(leases.c.name == LEADER)
        if connection.dialect.name != "sqlite":
            query = query.with_for_update(read=True)
        if connection.execute(query).scalar_one_or_none() != self.epoch:
            raise NotLeader("another process leads now")


def acquire(connection: Connection, holder: str, now: datetime, *, force: bool = False) -> Leadership | None:
    """Take the lease if it is free, ran out or is taken by force; None while another holds it."""
    fresh = insert(connection, leases).values(name=LEADER, holder=holder, epoch=1, until=now + LEASE_FOR)
    free = (leases.c.until <= now) | (leases.c.holder == holder)
    taken = fresh.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": holder, "epoch": leases.c.epoch + 1, "until": now + LEASE_FOR},
        where=None if force else free,
    ).returning(leases.c.epoch)
    epoch = connection.execute(taken).scalar_one_or_none()
    return None if epoch is None else Leadership(holder, epoch)


def renew(connection: Connection, leadership: Leadership, now: datetime) -> None:
    """Hold on for another ``LEASE_FOR``. Raises ``NotLeader`` when it was lost."""
    held = connection.execute(
        update(leases)
        .where(leases.c.name == LEADER, leases.c.epoch == leadership.epoch)
        .values(until=now + LEASE_FOR)
        .returning(leases.c.epoch)
    ).scalar_one_or_none()
    if held is None:
        raise NotLeader("another process leads now")


def release(connection: Connection, leadership: Leadership, now: datetime) -> None:
    """Let another take over at once. The row stays: its epoch must never be used again."""
    connection.execute(
        update(leases).where(leases.c.name == LEADER, leases.c.epoch == leadership.epoch).values(until=now)
    )
