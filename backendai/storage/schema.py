"""The tables, declared once: alembic compares the database with this module; the queries are plain SQL
beside it.

Conventions: times are ``timestamptz``; a map of resource slots is ``jsonb`` of slot name to decimal string
in base units (``{"cpu": "2", "mem": "1073741824"}``); statuses are text, by the names the API shows.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_now = sa.text("now()")
_empty_map = sa.text("'{}'::jsonb")
_empty_list = sa.text("'[]'::jsonb")


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    default = None if nullable else _now
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def _map(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=_empty_map)


def _list(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=_empty_list)


def _flag(name: str, default: bool) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.true() if default else sa.false())


def _number(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=str(default))


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _optional(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text)


# -- accounts --------------------------------------------------------------------------------------

domains = sa.Table(
    "domains",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    _optional("description"),
    _flag("is_active", True),
    _time("created_at"),
    _time("modified_at"),
    _map("total_resource_slots"),
    _list("allowed_vfolder_hosts"),
    _list("allowed_docker_registries"),
    _optional("integration_id"),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column(
        "domain_name",
        sa.ForeignKey("domains.name", onupdate="CASCADE", ondelete="RESTRICT"),
        nullable=False,
    ),
    _optional("description"),
    _flag("is_active", True),
    _time("created_at"),
    _time("modified_at"),
    _map("total_resource_slots"),
    _list("allowed_vfolder_hosts"),
    _optional("integration_id"),
    sa.UniqueConstraint("domain_name", "name"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    sa.Column("username", sa.String(64), nullable=False, unique=True),
    sa.Column("email", sa.String(64), nullable=False, unique=True),
    _optional("password_hash"),
    _flag("need_password_change", False),
    _optional("full_name"),
    _optional("description"),
    _text("status", "active"),
    _optional("status_info"),
    _text("role", "user"),
    sa.Column(
        "domain_name",
        sa.ForeignKey("domains.name", onupdate="CASCADE", ondelete="RESTRICT"),
        nullable=False,
    ),
    _time("created_at"),
    _time("modified_at"),
    _optional("integration_id"),
    sa.Column("allowed_client_ip", JSONB),
    sa.CheckConstraint("role IN ('superadmin', 'admin', 'user', 'monitor')", name="role"),
    sa.CheckConstraint("status IN ('active', 'inactive', 'deleted', 'before-verification')", name="status"),
    sa.Index(None, "domain_name"),
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True),
)

keypair_resource_policies = sa.Table(
    "keypair_resource_policies",
    metadata,
    sa.Column("name", sa.String(256), primary_key=True),
    _time("created_at"),
    _text("default_for_unspecified", "UNLIMITED"),
    _map("total_resource_slots"),
    _number("max_session_lifetime"),
    _number("max_concurrent_sessions", 5),
    _number("max_containers_per_session", 1),
    sa.Column("idle_timeout", sa.BigInteger, nullable=False, server_default="3600"),
    _number("max_vfolder_count", 10),
    sa.Column("max_vfolder_size", sa.BigInteger, nullable=False, server_default="0"),
    _list("allowed_vfolder_hosts"),
    sa.Column("max_concurrent_sftp_sessions", sa.Integer, nullable=False, server_default="1"),
    sa.Column("max_pending_session_count", sa.Integer),
    sa.Column("max_pending_session_resource_slots", JSONB),
    #: Our own: may kernels of this policy reach the network.
    _flag("allow_network", False),
    sa.CheckConstraint("default_for_unspecified IN ('LIMITED', 'UNLIMITED')", name="unspecified"),
)

keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("access_key", sa.String(20), primary_key=True),
    # Signatures are computed from it, so it has to be stored as it is.
    sa.Column("secret_key", sa.String(40), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    _flag("is_active", True),
    _flag("is_admin", False),
    sa.Column("resource_policy", sa.ForeignKey("keypair_resource_policies.name"), nullable=False),
    _number("rate_limit", 30000),
    sa.Column("num_queries", sa.BigInteger, nullable=False, server_default="0"),
    _time("created_at"),
    _time("modified_at"),
    _time("last_used", nullable=True),
    _optional("ssh_public_key"),
    _optional("ssh_private_key"),
    _optional("bootstrap_script"),
)

# -- where sessions run ----------------------------------------------------------------------------

scaling_groups = sa.Table(
    "scaling_groups",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    _optional("description"),
    _flag("is_active", True),
    _flag("is_public", True),
    _time("created_at"),
    _optional("wsproxy_addr"),
    _optional("wsproxy_api_token"),
    _text("driver", "static"),
    _map("driver_opts"),
    _text("scheduler", "fifo"),
    _map("scheduler_opts"),
    _flag("use_host_network", False),
)

scaling_group_domains = sa.Table(
    "scaling_group_domains",
    metadata,
    sa.Column("scaling_group", sa.ForeignKey("scaling_groups.name", ondelete="CASCADE"), primary_key=True),
    sa.Column(
        "domain_name",
        sa.ForeignKey("domains.name", onupdate="CASCADE", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
)

scaling_group_projects = sa.Table(
    "scaling_group_projects",
    metadata,
    sa.Column("scaling_group", sa.ForeignKey("scaling_groups.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True),
)

scaling_group_keypairs = sa.Table(
    "scaling_group_keypairs",
    metadata,
    sa.Column("scaling_group", sa.ForeignKey("scaling_groups.name", ondelete="CASCADE"), primary_key=True),
    sa.Column(
        "access_key", sa.ForeignKey("keypairs.access_key", ondelete="CASCADE"), primary_key=True, index=True
    ),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    _text("status", "ALIVE"),
    _time("status_changed"),
    _text("region", "local"),
    _text("scaling_group", "default"),
    _flag("schedulable", True),
    _map("available_slots"),
    _text("address"),
    #: CURVE public key of the agent (Z85), for calls to it and to know who speaks; empty without encryption.
    _text("public_key", ""),
    _text("boot_id"),
    _text("architecture", "x86_64"),
    _text("engine", "process"),
    _text("version", ""),
    _map("compute_plugins"),
    _map("isolation"),
    _time("first_contact"),
    _time("lost_at", nullable=True),
    sa.CheckConstraint("status IN ('ALIVE', 'LOST', 'RESTARTING', 'TERMINATED')", name="status"),
)

agent_enrollments = sa.Table(
    "agent_enrollments",
    metadata,
    #: SHA-256 of the token: who reads the table cannot enroll with it.
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    _text("scaling_group", "default"),
    _time("created_at"),
    _time("expires_at", nullable=True),
    _time("redeemed_at", nullable=True),
)

agent_keys = sa.Table(
    "agent_keys",
    metadata,
    #: Which CURVE key may speak for an agent id. An agent may be known here before its first hello.
    sa.Column("agent_id", sa.String(64), primary_key=True),
    sa.Column("public_key", sa.String(40), nullable=False, unique=True),
    _time("created_at"),
)

# -- images ----------------------------------------------------------------------------------------

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    #: ``registry/name:tag``
    _text("canonical"),
    _text("architecture", "x86_64"),
    _text("registry"),
    _text("name"),
    _text("tag"),
    _text("digest", ""),
    _text("kernelspec", ""),
    _text("language", ""),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
    _map("labels"),
    #: Slot to ``{"min": str, "max": str | null}``.
    _map("resources"),
    _flag("is_active", True),
    _time("created_at"),
    sa.UniqueConstraint("canonical", "architecture"),
)

image_aliases = sa.Table(
    "image_aliases",
    metadata,
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id", ondelete="CASCADE"), nullable=False, index=True),
    #: Made from image names by the server; such an alias may move to a newer image.
    _flag("automatic", False),
)

agent_images = sa.Table(
    "agent_images",
    metadata,
    sa.Column("agent_id", sa.ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id", ondelete="CASCADE"), primary_key=True, index=True),
)

# -- sessions --------------------------------------------------------------------------------------

#: Owners are written without foreign keys: the record of a session outlives key pair, project and user.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    #: Order of arrival.
    sa.Column("ordinal", sa.BigInteger, sa.Identity(always=True), nullable=False, unique=True),
    sa.Column("name", sa.String(64), nullable=False),
    _text("type", "interactive"),
    _text("status", "PENDING"),
    _optional("status_info"),
    sa.Column("status_data", JSONB),
    _time("status_changed"),
    _text("result", "undefined"),
    sa.Column("exit_code", sa.Integer),
    sa.Column("access_key", sa.String(20), nullable=False),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("domain_name", sa.String(64), nullable=False),
    sa.Column("project_id", sa.Uuid, nullable=False),
    sa.Column("project_name", sa.String(64), nullable=False),
    sa.Column("scaling_group", sa.String(64)),
    _text("image"),
    _text("architecture", "x86_64"),
    _text("registry", ""),
    sa.Column("tag", sa.String(64)),
    _text("cluster_mode", "single-node"),
    _number("cluster_size", 1),
    _number("priority"),
    _map("requested_slots"),
    #: What was granted, all kernels together; stays after the end. Usage is summed from ``allocations``
    #: instead.
    _map("occupied_slots"),
    _map("resource_opts"),
    _map("environ"),
    _list("mounts"),
    _map("mount_map"),
    _list("preopen_ports"),
    #: Agents that a superadmin named; empty leaves the choice to the scheduler.
    _list("agent_list"),
    _optional("startup_command"),
    _optional("bootstrap_script"),
    _optional("callback_url"),
    sa.Column("batch_timeout", sa.Double),
    _flag("network", False),
    _time("starts_at", nullable=True),
    _time("created_at"),
    _time("scheduled_at", nullable=True),
    _time("terminated_at", nullable=True),
    #: When it was last seen to run code or to be connected with, to within seconds.
    _time("last_used", nullable=True),
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
    _text("cluster_role", "main"),
    _number("cluster_idx", 1),
    _text("cluster_hostname", "main1"),
    _text("image"),
    _text("architecture", "x86_64"),
    _text("registry", ""),
    _text("status", "PENDING"),
    _optional("status_info"),
    sa.Column("status_data", JSONB),
    _time("status_changed"),
    #: When the sweep takes the kernel out of its status; null where it may stay for ever.
    _time("deadline", nullable=True),
    sa.Column("agent_id", sa.String(64)),
    _optional("container_id"),
    _map("requested_slots"),
    _map("occupied_slots"),
    _map("resource_opts"),
    _list("preopen_ports"),
    _list("service_ports"),
    _map("isolation"),
    #: Milliseconds of each phase of the start, as the agent measured them.
    _map("timings"),
    sa.Column("exit_code", sa.Integer),
    sa.Column("last_stat", JSONB),
    _time("created_at"),
    _time("started_at", nullable=True),
    _time("terminated_at", nullable=True),
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
    _flag("truncated", False),
    _time("kept_at"),
    sa.Index(None, "kept_at"),
)

allocations = sa.Table(
    "allocations",
    metadata,
    #: One row per kernel and slot, from grant to release. What is in use is the sum of the open rows; what
    #: was used is the sum over closed ones. Nothing counts up and down.
    sa.Column("kernel_id", sa.Uuid, primary_key=True),
    sa.Column("slot", sa.String(64), primary_key=True),
    _time("started_at"),
    _time("ended_at", nullable=True),
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
    _text("status"),
    _optional("status_info"),
    _time("at"),
)

session_events = sa.Table(
    "session_events",
    metadata,
    #: Given by a trigger in the order of commit; it also fills what follows from the notice, and sends that.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    _time("at"),
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

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    #: Of the key pair that signed the request.
    sa.Column("access_key", sa.String(20), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    #: SHA-256 of the request in hexadecimal digits.
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True),
    _time("created_at"),
    sa.Index(None, "created_at"),
)

background_tasks = sa.Table(
    "background_tasks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    _text("name"),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("domain_name", sa.String(64), nullable=False),
    _text("status", "running"),
    sa.Column("current_progress", sa.Double, nullable=False, server_default="0"),
    sa.Column("total_progress", sa.Double, nullable=False, server_default="0"),
    _optional("message"),
    _list("errors"),
    _time("created_at"),
    #: Last sign of life of the process that runs it, or when it ended.
    _time("updated_at"),
    sa.CheckConstraint(
        "status IN ('running', 'done', 'partial_success', 'failed', 'cancelled')", name="status"
    ),
    sa.Index("ix_background_tasks_running", "updated_at", postgresql_where=sa.text("status = 'running'")),
)

# -- the service itself ----------------------------------------------------------------------------

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _text("holder"),
    #: Grows with every change of holder; a write under a lease carries it, so that a holder that slept is
    #: refused.
    sa.Column("token", sa.BigInteger, nullable=False),
    _time("expires_at"),
)

settings = sa.Table(
    "settings",
    metadata,
    #: Installation-wide values that change at run time: ``manager-status``, ``announcement``.
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", JSONB, nullable=False),
    _time("modified_at"),
)
