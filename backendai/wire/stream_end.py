"""One end of a stream on the link between manager and agent: windows, order and the end.

Both sides use the same class. It knows no socket: frames leave through ``post``, which must not block, and
come in through :meth:`StreamEnd.take`. What it buffers is bounded by the credit it granted, whatever the
other side sends.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from backendai.wire.streams import (
    CHUNK_BYTES,
    WINDOW_BYTES,
    Closed,
    Credit,
    Data,
    Eof,
    LinkStreamFrame,
    Resize,
)

#: What either end may send before it has heard of any credit. Little, because thousands of streams may be
#: open and idle; a stream that is used has more after a few turns.
FIRST_WINDOW_BYTES = 1 << 10
#: Charged against the window for each frame on top of its payload, so that tiny frames are bounded too.
FRAME_COST = 256
#: One stream gets at most this part of what is left at a time.
_SHARE = 4
#: A sender waits for this much room rather than to send crumbs.
_CRUMB = 512


class StreamEnded(Exception):
    """The stream is over and takes nothing more; ``closed`` says how it ended."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(closed.code or "the stream has ended")
        self.closed = closed


class WindowBudget:
    """Bytes by which all streams of a process together may widen their windows.

    Streams begin with :data:`FIRST_WINDOW_BYTES`, which always suffices to go on. Those whose consumers keep
    up take more from here, up to :data:`~backendai.wire.streams.WINDOW_BYTES` each, and give it back at
    their end. The less is left, the less one gets, so that something is left for the next.
    """

    def __init__(self, total: int) -> None:
        self.left = total

    def take(self, wanted: int) -> int:
        granted = min(wanted, self.left // _SHARE)
        self.left -= granted
        return granted

    def give_back(self, amount: int) -> None:
        self.left += amount


class StreamEnd:
    """Usable by one sending and one receiving task at a time. :meth:`close` it in the end, always."""

    __slots__ = (
        *("_budget", "_ended", "_granted", "_heard_eof", "_held", "_inbox", "_post", "_receiver", "_result"),
        *("_room", "_said_eof", "_sender", "_window", "moved_at"),
    )

    def __init__(self, post: Callable[[LinkStreamFrame], None], budget: WindowBudget) -> None:
        self._post = post
        self._budget = budget
        self._result: Closed | None = None
        self._ended = trio.Event()
        #: When data last went either way, by Trio's clock.
        self.moved_at = trio.current_time()
        # -- sending
        self._room = FIRST_WINDOW_BYTES
        self._said_eof = False
        self._sender = trio.lowlevel.ParkingLot()
        # -- receiving
        #: Short, and mostly empty: thousands of deques would cost more.
        self._inbox: list[Data | Eof | Resize] = []
        self._receiver = trio.lowlevel.ParkingLot()
        self._heard_eof = False
        self._window = FIRST_WINDOW_BYTES
        #: Of the window, what the other end may still send, and what waits here for the consumer.
        self._granted = FIRST_WINDOW_BYTES
        self._held = 0

    @property
    def result(self) -> Closed | None:
        """How the stream ended; None while it has not. There may still be data to receive."""
        return self._result

    async def wait_ended(self) -> Closed:
        """Wait for the end, whatever is left to be received."""
        await self._ended.wait()
        assert self._result is not None
        return self._result

    # -- for those who send

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``; waits while the window is full.

        Raises :class:`StreamEnded`. Cancellation may leave a part sent.
        """
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            await self._wait_for_room(min(len(rest), _CRUMB) + FRAME_COST)
            chunk = bytes(rest[: min(CHUNK_BYTES, self._room - FRAME_COST)])
            self._room -= len(chunk) + FRAME_COST
            self.moved_at = trio.current_time()
            self._post(Data(chunk))
            rest = rest[len(chunk) :]

    async def send_eof(self) -> None:
        """Say that no more data comes. Saying it twice is harmless. Raises :class:`StreamEnded`."""
        await trio.lowlevel.checkpoint()
        if self._result is not None:
            raise StreamEnded(self._result)
        if not self._said_eof:
            self._said_eof = True
            self._post(Eof())

    async def control(self, frame: Resize) -> None:
        """Raises :class:`StreamEnded`. Takes its place between the data, so it waits for the window too."""
        await self._wait_for_room(FRAME_COST)
        self._room -= FRAME_COST
        self._post(frame)

    async def _wait_for_room(self, wanted: int) -> None:
        while self._result is None and self._room < wanted:
            await self._sender.park()
        if self._result is not None:
            raise StreamEnded(self._result)

    # -- for those who receive

    async def receive(self) -> bytes | None:
        """The next bytes; None when the other end has no more, after the end again and again."""
        while True:
            frame = await self.receive_frame()
            if isinstance(frame, Data):
                return frame.payload
            if not isinstance(frame, Resize):
                return None

    async def receive_frame(self) -> Data | Eof | Resize | Closed:
        """The next frame in order; after the last, and ever after, how the stream ended.

        Cancellation loses no frame.
        """
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._result is not None:
                return self._result
            await self._receiver.park()
        frame = self._inbox.pop(0)
        self._held -= _cost(frame)
        self.moved_at = trio.current_time()
        if self._result is None:
            self._grant()
        return frame

    def _grant(self) -> None:
        """Let the other end send what fits; a consumer that has used up its window and keeps up gets more."""
        if not self._inbox and self._granted < self._window // 4:
            self._window += self._budget.take(min(self._window, WINDOW_BYTES - self._window))
        free = self._window - self._granted - self._held
        if free >= self._window // 4:
            self._granted += free
            self._post(Credit(free))

    # -- the end

    def close(self, code: str = "", msg: str = "") -> None:
        """End the stream from here, unless it has ended. Never blocks; those who wait get the end."""
        if self._result is None:
            self._post(Closed(code, msg))
        self.end(Closed(code, msg))

    def end(self, closed: Closed) -> None:
        """The stream has ended, and the other side need not be told."""
        if self._result is None:
            self._result = closed
            self._budget.give_back(self._window - FIRST_WINDOW_BYTES)
            self._ended.set()
        self._sender.unpark_all()
        self._receiver.unpark_all()

    # -- for the link

    def take(self, frame: LinkStreamFrame) -> None:
        """A frame from the other end. One that breaks the rules ends the stream."""
        if self._result is not None:
            return
        match frame:
            case Closed():
                self.end(frame)
            case Credit(amount=amount):
                self._room += amount
                if amount < 0 or self._room > WINDOW_BYTES:
                    self.close("protocol", "more credit than there may be")
                self._sender.unpark_all()
            case _:
                cost = _cost(frame)
                self._granted -= cost
                self._held += cost
                if self._granted < 0:
                    self.close("protocol", "more data than there was credit for")
                    return
                if self._heard_eof and not isinstance(frame, Resize):
                    self.close("protocol", "data after its end")
                    return
                self._heard_eof = self._heard_eof or isinstance(frame, Eof)
                self._inbox.append(frame)
                self._receiver.unpark_all()


def _cost(frame: Data | Eof | Resize) -> int:
    match frame:
        case Data():
            return len(frame.payload) + FRAME_COST
        case Resize():
            return FRAME_COST
        case Eof():  # there is but one
            return 0
