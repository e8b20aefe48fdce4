"""What a kernel has printed, as it is kept when the kernel is no more: its log, and its runs item by item.

The items of a run are records one after the other, each a 4-byte length and a msgpack array ``[kind, data,
mime]``. They are cut at the front when there are too many, so that a kept run knows which index is its first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from backendai.core.execution import ConsoleItem, RunReply, RunStatus

LENGTH = struct.Struct("!I")
#: Kind of a record that marks the end of a step of a batch run; it counts as an item, but is shown as the
#: status and exit code of the reply that ends with it.
STEP = "step"
#: Most bytes of a kernel's log that are kept, and of what all its runs printed together.
MOST_LOG = 10 << 20
MOST_OF_RUNS = 8 << 20

Record = tuple[str, str, str | None]
encoder = msgspec.msgpack.Encoder()
decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is over. Its items have the indexes from ``first_index`` to before ``next_index``;
    what came before is no longer there.
    """

    run_id: Annotated[str, Meta(max_length=255, pattern=r"^[^\0]*$")]
    exit_code: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None
    #: A limit cut the output while the run was under way.
    truncated: bool = False
    first_index: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    next_index: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    content: bytes = b""


class KernelOutput(msgspec.Struct, frozen=True, kw_only=True):
    """All that is left of what a kernel printed. ``log_truncated``: its beginning is missing.

    ``runs`` come with the newest first; they are None when they were lost with the runner.
    """

    log: str
    log_truncated: bool = False
    runs: Annotated[tuple[RunOutput, ...], Meta(max_length=256)] | None = ()


class MalformedOutput(Exception):
    """Bytes that are no records of a run."""


def within(runs: tuple[RunOutput, ...], limit: int) -> tuple[RunOutput, ...]:
    """The same runs with at most ``limit`` bytes of items together, the newest items of the newest runs.

    Raises :class:`MalformedOutput`.
    """
    kept = []
    for run in runs:
        skipped, position = _cut(run.content, limit)
        content = run.content[position:]
        limit -= len(content)
        kept.append(msgspec.structs.replace(run, content=content, first_index=run.first_index + skipped))
    return tuple(kept)


def read_on(run: RunOutput, after: int, max_bytes: int) -> RunReply:
    """What a reader at index ``after`` gets of a kept run: as of a live one, in replies of about
    ``max_bytes``.

    Raises :class:`MalformedOutput`.
    """
    next_index = max(run.first_index, min(after, run.next_index))
    items: list[ConsoleItem] = []
    status, exit_code, taken = RunStatus.FINISHED, run.exit_code, 0
    for index, (kind, data, mime) in enumerate(_records(run.content), run.first_index):
        if index < next_index:
            continue
        if items and taken + len(data) > max_bytes:
            status, exit_code = RunStatus.CONTINUED, None
            break
        next_index = index + 1
        if kind == STEP:
            status, exit_code = _step(data, mime)
            break
        taken += len(data)
        items.append(ConsoleItem(index, kind, data, mime))
    return RunReply(
        run_id=run.run_id,
        status=status,
        exit_code=exit_code,
        items=tuple(items),
        first_index=run.first_index,
        next_index=next_index,
        truncated=run.truncated,
    )


def _step(data: str, code: str | None) -> tuple[RunStatus, int]:
    try:
        return RunStatus(data), int(code or 0)
    except ValueError as error:
        raise MalformedOutput(str(error)) from error


def _cut(content: bytes, limit: int) -> tuple[int, int]:
    """How many records have to go so that the rest fits, and where that begins."""
    skipped = position = 0
    while len(content) - position > limit:
        position += LENGTH.size + _length_at(content, position)
        skipped += 1
    return skipped, position


def _records(content: bytes) -> Iterator[Record]:
    position = 0
    while position < len(content):
        start = position + LENGTH.size
        position = start + _length_at(content, position)
        try:
            yield decoder.decode(memoryview(content)[start:position])
        except msgspec.MsgspecError as error:
            raise MalformedOutput(str(error)) from error


def _length_at(content: bytes, position: int) -> int:
    try:
        (length,) = LENGTH.unpack_from(content, position)
    except struct.error as error:
        raise MalformedOutput("a record without its length") from error
    return int(length)
