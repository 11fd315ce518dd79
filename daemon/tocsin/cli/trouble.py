"""What went wrong, as one line for people and an exit code for scripts."""

from typing import TYPE_CHECKING

from tocsin.cli.exits import NO, NOT_ALLOWED, UNREACHABLE

if TYPE_CHECKING:
    from tocsin.dss import DSSError

_NOT_ALLOWED = ("not allowed", "not authorized", "unauthorized", "forbidden", "permission", "denied")


class Failure(Exception):
    """A verb cannot go on; the text is what the user is told."""

    def __init__(self, message: str, code: int = NO) -> None:
        super().__init__(message)
        self.code = code


def told(error: "DSSError") -> str:
    """One line: what is wrong, and where if that helps."""
    from tocsin.dss import DSSInvalidReply, DSSUnreachable

    sentence = (type(error).__doc__ or "").split("\n")[0].rstrip(".")
    place = f" at {error.url}" if error.url and isinstance(error, DSSUnreachable | DSSInvalidReply) else ""
    reason = one_line(error.reason)
    return f"{sentence}{place}{f': {reason}' if reason else ''}"


def one_line(text: str) -> str:
    """Text from elsewhere, without what could move a terminal's cursor."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


def exit_code(error: "DSSError") -> int:
    """What an error of DSS means to a script."""
    from tocsin import dss

    match error:
        case dss.DSSUnreachable() | dss.DSSInvalidReply() | dss.DSSThrottled():
            return UNREACHABLE
        case dss.DSSUnauthorized() | dss.DSSForbidden():
            return NOT_ALLOWED
        case dss.DSSServerError() if error.transient:
            return UNREACHABLE
        case dss.DSSServerError():  # DSS also says 500 for what is not allowed
            return NOT_ALLOWED if any(word in error.reason.lower() for word in _NOT_ALLOWED) else NO
        case _:
            return NO
