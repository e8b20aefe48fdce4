"""The directory of an agent: held by one agent at a time, one subdirectory per kernel, and what ended ones
have printed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import structlog

from backendai.agent.outputs import EndedOutputs
from backendai.runner import scratch
from backendai.wire.runner import LOG_FILE

log = structlog.get_logger(__name__)

_LOCK = "lock"
_KERNELS = "kernels"
_ENDED = "ended"
_WARM = "warm-"
_TAIL_BYTES = 2000


class DirectoryHeld(Exception):
    """Another agent works on the directory; the text says which."""


@contextmanager
def hold_directory(directory: Path, agent_id: str, most_output: int = 1 << 30) -> Iterator[AgentDirectory]:
    """Be the only agent on ``directory`` (made when missing) until the block ends or the process dies.

    ``most_output``: bytes kept of what ended kernels printed. Raises :exc:`DirectoryHeld`.
    """
    kernels, ended = directory / _KERNELS, directory / _ENDED
    for path in (kernels, ended):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(handle, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock.read(200).strip() or "another process"
            raise DirectoryHeld(f"{directory} is in use by {holder}") from None
        lock.truncate()
        lock.write(f"agent {agent_id}, process {os.getpid()}\n")
        lock.flush()
        yield AgentDirectory(kernels, EndedOutputs(ended, most_output))


class AgentDirectory:
    def __init__(self, kernels: Path, outputs: EndedOutputs) -> None:
        self._kernels = kernels
        self.outputs = outputs

    def of_kernel(self, kernel_id: UUID) -> Path:
        return self._kernels / str(kernel_id)

    def of_warm_kernel(self, kernel_id: UUID) -> Path:
        """A warm kernel keeps its directory when it is given to a session, which has another id."""
        return self._kernels / f"{_WARM}{kernel_id}"

    def found(self) -> list[tuple[Path, UUID | None]]:
        """Directories left by an earlier agent, with the kernel id the name tells; warm ones tell none."""
        return [(path, _kernel_id(path.name)) for path in sorted(self._kernels.iterdir()) if path.is_dir()]


def _kernel_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def runner_log_tail(directory: Path) -> str:
    """The last words of a runner that left no other, empty when it had none."""
    try:
        with (directory / LOG_FILE).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


async def remove_directory(directory: Path) -> None:
    """Remove what a runner left; one that ends in order leaves nothing. Shielded, waits for the disk."""
    try:
        await scratch.remove(str(directory))
    except OSError as error:
        # The next start of an agent tries again; until then it only takes room.
        log.error("agent.directory-left", directory=str(directory), error=str(error))
