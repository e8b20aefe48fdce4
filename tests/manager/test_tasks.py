"""Work in the background, followed by those who may."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
import trio
from manager.conftest import House, until

from backendai.bridges.postgres import Database
from backendai.core.errors import BadRequest, ObjectNotFound
from backendai.core.task import TaskState, TaskStatus
from backendai.manager.clock import wall_time
from backendai.manager.tasks import BackgroundTasks, TaskReport
from backendai.supervision.service import open_service


async def last(house: House, task_id: object) -> TaskState:
    with trio.fail_after(5):
        async with house.manager.tasks.follow(house.user, task_id) as states:  # type: ignore[arg-type]
            return [state async for state in states][-1]


async def test_a_task_from_beginning_to_end(house: House) -> None:
    go_on = trio.Event()

    async def work(report: TaskReport) -> str:
        report.update(total=10)
        for number in range(1, 11):
            report.update(current=number, message=f"step {number}")
        await go_on.wait()
        return "all ten"

    task_id = await house.manager.tasks.start(house.user, "count", work)
    seen = []
    async with house.manager.tasks.follow(house.user, task_id) as states:
        with trio.fail_after(5):
            async for state in states:
                seen.append(state)
                if state.current_progress == 10:
                    go_on.set()
    assert [state.status for state in seen[-2:]] == [TaskStatus.RUNNING, TaskStatus.DONE]
    assert (seen[-2].message, seen[-2].total_progress) == ("step 10", 10)
    assert seen[-1].message == "all ten"
    assert await last(house, task_id) == seen[-1]


async def test_how_tasks_fail(house: House, error_logs_expected: None) -> None:
    async def refuses(report: TaskReport) -> None:
        raise BadRequest("there is no room")

    async def refuses_inside(report: TaskReport) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuses, report)

    async def breaks(report: TaskReport) -> None:
        raise ValueError("a secret of ours")

    async def half(report: TaskReport) -> None:
        report.error("one is missing")

    tasks = house.manager.tasks
    for work, status, message in (
        (refuses, "failed", "there is no room"),
        (refuses_inside, "failed", "there is no room"),
        (breaks, "failed", "The log of the server tells more"),
        (half, "partial_success", ""),
    ):
        ended = await last(house, await tasks.start(house.user, "x", work))
        assert ended.status == status
        assert (ended.message or "").startswith(message)
        assert "secret" not in (ended.message or "")
    assert ended.errors == ("one is missing",)


async def test_who_may_follow(house: House) -> None:
    async def work(report: TaskReport) -> None:
        return None

    mine = await house.manager.tasks.start(house.user, "mine", work)
    theirs = await house.manager.tasks.start(house.admin, "theirs", work)
    async with house.manager.tasks.follow(house.admin, mine) as states:
        assert [state async for state in states][-1].status is TaskStatus.DONE
    for task_id in (theirs, uuid4()):
        with pytest.raises(ObjectNotFound):
            await last(house, task_id)


async def test_following_from_another_process(house: House, database: Database) -> None:
    """What one process does, others hear of."""
    other = BackgroundTasks(database, house.manager.board)
    finish = trio.Event()

    async def work(report: TaskReport) -> str:
        await finish.wait()
        return "done there"

    async with open_service(other.run, name="other"):
        task_id = await other.start(house.user, "x", work)
        async with house.manager.tasks.follow(house.user, task_id) as states:
            assert (await anext(states)).status is TaskStatus.RUNNING
            finish.set()
            with trio.fail_after(2):
                assert (await anext(states)).message == "done there"


async def test_a_process_that_stops_cancels_its_tasks(house: House, database: Database) -> None:
    other = BackgroundTasks(database, house.manager.board)

    async def work(report: TaskReport) -> None:
        await trio.sleep_forever()

    async with open_service(other.run, name="other"):
        task_id = await other.start(house.user, "x", work)
    ended = await last(house, task_id)
    assert (ended.status, ended.message) == (
        TaskStatus.CANCELLED,
        "The server process that did this was stopped.",
    )


async def test_a_process_that_dies_leaves_failed_tasks(house: House, database: Database) -> None:
    task_id = uuid4()
    await database.execute(
        "INSERT INTO background_tasks (id, name, user_id, domain_name) VALUES ($1, 'x', $2, 'default')",
        task_id,
        house.user.user_id,
    )
    later = BackgroundTasks(database, house.manager.board, lambda: wall_time() + timedelta(seconds=61))
    await house.manager.tasks.fail_orphans()
    async with house.manager.tasks.follow(house.user, task_id) as states:
        assert (await anext(states)).status is TaskStatus.RUNNING
        await later.fail_orphans()
        with trio.fail_after(2):
            assert (await anext(states)).status is TaskStatus.FAILED
    day_after = BackgroundTasks(database, house.manager.board, lambda: wall_time() + timedelta(hours=25))
    await day_after.prune()
    with pytest.raises(ObjectNotFound):
        await last(house, task_id)


async def test_following_ends_with_the_service(house: House) -> None:
    async def work(report: TaskReport) -> None:
        await trio.sleep_forever()

    task_id = await house.manager.tasks.start(house.user, "x", work)
    async with house.manager.tasks.follow(house.user, task_id) as states:
        await anext(states)
        house.manager.tasks.close()
        with trio.fail_after(2):
            assert [state async for state in states] == []
    await until(lambda: not house.manager.tasks._followers)
