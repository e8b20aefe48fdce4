"""links of agents: where others deliver frames of sessions that are spread over several"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("agents", sa.Column("cluster_endpoint", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("agents", "cluster_endpoint")
