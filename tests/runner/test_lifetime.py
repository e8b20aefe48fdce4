"""Runners outlive agents, agents come back, kernels change hands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from backendai.core.execution import RunMode, RunRequest, RunStatus
from backendai.core.kernel import KernelLimits, KernelPhase, KernelSpec
from backendai.runner.client import RunnerClient, RunnerGone, RunnerRefused, read_last_state
from backendai.runner.zygote import RunnerZygote
from tests.runner.conftest import Spawn, finish, query, text_of

#: What a runner may have of its own, in KiB.
_MAX_OWN_MEMORY = 10 << 10


async def test_a_run_survives_the_kill_of_its_agent(kernels_directory: Path) -> None:
    directory = kernels_directory / str(uuid4())
    code = "import time\nfor i in range(100):\n    print('line', i); time.sleep(0.02)"
    agent = subprocess.Popen(
        [sys.executable, "-m", "tests.runner.agent_for_a_while", str(directory), code],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert agent.stdout is not None
    with trio.fail_after(30), agent.stdout:
        assert await trio.to_thread.run_sync(agent.stdout.readline) == b"running\n"
        zygotes = _children(agent.pid)
        agent.kill()
        agent.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in zygotes):
            await trio.sleep(0.01)
        client = await RunnerClient.attach(directory)
        assert (await client.describe()).phase is KernelPhase.RUNNING
        items = []
        index = 0
        while True:
            again = RunRequest(run_id="the-run", mode=RunMode.CONTINUE, after=index)
            reply = await client.run(again)
            items += reply.items
            index = reply.next_index
            if reply.status is RunStatus.FINISHED:
                break
        assert text_of(items, "stdout") == "".join(f"line {i}\n" for i in range(100))
        await client.shutdown("over")
        await client.aclose()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_newer_connection_takes_over(spawn: Spawn) -> None:
    first = await spawn()
    second = await RunnerClient.attach(first.directory)
    with trio.fail_after(5):
        await second.describe()
        with pytest.raises(RunnerGone):
            await first.wait_exit()
        assert (await finish(second, "1+1"))[1] == "2\n"
    await second.aclose()


async def test_cancelling_a_call_leaves_the_others_alone(spawn: Spawn) -> None:
    client = await spawn()
    answers: list[str] = []

    async def ask(number: int) -> None:
        reply = await client.run(query(f"import time; time.sleep(0.02); {number}", wait=20.0))
        answers.append(text_of(reply.items, "stdout"))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.01):
                await client.wait_exit()
            for number in range(5):
                nursery.start_soon(ask, number)
            with trio.move_on_after(0.05):
                await client.wait_exit()
    assert sorted(answers) == [f"{number}\n" for number in range(5)]


async def test_a_warm_kernel_becomes_a_session(spawn: Spawn) -> None:
    client = await spawn(warm=True)
    assert (await client.describe()).warm
    spec = KernelSpec(
        kernel_id=uuid4(),
        session_id=uuid4(),
        session_name="mine",
        image="local/python:test",
        environ={"TOKEN": 'a"b\\c\n\U0001f600', "EMPTY": ""},
        limits=KernelLimits(memory=200 << 20, output=100_000, pids=64),
    )
    state = await client.assign(spec)
    assert (state.kernel_id, state.session_id, state.warm) == (spec.kernel_id, spec.session_id, False)
    _, out, _ = await finish(client, "import os; print(os.environ['TOKEN'], [os.environ['EMPTY']])")
    assert out == "a\"b\\c\n\U0001f600 ['']\n"
    assert (await finish(client, "In[1:-1]"))[1].startswith('["import os')
    assert (await finish(client, "print('x' * 200_000)"))[0].truncated
    last = read_last_state(client.directory)
    assert last is not None
    assert last.kernel == spec
    with pytest.raises(RunnerRefused, match="assign-failed"):
        await client.assign(spec)


async def test_a_runner_costs_less_than_ten_megabytes(spawn: Spawn) -> None:
    clients = [await spawn(), await spawn()]
    for client in clients:
        await finish(client, "for i in range(20000): print('some output of a normal kind', i)")
        runner = (await client.describe()).runner_pid
        assert _own_memory(runner) < _MAX_OWN_MEMORY


def _own_memory(pid: int) -> int:
    """KiB that nobody shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def test_memory_stays_bounded_while_nobody_reads(spawn: Spawn) -> None:
    client = await spawn()
    await client.run(query("for i in range(300): print('x' * 100_000)", wait=0.0))
    with trio.fail_after(20):
        while (await client.describe()).busy:
            await trio.sleep(0.05)
    assert _own_memory((await client.describe()).runner_pid) < 2 * _MAX_OWN_MEMORY


async def test_a_dead_zygote_is_replaced(zygote: RunnerZygote, spawn: Spawn) -> None:
    client = await spawn()
    assert zygote.pid is not None
    os.kill(zygote.pid, signal.SIGKILL)
    assert (await finish(client, "1"))[1] == "1\n"
    with trio.fail_after(20):
        while True:
            try:
                await spawn(ready=False)
                break
            except RunnerGone:
                continue


async def test_attaching_where_nobody_is(tmp_path: Path) -> None:
    with pytest.raises(RunnerGone) as caught:
        await RunnerClient.attach(tmp_path)
    assert caught.value.last is None
    with pytest.raises(RunnerGone):
        await RunnerClient.attach(tmp_path / "nothing")


async def test_a_bootstrap_script_runs_before_the_kernel(spawn: Spawn) -> None:
    client = await spawn(bootstrap_script="echo booted > /home/work/proof\n")
    assert (await finish(client, "open('proof').read()"))[1] == "'booted\\n'\n"
