"""Processes that enter a sandbox from outside, as the one who sent them in has them."""

from __future__ import annotations

import os
import signal
import socket
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from backendai.engines.contract import SandboxFailed
from backendai.engines.crossing import ENTERED, FAILED, Passage, cross, shell_code
from backendai.engines.processes import blocked_in_reading

#: File descriptors come with the message.
_HANDLES = b"h"
_MESSAGE_BYTES = 4096
#: Seconds from the fork until the process is inside and has said so.
_TIMEOUT = 10.0
#: Sockets fetched from inside at a time: as many connections cost one fork.
_SOCKETS = 32
#: Standard input, output and error.
_STANDARD = 3
_MOST_HANDLES = 1 << 16


class _Child:
    """A child that goes inside, and the channel on which it says how it got on."""

    def __init__(self, passage: Passage, errand: Callable[[socket.socket], None]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._pid = os.fork()
            if self._pid == 0:
                cross(passage, theirs, lambda: errand(theirs))
        self._channel.setblocking(False)
        self._handle = os.pidfd_open(self._pid)
        #: The process inside; what we forked only waits for it.
        self.inside: int | None = None
        self._code: int | None = None

    async def heard(self) -> list[int]:
        """Return once all has been said, with the handles that came. Raises :class:`SandboxFailed`.

        Shielded: only who is known to be inside can be ended in order.
        """
        handles: list[int] = []
        failure = "the sandbox has ended"
        try:
            with trio.CancelScope(shield=True), trio.fail_after(_TIMEOUT):
                while message := await self._next(handles):
                    if message[:1] == ENTERED:
                        self.inside = int(message[1:])
                        failure = ""
                    elif message[:1] == FAILED:
                        failure = message[1:].decode(errors="replace")
                        break
        except trio.TooSlowError:
            failure = "nobody got inside in time"
        if failure:
            for handle in handles:
                os.close(handle)
            raise SandboxFailed("enter-failed", failure)
        return handles

    async def _next(self, handles: list[int]) -> bytes:
        """The next message, empty after the last."""
        while True:
            try:
                message, came, _, _ = socket.recv_fds(
                    self._channel, _MESSAGE_BYTES, _SOCKETS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._channel)
            else:
                handles += came
                return message

    async def wait(self) -> int:
        if self._code is None:
            own = os.dup(self._handle)  # so that any number may wait
            try:
                await trio.lowlevel.wait_readable(own)
            finally:
                os.close(own)
            self._reap()
        assert self._code is not None
        return self._code

    def signal(self, number: signal.Signals) -> None:
        self._reap()
        if self._code is None and self.inside is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.inside, number)

    async def end(self) -> None:
        self.signal(signal.SIGKILL)
        if self.inside is None and self._code is None:
            os.kill(self._pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await self.wait()
        os.close(self._handle)
        self._channel.close()

    def _reap(self) -> None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._code = shell_code(status)


@asynccontextmanager
async def _send(
    passage: Passage, errand: Callable[[socket.socket], None]
) -> AsyncIterator[tuple[_Child, list[int]]]:
    """Have ``errand`` done inside, with the socket for what it wants to say and to hand out.

    The child is ended on leaving. The caller closes the handles.
    """
    try:
        child = _Child(passage, errand)
    except OSError as error:
        raise SandboxFailed("enter-failed", f"no process for it: {error}") from error
    try:
        yield child, await child.heard()
    finally:
        await child.end()


class EnteredProcess:
    """See ``contract.Entered``."""

    def __init__(self, child: _Child, handles: Sequence[int]) -> None:
        self._child = child
        self._first = handles[0]
        streams = [trio.lowlevel.FdStream(handle) for handle in handles]
        self.input: trio.abc.SendStream = streams[0]
        self.output: trio.abc.ReceiveStream
        self.errors: trio.abc.ReceiveStream | None
        if len(handles) == _STANDARD:
            _, self.output, self.errors = streams
        else:
            self.output, self.errors = _Screen(streams[0]), None

    async def wait(self) -> int:
        return await self._child.wait()

    def wants_input(self) -> bool:
        inside = self._child.inside
        return inside is not None and blocked_in_reading(inside, os.fstat(self._first).st_ino)

    def interrupt(self) -> None:
        self._child.signal(signal.SIGINT)

    def kill(self) -> None:
        self._child.signal(signal.SIGKILL)

    def resize(self, rows: int, cols: int) -> None:
        termios.tcsetwinsize(self._first, (rows, cols))

    async def close(self) -> None:
        for stream in (self.input, self.output, self.errors):
            if stream is not None:
                await stream.aclose()


class _Screen(trio.abc.ReceiveStream):
    """What is written on a terminal; it ends when nobody inside has it open any more."""

    def __init__(self, terminal: trio.lowlevel.FdStream) -> None:
        self._terminal = terminal

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await self._terminal.receive_some(max_bytes)
        except trio.BrokenResourceError:
            return b""

    async def aclose(self) -> None:
        await self._terminal.aclose()


@asynccontextmanager
async def enter(
    passage: Passage, argv: Sequence[str], environ: Mapping[str, str], terminal: tuple[int, int] | None
) -> AsyncIterator[EnteredProcess]:
    """See ``contract.Sandbox.enter``."""

    def execute(channel: socket.socket) -> None:
        handles = _take_terminal(*terminal) if terminal else _take_pipes()
        socket.send_fds(channel, [_HANDLES], handles)
        os.closerange(3, channel.fileno())
        os.closerange(channel.fileno() + 1, _MOST_HANDLES)
        os.execvpe(argv[0], list(argv), environ)  # noqa: S606

    async with _send(passage, execute) as (child, handles):
        process = EnteredProcess(child, handles)
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.close()


def _take_terminal(rows: int, cols: int) -> list[int]:
    """Inside: be at a new terminal, which is one of the sandbox's. Returns the other end."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (rows, cols))
    os.login_tty(slave)
    return [master]


def _take_pipes() -> list[int]:
    """Inside: have pipes for standard input, output and error, which may be opened again by path."""
    pipes = [os.pipe() for _ in range(_STANDARD)]
    outer = []
    for number, (read, write) in enumerate(pipes):
        inner, other = (read, write) if number == 0 else (write, read)
        os.dup2(inner, number)
        outer.append(other)
    return outer


@asynccontextmanager
async def send_errand(
    passage: Passage, errand: Callable[[socket.socket], None]
) -> AsyncIterator[trio.SocketStream]:
    """See ``contract.Sandbox.errand``."""
    ours, theirs = socket.socketpair()

    def do(channel: socket.socket) -> None:
        ours.close()
        channel.close()
        errand(theirs)

    with ours, theirs:
        async with _send(passage, do):
            theirs.close()
            ours.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
                yield stream


async def fetch_sockets(passage: Passage) -> list[socket.socket]:
    """TCP sockets of the sandbox's network: whoever connects one, it connects there."""

    def make(channel: socket.socket) -> None:
        made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(_SOCKETS)]
        socket.send_fds(channel, [_HANDLES], [one.fileno() for one in made])

    async with _send(passage, make) as (_, handles):
        sockets = [socket.socket(fileno=handle) for handle in handles]
    for one in sockets:
        one.setblocking(False)
    return sockets
