"""``python -m tests.e2e.failpoint WHERE VERB …``: Tocsin, killed with -9 at a fail point of its writing.

``WHERE`` is the number of the point, or regular expressions joined by ``;``: the first point that the last of them
matches, once the others have matched points before it in their order. A fail point lies before each statement that is not only read, after each, before each commit and right after it: all
the places between which a crash could part what belongs together. The product knows nothing of this; SQLAlchemy tells.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from itertools import count

from sqlalchemy import Engine, Pool, event

from tocsin.cli import main


def chosen(where: str) -> Callable[[str], bool]:
    """Whether a point is the fatal one; to be asked of each point in turn."""
    if where.isdigit():
        numbers = count(1)
        return lambda _point: next(numbers) == int(where)
    left = [re.compile(part.strip()) for part in where.split(";")]

    def follows(point: str) -> bool:
        if left and left[0].match(point):
            del left[0]
            return not left
        return False

    return follows


def arm(where: str) -> None:
    """Die at that fail point, with one line that says where it was."""
    fatal = chosen(where)

    def reached(point: str) -> None:
        if threading.current_thread().name.startswith("tocsin-store-reader"):
            return
        if fatal(" ".join(point.split())):
            os.write(2, f"failpoint {where}: {' '.join(point.split())[:100]}\n".encode())
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
    arm(sys.argv.pop(1))
    main()
