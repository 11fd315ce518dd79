"""How one of DSS's reporters reaches people, in Tocsin's terms: an apprise URL, or a native webhook. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from tocsin.deliver.connect import check_channel_url
from tocsin.dss.fields import get_object, get_text, only_objects
from tocsin.dss.wire import Raw
from tocsin.routing.dss_reporters import DEFAULT_SUBJECT, parse_recipients, split_addresses

_UNKNOWN_SERVER = "smtp.example.com"


class NotCarried(Exception):
    """A reporter that has no counterpart; the text says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a message goes, and what it says. ``mails`` are the overrides of one message each."""

    name: str
    address: str
    kind: str = "url"  # or webhook
    secret: bool = True
    options: Raw = field(default_factory=dict)  # further keys of the channel
    subject: str = ""
    message: str = ""
    log: bool = False
    mails: tuple[Raw, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> object:
        return self.kind, self.address, json.dumps(self.options, sort_keys=True)


def way_of(messaging: Raw, channels: Mapping[str, Raw]) -> Way:
    """``channels`` are DSS's messaging channels by id, with their settings as far as known. Raises ``NotCarried``."""
    configuration = get_object(messaging, "configuration")
    channel_id = get_text(configuration, "channelId")
    channel = channels.get(channel_id or "", {})
    match get_text(messaging, "type"):
        case "mail-scenario":
            return _mail(configuration, channel_id, channel)
        case "slack-scenario":
            return _slack(configuration, channel_id, _reached(configuration, channel))
        case "msft-teams-scenario" | "google-chat-scenario" as kind:
            return _chat(kind.removesuffix("-scenario"), configuration, _reached(configuration, channel))
        case "webhook-scenario":
            return _webhook(configuration)
        case kind:
            raise NotCarried(f"Tocsin has nothing for reporters of type {kind}")


def _reached(configuration: Raw, channel: Raw) -> Raw:
    """Where a chat is reached: by the messaging channel, unless the reporter has an address of its own."""
    return {**configuration, **channel} if configuration.get("useGlobalChannel", True) else configuration


def _mail(mail: Raw, channel_id: str | None, channel: Raw) -> Way:
    if (kind := get_text(channel, "type")) not in (None, "smtp"):
        raise NotCarried(f"its channel {channel_id} is of type {kind}, which is not SMTP")
    notes = []
    host = get_text(channel, "host")
    if host is None:
        why = (
            "cannot be read with this key"
            if channel or not channel_id
            else "is unknown, since DSS lists no such channel"
        )
        notes.append(
            f"the server of the mail channel {channel_id or 'of DSS'} {why}: put it in the place of {_UNKNOWN_SERVER}"
        )
    sender = get_text(mail, "sender") or get_text(channel, "sender")
    if channel.get("useCurrentUserAsSender") or not sender:
        notes.append("DSS sends it in the name of the user who runs the scenario; write a From into its `mail:`")
    notes += [
        f"its attachment {get_text(one, 'type')} cannot be had from outside of DSS"
        for one in only_objects(mail.get("attachments"))
        if get_text(one, "type") != "LOG"
    ]
    message = get_text(mail, "message") or ""
    if get_text(mail, "messageSource") == "TEMPLATE_FILE":
        message = ""
        if (template := get_text(mail, "templateName")) not in (None, "default.ftl"):
            notes.append(f"its template {template} is on the DSS server; Tocsin's own mail takes its place")
    return Way(
        name=f"dss-mail-{channel_id}" if channel_id else "dss-mail",
        address=_mailto(channel, host or _UNKNOWN_SERVER, sender or "dss@example.com"),
        secret=bool(get_text(channel, "login")),
        subject=get_text(mail, "subject") or DEFAULT_SUBJECT,
        message=message,
        log=any(get_text(one, "type") == "LOG" for one in only_objects(mail.get("attachments"))),
        mails=_overrides(mail, sender),
        notes=tuple(notes),
    )


def _mailto(channel: Raw, host: str, sender: str) -> str:
    mode = "ssl" if channel.get("useSSL") else "starttls" if channel.get("useTLS") else "insecure"
    login, password, port = get_text(channel, "login"), get_text(channel, "password"), channel.get("port")
    account = f"{quote(login, safe='')}:{quote(password or '', safe='')}@" if login else ""
    place = f"{host}:{port}" if isinstance(port, int | str) and str(port).isdecimal() else host
    query = urlencode({"from": sender, "to": sender, "smtp": host, "mode": mode})
    return f"{'mailto' if mode == 'insecure' else 'mailtos'}://{account}{place}?{query}"


