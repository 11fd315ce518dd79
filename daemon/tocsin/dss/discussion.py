"""Discussions: the comments that people leave on a scenario."""

from typing import TYPE_CHECKING

from tocsin.dss import wire
from tocsin.dss.fields import get_text, only_objects, require_text, with_id
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient


class DSSObjectDiscussions:
    """The discussions of one object."""

    def __init__(self, client: "DSSClient", project_key: str, object_type: str, object_id: str) -> None:
        self.client = client
        self.path = (project_key, object_type, object_id)

    async def list_discussions(self) -> "list[DSSDiscussion]":
        """All of them, as yet without replies."""
        raw = await self.client.perform(wire.list_discussions(*self.path))
        return [DSSDiscussion(self, item, complete=False) for _, item in with_id(raw)]

    async def create_discussion(self, topic: str, message: str) -> "DSSDiscussion":
        """A new one with a first message in Markdown."""
        body = {"topic": topic, "reply": message}
        raw = await self.client.perform(wire.create_discussion(*self.path, json_body=body))
        return DSSDiscussion(self, raw, complete=True)

    async def get_discussion(self, discussion_id: str) -> "DSSDiscussion":
        raw = await self.client.perform(wire.get_discussion(*self.path, discussion_id))
        return DSSDiscussion(self, {"id": discussion_id, **raw}, complete=True)


class DSSDiscussion:
    """One discussion; its replies are read when they are first asked for."""

    def __init__(self, of: DSSObjectDiscussions, data: Raw, *, complete: bool) -> None:
        self.client = of.client
        self.discussion_id = require_text(data, "id", "discussion")
        self.discussion_data = data
        self._path = (*of.path, self.discussion_id)
        self._complete = complete

    def get_metadata(self) -> Raw:
        """Everything but the replies: ``topic`` and more."""
        return {key: value for key, value in self.discussion_data.items() if key != "replies"}

    async def set_metadata(self, discussion_metadata: Raw) -> None:
        """Write changed metadata back; the replies stay."""
        await self._load()
        body = {**discussion_metadata, "replies": self.discussion_data.get("replies", [])}
        self._take(await self.client.perform(wire.save_discussion(*self._path, json_body=body)))

    async def get_replies(self) -> "list[DSSDiscussionReply]":
        await self._load()
        return [DSSDiscussionReply(reply) for reply in only_objects(self.discussion_data.get("replies"))]

    async def add_reply(self, text: str) -> None:
        """A reply in Markdown, as the user of the credentials."""
        self._take(await self.client.perform(wire.reply_to_discussion(*self._path, json_body={"reply": text})))

    async def _load(self) -> None:
        if not self._complete:
            self._take(await self.client.perform(wire.get_discussion(*self._path)))

    def _take(self, data: Raw) -> None:
        self.discussion_data = data
        self._complete = True


class DSSDiscussionReply:
    """One reply, to be read."""

    def __init__(self, reply_data: Raw) -> None:
        self.reply_data = reply_data

    def get_raw_data(self) -> Raw:
        return self.reply_data

    def get_text(self) -> str:
        """Markdown."""
        return get_text(self.reply_data, "text") or ""

    def get_author(self) -> str | None:
        """A login."""
        return get_text(self.reply_data, "author")

    def get_timestamp(self) -> int | None:
        """Epoch milliseconds, as DSS has them."""
        return _milliseconds(self.reply_data, "time")

    def get_edited_timestamp(self) -> int | None:
        """Epoch milliseconds of the last edit."""
        return _milliseconds(self.reply_data, "editedOn")


def _milliseconds(raw: Raw, key: str) -> int | None:
    value = raw.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
