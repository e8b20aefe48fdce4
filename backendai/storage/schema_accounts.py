"""The tables of domains, projects, users, key pairs and policies."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from backendai.storage.columns import flag, json_list, json_map, metadata, number, optional, text, time

domains = sa.Table(
    "domains",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    optional("description"),
    flag("is_active", True),
    time("created_at"),
    time("modified_at"),
    json_map("total_resource_slots"),
    json_list("allowed_vfolder_hosts"),
    json_list("allowed_docker_registries"),
    #: Here, of projects and of key pairs: files for the home directory of new kernels.
    json_list("dotfiles"),
    optional("integration_id"),
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
    optional("description"),
    flag("is_active", True),
    time("created_at"),
    time("modified_at"),
    json_map("total_resource_slots"),
    json_list("allowed_vfolder_hosts"),
    json_list("dotfiles"),
    optional("integration_id"),
    sa.UniqueConstraint("domain_name", "name"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    sa.Column("username", sa.String(64), nullable=False, unique=True),
    sa.Column("email", sa.String(64), nullable=False, unique=True),
    optional("password_hash"),
    flag("need_password_change", False),
    optional("full_name"),
    optional("description"),
    text("status", "active"),
    optional("status_info"),
    text("role", "user"),
    sa.Column(
        "domain_name",
        sa.ForeignKey("domains.name", onupdate="CASCADE", ondelete="RESTRICT"),
        nullable=False,
    ),
    time("created_at"),
    time("modified_at"),
    optional("integration_id"),
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
    time("created_at"),
    text("default_for_unspecified", "UNLIMITED"),
    json_map("total_resource_slots"),
    number("max_session_lifetime"),
    number("max_concurrent_sessions", 5),
    number("max_containers_per_session", 1),
    sa.Column("idle_timeout", sa.BigInteger, nullable=False, server_default="3600"),
    number("max_vfolder_count", 10),
    sa.Column("max_vfolder_size", sa.BigInteger, nullable=False, server_default="0"),
    json_list("allowed_vfolder_hosts"),
    sa.Column("max_concurrent_sftp_sessions", sa.Integer, nullable=False, server_default="1"),
    sa.Column("max_pending_session_count", sa.Integer),
    sa.Column("max_pending_session_resource_slots", JSONB),
    #: Our own: may kernels of this policy reach the network.
    flag("allow_network", False),
    sa.CheckConstraint("default_for_unspecified IN ('LIMITED', 'UNLIMITED')", name="unspecified"),
)

keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("access_key", sa.String(20), primary_key=True),
    # Signatures are computed from it, so it has to be stored as it is.
    sa.Column("secret_key", sa.String(40), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    flag("is_active", True),
    flag("is_admin", False),
    sa.Column("resource_policy", sa.ForeignKey("keypair_resource_policies.name"), nullable=False),
    number("rate_limit", 30000),
    sa.Column("num_queries", sa.BigInteger, nullable=False, server_default="0"),
    time("created_at"),
    time("modified_at"),
    time("last_used", nullable=True),
    optional("ssh_public_key"),
    optional("ssh_private_key"),
    optional("bootstrap_script"),
    json_list("dotfiles"),
)
