"""Readers of a run, and answers that never reach them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from backendai.core.execution import RunMode, RunReply, RunRequest, RunStatus
from backendai.runner.items import Piece
from backendai.runner.journal import Journal
from backendai.runner.runs import Run
from tests.runner.conftest import query, text_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(query(""), Journal(tmp_path / "items", 1 << 20), 1 << 20)


def asking(name: str, wait: float = 0.0) -> RunRequest:
    return RunRequest(run_id="r", mode=RunMode.CONTINUE, asking=name, wait=wait)


def told(reply: RunReply) -> str:
    return text_of(reply.items, "stdout")


async def test_who_asks_the_same_again_is_answered_from_the_same_place(run: Run) -> None:
    run.append(Piece("stdout", "one "))
    assert told(await run.read(asking("a"))) == "one "
    run.append(Piece("stdout", "two "))
    assert told(await run.read(asking("a"))) == "one two "
    run.append(Piece("stdout", "three"))
    run.finish(0)
    for _ in range(2):
        reply = await run.read(asking("b"))
        assert (told(reply), reply.status) == ("three", RunStatus.FINISHED)
    assert told(await run.read(asking("c"))) == ""


async def test_steps_come_again_too(run: Run) -> None:
    run.end_step(RunStatus.CLEAN_FINISHED, 0)
    run.end_step(RunStatus.BUILD_FINISHED, 0)
    for name, status in (("a", RunStatus.CLEAN_FINISHED), ("b", RunStatus.BUILD_FINISHED)):
        for _ in range(2):
            assert (await run.read(asking(name))).status is status


async def test_a_question_that_was_asked_again_takes_nothing_away(run: Run) -> None:
    run.append(Piece("stdout", "one "))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.read, asking("a", wait=60.0))  # its answer finds nobody
        await wait_all_tasks_blocked()
        assert told(await run.read(asking("a"))) == "one "
        run.append(Piece("stdout", "two"))
        run.finish(0)
    assert told(await run.read(asking("b"))) == "two"
