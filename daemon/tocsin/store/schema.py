"""The tables that join the stages. Times are integer epoch milliseconds by one type, ``Moment``.

Work is found by state ("not yet processed", "due"), never by "id greater than my last": on PostgreSQL numbers commit
out of order. An empty store gets these tables as they are; for older stores a change needs a migration and a new
``SCHEMA_REVISION``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

from tocsin.kit.clock import from_ms, to_ms
from tocsin.model.alert import Acknowledgement
from tocsin.model.event import Event
from tocsin.model.notification import EventNotice, GroupNotice, SummaryNotice
from tocsin.model.run import RunError, RunWarning, Step
from tocsin.model.scenario import MailReporter

# The newest migration: the minor version that it came with, and a number. Compared at start, so that Alembic is loaded
# only when behind.
SCHEMA_REVISION = "0.2_0007"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that this version cannot read: a newer one wrote it, or it is damaged."""

    why: str


class Document(TypeDecorator[Any]):
    """A value of one Python type as JSON text: frozen dataclasses, tuples, mappings; NULL is None.

    Of several types the first counts that can be read from a text. Reading tolerates unknown fields and fills in
    defaults of missing ones, so that neighbouring versions of Tocsin can read each other's rows. What cannot be read
    all the same is an ``Unreadable``; see ``sql.readable``.
    """

    impl = Text
    cache_ok = True

    def __init__(self, of: Any, *others: Any) -> None:
        super().__init__()
        self.of = of
        self._kinds = (of, *others)

    @cached_property
    def _decoders(self) -> tuple[msgspec.json.Decoder[Any], ...]:
        return tuple(map(msgspec.json.Decoder, self._kinds))

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        return lambda value: None if value is None else document_text(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], Any]:
        return self.read

    def read(self, text: str | None) -> Any:
        """The value of a JSON text, or an ``Unreadable``."""
        error: Exception | None = None
        if text is None:
            return None
        for decoder in self._decoders:
            try:
                return decoder.decode(text)
            except (ValueError, RecursionError) as why:
                error = error or why
        return Unreadable(f"document: {_QUOTED.sub('', str(error))}")


_QUOTED = re.compile(r" (['\"]).*\1", re.DOTALL)  # what stands in a document is not for the log
_encoder = msgspec.json.Encoder(enc_hook=dict)  # for mappings that are no dict


def document_text(value: object) -> str:
    """A value as the JSON text of a ``Document``."""
    return _encoder.encode(value).decode()


