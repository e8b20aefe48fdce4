"""The tables of scaling groups, agents and images."""

from __future__ import annotations

import sqlalchemy as sa

from backendai.storage.columns import flag, json_map, metadata, optional, text, time

# -- where sessions run --------------------------------------------------------------------------------

scaling_groups = sa.Table(
    "scaling_groups",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    optional("description"),
    flag("is_active", True),
    flag("is_public", True),
    time("created_at"),
    optional("wsproxy_addr"),
    optional("wsproxy_api_token"),
    text("driver", "static"),
    json_map("driver_opts"),
    text("scheduler", "fifo"),
    json_map("scheduler_opts"),
    flag("use_host_network", False),
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
    text("status", "ALIVE"),
    time("status_changed"),
    text("region", "local"),
    text("scaling_group", "default"),
    flag("schedulable", True),
    json_map("available_slots"),
    text("address"),
    #: CURVE public key of the agent (Z85), for calls to it and to know who speaks; empty without encryption.
    text("public_key", ""),
    #: Where other agents deliver frames of sessions that are spread over several; empty if it takes no part.
    text("cluster_endpoint", ""),
    text("boot_id"),
    text("architecture", "x86_64"),
    text("engine", "process"),
    text("version", ""),
    json_map("compute_plugins"),
    json_map("isolation"),
    time("first_contact"),
    time("lost_at", nullable=True),
    sa.CheckConstraint("status IN ('ALIVE', 'LOST', 'RESTARTING', 'TERMINATED')", name="status"),
)

agent_enrollments = sa.Table(
    "agent_enrollments",
    metadata,
    #: SHA-256 of the token: who reads the table cannot enroll with it.
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    text("scaling_group", "default"),
    time("created_at"),
    time("expires_at", nullable=True),
    time("redeemed_at", nullable=True),
)

agent_keys = sa.Table(
    "agent_keys",
    metadata,
    #: Which CURVE key may speak for an agent id. An agent may be known here before its first hello.
    sa.Column("agent_id", sa.String(64), primary_key=True),
    sa.Column("public_key", sa.String(40), nullable=False, unique=True),
    time("created_at"),
)

# -- images --------------------------------------------------------------------------------------------

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    #: ``registry/name:tag``
    text("canonical"),
    text("architecture", "x86_64"),
    text("registry"),
    text("name"),
    text("tag"),
    text("digest", ""),
    text("kernelspec", ""),
    text("language", ""),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
    json_map("labels"),
    #: Slot to ``{"min": str, "max": str | null}``.
    json_map("resources"),
    flag("is_active", True),
    time("created_at"),
    sa.UniqueConstraint("canonical", "architecture"),
)

image_aliases = sa.Table(
    "image_aliases",
    metadata,
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id", ondelete="CASCADE"), nullable=False, index=True),
    #: Made from image names by the server; such an alias may move to a newer image.
    flag("automatic", False),
)

agent_images = sa.Table(
    "agent_images",
    metadata,
    sa.Column("agent_id", sa.ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id", ondelete="CASCADE"), primary_key=True, index=True),
)
