"""``backendai db``: the tables."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import trio

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import Database, DatabaseUnavailable, open_database
from backendai.cli import catalogue as c
from backendai.cli.build import database_url
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes
from backendai.storage.fitness import DatabaseUnfit, check_before_migration, check_before_use
from backendai.storage.seed import FirstAccounts, ensure_first_accounts


@click.group()
def db() -> None:
    """Bring the database to this version's tables, or compare."""


@db.command()
@takes(*c.DATABASE_COMMAND)
def upgrade(settings: Settings) -> None:
    """Apply every migration that is missing."""
    from backendai.storage import migrate

    url = _looked_at(settings, check_before_migration)
    before = migrate.current(url)
    migrate.upgrade(url)
    after = migrate.current(url)
    click.echo(f"at {after}, nothing to do" if before == after else f"from {before or 'nothing'} to {after}")


@db.command()
@takes(*c.DATABASE_COMMAND)
def current(settings: Settings) -> int:
    """Print the revision of the database and the one this version needs; exit status 1 when they differ."""
    from backendai.storage import migrate

    found, needed = migrate.current(_looked_at(settings)), migrate.newest()
    click.echo(f"{found or 'none'} (needed: {needed})")
    return 0 if found == needed else 1


@db.command()
@takes(*c.DATABASE_COMMAND)
def accounts(settings: Settings) -> None:
    """Make the first user and administrator where they are missing; print their key pairs as JSON."""
    url = _looked_at(settings, check_before_use)
    first = trio.run(_ensure_accounts, url)
    click.echo(json.dumps(first.content()))


@db.command()
@click.argument("message")
def revision(*, message: str) -> None:
    """Write the migration from the newest one to what the schema says now. For developers, in a checkout."""
    trio.run(_write_revision, message)


@db.command()
@click.option("--embedded", is_flag=True, help="Compare with what the migrations make of an empty database.")
@takes(*c.DATABASE_COMMAND)
def check(settings: Settings, *, embedded: bool) -> int:
    """Tell how the tables differ from what this version expects; exit status 1 when they do."""
    from backendai.storage import migrate

    differences = trio.run(_check_migrations) if embedded else migrate.check_drift(_looked_at(settings))
    for difference in differences:
        click.echo(difference)
    if not differences:
        click.echo("the tables are as they should be")
    return 1 if differences else 0


def _looked_at(settings: Settings, look: Callable[[Database], Awaitable[None]] | None = None) -> str:
    """The address of the database, once it was reached and ``look`` found it fit."""
    url = database_url(settings).reveal()

    async def reach() -> str | None:
        async with open_asyncio_loop():
            try:
                async with open_database(url, max_size=1) as database:
                    if look is not None:
                        await look(database)
            except (DatabaseUnavailable, DatabaseUnfit) as error:
                return str(error)
        return None

    if (problem := trio.run(reach)) is not None:
        raise click.ClickException(problem)
    return url


async def _ensure_accounts(url: str) -> FirstAccounts:
    async with (
        open_asyncio_loop(),
        open_database(url, max_size=1) as database,
        database.transaction() as connection,
    ):
        return await ensure_first_accounts(connection)


async def _check_migrations() -> list[str]:
    from backendai.storage import migrate

    async with _migrated_database() as url:
        return await trio.to_thread.run_sync(migrate.check_drift, url)


async def _write_revision(message: str) -> None:
    from backendai.storage import migrate

    async with _migrated_database() as url:
        await trio.to_thread.run_sync(migrate.write_revision, url, message)


@asynccontextmanager
async def _migrated_database() -> AsyncIterator[str]:
    """A database for the length of the body, empty but for what the migrations make."""
    from backendai.embedded.postgres import open_postgres
    from backendai.storage import migrate

    with tempfile.TemporaryDirectory(prefix="backendai-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        os.chmod(name, 0o711)  # noqa: S103  (root's PostgreSQL is another user and passes through)
        async with open_postgres(place / "postgres", place, durable=False) as postgres:
            url = postgres.url.reveal()
            await trio.to_thread.run_sync(migrate.upgrade, url)
            yield url
