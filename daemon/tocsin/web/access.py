"""Who may do what.

With a tokens file, reading needs a viewer's token and changing an operator's. Without one, a listener that others can
reach serves probes, metrics and status only, and on loopback a change needs a peer, a Host and no proxy in between
that could come from elsewhere. A change that a browser makes for another site is always refused.
"""

import base64
import binascii
import ipaddress
from enum import Enum
from urllib.parse import urlsplit

from aiohttp import web

from tocsin.web.problems import Problem
from tocsin.web.tokens import Scope, TokenFile

_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_ASK = {"WWW-Authenticate": 'Bearer realm="tocsin", Basic realm="tocsin", charset="UTF-8"'}


class Access(Enum):
    """What a route is, for the rules."""

    PROBE = "probe"  # always open: those who ask whether the process lives have no token
    STATUS = "status"  # reading that a listener without tokens shows to everyone
    READ = "read"
    CHANGE = "change"
    HOOK = "hook"  # has a secret of its own


class Gate:
    """The rules for one listener. ``open_to_others`` says that it does not listen on loopback alone."""

    def __init__(self, *, open_to_others: bool) -> None:
        self._open_to_others = open_to_others
        self._file: TokenFile | None = None

    def admit(self, request: web.Request, access: Access, tokens_file: str | None) -> str:
        """Who asks, for the log and for what they change. Raises ``Problem`` 401 or 403."""
        if access is Access.CHANGE:
            _refuse_other_sites(request)
        if access in (Access.PROBE, Access.HOOK):
            return "anyone"
        if tokens_file is not None:
            return self._by_token(request, access, tokens_file)
        if access is Access.STATUS:
            return "anyone"
        if self._open_to_others:
            raise Problem(403, "only probes, metrics and status are served here until http.tokens_file is set")
        if access is Access.CHANGE:
            _require_loopback(request)
        return "loopback"

    def _by_token(self, request: web.Request, access: Access, path: str) -> str:
        if self._file is None or self._file.path != path:
            self._file = TokenFile(path)
        presented = _presented(request)
        token = self._file.find(presented) if presented else None
        if token is None:
            raise Problem(401, "this needs a token: Authorization: Bearer TOKEN", _ASK)
        if access is Access.CHANGE and token.scope is not Scope.OPERATOR:
            raise Problem(403, "changing things needs an operator's token")
        return token.name


GATE = web.AppKey("gate", Gate)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address can only mean this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").split("%", 1)[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _presented(request: web.Request) -> str | None:
    """The token of a Bearer header, or the password of a Basic one, which is what browsers can send."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                pair = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return None
            return pair.partition(":")[2]
        case _:
            return None


def _require_loopback(request: web.Request) -> None:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer or not is_loopback(peer[0]):
        raise Problem(403, "changes are taken from this machine only until http.tokens_file is set")
    if any(name in request.headers for name in _FORWARDING):
        raise Problem(403, "changes are not taken through a proxy until http.tokens_file is set")
    if not is_loopback(_host_of(f"//{request.headers.get('Host', '')}")):
        raise Problem(403, "changes need a Host of this machine until http.tokens_file is set")


def _refuse_other_sites(request: web.Request) -> None:
    """A browser adds these headers to what a page of another site makes it send; a Bearer token it cannot add."""
    if request.headers.get("Authorization", "").lower().startswith("bearer "):
        return
    if request.headers.get("Sec-Fetch-Site", "none").lower() not in ("same-origin", "none"):
        raise Problem(403, "changes are not taken from pages of other sites")
    origin = request.headers.get("Origin")
    if origin is not None and _netloc(origin) != request.headers.get("Host", "").lower():
        raise Problem(403, "changes are not taken from pages of other sites")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
