from __future__ import annotations

import trio

from backendai.bridges.postgres import Database
from backendai.storage import migrate
from backendai.storage.seed import ensure_first_accounts


def test_the_migrations_make_exactly_the_declared_tables(database_url: str) -> None:
    assert migrate.current(database_url) == migrate.newest()
    assert migrate.check_drift(database_url) == []


def test_migrating_again_does_nothing(database_url: str) -> None:
    migrate.upgrade(database_url)
    assert migrate.current(database_url) == migrate.newest()


async def test_first_accounts_are_made_once(database: Database) -> None:
    found = []

    async def ensure() -> None:
        async with database.transaction() as connection:
            found.append(await ensure_first_accounts(connection))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ensure)
    assert len(set(found)) == 1
    assert len(found[0].secret_key.reveal()) == 40
    assert await database.fetchval("SELECT count(*) FROM keypairs") == 2
    assert await database.fetchval("SELECT count(*) FROM memberships") == 2
    assert found[0].secret_key.reveal() not in repr(found[0])
