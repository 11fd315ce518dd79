"""Who may do what.

With a tokens file or a proxy that logs people in, reading needs a viewer and changing an operator. Somebody is known by
a token, by the cookie of ``/login`` (see ``login``), or by the headers of the proxy, which count only from its own
addresses. Without either, a listener that others can reach serves probes, metrics and status only; one on loopback
serves requests whose Host is a loopback name or the host of ``http.external_url``, so that a page whose name an attacker
resolves to 127.0.0.1 (DNS rebinding) reads nothing, and a change needs a loopback peer, a loopback Host and no proxy in
between. A change that a browser makes for another site is always refused, and so is a request whose Host, Origin or
Sec-Fetch header can be read in two ways.

For handlers and pages: ``request[VIEWER]`` is a ``Viewer`` in every request. Show what changes things if
``viewer.may_change``, and send ``viewer.csrf`` with every change, as the field ``csrf`` of a form or as the header
``X-CSRF-Token`` of a script's request; it is empty where none is needed, and then may be sent all the same.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import structlog
from aiohttp import web
from multidict import MultiMapping

from tocsin.config.model import AuthProxy, HttpConfig
from tocsin.config.tokens import Role, Token, parse_tokens, token_digest
from tocsin.kit.files import DEADLINE_SECONDS, TextFile
from tocsin.kit.proxy import is_loopback
from tocsin.store import Store
from tocsin.store.console import session_key
from tocsin.store.query import is_storable
from tocsin.web.context import CONTEXT, HttpProblem

log = structlog.get_logger(__name__)

_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_DECIDING = ("Host", "Origin", "Authorization", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
# host[:port] of RFC 9110, without the letters that no resolver takes; userinfo and paths have no place in a Host.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LARGEST_FILE = 1 << 20
_LONGEST_NAME = 200
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tocsin"'}
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")  # what a page can send anywhere
COOKIE = "tocsin_session"
SESSION = timedelta(days=7)


class Access(Enum):
    """What a route is, for the rules."""

    OPEN = "open"  # to everyone: probes, and what the login page needs
    STATUS = "status"  # reading that a listener without tokens shows to everyone
    READ = "read"
    CHANGE = "change"
    HOOK = "hook"  # has a secret of its own


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who sent a request. ``csrf`` is what their changes must carry; empty where none is needed.

    ``known``: by a token or a proxy, so that the name is theirs and not only what they say; ``session``: by the cookie
    of ``/login``, so that they can log out.
    """

    name: str
    role: Role
    csrf: str = ""
    known: bool = False
    session: bool = False

    @property
    def may_change(self) -> bool:
        return self.role is Role.OPERATOR


VIEWER = web.RequestKey("viewer", Viewer)
_ANYONE = Viewer("anyone", Role.VIEWER)


class TokenFile:
    """The tokens of one file: a line each, as ``NAME viewer|operator SHA256``, with ``#`` before a comment.

    The file holds digests, never tokens. It is read again when it changes. A line that cannot be understood is skipped
    and logged; a file that cannot be read within ``seconds`` admits nobody, until it can.
    """

    def __init__(self, path: str, seconds: float = DEADLINE_SECONDS) -> None:
        self.path = path
        self._file = TextFile(Path(path), _LARGEST_FILE, seconds=seconds)
        self._tokens: list[Token] = []
        self._text: str | None = None  # what the tokens were parsed from
        self._failed = False

    async def all(self) -> Sequence[Token]:
        await self._read_if_changed()
        return self._tokens

    async def find(self, presented: str) -> Token | None:
        """The token that was presented. Every entry is compared, in constant time."""
        await self._read_if_changed()
        digest = token_digest(presented)
        matching = [token for token in self._tokens if hmac.compare_digest(token.sha256, digest)]
        return matching[-1] if matching else None

    async def _read_if_changed(self) -> None:
        try:
            text = await self._file.wait()
        except OSError as error:  # also when a mount hangs: TimeoutError
            self._tokens, self._text = [], None
            if not self._failed:
                log.error("tokens_file_unreadable", path=self.path, error=str(error))
            self._failed = True
            return
        self._failed = False
        if text == self._text:
            return
        self._tokens, problems = parse_tokens(text)
        self._text = text
        for problem in problems:
            log.error("tokens_file_line_skipped", path=self.path, problem=problem)


