"""Words out of facts: sandboxed Jinja2, one dialect a kind of channel.

The promise: whatever stands in a name, an error or a log, it shows as text and never becomes markup; and a template
that cannot render never stops a notification: the built-in one is sent instead, with a note that says why.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from traceback import walk_tb
from urllib.parse import quote

from jinja2 import BaseLoader, ChoiceLoader, DictLoader, PackageLoader, StrictUndefined, Template, TemplateError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from tocsin.config.model import Config, MessageFormat
from tocsin.deliver import escape
from tocsin.deliver.context import Facts, Line, Link, Message, message
from tocsin.deliver.dialect import DIALECT_OF, DIALECTS, Dialect, Writing
from tocsin.deliver.variables import fill, message_variables
from tocsin.model.event import END_EVENTS
from tocsin.model.notification import EventNotice, GroupNotice, Notice, SummaryNotice

_SUBJECT = 200
_LONGEST = 200_000  # characters of a rendered body
_HTML = re.compile(r"<(?:!doctype|html|body|div|p|table|h[1-6]|ul|ol|a|b|i|br|span|strong|em|img)\b", re.IGNORECASE)
_TEMPLATE_ERRORS = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message in its dialect. ``html`` stands in mails alone; there, a None ``text`` is to be made from it.

    ``subject`` is plain. ``link`` is the most useful link, in the dialect; empty when there is none. ``notes``: what the
    delivery log should say about the templates.
    """

    subject: str
    text: str | None
    html: str | None
    message: Message
    notes: tuple[str, ...] = ()
    link: str = ""


@dataclass(frozen=True, slots=True)
class Unrenderable:
    """Why a template cannot be rendered, in one line; ``syntax``: it is no Jinja2, whatever it is rendered with."""

    reason: str
    syntax: bool


class Renderer:
    """The templates of one configuration."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        self._templates = templates
        self._environments = {dialect: _environment(dialect, templates) for dialect in DIALECTS}
        self._compile = lru_cache(maxsize=256)(self._compiled)

    def render(
        self,
        notice: Notice,
        facts: Facts,
        config: Config,
        kind: MessageFormat,
        template: str | None,
        dialect: Dialect | None = None,
    ) -> Rendered:
        """The message for a channel of this kind. ``template`` is the channel's, under the notice's own: the name of
        a template of the configuration, of a built-in kind, or an inline text. ``dialect`` is how the service reads
        text; without one it is the kind's own."""
        dialect = dialect or DIALECT_OF[kind]
        said = message(notice, facts, config)
        values = _values(notice, facts, said)
        notes: list[str] = []
        subject = self._subject(notice, said, values, notes)
        values["subject"] = subject
        own = (notice.template if isinstance(notice, EventNotice) else None) or template
        custom = None if own is None or own in set(MessageFormat) else own
        if _lacks_log(notice, said):
            notes.append("the log of the run could not be had, so it is not attached")
        rendered: Rendered | None = None
        if isinstance(notice, EventNotice) and notice.plain and notice.template is not None:
            rendered = self._plain(notice.template, notice.plain == "html", dialect, said, values, notes)
        elif custom is not None:
            try:
                rendered = self._custom(custom, dialect, said, values, notes)
            except _TEMPLATE_ERRORS as error:
                notes.append(f"the template could not be rendered: {_why(error)}")
        if rendered is None:
            said = replace(said, notes=(*said.notes, *notes))
            rendered = self._built_in(kind, dialect, said, values | {"notes": said.notes})
        link = _link(DIALECTS[dialect], said.links[0]) if said.links else ""
        return replace(rendered, subject=subject, notes=tuple(notes), link=link)

    def check(
        self, source: str, kind: MessageFormat, notice: Notice, facts: Facts, config: Config
    ) -> "Unrenderable | None":
        """Why a template cannot render this notice; None when it can."""
        said = message(notice, facts, config)
        values = _values(notice, facts, said) | {"subject": said.headline}
        try:
            self._custom(source, DIALECT_OF[kind], said, values, [])
        except _TEMPLATE_ERRORS as error:
            return Unrenderable(_why(error), isinstance(error, TemplateSyntaxError))
        return None

    def _custom(
        self, name: str, dialect: Dialect, said: Message, values: Mapping[str, object], notes: list[str]
    ) -> Rendered:
        inline = name not in self._templates
        source = name if inline else self._templates[name]
        as_html = dialect is Dialect.MAIL and (_HTML.search(source) is not None or ".html" in ("" if inline else name))
        body = self._fill(source, Dialect.HTML if as_html else dialect, values, notes)
        return Rendered("", None, body, said) if as_html else Rendered("", body, None, said)

    def _plain(
        self, text: str, html: bool, dialect: Dialect, said: Message, values: Mapping[str, object], notes: list[str]
    ) -> Rendered:
        as_html = html and dialect is Dialect.MAIL
        body = self._literal(text, Dialect.HTML if as_html else dialect, values, notes)
        return Rendered("", None, body, said) if as_html else Rendered("", body, None, said)

    def _built_in(self, kind: MessageFormat, dialect: Dialect, said: Message, values: Mapping[str, object]) -> Rendered:
        def made(dialect: Dialect, name: str) -> str:
            return self._environments[dialect].get_template(name).render(values)[:_LONGEST]

        name = "mail.txt.j2" if kind is MessageFormat.MAIL else f"{kind.value}.j2"
        html = made(Dialect.HTML, "mail.html.j2") if dialect is Dialect.MAIL else None
        return Rendered("", made(dialect, name), html, said)

    def _subject(self, notice: Notice, said: Message, values: Mapping[str, object], notes: list[str]) -> str:
        wanted = notice.subject if isinstance(notice, EventNotice) else None
        if wanted is None:
            return escape.one_line(said.headline, _SUBJECT)
        write = self._literal if isinstance(notice, EventNotice) and notice.plain else self._fill
        try:
            return escape.one_line(write(wanted, Dialect.RAW, values, notes), _SUBJECT)
        except _TEMPLATE_ERRORS as error:
            notes.append(f"the subject could not be rendered: {_why(error)}")
            return escape.one_line(said.headline, _SUBJECT)

    def _fill(self, source: str, dialect: Dialect, values: Mapping[str, object], notes: list[str]) -> str:
        """A template rendered. Its variables become Jinja2, so that their values are escaped like any other."""
        source, unknown = fill(source, _dss(values), lambda name: f"{{{{ dss['{name}'] }}}}")
        _note_unknown(unknown, notes)
        return self._compile(source, dialect).render(values)[:_LONGEST]

    def _literal(self, text: str, dialect: Dialect, values: Mapping[str, object], notes: list[str]) -> str:
        """A text with its known variables filled in and nothing else done to it."""
        known = _dss(values)
        filled, unknown = fill(escape.clean(text), known, lambda name: DIALECTS[dialect].write(known[name]))
        _note_unknown(unknown, notes)
        return filled[:_LONGEST]

    def _compiled(self, source: str, dialect: Dialect) -> Template:
        return self._environments[dialect].from_string(source)


