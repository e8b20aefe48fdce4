"""A shell in a web page. Runs inside the sandbox and imports nothing of ours.

One shell for each page, which ends with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from contextlib import suppress
from pathlib import Path

from tornado import web, websocket

_STATIC = Path(__file__).parent / "static"
_CHUNK = 16 << 10
_MAX_MESSAGE = 1 << 20
_MAX_SHELLS = 32


class Shell:
    """A shell at a terminal of its own."""

    count = 0

    def __init__(self, page: TerminalSocket) -> None:
        self._page = page
        Shell.count += 1
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            shell = os.environ.get("SHELL", "/bin/sh")
            os.execv(shell, [shell])  # noqa: S606
        os.set_blocking(self._terminal, False)
        self._unwritten = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._terminal, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            self._page.close(1000)
            return
        # Nothing more is read before the page has taken this.
        self._loop.remove_reader(self._terminal)
        sent = asyncio.ensure_future(self._page.write_message(data, binary=True))
        sent.add_done_callback(self._sent)

    def _sent(self, sent: asyncio.Future[None]) -> None:
        if sent.cancelled() or sent.exception() is not None:
            self.end()
        elif self._terminal >= 0:
            self._loop.add_reader(self._terminal, self._read)

    def write(self, data: bytes) -> None:
        self._unwritten += data
        self._write_more()

    def _write_more(self) -> None:
        if self._terminal < 0:
            return
        with suppress(BlockingIOError):
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._terminal, self._unwritten) :]
        if self._unwritten:
            self._loop.add_writer(self._terminal, self._write_more)
        else:
            self._loop.remove_writer(self._terminal)

    def resize(self, rows: int, cols: int) -> None:
        if self._terminal >= 0:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def end(self) -> None:
        if self._terminal < 0:
            return
        self._loop.remove_reader(self._terminal)
        self._loop.remove_writer(self._terminal)
        os.close(self._terminal)
        self._terminal = -1
        Shell.count -= 1
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGHUP)


class TerminalSocket(websocket.WebSocketHandler):
    """Binary messages are bytes of the terminal, text messages are ``[rows, columns]``.

    A page of another origin is turned away.
    """

    def open(self, *_: str) -> None:
        self._shell = None if Shell.count >= _MAX_SHELLS else Shell(self)
        if self._shell is None:
            self.close(1013, "too many terminals")

    def on_message(self, message: str | bytes) -> None:
        if self._shell is None:
            return
        if isinstance(message, bytes):
            self._shell.write(message)
            return
        with suppress(ValueError, TypeError):
            rows, cols = json.loads(message)
            self._shell.resize(max(1, min(int(rows), 9999)), max(1, min(int(cols), 9999)))

    def on_close(self) -> None:
        if self._shell is not None:
            self._shell.end()


class Page(web.RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'")
        self.finish((_STATIC / "index.html").read_bytes())


async def main(port: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended shells are nobody's to wait for
    application = web.Application(
        [
            ("/", Page),
            ("/socket", TerminalSocket),
            ("/static/(.*)", web.StaticFileHandler, {"path": str(_STATIC)}),
        ],
        websocket_ping_interval=30,
        websocket_max_message_size=_MAX_MESSAGE,
    )
    application.listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
