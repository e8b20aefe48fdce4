"""Agents that are silent, forgetful or gone; managers that die; messages that are lost or come twice."""

from __future__ import annotations

from uuid import uuid4

import pytest
import trio
from manager.conftest import FakeAgent, House, open_house, until, wish

from backendai.bridges.postgres import Database, DatabaseUnavailable
from backendai.core.errors import ServiceUnavailable
from backendai.core.kernel import KernelSpec
from backendai.manager.memory_link import Faults
from backendai.manager.open import Manager
from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts
from backendai.wire.link import CreateKernel, DestroyKernel, KernelFailed, KernelStarted, KernelTerminated

OPEN_ALLOCATIONS = "SELECT count(*) FROM allocations WHERE ended_at IS NULL"


async def is_(house: House, name: str, status: str) -> bool:
    return await house.status(name) == status


async def info(house: House, name: str) -> str | None:
    return (await house.manager.sessions.resolve(house.user, name, stale=True)).status_info


async def agent_is(house: House, status: str) -> bool:
    return await house.manager.database.fetchval("SELECT status FROM agents") == status


async def nothing_allocated(house: House) -> bool:
    return await house.manager.database.fetchval(OPEN_ALLOCATIONS) == 0


async def test_a_refused_or_failed_start_cancels_with_the_reason(house: House) -> None:
    agent = await house.add_agent(FakeAgent("i-one", mood="refuse"))
    assert await house.create("refused") == "CANCELLED"
    agent.mood = "fail"
    assert await house.create("failed") == "CANCELLED"
    for name, code in (("refused", "no-capacity"), ("failed", "no-sandbox")):
        record = await house.manager.sessions.resolve(house.user, name, stale=True)
        assert record.status_info == "failed-to-start"
        assert record.status_data is not None
        assert record.status_data["error"]["name"] == code
    assert await nothing_allocated(house)


async def test_an_agent_that_never_starts_anything_runs_into_the_deadline(
    house: House, database: Database
) -> None:
    await house.add_agent(FakeAgent("i-one", mood="ignore"))
    assert await house.create("waits") == "CANCELLED"
    assert await info(house, "waits") == "failed-to-start"
    assert await nothing_allocated(house)


async def test_a_silent_agent_is_lost_and_comes_back_with_its_kernels(house: House, agent: FakeAgent) -> None:
    await house.create("patient")
    house.network.cut_off.add(agent.address.address)
    await until(lambda: agent_is(house, "LOST"))
    assert await house.status("patient") == "RUNNING"
    house.network.cut_off.clear()
    await until(lambda: agent_is(house, "ALIVE"))
    assert (await house.status("patient"), await info(house, "patient")) == ("RUNNING", None)
    assert agent.kernels


async def test_an_agent_that_stays_away_gives_its_kernels_up(house: House, agent: FakeAgent) -> None:
    await house.create("lost-one")
    house.network.cut_off.add(agent.address.address)
    await until(lambda: is_(house, "lost-one", "TERMINATED"))
    assert await info(house, "lost-one") == "agent-termination"
    assert await nothing_allocated(house)
    house.network.cut_off.clear()
    await until(lambda: not agent.kernels)  # what it still had is ended once it is back


async def test_a_kernel_that_is_gone_without_a_word_is_found_missing(house: House, agent: FakeAgent) -> None:
    await house.create("vanishes")
    agent.kernels.clear()
    await until(lambda: is_(house, "vanishes", "TERMINATED"))
    assert await info(house, "vanishes") == "missing-agent-allocation"


async def test_a_kernel_nobody_knows_is_ended(house: House, agent: FakeAgent) -> None:
    stray = uuid4()
    agent.kernels[stray] = KernelSpec(kernel_id=stray, session_id=stray, session_name="stray", image="python")
    await until(lambda: stray not in agent.kernels)


