"""Rows of silences. An expired one stays for a while, so that people see what was quiet and why."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, RowMapping, insert, select, update

from tocsin.kit.strings import fresh_id
from tocsin.model.alert import Silence, SilenceState
from tocsin.model.labels import Matcher, parse_matcher
from tocsin.store.schema import silences
from tocsin.store.sql import readable


class BadSilence(ValueError):
    """A silence needs a matcher that matches no empty label set, an author, and an end after its start and now."""


def add(
    connection: Connection,
    matchers: Sequence[Matcher],
    starts_at: datetime,
    ends_at: datetime,
    created_by: str,
    comment: str,
    now: datetime,
) -> Silence:
    """A new silence; a start in the past becomes now. Raises ``BadSilence`` for what Alertmanager would refuse."""
    if not matchers or all(matcher.matches({}) for matcher in matchers):
        raise BadSilence("a silence needs at least one matcher that does not match everything")
    if not created_by.strip():
        raise BadSilence("a silence needs the name of its author")
    starts_at = max(starts_at, now)
    if ends_at <= starts_at:
        raise BadSilence("a silence must end after it begins, and not in the past")
    silence = Silence(fresh_id(), tuple(matchers), starts_at, ends_at, created_by.strip(), comment)
    connection.execute(
        insert(silences).values(
            id=silence.id,
            matchers=tuple(str(matcher) for matcher in matchers),
            starts_at=starts_at,
            ends_at=ends_at,
            created_by=silence.created_by,
            comment=comment,
        )
    )
    return silence


def expire(connection: Connection, silence_id: str, now: datetime) -> Silence | None:
    """End a silence now; None when there is none of this id. One that has ended stays as it was."""
    silence = get(connection, silence_id)
    if silence is None or silence.state(now) is SilenceState.EXPIRED:
        return silence
    ended = replace(silence, starts_at=min(silence.starts_at, now), ends_at=now)
    values = {"starts_at": ended.starts_at, "ends_at": ended.ends_at}
    connection.execute(update(silences).where(silences.c.id == silence_id).values(values))
    return ended


def get(connection: Connection, silence_id: str) -> Silence | None:
    row = connection.execute(select(silences).where(silences.c.id == silence_id)).mappings().one_or_none()
    return None if row is None else next(iter(readable(connection, silences, [row], to_silence)), None)


def active(connection: Connection, now: datetime) -> list[Silence]:
    """The silences that hold at ``now``."""
    query = select(silences).where(silences.c.starts_at <= now, silences.c.ends_at > now)
    rows = connection.execute(query.order_by(silences.c.starts_at, silences.c.id)).mappings()
    return readable(connection, silences, rows, to_silence)


def to_silence(fields: RowMapping) -> Silence:
    """A silence from a row with all columns of the table."""
    return Silence(
        id=fields["id"],
        matchers=tuple(parse_matcher(text) for text in fields["matchers"]),
        starts_at=fields["starts_at"],
        ends_at=fields["ends_at"],
        created_by=fields["created_by"],
        comment=fields["comment"],
    )
