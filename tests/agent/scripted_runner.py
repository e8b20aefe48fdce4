"""The runner's end of streams, played by a script on a real unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from backendai.wire import runner as wire
from backendai.wire.streams import Closed, Data, Eof, StreamFrame, StreamTarget


class RunnerSide:
    """What a script does with one stream connection."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self.connection = connection
        self.frames = wire.FrameBuffer()

    async def answer(self, message: wire.RunnerAnswer) -> None:
        await self.connection.send_all(wire.encode_frame(1, message))

    async def opened(self) -> None:
        await self.answer(wire.StreamOpened())

    async def send(self, *frames: StreamFrame) -> None:
        for frame in frames:
            await self.connection.send_all(wire.encode_stream_frame(frame))

    async def receive(self) -> StreamFrame | None:
        """None when the agent has hung up."""
        while (frame := self.frames.next_stream_frame()) is None:
            data = await self.connection.receive_some(1 << 16)
            if not data:
                return None
            self.frames.feed(data)
        return frame


Script = Callable[[RunnerSide, StreamTarget], Awaitable[None]]


@asynccontextmanager
async def scripted_runner(directory: Path, script: Script) -> AsyncIterator[list[RunnerSide]]:
    """Play ``script`` for every stream; yields the connections, which the script's end closes."""
    directory.mkdir(exist_ok=True)
    sides: list[RunnerSide] = []
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(directory / wire.SOCKET_FILE))
    listening.listen(4096)

    async def serve(connection: trio.SocketStream) -> None:
        side = RunnerSide(connection)
        sides.append(side)
        async with connection:
            while (request := side.frames.next_request()) is None:
                data = await connection.receive_some(1 << 16)
                if not data:
                    return
                side.frames.feed(data)
            assert isinstance(request[1], wire.OpenStream)
            try:
                await script(side, request[1].target)
            except trio.BrokenResourceError:
                pass
            finally:
                sides.remove(side)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [trio.SocketListener(listening)])
        yield sides
        nursery.cancel_scope.cancel()


async def echo(side: RunnerSide, target: StreamTarget) -> None:
    """Send back what comes, then close without complaint."""
    await side.opened()
    while (frame := await side.receive()) is not None:
        match frame:
            case Data():
                await side.send(frame)
            case Eof():
                await side.send(Eof(), Closed())
                return


async def silent(side: RunnerSide, target: StreamTarget) -> None:
    """Take nothing and say nothing until the agent hangs up or the test ends."""
    await side.opened()
    await trio.sleep_forever()


async def flood(side: RunnerSide, target: StreamTarget) -> None:
    await side.opened()
    while True:
        await side.send(Data(bytes(1 << 16)))
