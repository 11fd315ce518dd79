"""A reload swaps the whole configuration or nothing."""

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tocsin.app.reload import ConfigHolder, Source
from tocsin.config import BadConfig, Problem
from tocsin.config.model import Config, LogConfig, MetricsConfig, StoreConfig
from tocsin.kit.clock import SystemClock

FIRST = Config(nodes=(), store=StoreConfig("sqlite:////first"), metrics=MetricsConfig(1))


class Given:
    """A source that gives what it is told to, or raises it."""

    def __init__(self, *given: Config | Exception) -> None:
        self._given = list(given)

    def load(self) -> Config:
        found = self._given.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def changed(self) -> bool:
        return False


async def test_a_reload_swaps_and_names_what_only_a_start_reads() -> None:
    live = ConfigHolder(
        Given(replace(FIRST, metrics=MetricsConfig(2), store=StoreConfig("sqlite:////second"))), FIRST, SystemClock()
    )
    done = await live.reload()
    assert (done.ok, done.needs_restart) == (True, ("store.url",))
    assert (live().metrics.max_scenarios, live().store.url) == (2, "sqlite:////first")


async def test_whatever_is_wrong_with_the_new_one_the_old_one_stays() -> None:
    given = Given(BadConfig([Problem("is missing", "t.yaml", 3, "nodes")]), RecursionError("too deep"))
    live = ConfigHolder(given, FIRST, SystemClock())
    first, second = await live.reload(), await live.reload()
    assert (first.problems, second.problems) == (("t.yaml:3: nodes: is missing",), ("RecursionError: too deep",))
    assert live().metrics.max_scenarios == 1


async def test_a_change_that_was_made_to_the_first_is_made_to_each() -> None:
    live = ConfigHolder(Given(FIRST), FIRST, SystemClock())
    live.adapt(lambda config: replace(config, log=LogConfig("debug")))
    assert live().log.level == "debug"
    await live.reload()
    assert live().log.level == "debug"


async def test_a_signal_asks_for_a_reload() -> None:
    live = ConfigHolder(Given(replace(FIRST, metrics=MetricsConfig(2))), FIRST, SystemClock())
    swapped = asyncio.Event()
    live.on_change(swapped.set)
    following = asyncio.create_task(live.follow())
    live.request_reload()
    async with asyncio.timeout(2):
        await swapped.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert live().metrics.max_scenarios == 2


# --- files -----------------------------------------------------------------------------------------------------------


NODE = "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"
REPORTER = """
templates: [t/*.j2]
receivers: [{name: ops, channels: [{webhook: 'https://h.example.com'}]}]
reporters: [{name: all, receiver: ops, template: %s}]
"""


def write(path: Path, text: str) -> None:
    """Replace a file in one step, as editors and Kubernetes do."""
    path.parent.mkdir(exist_ok=True)
    (path.parent / "fresh").write_text(text)
    os.replace(path.parent / "fresh", path)


def live_on(path: Path) -> ConfigHolder:
    source = Source(path, lambda _url: None)
    return ConfigHolder(source, source.load(), SystemClock())


async def reloads(live: ConfigHolder) -> list[bool]:
    """What three looks do: whether they reload."""
    return [await live.reload_if_needed() for _ in range(3)]


