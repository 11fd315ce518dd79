"""What goes wrong is one clear line on standard error, and an exit code that scripts can trust."""

import asyncio
import re
import subprocess

import pytest
from aiohttp import web

from tests.cli.driven import ROOT
from tocsin.sim import DEFAULT_KEY

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("scenario", "show", "SALES/NOPE"), 1, "scenario does not exist: SALES.NOPE"),
        (("scenario", "list", "NOPE/*"), 1, "project does not exist: NOPE"),
        (("scenario", "list", "SALES/NOPE_*"), 1, "no scenario matches SALES/NOPE_*"),
        (("runs", "show", "SALES/BROKEN"), 1, "127.0.0.1/SALES/BROKEN has no run yet"),
        (("runs", "show", "SALES/BROKEN/2020-01-01-00-00-00-000"), 1, "scenario run does not exist"),
        (("scenario", "show", "SALES"), 2, "'SALES' is not [NODE/]PROJECT/SCENARIO"),
        (("scenario", "show", "SALES/*"), 2, "one scenario, not a pattern"),
        (("scenario", "show", "nodes/SALES/X"), 2, "no node is named 'nodes'"),
        (("scenario", "runs", "SALES/X", "--from", "yesterday"), 2, "'yesterday' is neither a day"),
        (("scenario", "run", "SALES/X", "--param", "x"), 2, "--param 'x' is not KEY=VALUE"),
        (("scenario", "run", "SALES/X", "--timeout", "soon"), 2, "'soon' is not a duration"),
        (("scenario", "list", "--api-key-file", "x"), 2, "--api-key-file belongs to --url"),
        (("scenario", "list", "--url", "dss.example.com"), 2, "a DSS URL begins with http"),
        (("scenario", "enable",), 2, "either which scenarios, or --from FILE"),
    ],
)  # fmt: skip
async def test_a_question_that_has_no_answer_gets_one_line(dss, words, code, told):
    said = await dss.run(*words)
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said
    assert said.err.startswith("tocsin: ")
    assert told in said.err


