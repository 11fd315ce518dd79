"""Messaging channels: through which DSS's own reporters send. Read only; settings need an admin key."""

from typing import TYPE_CHECKING

from tocsin.dss import wire
from tocsin.dss.fields import Field, Reading, get_flag, get_text, require_text
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient


class DSSMessagingChannel(Reading):
    """A channel as a list or a single read gives it."""

    type = Field(get_text, "type")
    """smtp, slack, msft-teams and so on."""
    family = Field(get_text, "family")
    """``mail`` for all that send mail."""
    sender = Field(get_text, "sender")
    """The From of a mail channel."""
    use_current_user_as_sender = Field(get_flag, "useCurrentUserAsSender")
    """Whether a mail channel sends in the name of the scenario's user."""

    def __init__(self, client: "DSSClient", data: Raw) -> None:
        super().__init__(data)
        self.client = client

    @property
    def id(self) -> str:
        return require_text(self.data, "id", "messaging channel")

    async def get_settings(self) -> Raw:
        """Its configuration; needs an admin key."""
        return await self.client.perform(wire.get_channel_settings(self.id))
