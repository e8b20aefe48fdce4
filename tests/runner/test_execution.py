"""What runs of code come to, with a real kernel."""

from __future__ import annotations

import trio

from backendai.core.execution import CompletionRequest, RunMode, RunRequest, RunStatus
from backendai.core.kernel import KernelLimits
from backendai.runner.client import RunnerClient
from tests.runner.conftest import Spawn, finish, query, text_of


async def test_a_kernel_answers_in_the_ways_of_the_contract(spawn: Spawn) -> None:
    """One kernel, many cells: each would cost a start of its own otherwise."""
    client = await spawn()
    await _results_and_streams(client)
    await _rich_output(client)
    await _errors_and_exit_codes(client)
    await _input(client)
    await _completion(client)
    await _runs_are_serialised_and_repeatable(client)
    await _threads_print(client)
    await _strange_text(client)


async def _results_and_streams(client: RunnerClient) -> None:
    reply, out, err = await finish(
        client, "import sys\nprint('a'); print('b', file=sys.stderr); print('c')\n6*7"
    )
    assert (reply.status, reply.exit_code) == (RunStatus.FINISHED, 0)
    assert out == "a\nc\n42\n"
    assert err == "b\n"
    reply = await client.run(query("for i in range(5): print(i, flush=True)", after=0))
    assert [(item.kind, item.data) for item in reply.items] == [("stdout", "0\n1\n2\n3\n4\n")]


async def _rich_output(client: RunnerClient) -> None:
    reply = await client.run(
        query(
            "from IPython.display import display, HTML, SVG, Image\n"
            "display(HTML('<b>x</b>')); display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\n"
            "display(Image(data=b'\\x89PNG\\r\\n\\x1a\\n', format='png', embed=True))"
        )
    )
    html, svg, png = reply.items
    assert (html.kind, html.data) == ("html", "<b>x</b>")
    assert (svg.kind, svg.mime) == ("media", "image/svg+xml")
    assert svg.data.startswith("<svg")
    assert (png.kind, png.mime) == ("media", "image/png")
    assert png.data == "data:image/png;base64,iVBORw0KGgo="


async def _errors_and_exit_codes(client: RunnerClient) -> None:
    reply, _, err = await finish(client, "def f():\n    raise ValueError('bad')\nf()")
    assert reply.exit_code == 1
    assert "ValueError" in err
    assert "bad" in err
    assert "\x1b[" in err
    assert (await finish(client, "1 +"))[0].exit_code == 1
    reply, out, err = await finish(client, "import sys; print('bye'); sys.exit(3)")
    assert (reply.exit_code, out, err) == (3, "bye\n", "")
    assert (await finish(client, "import debugpy"))[0].exit_code == 0
    assert (await finish(client, "sys.exit()"))[0].exit_code == 0
    reply, _, err = await finish(client, "sys.exit('why not')")
    assert reply.exit_code == 1
    assert "why not\n" in err
    assert (await finish(client, "'alive'"))[1] == "'alive'\n"


async def _input(client: RunnerClient) -> None:
    request = query("name = input('who? '); print('hello', name)")
    reply = await client.run(request)
    assert reply.status is RunStatus.WAITING_INPUT
    assert reply.options == {"is_password": False}
    assert text_of(reply.items, "stdout") == "who? "
    reply = await client.run(RunRequest(run_id=request.run_id, mode=RunMode.INPUT, code="you"))
    assert reply.status is RunStatus.FINISHED
    assert text_of(reply.items, "stdout") == "hello you\n"
    # Said twice, because the answer was lost: it just reads on.
    again = await client.run(RunRequest(run_id=request.run_id, mode=RunMode.INPUT, code="you", after=0))
    assert text_of(again.items, "stdout") == "who? hello you\n"
    secret = query("import getpass; len(getpass.getpass('pw: '))")
    reply = await client.run(secret)
    assert reply.options == {"is_password": True}
    reply = await client.run(RunRequest(run_id=secret.run_id, mode=RunMode.INPUT, code="four"))
    assert text_of(reply.items, "stdout") == "4\n"


async def _completion(client: RunnerClient) -> None:
    assert "import" in await client.complete(CompletionRequest(code="impor", col=5, line="impor"))
    assert "import" in await client.complete(CompletionRequest(code="", line="impor"))
    await finish(client, "import os")
    second_line = await client.complete(CompletionRequest(code="import os\nos.getc", row=1, col=7))
    assert any(match.endswith("getcwd") for match in second_line)


async def _runs_are_serialised_and_repeatable(client: RunnerClient) -> None:
    requests = [query(f"print({number})", wait=10.0) for number in range(8)]
    order: list[int] = []

    async def run(number: int) -> None:
        reply = await client.run(requests[number])
        assert text_of(reply.items, "stdout") == f"{number}\n"
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(run, number)
    assert sorted(order) == list(range(8))
    counted = query("count = globals().get('count', 0) + 1; count")
    assert text_of((await client.run(counted)).items, "stdout") == "1\n"
    repeated = await client.run(
        RunRequest(run_id=counted.run_id, mode=RunMode.QUERY, code=counted.code, after=0)
    )
    assert repeated.status is RunStatus.FINISHED
    assert text_of(repeated.items, "stdout") == "1\n"


