from __future__ import annotations

import pytest
import trio

from backendai.bridges.postgres import Database, DatabaseUnavailable


async def test_json_and_numbers_travel(database: Database) -> None:
    row = await database.fetchrow("SELECT $1::jsonb AS data, 2 + $2::int AS number", {"a": [1, None]}, 3)
    assert row is not None
    assert row["data"] == {"a": [1, None]}
    assert row["number"] == 5


async def test_a_transaction_commits_or_rolls_back(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO domains (name) VALUES ('kept')")
    with pytest.raises(LookupError):  # noqa: PT012
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO domains (name) VALUES ('lost')")
            raise LookupError
    assert [row["name"] for row in await database.fetch("SELECT name FROM domains")] == ["kept"]


async def test_cancelling_a_statement_rolls_back_and_leaves_the_pool_usable(database: Database) -> None:
    for _ in range(3):
        with trio.move_on_after(0.05):
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO domains (name) VALUES ('lost')")
                await connection.fetch("SELECT pg_sleep(10)")
    assert await database.fetchval("SELECT count(*) FROM domains") == 0


async def test_callers_wait_for_a_free_connection(database: Database) -> None:
    most = 0
    running = 0

    async def use() -> None:
        nonlocal most, running
        async with database.connection() as connection:
            running += 1
            most = max(most, running)
            await connection.fetch("SELECT pg_sleep(0.01)")
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(use)
    assert most == 8


async def test_notifications_arrive_and_their_loss_raises(database: Database) -> None:
    async with database.listen("news") as feed:
        await database.execute("SELECT pg_notify('news', 'first')")
        with trio.fail_after(5):
            assert await anext(feed) == ("news", "first")
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        with trio.fail_after(5), pytest.raises(DatabaseUnavailable):
            await anext(feed)


async def test_a_cut_connection_is_replaced(database: Database) -> None:
    pid = await database.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
    assert await database.fetchval("SELECT pg_backend_pid()") != pid
