"""Files that the configuration includes, as each team has its own."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tocsin.app.reload import ConfigHolder, Source
from tocsin.app.validate import validate
from tocsin.config import BadConfig, load_file
from tocsin.config.load import unchecked
from tocsin.config.model import DEFAULT_RULES, FileScope
from tocsin.kit.clock import SystemClock
from tocsin.model.labels import all_match, matchers_text
from tocsin.routing.tree import matching_receivers

NODE = "nodes: [{name: prod, url: 'https://dss.example.com', api_key: k}]\n"
OPS = "receivers: [{name: ops, channels: [{name: o, url: 'json://ops.example.com'}]}]\nroute: {receiver: ops}\n"
MAIN = NODE + OPS + "include: [conf.d/*.yaml]\n"
FINANCE = """\
scope: {projects: ["FIN_*"]}
receivers: [{name: finance, channels: [{name: f, url: 'json://finance.example.com'}]}]
routes: [{receiver: finance}]
"""


def write(folder: Path, main: str = MAIN, **parts: str) -> Path:
    (folder / "conf.d").mkdir(exist_ok=True)
    for name, text in parts.items():
        (folder / "conf.d" / f"{name}.yaml").write_text(text)
    (folder / "tocsin.yaml").write_text(main)
    return folder / "tocsin.yaml"


def problems(folder: Path, main: str = MAIN, **parts: str) -> list[str]:
    with pytest.raises(BadConfig) as caught:
        load_file(write(folder, main, **parts))
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_file_adds_to_every_list_and_its_routes_are_children_of_the_root(tmp_path: Path) -> None:
    config = load_file(write(tmp_path, finance=FINANCE, sales=FINANCE.replace("f", "s").replace("FIN_", "SALES_")))
    assert [item.name for item in config.receivers] == ["ops", "finance", "sinance"]
    assert config.rules == DEFAULT_RULES
    assert config.route
    for project, receiver in (("FIN_A", "finance"), ("SALES_A", "sinance"), ("OTHER", "ops"), ("", "ops")):
        assert matching_receivers(config.route, {"project": project, "alertname": "ScenarioFailed"}) == [receiver]


def test_scope_narrows_all_that_a_file_holds(tmp_path: Path) -> None:
    rules = """\
