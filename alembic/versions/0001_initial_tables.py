"""initial tables"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: Every process keeps accounts in memory; whoever changes one, by whatever means, tells them all.
_TELL_OF_ACCOUNTS = (
    """
    CREATE FUNCTION tell_keypair_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('notices', json_build_object(
            'type', 'AccountsChanged', 'access_key', COALESCE(NEW.access_key, OLD.access_key))::text);
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION tell_accounts_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('notices', '{"type": "AccountsChanged"}');
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER tell_changed AFTER INSERT OR DELETE
        OR UPDATE OF secret_key, user_id, is_active, is_admin, resource_policy, rate_limit
        ON keypairs FOR EACH ROW EXECUTE FUNCTION tell_keypair_changed()
    """,
    """
    CREATE TRIGGER tell_changed AFTER UPDATE OF email, status, role, domain_name
        ON users FOR EACH STATEMENT EXECUTE FUNCTION tell_accounts_changed()
    """,
    """
    CREATE TRIGGER tell_changed AFTER UPDATE OF name, is_active
        ON domains FOR EACH STATEMENT EXECUTE FUNCTION tell_accounts_changed()
    """,
)


def upgrade() -> None:
    op.create_table(
        "agent_enrollments",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scaling_group", sa.Text(), server_default="default", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("redeemed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_agent_enrollments")),
    )
    op.create_table(
        "agent_keys",
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", name=op.f("pk_agent_keys")),
        sa.UniqueConstraint("public_key", name=op.f("uq_agent_keys_public_key")),
    )
    op.create_table(
        "agents",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Text(), server_default="ALIVE", nullable=False),
        sa.Column(
            "status_changed", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("region", sa.Text(), server_default="local", nullable=False),
        sa.Column("scaling_group", sa.Text(), server_default="default", nullable=False),
        sa.Column("schedulable", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "available_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), server_default="", nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), server_default="x86_64", nullable=False),
        sa.Column("engine", sa.Text(), server_default="process", nullable=False),
        sa.Column("version", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "compute_plugins",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "isolation",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "first_contact", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('ALIVE', 'LOST', 'RESTARTING', 'TERMINATED')", name=op.f("ck_agents_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_table(
        "allocations",
        sa.Column("kernel_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("kernel_id", "slot", name=op.f("pk_allocations")),
    )
    op.create_index(
        "ix_allocations_open",
        "allocations",
        ["agent_id"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_allocations_time", "allocations", ["started_at"], unique=False)
    op.create_table(
        "domains",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "total_resource_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "allowed_vfolder_hosts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "allowed_docker_registries",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("integration_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_domains")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("canonical", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), server_default="x86_64", nullable=False),
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), server_default="", nullable=False),
        sa.Column("kernelspec", sa.Text(), server_default="", nullable=False),
        sa.Column("language", sa.Text(), server_default="", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "resources",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("canonical", "architecture", name=op.f("uq_images_canonical_architecture")),
    )
    op.create_table(
        "keypair_resource_policies",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("default_for_unspecified", sa.Text(), server_default="UNLIMITED", nullable=False),
        sa.Column(
            "total_resource_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("max_session_lifetime", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_concurrent_sessions", sa.Integer(), server_default="5", nullable=False),
        sa.Column("max_containers_per_session", sa.Integer(), server_default="1", nullable=False),
        sa.Column("idle_timeout", sa.BigInteger(), server_default="3600", nullable=False),
        sa.Column("max_vfolder_count", sa.Integer(), server_default="10", nullable=False),
        sa.Column("max_vfolder_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "allowed_vfolder_hosts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("max_concurrent_sftp_sessions", sa.Integer(), server_default="1", nullable=False),
        sa.Column("max_pending_session_count", sa.Integer(), nullable=True),
        sa.Column(
            "max_pending_session_resource_slots", postgresql.JSONB(astext_type=sa.Text()), nullable=True
        ),
        sa.Column("allow_network", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "default_for_unspecified IN ('LIMITED', 'UNLIMITED')",
            name=op.f("ck_keypair_resource_policies_unspecified"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keypair_resource_policies")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "scaling_groups",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("is_public", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("wsproxy_addr", sa.Text(), nullable=True),
        sa.Column("wsproxy_api_token", sa.Text(), nullable=True),
        sa.Column("driver", sa.Text(), server_default="static", nullable=False),
        sa.Column(
            "driver_opts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("scheduler", sa.Text(), server_default="fifo", nullable=False),
        sa.Column(
            "scheduler_opts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("use_host_network", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_scaling_groups")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("type", sa.Text(), server_default="interactive", nullable=False),
        sa.Column("status", sa.Text(), server_default="PENDING", nullable=False),
        sa.Column("status_info", sa.Text(), nullable=True),
        sa.Column("status_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "status_changed", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("result", sa.Text(), server_default="undefined", nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("project_name", sa.String(length=64), nullable=False),
        sa.Column("scaling_group", sa.String(length=64), nullable=True),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), server_default="x86_64", nullable=False),
        sa.Column("registry", sa.Text(), server_default="", nullable=False),
        sa.Column("tag", sa.String(length=64), nullable=True),
        sa.Column("cluster_mode", sa.Text(), server_default="single-node", nullable=False),
        sa.Column("cluster_size", sa.Integer(), server_default="1", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "requested_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "occupied_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "resource_opts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "environ",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "mounts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "mount_map",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "preopen_ports",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "agent_list",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("startup_command", sa.Text(), nullable=True),
        sa.Column("bootstrap_script", sa.Text(), nullable=True),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("batch_timeout", sa.Double(), nullable=True),
        sa.Column("network", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("terminated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("num_queries", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("ordinal", name=op.f("uq_sessions_ordinal")),
    )
    op.create_index("ix_sessions_created", "sessions", ["created_at"], unique=False)
    op.create_index(
        "ix_sessions_name",
        "sessions",
        ["access_key", "name"],
        unique=False,
        postgresql_ops={"name": "text_pattern_ops"},
    )
    op.create_index(
        "ix_sessions_pending",
        "sessions",
        ["ordinal"],
        unique=False,
        postgresql_where=sa.text("status = 'PENDING'"),
    )
    op.create_index("ix_sessions_status", "sessions", ["status", "created_at"], unique=False)
    op.create_index(
        "uq_sessions_live_name",
        "sessions",
        ["access_key", "name"],
        unique=True,
        postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_settings")),
    )
    op.create_table(
        "agent_images",
        sa.Column("agent_id", sa.String(length=64), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_id"], ["agents.id"], name=op.f("fk_agent_images_agent_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_agent_images_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("agent_id", "image_id", name=op.f("pk_agent_images")),
    )
    op.create_index(op.f("ix_agent_images_image_id"), "agent_images", ["image_id"], unique=False)
    op.create_table(
        "image_aliases",
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("automatic", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_image_aliases_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_image_aliases")),
    )
    op.create_index(op.f("ix_image_aliases_image_id"), "image_aliases", ["image_id"], unique=False)
    op.create_table(
        "kernels",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("cluster_role", sa.Text(), server_default="main", nullable=False),
        sa.Column("cluster_idx", sa.Integer(), server_default="1", nullable=False),
        sa.Column("cluster_hostname", sa.Text(), server_default="main1", nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), server_default="x86_64", nullable=False),
        sa.Column("registry", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Text(), server_default="PENDING", nullable=False),
        sa.Column("status_info", sa.Text(), nullable=True),
        sa.Column("status_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "status_changed", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agent_id", sa.String(length=64), nullable=True),
        sa.Column("container_id", sa.Text(), nullable=True),
        sa.Column(
            "requested_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "occupied_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "resource_opts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "preopen_ports",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "service_ports",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "isolation",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "timings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("last_stat", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("logs", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("terminated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_kernels_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kernels")),
        sa.UniqueConstraint(
            "session_id",
            "cluster_role",
            "cluster_idx",
            name=op.f("uq_kernels_session_id_cluster_role_cluster_idx"),
        ),
    )
    op.create_index(
        "ix_kernels_agent",
        "kernels",
        ["agent_id"],
        unique=False,
        postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    )
    op.create_index(
        "ix_kernels_deadline",
        "kernels",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("deadline IS NOT NULL"),
    )
    op.create_index(op.f("ix_kernels_session_id"), "kernels", ["session_id"], unique=False)
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "total_resource_slots",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "allowed_vfolder_hosts",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("integration_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["domain_name"],
            ["domains.name"],
            name=op.f("fk_projects_domain_name"),
            onupdate="CASCADE",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("domain_name", "name", name=op.f("uq_projects_domain_name_name")),
    )
    op.create_table(
        "scaling_group_domains",
        sa.Column("scaling_group", sa.String(length=64), nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain_name"],
            ["domains.name"],
            name=op.f("fk_scaling_group_domains_domain_name"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["scaling_group"],
            ["scaling_groups.name"],
            name=op.f("fk_scaling_group_domains_scaling_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("scaling_group", "domain_name", name=op.f("pk_scaling_group_domains")),
    )
    op.create_index(
        op.f("ix_scaling_group_domains_domain_name"), "scaling_group_domains", ["domain_name"], unique=False
    )
    op.create_table(
        "session_dependencies",
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("depends_on", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["depends_on"],
            ["sessions.id"],
            name=op.f("fk_session_dependencies_depends_on"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_session_dependencies_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", "depends_on", name=op.f("pk_session_dependencies")),
    )
    op.create_index(
        op.f("ix_session_dependencies_depends_on"), "session_dependencies", ["depends_on"], unique=False
    )
    op.create_table(
        "session_status_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_info", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_session_status_history_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session_status_history")),
    )
    op.create_index(
        op.f("ix_session_status_history_session_id"), "session_status_history", ["session_id"], unique=False
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("username", sa.String(length=64), nullable=False),
        sa.Column("email", sa.String(length=64), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("need_password_change", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("full_name", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("status_info", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), server_default="user", nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("integration_id", sa.Text(), nullable=True),
        sa.Column("allowed_client_ip", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("role IN ('superadmin', 'admin', 'user', 'monitor')", name=op.f("ck_users_role")),
        sa.CheckConstraint(
            "status IN ('active', 'inactive', 'deleted', 'before-verification')", name=op.f("ck_users_status")
        ),
        sa.ForeignKeyConstraint(
            ["domain_name"],
            ["domains.name"],
            name=op.f("fk_users_domain_name"),
            onupdate="CASCADE",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
        sa.UniqueConstraint("username", name=op.f("uq_users_username")),
    )
    op.create_index(op.f("ix_users_domain_name"), "users", ["domain_name"], unique=False)
    op.create_table(
        "keypairs",
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.Column("secret_key", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("is_admin", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("resource_policy", sa.String(length=256), nullable=False),
        sa.Column("rate_limit", sa.Integer(), server_default="30000", nullable=False),
        sa.Column("num_queries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ssh_public_key", sa.Text(), nullable=True),
        sa.Column("ssh_private_key", sa.Text(), nullable=True),
        sa.Column("bootstrap_script", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["resource_policy"], ["keypair_resource_policies.name"], name=op.f("fk_keypairs_resource_policy")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_keypairs_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("access_key", name=op.f("pk_keypairs")),
    )
    op.create_index(op.f("ix_keypairs_user_id"), "keypairs", ["user_id"], unique=False)
    op.create_table(
        "memberships",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_memberships_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_memberships_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "project_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_project_id"), "memberships", ["project_id"], unique=False)
    op.create_table(
        "scaling_group_projects",
        sa.Column("scaling_group", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_scaling_group_projects_project_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["scaling_group"],
            ["scaling_groups.name"],
            name=op.f("fk_scaling_group_projects_scaling_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("scaling_group", "project_id", name=op.f("pk_scaling_group_projects")),
    )
    op.create_index(
        op.f("ix_scaling_group_projects_project_id"), "scaling_group_projects", ["project_id"], unique=False
    )
    op.create_table(
        "scaling_group_keypairs",
        sa.Column("scaling_group", sa.String(length=64), nullable=False),
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["access_key"],
            ["keypairs.access_key"],
            name=op.f("fk_scaling_group_keypairs_access_key"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["scaling_group"],
            ["scaling_groups.name"],
            name=op.f("fk_scaling_group_keypairs_scaling_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("scaling_group", "access_key", name=op.f("pk_scaling_group_keypairs")),
    )
    op.create_index(
        op.f("ix_scaling_group_keypairs_access_key"), "scaling_group_keypairs", ["access_key"], unique=False
    )
    for statement in _TELL_OF_ACCOUNTS:
        op.execute(statement)


def downgrade() -> None:
    op.drop_index(op.f("ix_scaling_group_keypairs_access_key"), table_name="scaling_group_keypairs")
    op.drop_table("scaling_group_keypairs")
    op.drop_index(op.f("ix_scaling_group_projects_project_id"), table_name="scaling_group_projects")
    op.drop_table("scaling_group_projects")
    op.drop_index(op.f("ix_memberships_project_id"), table_name="memberships")
    op.drop_table("memberships")
    op.drop_index(op.f("ix_keypairs_user_id"), table_name="keypairs")
    op.drop_table("keypairs")
    op.drop_index(op.f("ix_users_domain_name"), table_name="users")
    op.drop_table("users")
    op.drop_index(op.f("ix_session_status_history_session_id"), table_name="session_status_history")
    op.drop_table("session_status_history")
    op.drop_index(op.f("ix_session_dependencies_depends_on"), table_name="session_dependencies")
    op.drop_table("session_dependencies")
    op.drop_index(op.f("ix_scaling_group_domains_domain_name"), table_name="scaling_group_domains")
    op.drop_table("scaling_group_domains")
    op.drop_table("projects")
    op.drop_index(op.f("ix_kernels_session_id"), table_name="kernels")
    op.drop_index(
        "ix_kernels_deadline", table_name="kernels", postgresql_where=sa.text("deadline IS NOT NULL")
    )
    op.drop_index(
        "ix_kernels_agent",
        table_name="kernels",
        postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    )
    op.drop_table("kernels")
    op.drop_index(op.f("ix_image_aliases_image_id"), table_name="image_aliases")
    op.drop_table("image_aliases")
    op.drop_index(op.f("ix_agent_images_image_id"), table_name="agent_images")
    op.drop_table("agent_images")
    op.drop_table("settings")
    op.drop_index(
        "uq_sessions_live_name",
        table_name="sessions",
        postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    )
    op.drop_index("ix_sessions_status", table_name="sessions")
    op.drop_index(
        "ix_sessions_pending", table_name="sessions", postgresql_where=sa.text("status = 'PENDING'")
    )
    op.drop_index("ix_sessions_name", table_name="sessions", postgresql_ops={"name": "text_pattern_ops"})
    op.drop_index("ix_sessions_created", table_name="sessions")
    op.drop_table("sessions")
    op.drop_table("scaling_groups")
    op.drop_table("leases")
    op.drop_table("keypair_resource_policies")
    op.drop_table("images")
    op.drop_table("domains")
    op.drop_index("ix_allocations_time", table_name="allocations")
    op.drop_index(
        "ix_allocations_open", table_name="allocations", postgresql_where=sa.text("ended_at IS NULL")
    )
    op.drop_table("allocations")
    op.drop_table("agents")
    op.drop_table("agent_keys")
    op.drop_table("agent_enrollments")
    op.execute("DROP FUNCTION tell_keypair_changed")
    op.execute("DROP FUNCTION tell_accounts_changed")
