"""``tocsin replay`` and ``tocsin check --replay`` on a store."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.decide.world import World
from tocsin.cli.commands import app
from tocsin.config import load_file
from tocsin.store import Store

FILE = """\
nodes: [{{name: prod, url: "https://dss.example.com", api_key: k}}]
store: {{url: "sqlite:///{0}/tocsin.db"}}
receivers: [{{name: ops, channels: [{{name: chat, url: "json://ops.example.com"}}]}}]
route: {{receiver: ops}}
rules: [{{alert: Broken, kind: failed, after: {1}}}]
"""


def tocsin(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, and a store with a failure of an hour ago that was notified."""
    for name, after in (("now", 1), ("new", 2)):
        (tmp_path / f"{name}.yaml").write_text(FILE.format(tmp_path, after))

    async def past() -> None:
        store = Store(f"sqlite:///{tmp_path}/tocsin.db")
        await store.open()
        world = await World(store, load_file(tmp_path / "now.yaml")).begin()
        world.decides_at_once = True
        then = datetime.now(UTC) - timedelta(hours=1)
        await world.restart(then)
        await world.step(then)
        await world.run(then, "FAILED")
        due = await world.step(then + timedelta(minutes=1))
        while due is not None and due < datetime.now(UTC):
            due = await world.step(due)
        await store.close()

    asyncio.run(past())
    return tmp_path


def test_what_would_be_sent_stands_beside_what_was(folder: Path) -> None:
    result = tocsin("replay", "--config", f"{folder}/now.yaml", "--since", "1d", "--json")
    answer = json.loads(result.output)
    assert answer["would_send"] == answer["sent"]
    (sent,) = answer["sent"]
    assert (sent["receiver"], sent["channel"], sent["about"], sent["reason"]) == ("ops", "chat", ["Broken"], "first")
    assert sent["subject"] == "prod: SALES / Nightly ended FAILED"
    summary = answer["summary"]
    assert (summary["events"], summary["would_send"], summary["sent"], summary["pruned"]) == (2, 1, 1, True)
    assert summary["by_rule"] == {"Broken": {"would_send": 1, "sent": 1}}


def test_people_get_tables_and_a_line_on_where_the_history_begins(folder: Path) -> None:
    result = tocsin("replay", "--config", f"{folder}/new.yaml", "--since", "1d")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert ["ops", "0", "1"] in lines
    assert ["Broken", "0", "1"] in lines
    assert "is not stored: the history begins there" in result.output


def test_check_tells_each_receiver_in_a_line(folder: Path) -> None:
    for name, line in (("now", "ops: 1 messages, as sent"), ("new", "ops: 0 messages instead of 1 (Broken -1)")):
        result = tocsin("check", "--offline", "--config", f"{folder}/{name}.yaml", "--replay", "7d")
        assert (result.exit_code, result.output.splitlines()[-1]) == (0, line)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--since", "soon"], 2, "'soon' is neither a time (2026-03-01T06:00) nor how long ago (7d)"),
        (["--since", "1h", "--until", "2h"], 2, "--since must be before --until"),
        ([], 1, "there is no store at"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    (tmp_path / "now.yaml").write_text(FILE.format(tmp_path, 1))
    result = tocsin("replay", "--config", f"{tmp_path}/now.yaml", *words)
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "tocsin.db").exists()
