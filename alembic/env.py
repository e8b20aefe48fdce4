"""Run migrations over the connection that ``backendai.storage.migrate`` hands in; it is the one way in."""

from __future__ import annotations

from alembic import context
from backendai.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
