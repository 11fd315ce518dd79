"""The transport that a channel's settings ask for."""

from collections.abc import Callable

from tocsin.deliver.transport import Transport
from tocsin.deliver.webhook import Webhook
from tocsin.kit.clock import Clock
from tocsin.model.config import Channel


def connector(clock: Clock) -> Callable[[Channel], Transport]:
    """How the sender makes transports. Nothing is connected or loaded before the first send."""

    def connect(channel: Channel) -> Transport:
        return Webhook(channel, clock)

    return connect
