"""Who may do what.

With a tokens file, reading needs a viewer's token and changing an operator's. Without one, a listener that others can
reach serves probes, metrics and status only; one on loopback serves requests whose Host is a loopback name or the host
of ``http.external_url``, so that a page whose name an attacker resolves to 127.0.0.1 (DNS rebinding) reads nothing, and
a change needs a loopback peer, a loopback Host and no proxy in between. A change that a browser makes for another site
is always refused, and so is a request whose Host, Origin or Sec-Fetch header can be read in two ways.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import structlog
from aiohttp import web

from tocsin.config.model import HttpConfig
from tocsin.kit.files import DEADLINE_SECONDS, TextFile
from tocsin.web.context import HttpProblem

log = structlog.get_logger(__name__)

_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_DECIDING = ("Host", "Origin", "Authorization", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
# host[:port] of RFC 9110, without the letters that no resolver takes; userinfo and paths have no place in a Host.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LARGEST_FILE = 1 << 20
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tocsin", Basic realm="tocsin", charset="UTF-8"'}


class Access(Enum):
    """What a route is, for the rules."""

    PROBE = "probe"  # always open: those who ask whether the process lives have no token
    STATUS = "status"  # reading that a listener without tokens shows to everyone
    READ = "read"
    CHANGE = "change"
    HOOK = "hook"  # has a secret of its own


class Role(StrEnum):
    """What a token allows: a viewer reads, an operator may change things too."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    role: Role
    sha256: str


def make_token(name: str, role: Role) -> tuple[str, str]:
    """A new token, and its line of the tokens file."""
    secret = "tocsin_" + secrets.token_urlsafe(32)
    return secret, f"{name} {role.value} {_digest(secret)}"


def parse_tokens(text: str) -> tuple[list[Token], list[str]]:
    """The tokens of a file's text, and a sentence for each line that is not one."""
    tokens, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) != 3 or fields[1] not in list(Role) or not _DIGEST.fullmatch(fields[2]):
            problems.append(f"line {number} is not NAME viewer|operator SHA256")
            continue
        tokens.append(Token(fields[0], Role(fields[1]), fields[2].lower()))
    return tokens, problems


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

    async def find(self, presented: str) -> Token | None:
        """The token that was presented. Every entry is compared, in constant time."""
        await self._read_if_changed()
        digest = _digest(presented)
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


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Gate:
    """The rules for one listener. ``open_to_others`` says that it does not listen on loopback alone."""

    def __init__(self, *, open_to_others: bool) -> None:
        self._open_to_others = open_to_others
        self._file: TokenFile | None = None

    async def admit(self, request: web.Request, access: Access, http: HttpConfig) -> str:
        """Who asks, for the log and for what they change. Raises ``HttpProblem`` 400, 401 or 403."""
        _refuse_ambiguous(request)
        if access is Access.CHANGE:
            _refuse_other_sites(request)
        if access in (Access.PROBE, Access.HOOK):
            return "anyone"
        if http.tokens_file is not None:
            return await self._by_token(request, access, http.tokens_file)
        if self._open_to_others:
            if access is Access.STATUS:
                return "anyone"
            raise HttpProblem(403, "only probes, metrics and status are served here until http.tokens_file is set")
        if access is Access.CHANGE:
            _require_loopback(request)
        else:
            _require_known_host(request, http.external_url)
        return "loopback"

    async def _by_token(self, request: web.Request, access: Access, path: str) -> str:
        if self._file is None or self._file.path != path:
            self._file = TokenFile(path)
        presented = _presented(request)
        token = await self._file.find(presented) if presented else None
        if token is None:
            raise HttpProblem(401, "this needs a token: Authorization: Bearer TOKEN", _CHALLENGE)
        if access is Access.CHANGE and token.role is not Role.OPERATOR:
            raise HttpProblem(403, "changing things needs an operator's token")
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


def _refuse_ambiguous(request: web.Request) -> None:
    """Raises ``HttpProblem`` 400 for headers that two readers may understand differently."""
    for name in _DECIDING:
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


def _require_loopback(request: web.Request) -> None:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer or not is_loopback(peer[0]):
        raise HttpProblem(403, "changes are taken from this machine only until http.tokens_file is set")
    if any(name in request.headers for name in _FORWARDING):
        raise HttpProblem(403, "changes are not taken through a proxy until http.tokens_file is set")
    if not is_loopback(_host(request)):
        raise HttpProblem(403, "changes need a Host of this machine until http.tokens_file is set")


def _refuse_other_sites(request: web.Request) -> None:
    """A browser adds these headers to what a page of another site makes it send; a Bearer token it cannot add."""
    if request.headers.get("Authorization", "").lower().startswith("bearer "):
        return
    if request.headers.get("Sec-Fetch-Site", "none").lower() not in ("same-origin", "none"):
        raise HttpProblem(403, "changes are not taken from pages of other sites")
    origin = request.headers.get("Origin")
    if origin is not None and _url(origin).netloc.lower() != request.headers.get("Host", "").lower():
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
