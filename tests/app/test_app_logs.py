"""The form of log lines, and the level of each package."""

import io
import json
import logging
import threading

import pytest
import structlog

from tocsin.app.logs import LogQueue, configure_logging, drain_log, dropped_lines, set_levels
from tocsin.kit.lines import write_lines


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def text(stream: io.StringIO) -> str:
    assert drain_log(60)
    return stream.getvalue()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in text(stream).splitlines()]


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
    assert len(text(stream).splitlines()) == 1
    assert "Läufe 日本" in text(stream)
    assert "\u202e" not in text(stream)


def test_a_traceback_on_a_terminal_shows_no_variables(stream: io.StringIO) -> None:
    configure_logging("info", "console", stream)
    password = "pl4nted"
    try:
        int(password[:0])
    except ValueError:
        structlog.get_logger("tocsin.app").exception("broke")
    assert "ValueError" in text(stream)
    assert "pl4nted" not in text(stream)


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


class Full(io.StringIO):
    """A disk without room, until there is some."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_line_that_cannot_be_written_is_lost_counted_and_told_later(stream: io.StringIO) -> None:
    disk = Full()
    configure_logging("info", "json", disk)
    structlog.get_logger("tocsin.store").warning("store_unavailable")
    assert drain_log(60)
    assert dropped_lines() == 1
    disk.full = False
    structlog.get_logger("tocsin.store").info("store_available")
    assert drain_log(60)  # what was dropped is reported behind it
    assert [(line["event"], line.get("count")) for line in lines(disk)] == [
        ("store_available", None), ("log_lines_dropped", 1),
    ]  # fmt: skip


class Unread:
    """A stream whose reader sleeps."""

    def __init__(self) -> None:
        self.read = threading.Event()
        self.text = ""

    def __call__(self, line: str) -> None:
        assert self.read.wait(60)
        self.text += line


def test_whoever_logs_never_waits_for_a_reader_and_what_is_too_much_is_counted() -> None:
    unread = Unread()
    lines = LogQueue(unread)
    for number in range(1_000):
        lines.write(f"{number} {'x' * 100_000}\n")
    assert 950 < lines.dropped < 1_000
    kept = 1_000 - lines.dropped
    unread.read.set()
    assert lines.drain(60)
    assert [line.split()[0] for line in unread.text.splitlines()] == [str(number) for number in range(kept)]
    lines.close()


def test_a_log_that_nobody_reads_is_waited_for_no_longer_than_asked() -> None:
    unread = Unread()
    lines = LogQueue(unread)
    lines.write("a line\n")
    assert not lines.drain(0)
    unread.read.set()
    assert lines.drain(60)
    lines.close()


def test_lines_by_the_hundred_are_made_by_the_thread_that_writes_them(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream, {"watch": "error"})
    write_lines("decide", "info", lambda: [{"event": "run_failed", "scenario": "Läufe\n\u202e", "seconds": 4.5}], 1)
    write_lines("watch", "info", lambda: [{"event": "not_wanted"}])
    write_lines("deliver", "warning", lambda: [{"event": "broken"}, 1 / 0])  # type: ignore[list-item]
    first, *others = lines(stream)
    assert first.pop("timestamp")
    assert first == {"event": "run_failed", "scenario": "Läufe\\n\\u202e", "seconds": 4.5, "level": "info"}
    assert [line["event"] for line in others] in ([], ["log_lines_failed"])  # which may come behind
    assert "log_lines_failed" in text(stream)


def test_lines_by_the_hundred_look_alike_on_a_terminal(stream: io.StringIO) -> None:
    configure_logging("info", "console", stream)
    write_lines("decide", "info", lambda: [{"event": "run_failed", "scenario": "NIGHTLY"}])
    assert "run_failed" in text(stream)
    assert "scenario=NIGHTLY" in text(stream)
