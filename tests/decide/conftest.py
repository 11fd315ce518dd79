"""A store for timelines: SQLite. The statements themselves are tested on both databases in ``tests/store``."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.decide.world import World
from tocsin.store import Store


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'tocsin.db'}")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def world(sqlite_store: Store) -> World:
    return await World(sqlite_store).begin()
