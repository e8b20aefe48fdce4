"""The tables the service keeps for itself."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from backendai.storage.columns import metadata, text, time

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    text("holder"),
    #: Grows with every change of holder; a write under a lease carries it, so that a holder that slept is
    #: refused.
    sa.Column("token", sa.BigInteger, nullable=False),
    time("expires_at"),
)

settings = sa.Table(
    "settings",
    metadata,
    #: Installation-wide values that change at run time: ``manager-status``, ``announcement``.
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", JSONB, nullable=False),
    time("modified_at"),
)
