"""kept logs: from a column of kernels to compressed rows that expire"""

from __future__ import annotations

import zlib

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_kernels = sa.table(
    "kernels",
    sa.column("id", sa.Uuid),
    sa.column("logs", sa.Text),
    sa.column("terminated_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    kept = op.create_table(
        "kernel_logs",
        sa.Column("kernel_id", sa.Uuid(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("truncated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("kept_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["kernel_id"], ["kernels.id"], name=op.f("fk_kernel_logs_kernel_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("kernel_id", name=op.f("pk_kernel_logs")),
    )
    op.create_index(op.f("ix_kernel_logs_kept_at"), "kernel_logs", ["kept_at"], unique=False)
    connection = op.get_bind()
    ids = connection.execute(sa.select(_kernels.c.id).where(_kernels.c.logs.is_not(None))).scalars()
    for kernel_id in ids.all():  # one at a time: a log may be long
        text, ended = connection.execute(
            sa.select(_kernels.c.logs, _kernels.c.terminated_at).where(_kernels.c.id == kernel_id)
        ).one()
        row = {"kernel_id": kernel_id, "content": zlib.compress(text.encode())}
        connection.execute(kept.insert().values({**row, "kept_at": ended} if ended else row))
    op.drop_column("kernels", "logs")


def downgrade() -> None:
    op.add_column("kernels", sa.Column("logs", sa.Text(), nullable=True))
    connection = op.get_bind()
    kept = sa.table("kernel_logs", sa.column("kernel_id", sa.Uuid), sa.column("content", sa.LargeBinary))
    for kernel_id in connection.execute(sa.select(kept.c.kernel_id)).scalars().all():
        content = connection.execute(
            sa.select(kept.c.content).where(kept.c.kernel_id == kernel_id)
        ).scalar_one()
        connection.execute(
            _kernels.update()
            .where(_kernels.c.id == kernel_id)
            .values(logs=zlib.decompress(content).decode(errors="replace"))
        )
    op.drop_table("kernel_logs")
