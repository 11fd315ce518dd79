"""What the sender asks of a kind of channel."""

from dataclasses import dataclass, field
from typing import Protocol

from tocsin.config.model import Config
from tocsin.deliver.context import Facts
from tocsin.deliver.verdict import SendResult
from tocsin.model.notification import Notification


@dataclass(frozen=True, slots=True)
class Parcel:
    """One notification with all that its words are made of."""

    notification: Notification
    config: Config
    facts: Facts = field(default_factory=Facts)


class Transport(Protocol):
    """The way to one channel's receiver."""

    @property
    def concurrency(self) -> int:
        """How many sends may be on their way at once."""
        ...

    async def send(self, parcel: Parcel) -> SendResult:
        """Send once and say how it ended; expected failures are verdicts, not errors.

        It ends by itself within twice the channel's ``timeout``, or may stay behind in a thread; the sender stops waiting for it
        then, and takes a later success as a late receipt.
        """
        ...

    async def close(self) -> None:
        """Let connections go. Sends still on their way are not waited for."""
        ...
