"""Files of a kernel as users are shown them."""

from __future__ import annotations

import msgspec


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """``mode`` as ``ls -l`` writes it; times in seconds since the epoch."""

    filename: str
    mode: str
    size: int
    ctime: float
    mtime: float
    atime: float


class FileListing(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a directory. ``errors`` is for the person, empty when all could be read."""

    path: str
    entries: tuple[FileEntry, ...] = ()
    errors: str = ""
