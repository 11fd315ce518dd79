"""What an error of DSS is to people, in one line, and to scripts, as an exit code."""

from tocsin.cli.exits import NO, NOT_ALLOWED, UNREACHABLE, one_line
from tocsin.dss import errors as dss


def told(error: dss.DSSError) -> str:
    """What is wrong, and where if that helps."""
    place = f" at {error.url}" if error.url and isinstance(error, dss.DSSUnreachable | dss.DSSInvalidReply) else ""
    reason = one_line(error.reason)
    return f"{error.sentence}{place}{f': {reason}' if reason else ''}"


def exit_code(error: dss.DSSError) -> int:
    match error:
        case dss.DSSUnreachable() | dss.DSSInvalidReply() | dss.DSSThrottled():
            return UNREACHABLE
        case dss.DSSUnauthorized() | dss.DSSForbidden():
            return NOT_ALLOWED
        case dss.DSSServerError() if error.transient:
            return UNREACHABLE
        case dss.DSSServerError():
            return NOT_ALLOWED if error.denied else NO
        case _:
            return NO
