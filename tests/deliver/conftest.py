from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from tests.deliver.builders import HandClock, Inbox, sqlite_url
from tocsin.deliver.sender import DeliverMetrics, Sender
from tocsin.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(sqlite_url(tmp_path))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def sender(store: Store, clock: HandClock, registry: CollectorRegistry) -> AsyncIterator[Sender]:
    from datetime import timedelta

    sender = Sender(store, holder="me", clock=clock, metrics=DeliverMetrics(registry), random=Random(1))
    yield sender
    await sender.close(timedelta(0))


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()
    runner = await inbox.start()
    yield inbox
    await runner.cleanup()
