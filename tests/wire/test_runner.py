"""Frames between agent and runner."""

from __future__ import annotations

import struct
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai.core.execution import RunMode, RunReply, RunRequest, RunStatus
from backendai.core.kernel import KernelSpec
from backendai.wire import runner as wire

REQUESTS: list[wire.RunnerRequest] = [
    wire.Describe(),
    wire.Run(request=RunRequest(run_id="a", mode=RunMode.INPUT, code="x", options={"k": [1, None]}, after=3)),
    wire.Assign(kernel=KernelSpec(kernel_id=uuid4(), session_id=uuid4(), session_name="s", image="i")),
    wire.Shutdown(reason="why", grace=1.5),
]


@given(st.lists(st.integers(1, 50), max_size=20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(cuts: list[int]) -> None:
    data = b"".join(wire.encode_frame(number, request) for number, request in enumerate(REQUESTS))
    frames = wire.FrameBuffer()
    received = []
    position = 0
    for size in [*cuts, len(data)]:
        frames.feed(data[position : position + size])
        position += size
        while (frame := frames.next_request()) is not None:
            received.append(frame)
    assert received == list(enumerate(REQUESTS))


def test_answers_too() -> None:
    frames = wire.FrameBuffer()
    answer = wire.RunAnswer(reply=RunReply(run_id="a", status=RunStatus.FINISHED, exit_code=0))
    frames.feed(wire.encode_frame(9, answer))
    assert frames.next_answer() == (9, answer)
    assert frames.next_answer() is None


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", wire.MAX_FRAME_BYTES + 1),
        struct.pack("!I", 3) + b"abc",
        wire.encode_frame(1, wire.Accepted()),
    ],
)
def test_anything_else_breaks_the_connection(data: bytes) -> None:
    frames = wire.FrameBuffer()
    frames.feed(data)
    with pytest.raises(wire.BrokenFrame):
        frames.next_request()