async def _threads_print(client: RunnerClient) -> None:
    code = "import threading\nt = threading.Thread(target=lambda: print('from thread'))\nt.start(); t.join()"
    assert (await finish(client, code))[1] == "from thread\n"


async def _strange_text(client: RunnerClient) -> None:
    assert (await finish(client, "print('\\x00 \\x1b \\U0001f600')"))[1] == "\x00 \x1b \U0001f600\n"


async def test_ten_megabytes_arrive_complete_and_exact(spawn: Spawn) -> None:
    client = await spawn()
    code = "import hashlib, sys\nfor i in range(200_000):\n    print(f'{i:07d} ' + 'x' * 42)"
    reply, out, err = await finish(client, code, timeout=60)
    assert (reply.exit_code, err, reply.truncated) == (0, "", False)
    assert out == "".join(f"{i:07d} " + "x" * 42 + "\n" for i in range(200_000))
    reply, out, _ = await finish(client, "print('é' * 5_000_000)", timeout=60)
    assert out == "é" * 5_000_000 + "\n"


async def test_many_small_messages_arrive_complete(spawn: Spawn) -> None:
    client = await spawn()
    reply, out, _ = await finish(client, "for i in range(5_000): print(i, flush=True)", timeout=60)
    assert reply.exit_code == 0
    assert out == "".join(f"{i}\n" for i in range(5_000))


async def test_an_endless_printer_is_stopped_at_the_limit(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(output=1_000_000))
    reply, out, err = await finish(client, "while True: print('y' * 1000)", timeout=30)
    assert reply.status is RunStatus.FINISHED
    assert reply.truncated
    assert "1000000 bytes" in err
    assert 900_000 < len(out) <= 1_000_000
    assert (await finish(client, "1+1"))[1] == "2\n"


async def test_a_slow_reader_gets_everything_in_pieces(spawn: Spawn) -> None:
    client = await spawn()
    request = query("for i in range(40): print('z' * 99_999)", wait=0.0)
    await client.run(request)
    with trio.fail_after(20):
        while (await client.describe()).busy:
            await trio.sleep(0.02)
    total = pieces = index = 0
    while True:
        reply = await client.run(RunRequest(run_id=request.run_id, mode=RunMode.CONTINUE, after=index))
        size = sum(len(item.data) for item in reply.items)
        assert size <= 1 << 20
        total, pieces, index = total + size, pieces + 1, reply.next_index
        if reply.status is RunStatus.FINISHED:
            break
    assert total == 4_000_000
    assert pieces >= 4


async def test_interrupt_ends_a_busy_loop_and_the_kernel_lives(spawn: Spawn) -> None:
    client = await spawn()
    request = query("x = 1\nwhile True: pass", wait=0.1)
    reply = await client.run(request)
    assert reply.status is RunStatus.CONTINUED
    assert (await client.stat()).busy
    await client.interrupt()
    reply = await client.run(RunRequest(run_id=request.run_id, mode=RunMode.CONTINUE, wait=10.0))
    assert (reply.status, reply.exit_code) == (RunStatus.FINISHED, 1)
    assert "KeyboardInterrupt" in text_of(reply.items, "stderr")
    assert (await finish(client, "x"))[1] == "1\n"
    asleep = query("import subprocess; subprocess.run(['sleep', '60']).returncode", wait=0.1)
    await client.run(asleep)
    await client.interrupt()
    reply = await client.run(RunRequest(run_id=asleep.run_id, mode=RunMode.CONTINUE, wait=10.0))
    assert reply.status is RunStatus.FINISHED


async def test_an_interrupt_at_the_wrong_moment_loses_no_run(spawn: Spawn) -> None:
    client = await spawn()

    async def interrupt(delay: float) -> None:
        await trio.sleep(delay)
        await client.interrupt()

    for number in range(12):
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(interrupt, number * 0.0007)
                reply = await client.run(query("print('x' * 100_000)", wait=8.0))
            assert reply.status is RunStatus.FINISHED
    assert (await finish(client, "1+1"))[1] == "2\n"


async def test_the_log_keeps_what_was_printed_after_runs(spawn: Spawn) -> None:
    client = await spawn()
    await finish(client, "print('first')")
    await finish(client, "import os; os.write(1, b'raw\\n')")
    with trio.fail_after(5):
        while "raw" not in (await client.logs(1000))[0]:
            await trio.sleep(0.02)
    await finish(client, "print('second')")
    text, truncated = await client.logs(1000)
    assert "first\n" in text
    assert "second\n" in text
    assert not truncated
    assert await client.logs(4) == (text[-4:], True)
