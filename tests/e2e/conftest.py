"""A small node and a webhook for each test of the whole."""

from pathlib import Path

import pytest

from tests.fakedss import FakeDSS, WebhookSink


def pytest_collection_modifyitems(items):
    """They wait for a real process on a machine that may be busy: their time is a bound, not a measure."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture
async def dss():
    async with FakeDSS() as fake:
        fake.world.populate(2, 3)
        yield fake


@pytest.fixture
async def sink():
    async with WebhookSink() as webhook:
        yield webhook
