"""Messaging channels: through which DSS's own reporters send. Read only; settings need an admin key."""

from typing import TYPE_CHECKING

from tocsin.dss import wire
from tocsin.dss.fields import needed, text
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient


class DSSMessagingChannel:
    """A channel as a list or a single read gives it."""

    def __init__(self, client: "DSSClient", data: Raw) -> None:
        self.client = client
        self._data = data

    def get_raw(self) -> Raw:
        return self._data

    @property
    def id(self) -> str:
        return needed(self._data, "id", "messaging channel")

    @property
    def type(self) -> str | None:
        """smtp, slack, msft-teams and so on."""
        return text(self._data, "type")

    @property
    def family(self) -> str | None:
        """``mail`` for all that send mail."""
        return text(self._data, "family")

    @property
    def sender(self) -> str | None:
        """The From of a mail channel."""
        return text(self._data, "sender")

    @property
    def use_current_user_as_sender(self) -> bool:
        """Whether a mail channel sends in the name of the scenario's user."""
        return bool(self._data.get("useCurrentUserAsSender"))

    async def get_settings(self) -> Raw:
        """Its configuration; needs an admin key."""
        return await self.client.perform(wire.get_channel_settings(self.id))
