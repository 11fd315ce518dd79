"""Root tasks: named, guarded, and never silently gone."""

import asyncio

import pytest

from tocsin.kit.tasks import RootTasks, TaskEnded, until_one_ends


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise LookupError("gone")


async def end() -> None:
    return None


async def test_a_task_that_fails_is_told_with_its_name_and_error() -> None:
    tasks = RootTasks()
    tasks.spawn("good", forever())
    tasks.spawn("bad", fail())
    ended = await tasks.watch()
    assert (ended.name, repr(ended.error)) == ("bad", "LookupError('gone')")
    await tasks.stop_all()


async def test_a_task_that_merely_returns_is_told_too() -> None:
    tasks = RootTasks()
    tasks.spawn("short", end())
    assert await tasks.watch() == TaskEnded("short", None)


async def test_a_task_that_something_else_cancelled_is_told_as_cancelled() -> None:
    tasks = RootTasks()
    tasks.spawn("victim", forever()).cancel()
    ended = await tasks.watch()
    assert (ended.name, type(ended.error)) == ("victim", asyncio.CancelledError)


async def test_a_task_spawned_while_watching_is_watched() -> None:
    tasks = RootTasks()
    watching = asyncio.create_task(tasks.watch())
    await asyncio.sleep(0)
    tasks.spawn("late", fail())
    assert (await watching).name == "late"


async def test_a_task_that_was_stopped_on_purpose_is_not_told() -> None:
    tasks = RootTasks()
    tasks.spawn("stopped", forever())
    tasks.spawn("left", forever())
    watching = asyncio.create_task(tasks.watch())
    await asyncio.sleep(0)
    await tasks.stop("stopped")
    tasks.spawn("bad", fail())
    assert (await watching).name == "bad"
    await tasks.stop_all()


async def test_alive_tells_which_tasks_still_run() -> None:
    tasks = RootTasks()
    tasks.spawn("left", forever())
    await asyncio.wait([tasks.spawn("gone", end())])
    assert tasks.alive() == {"left": True, "gone": False}
    await tasks.stop_all()
    assert tasks.alive() == {}


async def test_a_name_is_used_once_at_a_time() -> None:
    tasks = RootTasks()
    tasks.spawn("watch", forever())
    with pytest.raises(RuntimeError, match="'watch' already runs"):
        tasks.spawn("watch", forever())
    await tasks.stop("watch")
    tasks.spawn("watch", forever())
    await tasks.stop_all()


async def test_stopping_waits_for_the_clean_up_the_youngest_first() -> None:
    order: list[str] = []

    async def tidy(name: str) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            order.append(name)

    tasks = RootTasks()
    for name in ("first", "second", "third"):
        tasks.spawn(name, tidy(name))
    await asyncio.sleep(0)
    await tasks.stop_all()
    assert order == ["third", "second", "first"]


async def test_stopping_what_failed_or_never_was_raises_nothing() -> None:
    tasks = RootTasks()
    task = tasks.spawn("bad", fail())
    await asyncio.wait([task])
    await tasks.stop("bad")
    await tasks.stop("never")
    assert tasks.alive() == {}


async def test_the_error_of_the_first_that_ends_comes_as_itself_and_the_others_are_cancelled() -> None:
    cancelled: list[str] = []

    async def other() -> None:
        try:
            await forever()
        finally:
            cancelled.append("other")

    with pytest.raises(LookupError, match="gone"):
        await until_one_ends({"other": other(), "bad": fail()})
    assert cancelled == ["other"]


async def test_one_that_merely_returns_is_an_error_that_names_it() -> None:
    with pytest.raises(RuntimeError, match="'short' ended by itself"):
        await until_one_ends({"good": forever(), "short": end()})
