"""The watchers of the configured nodes: one each, kept as long as its settings stay equal.

A node whose settings changed is watched anew; the others never notice a reload. What a watcher cannot handle ends
the leader's work and with it the process: a node that is silently not watched is the worst of failures.
"""

import asyncio
from collections.abc import Callable

from tocsin.config.model import Config, Node
from tocsin.watch.node import NodeWatcher

_Settings = tuple[Node, tuple[float, ...]]  # what a watcher is made from: its node, and the bounds of durations


class Watchers:
    """Reconciles running watchers with the configuration."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._running: dict[str, tuple[_Settings, NodeWatcher, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    @property
    def watchers(self) -> dict[str, NodeWatcher]:
        """The running watchers by node."""
        return {name: watcher for name, (_, watcher, _) in self._running.items()}

    def reconfigured(self) -> None:
        """The configuration was swapped; look at it again."""
        self._changed.set()

    def nudge(self, node: str, project: str | None, scenario: str | None) -> bool:
        """Ask for a look; false when the node is not watched here, or when nothing is named or there is no room."""
        found = self._running.get(node)
        if found is None or project is None or scenario is None:
            return False
        return found[1].nudge(project, scenario)

    async def run(self, make: Callable[[Node, Config], NodeWatcher]) -> None:
        """Watch for ever; ends only with the error of a watcher, or cancelled with all of them."""
        try:
            while True:
                await self._reconcile(self._config(), make)
                self._changed.clear()
                await self._until_change_or_end()
        finally:
            for name in list(self._running):
                await self._stop(name)

    async def _until_change_or_end(self) -> None:
        change = asyncio.create_task(self._changed.wait(), name="configuration changed")
        tasks = [task for _, _, task in self._running.values()]
        try:
            done, _ = await asyncio.wait([change, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        for task in done - {change}:
            task.result()
            raise RuntimeError(f"the watcher {task.get_name()} ended by itself")

    async def _reconcile(self, config: Config, make: Callable[[Node, Config], NodeWatcher]) -> None:
        wanted = {node.name: (node, config.duration_bounds) for node in config.nodes}
        for name, (settings, _, _) in list(self._running.items()):
            if wanted.get(name) != settings:
                await self._stop(name)
        for name, settings in wanted.items():
            if name not in self._running:
                watcher = make(settings[0], config)
                task = asyncio.create_task(watcher.run(), name=f"watch {name}")
                self._running[name] = (settings, watcher, task)

    async def _stop(self, name: str) -> None:
        _, _, task = self._running.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
