"""The official command lines, each generation through the same scenarios.

Their ``run`` exits with 0 whatever the code did, and prints the code's exit code; what it writes to stdout is
the code's own, its remarks go to stderr.
"""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import trio
from live.service import Service
from official import COMMAND_WITHIN, Client, plain

pytestmark = pytest.mark.clients

IMAGE = "python"
#: Seconds that a client would wait for a server that does not answer its goodbye over TLS.
GOODBYE_WITHIN = 25.0
FOREVER = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.1)"


@asynccontextmanager
async def session(client: Client) -> AsyncIterator[tuple[str, str]]:
    """A session made by the client's own command; name and id. Ended after the body."""
    name = f"test-{uuid4().hex[:12]}"
    said = await client(*client.generation.create, "-t", name, IMAGE)
    assert said.code == 0, said
    found = re.search(r"Session ID (\S+) is created and ready", said.err)
    assert found, said
    try:
        yield name, found[1]
    finally:
        await client(*client.generation.terminate, name)


async def test_run_prints_what_the_code_prints(client: Client) -> None:
    said = await client("run", "--rm", "-c", "print('sum', 40 + 2)", IMAGE)

    assert said.code == 0, said
    assert said.out == "sum 42\n"
    assert "Execution finished. (exit code = 0)" in said.err
    assert "Cleaned up the session." in said.err


async def test_run_shows_statistics(client: Client) -> None:
    said = await client("run", "--rm", "--stats", "-c", "print(sum(range(10**6)))", IMAGE)

    assert said.code == 0, said
    assert re.search(r"^cpu_used +[\d,.]+ +msec", said.out, re.MULTILINE), said


async def test_run_passes_input_on(client: Client) -> None:
    code = "name = input('who? ')\nprint('hello', name, 'of', input('where? '))"
    said = await client("run", "--rm", "-c", code, IMAGE, stdin="a traveller\nnowhere\n")

    assert said.code == 0, said
    assert "who? " in said.out
    assert "hello a traveller of nowhere" in said.out
    assert "Execution finished. (exit code = 0)" in said.err


async def test_run_shows_an_exception(client: Client) -> None:
    said = await client("run", "--rm", "-c", "print('before')\n1 / 0\nprint('after')", IMAGE)

    assert said.code == 0, said
    assert said.out == "before\n"
    assert "ZeroDivisionError" in said.err
    assert "Execution finished. (exit code = 1)" in said.err


async def test_run_tells_the_exit_code(client: Client) -> None:
    said = await client("run", "--rm", "-c", "import sys\nprint('leaving')\nsys.exit(3)", IMAGE)

    assert said.code == 0, said
    assert "leaving\n" in said.out
    assert "Execution finished. (exit code = 3)" in said.err


async def test_run_keeps_the_order_and_every_line_of_a_long_output(client: Client) -> None:
    said = await client("run", "--rm", "-c", "for n in range(20000): print('line', n)", IMAGE)

    assert said.code == 0, said.err
    assert said.out.splitlines() == [f"line {n}" for n in range(20000)]


async def test_run_says_why_an_image_is_refused(client: Client) -> None:
    said = await client("run", "--rm", "-c", "1", "no-such-language:1.0")

    assert "No such environment image" in said.err, said
    assert "Execution finished" not in said.err


async def test_wrong_keys_are_refused(client: Client) -> None:
    said = await client(*client.generation.list, environ={"BACKEND_SECRET_KEY": "x" * 40})

    assert said.code == 1, said
    assert "Credential/signature mismatch" in said.err + said.out


async def test_endpoint_with_tls(client: Client, service: Service) -> None:
    environ = {"BACKEND_ENDPOINT": service.endpoint_tls, "BACKEND_SKIP_SSLCERT_VALIDATION": "yes"}
    with trio.fail_after(GOODBYE_WITHIN):
        said = await client("run", "--rm", "-c", "print('over TLS')", IMAGE, environ=environ)

    assert said.code == 0, said
    assert said.out == "over TLS\n"


async def test_life_of_a_session(client: Client) -> None:
    words = client.generation
    async with session(client) as (name, session_id):
        listed = await client(*words.list)
        assert listed.code == 0, listed
        assert name in listed.out
        assert "RUNNING" in listed.out

        info = await client(*words.info, session_id)
        assert info.code == 0, info
        assert name in info.out
        assert "RUNNING" in info.out

        first = await client("run", "-t", name, "-c", "kept = 'in memory'; print('printed before')", IMAGE)
        assert f"Reusing session {name}" in first.err, first
        again = await client("run", "-t", name, "-c", "print(kept)", IMAGE)
        assert again.out == "in memory\n", again

        logs = await client(*words.logs, name)
        assert logs.code == 0, logs
        assert "printed before" in logs.out
        assert "in memory" in logs.out

        restarted = await client(*words.restart, name)
        assert restarted.code == 0, restarted
        fresh = await client("run", "-t", name, "-c", "print('kept' in globals())", IMAGE)
        assert fresh.out == "False\n", fresh

        ended = await client(*words.terminate, name)
        assert ended.code == 0, ended
        with trio.fail_after(COMMAND_WITHIN):
            while name in (await client(*words.list)).out:
                pass
        assert (await client(*words.terminate, name)).code == 1


async def test_interrupt_ends_the_run_and_keeps_the_session(client: Client) -> None:
    async with session(client) as (name, _):
        process = await client.open("run", "-t", name, "-c", FOREVER, IMAGE)
        with trio.fail_after(COMMAND_WITHIN):
            await _wait_for(process, b"begun")
            asked = await client.library(
                "from ai.backend.client.session import Session\n"
                f"with Session() as session: session.ComputeSession({name!r}).interrupt()"
            )
            assert asked.code == 0, asked
            said = await _rest(process)
        assert "KeyboardInterrupt" in said
        assert "Execution finished. (exit code = 1)" in said
        after = await client("run", "-t", name, "-c", "print('still here')", IMAGE)
        assert after.out == "still here\n", after


async def test_hanging_up_interrupts_the_run(client: Client) -> None:
    async with session(client) as (name, _):
        process = await client.open("run", "-t", name, "-c", FOREVER, IMAGE)
        with trio.fail_after(COMMAND_WITHIN):
            await _wait_for(process, b"begun")
            process.send_signal(signal.SIGINT)
            await _rest(process)
        after = await client("run", "-t", name, "-c", "print('free again')", IMAGE)
        assert after.out == "free again\n", after


async def _wait_for(process: trio.Process, mark: bytes) -> None:
    assert process.stdout is not None
    seen = b""
    while mark not in seen:
        chunk = await process.stdout.receive_some()
        assert chunk, "the client ended early"
        seen += chunk


async def _rest(process: trio.Process) -> str:
    """All that the client still says, on either output, until it ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = bytearray()

    async def collect(stream: trio.abc.ReceiveStream) -> None:
        async for chunk in stream:
            said.extend(chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, process.stdout)
        nursery.start_soon(collect, process.stderr)
    await process.wait()
    return plain(bytes(said))
