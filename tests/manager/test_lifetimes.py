"""Sessions end by the rules of their policies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from manager.conftest import FakeAgent, House, until

from backendai.bridges.postgres import Database
from backendai.storage import lifetimes


async def ended(house: House, name: str, reason: str) -> bool:
    record = await house.manager.sessions.resolve(house.user, name, stale=True)
    return record.status == "TERMINATED" and record.status_info == reason


async def test_a_session_that_nobody_uses_ends(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET idle_timeout = 1")
    await house.create("forgotten")
    await until(lambda: ended(house, "forgotten", "idle-timeout"))
    assert not agent.kernels


async def test_a_session_ends_at_its_age(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET max_session_lifetime = 1, idle_timeout = 9")
    await house.create("aged")
    await until(lambda: ended(house, "aged", "idle-session_lifetime"))


async def test_use_puts_the_end_off(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET idle_timeout = 3600")
    created = await house.create("used")
    assert created == "RUNNING"
    session_id = (await house.manager.sessions.resolve(house.user, "used")).session_id
    (before,) = await lifetimes.expiries(database, session_id)
    later = datetime.now(UTC) + timedelta(minutes=59)
    await lifetimes.note_use(database, [session_id], later)
    await lifetimes.note_use(database, [session_id], later + timedelta(seconds=1))  # too soon to write
    (after,) = await lifetimes.expiries(database, session_id)
    assert (after.rule, after.at) == ("idle-timeout", later + timedelta(hours=1))
    assert before.at < after.at
    assert await lifetimes.expired(database, before.at) == []
    assert [each.rule for each in await lifetimes.expired(database, after.at)] == ["idle-timeout"]


async def test_running_code_is_use(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET idle_timeout = 3600")
    await house.create("runs")
    session_id = (await house.manager.sessions.resolve(house.user, "runs")).session_id
    (before,) = await lifetimes.expiries(database, session_id)
    agent.busy = True

    async def put_off() -> bool:
        (after,) = await lifetimes.expiries(database, session_id)
        return after.at > before.at

    await until(put_off)


async def test_no_rule_no_end(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET idle_timeout = 0")
    await house.create("stays")
    session_id = (await house.manager.sessions.resolve(house.user, "stays")).session_id
    assert await lifetimes.expiries(database, session_id) == []
