"""SSH, SCP and SFTP into the sandbox. Runs inside it and imports nothing of ours.

Whoever has the session's key is let in, under any name: all are the kernel's user.
"""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import asyncssh

_HOME = Path("/home/work")
_AUTHORIZED = _HOME / ".ssh" / "authorized_keys"
_CHUNK = 32 << 10
_INTERRUPT = b"\x03"
_LOCAL = ("127.0.0.1", "localhost", "::1")


class Server(asyncssh.SSHServer):
    """Forwards to ports of this sandbox, no other address."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return dest_host in _LOCAL

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return listen_host in ("", *_LOCAL)


class Files(asyncssh.SFTPServer):
    """Says at the end that all went well, which the library does not: `scp` takes silence for a failure."""

    def exit(self) -> None:
        self.channel.exit(0)


async def serve_process(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """A shell, or the command asked for, at a terminal when one was asked for."""
    shell = os.environ.get("SHELL", "/bin/sh")
    argv = [shell, "-c", process.command] if process.command else [shell, "-l"]
    environ = {**os.environ, **{name: value for name, value in process.env.items() if name.startswith("LC_")}}
    if process.term_type is None:
        child = await asyncio.create_subprocess_exec(
            *argv, env=environ, stdin=-1, stdout=-1, stderr=-1, start_new_session=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        outputs = [(child.stdout, process.stdout), (child.stderr, process.stderr)]
        await _attend(process, child, child.stdin, outputs)
        return
    master, slave = pty.openpty()
    termios.tcsetwinsize(master, _size(process))
    child = await asyncio.create_subprocess_exec(
        *argv,
        env={**environ, "TERM": process.term_type},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=lambda: os.login_tty(0),
    )
    os.close(slave)
    with open(master, "r+b", buffering=0) as terminal:  # noqa: ASYNC230  opened already
        keyboard, screen = await _streams(terminal)
        await _attend(process, child, keyboard, [(screen, process.stdout)], terminal)
        keyboard.close()


async def _streams(terminal: IO[bytes]) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    loop = asyncio.get_running_loop()
    screen = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(screen)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(os.dup(terminal.fileno()), "rb", buffering=0))
    transport, writing = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(os.dup(terminal.fileno()), "wb", buffering=0)
    )
    return asyncio.StreamWriter(transport, writing, None, loop), screen


async def _attend(
    process: asyncssh.SSHServerProcess[bytes],
    child: asyncio.subprocess.Process,
    keyboard: asyncio.StreamWriter,
    outputs: list[tuple[asyncio.StreamReader, asyncssh.SSHWriter[bytes]]],
    terminal: IO[bytes] | None = None,
) -> None:
    """Carry bytes both ways until the child has ended, which it does when the client goes away."""
    tasks = [
        asyncio.create_task(_feed(process, keyboard, terminal)),
        asyncio.create_task(_hang_up(process, child)),
    ]
    try:
        await asyncio.gather(*(_show(source, target) for source, target in outputs))
        code = await child.wait()
    finally:
        for task in tasks:
            task.cancel()
    if code < 0:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        process.exit(code)


async def _feed(
    process: asyncssh.SSHServerProcess[bytes], keyboard: asyncio.StreamWriter, terminal: IO[bytes] | None
) -> None:
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.TerminalSizeChanged:
            if terminal is not None:
                termios.tcsetwinsize(terminal.fileno(), _size(process))
            continue
        except (asyncssh.BreakReceived, asyncssh.SignalReceived):
            data = _INTERRUPT if terminal is not None else b""
        if not data:
            if terminal is None:
                keyboard.close()
            return
        with suppress(ConnectionError):
            keyboard.write(data)
            await keyboard.drain()


async def _show(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    with suppress(OSError):  # a terminal says so when nobody has it open any more; or the client is gone
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()


async def _hang_up(process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
    await process.channel.wait_closed()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGHUP)


def _size(process: asyncssh.SSHServerProcess[bytes]) -> tuple[int, int]:
    columns, rows, *_ = process.term_size
    return rows or 24, columns or 80


async def main(port: int) -> None:
    options: dict[str, Any] = {
        "server_host_keys": [asyncssh.generate_private_key("ssh-ed25519")],
        "authorized_client_keys": str(_AUTHORIZED),
        "process_factory": serve_process,
        "sftp_factory": Files,
        "allow_scp": True,
        "encoding": None,
        "server_factory": Server,
        "keepalive_interval": 60,
    }
    async with await asyncssh.listen("127.0.0.1", port, **options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