class Sessions:
    """Sessions of people who logged in with a token. The cookie names the token and says until when, signed with a key
    of the store: it outlives a restart, holds on every replica, and ends when the token's line leaves the file."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, *parts: str) -> str:
        return hmac.new(self._key, json.dumps(parts).encode(), hashlib.sha256).hexdigest()

    def cookie(self, token: Token, now: datetime) -> str:
        """The cookie of a new session."""
        name, until = token.name.encode().hex(), str(int((now + SESSION).timestamp()))
        return f"{name}.{until}.{self.sign('session', token.name, token.sha256, until)}"

    def read(self, cookie: str, tokens: Sequence[Token], now: datetime) -> Token | None:
        """The token of a session that lasts; None for a cookie that is none of ours or too old."""
        name, _, rest = cookie.partition(".")
        until, _, signature = rest.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 12 and now.timestamp() < int(until)):
            return None
        for token in tokens:
            expected = self.sign("session", token.name, token.sha256, until)
            if token.name.encode().hex() == name and hmac.compare_digest(
                signature.encode("utf-8", "surrogateescape"), expected.encode()
            ):
                return token
        return None


class Gate:
    """The rules for one listener. ``open_to_others`` says that it does not listen on loopback alone."""

    def __init__(self, *, open_to_others: bool) -> None:
        self._open_to_others = open_to_others
        self._file: TokenFile | None = None
        self._sessions: Sessions | None = None

    async def admit(self, request: web.Request, access: Access) -> Viewer:
        """Who asks. Raises ``HttpProblem`` 400, 401 or 403."""
        http = request.app[CONTEXT].config().http
        changes = request.method not in ("GET", "HEAD")
        _refuse_ambiguous(request, http.auth_proxy)
        if changes and access is not Access.HOOK:
            _refuse_other_sites(request, http.external_url)
        if access in (Access.OPEN, Access.HOOK):
            return _ANYONE
        if http.tokens_file is not None or http.auth_proxy is not None:
            viewer = await self._identify(request, http)
            if changes:
                await _require_csrf(request, viewer)
            if access is Access.CHANGE and not viewer.may_change:
                raise HttpProblem(403, "changing things needs an operator")
            return viewer
        if self._open_to_others:
            if access is Access.STATUS:
                return _ANYONE
            raise HttpProblem(403, "only probes, metrics and status are served here until http.tokens_file is set")
        refused = _not_from_loopback(request)
        if access is not Access.CHANGE:
            _require_known_host(request, http.external_url)
        elif refused is not None:
            raise HttpProblem(403, refused)
        return Viewer("loopback", Role.VIEWER if refused else Role.OPERATOR)

    async def find_token(self, http: HttpConfig, presented: str) -> Token | None:
        """The token of the tokens file that was presented."""
        file = self._tokens(http)
        return await file.find(presented) if file and presented else None

    async def sessions(self, store: Store) -> Sessions:
        if self._sessions is None:
            self._sessions = Sessions(await store.write(session_key))
        return self._sessions

    def _tokens(self, http: HttpConfig) -> TokenFile | None:
        if http.tokens_file is None:
            return None
        if self._file is None or self._file.path != http.tokens_file:
            self._file = TokenFile(http.tokens_file)
        return self._file

    async def _identify(self, request: web.Request, http: HttpConfig) -> Viewer:
        context, (scheme, presented) = request.app[CONTEXT], _presented(request)
        if (token := await self.find_token(http, presented)) is not None:
            if scheme == "bearer":
                return Viewer(token.name, token.role, known=True)
            csrf = (await self.sessions(context.store)).sign("basic", token.name)
            return Viewer(token.name, token.role, csrf, known=True)
        if http.auth_proxy is not None and (user := _proxied(request, http.auth_proxy)) is not None:
            csrf = (await self.sessions(context.store)).sign("proxy", user[0])
            return Viewer(*user, csrf, known=True)
        cookie, file = request.cookies.get(COOKIE), self._tokens(http)
        if cookie and not presented and file is not None:
            sessions = await self.sessions(context.store)
            token = sessions.read(cookie, await file.all(), context.clock.now())
            if token is None:
                raise HttpProblem(401, "the session has ended; log in again at /login", _CHALLENGE)
            return Viewer(token.name, token.role, sessions.sign("cookie", cookie), known=True, session=True)
        need = "a token: Authorization: Bearer TOKEN" if file else "to come through the proxy of http.auth_proxy"
        raise HttpProblem(401, f"this needs {need}", _CHALLENGE)


GATE = web.AppKey("gate", Gate)


def _presented(request: web.Request) -> tuple[str, str]:
    """The scheme and token of a Bearer header, or the password of a Basic one, for programs that send no other."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return "bearer", value.strip()
        case "basic":
            try:
                pair = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                pair = ""
            return "basic", pair.partition(":")[2]
        case _:
            return "", ""


