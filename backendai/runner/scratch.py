"""The files of a kernel: how much they take, and taking them away. Their names and depth are a stranger's
choice.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import trio

#: A tree with more files, or deeper, counts as too large: it cannot be measured in reasonable time.
_MAX_ENTRIES = 500_000
_MAX_DEPTH = 200
#: Entries looked at before others get their turn.
_BATCH = 500
_REMOVE_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class ScratchSize:
    """``over`` names the bound that kept us from measuring all, empty when everything was measured."""

    size: int
    over: str = ""


async def measure(root: str) -> ScratchSize:
    """Bytes allocated below ``root``, following no links. What changes meanwhile or may not be read is left
    out.
    """
    size = entries = 0
    # Directories are opened relative to each other: paths of a hostile tree may be longer than a path can be.
    open_levels: list[tuple[int, Iterator[os.DirEntry[str]]]] = []
    try:
        _descend(open_levels, root, None)
        while open_levels:
            handle, level = open_levels[-1]
            entry = next(level, None)
            if entry is None:
                os.close(open_levels.pop()[0])
                continue
            entries += 1
            if entries > _MAX_ENTRIES:
                return ScratchSize(size, f"more than {_MAX_ENTRIES} files")
            if entries % _BATCH == 0:
                await trio.lowlevel.checkpoint()
            with suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    if len(open_levels) >= _MAX_DEPTH:
                        return ScratchSize(size, f"directories deeper than {_MAX_DEPTH}")
                    _descend(open_levels, entry.name, handle)
    finally:
        for handle, _ in open_levels:
            os.close(handle)
    return ScratchSize(size)


def _descend(levels: list[tuple[int, Iterator[os.DirEntry[str]]]], name: str, parent: int | None) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=parent)
    levels.append((handle, os.scandir(handle)))


async def remove(*paths: str) -> None:
    """Remove trees of any depth and with any permissions. Raises :class:`OSError` when something is left."""
    paths = _existing(paths)
    command = ["rm", "-rf", "--one-file-system", "--", *paths]
    if not paths:
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _REMOVE_TIMEOUT):
        result = await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)
        if result.returncode != 0:
            # Only an ordinary user meets directories closed against their owner.
            await trio.run_process(
                ["chmod", "-R", "u+rwx", "--", *paths], check=False, stderr=subprocess.DEVNULL
            )
            await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)
    if left := _existing(paths):
        raise OSError(f"cannot remove {', '.join(left)}")


def _existing(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in paths if os.path.lexists(path))


async def make_fresh(directory: str) -> None:
    """An empty directory of ours, whatever was in it."""
    await remove(directory)
    os.mkdir(directory, 0o700)
