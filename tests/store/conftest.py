"""Every store test runs on SQLite and on a real PostgreSQL that the test starts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import empty_postgres
from tocsin.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tocsin.db'}"
    return empty_postgres(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = Store(store_url)
    await store.open()
    yield store
    await store.close()
