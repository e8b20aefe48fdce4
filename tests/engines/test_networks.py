"""Kernels of one session that reach each other by name, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from backendai.core.kernel import KernelLimits
from backendai.embedded.launch import become
from backendai.engines.contract import Sandbox, SandboxRequest
from backendai.engines.networks import make_network
from backendai.engines.plugging import Seat, SessionNetwork
from backendai.engines.process import ProcessEngine
from tests.engines.ordinary_user import NOBODY

CAP_DAC_READ_SEARCH = 2
NAMES = ("main1", "sub1", "sub2")
#: Says who it is to whoever comes, on every address, at a port that others may have too.
SERVER = """
import socket
with socket.create_server(("", 7000)) as server:
    print("serving", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(socket.gethostname().encode())
"""
ASK = """
import socket
with socket.create_connection(("{}", 7000), 30) as connection:
    print(connection.recv(100).decode(), connection.getpeername()[0])
"""


@pytest.fixture
def places() -> Iterator[Path]:
    """A directory anybody may pass, for an ordinary user too."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@asynccontextmanager
async def open_network() -> AsyncIterator[SessionNetwork]:
    network = await make_network()
    try:
        yield network
    finally:
        network.close()


def request(places: Path, argv: tuple[str, ...], seat: Seat | None) -> SandboxRequest:
    home, ipc = (places / f"{kind}-{uuid4()}" for kind in ("home", "ipc"))
    home.mkdir()
    ipc.mkdir()
    return SandboxRequest(
        name=f"test-{uuid4()}",
        argv=argv,
        environ={"PATH": "/usr/bin:/bin"},
        hostname="alone" if seat is None else seat.names[seat.place],
        limits=KernelLimits(),
        home=home,
        ipc=ipc,
        seat=seat,
    )


async def printed(places: Path, argv: tuple[str, ...], seat: Seat | None = None) -> str:
    async with ProcessEngine.of_this_host().open(request(places, argv, seat)) as sandbox:
        return "".join([data.decode() async for data in sandbox.output])


async def serve(stack: AsyncExitStack, places: Path, seat: Seat) -> Sandbox:
    argv = ("/usr/bin/python3", "-c", SERVER)
    sandbox = await stack.enter_async_context(ProcessEngine.of_this_host().open(request(places, argv, seat)))
    assert await sandbox.output.receive_some() == b"serving\n"
    return sandbox


def asking(name: str) -> tuple[str, ...]:
    return ("/usr/bin/python3", "-c", ASK.format(name))


async def check(places: Path) -> None:
    """What holds for root and for an ordinary user."""
    async with open_network() as network, AsyncExitStack() as stack:
        servers = [await serve(stack, places, Seat(network, place, NAMES)) for place in (1, 2)]
        asker = Seat(network, 0, NAMES)
        assert await printed(places, asking("sub1"), asker) == "sub1 10.128.0.2\n"
        # The seat is taken again at once, as by a restart.
        assert await printed(places, asking("sub2"), asker) == "sub2 10.128.0.3\n"
        assert servers[0].isolation["network"] == "kernels of the session"
        # Terminals, tunnels and files go inside by the same way as everywhere.
        async with await servers[0].connect(7000) as connection:
            assert await connection.receive_some() == b"sub1"
        async with servers[1].enter(asking("sub1"), environ={"PATH": "/usr/bin"}) as entered:
            assert await entered.output.receive_some() == b"sub1 10.128.0.2\n"
        async with open_network() as other:
            for seat in (None, Seat(other, 0, NAMES)):
                assert "Error" in await printed(places, asking("10.128.0.2"), seat)
        assert "Error" in await printed(places, asking("192.0.2.1"), asker)


async def test_kernels_of_a_session_reach_each_other_by_name(places: Path) -> None:
    with trio.fail_after(60):
        await check(places)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has run the other test")
def test_an_ordinary_user_needs_no_more(places: Path) -> None:
    places.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.test_networks", str(places)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    become(NOBODY, CAP_DAC_READ_SEARCH)  # for an interpreter below /root
    trio.run(check, Path(sys.argv[1]))
