"""What a Python kernel prints arrives whole, in order and with the run that printed it."""

from __future__ import annotations

import trio

from backendai.core.execution import RunMode, RunRequest, RunStatus
from backendai.core.kernel import KernelLimits
from tests.runner.conftest import Spawn, finish, query

PRINTS_FOREVER = """
import itertools
for n in itertools.count():
    print(n, flush=True)
"""


async def test_programs_print_into_the_run_that_started_them(spawn: Spawn) -> None:
    client = await spawn()
    for number in range(20):
        _, out, err = await finish(client, f"import os; os.system('echo {number}; echo e{number} >&2');")
        assert (out, err) == (f"{number}\n", f"e{number}\n")


async def test_every_flushed_line_arrives_however_many_there_are(spawn: Spawn) -> None:
    client = await spawn()
    _, out, _ = await finish(client, "for n in range(10000): print(n, flush=True)", timeout=60)
    assert out == "".join(f"{n}\n" for n in range(10000))


async def test_threads_and_forked_processes_print(spawn: Spawn) -> None:
    client = await spawn()
    code = r"""
import sys, threading
def work(name):
    for n in range(200):
        sys.stdout.write(f"{name}{n}\n")
        sys.stdout.flush()
threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    _, out, _ = await finish(client, code)
    lines = out.split()
    for name in "abc":
        assert [line for line in lines if line[0] == name] == [f"{name}{n}" for n in range(200)]
    code = """
import os
ours, theirs = os.pipe()
if os.fork() == 0:
    print("child", flush=True)
    os.write(theirs, b"x"); os._exit(0)
os.read(ours, 1); os.wait();
print("parent")
"""
    reply, out, _ = await finish(client, code)
    assert reply.exit_code == 0
    assert "parent\n" in out


async def test_an_interrupt_never_breaks_a_message(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(output=64 << 20))
    for _ in range(15):
        request = query(PRINTS_FOREVER, wait=0.0)
        with trio.fail_after(30):
            reply = await client.run(request)
            await client.run(RunRequest(run_id=request.run_id, mode=RunMode.CONTINUE, after=0, wait=5.0))
            await client.interrupt()
            printed = ""
            while reply.status is RunStatus.CONTINUED:
                printed += "".join(item.data for item in reply.items if item.kind == "stdout")
                reply = await client.run(RunRequest(run_id=request.run_id, mode=RunMode.CONTINUE))
            printed += "".join(item.data for item in reply.items if item.kind == "stdout")
        lines = printed.split()
        assert lines == [str(n) for n in range(len(lines))]
        assert (await finish(client, "'still here'"))[1] == "'still here'\n"