def _proxied(request: web.Request, proxy: AuthProxy) -> tuple[str, Role] | None:
    """The name and role of who logged in at the proxy; None for what comes from elsewhere, or names nobody."""
    name = request.headers.get(proxy.user_header, "").strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or not is_storable(name):
        return None
    try:
        address = ipaddress.ip_address(_peer(request).split("%", 1)[0])
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if not any(address in ipaddress.ip_network(network) for network in proxy.trusted):
        return None
    groups = {group.strip() for group in request.headers.get(proxy.groups_header, "").split(",")}
    return name, Role.VIEWER if groups.isdisjoint(proxy.operator_groups) else Role.OPERATOR


async def _require_csrf(request: web.Request, viewer: Viewer) -> None:
    """Raises ``HttpProblem`` 403 for a change that a page of another site may have made in a browser's name: a session's
    without its token, and a form without it; a POST without a type counts as a form, for a page can send it."""
    form = request.method == "POST" and (request.content_type in _FORMS or "Content-Type" not in request.headers)
    if not viewer.csrf or not (viewer.session or form):
        return
    sent = request.headers.get("X-CSRF-Token") or (await read_form(request) if form else {}).get("csrf", "")
    if not hmac.compare_digest(sent.encode("utf-8", "replace"), viewer.csrf.encode()):
        raise HttpProblem(403, "the change does not carry the token of its page; load the page again, and repeat it"
                          + ("" if viewer.session else "; programs send Content-Type: application/json"))  # fmt: skip


async def read_form(request: web.Request) -> MultiMapping[str]:
    """The texts of a form. Raises ``HttpProblem`` 400 for what cannot be read, and for what no row can hold."""
    try:
        form = await request.post()
    except (ValueError, LookupError, RuntimeError):  # an unknown charset, encoding or boundary
        raise HttpProblem(400, "the form cannot be read: its Content-Type does not fit its body") from None
    if not all(isinstance(value, str) and is_storable(value) for value in form.values()):
        raise HttpProblem(400, "the form may hold no file, no NUL and nothing that is not Unicode")
    return form  # type: ignore[return-value] # no files in it


def _refuse_ambiguous(request: web.Request, proxy: AuthProxy | None) -> None:
    """Raises ``HttpProblem`` 400 for headers that two readers may understand differently."""
    for name in (*_DECIDING, *((proxy.user_header, proxy.groups_header) if proxy else ())):
        if len(request.headers.getall(name, ())) > 1:
            raise HttpProblem(400, f"the header {name} stands twice")
    host = request.headers.get("Host", "")
    if host and _HOST.fullmatch(host) is None:
        raise HttpProblem(400, "the header Host is not HOST or HOST:PORT")


def _require_known_host(request: web.Request, external_url: str | None) -> None:
    host = _host(request)
    if not is_loopback(host) and (not host or host != _url(external_url or "").hostname):
        raise HttpProblem(
            403,
            "without http.tokens_file, only requests to a loopback name or to the host of http.external_url are served",
        )


def _peer(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return str(peer[0]) if peer else ""


def _not_from_loopback(request: web.Request) -> str | None:
    """Why a request may not change things where nobody has a token; None if it may."""
    if not is_loopback(_peer(request)):
        return "changes are taken from this machine only until http.tokens_file is set"
    if any(name in request.headers for name in _FORWARDING):
        return "changes are not taken through a proxy until http.tokens_file or http.auth_proxy is set"
    if not is_loopback(_host(request)):
        return "changes need a Host of this machine until http.tokens_file is set"
    return None


def _refuse_other_sites(request: web.Request, external_url: str | None) -> None:
    """A browser adds these headers to what a page of another site makes it send; a Bearer token it cannot add."""
    if request.headers.get("Authorization", "").lower().startswith("bearer "):
        return
    if request.headers.get("Sec-Fetch-Site", "none").lower() not in ("same-origin", "none"):
        raise HttpProblem(403, "changes are not taken from pages of other sites")
    origin = request.headers.get("Origin")
    own = {request.headers.get("Host", "").lower(), _url(external_url or "").netloc.lower()} - {""}
    if origin is not None and _url(origin).netloc.lower() not in own:
        raise HttpProblem(403, "changes are not taken from pages of other sites")


def _host(request: web.Request) -> str:
    """The name or address of the Host header, without its port; empty where there is none."""
    match = _HOST.fullmatch(request.headers.get("Host", ""))
    return match[1].strip("[]").lower() if match else ""


def _url(text: str) -> SplitResult:
    """The parts of a URL; all empty for what is none."""
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")
