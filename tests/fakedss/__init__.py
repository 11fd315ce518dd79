"""A faked DSS, sinks for notifications and the daemon as a process: what tests of the whole stand on.

Written from the wire facts alone, and apart from the product's client and emulator, so that it can witness
against both.
"""

from tests.fakedss.answers import Answer
from tests.fakedss.api import Dialect
from tests.fakedss.certs import Certificate, make_certificate
from tests.fakedss.ledger import Differences, Ledger, Run
from tests.fakedss.load import Life, between
from tests.fakedss.process import DaemonProcess, config_for, eventually, free_port, node
from tests.fakedss.server import FakeDSS
from tests.fakedss.sinks import Mail, Post, SlackSink, SmtpSink, WebhookSink
from tests.fakedss.world import Scenario, World

__all__ = [
    "Answer",
    "Certificate",
    "DaemonProcess",
    "Dialect",
    "Differences",
    "FakeDSS",
    "Ledger",
    "Life",
    "Mail",
    "Post",
    "Run",
    "Scenario",
    "SlackSink",
    "SmtpSink",
    "WebhookSink",
    "World",
    "between",
    "config_for",
    "eventually",
    "free_port",
    "make_certificate",
    "node",
]
