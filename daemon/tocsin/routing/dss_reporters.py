"""What DSS's own mail reporters would send, sent by Tocsin: the mails that DSS failed to send, or all of them. Pure.

Promises two things, since project writers write these reporters. Nobody gets a mail whom the configuration does not
allow; who is left out is named. And nothing of theirs is executed: plain ``${variables}`` are filled in, whatever else
a text holds makes the built-in mail, or DSS's default subject, take its place.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice

from tocsin.config.model import Channel, DssReportersConfig
from tocsin.kit.strings import derived_id
from tocsin.model.decision import DecisionReason
from tocsin.model.event import END_EVENTS, Event, EventName, dss_variables, end_event_name
from tocsin.model.notification import EventNotice, MailOverrides, Notification
from tocsin.model.run import DetailsLevel, Run
from tocsin.model.scenario import MailReporter
from tocsin.routing.reporters import asked

DEFAULT_SUBJECT = "DSS scenario ${scenarioName}: ${outcome}"
MOST_ADDRESSES = 1_000  # of one reporter about one event that are looked at
MOST_MAILS = 100  # individual ones
_NAMED = 20  # addresses that a note names
_LONGEST = 500  # characters of one address with its name

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_FREEMARKER = re.compile(r"</?[#@]|#\{|\A\s*\[#ftl")
_STOCK = ("_rawScenarioRun", "_fullStepRuns")  # what only DSS's default message reads
_ONE = re.compile(r'(?:"[^"]*"|<[^<>]*>|[^,;])+')
_ATOM = r"[A-Za-z0-9!#$%&'*+/=^_`|~-]+"
_SPEC = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_WITH_NAME = re.compile(r"([^<>]*)<([^<>]*)>")


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail: to whom, and the variables of an individual one."""

    who: MailOverrides
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What becomes of one reporter at one event. ``event`` is what its mails speak of."""

    reporter: MailReporter
    event: Event
    reason: DecisionReason
    notes: tuple[str, ...] = ()
    mails: tuple[Mail, ...] = ()
    left_out: tuple[str, ...] = ()  # each with its reason


def concerns(config: DssReportersConfig, event: Event) -> bool:
    """Whether DSS's own reporters have something to say to such an event, in this mode."""
    match config.mode:
        case "mirror":
            return event.name is EventName.RUN_STARTED or event.name in END_EVENTS
        case "fallback":
            failed = event.reporter
            return event.name in END_EVENTS or (
                failed is not None and failed.type in (None, "mail-scenario") and event.run is not None
            )
        case "off":
            return False


def mirrored(config: DssReportersConfig, event: Event, reporters: Sequence[MailReporter]) -> list[Mirrored]:
    """What the reporters do about a start or an end of a run."""
    phase = "START" if event.name is EventName.RUN_STARTED else "END"
    return [_one(config, event, one, asked(one.condition, event)) for one in reporters if one.phase == phase]


def stood_in_for(
    config: DssReportersConfig, failed: Event, reporters: Sequence[MailReporter], ended: Run | None = None
) -> list[Mirrored] | None:
    """What becomes of the mail that DSS failed to send; None when no reporter of that name is known.

    DSS may tell of it before the run has its end: then reporters of the end wait for that, and ``ended`` is the run
    once it has come. The condition was true for DSS; here it is not asked again.
    """
    run = ended or failed.run
    if failed.reporter is None or run is None:
        return []
    meant = [one for one in reporters if one.name == failed.reporter.name]
    if not meant and len(reporters) == 1:
        meant = list(reporters)  # there is only one that it can be
    if not meant:
        return None
    about = {"START": replace(failed, name=EventName.RUN_STARTED)} if ended is None else {}
    if run.end is not None:
        about["END"] = replace(failed, name=end_event_name(run.outcome), run=run)
    return [_one(config, about[one.phase], one, (DecisionReason.ENQUEUED, None)) for one in meant if one.phase in about]


