"""The budget of the command line: how long a verb takes to its first output, beside a bare interpreter.

Real processes, in turns: every verb's ``--help``, typical verbs against an emulated DSS and a daemon, and typical
errors. All read compiled bytecode from one folder, as an installed package does; the first turn fills it and is not
counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

BUDGET_SECONDS = 0.4
_CONFIG = """\
nodes: [{{name: sim, url: {dss}, api_key: bench}}]
store: {{url: "sqlite:///{folder}/tocsin.db"}}
http: {{listen: "127.0.0.1:{port}"}}
receivers: [{{name: team, channels: [{{webhook: "http://127.0.0.1:9/"}}]}}]
route: {{receiver: team}}
"""
_WORLD = "projects: [{key: P, scenarios: [{id: S, steps: [{build: x}], behaviour: {duration: 1s, history: {runs: 5, every: 1h}}}]}]"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cli", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each verb is started")
    parser.add_argument("--only", help="only verbs that contain this")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-cli-")))
        commands = {"": ["-c", "pass"], **stack.enter_context(verbs(folder))}
        if options.only:
            commands = {name: words for name, words in commands.items() if not name or options.only in name}
        measure(commands, options.rounds, environment(folder))


def environment(folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "PYTHON"))}
    return {
        **own,
        "PYTHONPATH": str(Path(__file__).parents[1] / "daemon"),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }


@contextmanager
def verbs(folder: Path) -> Iterator[dict[str, list[str]]]:
    """What is measured by its name. An emulated DSS and a daemon run meanwhile."""
    from tocsin.cli.commands import app

    def words(command: click.Command, name: str) -> Iterator[str]:
        inner = getattr(command, "list_commands", None)
        yield f"{name} --help".strip()
        for part in inner(click.Context(command)) if inner else ():
            yield from words(command.get_command(click.Context(command), part), f"{name} {part}".strip())  # type: ignore[attr-defined]

    (folder / "world.yaml").write_text(_WORLD)
    with ExitStack() as stack:
        run = ["-m", "tocsin"]
        start = [*run, "sim", "--listen", "127.0.0.1:0", "--api-key", "bench", "--world", str(folder / "world.yaml")]
        sim = stack.enter_context(process(start, folder, output=subprocess.PIPE))
        assert sim.stdout is not None
        dss = sim.stdout.readline().split()[3].decode()
        port = free_port()
        config = folder / "tocsin.yaml"
        config.write_text(_CONFIG.format(dss=dss, folder=folder, port=port))
        stack.enter_context(process([*run, "run", "--config", str(config)], folder))
        url = f"http://127.0.0.1:{port}"
        await_ready(url)
        (folder / "key").write_text("bench")
        (folder / "bad.yaml").write_text("nodes: 5\nstor: x\n")
        at_dss, at_daemon = f"--url {dss} --api-key-file {folder}/key", f"--url {url}"
        typical = {
            "--version": "",
            "check": f"--offline --config {config}",
            "routes show": f"--config {config}",
            "routes test": f"--config {config} severity=critical",
            "db current": f"--config {config}",
            "project list": at_dss,
            "scenario list": at_dss,
            "scenario list (node of a file)": f"--config {config}",
            "scenario runs": f"P/S {at_dss}",
            "runs show": f"P/S {at_dss}",
            "events list": at_daemon,
            "alerts list": at_daemon,
            "silence list": at_daemon,
            "deliveries list": at_daemon,
            "events list (store of a file)": f"--config {config}",
            "no such verb (error)": "",
            "events list (error: no such option)": "--no-such-option",
            "events list (error: no daemon)": "--url http://127.0.0.1:9",
            "scenario list (error: no DSS)": f"--url http://127.0.0.1:9 --api-key-file {folder}/key",
            "scenario list (error: no configuration)": f"--config {folder}/none.yaml",
            "check (error: bad configuration)": f"--config {folder}/bad.yaml",
            "run (error: bad configuration)": f"--config {folder}/bad.yaml",
        }
        helps = {name: [*run, *name.split()] for name in words(app, "")}
        yield helps | {name: [*run, *name.partition(" (")[0].split(), *rest.split()] for name, rest in typical.items()}


@contextmanager
def process(words: list[str], folder: Path, *, output: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, *words], stdout=output, stderr=subprocess.DEVNULL, env=environment(folder)
    )
    try:
        yield child
    finally:
        child.terminate()
        child.communicate()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def await_ready(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/-/healthy", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the daemon does not answer")


def first_output(words: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first byte on either stream, or to the end of one that prints nothing; and the processor time of
    the whole process."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
    assert child.stdout is not None
    child.stdout.read(1)
    took = time.perf_counter() - began
    child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    return took, used.ru_utime + used.ru_stime


def measure(commands: dict[str, list[str]], rounds: int, env: dict[str, str]) -> None:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, words in commands.items():
            figures = first_output(words, env)
            if number:
                taken[name].append(figures)
    medians = {name: [statistics.median(each) for each in zip(*pairs, strict=True)] for name, pairs in taken.items()}
    bare, bare_used = medians.pop("")
    print(f"python -c pass: {bare:.3f} s, {bare_used:.3f} s of processor time")
    for name, (median, used) in medians.items():
        kept = "kept" if median <= BUDGET_SECONDS else "NOT KEPT"
        print(
            f"tocsin {name}: {median:.3f} s, {median / bare:.1f} times python, {used:.3f} s of processor time "
            f"(budget {BUDGET_SECONDS} s: {kept})"
        )
    slowest = max(medians, key=lambda name: medians[name])
    late = sum(median > BUDGET_SECONDS for median, _ in medians.values())
    print(
        f"slowest: tocsin {slowest}, {medians[slowest][0]:.3f} s, {medians[slowest][0] / bare:.1f} times python; "
        f"{len(medians) - late} of {len(medians)} within {BUDGET_SECONDS} s"
    )