rules: [{alert: Late, kind: stale, no_success_for: 1d, match: ['scenario="X"']}]
reporters: [{name: each, receiver: finance}]
inhibit_rules: [{source_matchers: [severity=critical], target_matchers: [severity=warning]}]
"""
    config = load_file(write(tmp_path, finance=FINANCE + rules))
    narrowed = [config.rules[-1].match, config.reporters[0].match]
    narrowed += [config.inhibit_rules[-1].source_matchers, config.inhibit_rules[-1].target_matchers]
    assert all('project=~"FIN_.*"' in matchers_text(matchers) for matchers in narrowed)
    assert config.route
    assert config.route.routes[0].path == ("{}", '{project=~"FIN_.*"}')


@pytest.mark.parametrize(
    ("globs", "inside", "outside"),
    [
        (["FIN"], ["FIN"], ["FIN2", "fin", ""]),
        (["FIN_?", "A.B"], ["FIN_1", "A.B"], ["FIN_12", "AXB", ""]),
        (["[!A]*", "*Z"], ["BA", "AZ"], ["AB", ""]),
        (["*"], ["A", "ÅÄ"], [""]),
        (["Ü*", "a[b"], ["Übung", "a[b"], ["ab"]),
    ],
)
def test_scopes_are_globs_that_never_hold_for_nodes(globs: list[str], inside: list[str], outside: list[str]) -> None:
    matchers = FileScope(tuple(globs)).matchers
    assert [all_match(matchers, {"project": name}) for name in (*inside, *outside)] == [True] * len(inside) + [
        False
    ] * len(outside)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "receivers:\n  - {name: x, chanels: []}\n",
            "conf.d/part.yaml:2: receivers[0].chanels: unknown key; did you mean",
        ),
        ("\n\nroutes: [{receiver: nobody}]", "conf.d/part.yaml:3: routes[0].receiver: no receiver is named 'nobody'"),
        ("include: [more/*.yaml]", "conf.d/part.yaml:1: include: an included file includes no others"),
        ("route: {receiver: ops}", "conf.d/part.yaml:1: route: an included file has routes"),
        ("nodes: []", "conf.d/part.yaml:1: nodes: unknown key; known here: inhibit_rules,"),
        ("- a list", "conf.d/part.yaml:1: must be a mapping of keys to values"),
        ("scope: {}", "conf.d/part.yaml:1: scope.projects: is missing"),
        ("scope: {projects: []}", "conf.d/part.yaml:1: scope.projects: must not be empty"),
        ("scope: {projects: [A]}\nrules: [{alert: D, kind: node_down}]", "conf.d/part.yaml:1: rule D is about nodes"),
        (
            "scope: {projects: [A]}\nrules: [{alert: D, kind: common_cause}]",
            "conf.d/part.yaml:1: rule D is about nodes",
        ),
        (
            "scope: {projects: [A]}\nrules: [{alert: NodeDown, kind: failed}]",
            "conf.d/part.yaml:1: rule NodeDown: this name",
        ),
        ("scope:\nrules: []", "conf.d/part.yaml:1: scope is empty"),
        ("receivers: [{name: ops}]", "conf.d/part.yaml:1: receivers[0]: the name 'ops' stands twice, first in line 2"),
        ("receivers: [{name: x", "conf.d/part.yaml:2: is not YAML:"),
    ],
)
def test_a_mistake_names_the_file_and_the_line(tmp_path: Path, text: str, problem: str) -> None:
    found = problems(tmp_path, part=text, other=FINANCE)
    assert [line[: len(problem)] for line in found] == [problem]


def test_two_files_with_one_name_and_mistakes_in_two_files_are_all_reported(tmp_path: Path) -> None:
    (twice,) = {line.partition(": ")[2] for line in problems(tmp_path, a=FINANCE, b=FINANCE) if "'finance'" in line}
    assert twice == "receivers[0]: the name 'finance' stands twice, first in conf.d/a.yaml:2; names are unique"
    both = problems(tmp_path, a="scope: 1", b="rules: 1")
    assert [line.partition(":")[0] for line in both] == ["conf.d/a.yaml", "conf.d/b.yaml"]


def test_files_that_hold_nothing_and_globs_that_match_nothing_add_nothing(tmp_path: Path) -> None:
    config = load_file(write(tmp_path, MAIN.replace("conf.d", "c*.d"), empty="", comment="# later\n"))
    assert len(config.receivers) == 1
    config = load_file(write(tmp_path, NODE + OPS + "include: [tocsin.yaml, nowhere/*.yaml]\n"))
    assert len(config.receivers) == 1
    (warning,) = validate(Source(tmp_path / "tocsin.yaml", unchecked), datetime.now(UTC), offline=True)
    assert warning.message == "no file matches 'nowhere/*.yaml', so nothing is included"
    assert problems(tmp_path, NODE + "include: [team.yaml]") == [
        "tocsin.yaml:2: include[0]: no file matches 'team.yaml'"
    ]
    assert "conf.d' is no file" in problems(tmp_path, NODE + "include: [conf.*]")[0]


def test_routes_without_a_root_are_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, NODE + "include: [conf.d/*.yaml]\n", finance=FINANCE)
    assert problem.startswith("conf.d/finance.yaml:3: routes: there is no route whose children these could be")


async def reload(holder: ConfigHolder) -> Sequence[str]:
    assert await holder.reload_if_needed()
    return holder.last.problems


async def test_a_reload_takes_all_files_or_none_and_follows_those_that_come_and_go(tmp_path: Path) -> None:
    source = Source(write(tmp_path, finance=FINANCE), unchecked)
    holder = ConfigHolder(source, source.load(), SystemClock())
    write(tmp_path, sales="receivers: [{name: sales}]\nrules: [{alert: X, kind: nonsense}]\n")
    (problem,) = await reload(holder)
    assert "conf.d/sales.yaml:2: rules[0].kind: 'nonsense' is not one of" in problem
    assert [item.name for item in holder().receivers] == ["ops", "finance"]
    assert not await holder.reload_if_needed()
    (tmp_path / "conf.d" / "sales.yaml").unlink()
    (tmp_path / "conf.d" / "finance.yaml").unlink()
    assert await reload(holder) == ()
    assert [item.name for item in holder().receivers] == ["ops"]


async def test_a_file_that_vanishes_while_it_is_read_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(write(tmp_path, finance=FINANCE, sales=""), unchecked)
    holder = ConfigHolder(source, source.load(), SystemClock())
    (tmp_path / "conf.d" / "gone.yaml").symlink_to(tmp_path / "elsewhere")
    real = Path.is_file
    (tmp_path / "elsewhere").write_text("receivers: []")

    def vanishing(path: Path, **more: bool) -> bool:
        """The answer just before it vanishes."""
        answer = real(path, **more)
        if path.name == "gone.yaml":
            path.unlink()
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", vanishing)
        (problem,) = await reload(holder)
    assert problem.endswith("conf.d/gone.yaml: there is no such file")
    assert [item.name for item in holder().receivers] == ["ops", "finance"]
    assert await reload(holder) == ()
