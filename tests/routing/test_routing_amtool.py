"""Our routing held against Alertmanager's own tool, on random trees, label sets and matcher texts.

``TOCSIN_FUZZ_TREES`` says how many trees; the tests skip where ``amtool`` is not installed.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

import tocsin
from tocsin.config import intervals
from tocsin.config.model import ABSENT, Route, build_tree
from tocsin.model.labels import BadMatcher, matchers_text, parse_matchers
from tocsin.routing.tree import format_matching, format_tree, matching_receivers

AMTOOL = shutil.which("amtool")
TREES = int(os.environ.get("TOCSIN_FUZZ_TREES", "300"))
CLASSIC = re.compile("[a-zA-Z_:][a-zA-Z0-9_:]*")
NAMES = ["a", "b", "severity", "team"]
VALUES = ["x", "y", "xy", "", "x y", 'q"q', "back\\slash", "new\nline", "ümlaut", "x,y", "{x}", "="]
REGEXES = ["x|y", "x.*", ".*", ".+", "", "[xy]+", "(?i)X", "^x$", "x$|^y", r"\w+", r"x\|y", "ü.*", "[^x]", "x{2}"]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(AMTOOL is None, reason="amtool (Debian: prometheus-alertmanager) is not installed"),
]


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert AMTOOL
    return subprocess.run([AMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def random_matcher(chance: random.Random) -> str:
    op = chance.choice(["=", "=", "!=", "=~", "!~"])
    value = chance.choice(REGEXES if "~" in op else VALUES)
    bare = chance.random() < 0.3 and value.strip() == value and not set(value) & set('"\\\n,}')
    space = chance.choice(["", " "])
    return f"{chance.choice(NAMES)}{space}{op}{space}{value if bare else quoted(value)}"


def random_route(chance: random.Random, depth: int = 0) -> dict[str, object]:
    route: dict[str, object] = {}
    if depth == 0 or chance.random() < 0.6:
        route["receiver"] = f"r{chance.randrange(6)}"
    if depth:
        route["matchers"] = [random_matcher(chance) for _ in range(chance.choice([0, 1, 1, 1, 2]))]
        route["continue"] = chance.random() < 0.4
    if depth < 4:
        children = [random_route(chance, depth + 1) for _ in range(chance.choice([0, 0, 1, 2, 3]) + (depth == 0))]
        route["routes"] = children
    return route


def spec(route: dict[str, object]) -> Route:
    texts = route.get("matchers", [])
    children = route.get("routes", [])
    assert isinstance(texts, list)
    assert isinstance(children, list)
    return Route(
        receiver=str(route["receiver"]) if "receiver" in route else ABSENT,
        matchers=tuple(matcher for text in texts for matcher in parse_matchers(text)),
        continues=bool(route.get("continue")),
        routes=tuple(spec(child) for child in children),
    )


def write(place: Path, route: dict[str, object]) -> Path:
    receivers = [{"name": f"r{index}"} for index in range(6)]
    place.write_text(yaml.safe_dump({"route": route, "receivers": receivers}, allow_unicode=True), "utf-8")
    return place


def compare(seed: int, place: Path) -> list[str]:
    """What differs between amtool and us on the tree of this seed; nothing, we hope."""
    chance = random.Random(seed)
    route = random_route(chance)
    file = str(write(place / f"{seed}.yml", route))
    root = build_tree(spec(route))
    differs: list[str] = []
    if seed % 5 == 0:
        shown = amtool("config", "routes", "show", "--config.file", file)
        ours = "Routing tree:\n" + format_tree(root)
        if shown.stdout.strip() != ours.strip():
            differs.append(f"seed {seed}: {shown.stdout}{shown.stderr}\n{ours}")
    for _ in range(2):
        labels = {name: chance.choice(VALUES) for name in chance.sample(NAMES, chance.randrange(1, 5))}
        labels = {name: value for name, value in labels.items() if value}
        asked = [f"{name}={quoted(value)}" for name, value in labels.items()]
        told = amtool("config", "routes", "test", "--config.file", file, *asked)
        if told.returncode or told.stdout.strip() != ",".join(matching_receivers(root, labels)):
            differs.append(f"seed {seed} {asked}: {told.stdout}{told.stderr} {matching_receivers(root, labels)}")
    return differs


def test_random_trees_route_as_amtool_routes_them(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: compare(seed, tmp_path), range(TREES)))
    assert [line for lines in found for line in lines] == []


def test_the_command_line_answers_as_amtool_does(tmp_path: Path) -> None:
    """A verb takes a second to start, so it is asked about every thirtieth tree only."""

    def differs(seed: int) -> list[str]:
        chance = random.Random(seed)
        route = random_route(chance)
        theirs, ours = str(write(tmp_path / f"{seed}.yml", route)), tmp_path / f"tocsin-{seed}.yml"
        ours.write_text(yaml.safe_dump({
            "nodes": [{"name": "prod", "url": "http://127.0.0.1:1", "api_key": "k"}], "route": route,
            "receivers": [{"name": f"r{index}", "channels": [{"webhook": "http://127.0.0.1:1"}]} for index in range(6)],
        }), "utf-8")  # fmt: skip
        asked = [f"{name}={quoted(chance.choice(VALUES))}" for name in chance.sample(NAMES, 3)]
        told = amtool("config", "routes", "test", "--config.file", theirs, *asked)
        answer = subprocess.run(
            [sys.executable, "-m", "tocsin", "routes", "test", "--config", str(ours), *asked, "--expect", told.stdout.strip()],
            env=os.environ | {"PYTHONPATH": str(Path(tocsin.__file__).parents[1])},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        same = (told.stdout.strip(), told.returncode) == (answer.stdout.strip(), answer.returncode)
        return [] if same else [f"seed {seed} {asked}: {told} {answer}"]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(differs, range(0, TREES, 30)))
    assert [line for lines in found for line in lines] == []


def test_a_tree_is_tested_and_verified_as_amtool_does(tmp_path: Path) -> None:
    route: dict[str, object] = {
        "receiver": "r0",
        "routes": [
            {"receiver": "r1", "matchers": ["a=x"], "continue": True, "routes": [{"matchers": ["b=~y.*"]}]},
            {"receiver": "r2", "matchers": ["a=x", "b!=z"]},
        ],
    }
    file, root, labels = str(write(tmp_path / "a.yml", route)), build_tree(spec(route)), {"a": "x", "b": "y"}
    told = amtool("config", "routes", "test", "--config.file", file, "--tree", "a=x", "b=y")
    assert told.stdout.split("\n\n")[0].strip() == f"Matching routes:\n{format_matching(root, labels)}"
    for expected in (["r1", "r2"], ["r2", "r1"], ["r1"], []):
        told = amtool("config", "routes", "test", "--config.file", file, f"--verify.receivers={','.join(expected)}", "a=x", "b=y")  # fmt: skip
        assert (told.returncode == 0) is (matching_receivers(root, labels) == expected or not expected)


def accepted(texts: Sequence[str], place: Path) -> list[str | None]:
    """Amtool's own writing of each matcher text, None where it refuses."""

    def ask(numbered: tuple[int, str]) -> str | None:
        number, text = numbered
        route: dict[str, object] = {"receiver": "r0", "routes": [{"receiver": "r1", "matchers": [text]}]}
        file = write(place / f"m{number}.yml", route)
        shown = amtool("config", "routes", "show", "--config.file", str(file))
        if shown.returncode:
            return None
        return shown.stdout.partition("    └── ")[2].partition("  receiver: r1")[0]

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, enumerate(texts)))


