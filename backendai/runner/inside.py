"""What goes on in the sandbox of one kernel process beside the kernel: terminals, tunnels, files."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from backendai.core.files import FileListing
from backendai.engines.contract import Sandbox, SandboxFailed
from backendai.runner import files
from backendai.runner.services import Services
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
T = TypeVar("T")


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
        services: Services,
    ) -> None:
        self._sandbox = sandbox
        self._nursery = nursery
        self._room = room
        self._services = services
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

        async def ask() -> wire.RunnerAnswer:
            with trio.move_on_after(_LIST_TIMEOUT):
                async with self._sandbox.errand(partial(files.list_directory, path=path)) as channel:
                    return await FrameStream(channel).receive_answer()
            raise StreamRefused("io-error", "the directory takes too long to read")

        answer = await self._within(ask)
        if isinstance(answer, wire.Files):
            return answer.listing
        refusal = answer if isinstance(answer, wire.Refusal) else wire.Refusal(code="io-error")
        raise StreamRefused(refusal.code, refusal.msg)

    async def start_service(self, request: wire.StartService) -> int:
        """The port on which it listens now. Raises :class:`StreamRefused`."""
        return await self._within(partial(self._services.start, request))

    def stop_service(self, name: str) -> None:
        """Raises :class:`StreamRefused`."""
        self._services.stop(name)

    async def _within(self, job: Callable[[], Awaitable[T]]) -> T:
        """Do it as long as the sandbox stands, which it does until that is left. Raises
        :class:`StreamRefused`.
        """
        done = trio.Event()
        result: list[T] = []
        refused = StreamRefused("gone", "the kernel has ended")

        async def work() -> None:
            nonlocal refused
            try:
                result.append(await job())
            except SandboxFailed as error:
                refused = StreamRefused("io-error", error.detail)
            except StreamRefused as error:
                refused = error
            finally:
                done.set()

        self._nursery.start_soon(work)
        await done.wait()
        if result:
            return result[0]
        raise refused
