"""Streams to the kernels of one agent, over a connection of their own so that no call waits behind bytes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
import trio

from backendai.bridges.zmq import ZmqSocket
from backendai.manager.address import AgentAddress, AgentUnreachable, open_connection
from backendai.manager.settings import ManagerKeys
from backendai.wire.link import (
    AgentAnswer,
    MalformedMessage,
    OpenStream,
    Refused,
    StreamOpened,
    decode_answer,
    encode,
)
from backendai.wire.stream_end import StreamEnd, WindowBudget
from backendai.wire.streams import (
    PROBE,
    PROBE_ID,
    Closed,
    LinkStreamFrame,
    MalformedFrame,
    decode_ids,
    decode_stream_parts,
    encode_ids,
    encode_stream_parts,
)

log = structlog.get_logger(__name__)

#: Seconds between the comparisons of which streams there are, and of silence until they count as gone.
PROBE_INTERVAL = 3.0
LOST_AFTER = 20.0
#: Seconds a connection without streams is kept.
IDLE_AFTER = 300.0
#: The windows of the streams bound what can wait here; a message that was dropped would be lost for good.
STREAM_HWM = 1 << 20

#: What services know of an open stream.
AgentStream = StreamEnd


class StreamRefused(Exception):
    """The agent or the runner would not open the stream; ``code`` as in ``wire.link.Refused``."""

    def __init__(self, code: str, msg: str) -> None:
        super().__init__(f"{code}: {msg}" if msg else code)
        self.code = code
        self.msg = msg


class _Opening:
    """A stream from the moment it is asked for."""

    __slots__ = ("answer", "answered", "end")

    def __init__(self, end: StreamEnd) -> None:
        self.end = end
        self.answered = trio.Event()
        self.answer: AgentAnswer | None = None


class StreamLink:
    """The connection for streams with one agent. It ends when unused for long, and may fail."""

    def __init__(self, target: AgentAddress, keys: ManagerKeys | None, budget: WindowBudget) -> None:
        self._target = target
        self._keys = keys
        self._budget = budget
        self._ids = itertools.count(1)
        self._streams: dict[bytes, _Opening] = {}
        self._socket: ZmqSocket | None = None
        self._opened = trio.Event()
        self._failure = ""
        self._heard_at = self._used_at = trio.current_time()
        #: It is about to end: open no more streams with it.
        self.retired = False

    @asynccontextmanager
    async def open(self, message: OpenStream, timeout: float) -> AsyncIterator[AgentStream]:
        """See :meth:`backendai.manager.link.AgentLinks.open_stream`."""
        call_id = next(self._ids).to_bytes(8, "big")
        opening = _Opening(StreamEnd(partial(self._post, call_id), self._budget))
        self._streams[call_id] = opening
        try:
            answer = await self._ask(call_id, message, opening, timeout)
            if isinstance(answer, Refused):
                opening.end.end(Closed(answer.code, answer.msg))
                raise StreamRefused(answer.code, answer.msg)
            if not isinstance(answer, StreamOpened):
                raise StreamRefused("protocol", f"unexpected answer {type(answer).__name__}")
            yield opening.end
        finally:
            opening.end.close("aborted")
            del self._streams[call_id]
            self._used_at = trio.current_time()

    async def _ask(
        self, call_id: bytes, message: OpenStream, opening: _Opening, timeout: float
    ) -> AgentAnswer:
        connected = False
        with trio.move_on_after(timeout):
            await self._opened.wait()
            if self._socket is not None:
                if len(self._streams) == 1:
                    self._heard_at = trio.current_time()  # nothing was said while there was nothing to say
                with suppress(trio.ClosedResourceError):
                    await self._socket.send([call_id, encode(message)])
                    connected = True
                    await opening.answered.wait()
        if opening.answer is not None:
            return opening.answer
        why = self._failure or (
            f"no answer within {timeout:g} s" if connected else f"no connection within {timeout:g} s"
        )
        raise AgentUnreachable(self._target, why)

    def _post(self, call_id: bytes, frame: LinkStreamFrame) -> None:
        # Without a connection there is nobody to take it, and the agent's side of the stream ends as well:
        # after a reconnection the next probe finds that the agent does not know the stream.
        if self._socket is not None:
            with suppress(trio.WouldBlock, trio.ClosedResourceError):
                self._socket.send_nowait([call_id, *encode_stream_parts(frame)])

    async def run(self) -> None:
        """Carry streams until there were none for a while. At the end all that are open are ``gone``."""
        try:
            async with open_connection(self._target, self._keys, hwm=STREAM_HWM) as self._socket:
                self._opened.set()
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._receive, self._socket)
                        await self._probe(self._socket)
                        scope.cancel()
        except (OSError, ValueError) as error:
            self._failure = str(error)
        finally:
            self._failure = self._failure or "the link was closed"
            self.retired = True
            self._socket = None
            self._opened.set()
            self._lose(self._failure)

    async def _receive(self, socket: ZmqSocket) -> None:
        while True:
            frames = await socket.recv()
            self._heard_at = trio.current_time()
            try:
                self._take(frames)
            except (MalformedMessage, MalformedFrame) as error:
                log.warning("link.malformed-frame", agent=self._target.address, error=str(error))

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) == 3 and frames[1] == PROBE:
            for call_id in decode_ids(frames[2]):
                self._end(call_id, Closed("gone", "the agent does not know the stream any more"))
            return
        opening = self._streams.get(frames[0])
        if opening is None:  # it was given up here, and the agent may not know yet
            return
        if len(frames) == 2:
            opening.answer = decode_answer(frames[1])
            opening.answered.set()
        elif len(frames) == 3:
            opening.end.take(decode_stream_parts(frames[1], frames[2]))

    async def _probe(self, socket: ZmqSocket) -> None:
        """Tell the agent which streams there are, so that both sides forget what the other does not know."""
        while self._streams or trio.current_time() < self._used_at + IDLE_AFTER:
            await trio.sleep(PROBE_INTERVAL)
            if not self._streams:
                continue
            with suppress(trio.WouldBlock):
                socket.send_nowait([PROBE_ID, PROBE, encode_ids(self._streams)])
            if trio.current_time() > self._heard_at + LOST_AFTER:
                self._lose("the agent does not answer any more")
        self.retired = True

    def _lose(self, why: str) -> None:
        for call_id in list(self._streams):
            self._end(call_id, Closed("gone", why))

    def _end(self, call_id: bytes, closed: Closed) -> None:
        opening = self._streams.get(call_id)
        if opening is not None:
            opening.end.end(closed)
            opening.answered.set()
