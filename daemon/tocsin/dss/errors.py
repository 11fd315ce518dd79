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
    └── DSSRunFailed          a run that did not end with SUCCESS

Each class has its ``sentence`` for people; what is known stands in attributes. No message holds a secret: addresses
are shown without query, user and password, and what the server said is clean text (``kit.texts``).
"""

from typing import TYPE_CHECKING, ClassVar

from tocsin.kit.texts import storable

if TYPE_CHECKING:
    from tocsin.dss.run import DSSScenarioRun

BODY_SHOWN = 200
"""How many characters of a reply an error keeps."""
_REASON = 1_000


class DSSError(Exception):
    """DSS could not do what was asked."""

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
        self.reason = storable(reason, _REASON)
        self.operation = operation
        """The request's stable name, as ``get_last_runs``; empty where no single request is to blame."""
        self.url = url
        self.status = status
        """The HTTP status; None if there was no answer."""
        self.error_type = storable(error_type, BODY_SHOWN) if error_type else None
        """DSS's own error class. None also where a proxy answered in DSS's place."""
        self.body = storable(body, BODY_SHOWN)
        """The first 200 characters of the reply, for people."""
        self.transient = transient
        """Whether the same request may well succeed in a moment."""

    def __str__(self) -> str:
        facts = [self.operation, "" if self.status is None else f"HTTP {self.status}", self.error_type or ""]
        told = ", ".join(fact for fact in facts if fact)
        return f"{self.sentence}{f' ({told})' if told else ''}{f': {self.reason}' if self.reason else ''}"


class DSSUnreachable(DSSError):
    """DSS did not answer."""

    sentence = "DSS did not answer"

    def __init__(self, reason: str, *, timed_out: bool = False, operation: str = "", url: str = "") -> None:
        super().__init__(reason, operation=operation, url=url, transient=True)
        self.timed_out = timed_out


class DSSInvalidReply(DSSError):
    """The reply makes no sense for a DSS."""

    sentence = "The reply makes no sense for a DSS"


class DSSReplyTooLarge(DSSInvalidReply):
    """The reply holds more than is read."""

    sentence = "The reply holds more than is read"


class DSSUnauthorized(DSSError):
    """DSS does not know the credentials."""

    sentence = "DSS does not know the credentials"


class DSSForbidden(DSSError):
    """The credentials do not allow this."""

    sentence = "The credentials do not allow this"


class DSSNotFound(DSSError):
    """No such object in DSS."""

    sentence = "No such object in DSS"


class DSSThrottled(DSSError):
    """DSS asks to be asked less often."""

    sentence = "DSS asks to be asked less often"

    retry_after: float | None = None
    """Seconds to wait as the server said; None if it did not."""


class DSSRefused(DSSError):
    """DSS refused the request."""

    sentence = "DSS refused the request"


class DSSServerError(DSSError):
    """DSS failed at the request."""

    sentence = "DSS failed at the request"
    denied: bool = False
    """Whether DSS says, in its words, that this is not allowed: it answers 500 for that, too."""


class DSSConflict(DSSError):
    """Somebody else changed the definition since it was read."""

    sentence = "Somebody else changed the definition since it was read"

    def __init__(self, reason: str, *, changed_by: str | None, operation: str = "") -> None:
        super().__init__(reason, operation=operation)
        self.changed_by = changed_by
        """Login of the last modifier, if the definition says."""


class DSSWaitTimeout(DSSError):
    """What was waited for did not happen in time."""

    sentence = "What was waited for did not happen in time"


class DSSRunCancelled(DSSError):
    """The trigger fire was cancelled, so that no run will come of it."""

    sentence = "The trigger fire was cancelled, so that no run will come of it"


class DSSRunFailed(DSSError):
    """The run did not end with SUCCESS."""

    sentence = "The run did not end with SUCCESS"

    def __init__(self, run: "DSSScenarioRun", outcome: str) -> None:
        super().__init__(f"run {run.id} of {run.project_key}/{run.scenario_id} ended with {outcome}")
        self.run = run
        self.outcome = outcome
