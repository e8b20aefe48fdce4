"""Windows, order and the end of a stream, with two ends back to back."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from backendai.wire.stream_end import FIRST_WINDOW_BYTES, FRAME_COST, StreamEnd, StreamEnded, WindowBudget
from backendai.wire.streams import (
    CHUNK_BYTES,
    WINDOW_BYTES,
    Closed,
    Credit,
    Data,
    Eof,
    LinkStreamFrame,
    MalformedFrame,
    Resize,
    decode_ids,
    decode_stream_parts,
    encode_ids,
    encode_stream_parts,
)


class Pair:
    """Two ends whose frames are encoded and decoded on their way, and counted."""

    def __init__(self, budget: int = 1 << 20) -> None:
        self.budgets = WindowBudget(budget), WindowBudget(budget)
        self.sent: list[LinkStreamFrame] = []
        self.near = StreamEnd(lambda frame: self._pass(frame, self.far), self.budgets[0])
        self.far = StreamEnd(lambda frame: self._pass(frame, self.near), self.budgets[1])

    def _pass(self, frame: LinkStreamFrame, to: StreamEnd) -> None:
        self.sent.append(frame)
        parts = encode_stream_parts(frame)
        assert len(parts) == 2
        to.take(decode_stream_parts(parts[0], parts[1]))


async def collect(end: StreamEnd) -> bytes:
    found = bytearray()
    while (data := await end.receive()) is not None:
        found += data
    return bytes(found)


async def test_bytes_arrive_whole_and_in_order_both_ways(nursery: trio.Nursery) -> None:
    pair = Pair()
    content = random.Random(1).randbytes(3 << 20)
    got: list[bytes] = []

    async def send(end: StreamEnd, data: bytes) -> None:
        for start in range(0, len(data), 100_001):
            await end.send(data[start : start + 100_001])
        await end.send_eof()

    async def receive(end: StreamEnd) -> None:
        got.append(await collect(end))

    with trio.fail_after(20):
        async with trio.open_nursery() as both:
            for end in (pair.near, pair.far):
                both.start_soon(send, end, content)
                both.start_soon(receive, end)
    assert got == [content, content]
    assert max(len(frame.payload) for frame in pair.sent if isinstance(frame, Data)) <= CHUNK_BYTES
    pair.far.close()
    assert pair.near.result == Closed()
    assert await pair.near.receive() is None
    assert [budget.left for budget in pair.budgets] == [1 << 20] * 2


@pytest.mark.parametrize("size", [1, 100, 5000, CHUNK_BYTES])
async def test_a_reader_that_stops_holds_the_sender_back(size: int, autojump_clock: object) -> None:
    pair = Pair()
    sent = 0
    with trio.move_on_after(1):
        while True:
            await pair.near.send(bytes(size))
            sent += size
    buffered = sum(len(frame.payload) + FRAME_COST for frame in pair.sent if isinstance(frame, Data))
    assert 0 < buffered <= FIRST_WINDOW_BYTES
    # And it goes on where it stopped.
    with trio.fail_after(5):
        assert await pair.far.receive() is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.near.send, bytes(40_000))
            while not pair.far.result:
                await pair.far.receive()
                if sum(len(f.payload) for f in pair.sent if isinstance(f, Data)) >= sent + 40_000:
                    break
            nursery.cancel_scope.cancel()


async def test_windows_widen_for_a_reader_that_keeps_up_and_within_the_budget() -> None:
    for budget, least, most in (
        (1 << 20, 2 * CHUNK_BYTES, WINDOW_BYTES),
        (9000, 4 * FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES + 9000),
        (0, FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES),
    ):
        pair = Pair(budget)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, pair.far)
            for _ in range(60):
                await pair.near.send(bytes(CHUNK_BYTES))
            await pair.near.send_eof()
        assert least <= pair.far._window <= most
        pair.far.close()
        assert pair.budgets[1].left == budget


async def test_sizes_take_their_place_and_the_end_comes_last() -> None:
    pair = Pair()
    await pair.near.send(b"a")
    await pair.near.control(Resize(3, 4))
    await pair.near.send(b"b")
    await pair.near.send_eof()
    await pair.near.send_eof()
    pair.near.close("aborted", "enough")
    frames = [await pair.far.receive_frame() for _ in range(6)]
    end = Closed("aborted", "enough")
    assert frames == [Data(b"a"), Resize(3, 4), Data(b"b"), Eof(), end, end]


async def test_an_end_wakes_those_who_wait() -> None:
    pair = Pair()
    ended: list[Closed] = []

    async def send_on() -> None:
        with pytest.raises(StreamEnded) as caught:
            await pair.near.send(bytes(1 << 20))
        ended.append(caught.value.closed)

    async def read_on() -> None:
        assert await pair.near.receive() is None
        assert pair.near.result is not None
        ended.append(pair.near.result)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on)
            nursery.start_soon(read_on)
            await trio.testing.wait_all_tasks_blocked()
            pair.far.close("io-error", "reset")
        assert await pair.near.wait_ended() == Closed("io-error", "reset")
    assert ended == [Closed("io-error", "reset")] * 2
    for late in (pair.near.send(b"x"), pair.near.send_eof(), pair.near.control(Resize(1, 1))):
        with pytest.raises(StreamEnded):
            await late


@pytest.mark.parametrize(
    "frames",
    [
        [Credit(WINDOW_BYTES)],
        [Credit(-1)],
        [Data(bytes(FIRST_WINDOW_BYTES))],
        [Resize(1, 1)] * (FIRST_WINDOW_BYTES // FRAME_COST + 1),
        [Eof(), Data(b"x")],
        [Eof(), Eof()],
    ],
)
async def test_breaking_the_rules_ends_the_stream(frames: list[LinkStreamFrame]) -> None:
    pair = Pair()
    for frame in frames:
        pair.near.take(frame)
    assert pair.near.result is not None
    assert pair.near.result.code == "protocol"
    assert pair.far.result is not None
    assert pair.far.result.code == "protocol"


async def test_cancelled_receive_loses_nothing() -> None:
    pair = Pair()
    with trio.move_on_after(0):
        await pair.far.receive()
    await pair.near.send(b"x")
    assert await pair.far.receive() == b"x"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(b"sd", b""), (b"sd", bytes(CHUNK_BYTES + 1)), (b"sz", b""), (b"sx", b"nonsense"), (b"", b"")],
)
def test_malformed_frames(kind: bytes, payload: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode_stream_parts(kind, payload)


def test_lists_of_ids() -> None:
    ids = [number.to_bytes(8, "big") for number in (1, 77)]
    assert decode_ids(encode_ids(ids)) == ids
    assert decode_ids(b"") == []
    with pytest.raises(MalformedFrame):
        decode_ids(b"1234567")
