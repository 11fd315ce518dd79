"""``tocsin db``: the store."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tocsin.cli.exits import fail
from tocsin.cli.verb import Argument, ConfigOption, Option, command, group, load_config

if TYPE_CHECKING:
    from tocsin.config.model import Config
    from tocsin.store import Store

app = group()


@contextmanager
def _store(config: "Config") -> Iterator["Store"]:
    """The store, still closed. What it cannot do is one line and exit code 1."""
    from tocsin.store import Store, StoreError

    try:
        yield Store(config.store.url)
    except StoreError as error:
        fail(str(error))


@command(app, "current")
def _current(config: ConfigOption = None) -> None:
    """Print the revision of the store and the one that this version wants."""
    from tocsin.store.migrate import stored_revision
    from tocsin.store.schema import SCHEMA_REVISION

    with _store(load_config(config)) as store:
        missing = store.is_sqlite and not Path(store.url.database or "").exists()
        revision = "no store yet" if missing else stored_revision(store.url) or "empty"
    print(f"{revision}; this version wants {SCHEMA_REVISION}")


@command(app, "upgrade")
def _upgrade(config: ConfigOption = None) -> None:
    """Bring the store to this version; a SQLite file is backed up beside itself first."""
    with _store(load_config(config)) as store, asyncio.Runner() as runner:
        runner.run(store.open())
        runner.run(store.close())
    print("the store is up to date")


@command(app, "backup")
def _backup(
    target: Annotated[Path, Argument(help="The file to write.")],
    config: ConfigOption = None,
    force: Annotated[bool, Option("--force", help="Replace an old file.")] = False,
) -> None:
    """Copy a SQLite store, also while the daemon runs."""
    from tocsin.store.engine import sqlite_path
    from tocsin.store.migrate import backup_sqlite

    with _store(load_config(config)) as store:
        if not store.is_sqlite:
            fail("a PostgreSQL store is backed up with pg_dump")
        source = sqlite_path(store.url)
    if not source.exists():
        fail(f"there is no store at {source}")
    if target.exists() and target.samefile(source):
        fail(f"{target} is the store itself")
    if target.exists() and not force:
        fail(f"{target} exists; --force replaces it")
    try:
        backup_sqlite(source, target)
    except (sqlite3.Error, OSError) as error:
        fail(f"cannot back up {source} to {target}: {error}")
    print(f"{source} -> {target}")


@command(app, "prune")
def _prune(config: ConfigOption = None) -> None:
    """Delete what is older than the retention, in small steps; works while the daemon runs."""
    from tocsin.app.loops import prune_all
    from tocsin.kit.clock import SystemClock

    settings = load_config(config)
    with _store(settings) as store, asyncio.Runner() as runner:
        runner.run(store.open(exclusive=False))
        try:
            rows = runner.run(prune_all(store, SystemClock().now(), settings.store.retention))
        finally:
            runner.run(store.close())
    print(f"deleted {rows} rows")
