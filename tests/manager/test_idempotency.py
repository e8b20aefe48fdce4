"""A create that is sent again never makes a second session."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
import trio
from manager.conftest import FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.errors import IdempotencyKeyReused, SessionAlreadyExists
from backendai.core.session import Idempotency, SessionCreated
from backendai.storage import idempotency as store

ONE = Idempotency(key="one", fingerprint="a" * 64)


async def create(
    house: House,
    name: str,
    idempotency: Idempotency = ONE,
    *,
    as_user: Principal | None = None,
    **more: object,
) -> SessionCreated:
    user = as_user or house.user
    more = {"reuse": False, **more}
    return await house.manager.sessions.create(user, user, wish(name, **more), idempotency)


async def count(database: Database) -> int:
    number: int = await database.fetchval("SELECT count(*) FROM sessions")
    return number


async def test_after_the_client_gave_up_waiting(house: House, agent: FakeAgent, database: Database) -> None:
    agent.mood = "ignore"
    with trio.move_on_after(0.3) as patience:
        await create(house, "patient")
    assert patience.cancelled_caught
    again: list[SessionCreated] = []

    async def send_again() -> None:
        again.append(await create(house, "patient"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_again)
        await until(lambda: house.manager.board._by_session)  # it waits
        agent.mood = "run"
        agent.reboot()
    assert await count(database) == 1
    assert (again[0].status, again[0].created) == ("RUNNING", True)
    assert [port["name"] for port in again[0].service_ports] == ["ttyd"]
    assert (await create(house, "patient")).session_id == again[0].session_id


async def test_all_at_once(house: House, agent: FakeAgent, database: Database) -> None:
    found: list[UUID] = []

    async def send() -> None:
        found.append((await create(house, "popular")).session_id)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(send)
    assert len(found) == 12
    assert len(set(found)) == 1
    assert await count(database) == 1


async def test_after_the_session_has_ended(house: House, agent: FakeAgent, database: Database) -> None:
    first = await create(house, "brief")
    await house.manager.sessions.destroy(house.user, house.user, "brief")
    await until(lambda: not agent.kernels)

    async def over() -> bool:
        return (await create(house, "brief")).status == "TERMINATED"

    await until(over)
    assert (await create(house, "brief")).session_id == first.session_id
    assert await count(database) == 1


async def test_a_key_means_one_request_of_one_account(
    house: House, agent: FakeAgent, database: Database
) -> None:
    await create(house, "first")
    with pytest.raises(IdempotencyKeyReused):
        await create(house, "second", Idempotency(key="one", fingerprint="b" * 64))
    with pytest.raises(SessionAlreadyExists):
        await create(house, "first", Idempotency(key="two", fingerprint="a" * 64))
    await create(house, "first", as_user=house.admin)
    assert await count(database) == 2


async def test_a_key_expires(house: House, agent: FakeAgent, database: Database) -> None:
    first = await create(house, "daily")
    await house.manager.sessions.destroy(house.user, house.user, "daily")
    await until(lambda: not agent.kernels)
    await database.execute("UPDATE idempotency_keys SET created_at = created_at - interval '24 hours'")

    async def made_anew() -> bool:
        try:
            return (await create(house, "daily")).session_id != first.session_id
        except SessionAlreadyExists:
            return False  # the first is not quite gone

    await until(made_anew)
    assert await count(database) == 2
    await database.execute("UPDATE idempotency_keys SET created_at = created_at - interval '24 hours'")
    await house.manager.sessions.forget_requests()
    assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    assert timedelta(hours=24) == store.RETENTION


async def test_a_refused_request_leaves_no_key(house: House, agent: FakeAgent, database: Database) -> None:
    await house.create("taken")
    with pytest.raises(SessionAlreadyExists):
        await create(house, "taken")
    assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 0
