"""``tocsin db``: the store."""

import asyncio
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tocsin.cli.exits import fail
from tocsin.cli.verb import ConfigOption, load_config, typer_app

if TYPE_CHECKING:
    from tocsin.store import Store

app = typer_app()


@app.command()
def current(config: ConfigOption = None) -> None:
    """Print the revision of the store and the one that this version wants."""
    from sqlalchemy.exc import OperationalError

    from tocsin.store import StoreRefused
    from tocsin.store.engine import open_engines, reason
    from tocsin.store.migrate import current_revision
    from tocsin.store.schema import SCHEMA_REVISION

    store = _closed_store(config)
    if store.is_sqlite and not Path(store.url.database or "").exists():
        print(f"no store yet; this version wants {SCHEMA_REVISION}")
        return
    try:
        _, reader = open_engines(store.url)
    except StoreRefused as error:
        fail(str(error))
    try:
        with reader.connect() as connection:
            print(f"{current_revision(connection) or 'empty'}; this version wants {SCHEMA_REVISION}")
    except OperationalError as error:
        fail(f"cannot read the store: {reason(error)}")
    finally:
        reader.dispose()


@app.command()
def upgrade(config: ConfigOption = None) -> None:
    """Bring the store to this version; a SQLite file is backed up beside itself first."""
    from tocsin.store import StoreRefused

    store = _closed_store(config)

    async def work() -> None:
        await store.open()
        await store.close()

    try:
        asyncio.run(work())
    except StoreRefused as error:
        fail(str(error))
    print("the store is up to date")


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an old file.")] = False,
) -> None:
    """Copy a SQLite store, also while the daemon runs."""
    from tocsin.store.engine import sqlite_path
    from tocsin.store.migrate import backup_sqlite

    store = _closed_store(config)
    if not store.is_sqlite:
        fail("a PostgreSQL store is backed up with pg_dump")
    source = sqlite_path(store.url)
    if not source.exists():
        fail(f"there is no store at {source}")
    if target.exists() and (not force or target.samefile(source)):
        fail(f"{target} is the store itself" if target.samefile(source) else f"{target} exists; --force replaces it")
    try:
        backup_sqlite(source, target)
    except (sqlite3.Error, OSError) as error:
        fail(f"cannot back up {source} to {target}: {error}")
    print(f"{source} -> {target}")


@app.command()
def prune(config: ConfigOption = None) -> None:
    """Delete what is older than the retention, in small steps; works while the daemon runs."""
    from tocsin.app.loops import prune_all
    from tocsin.kit.clock import SystemClock
    from tocsin.store import Store, StoreError

    settings = load_config(config)

    async def work() -> int:
        store = Store(settings.store.url)
        await store.open(exclusive=False)
        try:
            return await prune_all(store, SystemClock().now(), settings.store.retention)
        finally:
            await store.close()

    try:
        print(f"deleted {asyncio.run(work())} rows")
    except StoreError as error:
        fail(str(error))


def _closed_store(config: Path | None) -> "Store":
    from tocsin.store import Store, StoreRefused

    try:
        return Store(load_config(config).store.url)
    except StoreRefused as error:
        fail(str(error))
