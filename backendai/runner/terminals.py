"""The named terminals of a kernel: they outlive those who look at them, and show latecomers the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from backendai.engines.contract import Entered, Sandbox, SandboxFailed
from backendai.runner.stream_server import ClientStream, StreamRefused
from backendai.wire.streams import CHUNK_BYTES, Closed, Data, Eof, Resize, TerminalTarget

#: Bytes of output that are kept for who comes later.
_KEPT = 64 << 10
#: Bytes read from a terminal at once, and how far the fastest reader may be behind: no more than is kept.
_CHUNK = 16 << 10
_MAX_BEHIND = _KEPT - 2 * _CHUNK
_MAX_TERMINALS = 32
_MAX_NAME = 128
_MAX_SIZE = 10_000
#: Seconds for what was printed last to be read when the process has ended.
_DRAIN = 0.1
_PROMPT = r"\u@\h:\w\$ "


class Terminal:
    """One terminal and its process. Output waits for the fastest of its readers, and for nobody without."""

    def __init__(self, process: Entered) -> None:
        self._process = process
        self._kept = bytearray()
        #: Bytes ever printed.
        self._end = 0
        #: How far each reader is. Whoever it was begun for, who is still to come, misses nothing.
        self._positions: dict[object, int] = {self: 0}
        self._changed = trio.Event()
        self._writing = trio.StrictFIFOLock()
        #: How it ended.
        self.closed: Closed | None = None

    async def live(self) -> None:
        """Read what is printed until the process has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            code = await self._process.wait()
            await trio.sleep(_DRAIN)
            nursery.cancel_scope.cancel()
        self.close(Closed("", f"exit code {code}"))

    async def _read(self) -> None:
        while data := await self._process.output.receive_some(_CHUNK):
            self._kept += data
            del self._kept[:-_KEPT]
            self._end += len(data)
            self._notify()
            while self._positions and self._end - max(self._positions.values()) > _MAX_BEHIND:
                await self._changed.wait()

    def close(self, closed: Closed) -> None:
        """Say how it ended, unless it has; readers are told once they have read all."""
        if self.closed is None:
            self.closed = closed
            self._process.kill()
            self._notify()

    async def serve(self, client: ClientStream) -> None:
        """Show it to one more client, until that leaves or the terminal ends."""
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while not isinstance(frame := await client.receive(), Closed):
                    match frame:
                        case Data(payload=data):
                            await self._write(data)
                        case Resize(rows=rows, cols=cols):
                            self.resize(rows, cols)
                        case Eof():
                            pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            await self._show(client)
            nursery.cancel_scope.cancel()

    async def _show(self, client: ClientStream) -> None:
        reader = object()
        self._positions[reader] = self._end - len(self._kept)
        self._positions.pop(self, None)
        try:
            while True:
                # Who was too slow goes on with what is left.
                behind = min(self._end - self._positions[reader], len(self._kept))
                if behind:
                    data = bytes(self._kept[-behind:][:CHUNK_BYTES])
                    position = self._end - behind + len(data)
                    await client.send(Data(data))
                    self._positions[reader] = position
                    self._notify()
                elif self.closed is not None:
                    await client.send(self.closed)
                    return
                else:
                    await self._changed.wait()
        finally:
            del self._positions[reader]
            self._notify()

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            if self.closed is None:
                try:
                    await self._process.input.send_all(data)
                except trio.BrokenResourceError:  # it has just ended
                    await trio.lowlevel.checkpoint()

    def resize(self, rows: int, cols: int) -> None:
        if self.closed is None:
            self._process.resize(*(min(max(size, 1), _MAX_SIZE) for size in (rows, cols)))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Terminals:
    """All terminals in one sandbox; they end with ``nursery``."""

    def __init__(
        self, sandbox: Sandbox, environ: Callable[[], Mapping[str, str]], nursery: trio.Nursery
    ) -> None:
        self._sandbox = sandbox
        self._environ = environ
        self._nursery = nursery
        self._live: dict[str, Terminal] = {}
        self._opening = trio.StrictFIFOLock()

    async def obtain(self, target: TerminalTarget) -> Terminal:
        """The terminal of that name, begun if need be. Raises :class:`StreamRefused`."""
        if not 0 < len(target.terminal) <= _MAX_NAME:
            raise StreamRefused("bad-request", "no name for a terminal")
        async with self._opening:
            terminal = self._live.get(target.terminal)
            if terminal is not None and target.restart:
                terminal.close(Closed("gone", "the terminal was restarted"))
                terminal = None
            if terminal is None:
                if len(self._live) >= _MAX_TERMINALS:
                    raise StreamRefused("too-many-streams", f"{_MAX_TERMINALS} terminals are open")
                try:
                    terminal = await self._nursery.start(self._begin, target)
                except SandboxFailed as error:
                    raise StreamRefused("io-error", f"cannot open a terminal: {error.detail}") from error
            return terminal

    async def _begin(
        self, target: TerminalTarget, task_status: trio.TaskStatus[Terminal] = trio.TASK_STATUS_IGNORED
    ) -> None:
        size = (min(max(target.rows, 1), _MAX_SIZE), min(max(target.cols, 1), _MAX_SIZE))
        environ = {"PS1": _PROMPT, **self._environ()}
        argv = target.argv or (environ["SHELL"],)
        async with self._sandbox.enter(argv, environ=environ, terminal=size) as process:
            terminal = self._live[target.terminal] = Terminal(process)
            task_status.started(terminal)
            try:
                await terminal.live()
            finally:
                terminal.close(Closed("gone", "the kernel has ended"))
                if self._live.get(target.terminal) is terminal:
                    del self._live[target.terminal]