async def test_one_edit_reloads_once_also_when_it_names_another_template(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    write(tmp_path / "t" / "first.j2", "one")
    write(file, NODE)
    live = live_on(file)
    assert await reloads(live) == [False, False, False]
    write(file, NODE + REPORTER % "first.j2")
    assert await reloads(live) == [True, False, False]
    write(tmp_path / "t" / "first.j2", "two")
    assert await reloads(live) == [True, False, False]
    assert live().template_texts == {"first.j2": "two"}


async def test_a_file_that_a_glob_of_templates_begins_or_ceases_to_match_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    write(tmp_path / "t" / "first.j2", "one")
    write(file, NODE + REPORTER % "first.j2")
    live = live_on(file)
    write(tmp_path / "t" / "second.j2", "another")
    assert await reloads(live) == [True, False, False]
    assert sorted(live().template_texts) == ["first.j2", "second.j2"]
    (tmp_path / "t" / "second.j2").unlink()
    assert await reloads(live) == [True, False, False]
    assert sorted(live().template_texts) == ["first.j2"]


async def test_a_bad_edit_is_read_once_and_what_mends_it_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    write(file, NODE)
    live = live_on(file)
    write(file, NODE + REPORTER % "first.j2")
    assert await reloads(live) == [True, False, False]
    assert not live.last.ok
    write(tmp_path / "t" / "first.j2", "one")
    assert await reloads(live) == [True, False, False]
    assert live.last.ok


async def test_a_file_of_equal_size_and_time_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"

    def write_of_long_ago(name: str) -> None:
        file.write_text(NODE.replace("prod", name))
        os.utime(file, ns=(1_700_000_000 * 10**9,) * 2)

    write_of_long_ago("abcd")
    live = live_on(file)
    write_of_long_ago("wxyz")
    assert await reloads(live) == [True, False, False]
    assert live().nodes[0].name == "wxyz"


async def test_a_template_that_a_reload_would_break_is_refused_and_the_working_one_stays(tmp_path: Path) -> None:
    file, template = tmp_path / "tocsin.yaml", tmp_path / "t" / "first.j2"
    write(template, "{{ event.node }}")
    write(file, NODE + REPORTER % "first.j2")
    live = live_on(file)
    for broken, words in (("{{ event.", "line 1"), ("{{ evnt.node }}", "'evnt' is undefined")):
        write(template, broken)
        result = await live.reload()
        assert (len(result.problems), words in result.problems[0]) == (1, True), result.problems
        assert result.problems[0].startswith(f"{file}:5: reporter all: template cannot render")
        assert live().template_texts == {"first.j2": "{{ event.node }}"}
    write(template, "{{ event.node }}")
    assert (await live.reload()).ok


async def test_a_template_that_was_broken_from_the_start_stops_no_reload_of_something_else(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    write(tmp_path / "t" / "first.j2", "{{ evnt.node }}")
    write(file, NODE + REPORTER % "first.j2")
    live = live_on(file)
    write(file, NODE + REPORTER % "first.j2" + "log: {level: debug}\n")
    assert (await live.reload()).ok
    assert live().log.level == "debug"


async def test_a_hundred_signals_at_once_are_one_reload() -> None:
    given = Given(replace(FIRST, metrics=MetricsConfig(2)))
    live = ConfigHolder(given, FIRST, SystemClock())
    for _ in range(100):
        live.request_reload()
    assert await reloads(live) == [True, False, False]


async def test_a_source_that_hangs_leaves_the_old_one_and_can_be_cancelled(tmp_path: Path) -> None:
    go = threading.Event()

    class Hanging(Given):
        def load(self) -> Config:
            go.wait(60)
            return super().load()

    live = ConfigHolder(Hanging(replace(FIRST, metrics=MetricsConfig(2))), FIRST, SystemClock())
    reloading = asyncio.create_task(live.reload())
    await asyncio.sleep(0)
    reloading.cancel()
    await asyncio.gather(reloading, return_exceptions=True)
    assert live().metrics.max_scenarios == 1
    go.set()


@pytest.mark.parametrize("left", ["cancelled", "late"])
async def test_what_was_read_when_nobody_waited_any_more_is_read_again(left: str) -> None:
    go = threading.Event()

    class Slow(Given):
        def load(self) -> Config:
            go.wait(60)
            return super().load()

    source = Slow(replace(FIRST, metrics=MetricsConfig(2)), replace(FIRST, metrics=MetricsConfig(3)))
    live = ConfigHolder(source, FIRST, SystemClock(), loading_seconds=0.5)
    reloading = asyncio.create_task(live.reload())
    if left == "cancelled":  # as a client does that hangs up
        await asyncio.sleep(0)
        reloading.cancel()
    await asyncio.wait([reloading])
    (reading,) = (one for one in threading.enumerate() if one.name == "reading the configuration")
    go.set()
    reading.join(60)
    assert live().metrics.max_scenarios == 1
    assert await reloads(live) == [True, False, False]
    assert live().metrics.max_scenarios == 3


async def test_a_link_that_a_glob_matches_and_nobody_can_follow_is_no_template(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.yaml"
    write(tmp_path / "t" / "first.j2", "one")
    write(file, NODE + REPORTER % "first.j2")
    live = live_on(file)
    (tmp_path / "t" / "second.j2").symlink_to("x" * 300)  # as one into a directory that may not be entered
    assert await reloads(live) == [False, False, False]
    assert (await live.reload()).ok
    assert sorted(live().template_texts) == ["first.j2"]
