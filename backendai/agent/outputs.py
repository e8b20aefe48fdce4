"""What ended kernels have printed, on the disk of the agent until a manager has fetched it.

A file for each, which outlives the agent: whatever is killed on the way, it is named again in every heartbeat
until somebody says that it is kept elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.core.output import KernelOutput
from backendai.runner.output import salvage

log = structlog.get_logger(__name__)

_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Kernels named in one heartbeat; the others come when these have gone.
_NAMED = 64


class EndedOutputs:
    """``limit`` is in bytes for all together; past it the oldest is dropped, which the log tells."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        #: Bytes by kernel, the oldest first.
        self._sizes = _found(directory)

    async def take(self, kernel_id: UUID, directory: Path) -> None:
        """Keep what a kernel that has ended left in its directory. Not interrupted by cancellation."""
        try:
            with trio.CancelScope(shield=True):
                path = await trio.to_thread.run_sync(salvage, directory)
            if path is None:
                log.warning("agent.output-lost", kernel=str(kernel_id), why="the runner left none")
                return
            self._sizes[kernel_id] = path.stat().st_size
            path.replace(self._path(kernel_id))
        except OSError as error:
            log.error("agent.output-lost", kernel=str(kernel_id), why=str(error))
        self._make_room()

    async def read(self, kernel_id: UUID) -> KernelOutput | None:
        """What a kernel has printed; None when nothing of it is here."""
        if kernel_id not in self._sizes:
            return None
        try:
            content = await trio.to_thread.run_sync(self._path(kernel_id).read_bytes)
            return msgspec.msgpack.decode(content, type=KernelOutput)
        except (OSError, msgspec.MsgspecError) as error:
            log.error("agent.output-lost", kernel=str(kernel_id), why=str(error))
            self.forget(kernel_id)
            return None

    def forget(self, kernel_id: UUID) -> None:
        if self._sizes.pop(kernel_id, None) is not None:
            self._path(kernel_id).unlink(missing_ok=True)

    def waiting(self) -> tuple[UUID, ...]:
        """Some of the kernels whose output is here, the oldest first."""
        return tuple(kernel_id for kernel_id, _ in zip(self._sizes, range(_NAMED), strict=False))

    def _make_room(self) -> None:
        while sum(self._sizes.values()) > self._limit:
            oldest = next(iter(self._sizes))
            log.warning("agent.output-dropped", kernel=str(oldest), limit=self._limit)
            self.forget(oldest)

    def _path(self, kernel_id: UUID) -> Path:
        return self._directory / str(kernel_id)


def _found(directory: Path) -> dict[UUID, int]:
    entries = sorted((path.stat().st_mtime, path) for path in directory.iterdir())
    return {
        UUID(path.name): path.stat().st_size for _, path in entries if _NAME.fullmatch(path.name) is not None
    }
