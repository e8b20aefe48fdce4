"""Leases on the real database: one holder, no waiting for the dead."""

from __future__ import annotations

from datetime import timedelta

from backendai.bridges.postgres import Database, open_database
from backendai.storage import leases

HOUR = timedelta(hours=1)


async def test_a_lease_has_one_holder_while_it_lives(database: Database, database_url: str) -> None:
    async with open_database(database_url, application="first") as first:
        token = await leases.acquire(first, "duty", "first", HOUR)
        assert token is not None
        assert await leases.acquire(database, "duty", "second", HOUR) is None
        assert await leases.renew(first, "duty", token, HOUR)


async def test_the_lease_of_a_dead_process_is_free_at_once(database: Database, database_url: str) -> None:
    async with open_database(database_url, application="first") as first:
        token = await leases.acquire(first, "duty", "first", HOUR)
        assert token is not None
    async with open_database(database_url, application="second") as second:
        taken = None
        while taken is None:  # the server notices a closed connection a moment later
            taken = await leases.acquire(second, "duty", "second", HOUR)
        assert taken > token
        assert not await leases.renew(second, "duty", token, HOUR)
