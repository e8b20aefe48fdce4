"""Bring a database to the tables of this version, and tell whether it is there.

Everything here is synchronous and opens its own connection: call it before the service starts, or with
``trio.to_thread.run_sync``. One process migrates at a time (advisory lock); a migration that would wait
long for a lock, or run long, fails instead of holding up a live service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic import command
from backendai.storage import revisions
from backendai.storage.schema import metadata

T = TypeVar("T")

#: Any constant will do, as long as nothing else in the database uses it.
_MIGRATION_LOCK = 0x6261_636B
_LIMITS = {"lock_timeout": "10s", "statement_timeout": "120s"}


def upgrade(dsn: str) -> None:
    """Apply every migration that is missing. Does nothing on a database that is up to date."""

    def run(connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_lock(_MIGRATION_LOCK)))
        connection.commit()
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    _with_connection(dsn, run)


def current(dsn: str) -> str | None:
    """The revision the database is at; ``None`` when it was never migrated."""
    return _with_connection(dsn, lambda c: MigrationContext.configure(c).get_current_revision())


def newest() -> str:
    """The revision this version of the program needs."""
    return revisions.known()[-1]


def check_drift(dsn: str) -> list[str]:
    """What differs between the database and ``storage.schema``, one line each; empty when they agree."""

    def run(connection: sa.Connection) -> list[str]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [repr(difference) for difference in compare_metadata(context, metadata)]

    return _with_connection(dsn, run)


def write_revision(dsn: str, message: str) -> None:
    """Write a migration file with what ``storage.schema`` has and the database at ``dsn`` lacks."""

    def run(connection: sa.Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.revision(config, message, autogenerate=True, rev_id=f"{int(newest()) + 1:04d}")

    _with_connection(dsn, run)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(revisions.scripts()))
    config.set_main_option("path_separator", "os")
    return config


def _with_connection(dsn: str, run: Callable[[sa.Connection], T]) -> T:
    async def connect() -> Any:
        return await asyncpg.connect(dsn, server_settings=_LIMITS)

    async def main() -> T:
        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(run)
        finally:
            await engine.dispose()

    return asyncio.run(main())
