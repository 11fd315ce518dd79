"""What verbs print: aligned text, tables on a terminal, JSON with all its keys."""

import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from tocsin.cli import show

ROWS = [
    {"name": "a \x1b[31m[red]b", "active": True, "at": datetime(2026, 3, 1, 2, tzinfo=UTC), "tags": ["x", "y"]},
    {"name": "été", "active": False, "at": None, "tags": []},
]


def test_json_keeps_every_key_and_writes_times_in_utc_and_durations_as_seconds(capsys):
    show.rows([{"at": ROWS[0]["at"], "none": None, "took_seconds": timedelta(seconds=1.5)}], ("at",), as_json=True)
    assert capsys.readouterr().out == (
        '[\n  {\n    "at": "2026-03-01T02:00:00.000Z",\n    "none": null,\n    "took_seconds": 1.5\n  }\n]\n'
    )


def test_off_a_terminal_columns_are_aligned_and_nothing_moves_the_cursor(capsys):
    show.rows(ROWS, ("scenario=name", "active", "tags"), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "SCENARIO      ACTIVE  TAGS",
        "a [31m[red]b  yes     x, y",
        "été           no",
    ]


def test_no_rows_are_a_heading_alone_and_an_empty_list(capsys):
    show.rows([], ("name",), as_json=False)
    show.rows([], ("name",), as_json=True)
    assert capsys.readouterr().out == "NAME\n[]\n"


def test_one_thing_is_shown_line_by_line(capsys):
    show.item({"run_as": None, "duration_seconds": timedelta(minutes=2, seconds=5), "steps": [1]}, hide=("steps",))
    assert capsys.readouterr().out == "run as\nduration  2m 5s\n"


def test_on_a_terminal_a_row_is_a_line_and_the_first_column_is_whole(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    rows = [{"id": "a" * 12, "state": "firing", "place": "node/PROJECT/" + "S" * 40, "summary": "it failed " * 20}] * 2
    show.rows(rows, ("id", "state", "place", "summary"))
    plain = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert (len(plain), {len(line) for line in plain[1:]}) == (3, {100})
    assert all(line.startswith("a" * 12 + "  firing  node/") for line in plain[1:])


@pytest.mark.e2e
def test_on_a_terminal_a_table_is_drawn_and_names_are_not_markup(python_env, python):
    code = (
        "from tocsin.cli import show\n"
        "show.rows([{'name': '[red]x[/red]\\x1b[2J', 'outcome': 'FAILED'}], ('name', 'outcome'), as_json=False)"
    )
    ours, theirs = os.openpty()
    environment = python_env | {"TERM": "xterm"}
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "wb") as out:
        subprocess.run([python, "-c", code], env=environment, stdout=out, check=True)
        shown = terminal.read(65_536).decode()
    assert "[red]x[/red]" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b[1;31mFAILED" in shown
