"""Streams through a real agent process into real kernels."""

from __future__ import annotations

import random
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

import pytest
import trio

from backendai.manager import stream_link
from backendai.manager.link import AgentAddress, AgentStream, StreamRefused
from backendai.wire.link import DestroyKernel, KernelStarted, OpenStream
from backendai.wire.streams import Closed, PortTarget, StreamTarget, TerminalTarget, UploadTarget

from .test_end_to_end import Manager, nothing_left, open_agent, open_manager, start_agent, wait

ECHO = """
import socket, threading
listening = socket.create_server(("127.0.0.1", 7000))
def serve():
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()
def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
threading.Thread(target=serve, daemon=True).start()
"""


def open_stream(
    manager: Manager, kernel_id: UUID, target: StreamTarget
) -> AbstractAsyncContextManager[AgentStream]:
    hello = manager.hellos[-1]
    address = AgentAddress(hello.address, hello.public_key)
    return manager.links.open_stream(address, OpenStream(kernel_id=kernel_id, target=target), timeout=20)


async def until(stream: AgentStream, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        data = await stream.receive()
        assert data is not None, stream.result
        seen += data


async def test_a_port_inside(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(8 << 20)
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        kernel_id = await manager.create()
        await manager.event(KernelStarted, kernel_id)
        await manager.run(kernel_id, ECHO)
        got = bytearray()
        with trio.fail_after(40):
            async with (
                open_stream(manager, kernel_id, PortTarget(port=7000)) as stream,
                trio.open_nursery() as nursery,
            ):

                async def send() -> None:
                    await stream.send(content)
                    await stream.send_eof()

                nursery.start_soon(send)
                while (data := await stream.receive()) is not None:
                    got += data
                assert await stream.wait_ended() == Closed()
            assert bytes(got) == content
            with pytest.raises(StreamRefused, match="refused"):
                async with open_stream(manager, kernel_id, PortTarget(port=7001)):
                    pass
            # Nobody takes it, so little of it is on its way, and the kernel still answers.
            async with open_stream(manager, kernel_id, PortTarget(port=7000)) as stream:
                with trio.move_on_after(1):
                    await stream.send(content * 4)
                assert await manager.run(kernel_id, "print(6 * 7)") == "42\n"
            async with open_stream(manager, kernel_id, PortTarget(port=7000)) as stream:
                await manager.call(DestroyKernel(kernel_id=kernel_id, reason="user-requested"))
                await stream.wait_ended()
        await nothing_left(tmp_path)


async def test_streams_of_an_agent_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_link, "PROBE_INTERVAL", 0.2)
    monkeypatch.setattr(stream_link, "LOST_AFTER", 2.0)
    target = TerminalTarget(terminal="main")
    async with open_manager() as (manager, endpoint):
        agent = start_agent(tmp_path, endpoint)
        try:
            await manager.until(lambda: manager.hellos)
            kernel_id = await manager.create()
            await manager.event(KernelStarted, kernel_id)
            with trio.fail_after(40):
                async with (
                    open_stream(manager, kernel_id, target) as stream,
                    open_stream(manager, kernel_id, UploadTarget(path="half")) as upload,
                ):
                    await stream.send(b"kept=$((6*7)); echo now-$kept\n")
                    await until(stream, b"now-42")
                    await upload.send(b"half of it")
                    agent.send_signal(signal.SIGKILL)
                    assert (await stream.wait_ended()).code == "gone"
                    assert (await upload.wait_ended()).code == "gone"
        finally:
            agent.kill()
            await wait(agent)
        async with open_agent(manager, tmp_path, endpoint):
            with trio.fail_after(40):
                async with open_stream(manager, kernel_id, target) as stream:
                    await stream.send(b"echo still-$kept\n")
                    await until(stream, b"still-42")
                names = "import os; print([name for name in os.listdir() if name.startswith('.up')])"
                assert await manager.run(kernel_id, names) == "[]\n"
        await nothing_left(tmp_path)
