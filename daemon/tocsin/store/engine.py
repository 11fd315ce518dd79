"""Opening the database: SQLite with WAL, or PostgreSQL. The rest of the package sees a SQLAlchemy engine.

SQLite's Python driver opens no transaction for SELECT and fails on a plain BEGIN under load, so the driver's own
transactions are off and every write begins with BEGIN IMMEDIATE. The files of a SQLite store hold what runs, fails and
is sent to whom, so they are their owner's alone whatever the umask; SQLite gives its WAL and shared memory the mode of
the database.

StoreError
├── StoreUnavailable    busy, full, read-only, disconnected: the stage pauses and tries again
│   └── StoreFailed     damaged, or its writer is gone: the process ends with one line
├── StoreRefused        cannot be opened: the process ends with one line
└── NotLeader           another process leads now: the write did not happen
"""

import errno
import fcntl
import os
import sqlite3
from operator import methodcaller
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

_BUSY_TIMEOUT_MS = 5_000
_WRITER_CACHE_KIB = 8_000  # ids are random: with SQLite's own 2 MB, pages of their indexes are read again and again
_SQLITE_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
})  # fmt: skip
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SHOWN_OPTIONS = frozenset({"host", "port", "hostaddr", "dbname", "sslmode", "target_session_attrs", "connect_timeout"})
# SQLSTATE classes and codes of PostgreSQL that speak of the server, not of the statement: connection, authorization,
# no such database, deadlock and serialization, resources, locks, shutdown and timeouts, input and output, internal
# errors; and read-only (a standby), idle too long, transaction too long, permission denied.
_POSTGRESQL_UNAVAILABLE = ("08", "28", "3D", "40", "53", "55", "57", "58", "XX", "25006", "25P03", "25P04", "42501")
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"})
_MODE = 0o600
_BESIDE = ("-wal", "-shm")


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be written or read just now; nothing was changed, and a later try may work."""


class StoreFailed(StoreUnavailable):
    """The store cannot be used any more by this process; the message says why. Callers that pause need not tell it
    apart: ``Store.watch`` ends the process."""


class StoreRefused(StoreError):
    """The store cannot be opened; the message says why and what to do."""


class NotLeader(StoreError):
    """This process no longer holds the leader lease; the transaction was not carried out."""


def parse_url(text: str) -> URL:
    """The database URL; raises ``StoreRefused`` for what Tocsin does not support, without a word of the URL."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # a port that is no number
        raise StoreRefused("store.url is not a database URL; write sqlite:////path/to/file or postgresql://…") from None
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:":
                raise StoreRefused("store.url names no file; Tocsin's store must outlive the process")
            return url
        case "postgresql" | "postgres":
            if "@" in (url.host or ""):
                raise StoreRefused("store.url: an @ in the user or the password is written %40")
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise StoreRefused(f"store.url: {other} is not supported; use sqlite:////path/to/file or postgresql://…")


def check_store_url(text: str) -> None:
    """Raises ``StoreRefused`` when no store can be opened at this address; connects to nothing."""
    url = parse_url(text)
    if not is_sqlite(url):
        for engine in open_engines(url):
            engine.dispose()


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def sqlite_path(url: URL) -> Path:
    """The file itself, not a link to it: SQLite keeps its WAL beside the file."""
    return Path(url.database or "").absolute().resolve()


def open_engines(url: URL, readers: int = 1) -> tuple[Engine, Engine]:
    """The writing and the reading engine, the latter with as many connections. Nothing is connected yet."""
    if is_sqlite(url):
        return _sqlite(url, writing=True, connections=1), _sqlite(url, writing=False, connections=readers)
    return _postgresql(url, writing=True, connections=1), _postgresql(url, writing=False, connections=readers)


def _postgresql(url: URL, *, writing: bool, connections: int) -> Engine:
    try:
        from psycopg import Error as DriverError  # noqa: PLC0415 - an extra
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - an extra

        from tocsin.store.postgresql import bound, connect_args  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError:
        raise StoreRefused("PostgreSQL needs the driver psycopg: pip install 'tocsin[postgres]'") from None
    try:
        engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            pool_recycle=300,  # seconds: readers too find a new primary in the end
            connect_args=connect_args(url),
            execution_options={} if writing else {"postgresql_readonly": True},
        )
        words, options = engine.dialect.create_connect_args(url)
        make_conninfo(*words, **{name: value for name, value in options.items() if name != "context"})
    except (ArgumentError, DriverError, TypeError, ValueError):
        raise StoreRefused(
            "store.url has an option that PostgreSQL's client does not know, or one that is no single value; "
            "write postgresql://user@host:port/database?sslmode=…"
        ) from None
    bound(engine)
    return engine


def unbounded(engine: Engine, url: URL) -> Engine:
    """An engine like ``engine`` whose transactions may take as long as they need, for migrations."""
    if is_sqlite(url):
        return engine
    from tocsin.store.postgresql import connect_args  # noqa: PLC0415 - needs the extra

    # Under a name of its own: sessions of Tocsin that take long are ended by others.
    options = connect_args(url) | {"application_name": "tocsin-upgrade"}
    return create_engine(url, poolclass=NullPool, connect_args=options)


