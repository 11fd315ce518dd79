"""A reload swaps the whole configuration or nothing."""

import asyncio
from dataclasses import replace

from tocsin.app.reload import Live
from tocsin.app.settings import BadConfig, Problem
from tocsin.app.source import Signature
from tocsin.kit.clock import SystemClock
from tocsin.model.config import Config, StoreConfig

FIRST = Config(nodes=(), store=StoreConfig("sqlite:////first"), max_scenarios=1)


class Given:
    """A source that gives what it is told to, or raises it."""

    def __init__(self, *given: Config | Exception) -> None:
        self._given = list(given)

    def load(self) -> Config:
        found = self._given.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def signature(self) -> Signature:
        return ()


async def test_a_reload_swaps_and_names_what_only_a_start_reads() -> None:
    live = Live(Given(replace(FIRST, max_scenarios=2, store=StoreConfig("sqlite:////second"))), FIRST, SystemClock())
    done = await live.reload()
    assert (done.ok, done.needs_restart) == (True, ("store.url",))
    assert (live().max_scenarios, live().store.url) == (2, "sqlite:////first")


async def test_whatever_is_wrong_with_the_new_one_the_old_one_stays() -> None:
    given = Given(BadConfig([Problem("is missing", "t.yaml", 3, "nodes")]), RecursionError("too deep"))
    live = Live(given, FIRST, SystemClock())
    first, second = await live.reload(), await live.reload()
    assert (first.problems, second.problems) == (("t.yaml:3: nodes: is missing",), ("RecursionError: too deep",))
    assert live().max_scenarios == 1


async def test_a_change_that_was_made_to_the_first_is_made_to_each() -> None:
    live = Live(Given(FIRST), FIRST, SystemClock())
    live.adapt(lambda config: replace(config, log_level="debug"))
    assert live().log_level == "debug"
    await live.reload()
    assert live().log_level == "debug"


async def test_a_signal_asks_for_a_reload() -> None:
    live = Live(Given(replace(FIRST, max_scenarios=2)), FIRST, SystemClock())
    swapped = asyncio.Event()
    live.on_change(swapped.set)
    following = asyncio.create_task(live.follow())
    live.reload_soon()
    async with asyncio.timeout(2):
        await swapped.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert live().max_scenarios == 2
