"""Sessions that run one command: when they start, how they end, and what waits for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from manager.conftest import FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.core.errors import InvalidParameters
from backendai.core.kernel import TASK_FINISHED
from backendai.core.session import SessionRecord, SessionType
from backendai.manager.events import EventFilter


async def enter(house: House, name: str, **more: object) -> SessionRecord:
    """Enqueue a batch session."""
    more = {"startup_command": "true", "enqueue_only": True, **more}
    await house.manager.sessions.create(house.user, house.user, wish(name, type=SessionType.BATCH, **more))
    return await record(house, name)


async def record(house: House, name: str) -> SessionRecord:
    return await house.manager.sessions.resolve(house.user, name, stale=True)


async def has(house: House, name: str, status: str) -> bool:
    return await house.status(name) == status


async def test_the_command_reaches_the_main_kernel_only(house: House, agent: FakeAgent) -> None:
    entered = await enter(house, "duo-1", startup_command="make all", cluster_size=2)
    await until(lambda: len(agent.kernels) == 2)
    commands = {spec.cluster_role: spec.startup_command for spec in agent.kernels.values()}
    assert commands == {"main": "make all", "sub": None}
    agent.end(entered.session_id, TASK_FINISHED, 0)
    await until(lambda: has(house, "duo-1", "TERMINATED"))
    ended = await record(house, "duo-1")
    assert (ended.result, ended.status_info) == ("success", TASK_FINISHED)
    assert not agent.kernels


async def test_the_outcome_is_announced_with_its_exit_code(house: House, agent: FakeAgent) -> None:
    wanted = EventFilter(levels=frozenset({"session"}))
    async with house.manager.events.subscribe(house.user, wanted) as events:
        entered = await enter(house, "fails")
        await until(lambda: agent.kernels)
        agent.end(entered.session_id, TASK_FINISHED, 7)
        with trio.fail_after(5):
            seen = [await anext(events) for _ in range(5)]
    assert [event.name for event in seen] == [
        "session_enqueued",
        "session_scheduled",
        "session_started",
        "session_failure",
        "session_terminated",
    ]
    assert seen[3].exit_code == 7


@pytest.mark.parametrize("exit_code", [0, 143])
async def test_a_command_that_was_stopped_is_no_success(
    house: House, agent: FakeAgent, exit_code: int
) -> None:
    await enter(house, "stopped", enqueue_only=False)
    agent.exit_code = exit_code
    await house.manager.sessions.destroy(house.user, house.user, "stopped")
    await until(lambda: has(house, "stopped", "TERMINATED"))
    ended = await record(house, "stopped")
    assert (ended.result, ended.status_info) == ("failure", "user-requested")


async def test_a_session_that_never_ran_has_no_result(house: House, agent: FakeAgent) -> None:
    await enter(house, "not-yet", starts_at=datetime(2100, 1, 1, tzinfo=UTC))
    await house.manager.sessions.destroy(house.user, house.user, "not-yet")
    ended = await record(house, "not-yet")
    assert (ended.status, ended.result) == ("CANCELLED", "undefined")


async def test_it_waits_for_its_time(house: House, agent: FakeAgent) -> None:
    begin = datetime.now(UTC)
    await enter(house, "later", starts_at=begin + timedelta(seconds=0.9))
    await until(lambda: agent.kernels)
    # Well before the next regular round of the scheduler would have found it
    assert timedelta(seconds=0.9) <= datetime.now(UTC) - begin < timedelta(seconds=1.4)


async def test_waiting_for_its_time_is_not_waiting_too_long(
    house: House, agent: FakeAgent, database: Database
) -> None:
    starts_at = datetime.now(UTC) + timedelta(days=30)
    entered = await enter(house, "next-month", starts_at=starts_at)
    deadline = await database.fetchval("SELECT deadline FROM kernels WHERE id = $1", entered.session_id)
    assert deadline == starts_at + house.manager.settings.pending_timeout


async def test_a_command_that_takes_too_long_is_stopped(house: House, agent: FakeAgent) -> None:
    await enter(house, "endless", batch_timeout=0.3)
    await until(lambda: has(house, "endless", "TERMINATED"))
    ended = await record(house, "endless")
    assert (ended.result, ended.status_info) == ("failure", "task-timeout")


async def test_what_depends_on_it_starts_when_it_has_succeeded(house: House, agent: FakeAgent) -> None:
    first = await enter(house, "first")
    second = await enter(house, "second", dependencies=("first",))
    third = await enter(house, "third", dependencies=("first", str(second.session_id)))
    await until(lambda: first.session_id in agent.kernels)
    agent.end(first.session_id, TASK_FINISHED, 0)
    await until(lambda: second.session_id in agent.kernels)
    assert third.session_id not in agent.kernels
    waiting = await record(house, "third")
    assert waiting.status == "PENDING"
    agent.end(second.session_id, TASK_FINISHED, 0)
    await until(lambda: third.session_id in agent.kernels)


@pytest.mark.parametrize("how", ["fails", "is destroyed"])
async def test_what_depends_on_a_failure_is_cancelled_down_the_line(
    house: House, agent: FakeAgent, how: str
) -> None:
    first = await enter(house, "first")
    await enter(house, "second", dependencies=("first",))
    await enter(house, "third", dependencies=("second",))
    await until(lambda: first.session_id in agent.kernels)
    if how == "fails":
        agent.end(first.session_id, TASK_FINISHED, 1)
    else:
        await house.manager.sessions.destroy(house.user, house.user, "first")
    await until(lambda: has(house, "third", "CANCELLED"))
    for name, cause in (("second", "first"), ("third", "second")):
        cancelled = await record(house, name)
        assert cancelled.status_info == "dependency-failed"
        assert cancelled.status_data == {"dependencies": [cause]}


async def test_destroying_with_dependants(house: House, agent: FakeAgent) -> None:
    await enter(house, "first", enqueue_only=False)
    await enter(house, "second", dependencies=("first",))
    await house.manager.sessions.destroy(house.user, house.user, "first", recursive=True)
    assert (await record(house, "second")).status_info == "user-requested"


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": SessionType.BATCH, "startup_command": None},
        {"type": SessionType.BATCH, "startup_command": ""},
        {"type": SessionType.INTERACTIVE, "starts_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"type": SessionType.INTERACTIVE, "batch_timeout": 5.0},
        {"type": SessionType.BATCH, "startup_command": "true", "dependencies": ("nobody",)},
    ],
)
async def test_wishes_that_make_no_sense(house: House, agent: FakeAgent, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidParameters):
        await house.manager.sessions.create(house.user, house.user, wish("senseless", **wrong))
