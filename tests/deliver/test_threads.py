"""The threads of channels whose library blocks: each caller gets an answer, and no thread is counted that is not there."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tocsin.deliver.transport import DaemonThreads


@pytest.fixture
def no_room_for_threads() -> Iterator[None]:
    """The system refuses to start any more threads: their stacks would not fit."""
    before = threading.stack_size(1 << 46)
    yield
    threading.stack_size(before)


def stop() -> int:
    raise StopIteration


async def test_work_that_raises_what_a_future_refuses_fails_its_caller_and_frees_its_thread() -> None:
    threads: DaemonThreads[int] = DaemonThreads("test", 1)
    async with asyncio.timeout(30):
        for _ in range(20):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await threads.run(stop)
        assert await threads.run(lambda: 7) == 7
    threads.close()


async def test_a_thread_that_could_not_start_is_not_counted_as_one_that_hangs(no_room_for_threads: None) -> None:
    threads: DaemonThreads[int] = DaemonThreads("test", 1)
    for _ in range(20):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await threads.run(lambda: 7)
    threading.stack_size(0)
    assert await threads.run(lambda: 7) == 7
    threads.close()
