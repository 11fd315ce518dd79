"""Secret files on a mount that hangs: a FIFO that nobody writes to hangs whoever opens it, as a dead mount does."""

import asyncio
import os
import signal

from tests.fakedss import DaemonProcess, config_for, eventually, node


async def test_secret_files_that_hang_hold_up_only_what_needs_them(tmp_path, dss, sink):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blind = node("blind", dss, sweep=False) | {"api_key_file": str(fifo)}
    del blind["api_key"]
    deaf: list[dict[str, object]] = [
        {"name": "deaf", "webhook_file": str(fifo)},
        {"name": "mail", "url_file": str(fifo)},
    ]
    deaf.append({"name": "unsigned", "webhook": sink.url, "hmac_secret_file": str(fifo)})
    deaf.append({"name": "untrusted", "webhook": sink.url.replace("http:", "https:"), "tls": {"ca_file": str(fifo)}})
    config = config_for(
        tmp_path,
        [blind, node("prod", dss)],
        sink,
        receivers=[
            {"name": "hook", "channels": [{"name": "hook", "webhook": sink.url}]},
            {"name": "deaf", "channels": deaf},
        ],
        reporters=[{"name": name, "on": ["run.failed"], "receiver": name} for name in ("hook", "deaf")],
        dss_reporters={"mode": "fallback", "receiver": "deaf", "allow_recipients": ["*"], "allow_senders": ["*"]},
        heartbeat={"url_file": str(fifo), "interval": "1s"},
    )
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        dss.world.instant_run("P000", "S000", "FAILED")
        await eventually(lambda: [post.json["type"] for post in sink.posts] == ["tocsin.run.failed"])

        async def told():
            tried = {item["channel"]: str(item["attempts"]) for item in await daemon.items("/api/v1/deliveries")}
            return all("does not answer" in tried.get(str(one["name"]), "") for one in deaf)

        await eventually(told)
        assert await daemon.status_of("/-/healthy") == 200
        assert await daemon.metric('dss_node_up{dss_node="blind"}') == 0
        hanging = [line for line in daemon.log if line["event"] == "secret_file_hangs"]
        assert {line["path"] for line in hanging} == {str(fifo)}
        assert await daemon.sigterm() == 0


async def test_a_configuration_that_hangs_at_a_reload_keeps_the_old_one_and_stops_on_time(tmp_path, dss, sink):
    config = config_for(tmp_path, {"prod": dss}, sink)
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "a.j2")
    async with DaemonProcess(config) as daemon:
        await daemon.watching(6)
        config.write_text(config.read_text() + "templates: [t/*.j2]\n")
        daemon.send_signal(signal.SIGHUP)
        await asyncio.sleep(2)  # until it has begun to read, and hangs
        dss.world.instant_run("P000", "S000", "FAILED")
        await eventually(lambda: len(sink.posts) >= 2)
        assert await daemon.status_of("/-/healthy") == 200
        assert await daemon.sigterm() == 0
