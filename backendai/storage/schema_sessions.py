"""The tables of sessions, kernels and what is kept of them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from backendai.storage.columns import flag, json_list, json_map, metadata, number, optional, text, time

#: Owners are written without foreign keys: the record of a session outlives key pair, project and user.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    #: Order of arrival.
    sa.Column("ordinal", sa.BigInteger, sa.Identity(always=True), nullable=False, unique=True),
    sa.Column("name", sa.String(64), nullable=False),
    text("type", "interactive"),
    text("status", "PENDING"),
    optional("status_info"),
    sa.Column("status_data", JSONB),
    time("status_changed"),
    text("result", "undefined"),
    sa.Column("exit_code", sa.Integer),
    sa.Column("access_key", sa.String(20), nullable=False),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("domain_name", sa.String(64), nullable=False),
    sa.Column("project_id", sa.Uuid, nullable=False),
    sa.Column("project_name", sa.String(64), nullable=False),
    sa.Column("scaling_group", sa.String(64)),
    text("image"),
    text("architecture", "x86_64"),
    text("registry", ""),
    sa.Column("tag", sa.String(64)),
    text("cluster_mode", "single-node"),
    number("cluster_size", 1),
    number("priority"),
    json_map("requested_slots"),
    #: What was granted, all kernels together; stays after the end. Usage is summed from ``allocations``
    #: instead.
    json_map("occupied_slots"),
    json_map("resource_opts"),
    json_map("environ"),
    json_list("mounts"),
    json_map("mount_map"),
    json_list("preopen_ports"),
    #: Agents that a superadmin named; empty leaves the choice to the scheduler.
    json_list("agent_list"),
    optional("startup_command"),
    optional("bootstrap_script"),
    optional("callback_url"),
    sa.Column("batch_timeout", sa.Double),
    flag("network", False),
    time("starts_at", nullable=True),
    time("created_at"),
    time("scheduled_at", nullable=True),
    time("terminated_at", nullable=True),
    #: When it was last seen to run code or to be connected with, to within seconds.
    time("last_used", nullable=True),
    sa.Column("num_queries", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index(
        "uq_sessions_live_name",
        "access_key",
        "name",
        unique=True,
        postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    ),
    sa.Index("ix_sessions_name", "access_key", "name", postgresql_ops={"name": "text_pattern_ops"}),
    sa.Index("ix_sessions_pending", "ordinal", postgresql_where=sa.text("status = 'PENDING'")),
    sa.Index("ix_sessions_status", "status", "created_at"),
    sa.Index("ix_sessions_created", "created_at"),
)

kernels = sa.Table(
    "kernels",
    metadata,
    #: The main kernel has the UUID of its session.
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    text("cluster_role", "main"),
    number("cluster_idx", 1),
    text("cluster_hostname", "main1"),
    text("image"),
    text("architecture", "x86_64"),
    text("registry", ""),
    text("status", "PENDING"),
    optional("status_info"),
    sa.Column("status_data", JSONB),
    time("status_changed"),
    #: When the sweep takes the kernel out of its status; null where it may stay for ever.
    time("deadline", nullable=True),
    sa.Column("agent_id", sa.String(64)),
    optional("container_id"),
    json_map("requested_slots"),
    json_map("occupied_slots"),
    json_map("resource_opts"),
    json_list("preopen_ports"),
    json_list("service_ports"),
    json_map("isolation"),
    #: Milliseconds of each phase of the start, as the agent measured them.
    json_map("timings"),
    sa.Column("exit_code", sa.Integer),
    sa.Column("last_stat", JSONB),
    time("created_at"),
    time("started_at", nullable=True),
    time("terminated_at", nullable=True),
    sa.UniqueConstraint("session_id", "cluster_role", "cluster_idx"),
    sa.Index("ix_kernels_deadline", "deadline", postgresql_where=sa.text("deadline IS NOT NULL")),
    sa.Index(
        "ix_kernels_agent",
        "agent_id",
        postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    ),
)

kernel_logs = sa.Table(
    "kernel_logs",
    metadata,
    sa.Column("kernel_id", sa.ForeignKey("kernels.id", ondelete="CASCADE"), primary_key=True),
    #: zlib: the end of what the kernel printed, copied when it ended.
    sa.Column("content", sa.LargeBinary, nullable=False),
    flag("truncated", False),
    #: Copied after the kernel's end, and its runs as well unless those were lost.
    flag("complete", False),
    flag("runs_lost", False),
    time("kept_at"),
    sa.Index(None, "kept_at"),
)

kernel_runs = sa.Table(
    "kernel_runs",
    metadata,
    #: The runs of an ended kernel, to be replayed as long as its log is kept.
    sa.Column("kernel_id", sa.ForeignKey("kernel_logs.kernel_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("exit_code", sa.Integer),
    flag("truncated", False),
    #: Items before it were cut off.
    sa.Column("first_index", sa.BigInteger, nullable=False),
    sa.Column("next_index", sa.BigInteger, nullable=False),
    #: zlib: the records of the items.
    sa.Column("content", sa.LargeBinary, nullable=False),
)

allocations = sa.Table(
    "allocations",
    metadata,
    #: One row per kernel and slot, from grant to release. What is in use is the sum of the open rows; what
    #: was used is the sum over closed ones. Nothing counts up and down.
    sa.Column("kernel_id", sa.Uuid, primary_key=True),
    sa.Column("slot", sa.String(64), primary_key=True),
    time("started_at"),
    time("ended_at", nullable=True),
    sa.Column("amount", sa.Numeric, nullable=False),
    sa.Column("agent_id", sa.String(64), nullable=False),
    sa.Column("access_key", sa.String(20), nullable=False),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("project_id", sa.Uuid, nullable=False),
    sa.Column("domain_name", sa.String(64), nullable=False),
    sa.Index("ix_allocations_open", "agent_id", postgresql_where=sa.text("ended_at IS NULL")),
    sa.Index("ix_allocations_time", "started_at"),
)

session_status_history = sa.Table(
    "session_status_history",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    text("status"),
    optional("status_info"),
    time("at"),
)

session_events = sa.Table(
    "session_events",
    metadata,
    #: Given by a trigger in the order of commit; it also fills what follows from the notice, and sends that.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    time("at"),
    sa.Column("session_id", sa.Uuid, nullable=False),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("domain_name", sa.String(64), nullable=False),
    #: A ``core.notice.SessionChanged``.
    sa.Column("notice", JSONB, nullable=False),
    sa.Index(None, "at"),
)

session_dependencies = sa.Table(
    "session_dependencies",
    metadata,
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("depends_on", sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True, index=True),
)

callbacks = sa.Table(
    "callbacks",
    metadata,
    #: The number of the event; the trigger of session_events makes the entry.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    text("event"),
    text("url"),
    time("created_at"),
    number("attempts"),
    #: Null once it is given up.
    sa.Column("next_attempt", sa.DateTime(timezone=True), server_default=sa.text("now()"), index=True),
    optional("last_error"),
    sa.Index("ix_callbacks_session_id", "session_id", "id"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    #: Of the key pair that signed the request.
    sa.Column("access_key", sa.String(20), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    #: SHA-256 of the request in hexadecimal digits.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    time("created_at"),
    sa.Index(None, "created_at"),
)

background_tasks = sa.Table(
    "background_tasks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    text("name"),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("domain_name", sa.String(64), nullable=False),
    text("status", "running"),
    sa.Column("current_progress", sa.Double, nullable=False, server_default="0"),
    sa.Column("total_progress", sa.Double, nullable=False, server_default="0"),
    optional("message"),
    json_list("errors"),
    time("created_at"),
    #: Last sign of life of the process that runs it, or when it ended.
    time("updated_at"),
    sa.CheckConstraint(
        "status IN ('running', 'done', 'partial_success', 'failed', 'cancelled')", name="status"
    ),
    sa.Index("ix_background_tasks_running", "updated_at", postgresql_where=sa.text("status = 'running'")),
)
