"""What keeps the daemon from starting is said in one clear line, with a non-zero exit."""

import json
import re
import shutil
import socket
import sqlite3
import subprocess

import pytest
import yaml
from click.testing import CliRunner

from tests.fakedss import DaemonProcess, config_for, eventually, free_port, node
from tocsin.cli.commands import app


def complaints(daemon):
    """All that was said on stderr but log lines of level info and below."""
    lines = [line for line in daemon.stderr if line.strip()]
    return [line for line in lines if not (line.startswith("{") and json.loads(line).get("level") in ("debug", "info"))]


async def refused(config, inside=()):
    """Run with this configuration; the exit code and what was said."""
    daemon = DaemonProcess(config, url="http://127.0.0.1:1")  # nobody will ask it anything
    daemon.inside = inside
    try:
        await daemon.start()
        return await daemon.wait(), complaints(daemon)
    finally:
        await daemon.kill9()


async def test_a_port_in_use(tmp_path, dss, sink):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = await refused(config_for(tmp_path, {"prod": dss}, sink, http={"listen": f"127.0.0.1:{port}"}))
    assert (code != 0, len(said)) == (True, 1)
    assert str(port) in said[0]


async def test_a_store_that_cannot_be_written(tmp_path, dss, sink):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "tocsin.db"
    code, said = await refused(config_for(tmp_path, {"prod": dss}, sink, store={"url": f"sqlite:///{path}"}))
    assert (code != 0, len(said)) == (True, 1)
    assert str(path) in said[0]


async def test_a_volume_that_is_read_only(tmp_path, dss, sink):
    volume = tmp_path / "volume"
    volume.mkdir()
    script = f'mount -t tmpfs -o ro none "{volume}" && exec "$@"'
    mounted = ("unshare", "--mount", "sh", "-c", script, "sh")  # seen by this process alone
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    config = config_for(tmp_path, {"prod": dss}, sink, store={"url": f"sqlite:///{volume / 'tocsin.db'}"})
    code, said = await refused(config, mounted)
    assert (code, len(said)) == (1, 1)
    assert "ead-only" in said[0]
    assert str(volume) in said[0]


async def test_a_secret_that_is_not_there_is_told_by_check_and_keeps_the_daemon_waiting_for_it(tmp_path, dss, sink):
    key = tmp_path / "key"
    prod = node("prod", dss, sweep=False) | {"api_key_file": str(key)}
    del prod["api_key"]
    config = config_for(tmp_path, [prod], sink)
    checked = CliRunner().invoke(app, ["check", "--config", str(config)])
    problem = "the api key of node 'prod' cannot be read: No such file or directory"
    assert (checked.exit_code, problem in checked.output) == (1, True), checked.output
    async with DaemonProcess(config) as daemon:

        async def down():
            return [event["data"]["reason"] for event in await daemon.events()] == ["unauthorized"]

        await eventually(down)
        key.write_text(dss.api_key)
        await daemon.watching(6)
        assert [line for line in daemon.stderr if "Traceback" in line] == []


@pytest.mark.parametrize("address", [
    "postgresql://tocsin:secret@host:port/tocsin",
    "postgresql://tocsin:sec@ret@127.0.0.1:1/tocsin",
    "postgresql://tocsin@127.0.0.1:1/tocsin?password=secret",
    "postgresql://tocsin@127.0.0.1:1/tocsin?colour=secret",
    "postgresql://tocsin:secret@a..b/tocsin",
])  # fmt: skip
async def test_a_database_that_cannot_be_addressed(tmp_path, dss, sink, address):
    code, said = await refused(config_for(tmp_path, {"prod": dss}, sink, store={"url": address}))
    assert (code, len(said)) == (1, 1)
    assert "store" in said[0]
    assert "secret" not in said[0]


async def test_a_store_of_a_newer_version(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    async with DaemonProcess(config) as daemon:
        assert await daemon.sigterm() == 0
    store = sqlite3.connect(tmp_path / "tocsin.db")
    with store:
        store.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
    store.close()
    code, said = await refused(config)
    assert (code != 0, len(said)) == (True, 1)
    assert "newer" in said[0]


async def test_a_second_daemon_on_the_same_file(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    async with DaemonProcess(config) as daemon:
        second = tmp_path / "second.yaml"
        other_port = {"http": {"listen": f"127.0.0.1:{free_port()}"}}
        second.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | other_port))
        code, said = await refused(second)
        assert (code != 0, len(said)) == (True, 1)
        assert "tocsin.db" in said[0]
        assert await daemon.status_of("/-/ready") == 200


GOOD = """\
nodes:
  - name: prod
    url: http://127.0.0.1:1
    api_key: secret
    watch:
      sweep_interval: 2s
receivers:
  - name: hook
    channels:
      - {name: hook, webhook: "http://127.0.0.1:1/"}
reporters:
  - name: all
    on: [run.failed]
    receiver: hook
"""

WRONG = {
    "a key at the top": ("receivers:", "recievers:", 7, "recievers", "receivers"),
    "a key deep inside": ("sweep_interval", "sweep_intervall", 6, "sweep_intervall", "sweep_interval"),
    "a duration": ("2s", "2 moments", 6, "sweep_interval", "2 moments"),
    "an unknown receiver": ("receiver: hook", "receiver: hok", 14, "hok", "hook"),
    "an unknown event": ("run.failed", "run.fialed", 13, "run.fialed", "run.failed"),
    "a missing address": ("    url: http://127.0.0.1:1\n", "", 2, "url", "nodes"),
    "broken YAML": ("[run.failed]", "[run.failed", 14, "tocsin.yaml", ""),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_configuration_names_file_line_key_and_what_was_meant(tmp_path, case):
    old, new, line, key, meant = WRONG[case]
    config = tmp_path / "tocsin.yaml"
    config.write_text(GOOD.replace(old, new))
    code, said = await refused(config)
    text = "\n".join(said)
    assert code == 1
    checked = CliRunner().invoke(app, ["check", "--config", str(config)])
    assert checked.exit_code == 1
    assert [line for line in checked.output.splitlines() if line not in text] == []
    assert re.search(rf"tocsin\.yaml:{line}\b", text), text
    assert (key in text, meant in text, "Traceback" in text, "secret" in text) == (True, True, False, False), text


async def test_a_file_that_is_not_there(tmp_path):
    code, said = await refused(tmp_path / "absent.yaml")
    assert (code, len(said)) == (1, 1)
    assert "absent.yaml" in said[0]


async def test_a_daemon_that_tells_nobody_says_so(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink, receivers=None, reporters=None)
    async with DaemonProcess(config) as daemon:
        await eventually(lambda: "no_receiver" in [line["event"] for line in daemon.log])
