"""Whether a server can be reached, with nothing sent to it: its name, its port, TLS; and what a Slack token may do."""

import json
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, NamedTuple

import aiohttp
from yarl import URL

from tocsin.config.model import Channel, SlackConfig, Tls
from tocsin.deliver.native import JsonClient
from tocsin.deliver.result import PERMANENT_ERRORS, Cause
from tocsin.deliver.webhook import ssl_context
from tocsin.kit.clock import Clock
from tocsin.kit.strings import storable

_SLACK_SCOPE = "chat:write"
_SOON = 14 * 86_400  # seconds before a certificate ends


class Server(NamedTuple):
    host: str
    port: int
    tls: Literal["", "tls", "starttls"] = ""

    @classmethod
    def of_url(cls, text: str) -> "Server":
        url = URL(text)
        return cls(url.host or "", url.port or 0, "tls" if url.scheme == "https" else "")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a question to a real part came to; ``remedy`` says what to mend."""

    check: str
    result: Literal["ok", "warning", "failed", "skipped"]
    note: str
    remedy: str = ""


def reach(server: Server, tls: Tls, proxy: str | None, now: float, seconds: float = 5.0) -> Iterator[CheckResult]:
    """The results for a server, or for the proxy before it; the last one is not ok where it cannot be reached. Blocks.
    ``now`` is epoch seconds."""
    target = server
    if proxy:
        target = Server.of_url(proxy if "://" in proxy else f"http://{proxy}")._replace(tls="")
        way = f"; reached through the proxy {target.host}:{target.port}"
        remedy = "correct proxy or HTTP(S)_PROXY, or name the host in NO_PROXY to go without the proxy"
    else:
        way, remedy = "", "check host and port, whether the server runs, and the firewalls between"
    try:
        socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        hint = "check the spelling of the host, and the DNS of this machine"
        yield CheckResult("name", "failed", f"{target.host}: {why}{way}", remedy if proxy else hint)
        return
    try:
        connection = socket.create_connection((target.host, target.port), timeout=seconds)
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or error
        yield CheckResult("port", "failed", f"{target.host}:{target.port}: {why}{way}", remedy)
        return
    yield CheckResult("port", "ok", f"{server.host}:{server.port}{way}")
    with closing(connection):
        if server.tls and not proxy:
            yield _try_tls(connection, server, tls, now, seconds)


def _try_tls(connection: socket.socket, server: Server, tls: Tls, now: float, seconds: float) -> CheckResult:
    try:
        context = ssl_context(tls)
    except OSError as error:
        return CheckResult("tls", "failed", f"the TLS files: {error.strerror or error}", "correct the files under tls")
    try:
        if server.tls == "starttls":
            with smtplib.SMTP(server.host, server.port, timeout=seconds) as smtp:
                smtp.starttls(context=context)
                certificate = smtp.sock.getpeercert()  # type: ignore[union-attr] # connected
        else:
            with context.wrap_socket(connection, server_hostname=server.host) as secured:
                certificate = secured.getpeercert()
    except ssl.SSLCertVerificationError as error:
        return CheckResult("tls", "failed", error.verify_message, _certificate_remedy(error.verify_code, server.host))
    except ssl.SSLError as error:
        note = f"the port does not speak TLS as it should: {(error.reason or 'no handshake').replace('_', ' ').lower()}"
        remedy = "write http:// if the server has no TLS, or take the port that has"
        return CheckResult("tls", "failed", note, remedy)
    except (OSError, smtplib.SMTPException) as error:
        remedy = "check that the port is the one with TLS"
        return CheckResult("tls", "failed", f"no TLS handshake: {storable(str(error), 200)}", remedy)
    if not certificate:
        note = "any certificate is taken, since tls.verify is false"
        return CheckResult("tls", "warning", note, "set tls.ca_file in place of tls.verify: false")
    left = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - now
    note = f"the certificate is valid for {left / 86_400:.0f} days more"
    return CheckResult(
        "tls", "ok" if left > _SOON else "warning", note, "" if left > _SOON else "renew the certificate"
    )


_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_… of OpenSSL
_OTHER_NAME = (62, 64)


def _certificate_remedy(code: int, host: str) -> str:
    if code == _EXPIRED:
        return f"renew the certificate of {host}; until then only tls.verify: false takes it"
    if code == _NOT_YET:
        return f"set the clock of this machine, or use a certificate of {host} that is valid today"
    if code in _OTHER_NAME:
        return "write the host as the certificate names it"
    return f"set tls.ca_file to the certificate of the authority that signed {host}'s"


async def slack_scopes(channel: Channel, slack: SlackConfig, clock: Clock) -> CheckResult:
    """Ask Slack what the token may do; no message is sent."""
    try:
        token = (await slack.token.read()).strip() if slack.token else ""
    except OSError as error:
        return CheckResult("token", "failed", f"cannot be read: {error.strerror or error}", "correct slack.token_file")
    client = JsonClient(channel, clock)
    try:
        url = f"{slack.api_url.rstrip('/')}/auth.test"
        answer = await client.request("POST", url, {"Authorization": f"Bearer {token}"}, {})
        document = json.loads(answer.body)
    except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
        note = f"only Slack can tell what the token may do, and it did not: {type(error).__name__}"
        return CheckResult("token", "skipped", note, "run doctor again where Slack can be reached")
    finally:
        await client.close()
    if not isinstance(document, dict) or document.get("ok") is not True:
        error_code = str(document.get("error")) if isinstance(document, dict) else f"HTTP {answer.status}"
        remedy = str(PERMANENT_ERRORS.get(error_code, Cause.RECEIVER))
        return CheckResult("token", "failed", f"Slack answers {storable(error_code, 100)}", remedy)
    scopes = {scope.strip() for scope in answer.headers.get("X-OAuth-Scopes", "").split(",")} - {""}
    if scopes and _SLACK_SCOPE not in scopes:
        remedy = f"add the bot scope {_SLACK_SCOPE} under OAuth & Permissions, and install the app again"
        return CheckResult("token", "failed", f"the token lacks the scope {_SLACK_SCOPE}", remedy)
    return CheckResult("token", "ok", f"of {document.get('user')} in {document.get('team')}")
