"""The form of log lines, and the level of each package."""

import io
import json
import logging

import pytest
import structlog

from tocsin.app.logs import configure_logging, set_levels


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_what_when_and_how_grave_and_hides_what_is_called_a_secret(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    structlog.get_logger("tocsin.deliver.sender").warning("channel_failing", channel="ops", hmac_secret="s3cret")
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {"event": "channel_failing", "level": "warning", "channel": "ops", "hmac_secret": "<secret>"}


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_name_forges_no_line_and_turns_none_round(stream: io.StringIO, form: str) -> None:
    configure_logging("info", form, stream)
    structlog.get_logger("tocsin.watch").info("run_seen", scenario="Läufe 日本\n2026 [error] forged\u202e")
    assert len(stream.getvalue().splitlines()) == 1
    assert "Läufe 日本" in stream.getvalue()
    assert "\u202e" not in stream.getvalue()


def test_a_traceback_on_a_terminal_shows_no_variables(stream: io.StringIO) -> None:
    configure_logging("info", "console", stream)
    password = "pl4nted"
    try:
        int(password[:0])
    except ValueError:
        structlog.get_logger("tocsin.app").exception("broke")
    assert "ValueError" in stream.getvalue()
    assert "pl4nted" not in stream.getvalue()


def test_each_package_has_its_level_and_a_reload_changes_it(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream, {"watch": "debug", "deliver": "error"})
    watch, deliver = structlog.get_logger("tocsin.watch"), structlog.get_logger("tocsin.deliver.sender")
    watch.debug("one")
    deliver.warning("two")
    set_levels("warning", {"deliver": "info"})
    watch.info("three")
    deliver.info("four")
    assert [line["event"] for line in lines(stream)] == ["one", "four"]


def test_what_libraries_say_comes_out_in_the_same_form(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    logging.getLogger("aiohttp.web").error("it broke: %s", "so")
    logging.getLogger("sqlalchemy.engine").info("too much to say")
    assert [(line["event"], line["level"]) for line in lines(stream)] == [("it broke: so", "error")]


def test_an_error_brings_its_traceback(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream)
    try:
        raise ValueError("so")
    except ValueError:
        structlog.get_logger("tocsin.app").exception("broke")
    assert "ValueError: so" in str(lines(stream)[0]["exception"])


def test_a_line_that_cannot_be_written_is_lost_and_whoever_wrote_it_goes_on() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    configure_logging("info", "json", Full())
    structlog.get_logger("tocsin.store").warning("store_unavailable")
    structlog.get_logger("tocsin.store").info("store_available")
