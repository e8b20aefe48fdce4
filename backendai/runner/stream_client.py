"""The agent's side of one stream: a connection to the runner that carries nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from backendai.runner.client import RunnerGone, RunnerRefused, connect, read_last_state
from backendai.wire import runner as wire
from backendai.wire.streams import Closed, StreamFrame, StreamTarget

_READ_BYTES = 64 << 10
_GONE = Closed("gone", "the runner has ended")


class RunnerStream:
    """Usable by one sending and one receiving task. Made by :func:`open_runner_stream`."""

    def __init__(self, directory: Path, stream: trio.SocketStream) -> None:
        self._directory = directory
        self._stream = stream
        self._frames = wire.FrameBuffer()

    async def send(self, frame: StreamFrame) -> None:
        """Waits while the runner does not take it; what a closed runner would not take is dropped.

        A cancelled send leaves the stream of no further use.
        """
        try:
            await self._stream.send_all(wire.encode_stream_frame(frame))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()  # how it ended is what there is to receive

    async def receive(self) -> StreamFrame:
        """The next frame; ``Closed`` is the last. Cancellation loses none."""
        while True:
            try:
                frame = self._frames.next_stream_frame()
            except wire.BrokenFrame as error:
                return Closed("protocol", str(error))
            if frame is not None:
                return frame
            if not await self._read_some():
                return _GONE

    async def _begin(self, target: StreamTarget) -> None:
        await self._stream.send_all(wire.encode_frame(1, wire.OpenStream(target=target)))
        while (answer := self._frames.next_answer()) is None:
            if not await self._read_some():
                raise RunnerGone(self._directory, read_last_state(self._directory))
        match answer[1]:
            case wire.Refusal(code=code, msg=msg):
                raise RunnerRefused(code, msg)
            case wire.StreamOpened():
                return
        raise wire.BrokenFrame(f"{type(answer[1]).__name__} in answer to OpenStream")

    async def _read_some(self) -> bool:
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._frames.feed(data)
        return bool(data)


@asynccontextmanager
async def open_runner_stream(directory: Path, target: StreamTarget) -> AsyncIterator[RunnerStream]:
    """Open a stream with the runner of ``directory``; leaving aborts it unless it has ended.

    Raises :class:`RunnerGone` and :class:`RunnerRefused`; how long the runner takes is bounded by the caller.
    """
    connection = await connect(directory)
    try:
        stream = RunnerStream(directory, connection)
        try:
            await stream._begin(target)
        except (trio.BrokenResourceError, wire.BrokenFrame) as error:
            raise RunnerGone(directory, read_last_state(directory)) from error
        yield stream
    finally:
        connection.socket.close()
