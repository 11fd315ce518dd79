"""From DSS's own reporters to a configuration of Tocsin that sends the same.

What Tocsin cannot do as DSS does is never guessed: it is left out and noted, one line each with the reason.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import yaml

from tocsin.cli.dss.session import Session, Target, describe_error
from tocsin.cli.exits import one_line
from tocsin.config.model import Node
from tocsin.config.secrets import EnvSecret, FileSecret
from tocsin.deliver.transport import check_channel_url
from tocsin.dss import DSSError
from tocsin.dss.fields import get_object, get_text, only_objects
from tocsin.dss.wire import Raw
from tocsin.model.labels import Matcher, Op
from tocsin.routing.dss_reporters import DEFAULT_SUBJECT, parse_recipients, split_addresses
from tocsin.routing.formula import BadFormula, parse

_HEAD = """\
# Made by `tocsin reporter import` from the reporters of DSS itself. To use it beside a configuration of your own, copy
# `receivers:` and `reporters:`; then switch the reporters in DSS off, or everything is sent twice.
"""
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLES = frozenset(
    {"projectKey", "scenarioProjectKey", "scenarioId", "scenarioName", "outcome", "triggerName", "triggerType"}
    | {"scenarioRunURL", "dssURL", "scenarioTriggerRunId", "scenarioTriggerTime"}
)


class NotCarried(Exception):
    """A reporter that has no counterpart; the text says why."""


@dataclass(frozen=True, slots=True)
class ImportedChannel:
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


class ReporterImport:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._channels: dict[str, dict[str, Raw]] = {}  # DSS's messaging channels by node and id
        self.receivers: dict[str, Raw] = {}
        self.reporters: list[Raw] = []
        self.secrets: dict[str, str] = {}  # by file, below the configuration's folder
        self.notes: list[str] = []
        self.carried = 0  # of DSS's reporters; one that writes to each of several people makes several here

    async def read_channels(self) -> None:
        """Read the messaging channels of each node, with the settings that the key may see."""
        for node in self._session.nodes:
            known = self._channels[node] = {}
            try:
                channels = await self._session.client(node).list_messaging_channels()
            except DSSError as error:
                self.notes.append(f"{node}: the messaging channels cannot be read: {describe_error(error)}")
                continue
            for channel in channels:
                try:
                    configuration = get_object(await channel.get_settings(), "configuration")
                except DSSError:  # only an admin key may read them; those who need them say so
                    configuration = {}
                known[channel.id] = {"type": channel.type, "sender": channel.sender, **configuration}

    def add(self, target: Target, dss_reporter: Raw) -> None:
        """Carry one reporter over, or note why not."""
        name = f"{target.project}/{target.id}/{get_text(dss_reporter, 'name') or 'unnamed'}"
        if len(self._session.nodes) > 1:
            name = f"{target.node}/{name}"
        try:
            if not dss_reporter.get("active", True):
                raise NotCarried("it is switched off in DSS")
            channel = import_channel(get_object(dss_reporter, "messaging"), self._channels[target.node])
        except NotCarried as error:
            self._note(name, f"not carried over: {error}")
            return
        self.carried += 1
        for note in channel.notes:
            self._note(name, note)
        reporter: Raw = {"name": self._unique(name), "receiver": self._receiver(channel)}
        if get_text(dss_reporter, "phase") == "START":
            reporter["on"] = ["run.started"]
        labels = {"dss_node": target.node, "project": target.project, "scenario": target.id}
        reporter["match"] = [str(Matcher(label, Op.EQUAL, value)) for label, value in labels.items()]
        condition = get_text(dss_reporter, "runCondition") or ""
        if dss_reporter.get("runConditionEnabled") and condition.strip():
            try:
                parse(condition)
                reporter["condition"] = condition
            except BadFormula as error:
                self._note(name, f"its condition is left out, so it notifies every time: {error}")
        for key, text in (("subject", channel.subject), ("message", channel.message)):
            if trouble := _unlike_dss(text):
                self._note(name, f"its {key} is left out for Tocsin's own: {trouble}")
            elif text:
                reporter[key] = text
        reporter |= {"attach": ["log"]} if channel.log else {}
        for number, mail in enumerate(channel.mails or ({},)):
            part = {**reporter, **({"mail": mail} if mail else {})}
            self.reporters.append(part if number == 0 else {**part, "name": self._unique(name)})

    def _note(self, name: str, words: str) -> None:
        self.notes.append(f"{one_line(name)}: {one_line(words)}")

    def _unique(self, name: str) -> str:
        taken = {reporter["name"] for reporter in self.reporters}
        base = one_line(name)[:190]
        names = (base if number == 1 else f"{base} ({number})" for number in range(1, len(taken) + 2))
        return next(name for name in names if name not in taken)

    def _receiver(self, channel: ImportedChannel) -> str:
        """The receiver for this channel; reporters that lead to the same address share one."""
        key = (channel.kind, channel.address, channel.options)
        for name, receiver in self.receivers.items():
            if receiver["key"] == key:
                return name
        number = 1 + sum(channel.name in (name, name.rpartition("-")[0]) for name in self.receivers)
        name = channel.name if number == 1 else f"{channel.name}-{number}"
        entry: Raw = {"name": name, channel.kind: channel.address}
        if channel.secret:
            file = f"secrets/{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}"
            self.secrets[file] = channel.address
            entry = {"name": name, f"{channel.kind}_file": file}
        self.receivers[name] = {"key": key, "channel": entry | channel.options}
        return name

    def hide_secrets(self) -> None:
        """For where everybody may read: headers stand in the configuration itself, and may be secrets."""
        for name, receiver in self.receivers.items():
            if headers := receiver["channel"].pop("headers", None):
                self._note(name, f"its headers {', '.join(headers)} are left out; --output writes them")

    def as_json(self) -> Raw:
        receivers = [{"name": name, "channels": [receiver["channel"]]} for name, receiver in self.receivers.items()]
        nodes = list(map(_node, self._session.nodes.values()))
        configuration = {"nodes": nodes, "receivers": receivers, "reporters": self.reporters, "rules": []}
        return {"configuration": configuration, "secrets": sorted(self.secrets), "notes": self.notes}

    def as_yaml(self) -> str:
        notes = "".join(f"#   {note}\n" for note in self.notes)
        head = _HEAD + (f"# Not carried over, or only in part:\n{notes}" if notes else "")
        return head + yaml.safe_dump(self.as_json()["configuration"], sort_keys=False, allow_unicode=True, width=110)


def _unlike_dss(text: str) -> str | None:
    """What in a text of DSS Tocsin would not fill as DSS does; None if there is nothing."""
    if any(sign in text for sign in ("<#", "<@", "[#", "[=")):
        return "it is a FreeMarker template"
    if any(sign in text for sign in ("{{", "{%", "{#")):
        return "it holds what Tocsin would read as a template of its own"
    for expression in map(str.strip, _VARIABLE.findall(text)):
        if expression not in _VARIABLES and not re.fullmatch(r"(stepOutcome|mailVariables)_\w+", expression):
            return f"Tocsin does not know ${{{expression}}}"
    return None


def _node(node: Node) -> Raw:
    """A node as the configuration writes it, with the place of its key and never the key itself."""
    kind = "bearer" if node.bearer is not None else "api_key"
    match node.bearer or node.api_key:
        case FileSecret(path):
            key = {f"{kind}_file": str(path.absolute())}
        case EnvSecret(name):
            key = {f"{kind}_env": name}
        case _:
            key = {f"{kind}_file": "secrets/dss-key"}
    return {"name": node.name, "url": node.url, **key}


def import_channel(messaging: Raw, channels: Mapping[str, Raw]) -> ImportedChannel:
    """How a reporter reaches people: an apprise URL, or a native webhook. ``channels`` are DSS's messaging channels by
    id, with their settings as far as known. Raises ``NotCarried``."""
    configuration = get_object(messaging, "configuration")
    channel_id = get_text(configuration, "channelId")
    channel = channels.get(channel_id or "", {})
    match get_text(messaging, "type"):
        case "mail-scenario":
            return _mail(configuration, channel_id, channel)
        case "slack-scenario" | "msft-teams-scenario" | "google-chat-scenario" as kind:
            return _chat(kind.removesuffix("-scenario"), configuration, channel_id, channel)
        case "webhook-scenario":
            return _webhook(configuration)
        case kind:
            raise NotCarried(f"Tocsin has nothing for reporters of type {kind}")


def _mail(mail: Raw, channel_id: str | None, channel: Raw) -> ImportedChannel:
    if (kind := get_text(channel, "type")) not in (None, "smtp"):
        raise NotCarried(f"its channel {channel_id} is of type {kind}, which is not SMTP")
    notes = []
    known_host, login = get_text(channel, "host"), get_text(channel, "login")
    host = known_host or "smtp.example.com"
    if known_host is None:
        unlisted = channel_id and not channel
        why = "is unknown, since DSS lists no such channel" if unlisted else "cannot be read with this key"
        notes.append(f"the server of the mail channel {channel_id or 'of DSS'} {why}: put it in the place of {host}")
    sender = get_text(mail, "sender") or get_text(channel, "sender")
    if channel.get("useCurrentUserAsSender") or not sender:
        notes.append("DSS sends it in the name of the user who runs the scenario; write a From into its `mail:`")
    attachments = [get_text(attachment, "type") for attachment in only_objects(mail.get("attachments"))]
    notes += [f"its attachment {kind} cannot be had from outside of DSS" for kind in attachments if kind != "LOG"]
    message = get_text(mail, "message") or ""
    if get_text(mail, "messageSource") == "TEMPLATE_FILE":
        message = ""
        if (template := get_text(mail, "templateName")) not in (None, "default.ftl"):
            notes.append(f"its template {template} is on the DSS server; Tocsin's own mail takes its place")
    mode = "ssl" if channel.get("useSSL") else "starttls" if channel.get("useTLS") else "insecure"
    account = f"{quote(login, safe='')}:{quote(get_text(channel, 'password') or '', safe='')}@" if login else ""
    port = channel.get("port")
    place = f"{host}:{port}" if isinstance(port, int | str) and str(port).isdecimal() else host
    author = sender or "dss@example.com"
    query = urlencode({"from": author, "to": author, "smtp": host, "mode": mode})
    return ImportedChannel(
        name=f"dss-mail-{channel_id}" if channel_id else "dss-mail",
        address=f"{'mailto' if mode == 'insecure' else 'mailtos'}://{account}{place}?{query}",
        secret=bool(login),
        subject=get_text(mail, "subject") or DEFAULT_SUBJECT,
        message=message,
        log="LOG" in attachments,
        mails=_overrides(mail, sender),
        notes=tuple(notes),
    )


def _overrides(mail: Raw, sender: str | None) -> tuple[Raw, ...]:
    """One override for each message that DSS would send: to a list, or to each of some people."""
    try:
        mails = list(parse_recipients(get_text(mail, "recipient") or "")) or [([], {})]
    except ValueError as error:
        raise NotCarried(f"its recipients: {error}") from None
    copies = ((key, split_addresses(get_text(mail, f"{key}Recipient") or "")) for key in ("cc", "bcc"))
    shared = {key: copy for key, copy in copies if copy}
    if any("${" in address for group in (*(to for to, _ in mails), *shared.values()) for address in group):
        raise NotCarried("its recipients are made of variables")
    if not any(to for to, _ in mails) and not shared:
        raise NotCarried("it has no recipient")
    head = {"from": sender} if sender and "${" not in sender else {}
    return tuple({**head, "to": to, **shared, **({"variables": own} if own else {})} for to, own in mails)


def _chat(kind: str, reporter: Raw, channel_id: str | None, channel: Raw) -> ImportedChannel:
    """Slack, Teams or Google Chat, by the messaging channel unless the reporter has an address of its own."""
    reached = {**reporter, **channel} if reporter.get("useGlobalChannel", True) else reporter
    message, url = get_text(reporter, "message") or "", get_text(reached, "webhookUrl")
    if kind == "slack":
        left_out = "blocks are" if get_text(reporter, "messageMode") == "BLOCK_KIT_API" else ""
        if not url and (token := get_text(reached, "authorizationToken")):
            room = get_text(reporter, "channel") or get_text(reached, "channel")
            if not room:
                raise NotCarried("it names no Slack channel")
            if room[:1] not in "#@" and not re.fullmatch(r"[CDG][A-Z0-9]{8,}", room):
                room = f"#{room}"
            url = f"slack://{quote(token, safe='')}/{quote(room, safe='')}"
    else:
        left_out = "card is" if message.lstrip().startswith("{") else ""
        if url and (key := get_text(reached, "webhookKey")) and "key=" not in url:
            query = urlencode({"key": key, "token": get_text(reached, "webhookToken") or ""})
            url += f"{'&' if '?' in url else '?'}{query}"
    if not url:
        why = f"the settings of the messaging channel {channel_id} cannot be read with this key"
        raise NotCarried(f"{why} (an admin key may)" if channel_id else "it has no address of its own")
    if trouble := check_channel_url(url):
        raise NotCarried(trouble)
    name = f"dss-{kind}-{channel_id}" if channel_id else f"dss-{kind}"
    if left_out:
        return ImportedChannel(name, url, notes=(f"its {left_out} left out for Tocsin's own message",))
    return ImportedChannel(name, url, message=message)


def _webhook(reporter: Raw) -> ImportedChannel:
    method, url = get_text(reporter, "method") or "POST", get_text(reporter, "url") or ""
    parameters, headers = (
        {
            key: get_text(pair, "value") or ""
            for pair in only_objects(reporter.get(pairs))
            if (key := get_text(pair, "key"))
        }
        for pairs in ("parameters", "headers")
    )
    if method != "POST":
        raise NotCarried(f"Tocsin's webhooks post, this one is a {method}")
    if not url.startswith(("http://", "https://")):
        raise NotCarried("it has no address")
    if "${" in url or any("${" in value for value in (*parameters.values(), *headers.values())):
        raise NotCarried("its address or headers are made of variables")
    if parameters:
        url += f"{'&' if '?' in url else '?'}{urlencode(parameters)}"
    headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
    note = "it gets Tocsin's event (CloudEvents) instead of the body that DSS sends"
    options = {"headers": headers} if headers else {}
    return ImportedChannel("dss-webhook", url, "webhook", options=options, notes=(note,))
