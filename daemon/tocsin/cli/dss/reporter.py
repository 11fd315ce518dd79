"""``tocsin reporter``: DSS's own reporters, seen over all scenarios, and the hooks through which DSS nudges Tocsin.

A hook is two webhook reporters, since a reporter has one phase. They are known by their names.
"""

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from tocsin.cli import show
from tocsin.cli.dss.changes import Settings, edit_all
from tocsin.cli.dss.session import Item, Session, Target
from tocsin.cli.exits import USAGE, Failure, print_stderr, write_text
from tocsin.cli.verb import (
    Argument,
    Edit,
    JsonOption,
    Option,
    ScenariosArgument,
    ScopeArgument,
    file_option,
    group,
    list_verb,
    verb,
)
from tocsin.dss import wire
from tocsin.dss.fields import get_object, get_text, only_objects
from tocsin.dss.wire import Raw

app = group()
NameOption = Annotated[str, Option(help="How the hook is called in DSS; one that exists is brought up to date.")]
_PHASES = ("START", "END")
_COLUMNS = ("name", "type", "active", "phase", "condition", "channel", "sender", "recipients")


@list_verb(app, "list", "scenario=address", *_COLUMNS)
async def list_reporters(
    session: Session,
    addresses: ScopeArgument = None,
    kind: Annotated[str | None, Option("--type", help="Only of this type: mail, slack, msft-teams, webhook …")] = None,
) -> list[Item]:
    """List every reporter of every scenario."""
    rows: list[Item] = []
    for target, reporter in await _read_reporters(session, addresses):
        messaging = get_object(reporter, "messaging")
        configuration = get_object(messaging, "configuration")
        type_ = get_text(messaging, "type")
        if kind is not None and str(type_).removesuffix("-scenario") != kind.removesuffix("-scenario"):
            continue
        recipients = (get_text(configuration, key) for key in ("recipient", "channel", "toNumber"))
        rows.append(
            {
                **target.place,
                "id": get_text(reporter, "id"),
                "name": get_text(reporter, "name") or "",
                "type": type_,
                "active": bool(reporter.get("active")),
                "phase": get_text(reporter, "phase"),
                "condition": get_text(reporter, "runCondition") if reporter.get("runConditionEnabled") else None,
                "channel": get_text(configuration, "channelId"),
                "sender": get_text(configuration, "sender"),
                "recipients": next(filter(None, recipients), None),
            }
        )
    return rows


@verb(app, "set-sender")
async def set_sender(
    session: Session,
    sender: Annotated[str, Argument(metavar="FROM", help="The new From, as 'Data team <data@example.com>'.")],
    addresses: ScopeArgument = None,
    former: Annotated[str | None, Option("--only", metavar="FROM", help="Only where the From is this one now.")] = None,
    *,
    how: Edit,
) -> int:
    """Change the From of all mail reporters."""
    if ("@" not in sender and "${" not in sender) or not sender.isprintable():
        raise Failure(f"{sender!r} is no mail address", USAGE)

    def change(_: Target, settings: Settings) -> str | None:
        messagings = (get_object(reporter, "messaging") for reporter in only_objects(settings.raw_reporters))
        mails = [get_object(m, "configuration") for m in messagings if m.get("type") == "mail-scenario"]
        mails = [mail for mail in mails if former is None or get_text(mail, "sender") == former]
        old = sorted({get_text(mail, "sender") or "none" for mail in mails if mail.get("sender") != sender})
        for mail in mails:
            mail["sender"] = sender
        return f"From was {', '.join(old)}" if old else None

    return await edit_all(session, await session.find_or_all(addresses), change, how, "changing senders")


