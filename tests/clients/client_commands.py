"""Commands of official clients as processes, and what they say."""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

PRELOADED = Path(__file__).with_name("preloaded.py")


@dataclass(frozen=True)
class Said:
    """What a command of a client answered: exit code and both outputs, without colours."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@contextmanager
def preloaded(program: Path, environ: Mapping[str, str], path: Path) -> Iterator[Path]:
    """A process at the socket ``path`` that has the client imported; a command would take a second for it."""
    command = [str(program.with_name("python")), str(PRELOADED), str(path)]
    environ = {**environ, "PYTHONUNBUFFERED": "1"}  # for who reads what a command says while it runs
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{program} could not be loaded; its complaint is above")
        yield path


@dataclass(frozen=True)
class Command:
    """A command of a client that runs."""

    stdout: trio.lowlevel.FdStream
    stderr: trio.lowlevel.FdStream
    _connection: trio.SocketStream

    async def send_signal(self, number: signal.Signals) -> None:
        await self._connection.send_all(bytes([number]))

    async def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        return int(await self._connection.receive_some())

    async def rest(self) -> Said:
        """All that it still says, until it ends."""
        said: list[bytes] = [b"", b""]

        async def collect(place: int, stream: trio.abc.ReceiveStream) -> None:
            async for chunk in stream:
                said[place] += chunk

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, 0, self.stdout)
            nursery.start_soon(collect, 1, self.stderr)
        return Said(await self.wait(), plain(said[0]), plain(said[1]))

    async def until(self, mark: str) -> str:
        """What it says on its output, until that has ``mark`` in it."""
        seen = b""
        while mark.encode() not in seen:
            chunk = await self.stdout.receive_some()
            assert chunk, f"ended after {plain(seen)!r}: {await self.rest()}"
            seen += chunk
        return plain(seen)


@asynccontextmanager
async def run_command(place: Path, order: Mapping[str, object], stdin: str) -> AsyncIterator[Command]:
    """Have ``order`` carried out by the process at ``place``; killed after the body if it still runs."""
    given, said, complained = (os.pipe() for _ in range(3))
    with open(given[1], "wb") as file:
        file.write(stdin.encode())
    theirs = array.array("i", (given[0], said[1], complained[1]))
    async with (
        trio.lowlevel.FdStream(said[0]) as stdout,
        trio.lowlevel.FdStream(complained[0]) as stderr,
        await trio.open_unix_socket(place) as connection,
    ):
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, theirs)]
            await connection.socket.sendmsg([json.dumps(order).encode()], rights)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        yield Command(stdout, stderr, connection)


def plain(text: bytes) -> str:
    """Without the escape sequences that clients paint with, and without their word about newer servers."""
    unpainted = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", text.decode(errors="replace"))
    return re.sub(r"^APIVersionWarning: .*\n", "", unpainted, flags=re.MULTILINE)
