"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0.2_0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("alertname", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("annotations", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(length=16), nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("run_start", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("was_active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index("ix_alerts_ends_at", "alerts", ["ends_at"], unique=False)
    op.create_index("ix_alerts_scenario", "alerts", ["node", "project", "scenario"], unique=False)
    op.create_index("ix_alerts_starts_at", "alerts", ["starts_at"], unique=False)
    op.create_index(
        "uq_alerts_firing",
        "alerts",
        ["fingerprint"],
        unique=True,
        sqlite_where=sa.text("ends_at IS NULL"),
        postgresql_where=sa.text("ends_at IS NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column("notification_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("notification_id", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "decisions",
        sa.Column("n", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("event_id", sa.String(length=32), nullable=True),
        sa.Column("fingerprint", sa.String(length=32), nullable=True),
        sa.Column("alert_id", sa.String(length=32), nullable=True),
        sa.Column("notification_id", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_alert_id", "decisions", ["alert_id"], unique=False)
    op.create_index("ix_decisions_at", "decisions", ["at"], unique=False)
    op.create_index("ix_decisions_event_id", "decisions", ["event_id"], unique=False)
    op.create_table(
        "duration_buckets",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("le_ms", sa.BigInteger(), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("exemplar_scenario", sa.Text(), nullable=True),
        sa.Column("exemplar_run", sa.Text(), nullable=True),
        sa.Column("exemplar_seconds", sa.Float(), nullable=True),
        sa.Column("exemplar_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("node", "project", "outcome", "le_ms", name=op.f("pk_duration_buckets")),
    )
    op.create_table(
        "events",
        sa.Column("n", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("scenario", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("run_start", sa.BigInteger(), nullable=True),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("detected_at", sa.BigInteger(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("processed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_events")),
        sa.UniqueConstraint("id", name=op.f("uq_events_id")),
        sa.UniqueConstraint("seq", name=op.f("uq_events_seq")),
    )
    op.create_index("ix_events_detected_at", "events", ["detected_at"], unique=False)
    op.create_index("ix_events_scenario", "events", ["node", "project", "scenario", "time"], unique=False)
    op.create_index(
        "ix_events_unprocessed",
        "events",
        ["n"],
        unique=False,
        sqlite_where=sa.text("processed_at IS NULL"),
        postgresql_where=sa.text("processed_at IS NULL"),
    )
    op.create_table(
        "expected_starts",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("learned_at", sa.BigInteger(), nullable=False),
        sa.Column("evaluate_at", sa.BigInteger(), nullable=True),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("node", "project", "scenario", "at", name=op.f("pk_expected_starts")),
    )
    op.create_index("ix_expected_starts_node", "expected_starts", ["node", "at"], unique=False)
    op.create_index(
        "ix_expected_starts_pending",
        "expected_starts",
        ["at"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "notification_log",
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("firing", sa.Text(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("group_key", "channel", name=op.f("pk_group_notified")),
    )
    op.create_index("ix_notification_log_at", "notification_log", ["at"], unique=False)
    op.create_table(
        "groups",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("flush_at", sa.BigInteger(), nullable=True),
        sa.Column("flushed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_groups")),
    )
    op.create_index("ix_groups_flush_at", "groups", ["flush_at"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "mail_reporters",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("reporters", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node", "project", "scenario", name=op.f("pk_mail_reporters")),
    )
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("watched_since", sa.BigInteger(), nullable=False),
        sa.Column("up", sa.Boolean(), nullable=True),
        sa.Column("down_reason", sa.String(length=32), nullable=True),
        sa.Column("down_since", sa.BigInteger(), nullable=True),
        sa.Column("down_event_id", sa.String(length=32), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("last_ok_at", sa.BigInteger(), nullable=True),
        sa.Column("clock_offset_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("clock_offset_least_ms", sa.BigInteger(), nullable=True),
        sa.Column("dss_version", sa.Text(), nullable=True),
        sa.Column("node_type", sa.Text(), nullable=True),
        sa.Column("sweep_trusted", sa.Boolean(), server_default=sa.text("(true)"), nullable=False),
        sa.Column("last_sweep_at", sa.BigInteger(), nullable=True),
        sa.Column("last_discovery_at", sa.BigInteger(), nullable=True),
        sa.Column("backfilling", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("resumed_at", sa.BigInteger(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_nodes")),
    )
    op.create_table(
        "outbox",
        sa.Column("n", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("ordering_key", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("event_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("dead_reason", sa.String(length=16), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("notice", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_outbox")),
        sa.UniqueConstraint("id", name=op.f("uq_outbox_id")),
    )
    op.create_index(
        "ix_outbox_dead",
        "outbox",
        ["dead_reason"],
        unique=False,
        sqlite_where=sa.text("dead_reason IS NOT NULL"),
        postgresql_where=sa.text("dead_reason IS NOT NULL"),
    )
    op.create_index("ix_outbox_event_id", "outbox", ["event_id"], unique=False)
    op.create_index(
        "ix_outbox_group",
        "outbox",
        ["channel", "ordering_key", "n"],
        unique=False,
        sqlite_where=sa.text("kind = 'group'"),
        postgresql_where=sa.text("kind = 'group'"),
    )
    op.create_index(
        "ix_outbox_open",
        "outbox",
        ["channel", "n"],
        unique=False,
        sqlite_where=sa.text("state IN ('pending', 'sending')"),
        postgresql_where=sa.text("state IN ('pending', 'sending')"),
    )
    op.create_index("ix_outbox_settled_at", "outbox", ["settled_at", "channel", "state"], unique=False)
    op.create_index("ix_outbox_state", "outbox", ["state", "n"], unique=False)
    op.create_table(
        "outbox_waits",
        sa.Column("notification_id", sa.String(length=32), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "notification_id", "node", "project", "scenario", "run_id", "start", name=op.f("pk_outbox_waits")
        ),
    )
    op.create_index(
        "ix_outbox_waits_run", "outbox_waits", ["node", "project", "scenario", "run_id", "start"], unique=False
    )
    op.create_table(
        "outcome_totals",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("node", "project", "scenario", "outcome", name=op.f("pk_outcome_totals")),
    )
    op.create_table(
        "projects",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("in_scope_since", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("node", "project", name=op.f("pk_projects")),
    )
    op.create_table(
        "rule_states",
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("rule", "node", "project", "scenario", name=op.f("pk_rule_states")),
    )
    op.create_index(
        "ix_rule_states_due",
        "rule_states",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("ix_rule_states_place", "rule_states", ["node", "project", "scenario"], unique=False)
    op.create_table(
        "run_details",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("read_at", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("steps", sa.Text(), nullable=False),
        sa.Column("log_tail", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("node", "project", "scenario", "run_id", "start", name=op.f("pk_run_details")),
    )
    op.create_table(
        "runs",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("trigger_type", sa.Text(), nullable=True),
        sa.Column("trigger_name", sa.Text(), nullable=True),
        sa.Column("fire_id", sa.Text(), nullable=True),
        sa.Column("run_as", sa.Text(), nullable=True),
        sa.Column("baseline", sa.Boolean(), nullable=False),
        sa.Column("late", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_by", sa.Text(), nullable=True),
        sa.Column("end_seen_at", sa.BigInteger(), nullable=True),
        sa.Column("absent_since", sa.BigInteger(), nullable=True),
        sa.Column("details_due_at", sa.BigInteger(), nullable=True),
        sa.Column("details_tries", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("node", "project", "scenario", "run_id", "start", name=op.f("pk_runs")),
    )
    op.create_index(
        "ix_runs_details_due",
        "runs",
        ["details_due_at"],
        unique=False,
        sqlite_where=sa.text("details_due_at IS NOT NULL"),
        postgresql_where=sa.text("details_due_at IS NOT NULL"),
    )
    op.create_index("ix_runs_end", "runs", ["end"], unique=False)
    op.create_index(
        "ix_runs_open",
        "runs",
        ["node", "project", "scenario"],
        unique=False,
        sqlite_where=sa.text('"end" IS NULL'),
        postgresql_where=sa.text('"end" IS NULL'),
    )
    op.create_index("ix_runs_recent", "runs", ["node", "project", "scenario", "start"], unique=False)
    op.create_index("ix_runs_start", "runs", ["start"], unique=False)
    op.create_table(
        "scenarios",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("scenario", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=True),
        sa.Column("run_as", sa.Text(), nullable=True),
        sa.Column("follows", sa.Text(), nullable=False),
        sa.Column("watched_since", sa.BigInteger(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=True),
        sa.Column("polled_at", sa.BigInteger(), nullable=True),
        sa.Column("status_read_at", sa.BigInteger(), nullable=True),
        sa.Column("next_run", sa.BigInteger(), nullable=True),
        sa.Column("last_end", sa.BigInteger(), nullable=True),
        sa.Column("last_outcome", sa.Text(), nullable=True),
        sa.Column("missing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.Column("backfilled", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("reporter_failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("node", "project", "scenario", name=op.f("pk_scenarios")),
    )
    op.create_table(
        "silences",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("matchers", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silences")),
    )
    op.create_index("ix_silences_ends_at", "silences", ["ends_at"], unique=False)
    op.create_table(
        "withheld",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("event_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("node", "receiver", "event_id", name=op.f("pk_withheld")),
    )
    op.create_table(
        "group_alerts",
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("alert_id", sa.String(length=32), nullable=False),
        sa.Column("kept", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_key"], ["groups.key"], name=op.f("fk_group_alerts_group_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group_key", "fingerprint", name=op.f("pk_group_alerts")),
    )
    op.create_index("ix_group_alerts_fingerprint", "group_alerts", ["fingerprint"], unique=False)
