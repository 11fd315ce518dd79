"""The references are what the code says: a setting, series, event or address that is not documented fails here."""

import re
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from docs import generate
from tocsin.cli.commands import app
from tocsin.model.event import DownReason, EventName


def test_the_references_are_what_the_code_says(repository: Path) -> None:
    docs = repository / "docs"
    assert (docs / "configuration.md").read_text("utf-8") == generate.configuration(), "run make docs"
    for name, written in (("metrics.md", generate.metrics), ("architecture.md", generate.modules)):
        page = (docs / name).read_text("utf-8")
        assert page == written(page), "run make docs"


def test_a_setting_without_words_is_refused() -> None:
    class Undocumented(BaseModel):
        wordless: bool = True

    with pytest.raises(LookupError, match=r"Undocumented\.wordless"):
        list(generate.settings(Undocumented.model_json_schema(), "", generate.words()))


def test_every_event_and_every_reason_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "events.md").read_text("utf-8")
    assert [name for name in (*EventName, *DownReason) if f"`{name}`" not in text] == []


def test_every_command_is_in_the_guide(repository: Path) -> None:
    text = (repository / "docs" / "cli.md").read_text("utf-8")
    context = click.Context(app)
    groups = {noun: getattr(app.get_command(context, noun), "commands", {}) for noun in app.list_commands(context)}
    verbs = [f"tocsin {noun} {verb}".strip() for noun, inner in groups.items() for verb in inner or [""]]
    assert len(verbs) > 40
    assert [words for words in verbs if f"`{words}" not in text] == []


def test_every_page_is_reached_from_the_readme(repository: Path) -> None:
    text = (repository / "README.md").read_text("utf-8")
    pages = sorted(page.name for page in (repository / "docs").glob("*.md"))
    assert [page for page in pages if f"docs/{page}" not in text] == []


def test_links_between_pages_lead_somewhere(repository: Path) -> None:
    pages = [repository / "README.md", repository / "bench" / "README.md", *(repository / "docs").rglob("*.md")]
    links = {page: re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")) for page in pages}
    ours = [(page, target) for page, targets in links.items() for target in targets if "://" not in target]
    assert len(ours) > 50
    assert [(page.name, target) for page, target in ours if not (page.parent / target).exists()] == []
