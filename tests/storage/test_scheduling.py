"""However many schedulers run at once, on however many processes, nothing is ever given away twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import trio
import trio.lowlevel

from backendai.bridges.postgres import Database
from backendai.core.ids import new_session_id
from backendai.core.lifecycle import Deadlines, Ended
from backendai.core.session import SessionStatus
from backendai.manager.link import AgentAddress, AgentUnreachable
from backendai.manager.logs import LogArchive
from backendai.manager.reconciler import Reconciler
from backendai.manager.scheduler import Scheduler
from backendai.manager.transitions import Transitions
from backendai.storage import leases, sessions
from backendai.storage.leases import LeaseLost
from backendai.storage.seed import FirstAccounts
from backendai.wire.link import AgentAnswer, AgentCall

NOW = datetime.now(UTC)
DEADLINES = Deadlines(timedelta(days=1), timedelta(minutes=1), timedelta(minutes=1))


class Nobody:
    """Calls lead nowhere: only the book matters here."""

    async def call(self, target: AgentAddress, message: AgentCall, *, timeout: float) -> AgentAnswer:
        raise AgentUnreachable(target, "nobody is there")


async def enter(database: Database, accounts: FirstAccounts, number: int, cpu: str, access_key: str) -> UUID:
    owner = await database.fetchrow(
        "SELECT k.user_id, p.id AS project_id FROM keypairs k, projects p WHERE k.access_key = $1", access_key
    )
    assert owner is not None
    session_id = new_session_id()
    shared = {
        "image": "local/python:3.11",
        "architecture": "x86_64",
        "registry": "local",
        "status": "PENDING",
        "status_changed": NOW,
        "created_at": NOW,
        "resource_opts": {},
        "preopen_ports": [],
        "requested_slots": {"cpu": cpu, "mem": "1"},
    }
    session = {
        **shared,
        "id": session_id,
        "name": f"session-{number}",
        "type": "interactive",
        "access_key": access_key,
        "user_id": owner["user_id"],
        "domain_name": "default",
        "project_id": owner["project_id"],
        "project_name": "default",
        "scaling_group": "default",
        "cluster_mode": "single-node",
        "cluster_size": 1,
        "priority": 0,
        "environ": {},
        "mounts": [],
        "mount_map": {},
        "agent_list": [],
        "network": False,
    }
    kernel = {
        **shared,
        "id": session_id,
        "session_id": session_id,
        "cluster_role": "main",
        "cluster_idx": 1,
        "cluster_hostname": "main1",
        "deadline": NOW + timedelta(days=1),
    }
    await sessions.insert(database, session, [kernel], [], [])
    return session_id


async def add_agent(database: Database, name: str, cpu: str) -> None:
    await database.execute(
        """
        WITH a AS (
            INSERT INTO agents (id, address, boot_id, available_slots)
            VALUES ($1, 'tcp://nowhere:1', 'boot', $2) RETURNING id
        ), i AS (
            INSERT INTO images (canonical, registry, name, tag)
            VALUES ('local/python:3.11', 'local', 'python', '3.11')
            ON CONFLICT (canonical, architecture) DO UPDATE SET tag = '3.11' RETURNING id
        )
        INSERT INTO agent_images (agent_id, image_id) SELECT a.id, i.id FROM a, i
        """,
        name,
        {"cpu": cpu, "mem": "1000"},
    )


def scheduler(database: Database) -> Scheduler:
    nobody = Nobody()
    logs = LogArchive(database, nobody, timedelta(days=1))
    reconciler = Reconciler(Transitions(database, DEADLINES), nobody, logs, 1)
    return Scheduler(database, reconciler, lease_name="manager", start_timeout=timedelta(minutes=1))


async def test_concurrent_schedulers_never_overbook(database: Database, accounts: FirstAccounts) -> None:
    token = await leases.acquire(database, "manager", "all of us", timedelta(minutes=1))
    assert token is not None
    await database.execute("UPDATE keypair_resource_policies SET total_resource_slots = $1", {"cpu": "9"})
    for name, cpu in (("i-one", "4"), ("i-two", "6"), ("i-three", "3.5")):
        await add_agent(database, name, cpu)
    keys = (accounts.access_key, accounts.admin_access_key)
    sizes = ("0.5", "1", "1.5", "2", "3")
    placed: list[UUID] = []
    over: list[object] = []
    done = trio.Event()

    async def schedule() -> None:
        mine = scheduler(database)
        for _ in range(8):
            placed.extend(await mine.look(token))

    async def end_some() -> None:
        transitions = Transitions(database, DEADLINES)
        while not done.is_set():
            for session_id in placed[::3]:
                await transitions.apply(session_id, Ended("self-terminated", 0))
            await trio.sleep(0.01)

    async def watch() -> None:
        while not done.is_set():
            over.extend(await database.fetch(OVERBOOKED_AGENTS))
            over.extend(await database.fetch(OVERDRAWN_KEYS))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(end_some)
        async with trio.open_nursery() as schedulers:
            for _ in range(4):
                schedulers.start_soon(schedule)
            for number in range(60):
                await enter(database, accounts, number, sizes[number % 5], keys[number % 2])
        done.set()
    assert not over
    assert len(placed) == len(set(placed)) > 10
    statuses = await database.fetch("SELECT DISTINCT status FROM sessions WHERE id = ANY($1)", placed)
    assert {row["status"] for row in statuses} <= {SessionStatus.PREPARING, SessionStatus.TERMINATED}
    waiting = await database.fetch("SELECT status_info FROM sessions WHERE status = 'PENDING'")
    assert {row["status_info"] for row in waiting} <= {
        "predicate-checks-failed",
        "no-available-instances",
        None,
    }


OVERBOOKED_AGENTS = """
    SELECT a.id, x.slot FROM agents a JOIN allocations x ON x.agent_id = a.id AND x.ended_at IS NULL
    GROUP BY a.id, x.slot HAVING sum(x.amount) > (a.available_slots ->> x.slot)::numeric
"""
OVERDRAWN_KEYS = """
    SELECT access_key FROM allocations WHERE ended_at IS NULL AND slot = 'cpu' GROUP BY 1 HAVING sum(amount)
    > 9
"""


async def test_a_scheduler_whose_lease_is_gone_places_nothing(
    database: Database, accounts: FirstAccounts
) -> None:
    old = await leases.acquire(database, "manager", database.application, timedelta(minutes=1))
    assert old is not None
    assert await leases.acquire(database, "manager", "other", timedelta(minutes=1)) is None
    await leases.release(database, "manager", old)
    new = await leases.acquire(database, "manager", "other", timedelta(minutes=1))
    assert new is not None
    assert new > old
    assert not await leases.renew(database, "manager", old, timedelta(minutes=1))
    await add_agent(database, "i-one", "4")
    session_id = await enter(database, accounts, 1, "1", accounts.access_key)
    with pytest.raises(LeaseLost):
        await scheduler(database).look(old)
    assert await scheduler(database).look(new) == [session_id]


async def test_a_session_that_is_being_cancelled_is_left_alone(
    database: Database, accounts: FirstAccounts
) -> None:
    token = await leases.acquire(database, "manager", "me", timedelta(minutes=1))
    assert token is not None
    await add_agent(database, "i-one", "4")
    first = await enter(database, accounts, 1, "1", accounts.access_key)
    second = await enter(database, accounts, 2, "1", accounts.access_key)
    async with database.transaction() as connection:
        await connection.execute("UPDATE sessions SET status = 'CANCELLED' WHERE id = $1", first)
        with trio.fail_after(5):
            assert await scheduler(database).look(token) == [second]
