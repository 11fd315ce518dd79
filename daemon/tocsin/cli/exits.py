"""How verbs end: the exit codes, and one clear line on standard error for what goes wrong."""

import sys
from typing import NoReturn

DONE = 0
NO = 1  # the answer is no: check failed, run FAILED, expectation unmet; or nothing could be started
USAGE = 2
UNREACHABLE = 3  # cannot reach DSS or the daemon
NOT_ALLOWED = 4


class Failure(Exception):
    """A verb cannot go on; the text is what the user is told."""

    def __init__(self, message: str, code: int = NO) -> None:
        super().__init__(message)
        self.code = code


def tell(message: str) -> None:
    """A line for people, beside what scripts read."""
    print(f"tocsin: {message}", file=sys.stderr)


def fail(message: str, code: int = NO) -> NoReturn:
    """Tell ``message`` and leave with ``code``."""
    tell(message)
    raise SystemExit(code)


def one_line(text: str) -> str:
    """Text from elsewhere, without what could move a terminal's cursor."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
