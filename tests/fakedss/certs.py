"""Certificates for 127.0.0.1 and localhost, made on the fly by the ``openssl`` command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_CONFIG = """
[ca]
default_ca = here
[here]
new_certs_dir = .
database = index.txt
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
[req]
distinguished_name = name
req_extensions = alternatives
prompt = no
[name]
CN = %s
[alternatives]
subjectAltName = IP:127.0.0.1,DNS:localhost
basicConstraints = critical,CA:TRUE
keyUsage = critical,digitalSignature,keyCertSign
subjectKeyIdentifier = hash
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate; ``cert_file`` is also the CA file that a client trusts."""

    cert_file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Connections that come from now on are shown this certificate."""
        context.load_cert_chain(self.cert_file, self.key_file)


def make_certificate(folder: Path, name: str = "server", *, expired: bool = False) -> Certificate:
    """Write ``name``.pem and its key into ``folder``; an expired one ended a day ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.cnf").write_text(_CONFIG % name)
    (folder / "index.txt").write_text("")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    end = datetime.now(UTC) + (timedelta(days=-1) if expired else timedelta(days=30))
    begin = end - timedelta(days=60)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(made.key_file)]
    _openssl(folder, "req", "-new", "-config", "ca.cnf", *key, "-out", "request.pem")
    span = ["-startdate", f"{begin:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}"]
    signed = ["-selfsign", "-keyfile", str(made.key_file), "-in", "request.pem", "-out", str(made.cert_file)]
    _openssl(folder, "ca", "-batch", "-notext", "-config", "ca.cnf", *signed, *span)
    return made


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)
