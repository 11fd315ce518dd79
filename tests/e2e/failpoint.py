"""``python -m tests.e2e.failpoint N VERB …``: Tocsin, killed with -9 at the N-th fail point of its writing.

A fail point lies before each statement that is not only read, after each, before each commit and right after it: all
the places between which a crash could part what belongs together. The product knows nothing of this; SQLAlchemy tells.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from itertools import count

from sqlalchemy import Engine, Pool, event

from tocsin.cli import main


def arm(fatal: int) -> None:
    """Die at fail point ``fatal``, counted from 1, with one line that says where."""
    numbers: Iterator[int] = count(1)

    def reached(where: str) -> None:
        if threading.current_thread().name.startswith("tocsin-store-reader"):
            return
        if next(numbers) == fatal:
            os.write(2, f"failpoint {fatal}: {' '.join(where.split())[:100]}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(Engine, "before_cursor_execute")
    def _before(*told: object) -> None:
        reached(f"before {told[2]}")

    @event.listens_for(Engine, "after_cursor_execute")
    def _after(*told: object) -> None:
        reached(f"after {told[2]}")

    @event.listens_for(Engine, "commit")
    def _commit(*told: object) -> None:
        reached("before COMMIT")

    @event.listens_for(Pool, "checkin")
    def _committed(*told: object) -> None:
        reached("after COMMIT")


if __name__ == "__main__":
    arm(int(sys.argv.pop(1)))
    main()
