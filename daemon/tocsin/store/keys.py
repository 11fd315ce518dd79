"""Keys that all processes on one store share: random bytes by name, made when they are first asked for."""

import secrets

from sqlalchemy import Connection, select

from tocsin.store.schema import keys
from tocsin.store.sql import bulk_upsert

_MAKE = bulk_upsert(keys, ("name", "value"))  # one that is there stays
_SESSIONS = "sessions"


def session_key(connection: Connection) -> bytes:
    """The key that signs sessions, for a writing transaction."""
    _MAKE.execute(connection, [(_SESSIONS, secrets.token_hex(32))])
    return bytes.fromhex(connection.execute(select(keys.c.value).where(keys.c.name == _SESSIONS)).scalar_one())
