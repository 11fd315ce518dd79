"""What can go wrong with DSS, as one tree.

    DSSError                  anything below
    ├── DSSUnreachable        no answer: network, timeout, TLS            transient
    ├── DSSInvalidReply       an answer that is not DSS's
    │   └── DSSReplyTooLarge  or holds more than is read
    ├── DSSUnauthorized       401, or the secret cannot be used
    ├── DSSForbidden          403
    ├── DSSNotFound           404, or an error of DSS that says so
    ├── DSSThrottled          429                                         transient
    ├── DSSRefused            any other 4xx                               transient for 408 and 425
    ├── DSSServerError        any other 5xx                               see ``transient``
    ├── DSSConflict           the definition changed between read and save
    ├── DSSWaitTimeout        a wait took longer than its timeout
    ├── DSSRunCancelled       a trigger fire that will never become a run
    └── DSSRunFailed          a run that did not end with SUCCESS (in ``run``)

Each class has its ``sentence`` for people; what is known stands in attributes. No message holds a secret: addresses
are shown without query, user and password, and what the server said is clean text (``kit.strings``).
"""

from typing import ClassVar

from tocsin.kit.strings import storable

BODY_SHOWN = 200  # characters of a reply that an error keeps


class DSSError(Exception):
    """The base of all: DSS could not do what was asked."""

    sentence: ClassVar[str] = "DSS could not do what was asked"

    def __init__(
        self,
        reason: str = "",
        *,
        operation: str = "",
        url: str = "",
        status: int | None = None,
        error_type: str | None = None,
        body: str = "",
        transient: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = storable(reason, 1_000)
        self.operation = operation
        """As ``get_last_runs``; empty where no single request is to blame."""
        self.url = url
        self.status = status
        self.error_type = storable(error_type, BODY_SHOWN) if error_type else None
        """DSS's own error class. None also where a proxy answered in DSS's place."""
        self.body = storable(body, BODY_SHOWN)
        self.transient = transient
        """Whether the same request may well succeed in a moment."""

    def __str__(self) -> str:
        facts = [self.operation, "" if self.status is None else f"HTTP {self.status}", self.error_type or ""]
        known = ", ".join(filter(None, facts))
        return f"{self.sentence}{f' ({known})' if known else ''}{f': {self.reason}' if self.reason else ''}"


class DSSUnreachable(DSSError):
    sentence = "DSS did not answer"

    def __init__(self, reason: str, *, timed_out: bool = False, operation: str = "", url: str = "") -> None:
        super().__init__(reason, operation=operation, url=url, transient=True)
        self.timed_out = timed_out


class DSSInvalidReply(DSSError):
    sentence = "The reply makes no sense for a DSS"


class DSSReplyTooLarge(DSSInvalidReply):
    sentence = "The reply holds more than is read"


class DSSUnauthorized(DSSError):
    sentence = "DSS does not know the credentials"


class DSSForbidden(DSSError):
    sentence = "The credentials do not allow this"


class DSSNotFound(DSSError):
    sentence = "No such object in DSS"


class DSSThrottled(DSSError):
    sentence = "DSS asks to be asked less often"
    retry_after: float | None = None
    """Seconds to wait as the server said; None if it did not."""


class DSSRefused(DSSError):
    sentence = "DSS refused the request"


class DSSServerError(DSSError):
    sentence = "DSS failed at the request"
    denied: bool = False
    """Whether DSS says, in its words, that this is not allowed: it answers 500 for that, too."""


class DSSConflict(DSSError):
    sentence = "Somebody else changed the definition since it was read"

    def __init__(self, reason: str, *, changed_by: str | None, operation: str = "") -> None:
        super().__init__(reason, operation=operation)
        self.changed_by = changed_by
        """Login of the last modifier, if the definition says."""


class DSSWaitTimeout(DSSError):
    sentence = "What was waited for did not happen in time"


class DSSRunCancelled(DSSError):
    sentence = "The trigger fire was cancelled, so that no run will come of it"
