"""The usual driven sim."""

import pytest

from tests.sim.driven import running


@pytest.fixture
async def sim():
    async with running() as driven:
        yield driven
