"""Debian's amtool against a real daemon, unchanged."""

import asyncio
import json
import shutil

import pytest

from tests.fakedss import DaemonProcess, config_for, eventually

AMTOOL = shutil.which("amtool") or ""
pytestmark = pytest.mark.skipif(not AMTOOL, reason="amtool (Debian: prometheus-alertmanager) is not installed")


async def test_amtool_works_unchanged(tmp_path, dss, sink):
    route = {"receiver": "hook", "group_wait": "0s"}
    config = config_for(tmp_path, {"prod": dss}, sink, route=route)
    async with DaemonProcess(config) as daemon:

        async def amtool(*arguments, expected=0):
            process = await asyncio.create_subprocess_exec(
                AMTOOL, "--alertmanager.url", daemon.url, *arguments, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, env={"HOME": str(tmp_path)},
            )  # fmt: skip
            output, errors = [text.decode() for text in await process.communicate()]
            assert process.returncode == expected, output + errors
            return output

        async def silences(*more):
            return json.loads(await amtool("silence", "query", "-o", "json", *more))

        await amtool("alert", "add", "DiskFull", "severity=critical", "host=a", "--annotation=summary=full")
        assert "DiskFull" in await amtool("alert", "query", "host=~a|b")
        assert "DiskFull" not in await amtool("alert", "query", "host=b")

        id_ = (
            await amtool("silence", "add", "alertname=DiskFull", "--author=ann", "--comment=known", "-d", "1h")
        ).strip()
        assert [silence["id"] for silence in await silences("alertname=DiskFull")] == [id_]
        assert "DiskFull" not in await amtool("alert", "query"), "it hides what is silenced"
        shown = json.loads(await amtool("alert", "query", "--silenced", "-o", "json"))
        assert shown[0]["status"]["silencedBy"] == [id_]
        assert id_ in await amtool("silence", "update", id_, "-d", "3h", "--comment=longer")
        (changed,) = await silences()
        assert (changed["id"], changed["comment"]) == (id_, "longer")
        saved = tmp_path / "silences.json"
        saved.write_text(await amtool("silence", "query", "-o", "json"))
        await amtool("silence", "import", str(saved))
        assert [silence["id"] for silence in await silences()] == [id_], "it is the same one"
        await amtool("silence", "import", "--force", str(saved))
        assert len(await silences()) == 2
        for silence in await silences():
            await amtool("silence", "expire", silence["id"])
        assert await silences() == []
        assert {silence["id"] for silence in await silences("--expired", "--within=1h")} > {id_}
        assert "DiskFull" in await amtool("alert", "query")
        await eventually(lambda: any(b"DiskFull" in post.body for post in sink.posts))

        assert "disabled" in await amtool("cluster", "show")
        assert "receiver" in await amtool("config", "show")
        assert (
            await amtool("config", "routes", "test", "--verify.receivers=hook", "alertname=DiskFull")
        ).strip() == "hook"