async def test_an_agent_that_forgot_the_order_gets_it_again(house: House) -> None:
    agent = await house.add_agent(FakeAgent("i-one", mood="ignore"))
    await house.create("again", enqueue_only=True)
    await until(lambda: is_(house, "again", "PREPARING"))
    agent.mood = "run"
    agent.reboot()
    await until(lambda: is_(house, "again", "RUNNING"))


async def test_a_reboot_without_kernels_ends_their_sessions(house: House, agent: FakeAgent) -> None:
    await house.create("crashed")
    agent.kernels.clear()
    agent.reboot()
    await until(lambda: is_(house, "crashed", "TERMINATED"))
    assert await info(house, "crashed") == "missing-agent-allocation"


async def test_facts_said_twice_change_nothing(house: House, agent: FakeAgent) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("twice"))
    spec = agent.kernels[created.session_id]
    for _ in range(3):
        agent.tell(KernelStarted(kernel_id=spec.kernel_id, facts=agent.facts(spec)))
    agent.end(spec.kernel_id, "self-terminated", 0)
    agent.tell(KernelTerminated(kernel_id=spec.kernel_id, reason="self-terminated", exit_code=0))
    agent.tell(KernelStarted(kernel_id=spec.kernel_id, facts=agent.facts(spec)))
    await until(lambda: is_(house, "twice", "TERMINATED"))
    await until(lambda: any(isinstance(call, DestroyKernel) for call in agent.calls))
    history = await house.manager.database.fetch("SELECT status FROM session_status_history ORDER BY id")
    assert [row["status"] for row in history] == [
        "PENDING",
        "SCHEDULED",
        "PREPARING",
        "RUNNING",
        "TERMINATED",
    ]


async def test_whatever_a_kernel_printed_as_its_last_words_can_be_kept(
    house: House, agent: FakeAgent
) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("nasty"))
    agent.end(created.session_id, "\0" + "x" * 20_000, 1)
    await until(lambda: is_(house, "nasty", "TERMINATED"))
    agent.mood = "ignore"
    queued = await house.manager.sessions.create(house.user, house.user, wish("nastier", enqueue_only=True))
    await until(lambda: is_(house, "nastier", "PREPARING"))
    agent.tell(KernelFailed(kernel_id=queued.session_id, code="failed", detail="\0\x1b[31m" * 20_000))
    await until(lambda: is_(house, "nastier", "CANCELLED"))


async def test_an_agent_is_not_believed_about_kernels_of_others(house: House, agent: FakeAgent) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("honest"))
    liar = await house.add_agent(FakeAgent("i-liar"))
    liar.tell(KernelTerminated(kernel_id=created.session_id, reason="lie", exit_code=0))
    other = await house.manager.sessions.create(house.user, house.user, wish("another"))
    assert other.status == "RUNNING"
    await until(lambda: not liar.unacknowledged)
    assert await house.status("honest") == "RUNNING"


async def test_destroying_on_an_agent_out_of_reach_is_done_later(house: House, agent: FakeAgent) -> None:
    await house.create("unreachable")
    house.network.cut_off.add(agent.address.address)
    stats = await house.manager.sessions.destroy(house.user, house.user, "unreachable")
    assert stats["status"] == "terminated"
    house.network.cut_off.clear()
    await until(lambda: is_(house, "unreachable", "TERMINATED"))
    await until(lambda: not agent.kernels)


async def test_goodbye(house: House, agent: FakeAgent) -> None:
    await house.create("leaves")
    agent.goodbye("shutdown")
    await until(lambda: is_(house, "leaves", "TERMINATED"))
    assert await agent_is(house, "TERMINATED")


