"""Servers inside the sandbox, reached as clients reach them."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import wrap_client_stream

from backendai.agent.images import OWN_PYTHON, installed_images
from backendai.core.kernel import Dotfile, ImageSpec, ServicePort, ServiceSpec
from backendai.runner.client import RunnerClient, RunnerRefused
from backendai.runner.stream_client import open_runner_stream
from backendai.wire.streams import Closed, Data, Eof, PortTarget
from tests.runner.conftest import Spawn, finish
from tests.runner.streams import download

IMAGE = installed_images()[OWN_PYTHON]

_SSH_CLIENT = """
import asyncio, asyncssh, sys
async def main(port, key):
    options = {'known_hosts': None, 'username': 'work'}
    async with asyncssh.connect('127.0.0.1', port, client_keys=[key], **options) as ssh:
        done = await ssh.run('id -u; pwd; cat; echo err >&2; exit 3', input='given', check=False)
        print(repr((done.stdout, done.stderr, done.exit_status)))
        big = await ssh.run('head -c 3000000 /dev/zero', encoding=None)
        print(len(big.stdout))
        async with ssh.create_process(term_type='xterm', term_size=(91, 33)) as shell:
            shell.stdin.write('stty size; tty; exit 4\\n')
            screen = await shell.stdout.read()
            print('33 91' in screen, '/dev/pts/' in screen, (await shell.wait()).exit_status)
        async with ssh.start_sftp_client() as sftp:
            async with sftp.open('by-sftp', 'wb') as file:
                await file.write(b'x' * 100000)
            print(sorted(name for name in await sftp.listdir('.') if not name.startswith('.')))
    try:
        other = asyncssh.generate_private_key('ssh-ed25519')
        await asyncssh.connect('127.0.0.1', port, client_keys=[other], **options)
    except asyncssh.PermissionDenied:
        print('denied')
asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""


@asynccontextmanager
async def tunnel(client: RunnerClient, port: int) -> AsyncIterator[int]:
    """A local port whose connections end at ``port`` inside."""

    async def carry(connection: trio.SocketStream) -> None:
        async with (
            open_runner_stream(client.directory, PortTarget(port=port)) as stream,
            connection,
            trio.open_nursery() as nursery,
        ):

            async def inward() -> None:
                try:
                    while data := await connection.receive_some(30_000):
                        await stream.send(Data(bytes(data)))
                    await stream.send(Eof())
                except trio.BrokenResourceError:
                    await stream.send(Closed("aborted"))

            nursery.start_soon(inward)
            try:
                while not isinstance(frame := await stream.receive(), Closed):
                    if isinstance(frame, Data):
                        await connection.send_all(frame.payload)
                    else:
                        await connection.send_eof()
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, carry, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def start(client: RunnerClient, name: str, port: int | None = None) -> int:
    with trio.fail_after(30):
        return await client.start_service(name, port, {}, {})


async def answers(client: RunnerClient, port: int) -> bool:
    try:
        async with open_runner_stream(client.directory, PortTarget(port=port)):
            return True
    except RunnerRefused as refused:
        return refused.code != "refused"


async def test_ssh_and_sftp(spawn: Spawn, tmp_path: Path) -> None:
    client = await spawn(image=IMAGE)
    data, _ = await download(client, "id_container")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(tmp_path, filter="data")
    assert (tmp_path / "id_container").stat().st_mode & 0o777 == 0o600
    assert await start(client, "sshd") == 2200
    assert await start(client, "sshd") == 2200
    async with tunnel(client, 2200) as port:
        argv = [sys.executable, "-c", _SSH_CLIENT, str(port), str(tmp_path / "id_container")]
        with trio.fail_after(30):
            result = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().splitlines() == [
        "('1000\\n/home/work\\ngiven', 'err\\n', 3)",
        "3000000",
        "True True 4",
        "['by-sftp', 'id_container']",
        "denied",
    ]


async def test_the_web_terminal(spawn: Spawn) -> None:
    client = await spawn(image=IMAGE)
    async with tunnel(client, await start(client, "ttyd")) as port:
        with trio.fail_after(20):
            for path, wanted in (
                ("/", b"page.js"),
                ("/static/page.js", b"WebSocket"),
                ("/static/xterm.js", b"xterm"),
            ):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
                    await stream.send_all(request.encode())
                    page = b"".join([data async for data in stream])
                    assert page.startswith(b"HTTP/1.1 200")
                    assert wanted in page
            async with (
                await trio.open_tcp_stream("127.0.0.1", port) as stream,
                trio.open_nursery() as nursery,
            ):
                socket = await wrap_client_stream(nursery, stream, f"127.0.0.1:{port}", "/socket")
                await socket.send_message("[25, 81]")
                await socket.send_message("stty size; echo ä $((6 * 7)); exit\n".encode())
                screen = b""
                while "ä 42".encode() not in screen:
                    screen += await socket.get_message()
                assert b"25 81" in screen
                await socket.aclose()


async def test_starting_and_stopping(spawn: Spawn) -> None:
    def service(name: str, port: int, *argv: str) -> ServiceSpec:
        return ServiceSpec(name=name, protocol="http", ports=(port,), argv=argv)

    python = sys.executable
    image = ImageSpec(
        **{
            name: getattr(IMAGE, name)
            for name in ("canonical", "kernelspec", "language", "argv", "resource_dir")
        },
        services=(
            service("files", 8000, python, "-m", "http.server", "{port}", "--bind", "127.0.0.1"),
            service("broken", 8001, "sh", "-c", "echo no such luck >&2; exit 9"),
            service("absent", 8002, "no-such-program"),
        ),
    )
    client = await spawn(image=image, preopen_ports=(9000,))
    assert (await client.services())[-1] == ServicePort(name="9000", protocol="preopen", ports=(9000,))
    assert [port.name for port in await client.services()] == ["files", "broken", "absent", "9000"]
    for name, code, words in (
        ("broken", "failed", "no such luck"),
        ("absent", "failed", "No such file"),
        ("other", "no-such-service", "other"),
    ):
        with pytest.raises(RunnerRefused, match=words) as caught:
            await start(client, name)
        assert caught.value.code == code
    with pytest.raises(RunnerRefused):
        await start(client, "files", 8001)
    assert await start(client, "files") == 8000
    await client.stop_service("files")
    with trio.fail_after(10):
        while await answers(client, 8000):
            await trio.sleep(0.02)
    assert await start(client, "files", 8000) == 8000


async def test_files_that_are_there_from_the_start(spawn: Spawn) -> None:
    dotfiles = (
        Dotfile(path=".bashrc", permission="600", data="export MARK=ä\n"),
        Dotfile(path=".config/app/settings", permission="755", data="x"),
    )
    client = await spawn(dotfiles=dotfiles, bootstrap_script="cat .bashrc > seen; stat -c %a .bashrc >> seen")
    code = "print(open('seen').read(), open('.config/app/settings').read()); import os; os.remove('.bashrc')"
    assert (await finish(client, code))[1] == "export MARK=ä\n600\n x\n"
    await client.restart()
    assert (await finish(client, "import os; os.path.exists('.bashrc')"))[1] == "False\n"
    with pytest.raises(Exception, match="start-failed"):
        await spawn(dotfiles=(Dotfile(path="../x", permission="600", data=""),))
