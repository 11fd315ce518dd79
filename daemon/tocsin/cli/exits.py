"""Exit codes, and the one place that prints a failure: one clear line on standard error."""

import sys
from typing import NoReturn

DONE = 0
NO = 1  # the answer is no: check failed, run FAILED, expectation unmet; or nothing could be started
USAGE = 2
UNREACHABLE = 3  # cannot reach DSS or the daemon
NOT_ALLOWED = 4


def fail(message: str, code: int = NO) -> NoReturn:
    """Print ``tocsin: message`` and leave with ``code``."""
    print(f"tocsin: {message}", file=sys.stderr)
    raise SystemExit(code)
