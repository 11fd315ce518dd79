"""What is served is documented: a name that is missing from the docs fails here."""

import re
import subprocess
from pathlib import Path

import pytest

from tocsin.config.tokens import Role, parse_tokens
from tocsin.web.reads import DELIVERY_FILTERS, EVENT_FILTERS, RUN_FILTERS, SCENARIO_FILTERS
from tocsin.web.routes import endpoints


def test_every_address_is_in_the_documentation(repository: Path) -> None:
    text = "".join((repository / "docs" / name).read_text() for name in ("http-api.md", "console.md"))
    ours = [route.path for route in endpoints() if route.path != "/static/{name}"]
    assert [path for path in ours if path not in text] == []


def test_every_filter_is_in_the_documentation(repository: Path) -> None:
    text = (repository / "docs" / "http-api.md").read_text()
    ours = {*EVENT_FILTERS, *RUN_FILTERS, *SCENARIO_FILTERS, *DELIVERY_FILTERS} - {"alertname", "severity"}
    assert sorted(name for name in ours if f"`{name}`" not in text) == []


def test_no_page_and_no_file_holds_the_digest_of_a_token(repository: Path) -> None:
    """Whatever stands in an example is pasted: a digest there lets in everybody who knows the word behind it."""
    kinds = ("*.md", "*.yaml", "*.json", "*.py", "*.j2", "*.txt", "*.service")
    files = [
        file
        for top in ("docs", "config", "daemon", "deploy")
        for kind in kinds
        for file in (repository / top).rglob(kind)
    ]
    found = [file.name for file in files if re.search(r"(?<!sha256:)\b[0-9a-f]{64}\b", file.read_text("utf-8"))]
    assert len(files) > 100
    assert found == []


@pytest.mark.e2e
def test_the_command_of_the_documentation_makes_a_line_that_lets_in(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "http-api.md").read_text().partition("### The tokens file")[2]
    commands = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[:1]
    assert len(commands) == 1
    for command in commands:
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    tokens, problems = parse_tokens((tmp_path / "tokens").read_text())
    assert [(token.name, token.role) for token in tokens] == [("grafana", Role.VIEWER)]
    assert problems == []
