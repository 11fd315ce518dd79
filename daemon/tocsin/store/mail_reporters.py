"""Rows of DSS's own mail reporters: one a scenario, written by looks and read by the decider."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, literal_column, select

from tocsin.model.mail_reporter import MailReporter
from tocsin.model.run import ScenarioKey
from tocsin.store.schema import mail_reporters
from tocsin.store.sql import Keyed, readable, upsert

_PLACE = ("node", "project", "scenario")


def put(connection: Connection, rows: Sequence[tuple[ScenarioKey, tuple[MailReporter, ...]]]) -> None:
    """Write what these scenarios have now; rows that say so already are not touched."""
    new = [key._asdict() | {"reporters": reporters} for key, reporters in rows]
    upsert(connection, mail_reporters, new, ("reporters",), where=_OTHER)


_OTHER = mail_reporters.c.reporters != literal_column("excluded.reporters")


def of(connection: Connection, keys: Collection[ScenarioKey]) -> dict[ScenarioKey, tuple[MailReporter, ...]]:
    """The mail reporters of these scenarios; one whose reporters were never read is absent."""
    return dict(
        readable(connection, mail_reporters, _OF.rows(connection, keys), lambda row: (ScenarioKey(*row[:3]), row[3]))
    )


_KEY = [mail_reporters.c[name] for name in _PLACE]
_OF = Keyed(select(*_KEY, mail_reporters.c.reporters), _KEY)
