"""The transport that a channel's settings ask for."""

from collections.abc import Callable

from tocsin.config.model import Channel
from tocsin.deliver.blocking import AppriseTransport
from tocsin.deliver.transport import Transport
from tocsin.deliver.webhook import Webhook
from tocsin.kit.clock import Clock


def connector(clock: Clock, *, slack_url: str | None = None) -> Callable[[Channel], Transport]:
    """How the sender makes transports. Nothing is connected or loaded before the first send.

    ``slack_url`` stands for ``https://hooks.slack.com/services`` in ``slack://`` webhooks, for a local inbox.
    """

    def connect(channel: Channel) -> Transport:
        if channel.webhook is not None:
            return Webhook(channel, clock)
        return AppriseTransport(channel, clock, slack_url)

    return connect


def check_channel_url(url: str) -> str | None:
    """Why apprise cannot use this URL, in one line without secrets; None when it can.

    Loads apprise, half a second once: not on a loop.
    """
    from tocsin.deliver.apprise_channel import check_channel_url  # noqa: PLC0415 - see above

    return check_channel_url(url)


def unreadable_recipients(url: str) -> tuple[str, ...]:
    """What is wrong with those recipients of a mail URL that would not get what the others do. Loads apprise."""
    from tocsin.deliver.apprise_channel import unreadable_recipients  # noqa: PLC0415 - half a second

    return unreadable_recipients(url)
