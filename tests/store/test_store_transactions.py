"""One writer, group commit, and what happens when something goes wrong in the middle."""

import asyncio
import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.config import Config
from sqlalchemy import Connection, insert, select, text, update

from tocsin.store import NotLeader, Store, StoreRefused, StoreUnavailable, migrate, writer
from tocsin.store.engine import file_system, parse_url
from tocsin.store.migrate import alembic_config, backup_sqlite
from tocsin.store.schema import SCHEMA_REVISION, counters, metadata

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def put(connection: Connection, name: str, value: int = 0) -> str:
    connection.execute(insert(counters).values(name=name, value=value))
    return name


def names(connection: Connection) -> list[str]:
    return list(connection.execute(select(counters.c.name).order_by(counters.c.name)).scalars())


def put_many(connection: Connection) -> None:
    for n in range(20_000):
        put(connection, f"{n}" * 20)


def limit_pages(connection: Connection, count: int) -> None:
    connection.execute(text(f"PRAGMA max_page_count = {count}")).close()


def increment(connection: Connection) -> None:
    value = connection.execute(select(counters.c.value).where(counters.c.name == "x")).scalar_one()
    connection.execute(update(counters).where(counters.c.name == "x").values(value=value + 1))


async def test_what_waits_is_committed_together(store: Store) -> None:
    before = store.writer.transactions
    written = await asyncio.gather(*(store.write(put, f"{n:03}") for n in range(200)))
    assert await store.read(names) == sorted(written)
    assert store.writer.transactions - before < 200