async def test_keys_and_connections_are_told_apart(dss):
    (dss.folder / "key").write_text(f"{DEFAULT_KEY}\n")
    wrong, empty, nobody, given = await asyncio.gather(
        dss.run("project", "list", key="wrong"),
        dss.run("project", "list", "--url", dss.proxy.url, "--api-key-file", "missing"),
        dss.run("project", "list", TOCSIN_DSS_URL="http://127.0.0.1:9"),
        dss.run(
            "project", "list", "--url", dss.proxy.url, "--api-key-file", "key", "--node", "here", TOCSIN_DSS_URL=""
        ),
    )
    assert (wrong.code, empty.code, nobody.code, given.code) == (4, 4, 3, 0)
    assert "DSS does not know the credentials: " in wrong.err
    assert "DSS did not answer at http://127.0.0.1:9/" in nobody.err
    assert "here/SALES" in given.out
    assert [said.err.count("\n") for said in (wrong, empty, nobody)] == [1, 1, 1]
    assert DEFAULT_KEY not in wrong.err + empty.err + nobody.err


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(text="<html><h1>Log in</h1></html>", content_type="text/html"), "an HTML page"),
        (lambda: web.Response(text='[{"projectKey": "SA'), "not JSON"),
        (lambda: web.Response(text="{}"), "a JSON list was expected"),
        (lambda: web.Response(status=403, text="\x1b[2J<b>no\nway"), "do not allow this"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_of_dss_is_told_as_such(dss, answer, told):
    dss.proxy.faults.append(lambda request: answer())
    said = await dss.run("project", "list")
    assert (said.code in (3, 4), said.out, said.err.count("\n")) == (True, "", 1)
    assert told in said.err
    assert "\x1b" not in said.err


async def test_a_project_that_may_not_be_read_is_left_out_and_told(dss):
    def hidden(request):
        if "/projects/OTHER/" in request.path:
            return web.json_response({"message": "Action forbidden"}, status=403)
        return None

    dss.proxy.faults.append(hidden)
    said = await dss.run("scenario", "list", "*/X", "--json")
    assert [row["project"] for row in said.json] == ["SANDBOX_1"]
    assert (said.code, "OTHER is left out: The credentials do not allow this" in said.err) == (4, True)


async def test_several_nodes_must_be_told_apart_and_scopes_bound_what_globs_find(dss):
    (dss.folder / "key").write_text(DEFAULT_KEY)
    node = f"url: '{dss.proxy.url}', api_key_file: key, projects: {{exclude: ['SANDBOX_*']}}"
    (dss.folder / "t.yaml").write_text(f"nodes: [{{name: prod, {node}}}, {{name: test, {node}}}]\n")
    which, unknown, every, one, exact = await asyncio.gather(
        dss.run("scenario", "show", "OTHER/X", "-c", "t.yaml"),
        dss.run("scenario", "list", "--node", "prdo", "-c", "t.yaml"),
        dss.ask("scenario", "list", "*/*/X", "-c", "t.yaml"),
        dss.ask("scenario", "list", "*/X", "--node", "test", "-c", "t.yaml"),
        dss.ask("scenario", "show", "prod/SANDBOX_1/X", "-c", "t.yaml"),
    )
    assert (which.code, "several nodes (prod, test)" in which.err) == (2, True)
    assert (unknown.code, "did you mean 'prod'?" in unknown.err) == (2, True)
    assert [row["address"] for row in every] == ["prod/OTHER/X", "test/OTHER/X"]
    assert [row["address"] for row in one] == ["test/OTHER/X"]
    assert exact["project"] == "SANDBOX_1"


async def test_run_is_the_daemon_and_runs_lists_its_verbs(dss):
    helped, daemon, verb = await asyncio.gather(
        dss.run("runs", "--help"), dss.run("run", "--config", "missing.yaml"), dss.run("run", "show", "SALES/X")
    )
    for name in ("show", "wait", "abort", "jobs", "errors", "steps", "log", "report"):
        assert re.search(rf"^\s+{name}\b", helped.out, re.M)
    assert (daemon.code, "there is no such file" in daemon.err) == (1, True)
    assert (verb.code, verb.out) == (2, "")


def test_the_shell_completes_verbs(python_env, python):
    as_installed = "import sys; sys.argv[0] = 'tocsin'; from tocsin.cli import main; main()"
    question = {"_TOCSIN_COMPLETE": "bash_complete", "COMP_WORDS": "tocsin scenario next", "COMP_CWORD": "2"}
    said = subprocess.run(
        [python, "-c", as_installed], env=python_env | question, capture_output=True, text=True, check=False
    )
    assert said.stdout.split() == ["plain,next-run"]


def test_every_verb_and_option_stands_in_the_guide():
    import click

    from tocsin.cli.commands import app

    guide = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for noun in ("project", "scenario", "runs", "reporter"):
        for name, command in app.get_command(click.Context(app), noun).commands.items():  # type: ignore[union-attr]
            inner = getattr(command, "commands", None)
            for words, one in [((noun, name, k), v) for k, v in inner.items()] if inner else [((noun, name), command)]:
                assert f"tocsin {' '.join(words)}" in guide, words
                for parameter in one.params:
                    for option in (o for o in parameter.opts if o.startswith("--")):
                        assert option in guide, (words, option)


HEAVY = ("aiohttp", "alembic", "apprise", "jinja2", "prometheus_client", "rich", "sqlalchemy", "structlog", "yaml")


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (None, ("click", "pydantic", "asyncio", "tocsin.dss", "tocsin.cli.commands", *HEAVY)),
        ("--help", ("pydantic", "asyncio", "tocsin.dss", "tocsin.sim", "tocsin.app", "tocsin.cli.dss.scenario", *HEAVY)),
        ("--version", ("pydantic", "asyncio", "tocsin.dss", "tocsin.sim", "tocsin.app", "tocsin.cli.dss.scenario", *HEAVY)),
        ("scenario list --help", ("tocsin.app", "tocsin.model", "tocsin.sim", "tocsin.cli.run", *HEAVY)),
        ("silence list --help", ("tocsin.dss", "tocsin.app", "tocsin.store", "tocsin.web", *HEAVY)),
        ("check --help", ("asyncio", "tocsin.dss", "tocsin.app", *HEAVY)),
    ],
)  # fmt: skip
def test_what_a_question_does_not_need_is_not_loaded(python_env, python, words, heavy):
    asked = "" if words is None else f"sys.argv[1:] = {words.split()!r}; tocsin.cli.main()"
    code = f"import atexit, sys, tocsin.cli; atexit.register(lambda: print([m for m in {heavy!r} if m in sys.modules])); {asked}"
    said = subprocess.run([python, "-c", code], env=python_env, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words", ["project list", "scenario run A/B", "events list --url http://127.0.0.1:9", "check -c no.yaml"]
)
def test_what_cannot_be_done_is_said_before_anything_heavy_is_loaded(python_env, python, words):
    heavy = [name for name in ("pydantic", *HEAVY) if name != "yaml"]
    code = f"""
import atexit, sys, tocsin.cli
atexit.register(lambda: print([m for m in {heavy!r} if m in sys.modules]))
sys.argv[1:] = {words.split()!r}
tocsin.cli.main()"""
    said = subprocess.run([python, "-c", code], env=python_env, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout.splitlines()[-1]) == ((3 if "--url" in words else 1), "[]")
