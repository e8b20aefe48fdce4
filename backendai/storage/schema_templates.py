"""The table of what sessions are made from."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from backendai.storage.columns import flag, metadata, time

session_templates = sa.Table(
    "session_templates",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    time("created_at"),
    flag("is_active", True),
    sa.Column(
        "domain_name",
        sa.ForeignKey("domains.name", onupdate="CASCADE", ondelete="CASCADE"),
        nullable=False,
    ),
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), index=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    #: ``task`` or ``cluster``.
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("name", sa.String(128)),
    #: May hold the password of a repository.
    sa.Column("template", JSONB, nullable=False),
    sa.CheckConstraint("type IN ('task', 'cluster')", name="type"),
)
