"""Cutting and replaying what the runs of an ended kernel printed."""

from __future__ import annotations

import msgspec
import pytest

from backendai.core.execution import RunStatus
from backendai.core.output import MalformedOutput, RunOutput, read_on, within


def records(*pieces: tuple[str, str, str | None]) -> bytes:
    bodies = [msgspec.msgpack.encode(piece) for piece in pieces]
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def letters(text: str) -> bytes:
    return records(*(("stdout", letter, None) for letter in text))


def test_the_newest_is_kept() -> None:
    size = len(letters("x"))
    runs = (
        RunOutput(run_id="new", exit_code=0, next_index=2, content=letters("ab")),
        RunOutput(run_id="old", exit_code=0, first_index=5, next_index=8, content=letters("cde")),
        RunOutput(run_id="oldest", exit_code=1, next_index=1, content=letters("f")),
    )
    kept = within(runs, 3 * size + size // 2)
    assert [(run.run_id, run.first_index, run.next_index, run.content) for run in kept] == [
        ("new", 0, 2, letters("ab")),
        ("old", 7, 8, letters("e")),
        ("oldest", 1, 1, b""),
    ]
    assert within(runs, 6 * size) == runs


def test_reading_on_in_replies_of_bounded_size() -> None:
    run = RunOutput(run_id="r", exit_code=7, first_index=3, next_index=6, content=letters("def"))
    first = read_on(run, 0, 2)
    assert [(item.index, item.data) for item in first.items] == [(3, "d"), (4, "e")]
    assert (first.status, first.exit_code, first.first_index) == (RunStatus.CONTINUED, None, 3)
    last = read_on(run, first.next_index, 2)
    assert [(item.index, item.data) for item in last.items] == [(5, "f")]
    assert (last.status, last.exit_code, last.next_index) == (RunStatus.FINISHED, 7, 6)
    beyond = read_on(run, 99, 2)
    assert (beyond.items, beyond.status, beyond.next_index) == ((), RunStatus.FINISHED, 6)


def test_steps_are_told_as_of_a_live_run() -> None:
    content = records(("stdout", "b", None), ("step", "build-finished", "2"), ("stdout", "x", None))
    run = RunOutput(run_id="r", exit_code=0, next_index=3, content=content)
    step = read_on(run, 0, 100)
    assert (step.status, step.exit_code, step.next_index) == (RunStatus.BUILD_FINISHED, 2, 2)
    assert [item.data for item in step.items] == ["b"]
    assert read_on(run, 2, 100).status is RunStatus.FINISHED


@pytest.mark.parametrize("content", [b"\0", b"\0\0\0\5abc", records(("step", "no-status", "0"))])
def test_nonsense(content: bytes) -> None:
    run = RunOutput(run_id="r", exit_code=0, next_index=1, content=content)
    with pytest.raises(MalformedOutput):
        read_on(run, 0, 100)
