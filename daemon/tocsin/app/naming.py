"""The name of a node that no configuration file names: what it calls itself, else its host.

A node's name is its identity: another name would be another node, whose history begins anew. So a name under which
the store knows the node is kept, whatever the node answers at a later start, and at a reload.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from tocsin.config.model import Config, Node
from tocsin.dss import DSSClient, DSSError
from tocsin.store import Store
from tocsin.store.nodes import all_nodes

log = structlog.get_logger("tocsin.app.naming")
_LONGEST_NAME = 200
_WAIT_SECONDS = 5.0


async def named_by_itself(config: Config, store: Store) -> Callable[[Config], Config]:
    """How configurations from the environment, this one and later ones, name their only node."""
    (node,) = config.nodes
    known = [row.node for row in await store.read(all_nodes)]
    name = choose_name(await _own_name(node), node.name, known)

    def rename(config: Config) -> Config:
        (node,) = config.nodes
        return replace(config, nodes=(replace(node, name=name),))

    return rename


def choose_name(own: str | None, host: str, known: Collection[str]) -> str:
    """``own``: what the node says, None if it said nothing; ``known``: the names in the store."""
    for name in (own, host):
        if name is not None and name in known:
            return name
    if own is None and len(known) == 1:
        return next(iter(known))
    return own or host


async def _own_name(node: Node) -> str | None:
    assert node.api_key is not None
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            async with DSSClient(node.url, api_key=node.api_key.read, retries=0) as client:
                told = (await client.get_instance_info()).node_name or ""
                return "".join(sign for sign in told if sign.isprintable())[:_LONGEST_NAME].strip() or None
    except (DSSError, OSError, TimeoutError) as error:
        log.info("node_did_not_tell_its_name", error=str(error))
        return None
