"""What DSS's own mail reporters would send, sent by Tocsin: the mails that DSS failed to send, or all of them. Pure.

Project writers write these reporters. So only addresses that the configuration allows get a mail, and the others are
named; and nothing is executed: plain ``${variables}`` are filled in, and what holds anything else is replaced by the
built-in mail, or by DSS's default subject.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice

from tocsin.config.model import Channel, Config, DssReportersConfig
from tocsin.config.secrets import Secret
from tocsin.model.decision import DecisionReason
from tocsin.model.event import END_EVENTS, Event, EventName, dss_variables, end_event_name
from tocsin.model.notification import EventNotice, MailOverrides
from tocsin.model.run import Run
from tocsin.model.scenario import MailReporter
from tocsin.routing.reporters import ReporterResult, check_condition

DEFAULT_SUBJECT = "DSS scenario ${scenarioName}: ${outcome}"
MOST_ADDRESSES = 1_000  # of one reporter about one event that are read
MOST_MAILS = 100  # individual ones
_NAMED = 20  # addresses that a note names
_LONGEST = 500  # characters of one address with its name

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_FREEMARKER = re.compile(r"</?[#@]|#\{|\A\s*\[#ftl")
_STOCK = ("_rawScenarioRun", "_fullStepRuns")  # what only DSS's default message reads
_LISTED = re.compile(r'(?:"[^"]*"|<[^<>]*>|[^,;])+')
_ATOM = r"[A-Za-z0-9!#$%&'*+/=^_`|~-]+"
_SPEC = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_WITH_NAME = re.compile(r"([^<>]*)<([^<>]*)>")


def concerns(config: DssReportersConfig, event: Event) -> bool:
    """Whether DSS's own reporters do something about such an event, in this mode."""
    if config.mode == "mirror":
        return event.name is EventName.RUN_STARTED or event.name in END_EVENTS
    mail = event.reporter is not None and event.reporter.type in (None, "mail-scenario") and event.run is not None
    return config.mode == "fallback" and (event.name in END_EVENTS or mail)


def evaluate_mirror(
    config: DssReportersConfig, event: Event, reporters: Sequence[MailReporter]
) -> list[ReporterResult]:
    """What the reporters do about a start or an end of a run."""
    phase = "START" if event.name is EventName.RUN_STARTED else "END"
    of_phase = (reporter for reporter in reporters if reporter.phase == phase)
    return [_evaluate(config, event, reporter, check_condition(reporter.condition, event)) for reporter in of_phase]


def evaluate_fallback(
    config: DssReportersConfig, failed: Event, reporters: Sequence[MailReporter], ended: Run | None = None
) -> list[ReporterResult] | None:
    """What becomes of the mail that DSS failed to send; None when no reporter of that name is known.

    DSS may report it before the run has its end: then reporters of the end wait for ``ended``, the run with its end.
    The condition was true for DSS and is not checked again.
    """
    run = ended or failed.run
    if failed.reporter is None or run is None:
        return []
    meant = [reporter for reporter in reporters if reporter.name == failed.reporter.name]
    if not meant and len(reporters) == 1:
        meant = list(reporters)  # there is only one that it can be
    if not meant:
        return None
    about = {"START": replace(failed, name=EventName.RUN_STARTED)} if ended is None else {}
    if run.end is not None:
        about["END"] = replace(failed, name=end_event_name(run.outcome), run=run)
    passed = (DecisionReason.ENQUEUED, None)
    return [_evaluate(config, about[reporter.phase], reporter, passed) for reporter in meant if reporter.phase in about]


def _evaluate(
    config: DssReportersConfig, event: Event, reporter: MailReporter, condition: tuple[DecisionReason, str | None]
) -> ReporterResult:
    name, key, (reason, why) = f"DSS: {reporter.name}", ("dss reporter", reporter.id), condition
    if reason is DecisionReason.CONDITION:
        return ReporterResult(name, key, reason, why)
    subject, subject_note = reporter.subject.strip() or DEFAULT_SUBJECT, None
    if reporter.subject.strip() and not _is_plain(reporter.subject, freemarker=reporter.freemarker):
        subject = DEFAULT_SUBJECT
        subject_note = "DSS's default subject replaces one that is not made of plain variables"
    message, message_note = mirrored_message(reporter)
    left_out: list[str] = []
    notices = tuple(
        EventNotice(
            event=event,
            reporter=reporter.name,
            subject=subject,
            mail=mail,
            attach=("log",) if "LOG" in reporter.attachments else (),
            variables=variables,
            template=message,
            plain="html" if reporter.html else "text",
        )
        for mail, variables in _mails(config, reporter, dss_variables(event), left_out)
    )
    if not notices:
        return ReporterResult(name, key, DecisionReason.NOT_ALLOWED, left_out=tuple(left_out))
    others = [kind for kind in reporter.attachments if kind != "LOG"]
    attachments = f"attachments that only DSS has: {', '.join(others)}" if others else None
    notes = "; ".join(filter(None, (why, subject_note, message_note, attachments)))
    return ReporterResult(name, key, reason, notes or None, notices, tuple(left_out))


