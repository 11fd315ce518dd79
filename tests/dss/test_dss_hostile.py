"""Whatever a server says, the client answers with a value or with an error of ours, and has counted it."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable

import pytest

from tests.dss.hostile import ANSWERS, STRANGE_BUT_GOOD, Say, hostile_server
from tocsin.dss import DSSClient, DSSError, DSSReplyTooLarge, RequestReport
from tocsin.model.event import DownReason
from tocsin.watch.circuit import read_sign


async def ask(url: str, reports: list[RequestReport], timeout: float = 30.0) -> list[object]:
    async with DSSClient(url, "key", retries=0, timeout=timeout, on_request=reports.append) as client:
        return await client.list_projects_raw()


@pytest.mark.parametrize("say", ANSWERS.values(), ids=list(ANSWERS))
async def test_each_hostile_answer_is_an_error_of_ours_that_counts_against_the_node(
    say: Callable[[], Say], request: pytest.FixtureRequest
) -> None:
    reports: list[RequestReport] = []
    endless = "endless" in request.node.callspec.id
    async with hostile_server(lambda _: say()) as url:
        with pytest.raises(DSSError) as caught:
            await ask(url, reports, timeout=0.2 if endless else 30.0)
    assert [report.error for report in reports] == [caught.value]
    if "throttled" not in request.node.callspec.id:  # it says nothing about the node but that it is busy
        assert isinstance(read_sign(caught.value, probe=True), DownReason)
    shown = f"{caught.value} {caught.value.body} {caught.value.error_type}"
    shown.encode()
    assert "\0" not in shown
    assert len(shown) < 2_000


@pytest.mark.parametrize("say", STRANGE_BUT_GOOD.values(), ids=list(STRANGE_BUT_GOOD))
async def test_strange_headers_spoil_no_good_answer(say: Callable[[], Say]) -> None:
    reports: list[RequestReport] = []
    async with hostile_server(lambda _: say()) as url:
        assert await ask(url, reports) == [{"projectKey": "P"}]
    (report,) = reports
    assert report.server_date is None
    assert (report.dss_version or "").isprintable()
    assert len((report.dss_version or "").encode()) < 400


@pytest.mark.parametrize("name", ["a list of 57 MB", "a list of 19 million empty objects", "a gzip bomb"])
async def test_what_is_too_large_is_never_held_in_memory(name: str) -> None:
    async with hostile_server(lambda _: ANSWERS[name]()) as url:
        gc.collect()
        tracemalloc.start()
        try:
            with pytest.raises(DSSReplyTooLarge):
                await ask(url, [])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 64_000_000


async def test_a_hostile_redirect_is_followed_nowhere() -> None:
    asked: list[str] = []

    def says(target: str) -> Say:
        asked.append(target)
        return ANSWERS["redirect to 'http://evil.example.com/'"]()

    async with hostile_server(says) as url:
        with pytest.raises(DSSError):
            await ask(url, [])
    assert asked == ["/dip/publicapi/projects/?includeLocation=False"]


async def test_a_cancelled_request_is_no_failure() -> None:
    reports: list[RequestReport] = []
    async with hostile_server(lambda _: ANSWERS["endless headers"]()) as url:
        request = asyncio.create_task(ask(url, reports))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert reports == []