def _overrides(mail: Raw, sender: str | None) -> tuple[Raw, ...]:
    """One override for each message that DSS would send: to a list, or to each of some people."""
    try:
        several = list(parse_recipients(get_text(mail, "recipient") or ""))
    except ValueError as error:
        raise NotCarried(f"its recipients: {error}") from None
    copies = {
        key: split_addresses(get_text(mail, name) or "")
        for key, name in (("cc", "ccRecipient"), ("bcc", "bccRecipient"))
    }
    shared = {key: copy for key, copy in copies.items() if copy}
    several = several or [([], {})]
    if any("${" in address for group in (*(to for to, _ in several), *shared.values()) for address in group):
        raise NotCarried("its recipients are made of variables")
    if not any(to for to, _ in several) and not shared:
        raise NotCarried("it has no recipient")
    head = {"from": sender} if sender and "${" not in sender else {}
    return tuple({**head, "to": to, **shared, **({"variables": own} if own else {})} for to, own in several)


def _slack(reporter: Raw, channel_id: str | None, way: Raw) -> Way:
    blocks = get_text(reporter, "messageMode") == "BLOCK_KIT_API"
    message = "" if blocks else get_text(reporter, "message") or ""
    notes = ("its blocks are left out for Tocsin's own message",) if blocks else ()
    name = f"dss-slack-{channel_id}" if channel_id else "dss-slack"
    room = get_text(reporter, "channel") or get_text(way, "channel")
    if url := get_text(way, "webhookUrl"):
        return _usable(Way(name, url, message=message, notes=notes))
    if token := get_text(way, "authorizationToken"):
        if not room:
            raise NotCarried("it names no Slack channel")
        return _usable(
            Way(name, f"slack://{quote(token, safe='')}/{quote(_room(room), safe='')}", message=message, notes=notes)
        )
    raise NotCarried(_unreadable(channel_id))


def _room(channel: str) -> str:
    return channel if channel[:1] in "#@" or re.fullmatch(r"[CDG][A-Z0-9]{8,}", channel) else f"#{channel}"


def _chat(kind: str, reporter: Raw, way: Raw) -> Way:
    channel_id = get_text(reporter, "channelId")
    url = get_text(way, "webhookUrl")
    if not url:
        raise NotCarried(_unreadable(channel_id))
    if (key := get_text(way, "webhookKey")) and "key=" not in url:
        url += f"{'&' if '?' in url else '?'}{urlencode({'key': key, 'token': get_text(way, 'webhookToken') or ''})}"
    message = get_text(reporter, "message") or ""
    card = message.lstrip().startswith("{")
    name = f"dss-{kind}-{channel_id}" if channel_id else f"dss-{kind}"
    notes = ("its card is left out for Tocsin's own message",) if card else ()
    return _usable(Way(name, url, message="" if card else message, notes=notes))


def _webhook(reporter: Raw) -> Way:
    method, url = get_text(reporter, "method") or "POST", get_text(reporter, "url") or ""
    pairs = {key: _pairs(reporter.get(key)) for key in ("parameters", "headers")}
    if method != "POST":
        raise NotCarried(f"Tocsin's webhooks post, this one is a {method}")
    if not url.startswith(("http://", "https://")):
        raise NotCarried("it has no address")
    if "${" in url or any("${" in value for pair in pairs.values() for value in pair.values()):
        raise NotCarried("its address or headers are made of variables")
    if pairs["parameters"]:
        url += f"{'&' if '?' in url else '?'}{urlencode(pairs['parameters'])}"
    headers = {name: value for name, value in pairs["headers"].items() if name.lower() != "content-type"}
    note = "it gets Tocsin's event (CloudEvents) instead of the body that DSS sends"
    return Way("dss-webhook", url, "webhook", options={"headers": headers} if headers else {}, notes=(note,))


def _pairs(values: object) -> dict[str, str]:
    return {key: get_text(pair, "value") or "" for pair in only_objects(values) if (key := get_text(pair, "key"))}


def _unreadable(channel_id: str | None) -> str:
    if channel_id:
        return f"the settings of the messaging channel {channel_id} cannot be read with this key (an admin key may)"
    return "it has no address of its own"


def _usable(way: Way) -> Way:
    """The way itself if apprise can read its URL. Raises ``NotCarried``."""
    if trouble := check_channel_url(way.address):
        raise NotCarried(trouble)
    return way
