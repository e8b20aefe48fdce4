"""What the agent keeps of ended kernels, until somebody has fetched it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from backendai.agent.directory import hold_directory
from backendai.agent.outputs import EndedOutputs
from backendai.core.output import KernelOutput, RunOutput

FIRST, SECOND, THIRD = (UUID(int=number) for number in (3, 2, 1))


def leave(directory: Path, text: str) -> Path:
    directory.mkdir()
    output = KernelOutput(log=text, runs=(RunOutput(run_id="r", exit_code=0),))
    (directory / "output").write_bytes(msgspec.msgpack.encode(output))
    return directory


async def test_kept_until_it_is_fetched_also_by_the_next_agent(tmp_path: Path) -> None:
    left = leave(tmp_path / "left", "said")
    with hold_directory(tmp_path / "agent", "i-a") as directory:
        await directory.outputs.take(FIRST, left)
        assert os.listdir(left) == []
    with hold_directory(tmp_path / "agent", "i-a") as directory:
        outputs = directory.outputs
        assert outputs.waiting() == (FIRST,)
        found = await outputs.read(FIRST)
        assert found is not None
        assert (found.log, found.runs) == ("said", (RunOutput(run_id="r", exit_code=0),))
        outputs.forget(FIRST)
        outputs.forget(FIRST)
        assert (outputs.waiting(), await outputs.read(FIRST)) == ((), None)
    assert os.listdir(tmp_path / "agent" / "ended") == []


async def test_a_runner_that_was_killed_leaves_its_log(tmp_path: Path) -> None:
    journal = tmp_path / "left" / "journal"
    journal.mkdir(parents=True)
    (journal / "log").write_text("later\n")
    (journal / "log.1").write_text("earlier\n")
    outputs = EndedOutputs(tmp_path / "left", 1000)
    await outputs.take(FIRST, tmp_path / "left")
    assert await outputs.read(FIRST) == KernelOutput(log="earlier\nlater\n", log_truncated=True, runs=None)


async def test_nothing_left_is_nothing_kept(tmp_path: Path) -> None:
    outputs = EndedOutputs(tmp_path, 1000)
    await outputs.take(FIRST, tmp_path)
    assert outputs.waiting() == ()


async def test_the_oldest_goes_when_there_is_too_much(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "somebody else's").write_text("")
    outputs = EndedOutputs(kept, 2500)
    for kernel_id in (FIRST, SECOND, THIRD):
        await outputs.take(kernel_id, leave(tmp_path / str(kernel_id), "x" * 1000))
    assert outputs.waiting() == (SECOND, THIRD)
    assert sorted(os.listdir(kept)) == sorted(["somebody else's", str(SECOND), str(THIRD)])


@pytest.mark.usefixtures("error_logs_expected")
async def test_what_cannot_be_read_is_not_named_for_ever(tmp_path: Path) -> None:
    (tmp_path / str(FIRST)).write_bytes(b"\xc1")
    outputs = EndedOutputs(tmp_path, 1000)
    assert outputs.waiting() == (FIRST,)
    assert await outputs.read(FIRST) is None
    assert outputs.waiting() == ()
