"""Apprise channels to chat servers from Debian: MQTT (mosquitto) and IRC (ngircd), through the sender.

A test skips where its server is not installed; ``.ci/tools`` installs both.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from tests.deliver.builders import HandClock, Plain, config, event, owed
from tests.deliveries import get_delivery
from tests.fakedss.process import eventually, free_port
from tocsin.config.model import Channel
from tocsin.deliver.sender import Sender
from tocsin.model.notification import EventNotice, Notification, NotificationState
from tocsin.store import Store, outbox

pytestmark = pytest.mark.e2e

HOSTILE = "Nightly\r\nQUIT :bye\r\nPRIVMSG #ops :forged \u202e<!channel> 😀 <b>x</b>"


@asynccontextmanager
async def debian(name: str, port: int, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server as a process of this test, from when it answers."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(path, *words, stdout=quiet, stderr=quiet)
    try:
        await eventually(lambda: _answers(port), within=20)
        yield server
    finally:
        server.kill()
        await server.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def mosquitto(port: int):
    return debian("mosquitto", port, "-p", str(port))


def ngircd(port: int, folder: Path):
    file = folder / "ngircd.conf"
    file.write_text(
        f"[Global]\nName = irc.example.net\nInfo = test\nListen = 127.0.0.1\nPorts = {port}\nMotdPhrase = hi\n"
        "[Options]\nDNS = no\nIdent = no\nPAM = no\n"
    )
    return debian("ngircd", port, "-n", "-f", str(file))


class Subscriber:
    """Everything that comes to a topic, kept until it leaves."""

    def __init__(self, port: int, topic: str) -> None:
        self.messages: list[str] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)  # type: ignore[attr-defined]
        self._client.on_message = lambda _client, _data, message: self.messages.append(message.payload.decode())
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(topic, qos=1)

    async def __aenter__(self) -> "Subscriber":
        self._client.loop_start()
        assert await asyncio.to_thread(self._subscribed.wait, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)


class Chatter:
    """Somebody in an IRC channel who reads along."""

    def __init__(self, port: int, channel: str) -> None:
        self.said: list[str] = []
        self._port, self._channel, self._inside = port, channel, asyncio.Event()

    async def __aenter__(self) -> "Chatter":
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"NICK reader\r\nUSER reader 0 * :reader\r\nJOIN {self._channel}\r\n".encode())
        self._reading = asyncio.create_task(self._read(reader))
        await asyncio.wait_for(self._inside.wait(), 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            if line.startswith("PING"):
                self._writer.write(line.replace("PING", "PONG", 1).encode() + b"\r\n")
            elif " 366 " in line:
                self._inside.set()
            elif f" PRIVMSG {self._channel} :" in line:
                self.said.append(line.split(" :", 1)[1])


async def send(sender: Sender, store: Store, clock: HandClock, channel: Channel, *ones: Notification) -> list[str]:
    """Owe them, step until nothing moves, and answer their states."""
    await store.write(outbox.enqueue, ones)
    for _ in ones:
        await sender.step(clock.now(), config(channel))
        await sender.idle()
    found = [await store.read(get_delivery, one.id) for one in ones]
    return [one.notification.state for one in found if one]


async def test_a_broker_gets_each_message_once_and_in_order(sender: Sender, store: Store, clock: HandClock) -> None:
    port = free_port()
    channel = Channel("ops/mqtt", "ops", Plain(f"mqtt://127.0.0.1:{port}/alarms/dss"))
    ones = [owed(EventNotice(event(n, name=f"Load {n} {HOSTILE}"), "r"), "ops/mqtt") for n in range(5)]
    async with mosquitto(port), Subscriber(port, "alarms/#") as subscriber:
        assert await send(sender, store, clock, channel, *ones) == 5 * [NotificationState.DELIVERED]
        await eventually(lambda: len(subscriber.messages) >= 5)
    heads = [message.splitlines()[0] for message in subscriber.messages]
    assert heads == [
        f"Load {n} Nightly QUIT :bye PRIVMSG #ops :forged <!channel> 😀 <b>x</b> FAILED in SALES on prod"
        for n in range(5)
    ]


async def test_a_broker_that_is_away_is_tried_again(sender: Sender, store: Store, clock: HandClock) -> None:
    port = free_port()
    channel = Channel("ops/mqtt", "ops", Plain(f"mqtt://127.0.0.1:{port}/alarms"))
    one = owed(channel="ops/mqtt")
    async with mosquitto(port):
        assert await send(sender, store, clock, channel, owed(channel="ops/mqtt")) == [NotificationState.DELIVERED]
    assert await send(sender, store, clock, channel, one) == [NotificationState.PENDING]
    async with mosquitto(port), Subscriber(port, "alarms") as subscriber:
        clock.forward(seconds=5)
        assert await send(sender, store, clock, channel, one) == [NotificationState.DELIVERED]
        await eventually(lambda: subscriber.messages)


async def test_an_irc_channel_reads_lines_and_none_becomes_a_command(
    sender: Sender, store: Store, clock: HandClock, tmp_path: Path
) -> None:
    port = free_port()
    channel = Channel("ops/irc", "ops", Plain(f"irc://127.0.0.1:{port}/%23ops?join=yes"))
    ones = [owed(EventNotice(event(n, name=f"Load {n} {HOSTILE}"), "r"), "ops/irc") for n in range(2)]
    async with ngircd(port, tmp_path), Chatter(port, "#ops") as chatter:
        assert await send(sender, store, clock, channel, *ones) == 2 * [NotificationState.DELIVERED]
        await eventually(lambda: any(line.startswith("Load 1") for line in chatter.said))
    assert [line for line in chatter.said if "forged" in line] == [
        f"Load {n} Nightly QUIT :bye PRIVMSG #ops :forged <!channel> 😀 <b>x</b> FAILED in SALES on prod"
        for n in range(2)
    ]
