"""A server of bytes on a socket, and a table of what a hostile or broken one may say instead of a list of projects."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

Say = Iterator[bytes]
MB = 1_000_000


def reply(body: bytes = b"[]", *headers: str, status: str = "200 OK", sized: bool = True) -> Say:
    size = [f"Content-Length: {len(body)}"] if sized else []
    head = "\r\n".join([f"HTTP/1.1 {status}", *size, "Connection: close", *headers, "", ""])
    yield head.encode("latin-1") + body


def redirect(location: str) -> Say:
    return reply(b"", f"Location: {location}", status="302 Found")


def unpacking(body: bytes, encoding: str = "gzip") -> Say:
    return reply(body, f"Content-Encoding: {encoding}")


def large(piece: bytes, count: int) -> Say:
    """One list of many pieces, which are never all in this process's memory."""
    yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n["
    block = b",".join([piece] * 1000)
    for number in range(count // 1000):
        yield block if number == 0 else b"," + block
    yield b"]"


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(b"[" + b" " * MB) for _ in range(megabytes)), packer.flush()])


def endless(first: bytes, again: bytes) -> Say:
    yield first
    while True:
        yield again


_LIST = b'[{"projectKey":"P"}]'
_PROJECT = b'{"projectKey":"P","name":"' + b"x" * 900 + b'"}'
_BAD_TEXT = b'{"errorType":"x\\u0000","message":"\\ud800\\u0000 ' + b"y" * MB + b'"}'

