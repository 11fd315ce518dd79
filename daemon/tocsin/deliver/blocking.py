"""Channels whose library blocks: the asynchronous half, which gives each send to one of the channel's own threads.

The library is loaded by the first thread that needs it, since loading takes long.
"""

import threading
from functools import partial
from typing import TYPE_CHECKING

from tocsin.config.model import Channel
from tocsin.deliver.threads import DaemonThreads, TooManyHang
from tocsin.deliver.transport import Parcel
from tocsin.deliver.verdict import SendResult, failed
from tocsin.kit.clock import Clock

if TYPE_CHECKING:
    from tocsin.deliver.apprise_channel import Way


class AppriseTransport:
    """The transport of one apprise channel. ``slack_url`` leads ``slack://`` webhooks elsewhere: for demonstrations."""

    def __init__(self, channel: Channel, clock: Clock, slack_url: str | None = None) -> None:
        self._channel = channel
        self._clock = clock
        self._slack_url = slack_url
        self._threads: DaemonThreads[SendResult] = DaemonThreads(f"tocsin-channel {channel.name}", channel.workers)
        self._way: Way | None = None
        self._loading = threading.Lock()

    @property
    def concurrency(self) -> int:
        return self._channel.workers

    async def send(self, parcel: Parcel) -> SendResult:
        try:
            return await self._threads.run(partial(self._send, parcel))
        except TooManyHang as error:
            return failed(str(error))

    async def close(self) -> None:
        self._threads.close()

    def _send(self, parcel: Parcel) -> SendResult:
        with self._loading:
            if self._way is None:
                from tocsin.deliver.apprise_channel import Way  # noqa: PLC0415 - half a second, so here on a thread

                self._way = Way(self._channel, self._clock, self._slack_url)
        return self._way.send(parcel)
