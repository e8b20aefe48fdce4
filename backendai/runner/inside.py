"""What goes on in the sandbox of one kernel process beside the kernel: terminals, tunnels, files."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import trio

from backendai.core.files import FileListing
from backendai.engines.contract import Sandbox, SandboxFailed
from backendai.runner import files
from backendai.runner.stream_server import (
    ClientStream,
    FrameStream,
    StreamRefused,
    relay_connection,
    relay_errand,
)
from backendai.runner.terminals import Terminals
from backendai.wire import runner as wire
from backendai.wire.streams import DownloadTarget, PortTarget, StreamTarget, TerminalTarget, UploadTarget

_MAX_STREAMS = 4096
#: Seconds in which a directory is listed, or not at all.
_LIST_TIMEOUT = 20.0

Errand = Callable[[socket.socket], None]


class Inside:
    """Serves while ``nursery`` does; the sandbox must stand that long.

    ``environ`` gives what processes that are sent inside get, ``room`` the bytes that files may still take.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        nursery: trio.Nursery,
        environ: Callable[[], Mapping[str, str]],
        room: Callable[[], int],
    ) -> None:
        self._sandbox = sandbox
        self._nursery = nursery
        self._room = room
        self._streams = 0
        self._terminals = Terminals(sandbox, environ, nursery)

    async def serve(self, target: StreamTarget, client: ClientStream) -> None:
        """Be the server of a stream from the answer to its end. Raises nothing that a client can cause."""
        done = trio.Event()

        async def work() -> None:
            try:
                await self._serve(target, client)
            except* trio.BrokenResourceError:  # the client is gone
                pass
            finally:
                self._streams -= 1
                done.set()

        self._streams += 1
        # So that nobody is inside any more when the sandbox is taken down.
        self._nursery.start_soon(work)
        await done.wait()
        with suppress(trio.BrokenResourceError):
            await client.end("gone", "the kernel has ended")

    async def _serve(self, target: StreamTarget, client: ClientStream) -> None:
        try:
            if self._streams > _MAX_STREAMS:
                raise StreamRefused("too-many-streams", f"{_MAX_STREAMS} streams are open")
            match target:
                case TerminalTarget():
                    terminal = await self._terminals.obtain(target)
                    await client.answer(wire.StreamOpened())
                    await terminal.serve(client)
                case PortTarget(port=port):
                    connection = await self._connect(port)
                    await client.answer(wire.StreamOpened())
                    await relay_connection(connection, client)
                case UploadTarget(path=path):
                    await self._do(client, partial(files.store, path=path, room=self._room()))
                case DownloadTarget(paths=paths, archive=True):
                    await self._do(client, partial(files.fetch_archive, paths=paths))
                case DownloadTarget(paths=(path,)):
                    await self._do(client, partial(files.fetch, path=path))
                case DownloadTarget():
                    raise StreamRefused("bad-request", "one file at a time without an archive")
        except StreamRefused as refused:
            await client.end(refused.code, str(refused))

    async def _connect(self, port: int) -> trio.SocketStream:
        if not 0 < port < 1 << 16:
            raise StreamRefused("bad-request", f"no port {port}")
        try:
            return await self._sandbox.connect(port)
        except SandboxFailed as error:
            raise StreamRefused("io-error", error.detail) from error
        except OSError as error:
            raise StreamRefused("refused", f"nothing answers on port {port}") from error

    async def _do(self, client: ClientStream, errand: Errand) -> None:
        """Have an errand serve the client."""
        try:
            async with self._sandbox.errand(errand) as channel:
                inner = FrameStream(channel)
                answer = await inner.receive_answer()
                await client.answer(answer)
                if isinstance(answer, wire.StreamOpened):
                    await relay_errand(inner, client)
        except SandboxFailed as error:
            raise StreamRefused("io-error", error.detail) from error

    async def list_files(self, path: str) -> FileListing:
        """Raises :class:`StreamRefused`."""
        answer: wire.RunnerAnswer = wire.Refusal(code="gone", msg="the kernel has ended")
        done = trio.Event()

        async def work() -> None:
            nonlocal answer
            try:
                async with self._sandbox.errand(partial(files.list_directory, path=path)) as channel:
                    with trio.move_on_after(_LIST_TIMEOUT) as patience:
                        answer = await FrameStream(channel).receive_answer()
                    if patience.cancelled_caught:
                        answer = wire.Refusal(code="io-error", msg="the directory takes too long to read")
            except SandboxFailed as error:
                answer = wire.Refusal(code="io-error", msg=error.detail)
            finally:
                done.set()

        self._nursery.start_soon(work)
        await done.wait()
        if isinstance(answer, wire.Files):
            return answer.listing
        if isinstance(answer, wire.Refusal):
            raise StreamRefused(answer.code, answer.msg)
        raise wire.BrokenFrame(f"{type(answer).__name__} in answer to ListFiles")