def shown_url(url: URL) -> str:
    """The URL for people: without its password, and without options that may hold one."""
    kept = {name: value if name in _SHOWN_OPTIONS else "***" for name, value in url.query.items()}
    return (
        url.set(drivername=url.get_backend_name(), query=kept)
        .render_as_string(hide_password=True)
        .replace("%2A%2A%2A", "***")
    )


def _sqlite(url: URL, *, writing: bool, connections: int) -> Engine:
    engine = create_engine(url, pool_size=connections, max_overflow=0, connect_args={"check_same_thread": False})
    same = SameFiles(sqlite_path(url))

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        # In a damaged file one bad byte must not fail the whole statement.
        connection.text_factory = methodcaller("decode", "utf-8", "replace")
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        if writing:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        same.check()
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def unavailability(error: BaseException) -> StoreUnavailable | None:
    """What ``error`` says about the database itself; None when the statement or its function is at fault."""
    match error:
        case StoreUnavailable():
            return error
        case MemoryError():
            return StoreUnavailable("out of memory")
        case PoolTimeout():
            return StoreUnavailable("every connection is busy")
        case PendingRollbackError():
            return StoreUnavailable("the connection was lost during the transaction")
        case DBAPIError():
            return _driver_unavailability(error)
        case _:
            return None


def _driver_unavailability(error: DBAPIError) -> StoreUnavailable | None:
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extension
        if code in _SQLITE_DAMAGED:
            return StoreFailed(f"the store is damaged ({reason(error)}); restore a backup")
        return StoreUnavailable(reason(error)) if code in _SQLITE_UNAVAILABLE else None
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or (isinstance(error, OperationalError | InterfaceError) and state is None):
        return StoreUnavailable(reason(error))
    return StoreUnavailable(reason(error)) if state and state.startswith(_POSTGRESQL_UNAVAILABLE) else None


def reason(error: DBAPIError) -> str:
    """The driver's own words on one line."""
    return " ".join(str(error.orig).split()) or type(error.orig).__name__


# --- the files of a SQLite store -------------------------------------------------------------------------------------


def check_sqlite_place(path: Path) -> None:
    """Refuse a directory that cannot hold a WAL database, with one line that says what to do."""
    directory = path.parent
    try:
        if not directory.is_dir():
            try:
                directory.mkdir(parents=True)
                directory.chmod(0o700)
            except OSError as error:
                why = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
                raise StoreRefused(f"cannot make the directory of the store {path}: {why}") from None
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
        denied = not os.access(directory, os.W_OK) or (path.exists() and not os.access(path, os.W_OK))
        kind = file_system(directory)
    except OSError as error:  # a directory above it that this user may not enter, a name that is too long
        raise StoreRefused(f"cannot use the store {path}: {error.strerror or error}") from None
    if read_only:
        raise StoreRefused(f"cannot write the store {path}: its volume is mounted read-only")
    if denied:
        raise StoreRefused(f"cannot write the store {path}: permission denied; give the directory to this user")
    if kind in _NETWORK_FILE_SYSTEMS or kind.startswith("fuse.sshfs"):
        raise StoreRefused(
            f"the store {path} lies on a network file system ({kind}), where SQLite loses data; "
            "use a local disk, or PostgreSQL"
        )


def file_system(directory: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds ``directory``; empty where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    place, best, kind = directory.resolve(), -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def make_private(path: Path) -> None:
    """Make a file that only its owner may read, or take it from others if it is ours. Raises ``StoreRefused``."""
    try:
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, _MODE))
        for file in (path, *(path.with_name(path.name + end) for end in _BESIDE)):
            if file.exists() and (held := file.stat()).st_uid == os.geteuid() and held.st_mode & 0o777 != _MODE:
                file.chmod(_MODE)
    except OSError as error:
        raise StoreRefused(f"cannot write the store {path}: {error.strerror}") from None


class FileLock:
    """The lock of one process on the database file itself, so that it holds by whatever name the file is opened.

    The system frees it when the process dies, however it dies.
    Closing any descriptor of the file frees SQLite's own locks of this process: release it after the last connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises ``StoreRefused`` when another process holds it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreRefused(f"cannot write the store {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise StoreRefused(f"cannot lock the store {self._path}: {error.strerror}") from None
            raise StoreRefused(
                f"another Tocsin already runs on {self._path}; stop it first, or use PostgreSQL for several"
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class SameFiles:
    """Whether the files of an open store are still those that it was opened with, by device and inode.

    A file that was deleted or replaced while it is open takes writes that nobody finds again.
    """

    def __init__(self, path: Path) -> None:
        self._files = (path, *(path.with_name(path.name + end) for end in _BESIDE))
        self._known: dict[Path, tuple[int, int]] = {}

    def check(self) -> None:
        """Raises ``StoreFailed`` when one of them was deleted or replaced."""
        for file in self._files:
            known = self._known.get(file)
            try:
                found = os.stat(file)
            except (FileNotFoundError, NotADirectoryError):
                if known is None:
                    continue  # SQLite makes its WAL with the first transaction
                raise StoreFailed(f"the store's file {file} was deleted while the daemon ran; {_REMEDY}") from None
            except OSError as error:
                raise StoreUnavailable(f"cannot see the store's file {file}: {error.strerror}") from None
            if self._known.setdefault(file, (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
                raise StoreFailed(f"the store's file {file} was replaced while the daemon ran; {_REMEDY}")


_REMEDY = "what is written now would be lost, so it ends; put the files back or start it again on what is there"
