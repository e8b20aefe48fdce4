"""The console output of one run, on disk and readable from any index.

It consists of the records of ``core.output``. Only the position of every 64th is kept in memory, so memory
does not grow with what nobody reads. Writing is to the page cache: output need not survive the machine, only
the agent.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from backendai.core.execution import ConsoleItem
from backendai.core.output import LENGTH, decoder, encoder
from backendai.runner.items import Piece

_MARK_EVERY = 64
#: Characters of stream text collected before they become an item.
_CHUNK = 64 << 10
#: What an item counts beyond its text, so that a flood of tiny ones meets the limit too.
_ITEM_COST = 64
_STREAMS = ("stdout", "stderr")
#: The files of a print log.
_CURRENT, _PREVIOUS = "log", "log.1"


class Journal:
    """``limit`` is in bytes; past it :meth:`append` keeps nothing more."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._limit = limit
        self._cost = 0
        self._count = 0
        self._end = 0
        self._marks = array("Q")
        #: An index and its position: readers ask again and again from where they stopped.
        self._known = (0, 0)
        #: Stream text that is not an item yet, so that what comes next can be joined to it.
        self._open_kind = ""
        self._open_text: list[str] = []
        self._open_length = 0

    @property
    def next_index(self) -> int:
        """The index the next item will get; text not yet cut into an item counts as one."""
        return self._count + (1 if self._open_text else 0)

    @property
    def size(self) -> int:
        """Bytes on disk and about to be."""
        return self._end + self._open_length

    def append(self, piece: Piece) -> bool:
        """Keep the piece; ``False`` when that would exceed the limit; the rest is then cut off."""
        if not piece.data:
            return True
        text, fits = self._within_limit(piece)
        if text and piece.kind in _STREAMS:
            self._append_text(piece.kind, text)
        elif text:
            self._close_text()
            self._write(piece.kind, text, piece.mime)
        return fits

    def append_past_limit(self, piece: Piece) -> None:
        """For the line that says why there is no more."""
        self._close_text()
        self._write(piece.kind, piece.data, piece.mime)

    def pending_since(self, index: int) -> int:
        """How many bytes a reader at ``index`` has not seen."""
        return self.size - self._position_of(index) if index < self.next_index else 0

    def read(self, index: int, max_bytes: int) -> tuple[tuple[ConsoleItem, ...], int]:
        """Items from ``index`` on, at least one if there is any, and the index to read on from.

        Adjacent fragments of one stream come as one item, which has the index of its last fragment.
        """
        self._close_text()
        items: list[ConsoleItem] = []
        next_index = max(0, min(index, self._count))
        taken = 0
        for kind, data, mime in self._records(next_index):
            if items and taken + len(data) > max_bytes:
                break
            taken += len(data.encode())
            last = items[-1] if items else None
            if last is not None and last.kind == kind and kind in _STREAMS:
                items[-1] = ConsoleItem(next_index, kind, last.data + data)
            else:
                items.append(ConsoleItem(next_index, kind, data, mime))
            next_index += 1
        return tuple(items), next_index

    def tail(self, max_bytes: int) -> tuple[int, bytes]:
        """The last records that fit as they are on disk, and the index of the first of them."""
        self._close_text()
        cut = self._end - max_bytes
        mark = max(0, bisect_left(self._marks, cut) - 1)
        index, position = mark * _MARK_EVERY, self._marks[mark] if self._marks else 0
        while position < cut:
            position += LENGTH.size + self._length_at(position)
            index += 1
        return index, os.pread(self._file, self._end - position, position)

    def remove(self) -> None:
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def _within_limit(self, piece: Piece) -> tuple[str, bool]:
        size = len(piece.data) if piece.data.isascii() else len(piece.data.encode())
        # Joined text is one item however many messages brought it.
        cost = size + (0 if piece.kind == self._open_kind and self._open_text else _ITEM_COST)
        if self._cost + cost <= self._limit:
            self._cost += cost
            return piece.data, True
        left = max(0, self._limit - self._cost)
        self._cost = self._limit
        return (piece.data.encode()[:left].decode(errors="ignore") if piece.kind in _STREAMS else ""), False

    def _append_text(self, kind: str, text: str) -> None:
        if kind != self._open_kind:
            self._close_text()
            self._open_kind = kind
        for start in range(0, len(text), _CHUNK):
            part = text[start : start + _CHUNK]
            self._open_text.append(part)
            self._open_length += len(part)
            if self._open_length >= _CHUNK:
                self._close_text()
                self._open_kind = kind

    def _close_text(self) -> None:
        if self._open_text:
            text = "".join(self._open_text)
            self._open_text = []
            self._open_length = 0
            self._write(self._open_kind, text, None)
        self._open_kind = ""

    def _write(self, kind: str, data: str, mime: str | None) -> None:
        body = encoder.encode((kind, data, mime))
        if self._count % _MARK_EVERY == 0:
            self._marks.append(self._end)
        record = LENGTH.pack(len(body)) + body
        written = os.pwrite(self._file, record, self._end)
        if written != len(record):
            raise OSError(f"only {written} of {len(record)} bytes written to the journal")
        self._end += len(record)
        self._count += 1

    def _position_of(self, index: int) -> int:
        """Where the record of ``index`` begins, or will begin."""
        if index >= self._count:
            return self._end
        known_index, position = self._known
        mark = index // _MARK_EVERY
        if not mark * _MARK_EVERY <= known_index <= index:
            known_index, position = mark * _MARK_EVERY, self._marks[mark]
        for _ in range(index - known_index):
            position += LENGTH.size + self._length_at(position)
        self._known = (index, position)
        return position

    def _length_at(self, position: int) -> int:
        (length,) = LENGTH.unpack(os.pread(self._file, LENGTH.size, position))
        return int(length)

    def _records(self, index: int) -> Iterator[tuple[str, str, str | None]]:
        position = self._position_of(index)
        while position < self._end:
            length = self._length_at(position)
            position += LENGTH.size
            yield decoder.decode(os.pread(self._file, length, position))
            position += length


class PrintLog:
    """The tail of everything the kernel printed: two files that take turns, each at most ``limit`` bytes."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._current = directory / _CURRENT
        self._previous = directory / _PREVIOUS
        self._limit = limit
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._current, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._size = 0

    def write(self, data: bytes | bytearray) -> None:
        for start in range(0, len(data), self._limit):
            part = data[start : start + self._limit]
            if self._size + len(part) > self._limit:
                os.close(self._file)
                self._current.replace(self._previous)
                self._open()
            self._size += os.write(self._file, part)

    def tail(self, limit: int) -> tuple[str, bool]:
        """The last ``limit`` bytes as text, and whether there was more."""
        return log_tail(self._current.parent, limit)

    def close(self) -> None:
        os.close(self._file)


def log_tail(directory: Path, limit: int) -> tuple[str, bool]:
    """As :meth:`PrintLog.tail`, of a log that may be nobody's any more. Raises :class:`FileNotFoundError`."""
    current, previous = directory / _CURRENT, directory / _PREVIOUS
    data, truncated = _end_of(current, limit)
    if previous.exists():
        missing = limit - len(data)
        data = (_end_of(previous, missing)[0] if missing > 0 else b"") + data
        truncated = True
    text = data.decode(errors="replace")
    # What is no text takes three times its room when it is replaced.
    return text.encode()[-limit:].decode(errors="ignore"), truncated


def _end_of(path: Path, limit: int) -> tuple[bytes, bool]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        return file.read(limit), size > limit
