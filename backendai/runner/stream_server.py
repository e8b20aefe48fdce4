"""The runner's end of streams: frames on a socket, and what both kinds of relays have in common."""

from __future__ import annotations

from contextlib import suppress

import trio

from backendai.wire import runner as wire
from backendai.wire.streams import CHUNK_BYTES, Closed, Data, Eof, StreamFrame

_READ_BYTES = 64 << 10


class StreamRefused(Exception):
    """A target that cannot be reached. ``code`` as in ``wire.runner.Refusal``."""

    def __init__(self, code: str, msg: str) -> None:
        super().__init__(msg)
        self.code = code


class FrameStream:
    """Stream frames on a socket; for one sending and one receiving task.

    Sending raises ``trio.BrokenResourceError`` when the peer is gone.
    """

    def __init__(self, stream: trio.SocketStream, buffered: wire.FrameBuffer | None = None) -> None:
        self._stream = stream
        self._frames = buffered or wire.FrameBuffer()

    async def send(self, frame: StreamFrame) -> None:
        await self._stream.send_all(wire.encode_stream_frame(frame))

    async def ready(self) -> None:
        """Wait until what is sent next hardly has to wait, so that it need not be fetched before."""
        await self._stream.wait_send_all_might_not_block()

    async def receive(self) -> StreamFrame:
        """The next frame. A peer that is gone or talks nonsense has ended the stream: ``Closed``, again and
        again. Cancellation loses nothing.
        """
        while True:
            try:
                frame = self._frames.next_stream_frame()
            except wire.BrokenFrame as error:
                return Closed("protocol", str(error))
            if frame is not None:
                return frame
            if not await self._read():
                return Closed("io-error", "the connection has ended")

    async def receive_answer(self) -> wire.RunnerAnswer:
        """What comes before the frames; a refusal when the peer is gone."""
        while (answer := self._frames.next_answer()) is None:
            if not await self._read():
                return wire.Refusal(code="io-error", msg="nobody answers inside")
        return answer[1]

    async def _read(self) -> bool:
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            return False
        self._frames.feed(data)
        return bool(data)


class ClientStream(FrameStream):
    """The agent's connection after it asked for a stream: to be answered first, and ended once."""

    def __init__(self, stream: trio.SocketStream, buffered: wire.FrameBuffer, request_id: int) -> None:
        super().__init__(stream, buffered)
        self._request_id = request_id
        self._answered = False
        self._ended = False

    async def answer(self, answer: wire.RunnerAnswer) -> None:
        self._answered = True
        self._ended = isinstance(answer, wire.Refusal)
        await self._stream.send_all(wire.encode_frame(self._request_id, answer))

    async def send(self, frame: StreamFrame) -> None:
        self._ended = self._ended or isinstance(frame, Closed)
        await super().send(frame)

    async def end(self, code: str, msg: str) -> None:
        """Refuse, or close when that is too late; nothing when it has ended."""
        if self._ended:
            await trio.lowlevel.checkpoint()
        elif self._answered:
            await self.send(Closed(code, msg))
        else:
            await self.answer(wire.Refusal(code=code, msg=msg))


async def relay_errand(inner: FrameStream, client: ClientStream) -> None:
    """Between an errand that serves the stream and its client, until the errand has closed it."""
    async with trio.open_nursery() as nursery:

        async def inward() -> None:
            with suppress(trio.BrokenResourceError):  # the errand is over, and says why
                while not isinstance(frame := await client.receive(), Closed):
                    await inner.send(frame)
                # Half an upload is none; the errand is waited for, so that it can take it back.
                await inner.send(frame)

        nursery.start_soon(inward)
        while True:
            await client.ready()
            frame = await inner.receive()
            await client.send(frame)
            if isinstance(frame, Closed):
                break
        nursery.cancel_scope.cancel()


async def relay_connection(connection: trio.SocketStream, client: ClientStream) -> None:
    """Between a TCP connection and an accepted stream, until both directions have ended or one is broken."""
    closed = Closed()
    async with connection, trio.open_nursery() as nursery:

        async def inward() -> None:
            while True:
                frame = await client.receive()
                if isinstance(frame, Closed):
                    nursery.cancel_scope.cancel()
                    return
                try:
                    if isinstance(frame, Data):
                        await connection.send_all(frame.payload)
                    elif isinstance(frame, Eof):
                        await connection.send_eof()
                        said_all.set()
                except trio.BrokenResourceError:
                    await give_up()

        async def outward() -> None:
            try:
                await client.ready()
                while data := await connection.receive_some(CHUNK_BYTES):
                    await client.send(Data(bytes(data)))
                    del data
                    await client.ready()
                await client.send(Eof())
            except trio.BrokenResourceError:
                await give_up()
            await said_all.wait()
            nursery.cancel_scope.cancel()

        async def give_up() -> None:
            nonlocal closed
            closed = Closed("io-error", "the connection was reset")
            nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()

        said_all = trio.Event()
        nursery.start_soon(inward)
        nursery.start_soon(outward)
    await client.send(closed)
