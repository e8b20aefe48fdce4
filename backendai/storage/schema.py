"""All tables: alembic compares the database with this module; the queries are plain SQL beside it."""

from __future__ import annotations

from backendai.storage import (
    schema_accounts,
    schema_fleet,
    schema_service,
    schema_sessions,
    schema_templates,
)
from backendai.storage.columns import metadata

__all__ = [
    "metadata",
    "schema_accounts",
    "schema_fleet",
    "schema_service",
    "schema_sessions",
    "schema_templates",
]
