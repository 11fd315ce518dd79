"""What all tests share."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def python_env() -> dict[str, str]:
    """Environment for a subprocess ``python -m tocsin`` of this checkout, without what the developer's shell sets."""
    import os

    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return keep | {"PYTHONPATH": str(REPOSITORY / "daemon"), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
