"""The webhook reporters through which DSS nudges Tocsin, as they stand in a scenario's definition.

There are two, since a reporter has one phase. They are known by their names, and only what is managed here is compared
and replaced, so that installing twice changes nothing.
"""

import json
from pathlib import Path
from urllib.parse import quote

from tocsin.cli.dss.edit import Settings
from tocsin.cli.dss.session import Session, Target
from tocsin.cli.exits import USAGE, Failure
from tocsin.dss.wire import Raw

HEADER = "X-Tocsin-Secret"
_PHASES = ("START", "END")


def external_url(session: Session, given: str | None) -> str:
    """Where DSS reaches Tocsin, without a slash at the end. Raises ``Failure``."""
    url = given or (session.config.http.external_url if session.config else None)
    if not url or not url.startswith(("http://", "https://")):
        raise Failure("where does DSS reach Tocsin? Set http.external_url, or say --external-url", USAGE)
    return url.rstrip("/")


def hooks_secret(session: Session, file: Path | None) -> str:
    """The secret that the hooks of the daemon want. Raises ``Failure``."""
    from tocsin.config.secrets import FileSecret

    secret = FileSecret(file) if file else session.config.http.hooks_secret if session.config else None
    if secret is None:
        raise Failure("hooks need a secret: set http.hooks_secret_file, or say --secret-file", USAGE)
    try:
        return secret.reveal().strip()
    except OSError as error:
        raise Failure(f"the secret of the hooks cannot be read: {error}") from None


def install(settings: Settings, target: Target, name: str, base: str, secret: str) -> str | None:
    """Add the two reporters, or bring them up to date; what was done, None for nothing."""
    told = []
    for phase in _PHASES:
        wanted = _reporter(target, name, phase, base, secret)
        known = [reporter for reporter in settings.raw_reporters if reporter.get("name") == wanted["name"]]
        if not known:
            settings.raw_reporters.append(wanted)
            told.append(f"{wanted['name']!r} added")
        elif not _covers(known[0], wanted):
            known[0].update(wanted)
            told.append(f"{wanted['name']!r} brought up to date")
    return ", ".join(told) or None


def remove(settings: Settings, name: str) -> str | None:
    """Remove the two reporters; what was done, None for nothing."""
    names = {_name(name, phase) for phase in _PHASES}
    raw = settings.raw_reporters
    kept = [reporter for reporter in raw if reporter.get("name") not in names]
    count = len(raw) - len(kept)
    raw[:] = kept
    return f"{count} reporters removed" if count else None


def _name(name: str, phase: str) -> str:
    return f"{name}: {phase.lower()}"


def _reporter(target: Target, name: str, phase: str, base: str, secret: str) -> Raw:
    body = json.dumps({"project": target.project, "scenario": target.id}, ensure_ascii=False)
    return {
        "name": _name(name, phase),
        "active": True,
        "phase": phase,
        "runConditionEnabled": False,
        "messaging": {
            "type": "webhook-scenario",
            "configuration": {
                "method": "POST",
                "url": f"{base}/hooks/dss/{quote(target.node, safe='')}",
                "headers": [{"key": HEADER, "value": secret}],
                "mime": "application/json",
                "payload": body,
            },
        },
    }


def _covers(found: object, wanted: object) -> bool:
    """Whether all that is wanted stands in what was found; DSS adds ids and defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_covers(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_covers, found, wanted))
    return found == wanted
