"""Jobs: what a scenario's build steps run."""

from typing import TYPE_CHECKING, Any

from tocsin.dss import wire
from tocsin.dss.fields import Field, get_object, get_text, get_time, require_text
from tocsin.dss.wire import Raw

if TYPE_CHECKING:
    from tocsin.dss.client import DSSClient

ENDED_STATES = frozenset({"DONE", "FAILED", "ABORTED"})


class DSSJob:
    """A handle; making one asks DSS nothing."""

    def __init__(self, client: "DSSClient", project_key: str, id: str) -> None:
        self.client = client
        self.project_key = project_key
        self.id = id

    async def get_status(self) -> Raw:
        """DSS's own object; the state stands in ``baseStatus.state``."""
        return await self.client.perform(wire.get_job(self.project_key, self.id))

    async def get_log(self, activity: str | None = None, *, tail_bytes: int | None = None) -> str:
        """The job's log or that of one activity; with ``tail_bytes`` only its end."""
        return await self.client.perform(
            wire.get_job_log(self.project_key, self.id, activity=activity, tail=tail_bytes)
        )

    async def abort(self) -> Raw:
        return await self.client.perform(wire.abort_job(self.project_key, self.id))


class DSSJobListItem(dict[str, Any]):
    """One job of a list, as DSS sent it."""

    start_time = Field(get_time, "startTime")
    end_time = Field(get_time, "endTime")

    def __init__(self, client: "DSSClient", data: Raw) -> None:
        super().__init__(data)
        self.client = client

    @property
    def project_key(self) -> str:
        return get_text(self, "projectKey") or require_text(get_object(self, "def"), "projectKey", "job")

    @property
    def job_id(self) -> str:
        return get_text(self, "jobId") or require_text(get_object(self, "def"), "id", "job")

    def to_job(self) -> DSSJob:
        return DSSJob(self.client, self.project_key, self.job_id)
