"""What proves who we are and who DSS is: secrets and certificates, both of which rotate.

A secret is a string, or a callable that is asked before each request, so that a rotated one serves at once; it may
be a coroutine function.
Certificate files are looked at before each request and read again when they have changed.
"""

import base64
import inspect
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tocsin.kit.files import SingleFlight, Version, version
from tocsin.kit.mask import mask_tokens

Secret = str | Callable[[], str | Awaitable[str]]


class BadCredentials(Exception):
    """A secret or a certificate cannot be used; the text says why, without the secret."""


class AuthKind(Enum):
    """How a secret travels."""

    API_KEY = "api_key"  # Basic, with the key as user name and no password
    BEARER = "bearer"
    TICKET = "ticket"  # DSS's internal ticket, in a header of its own


@dataclass(frozen=True, slots=True)
class Auth:
    """A secret and how it travels."""

    kind: AuthKind
    secret: Secret = field(repr=False)

    async def reveal(self) -> str:
        """The secret as it is now. Raises ``BadCredentials``."""
        try:
            secret = self.secret if isinstance(self.secret, str) else self.secret()
            return (await secret if inspect.isawaitable(secret) else secret).strip()
        except (OSError, ValueError) as error:
            raise BadCredentials(f"the secret cannot be read: {type(error).__name__}") from error

    def sent_in(self, headers: Mapping[str, str]) -> str:
        """The secret that these headers, made from ``header``, carry."""
        if self.kind is AuthKind.TICKET:
            return headers["X-DKU-APITicket"]
        value = headers["Authorization"].partition(" ")[2]
        return value if self.kind is AuthKind.BEARER else base64.b64decode(value).decode().removesuffix(":")

    async def header(self) -> tuple[str, str]:
        """Name and value of the header for the next request. Raises ``BadCredentials``."""
        secret = await self.reveal()
        if not secret:
            raise BadCredentials("the secret is empty")
        if self.kind is AuthKind.API_KEY:
            return "Authorization", "Basic " + base64.b64encode(f"{secret}:".encode()).decode()
        if not (secret.isascii() and secret.isprintable()):
            raise BadCredentials("the secret holds characters that no HTTP header can carry")
        if self.kind is AuthKind.BEARER:
            return "Authorization", f"Bearer {secret}"
        return "X-DKU-APITicket", secret


@dataclass(frozen=True, slots=True)
class TLS:
    """How to trust DSS and, with a client certificate, how DSS trusts us. Paths of PEM files."""

    verify: bool = True
    ca_file: str | None = None  # instead of the system's authorities
    client_cert_file: str | None = None
    client_key_file: str | None = None  # None: the key stands in the certificate's file


class TLSContexts:
    """The SSL context for the files as they are now."""

    def __init__(self, tls: TLS) -> None:
        self._tls = tls
        self._files = [f for f in (tls.ca_file, tls.client_cert_file, tls.client_key_file) if f]
        self._seen: list[Version] | None = None
        self._context: ssl.SSLContext | bool = tls.verify  # what aiohttp takes for "default" and "unchecked"
        self._reading = SingleFlight(self._read, "reading the TLS files")

    async def current(self) -> ssl.SSLContext | bool:
        """Read the files again if they changed. A pair that is only half written, or that cannot be read in time,
        leaves the former context in force until it fits. Raises ``BadCredentials`` if there was none."""
        if self._files:
            try:
                await self._reading.wait()
            except (OSError, ValueError) as error:  # ssl.SSLError and TimeoutError are OSErrors
                if self._seen is None:
                    raise BadCredentials(f"TLS files: {mask_tokens(str(error))}") from error
        return self._context

    def _read(self) -> None:
        seen = [version(os.stat(file)) for file in self._files]
        if seen != self._seen:
            self._context = _context(self._tls)
            self._seen = seen


def _context(tls: TLS) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.client_cert_file:
        # Without a password callback OpenSSL would ask for one on the terminal.
        context.load_cert_chain(tls.client_cert_file, tls.client_key_file, password=lambda: "")
    return context
