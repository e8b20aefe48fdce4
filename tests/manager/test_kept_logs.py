"""What a session printed outlives it, for a while."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from manager.conftest import FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.core.errors import ObjectNotFound
from backendai.core.execution import RunMode, RunRequest
from backendai.manager.logs import LIMIT, LogArchive
from backendai.storage import logs as store
from backendai.wire.link import DestroyKernel, Logs, ReadLogs


async def running(house: House, name: str) -> UUID:
    return (await house.manager.sessions.create(house.user, house.user, wish(name))).session_id


async def kept(database: Database, kernel_id: UUID) -> bool:
    return await store.kept(database, kernel_id) is not None


async def test_a_kernel_that_ends_by_itself(house: House, agent: FakeAgent, database: Database) -> None:
    agent.logs = Logs(text="first\n\0 and \ud7ff last\n")
    kernel_id = await running(house, "ends")
    agent.linger = True
    agent.end(kernel_id, "self-terminated", 1)
    await until(lambda: kept(database, kernel_id))
    agent.lingering.clear()
    assert await house.manager.execution.logs(house.user, "ends") == "first\n\0 and \ud7ff last\n"
    assert await house.manager.execution.logs(house.user, str(kernel_id)) == "first\n\0 and \ud7ff last\n"


async def test_a_kernel_that_is_destroyed_gives_its_log_first(
    house: House, agent: FakeAgent, database: Database
) -> None:
    kernel_id = await running(house, "destroyed")
    await house.manager.sessions.destroy(house.user, house.user, "destroyed")
    assert await house.manager.execution.logs(house.user, "destroyed") == "said so\n"
    asked = [type(call) for call in agent.calls if getattr(call, "kernel_id", None) == kernel_id]
    assert asked.index(ReadLogs) < asked.index(DestroyKernel)


async def test_a_log_that_was_missed_is_fetched_later(
    house: House, agent: FakeAgent, database: Database
) -> None:
    kernel_id = await running(house, "missed")
    agent.linger = True
    agent.end(kernel_id, "self-terminated", 0)
    await until(lambda: kept(database, kernel_id))
    await database.execute("DELETE FROM kernel_logs")  # as if the manager had died before it wrote this
    await until(lambda: kept(database, kernel_id))


async def test_what_is_cut_off_is_said(house: House, agent: FakeAgent) -> None:
    agent.logs = Logs(text="the end\n", truncated=True)
    await running(house, "chatty")
    alive = await house.manager.execution.logs(house.user, "chatty")
    cut = "[the beginning is missing: of a kernel's output the last 10 MiB are kept]"
    assert alive.splitlines()[0] == cut
    assert alive.endswith("\nthe end\n")
    await house.manager.sessions.destroy(house.user, house.user, "chatty")
    assert await house.manager.execution.logs(house.user, "chatty") == alive
    assert all(call.limit == LIMIT for call in agent.calls if isinstance(call, ReadLogs))


async def test_logs_are_kept_compressed_and_for_a_time(
    house: House, agent: FakeAgent, database: Database
) -> None:
    agent.logs = Logs(text="again and again\n" * 50_000)
    kernel_id = await running(house, "repeats")
    await house.manager.sessions.destroy(house.user, house.user, "repeats")
    size = await database.fetchval("SELECT length(content) FROM kernel_logs WHERE kernel_id = $1", kernel_id)
    assert size < 10_000
    await LogArchive(database, house.network, timedelta(days=2)).prune()
    assert len(await house.manager.execution.logs(house.user, "repeats")) == 800_000
    await database.execute("UPDATE kernel_logs SET kept_at = kept_at - interval '3 days'")
    await LogArchive(database, house.network, timedelta(days=2)).prune()
    assert await house.manager.execution.logs(house.user, "repeats") == (
        "[nothing is kept of what this printed: the agent was gone, or it is over 30 days ago]\n"
    )


async def test_each_kernel_of_a_cluster_has_its_own(house: House, agent: FakeAgent) -> None:
    await house.create("cluster", cluster_size=2)
    await running(house, "other")
    sub = next(spec for spec in agent.kernels.values() if spec.cluster_role == "sub")
    assert await house.manager.execution.logs(house.user, "cluster", sub.kernel_id) == "said so\n"
    for unknown in (uuid4(), next(s.kernel_id for s in agent.kernels.values() if s.session_name == "other")):
        with pytest.raises(ObjectNotFound):
            await house.manager.execution.logs(house.user, "cluster", unknown)


async def test_a_session_that_never_ran_printed_nothing(house: House, agent: FakeAgent) -> None:
    agent.mood = "fail"
    assert await house.create("stillborn") == "CANCELLED"
    assert await house.manager.execution.logs(house.user, "stillborn") == ""


async def test_the_last_words_of_a_run_can_be_read_after_its_kernel_ended(
    house: House, agent: FakeAgent
) -> None:
    kernel_id = await running(house, "last-words")
    agent.linger = True
    agent.end(kernel_id, "self-terminated", 3)
    await until(lambda: _is_over(house, "last-words"))
    request = RunRequest(run_id="r", mode=RunMode.CONTINUE)
    assert (await house.manager.execution.run(house.user, "last-words", request)).exit_code == 0
    agent.lingering.clear()
    assert (await house.manager.execution.run(house.user, "last-words", request)).exit_code == 130
    with pytest.raises(ObjectNotFound):
        await house.manager.execution.run(
            house.user, "last-words", RunRequest(run_id="s", mode=RunMode.QUERY)
        )


async def _is_over(house: House, name: str) -> bool:
    return await house.status(name) == "TERMINATED"


async def test_replay(house: House, agent: FakeAgent) -> None:
    await running(house, "replays")
    await house.manager.execution.replay(house.user, "replays", "r-1", 7, 1.5)
    request = next(call.request for call in reversed(agent.calls) if hasattr(call, "request"))
    assert (request.run_id, request.mode, request.after, request.wait) == ("r-1", RunMode.CONTINUE, 7, 1.5)
    with pytest.raises(ObjectNotFound):
        await house.manager.execution.replay(house.user, "replays", "unknown", 0, 0)
