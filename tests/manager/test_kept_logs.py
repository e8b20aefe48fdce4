"""What a session printed outlives it, for a while."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest
import trio
from manager.conftest import FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.core.errors import ObjectNotFound, OutputNotKept
from backendai.core.execution import ConsoleItem, RunMode, RunRequest, RunStatus
from backendai.core.output import MOST_LOG, RunOutput
from backendai.manager.logs import LogArchive
from backendai.storage import logs as store
from backendai.wire.link import DestroyKernel, Logs, ReadLogs


async def running(house: House, name: str) -> UUID:
    return (await house.manager.sessions.create(house.user, house.user, wish(name))).session_id


async def kept(database: Database, kernel_id: UUID) -> bool:
    return await store.kept(database, kernel_id) is not None


async def ended(house: House, agent: FakeAgent, name: str) -> UUID:
    """A kernel that has ended by itself, and whose output has been fetched."""
    kernel_id = await running(house, name)
    agent.linger = True
    agent.end(kernel_id, "self-terminated", 0)
    await until(lambda: _is_over(house, name))
    await until(lambda: kept(house.manager.database, kernel_id))
    agent.lingering.clear()
    return kernel_id


def record(text: str, kind: str = "stdout") -> bytes:
    body = msgspec.msgpack.encode((kind, text, None))
    return len(body).to_bytes(4, "big") + body


def run(run_id: str, letters: str) -> RunOutput:
    content = b"".join(map(record, letters))
    return RunOutput(run_id=run_id, exit_code=3, next_index=len(letters), content=content)


def texts(items: tuple[ConsoleItem, ...]) -> list[str]:
    return [item.data for item in items]


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
    await database.execute("DELETE FROM kernel_logs")
    agent.outputs.add(kernel_id)  # as if the manager had died before it wrote this
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
    assert all(call.limit == MOST_LOG for call in agent.calls if isinstance(call, ReadLogs))


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
    with pytest.raises(OutputNotKept) as refusal:
        await house.manager.execution.logs(house.user, "repeats")
    assert refusal.value.data == {"reason": "lost", "retention": 30 * 86400.0}
    await database.execute("UPDATE kernels SET terminated_at = terminated_at - interval '31 days'")
    with pytest.raises(OutputNotKept) as refusal:
        await house.manager.execution.logs(house.user, "repeats")
    assert refusal.value.data["reason"] == "expired"


async def test_limits_of_what_is_kept(house: House, agent: FakeAgent, database: Database) -> None:
    agent.logs, agent.runs = Logs(text="0123456789"), (run("new", "abc"), run("old", "de"))
    kernel_id = await ended(house, agent, "limited")
    await database.execute("DELETE FROM kernel_logs")
    agent.outputs.add(kernel_id)
    archive = LogArchive(
        database, house.network, timedelta(days=1), limit=4, replay_limit=2 * len(record("x"))
    )
    await archive.fetch(kernel_id, agent.address, 5)
    said = await archive.log(kernel_id, None, None)
    assert said == "[the beginning is missing: of a kernel's output the last 4 bytes are kept]\n6789"
    new = await archive.replay(kernel_id, None, None, "new", 0)
    assert (new.first_index, texts(new.items), new.next_index) == (1, ["b", "c"], 3)
    old = await archive.replay(kernel_id, None, None, "old", 0)
    assert (old.first_index, old.items, old.next_index) == (2, (), 2)


async def test_an_agent_keeps_the_output_until_it_is_in_the_database(
    house: House, agent: FakeAgent, database: Database
) -> None:
    kernel_id = await ended(house, agent, "fetched")
    await until(lambda: kept(database, kernel_id))
    with trio.fail_after(10):
        while kernel_id in agent.outputs:
            await trio.sleep(0.01)


async def test_what_was_not_fetched_yet_is_fetched_when_it_is_wanted(
    house: House, agent: FakeAgent, database: Database
) -> None:
    kernel_id = await ended(house, agent, "wanted")
    await database.execute("DELETE FROM kernel_logs")
    agent.outputs.add(kernel_id)
    archive = LogArchive(database, house.network, timedelta(days=1))
    assert await archive.log(kernel_id, agent.address, None) == "said so\n"


async def test_an_agent_speaks_for_its_own_kernels_only(
    house: House, agent: FakeAgent, database: Database
) -> None:
    kernel_id = await ended(house, agent, "mine")
    liar = FakeAgent("i-liar", logs=Logs(text="lies\n"), outputs={kernel_id})
    house.network.join(liar.address, liar.call, liar.answer)
    archive = LogArchive(database, house.network, timedelta(days=1))
    await archive.fetch(kernel_id, liar.address, 5)
    assert await archive.log(kernel_id, None, None) == "said so\n"


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


async def test_replay_after_the_end(house: House, agent: FakeAgent, database: Database) -> None:
    agent.runs = (run("r-1", "abcd"),)
    kernel_id = await ended(house, agent, "over")
    reply = await house.manager.execution.replay(house.user, str(kernel_id), "r-1", 2, 0)
    assert (reply.status, reply.exit_code, reply.first_index, reply.next_index) == (
        RunStatus.FINISHED,
        3,
        0,
        4,
    )
    assert reply.items == (ConsoleItem(2, "stdout", "c"), ConsoleItem(3, "stdout", "d"))
    with pytest.raises(ObjectNotFound):
        await house.manager.execution.replay(house.user, str(kernel_id), "r-2", 0, 0)
    await database.execute("DELETE FROM kernel_logs")
    with pytest.raises(OutputNotKept):
        await house.manager.execution.replay(house.user, str(kernel_id), "r-1", 0, 0)


async def test_runs_that_were_lost_with_their_runner(house: House, agent: FakeAgent) -> None:
    agent.runs = None
    kernel_id = await ended(house, agent, "killed")
    assert await house.manager.execution.logs(house.user, "killed") == "said so\n"
    with pytest.raises(OutputNotKept) as refusal:
        await house.manager.execution.replay(house.user, str(kernel_id), "r-1", 0, 0)
    assert refusal.value.data["reason"] == "lost"
