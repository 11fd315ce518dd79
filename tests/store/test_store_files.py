"""The files of a SQLite store: whose they are, which process may use them, and whether they are still the same."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_IMODE

import pytest
from sqlalchemy import text

from tocsin.store import Store, StoreFailed, StoreRefused
from tocsin.store.migrate import backup_sqlite


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def opened(path: Path) -> Store:
    store = Store(url(path))
    await store.open()
    await write(store)
    return store


async def write(store: Store) -> None:
    statement = text("INSERT INTO counters (name, value) VALUES ('a', 1) ON CONFLICT (name) DO UPDATE SET value = 2")
    await store.write(lambda connection: connection.execute(statement) and None)


def modes(folder: Path) -> dict[str, str]:
    return {file.name: oct(S_IMODE(file.stat().st_mode)) for file in folder.iterdir()}


async def test_what_is_stored_is_its_owners_alone_whatever_the_umask(tmp_path: Path, umask: None) -> None:
    folder = tmp_path / "state"
    store = await opened(folder / "tocsin.db")
    backup_sqlite(folder / "tocsin.db", folder / "copy.db")
    private = "0o600"
    names = ("tocsin.db", "tocsin.db-wal", "tocsin.db-shm", "copy.db")
    assert modes(folder) == dict.fromkeys(names, private)
    assert oct(S_IMODE(folder.stat().st_mode)) == "0o700"
    await store.close()


async def test_what_others_could_read_is_taken_from_them(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    await (await opened(path)).close()
    path.chmod(0o644)
    store = await opened(path)
    assert set(modes(tmp_path).values()) == {"0o600"}
    await store.close()


def by_symlink(file: Path, other: Path) -> None:
    other.symlink_to(file)


def by_hard_link(file: Path, other: Path) -> None:
    os.link(file, other)


@pytest.mark.parametrize("link", [by_symlink, by_hard_link])
async def test_one_file_has_one_daemon_by_whatever_name(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    store = await opened(tmp_path / "tocsin.db")
    (tmp_path / "elsewhere").mkdir()
    link(tmp_path / "tocsin.db", tmp_path / "elsewhere" / "other.db")
    with pytest.raises(StoreRefused, match="another Tocsin already runs"):
        await Store(url(tmp_path / "elsewhere" / "other.db")).open()
    await store.close()


async def test_a_link_keeps_what_sqlite_writes_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    store = await opened(tmp_path / "link.db")
    assert {"real.db", "real.db-wal", "real.db-shm", "link.db"} == {file.name for file in tmp_path.iterdir()}
    await store.close()


def delete(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
@pytest.mark.parametrize(("act", "word"), [(delete, "deleted"), (replace, "replaced")])
async def test_a_file_that_is_no_longer_the_same_ends_the_store(
    tmp_path: Path, act: Callable[[Path], None], word: str, end: str
) -> None:
    store = await opened(tmp_path / "tocsin.db")
    await write(store)
    act(tmp_path / f"tocsin.db{end}")
    with pytest.raises(StoreFailed, match=f"tocsin.db{end} was {word} while the daemon ran"):
        await write(store)
    with pytest.raises(StoreFailed):
        await store.watch()
    await store.close()


async def test_a_store_whose_folder_is_moved_away_ends(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state" / "tocsin.db")
    (tmp_path / "state").rename(tmp_path / "moved")
    with pytest.raises(StoreFailed, match="was deleted"):
        await write(store)
    await store.close()


async def test_a_directory_that_cannot_be_looked_at_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match=r"cannot use the store .*: File name too long"):
        await Store(url(tmp_path / ("x" * 300) / "tocsin.db")).open()
