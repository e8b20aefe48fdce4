"""Which databases are worked with, and what is said of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from backendai.bridges.postgres import Database, DatabaseUnavailable, open_database
from backendai.storage import fitness, migrate, revisions
from backendai.storage.fitness import DatabaseUnfit, check_before_migration, check_before_use


@pytest.fixture
async def empty(asyncio_loop: None, database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        await database.execute("DROP SCHEMA public CASCADE")
        await database.execute("CREATE SCHEMA public")
        yield database


def test_the_files_tell_the_revisions() -> None:
    assert revisions.known()[-1] == migrate.newest()
    assert list(revisions.known()) == [f"{number:04d}" for number in range(1, len(revisions.known()) + 1)]


async def test_an_empty_database_may_be_migrated_but_not_used(empty: Database) -> None:
    await check_before_migration(empty)
    with pytest.raises(DatabaseUnfit, match=r"revision none and .* run `backendai db upgrade`"):
        await check_before_use(empty)


async def test_ours_is_used_when_it_is_not_older(database: Database) -> None:
    await check_before_migration(database)
    await check_before_use(database)
    await database.execute("UPDATE alembic_version SET version_num = '0001'")
    await check_before_migration(database)
    with pytest.raises(DatabaseUnfit, match="is at revision 0001 and"):
        await check_before_use(database)
    await database.execute("UPDATE alembic_version SET version_num = '9999'")
    await check_before_use(database)
    with pytest.raises(DatabaseUnfit, match="revision 9999, which this version does not know"):
        await check_before_migration(database)


async def test_what_is_of_somebody_else_is_left_alone(empty: Database) -> None:
    for name in ("bills", "clients", "debts", "exports"):
        await empty.execute(f"CREATE TABLE {name} (id int)")
    with pytest.raises(DatabaseUnfit, match=r"something else \(bills, clients, debts, ...\)"):
        await check_before_migration(empty)
    # Another program that uses alembic too, and numbers as we do.
    await empty.execute("CREATE TABLE alembic_version (version_num text)")
    await empty.execute("INSERT INTO alembic_version VALUES ('0001')")
    for check in (check_before_migration, check_before_use):
        with pytest.raises(DatabaseUnfit, match="something else"):
            await check(empty)


async def test_an_interrupted_first_migration_may_go_on(empty: Database) -> None:
    await empty.execute("CREATE TABLE alembic_version (version_num text)")
    await check_before_migration(empty)


async def test_too_old_a_server_and_one_without_rights(
    empty: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await empty.execute("DROP ROLE IF EXISTS guest")
    await empty.execute("CREATE ROLE guest LOGIN")
    try:
        guest = urlsplit(database_url)
        url = guest._replace(netloc=f"guest@{guest.netloc.rpartition('@')[2]}").geturl()
        async with open_database(url) as database:
            with pytest.raises(DatabaseUnfit, match="guest may not create tables"):
                await check_before_migration(database)
    finally:
        await empty.execute("DROP ROLE guest")
    monkeypatch.setattr(fitness, "OLDEST", 99)
    with pytest.raises(DatabaseUnfit, match="is too old: 99 or newer is needed"):
        await check_before_migration(empty)


async def test_a_refused_connection_is_no_database(asyncio_loop: None, database_url: str) -> None:
    parts = urlsplit(database_url)
    for url, reason in (
        (parts._replace(path="/nosuch").geturl(), 'database "nosuch" does not exist'),
        (parts._replace(netloc=f"nobody@{parts.netloc.rpartition('@')[2]}").geturl(), "nobody"),
        ("postgresql://somebody@/any?host=/nowhere", "No such file"),
    ):
        with pytest.raises(DatabaseUnavailable, match=reason):
            async with open_database(url):
                pass
