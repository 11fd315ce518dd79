"""The name of a node that no configuration file names: what it calls itself, else its host."""

import asyncio
from dataclasses import replace

import structlog

from tocsin.dss import DSSClient, DSSError
from tocsin.model.config import Config

log = structlog.get_logger("tocsin.app.naming")
_WAIT_SECONDS = 5.0


async def node_named_by_itself(config: Config) -> Config:
    """The configuration with the ``nodeName`` of its only node; unchanged when the node does not tell in time."""
    (node,) = config.nodes
    assert node.api_key is not None
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            async with DSSClient(node.url, api_key=node.api_key.reveal(), retries=0) as client:
                info = await client.get_instance_info()
    except (DSSError, OSError, TimeoutError) as error:
        log.warning("node_did_not_tell_its_name", error=str(error), name=node.name)
        return config
    name = info.node_name
    return replace(config, nodes=(replace(node, name=name),)) if name else config