def _mails(
    config: DssReportersConfig, reporter: MailReporter, variables: Mapping[str, str], left_out: list[str]
) -> Iterator[tuple[MailOverrides, Mapping[str, str]]]:
    """Who gets each mail, and the variables of an individual one. ``left_out`` gathers the addresses that get nothing."""
    if empty := [name for name in ("allow_recipients", "allow_senders") if not getattr(config, name)]:
        left_out.append(f"all: {' and '.join(empty)} allow nobody")
        return
    written, sender = reporter.sender.strip(), None  # None: the channel's own
    if written:
        try:
            sender = _address(written, variables, config.allow_senders)
        except ValueError as error:
            left_out.append(f"sender {_printable(written)} ({error})")
    try:
        mails = list(islice(parse_recipients(reporter.recipient), MOST_MAILS + 1))
    except ValueError as error:
        left_out.append(f"all recipients: {error}")
        mails = [([], {})]
    if len(mails) > MOST_MAILS:
        left_out.append(f"all individual mails after {MOST_MAILS}")
    cc, bcc = split_addresses(reporter.cc), split_addresses(reporter.bcc)
    room = MOST_ADDRESSES
    for to, own in mails[:MOST_MAILS]:
        known = {**variables, **{f"mailVariables_{name}": value for name, value in own.items()}}
        allowed: list[tuple[str, ...]] = []
        for addresses in (to, cc, bcc):
            if len(addresses) > room:
                left_out.append(f"all after {MOST_ADDRESSES} addresses")
            accepted: dict[str, None] = {}
            for address in addresses[:room]:
                try:
                    accepted[_address(address, known, config.allow_recipients)] = None
                except ValueError as error:
                    left_out.append(f"{_printable(address)} ({error})")
            room = max(room - len(addresses), 0)
            allowed.append(tuple(accepted))
        if any(allowed):
            yield MailOverrides(sender, *allowed), own


def _address(written: str, variables: Mapping[str, str], globs: Sequence[str]) -> str:
    """The address in a form that has one reading only. Raises ``ValueError``: why it gets nothing."""
    text = _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), written)
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


def parse_recipients(written: str) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The recipients of each mail and its variables: a comma list, a JSON array, or individual mails in JSON. Raises
    ``ValueError``."""
    if written.lstrip()[:1] not in ("[", "{"):
        yield split_addresses(written), {}
        return
    try:
        parsed = json.loads(written)
    except (ValueError, RecursionError):
        raise ValueError("they begin as JSON and are none") from None
    if isinstance(parsed, list):
        yield [part for text in parsed if isinstance(text, str) for part in split_addresses(text)], {}
        return
    mails = parsed.get("mails")
    if not isinstance(mails, list):
        raise ValueError("the JSON object names no mails")
    for mail in mails:
        to, variables = (mail.get("to"), mail.get("variables")) if isinstance(mail, dict) else (None, None)
        if isinstance(to, str):
            items = variables.items() if isinstance(variables, dict) else ()
            texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in items}
            yield split_addresses(to), texts


def split_addresses(written: str) -> list[str]:
    """The addresses of a list, as people write one: separated by commas or semicolons, with or without names."""
    return [address.strip() for address in _LISTED.findall(written) if address.strip()]


def _printable(written: str) -> str:
    return written.strip() if written.strip().isprintable() and len(written) <= 100 else repr(written[:100])


def left_out_note(left_out: Sequence[str]) -> str:
    """Those who are left out, in a note of bounded length."""
    if not left_out:
        return "it names nobody"
    more = f", and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    return f"left out: {', '.join(left_out[:_NAMED])}{more}"


def mirrored_message(reporter: MailReporter) -> tuple[str | None, str | None]:
    """The text to fill in, None for the built-in mail; and why that replaces another."""
    text = reporter.message
    if reporter.template not in ("", "default.ftl"):
        return None, f"the built-in mail replaces the template file {_printable(reporter.template)}"
    if not text.strip() or all(name in text for name in _STOCK):
        return None, None
    if _is_plain(text, freemarker=reporter.freemarker):
        return text, None
    kind = "FreeMarker" if reporter.freemarker else "formulas"
    return None, f"the built-in mail replaces a message with {kind}, which Tocsin does not execute"


def _is_plain(text: str, *, freemarker: bool) -> bool:
    rest = _VARIABLE.sub("", text)
    return "${" not in rest and not (freemarker and _FREEMARKER.search(rest))


def dss_reporter_warnings(config: Config) -> Iterator[str]:
    """What makes ``dss_reporters`` send nothing although it is switched on."""
    settings = config.dss_reporters
    if settings.mode == "off":
        return
    for name in ("allow_recipients", "allow_senders"):
        if not getattr(settings, name):
            yield f"dss_reporters: {name} is empty, so mode {settings.mode} sends nothing; name globs on addresses"
    for _, url in mail_urls(config):
        try:
            if is_mail(url.reveal()):
                return
        except OSError:
            return
    yield f"dss_reporters: receiver {settings.receiver!r} has no mailto:// or mailtos:// channel"


def mail_urls(config: Config) -> Iterator[tuple[Channel, Secret]]:
    """The channels that DSS's own mails may go to, each with its URL, which may be no mail URL."""
    receiver = config.receiver(config.dss_reporters.receiver or "")
    for channel in receiver.channels if receiver else ():
        if channel.url is not None:
            yield channel, channel.url


def is_mail(url: str) -> bool:
    """Whether mails to this apprise URL take another sender and recipients."""
    return url.strip().lower().startswith(("mailto:", "mailtos:"))
