"""Batch runs and kernels of other languages, with real compilers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import trio

from backendai.agent.images import installed_images
from backendai.core.execution import ConsoleItem, RunMode, RunReply, RunRequest, RunStatus
from backendai.core.ids import new_run_id
from backendai.core.kernel import STARTUP_RUN, TASK_FINISHED, ImageSpec, KernelLimits
from backendai.runner.client import RunnerClient
from tests.runner.conftest import Spawn, finish, query, text_of
from tests.runner.streams import upload

with_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")


def image(name: str) -> ImageSpec:
    return installed_images()[f"local/{name}:system"]


def batch(**options: object) -> RunRequest:
    return RunRequest(run_id=new_run_id(), mode=RunMode.BATCH, options=options)


async def follow(client: RunnerClient, request: RunRequest, lines: tuple[str, ...] = ()) -> list[RunReply]:
    """All replies until the end, as a REST client gets them."""
    given = iter(lines)
    with trio.fail_after(30):
        replies = [await client.run(request)]
        while replies[-1].status is not RunStatus.FINISHED:
            mode, code = RunMode.CONTINUE, ""
            if replies[-1].status is RunStatus.WAITING_INPUT:
                mode, code = RunMode.INPUT, next(given)
            replies.append(await client.run(RunRequest(run_id=request.run_id, mode=mode, code=code)))
    return replies


def printed(replies: list[RunReply], kind: str = "stdout") -> str:
    return text_of([item for reply in replies for item in reply.items], kind)


async def until_printed(client: RunnerClient, text: str) -> None:
    with trio.fail_after(20):
        while text not in (await client.logs(10_000))[0]:
            await trio.sleep(0.02)


def steps(replies: list[RunReply]) -> list[tuple[str, int | None]]:
    return [(r.status.value, r.exit_code) for r in replies if r.exit_code is not None]


async def test_the_steps_come_one_after_the_other(spawn: Spawn) -> None:
    client = await spawn()
    await upload(client, "main.py", b"import sys; print('ran', sys.executable); sys.exit(3)")
    request = batch(clean="echo cleaning", build="echo building; echo oops >&2", exec="*")
    replies = await follow(client, request)
    assert steps(replies) == [("clean-finished", 0), ("build-finished", 0), ("finished", 3)]
    by_step = {
        reply.status.value: text_of(reply.items, "stdout") for reply in replies if reply.exit_code is not None
    }
    assert by_step["clean-finished"] == "cleaning\n"
    assert by_step["build-finished"] == "building\n"
    assert by_step["finished"].startswith(f"ran {Path(sys.executable).parent}/python")
    assert printed(replies, "stderr") == "oops\n"
    # Who comes later, or reads by index, sees the same in the same order.
    again: list[RunReply] = []
    index = 0
    while not again or again[-1].status is not RunStatus.FINISHED:
        again.append(await client.run(RunRequest(run_id=request.run_id, mode=RunMode.CONTINUE, after=index)))
        index = again[-1].next_index
    assert steps(again) == steps(replies)
    assert printed(again) == printed(replies)
    # Which of a step's outputs is read first, nobody promises.
    first, *others = (await client.logs(1000))[0].splitlines()
    assert first == "cleaning"
    assert sorted(others) == ["building", "oops", by_step["finished"].strip()]


async def test_a_failed_build_is_the_end(spawn: Spawn) -> None:
    client = await spawn()
    replies = await follow(client, batch(clean=None, build="exit 4", exec="echo never"))
    assert steps(replies) == [("clean-finished", 0), ("build-finished", 4), ("finished", 4)]
    assert printed(replies) == ""
    replies = await follow(client, batch(build="echo tried; echo wrong >&2; exit 4", buildLog=True))
    assert steps(replies)[-1] == ("finished", 4)
    assert sorted(printed(replies, "log").splitlines()) == ["tried", "wrong"]
    assert printed(replies) + printed(replies, "stderr") == ""
    replies = await follow(client, batch(clean="", build="*", exec="*"))
    assert steps(replies)[-1] == ("finished", 127)
    assert "main.py" in printed(replies, "stderr")


async def test_a_batch_run_asks_for_input_and_can_be_interrupted(spawn: Spawn) -> None:
    client = await spawn()
    await upload(client, "main.py", b"print('hi', input('name? '), input())")
    replies = await follow(client, batch(exec="*"), ("Ann", "Ädam"))
    assert printed(replies) == "name? hi Ann Ädam\n"
    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            await until_printed(client, "begun")
            await client.interrupt()

        nursery.start_soon(interrupt)
        replies = await follow(client, batch(build="echo begun; sleep 100", exec="echo never"))
    assert steps(replies)[-1] == ("finished", 130)
    assert printed(replies) == "begun\n"
    # The kernel itself has noticed nothing.
    assert (await finish(client, "1 + 1"))[1] == "2\n"


async def test_output_over_the_limit_ends_the_run(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(output=100_000))
    replies = await follow(client, batch(exec="trap '' INT; while :; do echo 0123456789; done"))
    assert replies[-1].truncated
    assert 90_000 < len(printed(replies)) <= 100_000


async def test_a_startup_command_is_the_life_of_its_kernel(spawn: Spawn) -> None:
    client = await spawn(startup_command="echo working; cat; exit 5", ready=False)
    with trio.fail_after(30):
        exit = await client.wait_exit()
    assert (exit.reason, exit.exit_code) == (TASK_FINISHED, 5)
    items: list[ConsoleItem] = []
    reply = await client.run(RunRequest(run_id=STARTUP_RUN, mode=RunMode.CONTINUE, after=0))
    while reply.status is not RunStatus.FINISHED:
        items += reply.items
        reply = await client.run(
            RunRequest(run_id=STARTUP_RUN, mode=RunMode.CONTINUE, after=reply.next_index)
        )
    assert text_of([*items, *reply.items], "stdout") == "working\n"
    assert reply.exit_code == 5
    assert (await client.logs(100))[0] == "working\n"


async def test_bash_remembers(spawn: Spawn) -> None:
    client = await spawn(image=image("bash"))
    assert (await finish(client, "x=5; f() { echo f$x; }; cd /tmp"))[1] == ""
    reply, out, err = await finish(client, "f; pwd; echo err >&2; echo ä; (exit 7)")
    assert (reply.exit_code, out, err) == (7, "f5\n/tmp\nä\n", "err\n")
    replies = await follow(client, query("read a; echo got $a; head -n 1"), ("one", "two"))
    assert printed(replies) == "got one\ntwo\n"
    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            await until_printed(client, "slow")
            await client.interrupt()

        nursery.start_soon(interrupt)
        reply, out, _ = await finish(client, "echo slow; sleep 100; echo b")
    assert (reply.exit_code, out) == (130, "slow\n")
    assert (await finish(client, "f; exit 3"))[0].exit_code == 3
    assert (await finish(client, "echo fresh$x"))[1] == "fresh\n"
    await upload(client, "main.sh", b"echo $0 $BASH_VERSION | cut -c1-7")
    assert printed(await follow(client, batch(build="*", exec="*"))) == "main.sh\n"


@with_compiler
async def test_c_is_compiled_and_run(spawn: Spawn) -> None:
    client = await spawn(image=image("c"))
    program = '#include <stdio.h>\nint main(void) { printf("six %d\\n", 6); return 6; }'
    reply, out, _ = await finish(client, program)
    assert (reply.exit_code, out) == (6, "six 6\n")
    assert (await finish(client, 'printf("%.1f", sqrt(2.25));'))[1] == "1.5"
    reply, _, err = await finish(client, "no such thing")
    assert (reply.exit_code, "error" in err) == (1, True)
    reply, _, err = await finish(client, "*(volatile int *)0 = 1;")
    assert (reply.exit_code, err) == (139, "Segmentation fault\n")
    replies = await follow(client, query('int x; scanf("%d", &x); printf("%d\\n", x * 2);'), ("21",))
    assert printed(replies) == "42\n"
    await upload(client, "a.c", b"int b(void); int main(void) { return b(); }")
    await upload(client, "b.c", b"int b(void) { return 9; }")
    assert steps(await follow(client, batch(build="*", exec="*")))[-1] == ("finished", 9)
    await upload(client, "Makefile", b"main:\n\tcp /bin/true main\nclean:\n\trm -f main\n")
    replies = await follow(client, batch(clean="*", build="*", exec="*"))
    assert steps(replies) == [("clean-finished", 0), ("build-finished", 0), ("finished", 0)]


@with_compiler
async def test_cpp_is_compiled_and_run(spawn: Spawn) -> None:
    client = await spawn(image=image("cpp"))
    assert (await finish(client, "vector<int> v{1, 2}; cout << v.size() << endl;"))[1] == "2\n"
    await upload(client, "x.cpp", b"#include <iostream>\nint main() { std::cout << 1; }")
    assert printed(await follow(client, batch(build="*", exec="*"))) == "1"
