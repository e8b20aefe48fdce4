"""Terminals, tunnels and files of real kernels."""

from __future__ import annotations

import io
import socket
import tarfile

import pytest
import trio

from backendai.core.kernel import KernelLimits
from backendai.runner.client import RunnerClient, RunnerRefused
from backendai.runner.stream_client import open_runner_stream
from backendai.wire.streams import (
    CHUNK_BYTES,
    Closed,
    Data,
    Eof,
    PortTarget,
    Resize,
    StreamTarget,
    TerminalTarget,
    UploadTarget,
)
from tests.runner.conftest import Spawn, finish
from tests.runner.streams import download, read_all, read_until, upload


def terminal(name: str = "t", **options: object) -> TerminalTarget:
    return TerminalTarget(terminal=name, **options)  # type: ignore[arg-type]


async def refusal(client: RunnerClient, target: StreamTarget) -> str:
    with pytest.raises(RunnerRefused) as caught:
        async with open_runner_stream(client.directory, target):
            pass
    return caught.value.code


async def test_a_terminal_outlives_its_client_and_shows_its_screen_again(spawn: Spawn) -> None:
    client = await spawn()
    with trio.fail_after(20):
        async with open_runner_stream(client.directory, terminal(rows=31, cols=77)) as stream:
            await stream.send(Data(b"stty size; export MARK=kept; echo $((40 + 2))\n"))
            assert b"31 77" in await read_until(stream, b"42\r\n")
        async with open_runner_stream(client.directory, terminal(rows=20, cols=50)) as stream:
            assert b"31 77" in await read_until(stream, b"42\r\n")
            await stream.send(Resize(33, 99))
            await stream.send(Data(b"stty size; echo $MARK $((50 + 5))\n"))
            assert b"33 99" in await read_until(stream, b"kept 55\r\n")
            await stream.send(Data(b"\xc3\xa4\x00\xff"))
            await stream.send(Data(b"\x15exit 3\n"))
            _, closed = await read_all(stream)
            assert closed == Closed("", "exit code 3")
    # The agent's own connection is not displaced by all that.
    assert (await client.describe()).runner_pid > 0


async def test_terminals_are_many_and_may_be_shared(spawn: Spawn) -> None:
    client = await spawn()
    with trio.fail_after(20):
        async with (
            open_runner_stream(client.directory, terminal("a")) as a,
            open_runner_stream(client.directory, terminal("a")) as again,
            open_runner_stream(client.directory, terminal("b", argv=("cat",))) as b,
        ):
            await a.send(Data(b"echo $((1 + 1))$((2 + 2))\n"))
            for stream in (a, again):
                await read_until(stream, b"24\r\n")
            await b.send(Data(b"meow\n"))
            await read_until(b, b"meow\r\nmeow")
            async with open_runner_stream(client.directory, terminal("a", restart=True)) as fresh:
                for stream in (a, again):
                    assert (await read_all(stream))[1].code == "gone"
                await fresh.send(Data(b"echo new$((3 + 3))\n"))
                assert b"24\r\n" not in await read_until(fresh, b"new6\r\n")
        assert await refusal(client, terminal("c", argv=("no-such-program",))) == "io-error"


async def test_a_flood_waits_for_who_looks_and_for_nobody_else(spawn: Spawn) -> None:
    client = await spawn()
    flood = "import sys; sys.stdout.write('x' * 3_000_000 + 'end'); sys.stdout.flush(); input()"
    with trio.fail_after(30):
        async with open_runner_stream(client.directory, terminal(argv=("python", "-c", flood))) as stream:
            assert len(await read_until(stream, b"end")) == 3_000_003
        async with open_runner_stream(client.directory, terminal("u", argv=("python", "-c", flood))):
            pass
        async with open_runner_stream(client.directory, terminal("u")) as stream:
            while b"end" not in (screen := (await stream.receive()).payload):  # type: ignore[union-attr]
                assert len(screen) <= CHUNK_BYTES


async def test_a_tunnel_reaches_ports_inside_and_no_other(spawn: Spawn) -> None:
    client = await spawn()
    server = (
        "import socket, threading\n"
        "s = socket.create_server(('127.0.0.1', 4000))\n"
        "def serve():\n"
        "    while True:\n"
        "        c, _ = s.accept()\n"
        "        data = b''\n"
        "        while d := c.recv(65536): data += d\n"
        "        c.sendall(data[::-1]); c.close()\n"
        "threading.Thread(target=serve, daemon=True).start()"
    )
    await finish(client, server)
    with trio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as outer:
        payload = bytes(range(256)) * 3000
        async with open_runner_stream(client.directory, PortTarget(port=4000)) as stream:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for start in range(0, len(payload), CHUNK_BYTES):
                        await stream.send(Data(payload[start : start + CHUNK_BYTES]))
                    await stream.send(Eof())

                nursery.start_soon(send)
                data, closed = await read_all(stream)
            assert data == payload[::-1]
            assert closed == Closed()
        assert await refusal(client, PortTarget(port=4001)) == "refused"
        assert await refusal(client, PortTarget(port=outer.getsockname()[1])) == "refused"
        assert await refusal(client, PortTarget(port=0)) == "bad-request"


