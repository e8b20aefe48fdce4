"""output of ended kernels: whether a log is all there is, and the runs"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_NO = sa.text("false")


def upgrade() -> None:
    for name in ("complete", "runs_lost"):
        op.add_column("kernel_logs", sa.Column(name, sa.Boolean(), server_default=_NO, nullable=False))
    # Of what was kept before, nothing more is to be had.
    op.execute("UPDATE kernel_logs SET complete = true, runs_lost = true")
    op.create_table(
        "kernel_runs",
        sa.Column("kernel_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("truncated", sa.Boolean(), server_default=_NO, nullable=False),
        sa.Column("first_index", sa.BigInteger(), nullable=False),
        sa.Column("next_index", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["kernel_id"],
            ["kernel_logs.kernel_id"],
            name=op.f("fk_kernel_runs_kernel_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("kernel_id", "run_id", name=op.f("pk_kernel_runs")),
    )


def downgrade() -> None:
    op.drop_table("kernel_runs")
    op.drop_column("kernel_logs", "runs_lost")
    op.drop_column("kernel_logs", "complete")
