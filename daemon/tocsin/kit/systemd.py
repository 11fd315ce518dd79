"""Telling systemd how a service does (``Type=notify`` and its watchdog); without systemd nothing happens. Source:
``sd_notify(3)``."""

import os
import socket


def notify(state: str) -> bool:
    """Tell systemd, as ``READY=1`` or ``WATCHDOG=1``; whether it listens. Never blocks, never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")  # noqa: TID251 - of the service manager, no setting
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as unix:
        try:
            unix.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return False
    return True


def watchdog_seconds() -> float | None:
    """How often ``WATCHDOG=1`` must come; None where this process is not watched."""
    usec, pid = (os.environ.get(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))  # noqa: TID251 - as above
    if not usec.isdecimal() or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1e6
