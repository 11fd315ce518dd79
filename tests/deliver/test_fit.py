"""No message is longer than its service takes, and none loses its headline or its link to that."""

from collections.abc import Callable
from math import inf
from string import ascii_letters

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deliver.builders import NOW, config, event, hook
from tocsin.config.model import MessageFormat
from tocsin.deliver import escape, services
from tocsin.deliver.escape import FORMATTERS, Dialect
from tocsin.deliver.outgoing import Facts
from tocsin.deliver.render import Renderer
from tocsin.deliver.services import ServiceFormat, describe_service, format_message
from tocsin.model.notification import EventNotice
from tocsin.model.run import Details, RunError

RENDERER, CONFIG = Renderer({}), config(hook("http://127.0.0.1/"))
SCHEMES = ["json", "tgram", "discord", "github", "workflow", "slack", "rocket", "zulip", "clickatell", "pushplus"]
TEXTS = st.one_of(
    st.text(max_size=3_000),
    st.text("ab*_`<>&[](){}~|#@ \n\\🔥é", max_size=3_000),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=20), st.integers(1, 300)),
)


@settings(deadline=None, max_examples=60)
@given(
    scheme=st.sampled_from(SCHEMES),
    name=st.text(max_size=150),
    error=TEXTS,
    template=st.one_of(st.none(), TEXTS, TEXTS.map(lambda text: text + "{{ error.message }}")),
    kind=st.sampled_from([None, "text", "markdown"]),
    body=st.integers(1_600, 3_000),
    title=st.sampled_from([0, 60, 250]),
)
def test_nothing_is_longer_than_its_service_takes(
    scheme: str, name: str, error: str, template: str | None, kind: str | None, body: int, title: int
) -> None:
    found = describe_service({scheme}, _reads(scheme), kind, body, title, inside=False)
    one = event(name=name)
    assert one.run
    facts = Facts({one.run.key: Details(one.run.key, NOW, RunError(error, step="s"), (), error)})
    notice = EventNotice(one, "r", template=template)
    rendered = RENDERER.render(notice, facts, CONFIG, found.kind, kind, found.dialect)
    heading, text = format_message(found, rendered)
    assert found.limit < inf
    assert found.size(text) <= found.limit
    assert len(heading) <= (150 if found.format is ServiceFormat.SLACK else found.title)
    write: Callable[[str], str] = _literal if found.format is ServiceFormat.HTML else FORMATTERS[found.dialect].escape
    plain = {rendered.subject, escape.break_mentions(rendered.subject), write(rendered.subject)}
    opens = {ServiceFormat.HTML: "<b>", ServiceFormat.SLACK: "*"}.get(
        found.format, "**" if found.kind is MessageFormat.MARKDOWN else ""
    )
    assert heading in plain or text.startswith(opens + write(rendered.subject))
    written = escape.escape_entities(rendered.link) if found.format is ServiceFormat.HTML else rendered.link
    if template is None or text.endswith("…"):
        assert written in text


def _literal(text: str) -> str:
    return escape.escape_entities(escape.break_mentions(text))


def _reads(scheme: str) -> ServiceFormat:
    from tocsin.deliver.services import service_format

    return service_format({scheme}, "html" if scheme == "pushplus" else "text")


@settings(deadline=None)
@given(
    headline=st.text(min_size=1, max_size=200).map(escape.to_one_line),
    link=st.text(ascii_letters, max_size=150).map("https://{}".format),
    body=TEXTS,
    most=st.integers(20, 4_000),
)
def test_where_both_have_room_headline_and_link_are_whole(headline: str, link: str, body: str, most: int) -> None:
    made = services.compose_text(headline, "{}\n".format, link, f"{body}\n{link}", most)
    assert services.utf16(made) <= most
    room = services.utf16(headline) + len(link) + 2 <= most
    assert made.startswith(f"{headline}\n") or not room
    assert link in made or not room
    assert "https://" not in made.replace(link, "") or "https://" in headline + body


@given(
    headline=st.text("@a*<&\U0001f514 ", min_size=1, max_size=200).map(escape.to_one_line), most=st.integers(30, 300)
)
@pytest.mark.parametrize("dialect", [Dialect.TEXT, Dialect.CHAT, Dialect.MARKDOWN, Dialect.SLACK, Dialect.HTML])
@settings(deadline=None)
def test_a_headline_that_grows_as_it_is_written_fits_too(dialect: Dialect, headline: str, most: int) -> None:
    write = FORMATTERS[dialect].escape
    made = services.compose_text(headline, lambda text: f"*{write(text)}*\n", "https://x", "body " * 90, most)
    assert services.utf16(made) <= most
    assert made.startswith("*")


@settings(deadline=None)
@given(text=TEXTS, most=st.integers(1, 3_000))
def test_a_cut_leaves_no_fence_open(text: str, most: int) -> None:
    fenced = f"```\n{escape.escape_block(text)}\n```\nmore"
    kept = services.truncate_markup(fenced, most)
    assert services.utf16(kept) <= most
    assert kept.count("```") % 2 == 0


def test_an_escape_before_an_entity_keeps_it_whole() -> None:
    assert services.truncate_markup(escape.escape_slack("\\<b>"), 4) == "…"


@pytest.mark.parametrize("dialect", [Dialect.MARKDOWN, Dialect.SLACK, Dialect.HTML, Dialect.CHAT])
@settings(deadline=None)
@given(text=st.text("ab*_<>&\\é🔥"), most=st.integers(1, 60))
def test_a_cut_leaves_no_half_of_an_escape(dialect: Dialect, text: str, most: int) -> None:
    kept = services.truncate_markup(FORMATTERS[dialect].escape(text), most).rstrip("…")
    assert not kept.endswith("\\") or kept.endswith("\\\\") or dialect is not Dialect.MARKDOWN
    if dialect in (Dialect.SLACK, Dialect.HTML):
        assert "&" not in kept.rpartition(";")[2]
