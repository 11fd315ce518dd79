"""A small node and a webhook for each test of the whole."""

import pytest

from tests.fakedss import FakeDSS, WebhookSink


@pytest.fixture
async def dss():
    async with FakeDSS() as fake:
        fake.world.populate(2, 3)
        yield fake


@pytest.fixture
async def sink():
    async with WebhookSink() as webhook:
        yield webhook