async def test_everything_comes_to_an_end_over_a_bad_network(
    asyncio_loop: None, settings: ManagerSettings, accounts: FirstAccounts
) -> None:
    faults = Faults(drop=0.2, double=0.3, max_delay=0.05)
    async with open_house(settings, accounts, faults) as house:
        agents = [await house.add_agent(FakeAgent(f"i-{number}")) for number in range(2)]
        names = [f"session-{number}" for number in range(12)]
        small = {"cpu": "0.5", "mem": "128m"}

        async def live(name: str) -> None:
            status = await house.create(name, resources=small, max_wait=0)
            if status == "RUNNING":
                await house.manager.sessions.destroy(house.user, house.user, name)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(live, name)
        for name in names:
            await until(lambda name=name: _dead(house, name), seconds=20)
        await until(lambda: nothing_allocated(house))
        await until(lambda: not any(agent.kernels for agent in agents), seconds=20)


async def _dead(house: House, name: str) -> bool:
    return await house.status(name) in ("TERMINATED", "CANCELLED")


@pytest.fixture
async def rooms(
    asyncio_loop: None, settings: ManagerSettings, accounts: FirstAccounts
) -> tuple[ManagerSettings, FirstAccounts]:
    return settings, accounts


@pytest.mark.parametrize(
    "status", ["PENDING", "SCHEDULED", "PREPARING", "RUNNING", "RESTARTING", "TERMINATING"]
)
async def test_a_manager_that_starts_again_takes_every_session_on(
    rooms: tuple[ManagerSettings, FirstAccounts], status: str
) -> None:
    agent = FakeAgent("i-one", mood="ignore" if status != "RUNNING" else "run")
    async with open_house(*rooms) as house:
        await house.add_agent(agent)
        if status in ("RESTARTING", "TERMINATING"):
            agent.mood = "run"
        await house.create("carried", max_wait=0.3)
        await _force(house.manager, status)
    agent.mood = "run"
    agent.accepted = trio.Event()
    expected = {"TERMINATING": "TERMINATED"}.get(status, "RUNNING")
    async with open_house(*rooms) as house:
        await house.add_agent(agent)
        await until(lambda: is_(house, "carried", expected))
        starts = [call for call in agent.calls if isinstance(call, CreateKernel)]
        assert starts


async def _force(manager: Manager, status: str) -> None:
    """Leave the book as a manager leaves it that dies right after this status was written."""
    await manager.database.execute("UPDATE sessions SET status = $1", status)
    await manager.database.execute(
        "UPDATE kernels SET status = $1, deadline = now() + interval '5 s'", status
    )
    if status == "PENDING":
        await manager.database.execute("UPDATE kernels SET agent_id = NULL")
        await manager.database.execute("DELETE FROM allocations")


async def test_only_one_of_two_managers_works_and_the_other_takes_over(
    rooms: tuple[ManagerSettings, FirstAccounts], database: Database
) -> None:
    async with open_house(*rooms) as first:
        holder = await database.fetchval("SELECT holder FROM leases")
        async with open_house(*rooms) as second:
            await first.add_agent(FakeAgent("i-one"))
            # The second hears of everything, though the first does it.
            created = await second.manager.sessions.create(second.user, second.user, wish("shared"))
            assert created.status == "RUNNING"
            assert await database.fetchval("SELECT holder FROM leases") == holder
            await database.execute("UPDATE leases SET token = token + 1, holder = 'thief'")
            await database.execute("UPDATE leases SET expires_at = now() - interval '1 s'")

            async def taken() -> bool:
                now = await database.fetchval("SELECT holder FROM leases")
                return now not in (holder, "thief")

            await until(taken)


async def test_the_manager_outlives_the_loss_of_its_connections(
    house: House, agent: FakeAgent, database: Database, error_logs_expected: None
) -> None:
    await house.create("before")
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await until(lambda: not house.manager.board.listening)
    await until(lambda: house.manager.board.listening)
    await until(lambda: _creates(house), seconds=15)


async def _creates(house: House) -> bool:
    name = f"after-{uuid4().hex[:8]}"
    try:
        return await house.create(name, max_wait=2, resources={"cpu": "0.1", "mem": "128m"}) == "RUNNING"
    except (DatabaseUnavailable, ServiceUnavailable):
        return False  # the pool may still hold a connection that was cut
