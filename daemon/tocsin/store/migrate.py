"""Bringing the tables up to date, under a lock, after a backup of the SQLite file.

An empty store gets the newest tables at once; Alembic leads older stores there, and is imported only then. Within a
minor version migrations only add, so that the previous version can still open the store; a store from a newer minor
version is refused.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from tocsin.store.engine import StoreRefused, is_sqlite, open_engines, reason, sqlite_path, unbounded
from tocsin.store.schema import SCHEMA_REVISION, metadata

if TYPE_CHECKING:
    from alembic.config import Config as AlembicConfig

_VERSION_TABLE = "alembic_version"
_MAKE_VERSION_TABLE = f"""
    CREATE TABLE IF NOT EXISTS {_VERSION_TABLE} (
        version_num VARCHAR(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY
    )"""
_ADVISORY_LOCK = 0x746F6373696E  # "tocsin"


def current_revision(connection: Connection) -> str | None:
    """The revision of the open store; None for an empty database."""
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar_one_or_none()
    return None if found is None else str(found)


def stored_revision(url: URL) -> str | None:
    """The revision of a closed store; None for an empty database. Raises ``StoreRefused``."""
    _, reader = open_engines(url)
    try:
        with reader.connect() as connection:
            return current_revision(connection)
    except OperationalError as error:
        raise StoreRefused(f"cannot read the store: {reason(error)}") from None
    finally:
        reader.dispose()


def bring_up_to_date(engine: Engine, url: URL) -> bool:
    """Make or migrate the tables of this version; returns whether anything was done. Raises ``StoreRefused``."""
    with engine.connect() as connection:
        revision = current_revision(connection)
    if revision == SCHEMA_REVISION:
        return False
    if revision is None:
        with _migration(engine, url) as connection:
            if current_revision(connection) is None:  # no other process was faster
                metadata.create_all(connection, checkfirst=False)
                connection.execute(text(_MAKE_VERSION_TABLE))
                connection.execute(text(f"INSERT INTO {_VERSION_TABLE} VALUES (:new)"), {"new": SCHEMA_REVISION})
        return True
    from alembic import command  # noqa: PLC0415 - heavy, and seldom needed
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    config = alembic_config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision not in known:
        minor = _minor(SCHEMA_REVISION)
        if _minor(revision) == minor and revision > SCHEMA_REVISION:
            return False  # a later migration of this minor version, which only added something
        if _minor(revision) <= minor:
            raise StoreRefused(
                f"the store was written by an earlier Tocsin (its revision is {revision}) from which no migration "
                "leads here; keep it for that version, and name another store: what DSS still knows is read back"
            )
        raise StoreRefused(
            f"the store was written by a newer Tocsin (its revision is {revision}, this one knows {SCHEMA_REVISION}); "
            "run that version, or restore the backup made before its upgrade"
        )
    if is_sqlite(url):
        path = sqlite_path(url)
        backup_sqlite(path, path.with_name(f"{path.name}.before-{SCHEMA_REVISION}"))
    with _migration(engine, url) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, SCHEMA_REVISION)
    return True


@contextmanager
def _migration(engine: Engine, url: URL) -> Iterator[Connection]:
    """A transaction without bound in time that no other process migrates beside."""
    with unbounded(engine, url).begin() as connection:
        if not is_sqlite(url):
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        yield connection


def _minor(revision: str) -> tuple[int, ...]:
    """The minor version that a revision such as ``0.2_0001`` belongs to; later than all for what is none."""
    numbers = revision.partition("_")[0].split(".")
    return tuple(map(int, numbers)) if all(number.isdecimal() for number in numbers) else (sys.maxsize,)


def alembic_config() -> "AlembicConfig":
    """Alembic's configuration without a file: it works from an installed wheel."""
    from alembic.config import Config as AlembicConfig  # noqa: PLC0415 - heavy, and seldom needed

    config = AlembicConfig()
    config.set_main_option("script_location", "tocsin.store:migrations")
    return config


def backup_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite file while it may be in use, to a new file of its owner's alone with all of its pages; an old
    target is replaced."""
    unfinished = target.with_name(target.name + ".part")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as origin,
        closing(sqlite3.connect(unfinished)) as copy,
    ):
        origin.backup(copy)
    unfinished.replace(target)
