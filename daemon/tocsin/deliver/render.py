"""Messages out of facts: sandboxed Jinja2, one dialect a kind of channel. Names, errors and logs never become markup. A
template that cannot be rendered never stops a notification: the built-in one is sent instead, with a note. DSS's
``${variables}`` become Jinja2 expressions, so that their values are escaped like any other."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from traceback import walk_tb
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, DictLoader, Environment, PackageLoader, StrictUndefined, TemplateError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from tocsin.config.model import Config, MessageFormat
from tocsin.deliver import escape
from tocsin.deliver.escape import FORMATTERS, Dialect, format_link
from tocsin.deliver.message import Item, Message, build_message, fullest
from tocsin.deliver.outgoing import Facts
from tocsin.kit.clock import format_utc, to_ms
from tocsin.model.errors import shorten_log
from tocsin.model.event import END_EVENTS, EventName, dss_variables
from tocsin.model.notification import EventNotice, GroupNotice, Notice, SummaryNotice

_SUBJECT = 200
_LONGEST = 200_000  # characters of a rendered body
_HTML = re.compile(r"<(?:!doctype|html|body|div|p|table|h[1-6]|ul|ol|a|b|i|br|span|strong|em|img)\b", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_EXPRESSION = re.compile(r"\$\{[^{}]*\}")
_TEMPLATE_ERRORS = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message in its dialect. Only mails have ``html``; there, a None ``text`` is to be made from it."""

    subject: str  # plain
    text: str | None
    html: str | None
    message: Message
    notes: tuple[str, ...] = ()  # for the delivery log, about the templates
    link: str = ""  # the most useful one, in the dialect
    built_in: bool = False  # not by a template of the configuration


class Renderer:
    def __init__(self, templates: Mapping[str, str]) -> None:
        self.templates = templates
        self._sandbox = lru_cache(lambda dialect: _environment(ImmutableSandboxedEnvironment, dialect, templates))
        self._compile = lru_cache(maxsize=256)(lambda source, dialect: self._sandbox(dialect).from_string(source))

    def render(
        self,
        notice: Notice,
        facts: Facts,
        config: Config,
        kind: MessageFormat,
        template: str | None,
        dialect: Dialect | None = None,
        fits: Callable[[str, str], bool] = lambda _subject, _text: True,
    ) -> Rendered:
        """``template``: the channel's, under the notice's own: a name from the configuration, a built-in kind, or an
        inline text. ``dialect``: how the service reads text; without one the kind's own. A built-in text says less until it
        ``fits``, with its subject."""
        dialect = dialect or Dialect(kind.value)
        message = build_message(notice, facts, config)
        context = _context(notice, facts, message)
        notes: list[str] = []
        event = notice if isinstance(notice, EventNotice) else None
        subject = context["subject"] = self._subject(event, message, context, notes)
        source = (event and event.template) or template
        if event and "log" in event.attach and event.event.name in END_EVENTS and not message.log_tail:
            notes.append("the log of the run could not be had, so it is not attached")
        texts: tuple[str | None, str | None] | None = None
        built_in = source is None
        try:
            if event and event.plain and event.template is not None:
                texts = self._body(event.template, dialect, context, notes, event.plain)
            elif source is not None and source not in set(MessageFormat):
                texts = self._body(source, dialect, context, notes)
            elif not self.templates.keys().isdisjoint(_kind_names(kind)):
                texts = self._by_kind(kind, dialect, context | {"notes": tuple(notes)})
                built_in = False
        except _TEMPLATE_ERRORS as error:
            notes.append(f"the template could not be rendered: {_explain(error)}")
            built_in = True
        if texts is None:
            message = replace(message, notes=tuple(notes))
            texts = fullest(
                message,
                lambda part: _PACKAGE._by_kind(kind, dialect, context | _fields(part)),
                lambda built: fits(subject, built[0]),
            )
        link = format_link(dialect, *message.links[0]) if message.links else ""
        return Rendered(subject, *texts, message, tuple(notes), link, built_in)

    def check(
        self, source: str, kind: MessageFormat, notice: Notice, facts: Facts, config: Config
    ) -> tuple[str, bool] | None:
        """Why a template cannot render this notice, and whether it is no Jinja2 at all; None when it can."""
        message = build_message(notice, facts, config)
        try:
            context = _context(notice, facts, message) | {"subject": message.headline}
            self._body(source, Dialect(kind.value), context, [])
        except _TEMPLATE_ERRORS as error:
            return _explain(error), isinstance(error, TemplateSyntaxError)
        return None

    def _by_kind(self, kind: MessageFormat, dialect: Dialect, context: dict[str, Any]) -> tuple[str, str | None]:
        """By the template of the kind, which may be the operator's."""

        def write(name: str, dialect: Dialect) -> str:
            environment = self._sandbox(dialect) if name in self.templates else _built_in_environment(dialect)
            return environment.get_template(name).render(context)[:_LONGEST]

        text, *html = _kind_names(kind)
        return write(text, dialect), write(html[0], Dialect.HTML) if html and dialect is Dialect.MAIL else None

    def _subject(self, event: EventNotice | None, message: Message, context: dict[str, Any], notes: list[str]) -> str:
        if event and event.subject is not None:
            try:
                subject = self._fill(event.subject, Dialect.RAW, context, notes, literal=event.plain is not None)
                return escape.to_one_line(subject, _SUBJECT)
            except _TEMPLATE_ERRORS as error:
                notes.append(f"the subject could not be rendered: {_explain(error)}")
        return escape.to_one_line(message.headline, _SUBJECT)

    def _body(
        self, name: str, dialect: Dialect, context: dict[str, Any], notes: list[str], plain: str | None = None
    ) -> tuple[str | None, str | None]:
        """Text and HTML, one of which is None. ``plain``: the type of a literal text; without it a template."""
        source, html = name, plain == "html"
        if plain is None:
            source = self.templates.get(name, name)
            html = _HTML.search(source) is not None or (name in self.templates and ".html" in name)
        if html and dialect is Dialect.MAIL:
            return None, self._fill(source, Dialect.HTML, context, notes, literal=plain is not None)
        return self._fill(source, dialect, context, notes, literal=plain is not None), None

    def _fill(self, source: str, dialect: Dialect, context: dict[str, Any], notes: list[str], *, literal: bool) -> str:
        """A template rendered; or, ``literal``, a text with its known variables filled in and nothing else done to it."""
        known, write = context["dss"], FORMATTERS[dialect].escape
        if literal:
            text, unknown = fill_variables(escape.clean_text(source), known, lambda name: write(known[name]))
        else:
            text, unknown = fill_variables(source, known, lambda name: f"{{{{ dss['{name}'] }}}}")
        if unknown:
            notes.append("unknown variables: " + ", ".join(unknown[:10]))
        return (text if literal else self._compile(text, dialect).render(context))[:_LONGEST]


