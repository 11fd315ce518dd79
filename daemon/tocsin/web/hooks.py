"""What DSS may call: a nudge that a look is due, never a fact about a run.

Whoever calls must know the secret: as the plain header ``X-Tocsin-Secret``, which a DSS webhook reporter can send, or
by a signature as Standard Webhooks describes. Project and scenario are read from the query, a JSON object or a form
where they stand under names that DSS users choose; without both of them nothing is nudged.
"""

import binascii
import hmac
import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from tocsin.config.model import Secret
from tocsin.deliver.webhook import BadSecret, signing_key
from tocsin.web.context import CONTEXT
from tocsin.web.problems import Problem

log = structlog.get_logger(__name__)

_TOLERANCE_SECONDS = 300
_LONGEST_NAME = 300
_PROJECT_NAMES = ("project", "projectKey", "scenarioProjectKey", "project_key")
_SCENARIO_NAMES = ("scenario", "scenarioId", "scenario_id")


async def nudge(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    secret = context.config().http.hooks_secret
    if secret is None:
        raise Problem(403, "hooks are off until http.hooks_secret_file is set")
    body = await request.read()
    _check(request, body, await _revealed(secret), context.clock.now())
    node = request.match_info["node"]
    if context.config().node(node) is None:
        raise Problem(404, "no node of this name is watched")
    told = {**_fields(request.content_type, body), **request.query}
    project, scenario = _first(told, _PROJECT_NAMES), _first(told, _SCENARIO_NAMES)
    accepted = context.nudge(node, project, scenario if project else None)
    return web.json_response({"nudged": accepted}, status=202)


async def _revealed(secret: Secret) -> str:
    try:
        revealed = (await secret.read()).strip()
    except OSError as error:  # not its whole text: a name that is no file's may be the secret itself
        log.error("hooks_secret_unreadable", error=error.strerror or str(error))
        raise Problem(503, "the secret of the hooks cannot be read") from None
    if not revealed:
        raise Problem(403, "the secret of the hooks is empty")
    return revealed


def _check(request: web.Request, body: bytes, secret: str, now: datetime) -> None:
    """Raises ``Problem`` 403 for a caller that does not know the secret."""
    plain = request.headers.get("X-Tocsin-Secret")
    if plain is not None:
        known = hmac.compare_digest(plain.encode("utf-8", "surrogateescape"), secret.encode())
    else:
        known = _signed(request.headers, body, secret, now)
    if not known:
        raise Problem(403, "the secret or the signature is missing or wrong")


def _signed(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> bool:
    id_, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id_ or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        return False
    if abs(now.timestamp() - int(timestamp)) > _TOLERANCE_SECONDS:
        return False
    try:
        key = signing_key(secret)
    except BadSecret as error:
        log.error("hooks_secret_unreadable", error=str(error))
        return False
    expected = hmac.digest(key, f"{id_}.{timestamp}.".encode("utf-8", "surrogateescape") + body, sha256)
    return any(
        hmac.compare_digest(_decoded(one.removeprefix("v1,")), expected)
        for one in headers.get("webhook-signature", "").split(" ")
        if one.startswith("v1,")
    )


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _fields(content_type: str, body: bytes) -> dict[str, str]:
    """Texts by name from a JSON object or a form; nothing from anything else, since a nudge needs no more."""
    text = body.decode("utf-8", "replace")
    try:
        if content_type == "application/x-www-form-urlencoded" and not text.startswith("{"):  # curl calls JSON a form
            return dict(parse_qsl(text, max_num_fields=100))
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {name: one for name, one in found.items() if isinstance(one, str)} if isinstance(found, dict) else {}


def _first(told: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((told[name] for name in names if 0 < len(told.get(name, "")) <= _LONGEST_NAME), None)