def test_random_texts_are_read_as_alertmanager_reads_them(tmp_path: Path) -> None:
    chance = random.Random(7)
    parts = [
        "a",
        "b_c",
        "1x",
        "=",
        "=~",
        "!=",
        "!~",
        '"',
        '"',
        '"',
        "\\",
        "\\n",
        '\\"',
        " ",
        "x",
        "x|y",
        ",",
        "é",
        "{",
        "}",
        "(",
        "'",
    ]
    texts = ["".join(chance.choice(parts) for _ in range(chance.randrange(2, 8))) for _ in range(TREES)]
    texts = [f"a={text}" if index % 2 else text for index, text in enumerate(texts)]
    for text, theirs in zip(texts, accepted(texts, tmp_path), strict=True):
        try:
            ours = parse_matchers(text)
        except BadMatcher:
            assert theirs is None, text
            continue
        if theirs is not None:
            assert matchers_text(ours) == theirs, text
        else:  # only the UTF-8 writing, which amtool 0.25 does not know
            spaced = text != text.strip()
            assert spaced or '"' in text or any(not CLASSIC.fullmatch(one.name) for one in ours), text


INTERVALS = {
    "weekdays": ["monday", "Monday:Friday", "friday:monday", "sunday:saturday", "saturday:sunday", "mon", "1", "1:5", "",
                 " monday ", "monday : friday", "monday:", "a:b:c"],
    "months": ["1", "12", "0", "13", "january", "JANUARY:march", "march:january", "1:march", "jan", "1:3", "3:1", "december:1"],
    "days_of_month": ["1", "31", "32", "0", "-1", "-31", "-32", "1:7", "7:1", "-3:-1", "-1:-3", "15:-1", "-3:5", "31:-1", "30:-1",
                      "29:-1", "28:-2", "28:-3", "31:-5", "1:-31", "1:-29", "1:-30", "27:-1", "28:-1", "1:-27", "1:-28", "27:-2", "26:-2", "a", "1:2:3", "+1"],
    "years": ["2026", "2026:2028", "2028:2026", "x", "0", "-1", "2026:"],
    "location": ["UTC", "Europe/Paris", "Mars/Olympus", "Local", ""],
    "times": ["09:00-17:00", "00:00-24:00", "22:00-06:00", "9:00-10:00", "09:00-09:00", "24:00-24:00", "09:60-10:00",
              "00:00-24:01", "09:00:00-10:00", "-"],
}  # fmt: skip
READERS = {
    "weekdays": intervals.parse_weekdays,
    "months": intervals.parse_months,
    "days_of_month": intervals.parse_days_of_month,
    "years": intervals.parse_years,
    "location": intervals.check_location,
    "times": lambda text: intervals.parse_time_range(*text.split("-", 1)),
}