async def test_one_failure_in_a_batch_fails_alone(store: Store) -> None:
    await store.write(put, "b")
    results = await asyncio.gather(*(store.write(put, name) for name in "abc"), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["str", "IntegrityError", "str"]
    assert await store.read(names) == ["a", "b", "c"]


async def test_items_of_one_function_are_handed_over_together(store: Store) -> None:
    batches: list[int] = []

    def work(connection: Connection, items: Sequence[str]) -> Sequence[str]:
        batches.append(len(items))
        return [put(connection, item) for item in items]

    await asyncio.gather(*(store.write_each(work, f"{n:02}") for n in range(50)))
    assert sum(batches) == 50
    assert len(batches) < 50


async def test_a_read_then_write_loses_no_increment(store: Store) -> None:
    await store.write(put, "x")
    await asyncio.gather(*(store.write(increment) for _ in range(100)))
    value = await store.read(lambda c: c.execute(select(counters.c.value)).scalar_one())
    assert value == 100


async def test_cancelling_the_caller_does_not_cancel_the_transaction(store: Store) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        loop.call_soon_threadsafe(started.set)
        put(connection, "kept")

    caller = asyncio.create_task(store.write(slow))
    await started.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await store.write(put, "after")
    assert await store.read(names) == ["after", "kept"]


async def test_reading_connections_cannot_write(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only|query_only"):
        await store.read(put, "never")


async def test_a_guard_stops_the_write_of_a_former_leader(store: Store) -> None:
    first = await store.write(writer.acquire_lease, "a", NOW)
    assert first
    await store.write_guarded(first.guard, put, "while leading")
    second = await store.write(writer.acquire_lease, "b", NOW + timedelta(seconds=16))
    assert second
    with pytest.raises(NotLeader):
        await store.write_guarded(first.guard, put, "too late")
    with pytest.raises(NotLeader):
        await store.write(writer.renew_lease, first, NOW + timedelta(seconds=17))
    await store.write_guarded(second.guard, put, "the new one")
    assert await store.read(names) == ["the new one", "while leading"]


async def test_a_released_lease_is_free_at_once_and_its_epoch_is_not_used_again(store: Store) -> None:
    first = await store.write(writer.acquire_lease, "a", NOW)
    assert first
    await store.write(writer.release_lease, first, NOW)
    second = await store.write(writer.acquire_lease, "b", NOW)
    assert second
    assert second.epoch > first.epoch


async def test_a_lease_can_be_taken_by_force(store: Store) -> None:
    await store.write(writer.acquire_lease, "a", NOW)
    assert await store.write(writer.acquire_lease, "b", NOW, force=True) is not None


async def test_after_closing_the_store_is_unavailable(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.read(names)


async def test_what_was_asked_for_before_closing_is_carried_out(store_url: str) -> None:
    store = Store(store_url)
    await store.open()
    waiting = [asyncio.create_task(store.write(put, f"{n}")) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*waiting)
    again = Store(store_url)
    await again.open()
    assert len(await again.read(names)) == 20
    await again.close()


async def test_a_fresh_store_has_the_tables_of_the_schema(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    assert await store.read(differences) == []


async def test_a_store_of_a_newer_version_is_refused(store_url: str) -> None:
    store = Store(store_url)
    await store.open()
    await store.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")) and None)
    await store.close()
    with pytest.raises(StoreRefused, match="newer Tocsin"):
        await Store(store_url).open()


@pytest.mark.parametrize("revision", ["0.1_0001", "0.2_0001"])
async def test_a_store_of_an_earlier_version_is_refused_in_one_line(store_url: str, revision: str) -> None:
    store = Store(store_url)
    await store.open()
    await store.write(lambda c: c.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'")) and None)
    await store.close()
    with pytest.raises(StoreRefused, match=rf"an earlier Tocsin .*{re.escape(revision)}.* name another store"):
        await Store(store_url).open()


async def test_an_upgrade_backs_up_first_and_the_version_before_still_opens_the_store(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Store(store_url)
    await before.open()
    await before.write(put, "from before")
    await before.close()
    later = f"{SCHEMA_REVISION}9"
    (tmp_path / "later.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = {later!r}, {SCHEMA_REVISION!r}\n"
        "def upgrade():\n    op.add_column('counters', sa.Column('note', sa.Text(), nullable=True))\n"
    )

    def both() -> Config:
        config = alembic_config()
        config.set_main_option("path_separator", "os")
        ours = Path(migrate.__file__).parent / "migrations" / "versions"
        config.set_main_option("version_locations", f"{ours}{os.pathsep}{tmp_path}")
        return config

    with monkeypatch.context() as as_later:
        as_later.setattr(migrate, "SCHEMA_REVISION", later)
        as_later.setattr(migrate, "alembic_config", both)
        after = Store(store_url)
        await after.open()
        await after.write(lambda c: c.execute(text("UPDATE counters SET note = 'new'")) and None)
        assert await after.read(migrate.current_revision) == later
        await after.close()
    if "sqlite" in store_url:
        with closing(sqlite3.connect(tmp_path / f"tocsin.db.before-{later}")) as backup:
            assert backup.execute("SELECT version_num FROM alembic_version").fetchone() == (SCHEMA_REVISION,)
    again = Store(store_url)
    await again.open()
    await again.write(put, "and after")
    assert sorted(await again.read(names)) == ["and after", "from before"]
    await again.close()


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


async def test_a_second_daemon_on_one_sqlite_file_is_refused(tmp_path: Path) -> None:
    first = Store(sqlite_url(tmp_path / "a.db"))
    await first.open()
    with pytest.raises(StoreRefused, match="another Tocsin already runs"):
        await Store(sqlite_url(tmp_path / "a.db")).open()
    beside = Store(sqlite_url(tmp_path / "a.db"))
    await beside.open(exclusive=False)
    await beside.write(put, "from the command line")
    await beside.close()
    await first.close()
    third = Store(sqlite_url(tmp_path / "a.db"))
    await third.open()
    await third.close()


async def test_a_store_locked_by_others_is_unavailable_and_recovers(tmp_path: Path) -> None:
    store = Store(sqlite_url(tmp_path / "a.db"))
    await store.open()
    await store.write(lambda c: c.execute(text("PRAGMA busy_timeout = 50")).close())
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.write(put, "a")
    other.execute("ROLLBACK")
    other.close()
    await store.write(put, "a")
    assert await store.read(names) == ["a"]
    await store.close()


async def test_a_full_disk_is_told_and_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """SQLite's own limit of pages raises the very error that a full disk does."""
    store = Store(sqlite_url(tmp_path / "a.db"))
    await store.open()
    await store.write(put, "before")
    await store.write(limit_pages, 1)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.write(put_many)
    await store.write(limit_pages, 1_000_000)
    await store.write(put, "after")
    assert await store.read(names) == ["after", "before"]
    await store.close()


async def test_an_unwritable_directory_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match=r"cannot make the directory of the store .*: it is not a directory"):
        await Store(sqlite_url(tmp_path / "file" / "a.db")).open()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(StoreRefused, match="not a database"):
        await Store(sqlite_url(tmp_path / "a.db")).open()


@pytest.mark.parametrize(("url", "words"), [
    ("sqlite://", "names no file"),
    ("mysql://host/db", "mysql is not supported"),
    ("nonsense", "not a database URL"),
])  # fmt: skip
def test_an_address_that_cannot_serve_is_refused(url: str, words: str) -> None:
    with pytest.raises(StoreRefused, match=words):
        parse_url(url)


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    assert file_system(tmp_path, mounts) == "nfs4"
    assert file_system(Path("/"), mounts) == "ext4"
    assert file_system(Path("/"), tmp_path / "absent") == ""


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tocsin.store import engine

    monkeypatch.setattr(engine, "file_system", lambda _directory: "nfs4")
    with pytest.raises(StoreRefused, match="network file system"):
        await Store(sqlite_url(tmp_path / "a.db")).open()


async def test_a_backup_can_be_made_while_the_store_is_written(tmp_path: Path) -> None:
    store = Store(sqlite_url(tmp_path / "a.db"))
    await store.open()
    await asyncio.gather(*(store.write(put, f"{n}") for n in range(50)))
    backup_sqlite(tmp_path / "a.db", tmp_path / "copy.db")
    await store.close()
    copy = Store(sqlite_url(tmp_path / "copy.db"))
    await copy.open()
    assert len(await copy.read(names)) == 50
    await copy.close()