def _values(notice: Notice, facts: Facts, said: Message) -> dict[str, object]:
    """The names that templates may use; see ``docs/messages.md``."""
    values: dict[str, object] = {name: getattr(said, name) for name in Message.__dataclass_fields__}
    return values | {
        "dss": message_variables(notice, facts),
        "event": notice.event if isinstance(notice, EventNotice) else None,
        "group": notice if isinstance(notice, GroupNotice) else None,
        "summary": notice if isinstance(notice, SummaryNotice) else None,
    }


def _dss(values: Mapping[str, object]) -> Mapping[str, str]:
    known = values["dss"]
    return known if isinstance(known, dict) else {}


def _note_unknown(unknown: Sequence[str], notes: list[str]) -> None:
    if unknown:
        notes.append("unknown variables: " + ", ".join(unknown[:10]))


def _lacks_log(notice: Notice, said: Message) -> bool:
    asked = isinstance(notice, EventNotice) and "log" in notice.attach and notice.event.name in END_EVENTS
    return asked and not said.log_tail


def _why(error: Exception) -> str:
    """What is wrong with a template, and on which line of it."""
    if isinstance(error, TemplateSyntaxError):
        place = f"line {error.lineno} of {error.name}" if error.name else f"line {error.lineno}"
        return escape.one_line(f"{place}: {error.message}", 200)
    lines = [at for frame, at in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    place = f"line {lines[0]}: " if lines else ""
    return escape.one_line(f"{place}{type(error).__name__}: {error}", 200)


# --- environments ------------------------------------------------------------------------------------------------------


def _link(how: Writing, link: Link) -> str:
    return how.link(how.write(link.label), _safe_url(link.url))


def _environment(dialect: Dialect, templates: Mapping[str, str]) -> ImmutableSandboxedEnvironment:
    """Every value that a template writes passes the dialect's ``write``; what it writes itself is left as it is."""
    how = DIALECTS[dialect]

    def finalize(value: object) -> Markup:
        if isinstance(value, Markup):
            return value
        return Markup("" if value is None else how.write(str(value)))

    def link(one: Link) -> Markup:
        return Markup(_link(how, one))

    def line(one: Line) -> Markup:
        return Markup(how.line(how.write(one.label), how.write(one.value)))

    def block(value: str) -> Markup:
        text = escape.block(value)
        return Markup(escape.entities(text) if dialect is Dialect.SLACK else text)

    def fence(value: str) -> Markup:
        return Markup(how.fence(value))

    loaders: list[BaseLoader] = [DictLoader(templates), PackageLoader("tocsin.deliver")]
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        auto_reload=False,
    )
    filters = {"link": link, "line": line, "block": block, "fence": fence, "cut": escape.cut, "tail": escape.tail}
    environment.filters |= filters
    return environment


def _safe_url(url: str) -> str:
    """The address with everything that could end a link percent-encoded; not a link unless http or https."""
    if not url.lower().startswith(("http://", "https://")):
        return "about:blank"
    return quote(escape.clean(url), safe="/:?#[]@!$&'*+,;=%~.-_")
