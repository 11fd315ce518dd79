"""Connections to a PostgreSQL that may die without a word.

A host that vanishes, a way that swallows packets or a proxy that keeps a dead connection open answer nothing, and TCP
alone notices after minutes or never. So every wait has an end: connecting, each answer, and each transaction as a
whole, all far below the leader's lease. A connection that is over its time is closed, which the caller sees as an error
of the database. The server is asked to bound its side too, since a process that was stopped or cut off may hold locks
that its successor needs; where that does not help (as measured, PostgreSQL 18 forgets its limit of idle transactions
after a pipeline of statements), whoever does not get a lock ends the session that was left behind.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, event
from sqlalchemy.engine import URL, Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

Result = TypeVar("Result")

TRANSACTION_SECONDS = 3.0
APPLICATION = "tocsin"  # the name of sessions whose transactions are that short
_LEFT_BEHIND_SECONDS = 6  # the age of a transaction that nobody can be waiting for any more
_ANSWER_SECONDS = 2.0  # outside of a transaction: the ping of a connection that was idle
_CONNECT: dict[str, object] = {  # of libpq; what the URL says itself stands
    "application_name": APPLICATION,
    "connect_timeout": 3,  # seconds, for each address
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 6_000,  # milliseconds
}
_SESSION = {
    "statement_timeout": "2500ms",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "5s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "6s",
}
_END_LEFT_BEHIND = f"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = current_setting('application_name') AND usename = current_user
      AND datname = current_database() AND xact_start < clock_timestamp() - interval '{_LEFT_BEHIND_SECONDS} seconds'
"""
_READ_ONLY, _LOCK_NOT_AVAILABLE = "25006", "55P03"


def connect_args(url: URL) -> dict[str, object]:
    """Options of a connection, without those that the URL sets."""
    return {name: value for name, value in _CONNECT.items() if name not in url.query}


def bound(engine: Engine) -> None:
    """Give every connection and transaction of ``engine`` an end in time."""

    @event.listens_for(engine, "do_connect")
    def _connect(
        _dialect: Dialect, _entry: ConnectionPoolEntry, args: tuple[Any, ...], parameters: dict[str, Any]
    ) -> DBAPIConnection:
        return BoundedConnection.connect(*args, **parameters)  # type: ignore[return-value]

    @event.listens_for(engine, "connect")
    def _prepare(connection: BoundedConnection, _entry: ConnectionPoolEntry) -> None:
        connection.autocommit = True
        settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
        connection.execute(f"SELECT {settings}".encode())
        connection.execute(_END_LEFT_BEHIND.encode())
        connection.autocommit = False

    @event.listens_for(engine, "checkout")
    def _begin(connection: BoundedConnection, _entry: ConnectionPoolEntry, _proxy: object) -> None:
        connection.deadline = time.perf_counter() + TRANSACTION_SECONDS

    @event.listens_for(engine, "checkin")
    def _end(connection: BoundedConnection | None, _entry: ConnectionPoolEntry) -> None:
        if connection is not None:
            connection.deadline = None

    @event.listens_for(engine, "handle_error")
    def _reconnect(context: ExceptionContext) -> None:
        """Have the next try connect anew. A server that became read-only is a standby by now; a lock may be held by a
        session that was left behind, which a new connection ends."""
        if getattr(context.original_exception, "sqlstate", None) in (_READ_ONLY, _LOCK_NOT_AVAILABLE):
            context.is_disconnect = True


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for the server until ``deadline``, and closes itself when that has passed.

    ``deadline`` is in seconds of ``time.perf_counter``; without one, each answer may take ``_ANSWER_SECONDS``.
    """

    deadline: float | None = None

    def wait(self, gen: Generator[Any, Any, Result], *args: Any, **options: Any) -> Result:
        until = time.perf_counter() + _ANSWER_SECONDS if self.deadline is None else self.deadline
        try:
            return super().wait(_until(until, gen), *args, **options)
        except _Silent:
            self.close()
            raise


class _Silent(psycopg.OperationalError):
    pass


def _until(until: float, gen: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
    """``gen``, which is sent what the socket is ready for; nothing is sent a few times a second while it is silent."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.perf_counter() > until:
                raise _Silent("the server did not answer in time")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: Result = end.value
        return result