ANSWERS: dict[str, Callable[[], Say]] = {
    # redirects that lead nowhere
    **{
        f"redirect to {where!r}": lambda where=where: redirect(where)  # type: ignore[misc]
        for where in (
            "file:///etc/passwd", "file:", "mailto:a@example.com", "urn:isbn:1", "data:text/plain,x", "javascript:1", "http:///x", "http://",
            "http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://127.0.0.1:-1/", "https://:443/", "//", "///", "\\\\evil\\x",
            "http://" + "a" * 300, "http://\xff\xfe/", "ftp://127.0.0.1/", "?", "#", " ", "http://a..b/", "%00", "http://evil.example.com/",
        )
    },
    # sizes and shapes
    "a list of 57 MB": lambda: large(_PROJECT, 57_000),
    "a list of 19 million empty objects": lambda: large(b"{}", 19_000_000),
    "a list of small numbers": lambda: large(b"1", 6_000_000),
    "a gzip bomb": lambda: unpacking(bomb(40)),
    "a bomb in a bomb": lambda: unpacking(gzip.compress(bomb(40)), "gzip, gzip"),
    "a deflate that is none": lambda: unpacking(b"\x00nonsense", "deflate"),
    "half a gzip": lambda: unpacking(gzip.compress(b"[]" * 1000)[:30]),
    "an unknown packing": lambda: unpacking(b"[]", "br"),
    "deep lists": lambda: reply(b"[" * 100_000 + b"]" * 100_000),
    "deep objects": lambda: reply(b'[{"projectKey":' * 50_000),
    "a number of a million digits": lambda: reply(b"[" + b"9" * MB + b"]"),
    "numbers instead of projects": lambda: reply(b"[1, 2, null, [], {}]"),
    "an object": lambda: reply(b"{}"),
    "null": lambda: reply(b"null"),
    "nothing": lambda: reply(b""),
    "bytes": lambda: reply(bytes(range(256))),
    "half a surrogate": lambda: reply(b'["\xed\xa0\x80"]'),
    "a page": lambda: reply(b"<!DOCTYPE html><h1>Log in</h1>"),
    # statuses
    **{
        f"status {status}": lambda status=status: reply(b"", status=status)  # type: ignore[misc]
        for status in ("204 No Content", "205 x", "304 x", "300 x", "101 x", "199 x", "418 x", "599 x", "999 x", "1000 x", "99999 x", "-1 x", "abc", "")
    },
    "status with a strange error": lambda: reply(_BAD_TEXT, status="500 x"),
    "status with an error in an error": lambda: reply(b'{"message":{"message":[]},"errorType":[1]}', status="500 x"),
    "status with a deep error": lambda: reply(b"[" * 100_000, status="500 x"),
    "a reason of odd bytes": lambda: reply(b"", status="500 \xff\xfe"),
    "throttled for ever": lambda: reply(b"", "Retry-After: 1e18", status="429 x"),
    "throttled until the end of time": lambda: reply(b"", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", status="429 x"),
    "throttled by odd digits": lambda: reply(b"", "Retry-After: \xb2\xb3", status="429 x"),
    "throttled by many digits": lambda: reply(b"", "Retry-After: " + "9" * 4000, status="429 x"),
    "a refusal of odd headers": lambda: reply(b"", "WWW-Authenticate: \xff\xfe", status="401 x"),
    # framing
    "a negative length": lambda: reply(b"[]", "Content-Length: -1", sized=False),
    "a length that is no number": lambda: reply(b"[]", "Content-Length: ten", sized=False),
    "two lengths": lambda: reply(b"[]", "Content-Length: 1"),
    "a length that is not kept": lambda: reply(b"[", "Content-Length: 5000", sized=False),
    "chunks of no size": lambda: reply(b"zz\r\n[]\r\n", "Transfer-Encoding: chunked", sized=False),
    "a chunk of endless size": lambda: reply(b"f" * 40 + b"\r\n[]", "Transfer-Encoding: chunked", sized=False),
    "an unknown coding of the transfer": lambda: reply(b"2\r\n[]\r\n0\r\n\r\n", "Transfer-Encoding: nonsense", sized=False),
    "an early end": lambda: iter([b"HTTP/1.1 200 OK\r\nContent-Le"]),
    "silence and an end": lambda: iter([b""]),
    "another protocol": lambda: iter([b"SSH-2.0-OpenSSH_9.2\r\n"]),
    "another version": lambda: iter([b"HTTP/9.9 200 OK\r\n\r\n[]"]),
    "TLS": lambda: iter([b"\x15\x03\x01\x00\x02\x02\x46"]),
    # headers
    "a header of a megabyte": lambda: reply(b"[]", "X: " + "x" * MB),
    "ten thousand headers": lambda: reply(b"[]", *(f"X-{number}: x" for number in range(10_000))),
    "a header with NUL": lambda: reply(b"[]", "X: \x00"),
    "a header with a blank in its name": lambda: reply(b"[]", "X Y: z"),
    # endless
    "endless continues": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless headers": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "an endless list": lambda: endless(b"HTTP/1.1 200 OK\r\n\r\n[1", b",1" * 30_000),
    "endless blanks": lambda: endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 60_000),
    "endless chunk extensions": lambda: endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 60_000),
}  # fmt: skip

STRANGE_BUT_GOOD: dict[str, Callable[[], Say]] = {
    "a date at the end of time": lambda: reply(_LIST, "Date: Fri, 31 Dec 9999 23:59:59 GMT"),
    "a date before all time": lambda: reply(_LIST, "Date: Mon, 01 Jan 0001 00:00:00 GMT"),
    "a date that is none": lambda: reply(_LIST, "Date: \xff\xfe"),
    "a version of odd bytes": lambda: reply(_LIST, "DSS-Version: 14\xff\xed\xa0\x80" + "v" * 5000),
    "cookies that are none": lambda: reply(_LIST, "Set-Cookie: \xff=;;=\x01", "Set-Cookie: "),
    "a type that is none": lambda: reply(_LIST, "Content-Type: \xff/;;charset=nope"),
    "a good answer after continues": lambda: iter([b"HTTP/1.1 100 Continue\r\n\r\n" * 50, *reply(_LIST)]),
}


@asynccontextmanager
async def hostile_server(says: Callable[[str], Say]) -> AsyncIterator[str]:
    """Answers each request with the bytes for its target, and closes."""
    talks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # the client left, or the test did
            head = await reader.readuntil(b"\r\n\r\n")
            for piece in says(head.split(b" ", 2)[1].decode("latin-1")):
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.sleep(0)
        for talk in filter(None, talks):
            talk.cancel()
            await talk