def notifications(one: Mirrored, channels: Sequence[Channel], now: datetime) -> list[Notification]:
    """One notification for each mail and mail channel. Ids are derived, so that a replay owes nothing twice."""
    event, reporter = one.event, one.reporter
    ordering_key = f"dss reporter:{reporter.id}:{'/'.join(event.key or (event.node,))}"
    message = _message(reporter)[0]
    return [
        Notification(
            id=derived_id(event.id, "dss reporter", reporter.id, channel.name, index),
            receiver=channel.receiver,
            channel=channel.name,
            ordering_key=ordering_key,
            notice=EventNotice(
                event=event,
                reporter=reporter.name,
                subject=_subject(reporter)[0],
                mail=mail.who,
                attach=("log",) if "LOG" in reporter.attachments else (),
                variables=mail.variables,
                template=message,
                plain="html" if reporter.html else "text",
            ),
            created_at=now,
            due_at=now,
        )
        for channel in channels
        for index, mail in enumerate(one.mails)
    ]


def wants_details(config: DssReportersConfig, event: Event, reporters: Sequence[MailReporter]) -> DetailsLevel:
    """What is needed of a run whose end a mirrored mail will tell: its steps, and its log where the mail attaches it."""
    if config.mode != "mirror" or event.name not in END_EVENTS or not config.allow_recipients:
        return DetailsLevel.NOTHING
    mails = (
        one
        for one in reporters
        if one.phase == "END" and asked(one.condition, event)[0] is not DecisionReason.CONDITION
    )
    levels = (DetailsLevel.LOG if "LOG" in one.attachments else DetailsLevel.STEPS for one in mails)
    return max(levels, default=DetailsLevel.NOTHING)


def _one(
    config: DssReportersConfig, event: Event, reporter: MailReporter, passed: tuple[DecisionReason, str | None]
) -> Mirrored:
    reason, why = passed
    if reason is DecisionReason.CONDITION:
        return Mirrored(reporter, event, reason, (why or "",))
    post = _Post(config, dss_variables(event))
    mails = tuple(post.mails(reporter))
    if not mails:
        return Mirrored(reporter, event, DecisionReason.NOT_ALLOWED, left_out=tuple(post.left_out))
    unlike = (why, _subject(reporter)[1], _message(reporter)[1], _attachments(reporter))
    notes = tuple(note for note in unlike if note)
    return Mirrored(reporter, event, reason, notes, mails, tuple(post.left_out))