async def test_streams_end_with_the_kernel(spawn: Spawn) -> None:
    client = await spawn()
    with trio.fail_after(20):
        async with open_runner_stream(client.directory, terminal()) as stream:
            await client.restart()
            assert (await read_all(stream))[1].code == "gone"
        async with open_runner_stream(client.directory, terminal()) as stream:
            await stream.send(Data(b"kill -9 -1\n"))
            await read_all(stream)
            assert (await client.wait_exit()).reason == "killed"
        assert await refusal(client, terminal()) == "gone"
        with pytest.raises(RunnerRefused):
            await client.list_files(".")


async def test_files_go_in_and_come_out(spawn: Spawn) -> None:
    client = await spawn()
    big = bytes(range(256)) * 4096
    chunks = [big[start : start + CHUNK_BYTES] for start in range(0, len(big), CHUNK_BYTES)]
    with trio.fail_after(30):
        assert await upload(client, "deep/er/file.bin", *chunks) == Closed()
        assert await upload(client, "/home/work/deep/empty") == Closed()
        assert await upload(client, "deep/er/../../top.txt", b"old") == Closed()
        assert await upload(client, "top.txt", b"new") == Closed()
        assert await download(client, "deep/er/file.bin", archive=False) == (big, Closed())
        await finish(
            client,
            "import os\nos.symlink('er/file.bin', 'deep/link'); os.symlink('/etc/passwd', 'deep/out')\n"
            "os.symlink('../..', 'deep/up'); os.mkfifo('deep/pipe')",
        )
        data, closed = await download(client, "deep", "top.txt")
        assert closed == Closed()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert set(tar.getnames()) == {
                "deep", "deep/empty", "deep/er", "deep/er/file.bin", "deep/link", "top.txt"
            }  # fmt: skip
            assert tar.extractfile("deep/er/file.bin").read() == big  # type: ignore[union-attr]
        listing = await client.list_files("deep/er")
        assert [(entry.filename, entry.mode, entry.size) for entry in listing.entries] == [
            ("file.bin", "-rw-r--r--", len(big))
        ]
        assert (listing.path, listing.errors) == ("deep/er", "")
        assert (await client.list_files("/home/work")).entries
        assert "No such file" in (await client.list_files("missing")).errors
        _, stdout, _ = await finish(
            client, "import os; print(os.path.getsize('deep/er/file.bin'), open('top.txt').read())"
        )
        assert stdout == f"{len(big)} new\n"


async def test_what_leads_out_is_refused(spawn: Spawn) -> None:
    client = await spawn()
    await finish(
        client,
        "import os, socket\nos.symlink('/etc', 'etc'); os.symlink('/etc/passwd', 'passwd')\n"
        "os.mkfifo('pipe'); os.mkdir('dir'); os.symlink('loop', 'loop')\n"
        "socket.socket(socket.AF_UNIX).bind('socket')",
    )
    with trio.fail_after(20):
        for path in ("/etc/passwd", "../../etc/passwd", "etc/passwd", "passwd", "..", "/home/workx", "a\0b"):
            for archive in (True, False):
                with pytest.raises(RunnerRefused) as caught:
                    await download(client, path, archive=archive)
                assert caught.value.code == "forbidden-path", path
            with pytest.raises(RunnerRefused) as caught:
                await client.list_files(path)
            assert caught.value.code == "forbidden-path", path
        for path in ("/tmp/x", "../x", "etc/x", "", "dir", "pipe", "a\0b"):
            assert await refusal(client, UploadTarget(path=path)) == "forbidden-path", path
        for path in ("pipe", "dir", "socket"):
            with pytest.raises(RunnerRefused) as caught:
                await download(client, path, archive=False)
            assert caught.value.code == "forbidden-path", path
        with pytest.raises(RunnerRefused) as caught:
            await download(client, "missing")
        assert caught.value.code == "not-found"
        # A link in the way is replaced, not followed.
        assert await upload(client, "passwd", b"mine") == Closed()
        assert await download(client, "passwd", archive=False) == (b"mine", Closed())


async def test_an_upload_is_whole_or_nothing(spawn: Spawn) -> None:
    client = await spawn(limits=KernelLimits(disk=1 << 20))
    with trio.fail_after(20):
        async with open_runner_stream(client.directory, UploadTarget(path="half")) as stream:
            await stream.send(Data(b"half"))
        async with open_runner_stream(client.directory, UploadTarget(path="half")) as stream:
            await stream.send(Closed("aborted"))
            assert (await read_all(stream))[1].code == "aborted"
        assert (await upload(client, "large", *[bytes(CHUNK_BYTES)] * 17)).code == "too-large"
        while names := [entry.filename for entry in (await client.list_files(".")).entries]:
            assert {name for name in names if not name.startswith(".")} == {"id_container"}
            if not any(name.startswith(".uploading-") for name in names):
                break