_PACKAGE = Renderer({})


def _kind_names(kind: MessageFormat) -> tuple[str, ...]:
    return ("mail.txt.j2", "mail.html.j2") if kind is MessageFormat.MAIL else (f"{kind.value}.j2",)


def _fields(message: Message) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in fields(message)} | {"items": message.items}


def _context(notice: Notice, facts: Facts, message: Message) -> dict[str, Any]:
    return _fields(message) | {
        "dss": message_variables(notice, facts),
        "event": notice.event if isinstance(notice, EventNotice) else None,
        "group": notice if isinstance(notice, GroupNotice) else None,
        "summary": notice if isinstance(notice, SummaryNotice) else None,
    }


def _explain(error: Exception) -> str:
    if isinstance(error, TemplateSyntaxError):
        place = f"line {error.lineno} of {error.name}" if error.name else f"line {error.lineno}"
        return escape.to_one_line(f"{place}: {error.message}", 200)
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    place = f"line {lines[0]}: " if lines else ""
    return escape.to_one_line(f"{place}{type(error).__name__}: {error}", 200)


@lru_cache(maxsize=len(FORMATTERS))
def _built_in_environment(dialect: Dialect) -> Environment:
    """For the package's own templates, which need no sandbox."""
    return _environment(Environment, dialect, {})


def _named(dialect: Dialect, item: Item) -> str:
    """The name of an item, as a link where it has one."""
    name = escape.truncate(item.name, 60)
    return format_link(dialect, name, item.links[0].url) if item.links else FORMATTERS[dialect].escape(name)


def _environment(kind: type[Environment], dialect: Dialect, templates: Mapping[str, str]) -> Environment:
    """Every value that a template writes passes the dialect's ``escape``; what it writes itself is left as it is."""
    formatter = FORMATTERS[dialect]

    def finalize(value: object) -> Markup:
        if isinstance(value, Markup):
            return value
        return Markup("" if value is None else formatter.escape(str(value)))

    escape_in_block = escape.escape_entities if dialect is Dialect.SLACK else str
    loaders: list[BaseLoader] = [DictLoader(templates), PackageLoader("tocsin.deliver")]
    environment = kind(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "link": lambda link: Markup(format_link(dialect, *link)),
        "named": lambda item: Markup(_named(dialect, item)),
        "line": lambda row: Markup(formatter.line(formatter.escape(row.label), formatter.escape(row.value))),
        "block": lambda value: Markup(escape_in_block(escape.escape_block(value))),
        "fence": lambda value: Markup(formatter.fence(value)),
        "cut": escape.truncate,
        "tail": lambda text, lines, limit: shorten_log(escape.clean_text(text), lines, limit),
    }
    return environment


def fill_variables(text: str, known: Collection[str], write: Callable[[str], str]) -> tuple[str, list[str]]:
    """``${name}`` → what ``write`` makes of a known name; and the unknown ones, which stay as they are."""
    unknown = [match[0] for match in _EXPRESSION.finditer(text) if match[0][2:-1] not in known]
    filled = _VARIABLE.sub(lambda match: write(match[1]) if match[1] in known else match[0], text)
    return filled, list(dict.fromkeys(unknown))


def message_variables(notice: Notice, facts: Facts) -> dict[str, str]:
    """What is known by DSS's own names; empty for groups and summaries, which DSS does not have."""
    if not isinstance(notice, EventNotice):
        return {}
    event, run = notice.event, notice.event.run
    known = {"scenarioRunURL": "", "dssURL": ""} | dss_variables(event)
    if run is None or event.name is EventName.RUN_STARTED:
        known["outcome"] = "N/A"
    if run is not None:
        known |= {
            "scenarioRunId": run.run_id,
            "scenarioStart": format_utc(run.start),
            "scenarioEnd": format_utc(run.end) if run.end else "",
            "scenarioTriggerTime": str(to_ms(run.start)),
        }
        steps = details.steps if (details := facts.details.get(run.key)) else ()
        known |= {f"stepOutcome_{step.name}": step.outcome or "" for step in steps if step.name}
    return known | {f"mailVariables_{name}": value for name, value in notice.variables.items()}
