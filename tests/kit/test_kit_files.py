"""Files that change, and files that hang: a FIFO that nobody writes to hangs whoever opens it, as a dead mount does."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from tocsin.kit.files import SingleFlight, TextFile

LONG_AGO = 1_700_000_000 * 10**9


def write(path: Path, text: str) -> None:
    """A file of long ago, so that its times are settled."""
    path.write_text(text)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture
def fifo(tmp_path: Path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR))  # lets the thread go that hangs


async def test_a_file_is_read_again_when_it_was_written_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = TextFile(path, 100)
    for text in ("one", "two", "a longer one"):
        write(path, text)
        assert (await file.wait(), file.call()) == (text, text)
    write(tmp_path / "other", "another one!")
    os.replace(tmp_path / "other", path)
    assert await file.wait() == "another one!"


async def test_what_is_missing_too_large_or_not_text_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = TextFile(path, 10)
    with pytest.raises(FileNotFoundError):
        await file.wait()
    path.write_text("x" * 11)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        await file.wait()
    path.write_bytes(b"\xff")
    with pytest.raises(OSError, match="not UTF-8"):
        file.call()
    path.write_text("good")
    assert await file.wait() == "good"


async def test_an_endless_file_is_refused_within_its_bound() -> None:
    with pytest.raises(OSError, match="larger"):
        await TextFile(Path("/dev/zero"), 1000).wait()


async def test_nobody_waits_for_a_file_that_hangs_longer_than_the_deadline(fifo: Path) -> None:
    said: list[bool] = []
    file = TextFile(fifo, 100, seconds=0.01, hangs=said.append)
    with pytest.raises(TimeoutError):
        await file.wait()
    with pytest.raises(TimeoutError):
        file.call()
    assert said == [True]


async def test_one_thread_hangs_for_each_file_however_many_ask(fifo: Path) -> None:
    file = TextFile(fifo, 100, seconds=0.01)
    asked = await asyncio.gather(*(file.wait() for _ in range(50)), return_exceptions=True)
    assert {type(error) for error in asked} == {TimeoutError}
    assert len([thread for thread in threading.enumerate() if thread.name == str(fifo)]) == 1


async def test_a_file_that_answers_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    said: list[bool] = []
    file = TextFile(path, 100, seconds=0.01, hangs=said.append)
    with pytest.raises(TimeoutError):
        await file.wait()
    (hanging,) = (thread for thread in threading.enumerate() if thread.name == str(path))
    with path.open("w") as writer:
        writer.write("late")
    hanging.join(60)
    assert (file.text, said) == ("late", [True, False])
    path.unlink()
    write(path, "now")
    assert await TextFile(path, 100).wait() == "now"


async def test_those_who_ask_at_once_share_one_run_and_a_cancelled_one_spoils_nothing() -> None:
    go, runs = threading.Event(), []

    def work() -> int:
        runs.append(1)
        assert go.wait(60)
        return 7

    flight = SingleFlight(work, "work", 60)
    asking = [asyncio.create_task(flight.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    go.set()
    assert await asyncio.gather(*asking[1:]) == [7, 7]
    assert len(runs) == 1


async def test_a_thread_that_cannot_be_started_fails_one_call_and_not_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    flight = SingleFlight(lambda: 7, "work", 60)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            flight.call()
    assert await flight.wait() == 7