@verb(app, "install-hook")
async def install_hook(
    session: Session,
    addresses: ScenariosArgument,
    external_url: Annotated[
        str | None, Option(help="Where DSS reaches Tocsin; else the configuration's http.external_url.")
    ] = None,
    secret_file: Annotated[
        Path | None, Option(help="The secret of the hooks; else the configuration's http.hooks_secret_file.")
    ] = None,
    name: NameOption = "tocsin",
    *,
    how: Edit,
) -> int:
    """Have scenarios nudge Tocsin at their start and end, by webhook reporters. The secret stands in the scenario's
    settings, where all who may read them see it."""
    from tocsin.config.secrets import FileSecret

    base = external_url or (session.config.http.external_url if session.config else None)
    if not base or not base.startswith(("http://", "https://")):
        raise Failure("where does DSS reach Tocsin? Set http.external_url, or say --external-url", USAGE)
    url = base.rstrip("/")
    source = FileSecret(secret_file) if secret_file else session.config.http.hooks_secret if session.config else None
    if source is None:
        raise Failure("hooks need a secret: set http.hooks_secret_file, or say --secret-file", USAGE)
    try:
        secret = source.reveal().strip()
    except OSError as error:
        raise Failure(f"the secret of the hooks cannot be read: {error}") from None

    def change(target: Target, settings: Settings) -> str | None:
        """Add the two reporters, or bring them up to date."""
        done = []
        for phase in _PHASES:
            hook = _hook(target, name, phase, url, secret)
            known = [reporter for reporter in settings.raw_reporters if reporter.get("name") == hook["name"]]
            if not known:
                settings.raw_reporters.append(hook)
                done.append(f"{hook['name']!r} added")
            elif not _covers(known[0], hook):
                known[0].update(hook)
                done.append(f"{hook['name']!r} brought up to date")
        return ", ".join(done) or None

    return await edit_all(session, await session.find(addresses, listed=True), change, how, "installing hooks")


@verb(app, "remove-hook")
async def remove_hook(
    session: Session, addresses: ScopeArgument = None, name: NameOption = "tocsin", *, how: Edit
) -> int:
    """Remove what install-hook has put into scenarios."""
    names = [f"{name}: {phase.lower()}" for phase in _PHASES]

    def change(_: Target, settings: Settings) -> str | None:
        raw = settings.raw_reporters
        count = len(raw)
        raw[:] = [reporter for reporter in raw if reporter.get("name") not in names]
        return f"{count - len(raw)} reporters removed" if count > len(raw) else None

    return await edit_all(session, await session.find_or_all(addresses), change, how, "removing hooks")


@verb(app, "import")
async def import_reporters(
    session: Session,
    addresses: ScopeArgument = None,
    output: Annotated[
        Path | None, file_option("Write there, and secrets into files beside it.", "--output", "-o")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration whose receivers and reporters do what DSS's own reporters do, and tell on standard error,
    one by one, what could not be carried over and why."""
    from tocsin.cli.dss.imports import ReporterImport

    reporters = await _read_reporters(session, addresses)
    imported = ReporterImport(session)
    await imported.read_channels()
    for target, reporter in reporters:
        imported.add(target, reporter)
    if output is not None:
        for name, secret in imported.secrets.items():
            write_text(output.parent / name, secret + "\n", private=True)
        write_text(output, imported.as_yaml(), private=True)
    if output is None or as_json:
        imported.hide_secrets()
    if as_json:
        return show.print_json(imported.as_json())
    if output is None:
        print(imported.as_yaml(), end="")
    for note in imported.notes:
        print_stderr(note)
    print_stderr(f"{imported.carried} of {len(reporters)} reporters carried over{f' to {output}' if output else ''}")
    return None


async def _read_reporters(session: Session, addresses: list[str] | None) -> list[tuple[Target, Raw]]:
    async def read(target: Target) -> list[Raw]:
        request = wire.get_scenario(target.project, target.id)
        return only_objects((await session.client(target.node).perform(request)).get("reporters"))

    lists = await session.read_each("reading scenarios", await session.find_or_all(addresses), read)
    return [(target, reporter) for target, reporters in lists for reporter in reporters]


def _hook(target: Target, name: str, phase: str, url: str, secret: str) -> Raw:
    return {
        "name": f"{name}: {phase.lower()}",
        "active": True,
        "phase": phase,
        "runConditionEnabled": False,
        "messaging": {
            "type": "webhook-scenario",
            "configuration": {
                "method": "POST",
                "url": f"{url}/hooks/dss/{quote(target.node, safe='')}",
                "headers": [{"key": "X-Tocsin-Secret", "value": secret}],
                "mime": "application/json",
                "payload": json.dumps({"project": target.project, "scenario": target.id}, ensure_ascii=False),
            },
        },
    }


def _covers(current: object, wanted: object) -> bool:
    """Whether all that is wanted stands in what is there; DSS adds ids and defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(_covers(current.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(current, list) and len(current) == len(wanted) and all(map(_covers, current, wanted))
    return current == wanted
