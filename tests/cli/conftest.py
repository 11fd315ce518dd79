"""An emulated DSS and a command line for each test."""

import pytest

from tests.cli.driven import driven


@pytest.fixture
async def dss(tmp_path):
    async with driven(tmp_path) as started:
        yield started
