"""Receivers whose answers do not end, through apprise: neither memory nor time is theirs.

The servers are real and stop by themselves after far more than they may be read, so that a reader without bounds fails
a test instead of filling the machine.
"""

import socket
import ssl
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from tests.deliver.builders import NOW, HandClock, Plain, config, owed
from tocsin.config.model import Channel
from tocsin.deliver import bounded
from tocsin.deliver.apprise_channel import AppriseSender
from tocsin.deliver.outgoing import Outgoing
from tocsin.deliver.result import Answer, SendResult
from tocsin.model.notification import AttemptOutcome

MANY = 60_000_000  # bytes that a server sends at most
GROWTH = 12_000_000  # bytes that a send may take
BLOCK = b"x" * 65_536


@dataclass
class Endless:
    """A server of one kind; ``sent`` counts what its clients took."""

    talk: Callable[["Endless", socket.socket], None]
    sent: int = 0
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def pour(self, client: socket.socket, block: bytes = BLOCK) -> None:
        while self.sent < MANY:
            self.sent += client.send(block)

    def drip(self, client: socket.socket, block: bytes) -> None:
        while not self.over.wait(0.02):
            client.sendall(block)

    @contextmanager
    def serving(self) -> Iterator["Endless"]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.over.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(20)

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.settimeout(10)
                with client, suppress(OSError):
                    self.talk(self, client)


def http(*head: bytes) -> Callable[[Endless, socket.socket], None]:
    """A server that takes a request, answers this head, and then does not stop."""

    def talk(server: Endless, client: socket.socket) -> None:
        client.recv(65_536)
        client.sendall(b"".join(line + b"\r\n" for line in head))
        server.pour(client)

    return talk


def bomb(server: Endless, client: socket.socket) -> None:
    """A body of 60 kB that is 60 MB when it is unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    body = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(MANY // 1_000_000)) + packer.flush()
    client.recv(65_536)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    client.sendall(head + body)


def endless_continues(server: Endless, client: socket.socket) -> None:
    client.recv(65_536)
    server.pour(client, b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)


def greeting(server: Endless, client: socket.socket) -> None:
    server.pour(client, b"220-welcome\r\n" * 1_000)


def endless_ehlo(server: Endless, client: socket.socket) -> None:
    client.sendall(b"220 hi\r\n")
    client.recv(1_000)
    server.pour(client, b"250-SIZE 1\r\n" * 1_000)


def endless_line(server: Endless, client: socket.socket) -> None:
    server.pour(client)


def broker(server: Endless, client: socket.socket) -> None:
    """Accepts the connection of an MQTT client and then sends a packet of 256 MB."""
    client.recv(1_000)
    client.sendall(b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\x7f")
    server.pour(client)


def send(url: str, seconds: float = 20.0) -> tuple[SendResult, int]:
    """One send through the real channel, and by how much memory grew at most."""
    channel = Channel("ops/x", "ops", url=Plain(url), timeout=timedelta(seconds=seconds))
    sender = AppriseSender(channel, HandClock(NOW))
    outgoing = Outgoing(owed(), config(channel))
    sender._renew_plugin(url)  # what is loaded once is not what a receiver takes
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        result = sender.send(outgoing)
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


OK = b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("url", "talk", "delivered"),
    [
        ("json://127.0.0.1:{}/x", http(OK, b""), True),
        ("json://127.0.0.1:{}/x", http(b"HTTP/1.1 500 Oh", b""), False),
        ("json://127.0.0.1:{}/x", http(OK, b"Content-Length: 99999999999", b""), True),
        ("json://127.0.0.1:{}/x", http(OK, b"Transfer-Encoding: chunked", b"", b"fffffffff"), True),
        ("json://127.0.0.1:{}/x", http(OK, b"Transfer-Encoding: chunked", b"", b"1;"), True),
        ("json://127.0.0.1:{}/x", http(OK, b"X-Long: "), False),
        ("json://127.0.0.1:{}/x", bomb, True),
        ("json://127.0.0.1:{}/x", endless_continues, False),
        ("matrix://user:word@127.0.0.1:{}/%23room", http(OK, b""), False),
        ("mailto://u:p@127.0.0.1:{}?from=a@example.com&to=b@example.com&mode=insecure", greeting, False),
        ("mailto://u:p@127.0.0.1:{}?from=a@example.com&to=b@example.com&mode=insecure", endless_ehlo, False),
        ("mailto://u:p@127.0.0.1:{}?from=a@example.com&to=b@example.com&mode=insecure", endless_line, False),
        ("irc://127.0.0.1:{}/%23ops", endless_line, False),
        pytest.param("mqtt://127.0.0.1:{}/topic", broker, False, marks=pytest.mark.e2e),  # its plugin waits long
    ],
    ids=["body", "error", "length", "chunk", "chunk line", "header", "bomb", "continue", "matrix", "greeting", "ehlo",
         "smtp line", "irc", "mqtt"],
)  # fmt: skip
def test_an_answer_that_does_not_end_takes_little_memory(
    url: str, talk: Callable[[Endless, socket.socket], None], delivered: bool
) -> None:
    with Endless(talk).serving() as server:
        result, growth = send(url.format(server.port))
    assert growth < GROWTH
    assert server.sent < MANY
    assert (result.outcome is AttemptOutcome.DELIVERED) is delivered


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("url", "drops"),
    [
        ("json://127.0.0.1:{}/x", (b"HTTP/1.1 200 OK\r\n\r\n", b"x")),
        ("json://127.0.0.1:{}/x", (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n")),
        ("json://127.0.0.1:{}/x", (b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
        ("mailto://u:p@127.0.0.1:{}?from=a@example.com&to=b@example.com&mode=insecure", (b"", b"220-hi\r\n")),
    ],
    ids=["body", "headers", "continue", "smtp"],
)
def test_an_answer_that_drips_ends_with_the_channels_timeout(url: str, drops: tuple[bytes, bytes]) -> None:
    def talk(server: Endless, client: socket.socket) -> None:
        client.sendall(drops[0])
        server.drip(client, drops[1])

    with Endless(talk).serving() as server:
        result, _ = send(url.format(server.port), seconds=2.0)  # it comes back at all
        assert result.outcome is not AttemptOutcome.REFUSED


def test_a_body_that_is_cut_or_compressed_is_still_read_by_plugins() -> None:
    import requests

    def talk(_server: Endless, client: socket.socket) -> None:
        client.recv(65_536)
        packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        body = packer.compress(b'{"ok": true}') + packer.flush()
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    bounded.install_bounds()
    with Endless(talk).serving() as server, bounded.ANSWERS.collect() as answers:
        assert requests.get(f"http://127.0.0.1:{server.port}/", timeout=20).json() == {"ok": True}
    assert [answer.status for answer in answers if isinstance(answer, Answer)] == [200]


def test_smtp_over_tls_reads_with_the_same_bounds() -> None:
    assert issubclass(bounded.BoundedSMTPS, bounded.BoundedSMTP)
    with pytest.raises(OSError):  # noqa: PT011 - nobody listens; it is the call that is tried
        bounded.BoundedSMTPS("127.0.0.1", 9, 5.0, 5.0, ssl.create_default_context())
