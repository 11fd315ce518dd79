"""``DSSClient``: the way in. The names are those of Dataiku's own Python client, with ``await`` in front."""

from dataclasses import dataclass
from typing import Any, Self, TypeVar

from tocsin.dss import wire
from tocsin.dss.fields import Field, RawView, get_flag, get_text, only_objects, require_text
from tocsin.dss.project import DSSFuture, DSSJobListItem, DSSProject
from tocsin.dss.waits import SharedWaits
from tocsin.dss.wire import APIClient, ClientOptions, Raw, Request

T = TypeVar("T")


class DSSInstanceInfo(RawView):
    node_id = Field(get_text, "nodeId")
    node_name = Field(get_text, "nodeName")
    node_type = Field(get_text, "nodeType")
    """DESIGN, AUTOMATION or DEPLOYER."""

    @property
    def raw(self) -> Raw:
        return self.data


class DSSMessagingChannel(RawView):
    """A channel through which DSS's own reporters send."""

    type = Field(get_text, "type")
    """smtp, slack, msft-teams and so on."""
    family = Field(get_text, "family")
    """``mail`` for all that send mail."""
    sender = Field(get_text, "sender")
    """The From of a mail channel."""
    use_current_user_as_sender = Field(get_flag, "useCurrentUserAsSender")
    id = Field(lambda raw, key: require_text(raw, key, "messaging channel"), "id")

    def __init__(self, client: APIClient, data: Raw) -> None:
        super().__init__(data)
        self.client = client

    async def get_settings(self) -> Raw:
        """Its configuration; needs an admin key."""
        return await self.client.perform(wire.get_channel_settings(self.id))


@dataclass(eq=False, repr=False)
class DSSClient(ClientOptions):
    """One DSS node, for one event loop; to be closed. Methods named ``…_raw`` give a list as DSS sent it."""

    def __post_init__(self) -> None:
        """Raises ``ValueError`` without any secret, and for a URL, header or proxy that cannot be used."""
        from tocsin.dss.transport import HTTPTransport  # noqa: PLC0415 - aiohttp is loaded by the first client

        first, longest = self.poll_pauses
        self.waits = SharedWaits(first_pause=first, longest_pause=longest, concurrency=self.max_polls)
        self.transport = HTTPTransport(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all waits and close all connections."""
        await self.waits.close()
        await self.transport.close()

    async def perform(self, request: Request[T]) -> T:
        """Send any request of ``tocsin.dss.wire``, for what has no method here. Raises ``DSSError``."""
        return await self.transport.send(request)

    async def get_auth_info(self, with_secrets: bool = False) -> Raw:
        """Who the credentials are: ``authIdentifier``, ``groups`` and more. The cheapest probe of a node."""
        return await self.perform(wire.get_auth_info(withSecrets=with_secrets))

    async def get_instance_info(self) -> DSSInstanceInfo:
        return DSSInstanceInfo(await self.perform(wire.get_instance_info()))

    async def list_projects_raw(self, include_location: bool = False) -> list[Any]:
        return await self.perform(wire.list_projects(includeLocation=include_location))

    async def list_projects(self, include_location: bool = False) -> list[Raw]:
        """Each project as an object with at least ``projectKey``; those without are left out."""
        raw = await self.list_projects_raw(include_location)
        return [item for item in only_objects(raw) if get_text(item, "projectKey")]

    async def list_project_keys(self) -> list[str]:
        return [project["projectKey"] for project in await self.list_projects()]

    def get_project(self, project_key: str) -> DSSProject:
        return DSSProject(self, project_key)

    def get_default_project(self) -> DSSProject:
        """The project named by ``default_project_key``. Raises ``ValueError`` if the client was given none."""
        if not self.default_project_key:
            raise ValueError("this client was given no default_project_key")
        return self.get_project(self.default_project_key)

    async def list_running_scenarios_raw(self, all_users: bool = False) -> list[Any]:
        return await self.perform(wire.list_futures(withScenarios=True, withNotScenarios=False, allUsers=all_users))

    async def list_running_scenarios(self, all_users: bool = False) -> list[Raw]:
        """What runs now, as futures: ``payload.targets[0]`` names the scenario. ``all_users`` needs an admin key."""
        return only_objects(await self.list_running_scenarios_raw(all_users))

    async def list_futures_raw(self, *, all_users: bool = False) -> list[Any]:
        return await self.perform(wire.list_futures(withScenarios=False, withNotScenarios=True, allUsers=all_users))

    async def list_futures(self, *, all_users: bool = False) -> list[Raw]:
        """Long tasks other than scenarios; each has at least a ``jobId``."""
        return only_objects(await self.list_futures_raw(all_users=all_users))

    def get_future(self, job_id: str) -> DSSFuture:
        return DSSFuture(self, job_id)

    async def list_messaging_channels(
        self, *, channel_type: str | None = None, channel_family: str | None = None
    ) -> list[DSSMessagingChannel]:
        """The channels of a type, as ``smtp``, or of a family, as ``mail``; all without either."""
        raw = await self.perform(wire.list_channels(channelType=channel_type, channelFamily=channel_family))
        return [DSSMessagingChannel(self, item) for item in only_objects(raw)]

    async def get_messaging_channel(self, channel_id: str) -> DSSMessagingChannel:
        return DSSMessagingChannel(self, await self.perform(wire.get_channel(channel_id)))

    async def list_running_jobs(self, *, all_users: bool = True) -> list[DSSJobListItem]:
        raw = await self.perform(wire.list_running_jobs(allUsers=all_users))
        return [DSSJobListItem(self, item) for item in only_objects(raw)]

    async def get_global_variables(self) -> Raw:
        """The instance's variables; needs an admin key."""
        return await self.perform(wire.get_global_variables())

    async def get_resolved_variables(self, project_key: str | None = None, typed: bool = False) -> Raw:
        """Instance and project variables merged; without a key for the default project."""
        key = project_key or self.get_default_project().project_key
        return await self.perform(wire.get_resolved_variables(key, typed=str(typed).lower()))