# Moments outside these years are no times of ours; they are read as the nearest that is, with room to calculate.
_EARLIEST_MS, _LATEST_MS = -2_208_988_800_000, 253_370_764_800_000  # 1900, 9999


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime, stored as integer epoch milliseconds."""

    impl = BigInteger
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], int | None]:
        return lambda value: None if value is None else to_ms(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[int | None], datetime | None]:
        return lambda value: None if value is None else moment_of(value)


@lru_cache(maxsize=8192)  # many rows hold the same moment
def moment_of(epoch_ms: int) -> datetime:
    """The moment of a number in a row, whatever the number."""
    if not _EARLIEST_MS <= epoch_ms <= _LATEST_MS:
        epoch_ms = min(max(epoch_ms, _EARLIEST_MS), _LATEST_MS)
    return from_ms(epoch_ms)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for INTEGER PRIMARY KEY.
_Serial = BigInteger().with_variant(Integer, "sqlite")


def _names(*names: str, primary_key: bool = False) -> list[Column[str]]:
    return [Column(name, Text, nullable=False, primary_key=primary_key) for name in names]


def _moments(*names: str, nullable: bool = False) -> list[Column[datetime]]:
    return [Column(name, Moment, nullable=nullable) for name in names]


def _word(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, String(32), nullable=nullable)


def _partial_index(name: str, *columns: Column[Any], where: ColumnElement[bool], unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_SCENARIO = ("node", "project", "scenario")
_RUN = (*_SCENARIO, "run_id", "start")


# --- the process ---------------------------------------------------------------------------------------------------

leases = Table(
    "leases",
    metadata,
    *_names("name", primary_key=True),
    *_names("holder"),
    Column("epoch", BigInteger, nullable=False),
    Column("until", Moment, nullable=False),
)

counters = Table("counters", metadata, *_names("name", primary_key=True), Column("value", BigInteger, nullable=False))

# --- what is watched -----------------------------------------------------------------------------------------------

nodes = Table(
    "nodes",
    metadata,
    *_names("node", primary_key=True),
    Column("watched_since", Moment, nullable=False),  # the first watch, on DSS's clock
    Column("up", Boolean),  # null until the first answer or failure
    _word("down_reason", nullable=True),
    Column("down_since", Moment),
    _word("down_event_id", nullable=True),  # set while a node.down without its node.up stands
    Column("problem", Text),  # the last failure in words
    Column("last_ok_at", Moment),
    Column("clock_offset_ms", BigInteger, nullable=False, server_default="0"),  # DSS's clock minus ours
    Column("clock_offset_least_ms", BigInteger),  # the least of it for hours
    Column("dss_version", Text),
    Column("node_type", Text),
    Column("sweep_trusted", Boolean, nullable=False, server_default=text("true")),
    *_moments("last_sweep_at", "last_discovery_at", nullable=True),
    Column("backfilling", Boolean, nullable=False, server_default=text("false")),
    Column("resumed_at", Moment),  # what happened before it is late for scenarios that are not backfilled
    Column("scope", Text),  # what was in scope when the projects were last listed
)

projects = Table(
    "projects",
    metadata,
    *_names("node", "project"),
    Column("name", Text),
    Column("in_scope_since", Moment, nullable=False),
    Column("missing", Integer, nullable=False, server_default="0"),  # complete discoveries that did not list it
    Column("gone_at", Moment),
    PrimaryKeyConstraint("node", "project"),
)

scenarios = Table(
    "scenarios",
    metadata,
    *_names(*_SCENARIO, "name"),
    Column("tags", Document(tuple[str, ...]), nullable=False),
    Column("type", Text),
    Column("active", Boolean),  # null until read
    Column("run_as", Text),
    Column(
        "follows", Document(tuple[tuple[str, str], ...]), nullable=False
    ),  # [project, scenario] pairs of follow triggers and run_scenario steps
    Column("watched_since", Moment, nullable=False),
    Column("watermark", Moment, nullable=False),  # runs that start before it and are not open are the past
    Column("cursor", Moment),  # start of the newest run that a complete poll saw: the next one must reach it
    Column("polled_at", Moment),  # when the last good poll was begun
    Column("status_read_at", Moment),  # when the request that read `active` and `next_run` was begun
    *_moments("next_run", "last_end", nullable=True),
    Column("last_outcome", Text),  # of the run that ended last
    Column("missing", Integer, nullable=False, server_default="0"),
    Column("gone_at", Moment),
    Column("backfilled", Boolean, nullable=False, server_default=text("false")),
    Column("reporter_failures", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint(*_SCENARIO),
)

# DSS's own mail reporters, by the last run that was seen; without a row they were never read.
mail_reporters = Table(
    "mail_reporters",
    metadata,
    *_names(*_SCENARIO),
    Column("reporters", Document(tuple[MailReporter, ...]), nullable=False),
    PrimaryKeyConstraint(*_SCENARIO),
)

# An expected start stands from the moment when DSS names it until a run meets it or it is withdrawn.
expected_starts = Table(
    "expected_starts",
    metadata,
    *_names(*_SCENARIO),
    Column("at", Moment, nullable=False),
    Column("state", String(16), nullable=False),  # pending, met, withdrawn, missed
    Column("learned_at", Moment, nullable=False),
    Column("evaluate_at", Moment),  # when to evaluate it again; null: at once, when `at` is past
    Column("settled_at", Moment),
    PrimaryKeyConstraint(*_SCENARIO, "at"),
)
Index("ix_expected_starts_node", expected_starts.c.node, expected_starts.c.at)
_partial_index("ix_expected_starts_pending", expected_starts.c.at, where=expected_starts.c.state == "pending")

runs = Table(
    "runs",
    metadata,
    *_names(*_SCENARIO, "run_id"),
    Column("start", Moment, nullable=False),
    Column("end", Moment),
    Column("outcome", Text),
    Column("trigger_type", Text),
    Column("trigger_name", Text),
    Column("fire_id", Text),
    Column("run_as", Text),
    Column("baseline", Boolean, nullable=False),  # ended before it was watched: no event, no count
    Column("late", Boolean, nullable=False, server_default=text("false")),
    Column("seen_at", Moment, nullable=False),
    Column("seen_by", Text),  # the reason of the poll that saw it first
    Column("end_seen_at", Moment),
    Column("absent_since", Moment),  # open, but no longer in DSS's history; on DSS's clock
    Column("details_due_at", Moment),  # null: not wanted, or done
    Column("details_tries", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint(*_SCENARIO, "start", "run_id"),  # by start, so that the newest runs of a scenario lie together
)
_partial_index("ix_runs_open", runs.c.node, runs.c.project, runs.c.scenario, where=runs.c.end.is_(None))
_partial_index("ix_runs_details_due", runs.c.details_due_at, where=runs.c.details_due_at.is_not(None))
Index("ix_runs_end", runs.c.end, runs.c.outcome)  # the console's last failures; pruning
Index("ix_runs_start", runs.c.start)  # the order of the API's list of runs

run_details = Table(
    "run_details",
    metadata,
    *_names(*_SCENARIO, "run_id"),
    *_moments("start", "read_at"),
    Column("error", Document(RunError)),
    Column("steps", Document(tuple[Step, ...]), nullable=False),
    Column("log_tail", Text),
    Column("problem", Text),
    Column("warnings", Document(tuple[RunWarning, ...]), nullable=False),
    Column("fingerprint", String(16)),  # of the error
    PrimaryKeyConstraint(*_RUN),
)
# Which scenarios fail with one error, and which errors are new.
_WITH_ERROR = run_details.c.fingerprint.is_not(None)
_partial_index("ix_run_details_fingerprint", run_details.c.fingerprint, run_details.c.read_at, where=_WITH_ERROR)
_partial_index(
    "ix_run_details_last_error", *(run_details.c[name] for name in (*_SCENARIO, "read_at")), where=_WITH_ERROR
)
_partial_index("ix_run_details_read_at", run_details.c.read_at, where=_WITH_ERROR)

# Totals outlive the runs that they count. Written in the transaction that writes a run's end event, and only then.
outcome_totals = Table(
    "outcome_totals",
    metadata,
    *_names(*_SCENARIO, "outcome"),
    Column("runs", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    PrimaryKeyConstraint(*_SCENARIO, "outcome"),
)

duration_buckets = Table(
    "duration_buckets",
    metadata,
    *_names("node", "project", "outcome"),
    Column("le_ms", BigInteger, nullable=False),  # upper bound; -1 is +Inf, -2 of former bounds
    Column("runs", BigInteger, nullable=False),  # in this bucket alone, not cumulated
    Column("seconds", Float, nullable=False),
    Column("exemplar_scenario", Text),
    Column("exemplar_run", Text),
    Column("exemplar_seconds", Float),
    Column("exemplar_at", Moment),
    PrimaryKeyConstraint("node", "project", "outcome", "le_ms"),
)

# --- events ----------------------------------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    Column("n", _Serial, primary_key=True, autoincrement=True),  # order of insertion
    Column("seq", BigInteger, unique=True),  # the public order; given when the event is decided
    Column("id", String(32), nullable=False, unique=True),
    _word("event"),
    *_names("node"),
    Column("project", Text),
    Column("scenario", Text),
    Column("run_id", Text),
    Column("run_start", Moment),
    *_moments("time", "detected_at"),
    Column("late", Boolean, nullable=False),
    Column("body", Document(Event), nullable=False),
    Column("processed_at", Moment),
)
_partial_index("ix_events_unprocessed", events.c.n, where=events.c.processed_at.is_(None))
# Explanations, and the API's filters on node, project and scenario.
Index("ix_events_scenario", events.c.node, events.c.project, events.c.scenario, events.c.time)
Index("ix_events_detected_at", events.c.detected_at)

# --- alerts ----------------------------------------------------------------------------------------------------------

rule_states = Table(
    "rule_states",
    metadata,
    *_names("rule"),  # the rule's identity: its alert name, and a digest of its matchers and labels
    *_names(*_SCENARIO),  # project and scenario are empty for rules about nodes
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("due_at", Moment),  # when time alone may change the result
    PrimaryKeyConstraint("rule", "node", "project", "scenario"),
)
Index("ix_rule_states_place", rule_states.c.node, rule_states.c.project, rule_states.c.scenario)
_partial_index("ix_rule_states_due", rule_states.c.due_at, where=rule_states.c.due_at.is_not(None))

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(32), primary_key=True),
    _word("fingerprint"),
    *_names("alertname", "rule", "node", "project", "scenario"),
    Column("labels", Document(dict[str, str]), nullable=False),
    Column("annotations", Document(dict[str, str]), nullable=False),
    Column("starts_at", Moment, nullable=False),
    Column("ends_at", Moment),
    Column("end_reason", String(16)),
    Column("count", Integer, nullable=False),
    Column("run_id", Text),
    Column("run_start", Moment),
    Column("updated_at", Moment, nullable=False),
    Column("was_active", Boolean, nullable=False),  # the scenario's own switch when it fired; off since: deactivated
    Column("acknowledged", Document(Acknowledgement)),
    Column("expires_at", Moment),  # when an alert that others posted ends by itself
)
_partial_index("ix_alerts_expires_at", alerts.c.expires_at, where=alerts.c.expires_at.is_not(None))
_partial_index("uq_alerts_firing", alerts.c.fingerprint, where=alerts.c.ends_at.is_(None), unique=True)
Index("ix_alerts_ends_at", alerts.c.ends_at)
Index("ix_alerts_starts_at", alerts.c.starts_at)  # the order of the API's list of alerts
# Explanations, and the API's filters on node, project and scenario.
Index("ix_alerts_scenario", alerts.c.node, alerts.c.project, alerts.c.scenario)

groups = Table(
    "groups",
    metadata,
    *_names("key", primary_key=True),
    *_names("receiver"),
    Column("route", Document(tuple[str, ...]), nullable=False),  # the matchers from the root to the route, as text
    Column("labels", Document(dict[str, str]), nullable=False),
    Column("flush_at", Moment),  # null: nothing to do
    Column("flushed_at", Moment),  # null until the first flush
)
Index("ix_groups_flush_at", groups.c.flush_at)

group_alerts = Table(
    "group_alerts",
    metadata,
    *_names("group_key"),
    _word("fingerprint"),
    _word("alert_id"),
    Column("entered_at", Moment, nullable=False),  # escalations count from it
    # Only channels with `resolve_what_was_sent` are still notified of it.
    Column("ended_muted", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("group_key", "fingerprint"),
    ForeignKeyConstraint(["group_key"], ["groups.key"], ondelete="CASCADE"),
)
Index("ix_group_alerts_alert_id", group_alerts.c.alert_id)

# The notification log: of what a channel was last notified, per group. It outlives the group.
notification_log = Table(
    "notification_log",
    metadata,
    *_names("group_key", "channel"),
    Column("firing", Document(tuple[str, ...]), nullable=False),  # fingerprints
    Column("resolved", Document(tuple[str, ...]), nullable=False),
    Column("acknowledged", Document(tuple[str, ...])),
    Column("flapping", Document(tuple[str, ...])),
    Column("at", Moment),  # null until the first notification
    _word("reason"),  # of the last flush; only a change of it is a new decision row
    PrimaryKeyConstraint("group_key", "channel"),
)
Index("ix_notification_log_at", notification_log.c.at)

# Where the message stands that a channel edits in place, by the group or run that it is about.
sent_messages = Table(
    "sent_messages",
    metadata,
    *_names("channel", "thread"),
    Column("place", Document(dict[str, Any]), nullable=False),
    Column("updated_at", Moment, nullable=False),
    PrimaryKeyConstraint("channel", "thread"),
)
Index("ix_sent_messages_updated_at", sent_messages.c.updated_at)  # prune

# Events that are not notified one by one: too late, until the summary after the backfill, or until a digest.
withheld = Table(
    "withheld",
    metadata,
    *_names("node", "receiver"),
    _word("event_id"),
    Column("reporter", Text, nullable=False, server_default=""),  # whose digest it waits for; empty: a backfill's end
    Column("due_at", Moment),  # of the digest
    PrimaryKeyConstraint("node", "receiver", "event_id", "reporter"),
)

silences = Table(
    "silences",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("matchers", Document(tuple[str, ...]), nullable=False),  # as text
    *_moments("starts_at", "ends_at"),
    *_names("created_by", "comment"),
)
Index("ix_silences_ends_at", silences.c.ends_at)

# Why something fired, was notified, or was not, for `explain` and for people who ask later. What a reporter enqueued
# stands in the outbox alone, and the groups of an alert in the row of the rule that fired it.
decisions = Table(
    "decisions",
    metadata,
    Column("n", _Serial, primary_key=True, autoincrement=True),
    Column("at", Moment, nullable=False),
    Column("stage", String(16), nullable=False),  # reporter, rule, route, flush, backfill
    Column("subject", Text, nullable=False),  # the reporter, rule, group or channel that decided
    _word("reason"),  # of a closed set
    Column("note", Text),
    _word("event_id", nullable=True),
    _word("fingerprint", nullable=True),
    _word("alert_id", nullable=True),
    _word("notification_id", nullable=True),
    Column("routes", Document(tuple[tuple[str, str], ...])),  # group key and receiver, of an alert that was routed
)
Index("ix_decisions_event_id", decisions.c.event_id)
Index("ix_decisions_alert_id", decisions.c.alert_id)
Index("ix_decisions_at", decisions.c.at)

# Random keys that the processes on this store share, as the one that signs sessions of the console.
keys = Table("keys", metadata, *_names("name", primary_key=True), *_names("value"))

# --- deliveries ------------------------------------------------------------------------------------------------------

outbox = Table(
    "outbox",
    metadata,
    Column("n", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    *_names("receiver", "channel"),
    *_names(
        "ordering_key"
    ),  # rows of one channel and ordering_key go one after another; a group's ordering_key supersedes
    Column("kind", String(16), nullable=False),  # event, group, summary
    _word("event_id", nullable=True),
    *_moments("created_at", "due_at"),
    Column("state", String(16), nullable=False),
    Column("reason", Text),  # in words, for people
    Column("dead_reason", String(16)),  # of a dead letter: a ``DeadReason``
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lease_holder", Text),
    Column("lease_until", Moment),
    Column("settled_at", Moment),  # when the state became final
    Column("failed_over_at", Moment),  # when another receiver was notified in its place; also of that one's own row
    # The last column: scans for due rows need not read past it.
    Column("notice", Document(EventNotice, GroupNotice, SummaryNotice), nullable=False),
)
_partial_index("ix_outbox_open", outbox.c.channel, outbox.c.n, where=outbox.c.state.in_(["pending", "sending"]))
_partial_index("ix_outbox_group", outbox.c.channel, outbox.c.ordering_key, outbox.c.n, where=outbox.c.kind == "group")
Index("ix_outbox_state", outbox.c.state, outbox.c.n)  # the API's list of deliveries by state; counts
_partial_index("ix_outbox_dead", outbox.c.dead_reason, where=outbox.c.dead_reason.is_not(None))
Index("ix_outbox_event_id", outbox.c.event_id)  # what became of an event; the API's list by it
Index("ix_outbox_settled_at", outbox.c.settled_at, outbox.c.channel, outbox.c.state)

# A notification that wants a run's details is due early once all of its waits are gone.
outbox_waits = Table(
    "outbox_waits",
    metadata,
    _word("notification_id"),
    *_names(*_SCENARIO, "run_id"),
    Column("start", Moment, nullable=False),
    PrimaryKeyConstraint("notification_id", "node", "project", "scenario", "run_id", "start"),
)
Index("ix_outbox_waits_run", *(outbox_waits.c[name] for name in ("node", "project", "scenario", "run_id", "start")))

attempts = Table(
    "attempts",
    metadata,
    _word("notification_id"),
    Column("number", Integer, nullable=False),
    *_moments("started_at", "ended_at"),
    Column("outcome", String(16), nullable=False),
    Column("note", Text, nullable=False),
    PrimaryKeyConstraint("notification_id", "number"),
)