def interval(kind: str, text: str) -> dict[str, object]:
    if kind == "location":
        return {"location": text}
    if kind == "times":
        start, end = text.split("-", 1)
        return {"times": [{"start_time": start, "end_time": end}]}
    return {kind: [text]}


@pytest.mark.parametrize("kind", INTERVALS)
def test_time_intervals_are_accepted_and_refused_as_alertmanager_does(kind: str, tmp_path: Path) -> None:
    def theirs(numbered: tuple[int, str]) -> bool:
        number, text = numbered
        place = tmp_path / f"{number}.yml"
        one = {"name": "i", "time_intervals": [interval(kind, text)]}
        file = {"route": {"receiver": "r"}, "receivers": [{"name": "r"}], "time_intervals": [one]}
        place.write_text(yaml.safe_dump(file), "utf-8")
        return amtool("check-config", str(place)).returncode == 0

    def ours(text: str) -> bool:
        try:
            READERS[kind](text)
        except intervals.BadInterval:
            return False
        return True

    texts = INTERVALS[kind]
    with ThreadPoolExecutor(4) as pool:
        accepted = dict(zip(texts, pool.map(theirs, enumerate(texts)), strict=True))
    stricter = {"months": {"0", "13"}, "location": {"Local"}}  # never, and another thing on every machine
    for text in stricter.get(kind, ()):
        assert accepted.pop(text), text
        assert not ours(text)
    assert {text: ours(text) for text in accepted} == accepted
