"""The event stream: order, resuming, bounds, its end."""

import asyncio
import json
from pathlib import Path

from aiohttp import ClientResponse, ClientSession

from tests.web.harness import Daemon, Serve
from tests.web.rows import a_run, an_event, put_events
from tocsin.config.tokens import Role, make_token
from tocsin.web import stream


async def messages(answer: ClientResponse, count: int) -> list[dict[str, str]]:
    """The next messages, comments left out."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(10):
        while len(found) < count:
            line = (await answer.content.readline()).decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                found.append(fields)
                fields = {}
    return found


async def put(daemon: Daemon, *minutes: float, outcome: str = "SUCCESS") -> None:
    made = [an_event(a_run(minutes_ago=one, outcome=outcome)) for one in minutes]
    await daemon.store.write(lambda connection: put_events(connection, *made))


async def test_a_stream_resumes_after_the_last_event_that_was_heard(client: ClientSession, daemon: Daemon) -> None:
    await put(daemon, 9, 8, 7)
    async with client.get("/api/v1/events/stream", headers={"Last-Event-ID": "1"}) as answer:
        assert answer.content_type == "text/event-stream"
        heard = await messages(answer, 2)
    assert [(one["id"], one["event"]) for one in heard] == [("2", "tocsin.run.finished"), ("3", "tocsin.run.finished")]
    assert json.loads(heard[0]["data"])["seq"] == 2


async def test_a_new_stream_begins_now_and_hears_what_comes(client: ClientSession, daemon: Daemon) -> None:
    await put(daemon, 9)
    async with client.get("/api/v1/events/stream") as answer:
        await put(daemon, 8)
        assert [one["id"] for one in await messages(answer, 1)] == ["2"]


async def test_a_stream_can_be_filtered(client: ClientSession, daemon: Daemon) -> None:
    await put(daemon, 9, 8)
    await put(daemon, 7, outcome="FAILED")
    async with client.get("/api/v1/events/stream?after=0&event=run.failed") as answer:
        assert [one["id"] for one in await messages(answer, 1)] == ["3"]


async def test_more_events_than_a_batch_all_come(client: ClientSession, daemon: Daemon) -> None:
    count = stream.BATCH + 5
    await put(daemon, *(n / 10 for n in range(1, count + 1)))
    async with client.get("/api/v1/events/stream?after=0") as answer:
        heard = await messages(answer, count)
    assert [int(one["id"]) for one in heard] == list(range(1, count + 1))


async def test_an_id_that_is_no_number_is_refused(client: ClientSession) -> None:
    async with client.get("/api/v1/events/stream", headers={"Last-Event-ID": "x"}) as answer:
        assert (answer.status, answer.content_type) == (400, "application/problem+json")


async def test_streams_are_few(client: ClientSession) -> None:
    answers = [await client.get("/api/v1/events/stream") for _ in range(stream.MAX_STREAMS)]
    async with client.get("/api/v1/events/stream") as answer:
        assert answer.status == 503
    answers[0].close()
    async with asyncio.timeout(10):
        while (again := await client.get("/api/v1/events/stream")).status != 200:
            await asyncio.sleep(0.02)
    for one in (*answers, again):
        one.close()


async def test_a_withdrawn_token_ends_its_stream_before_the_next_event(
    daemon: Daemon, serve: Serve, tmp_path: Path
) -> None:
    token, line = make_token("ann", Role.VIEWER)
    file = tmp_path / "tokens"
    file.write_text(line)
    daemon.http(tokens_file=str(file))
    client = await serve()
    headers = {"Authorization": f"Bearer {token}"}
    await put(daemon, 9)
    async with client.get("/api/v1/events/stream?after=0", headers=headers) as answer, asyncio.timeout(10):
        assert [message["id"] for message in await messages(answer, 1)] == ["1"]
        file.write_text("")
        await put(daemon, 8)
        assert b"id: 2" not in await answer.content.read()


async def test_a_stream_ends_when_the_server_stops(daemon: Daemon, serve: Serve) -> None:
    from tocsin.web import listen, make_app

    listener = await listen(make_app(daemon.context()), "127.0.0.1:0")
    async with (
        ClientSession(f"http://127.0.0.1:{listener.port}") as client,
        client.get("/api/v1/events/stream") as answer,
    ):
        closing = asyncio.create_task(listener.close())
        async with asyncio.timeout(10):
            await answer.content.read()
            await closing
