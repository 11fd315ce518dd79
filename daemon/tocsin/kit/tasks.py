"""Root tasks: named and guarded. When one ends, even by itself, ``watch`` returns and the process should end non-zero."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A root task that ended although it should have run for ever."""

    name: str
    error: BaseException | None  # None: it merely returned


class RootTasks:
    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[object]] = {}

    def spawn(self, name: str, work: Coroutine[object, object, object]) -> "asyncio.Task[object]":
        """Start ``work`` under ``name``; a name is used once at a time."""
        if name in self._tasks and not self._tasks[name].done():
            work.close()
            raise RuntimeError(f"a root task named {name!r} already runs")
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        return task

    def alive(self) -> dict[str, bool]:
        return {name: not task.done() for name, task in self._tasks.items()}

    async def watch(self) -> TaskEnded:
        """Wait for the first to end. Tasks spawned while waiting are watched too."""
        while True:
            for name, task in self._tasks.items():
                if task.done():
                    return TaskEnded(name, asyncio.CancelledError() if task.cancelled() else task.exception())
            if self._tasks:
                await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED, timeout=1.0)
            else:
                await asyncio.sleep(0.1)

    async def stop(self, name: str) -> None:
        """Cancel one task on purpose, wait for its end and forget it; its error is not raised."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop_all(self) -> None:
        """Stop every task, the youngest first."""
        for name in reversed(list(self._tasks)):
            await self.stop(name)


async def until_one_ends(tasks: Mapping[str, Coroutine[Any, Any, object]]) -> NoReturn:
    """Run all until the first ends, then cancel the others and wait for them.

    Raises the error itself, never a group: that of the first that ended, and ``RuntimeError`` when it merely returned.
    """
    running = RootTasks()
    for name, work in tasks.items():
        running.spawn(name, work)
    try:
        first = await running.watch()
    finally:
        await running.stop_all()
    raise first.error or RuntimeError(f"the task {first.name!r} ended by itself")
