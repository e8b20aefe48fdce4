"""Each way a kernel can come to its end has a defined outcome, and the host does not suffer."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from backendai.core.execution import RunMode, RunRequest, RunStatus
from backendai.core.kernel import KernelLimits, KernelPhase
from backendai.engines.processes import children_of
from backendai.runner.client import KernelNotReady, RunnerClient, RunnerGone, RunnerRefused, read_last_state
from tests.runner.conftest import PYTHON, Spawn, finish, query, text_of


async def test_os_exit_ends_the_run_and_the_kernel(spawn: Spawn) -> None:
    client = await spawn()
    reply, out, err = await finish(
        client, "import os, time\nprint('before', flush=True)\ntime.sleep(0.2)\nos._exit(7)"
    )
    assert (reply.status, reply.exit_code) == (RunStatus.FINISHED, 130)
    assert out == "before\n"
    assert "exited with code 7" in err
    with trio.fail_after(5):
        exit = await client.wait_exit()
    assert (exit.reason, exit.exit_code) == ("self-terminated", 7)
    assert exit.stat is not None
    if (await client.describe()).isolation["cpu"].startswith("cgroup"):
        assert exit.stat.cpu_used > 0
    # Nothing new, but what was printed can still be read.
    with pytest.raises(RunnerRefused, match="kernel-exited"):
        await client.run(query("1"))
    again = await client.run(RunRequest(run_id=reply.run_id, mode=RunMode.CONTINUE, after=0))
    assert text_of(again.items, "stdout") == "before\n"
    assert "before" in (await client.logs(10_000))[0]


async def test_a_segmentation_fault_is_told_as_one(spawn: Spawn) -> None:
    client = await spawn()
    reply, _, err = await finish(client, "import ctypes; ctypes.string_at(0)")
    assert reply.exit_code == 130
    assert "SIGSEGV" in err
    exit = await client.wait_exit()
    assert (exit.reason, exit.exit_code) == ("killed", 128 + signal.SIGSEGV)


async def test_a_kernel_that_dies_while_idle_is_noticed_at_once(spawn: Spawn) -> None:
    client = await spawn()
    noticed = trio.Event()

    async def watch() -> None:
        await client.wait_exit()
        noticed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await finish(client, "import os, threading\nthreading.Timer(0.2, os._exit, (9,)).start()")
        assert not noticed.is_set()
        with trio.fail_after(2):
            await noticed.wait()


async def test_memory_beyond_the_limit_ends_the_kernel_with_its_reason(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(memory=128 << 20))
    if not (await client.describe()).isolation["memory"].startswith("cgroup"):
        pytest.skip("no control groups for memory here")
    reply, _, err = await finish(client, "x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert reply.exit_code == 130
    assert "out of memory" in err
    assert (await client.wait_exit()).reason == "out-of-memory"


async def test_a_fork_bomb_stays_inside_and_ends_with_the_kernel(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(pids=40))
    code = "import os\ntry:\n    while True:\n        os.fork()\nexcept OSError: pass"
    await client.run(query(code, wait=1.0))
    state = await client.describe()
    inside = _descendants(state.runner_pid)
    assert 10 < len(inside) <= 42
    assert (await client.stat()).pids <= 42
    with trio.fail_after(10):
        exit = await client.shutdown("enough")
    assert exit.reason == "enough"
    await client.aclose()
    assert not client.directory.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)


async def test_files_beyond_the_limit(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(disk=8 << 20))
    # One file cannot grow past it ...
    reply, _, err = await finish(client, "with open('big', 'wb') as f:\n    f.write(bytes(9 << 20))")
    assert reply.exit_code == 1
    assert "File too large" in err
    await finish(client, "import os; os.remove('big')")
    # ... and many are found by measuring.
    await finish(client, "for i in range(5):\n    open(f'f{i}', 'wb').write(bytes(3 << 20))")
    with trio.fail_after(12):
        exit = await client.wait_exit()
    assert exit.reason == "disk-limit"
    assert str(8 << 20) in exit.detail


async def test_a_kernel_that_cannot_start_says_why(spawn: Spawn) -> None:
    image = msgspec.structs.replace(
        PYTHON, argv=(sys.executable, "-c", "import sys; sys.exit('no such luck')")
    )
    client = await spawn(image=image, ready=False)
    with pytest.raises(KernelNotReady) as caught, trio.fail_after(10):
        await client.wait_ready()
    assert caught.value.exit.reason == "start-failed"
    assert "no such luck" in caught.value.exit.detail


async def test_a_kernel_that_never_answers_meets_its_deadline(spawn: Spawn) -> None:
    argv = (sys.executable, "-uc", "import time; print('thinking'); time.sleep(1000)")
    client = await spawn(image=msgspec.structs.replace(PYTHON, argv=argv), ready=False, start_timeout=1.0)
    with pytest.raises(KernelNotReady) as caught, trio.fail_after(10):
        await client.wait_ready()
    assert caught.value.exit.reason == "start-timeout"
    assert "thinking" in caught.value.exit.detail


async def test_a_missing_program_says_so(spawn: Spawn) -> None:
    client = await spawn(image=msgspec.structs.replace(PYTHON, argv=("/nonexistent/kernel",)), ready=False)
    with pytest.raises(KernelNotReady) as caught, trio.fail_after(10):
        await client.wait_ready()
    assert "/nonexistent/kernel" in caught.value.exit.detail


async def test_restart_keeps_the_files_and_forgets_the_rest(spawn: Spawn) -> None:
    client = await spawn()
    await finish(client, "x = 1; open('kept', 'w').write('here')")
    cut_short = query("while True: pass", wait=0.1)
    await client.run(cut_short)
    with trio.fail_after(15):
        state = await client.restart()
    assert state.phase is KernelPhase.RUNNING
    reply = await client.run(RunRequest(run_id=cut_short.run_id, mode=RunMode.CONTINUE))
    assert reply.exit_code == 130
    assert "restarted" in text_of(reply.items, "stderr")
    assert (await finish(client, "open('kept').read(), 'x' in globals()"))[1] == "('here', False)\n"
    assert (await finish(client, "open('kept', 'a').write(' still')"))[0].exit_code == 0


async def test_shutdown_removes_even_what_resists(spawn: Spawn) -> None:
    client = await spawn()
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for name in 'abc': os.makedirs(f'd/{name}'); os.chmod(f'd/{name}', 0)\n"
        "os.chmod('d', 0)\n"
        "os.chdir('/tmp')\n"
        "if os.fork() == 0:\n    os.setsid(); import time; time.sleep(1000)"
    )
    await client.run(query(code, wait=0.5))
    runner = (await client.describe()).runner_pid
    with trio.fail_after(5):
        await client.shutdown("done")
    await client.aclose()
    assert not client.directory.exists()
    with trio.fail_after(5):
        while Path(f"/proc/{runner}").exists():
            await trio.sleep(0.01)


async def test_a_killed_runner_takes_its_kernel_with_it(spawn: Spawn) -> None:
    client = await spawn()
    state = await client.describe()
    kernel = _descendants(state.runner_pid)
    assert len(kernel) >= 3
    os.kill(state.runner_pid, signal.SIGKILL)
    with pytest.raises(RunnerGone) as caught, trio.fail_after(5):
        await client.wait_exit()
    assert caught.value.last is not None
    assert caught.value.last.exit is None
    with pytest.raises(RunnerGone):
        # While the dying process closes one socket after the other, it may just still be attached to.
        await (await RunnerClient.attach(client.directory)).describe()
    with trio.fail_after(5):
        while any(Path(f"/proc/{pid}").exists() for pid in kernel):
            await trio.sleep(0.01)


def _descendants(pid: int) -> list[int]:
    children = children_of(pid)
    return children + [further for child in children for further in _descendants(child)]


async def test_without_an_agent_the_runner_ends_itself(spawn: Spawn) -> None:
    client = await spawn(orphan_timeout=0.5)
    state = await client.describe()
    await client.aclose()
    with trio.fail_after(10):
        while Path(f"/proc/{state.runner_pid}").exists():
            await trio.sleep(0.02)
    last = read_last_state(client.directory)
    assert last is not None
    assert last.exit is not None
    assert last.exit.reason == "orphaned"
    assert sorted(os.listdir(client.directory)) == ["output", "state"]


async def test_a_kernel_is_given_time_to_end(spawn: Spawn) -> None:
    client = await spawn()
    await finish(client, "import atexit, time; atexit.register(time.sleep, 0.3)")
    with trio.fail_after(20):
        exit = await client.shutdown("enough", grace=10.0)
    assert exit.reason == "enough"
    assert not client.directory.exists()
    await client.aclose()
