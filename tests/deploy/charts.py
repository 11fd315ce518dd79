"""Where the tools are, how these tests render the chart, and a small server to stand in for what it talks to."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CHART = REPOSITORY / "deploy" / "helm" / "tocsin"
TOOLS = Path(os.environ.get("TOCSIN_TOOLS") or Path.home() / ".cache" / "tocsin-tools")
VALUES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))

Manifest = dict[str, Any]


def find_tool(name: str) -> str | None:
    """A command from the tools folder or from PATH."""
    return shutil.which(name, path=f"{TOOLS / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")


def run(
    *command: str | Path, cwd: Path | None = None, ok: bool = True, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with ``text`` as its input; with ``ok`` its failure is the test's, and the message is its output.

    Whatever cluster the developer works with is out of reach.
    """
    env = os.environ | {"KUBECONFIG": os.devnull, "KUBECACHEDIR": os.devnull}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, input=text, cwd=cwd, env=env, timeout=110
    )
    if ok:
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


class Chart:
    """The chart, rendered by one Helm."""

    def __init__(self, helm: str) -> None:
        self.helm = helm
        self._rendered: dict[tuple[object, ...], str] = {}

    def template(
        self,
        values: str | None = "minimal",
        *,
        sets: Iterable[str] = (),
        kube: str = "1.33.0",
        flags: Iterable[str] = (),
        ok: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [self.helm, "template", "bell", CHART, "--namespace", "ops", "--kube-version", kube]
        if values is not None:
            command += ["--values", HERE / "values" / f"{values}.yaml"]
        for assignment in sets:
            command += ["--set", assignment]
        return run(*command, *flags, ok=ok)

    def render(
        self, values: str | None = "minimal", *, sets: Iterable[str] = (), kube: str = "1.33.0"
    ) -> list[Manifest]:
        """The manifests in the order of Helm's output. The same question twice runs Helm once."""
        question = (values, *sets, kube)
        if question not in self._rendered:
            self._rendered[question] = self.template(values, sets=sets, kube=kube).stdout
        return [document for document in yaml.safe_load_all(self._rendered[question]) if document]


def only(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one manifest of a kind (and name)."""
    found = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]


def kinds(manifests: list[Manifest]) -> set[str]:
    return {manifest["kind"] for manifest in manifests}


def pod_of(manifests: list[Manifest]) -> Manifest:
    """The pod template of the Deployment."""
    template: Manifest = only(manifests, "Deployment")["spec"]["template"]
    return template


def container_of(manifests: list[Manifest]) -> Manifest:
    containers = pod_of(manifests)["spec"]["containers"]
    return next(container for container in containers if container["name"] == "tocsin")


def config_of(manifests: list[Manifest], name: str = "bell-tocsin-config") -> Manifest:
    """The rendered tocsin.yaml."""
    config: Manifest = yaml.safe_load(only(manifests, "Secret", name)["stringData"]["tocsin.yaml"])
    return config


@contextmanager
def serving(answer: Callable[[str, Mapping[str, str]], tuple[int, bytes]]) -> Iterator[int]:
    """The port of a server that answers a GET of a path, with headers, by a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