# --- addresses -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Post:
    """The addresses of one reporter at one event. ``left_out`` gathers those that get nothing."""

    config: DssReportersConfig
    variables: Mapping[str, str]
    left_out: list[str] = field(default_factory=list)
    room: int = MOST_ADDRESSES

    def mails(self, reporter: MailReporter) -> Iterator[Mail]:
        lists = ("allow_recipients", "allow_senders")
        if empty := [name for name in lists if not getattr(self.config, name)]:
            self.left_out.append(f"all: {' and '.join(empty)} allow nobody")
            return
        sender = self._sender(reporter.sender.strip())
        try:
            mails = list(islice(individual(reporter.recipient), MOST_MAILS + 1))
        except ValueError as error:
            self.left_out.append(f"all recipients: {error}")
            mails = [([], {})]
        if len(mails) > MOST_MAILS:
            self.left_out.append(f"all individual mails after {MOST_MAILS}")
        cc, bcc = addresses(reporter.cc), addresses(reporter.bcc)
        for to, own in mails[:MOST_MAILS]:
            known = {**self.variables, **{f"mailVariables_{name}": value for name, value in own.items()}}
            who = [self._allowed(part, known) for part in (to, cc, bcc)]
            if any(who):
                yield Mail(MailOverrides(sender, *who), own)

    def _sender(self, written: str) -> str | None:
        """The sender, or None for the channel's own."""
        try:
            return _address(written, self.variables, self.config.allow_senders) if written else None
        except ValueError as error:
            self.left_out.append(f"sender {_shown(written)} ({error})")
            return None

    def _allowed(self, written: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        if len(written) > self.room:
            self.left_out.append(f"all after {MOST_ADDRESSES} addresses")
        for one in written[: self.room]:
            try:
                found[_address(one, variables, self.config.allow_recipients)] = None
            except ValueError as error:
                self.left_out.append(f"{_shown(one)} ({error})")
        self.room = max(self.room - len(written), 0)
        return tuple(found)


def _address(written: str, variables: Mapping[str, str], globs: Sequence[str]) -> str:
    """The address in a form that has one reading only. Raises ``ValueError``: why it gets nothing."""
    text = _VARIABLE.sub(lambda found: variables[found[1]] if found[1] in variables else found[0], written)
    if unknown := _VARIABLE.search(text):
        raise ValueError(f"the variable {unknown[0]} is not known here")
    named = _WITH_NAME.fullmatch(text)
    name, spec = (named[1], named[2].strip()) if named else ("", text)
    if not text.isprintable() or len(text) > _LONGEST or not _SPEC.fullmatch(spec):
        raise ValueError("not an address")
    if not any(fnmatchcase(spec.lower(), glob.lower()) for glob in globs):
        raise ValueError("not allowed")
    name = re.sub(r'["\\]', "", name).strip()
    return f'"{name}" <{spec}>' if name else spec


def individual(written: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The recipients of each mail and its variables: a comma list, a JSON array, or individual mails in JSON. Raises
    ``ValueError``."""
    if written.lstrip()[:1] not in ("[", "{"):
        yield addresses(written), {}
        return
    try:
        parsed = json.loads(written)
    except (ValueError, RecursionError):
        raise ValueError("they begin as JSON and are none") from None
    if isinstance(parsed, list):
        yield [part for one in parsed if isinstance(one, str) for part in addresses(one)], {}
        return
    mails = parsed.get("mails")
    if not isinstance(mails, list):
        raise ValueError("the JSON object names no mails")
    for mail in mails:
        to, given = (mail.get("to"), mail.get("variables")) if isinstance(mail, dict) else (None, None)
        if isinstance(to, str):
            named = given.items() if isinstance(given, dict) else ()
            yield addresses(to), {name: _text(value) for name, value in named}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def addresses(written: str) -> list[str]:
    """The addresses of a list, as people write one: separated by commas or semicolons, with or without names."""
    return [one.strip() for one in _ONE.findall(written) if one.strip()]


def _shown(written: str) -> str:
    return written.strip() if written.strip().isprintable() and len(written) <= 100 else repr(written[:100])


def named(left_out: Sequence[str]) -> str:
    """Those who are left out, in a note of bounded length."""
    if not left_out:
        return "it names nobody"
    more = f", and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return f"left out: {', '.join(left_out[:_NAMED])}{more}"


# --- texts ---------------------------------------------------------------------------------------------------------------


def _subject(reporter: MailReporter) -> tuple[str, str | None]:
    if not reporter.subject.strip() or _is_plain(reporter.subject, freemarker=reporter.freemarker):
        return reporter.subject.strip() or DEFAULT_SUBJECT, None
    return DEFAULT_SUBJECT, "DSS's default subject stands for one that is not made of plain variables"


def _message(reporter: MailReporter) -> tuple[str | None, str | None]:
    """The text to fill in, None for the built-in mail; and why that takes the place of another."""
    text = reporter.message
    if reporter.template not in ("", "default.ftl"):
        return None, f"the built-in mail stands for the template file {_shown(reporter.template)}"
    if not text.strip() or all(name in text for name in _STOCK):
        return None, None
    if _is_plain(text, freemarker=reporter.freemarker):
        return text, None
    kind = "FreeMarker" if reporter.freemarker else "formulas"
    return None, f"the built-in mail stands for a message with {kind}, which Tocsin does not execute"


def _is_plain(text: str, *, freemarker: bool) -> bool:
    rest = _VARIABLE.sub("", text)
    return "${" not in rest and not (freemarker and _FREEMARKER.search(rest))


def _attachments(reporter: MailReporter) -> str | None:
    others = [kind for kind in reporter.attachments if kind != "LOG"]
    return f"attachments that only DSS has: {', '.join(others)}" if others else None
