"""What an engine offers: a sandbox for one kernel, however the host provides it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from backendai.core.kernel import KernelLimits, KernelStat
from backendai.engines.plugging import Seat

#: Where a kernel finds its files and its sockets, whatever the engine.
HOME_INSIDE = "/home/work"
IPC_INSIDE = "/run/kernel"


class SandboxFailed(Exception):
    """The sandbox could not be set up, or not entered.

    ``code`` is ``start-failed``, ``isolation-missing`` or ``enter-failed``.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """``environ`` is all the environment the command gets and may be secret; nothing is inherited."""

    #: Unique on this host among live sandboxes; letters, digits and dashes.
    name: str
    argv: tuple[str, ...]
    environ: dict[str, str] = field(repr=False)
    hostname: str
    limits: KernelLimits
    network: bool = False
    #: A place in the network of the session's kernels; not together with ``network``, which is the host's.
    seat: Seat | None = None
    #: Writable directories, seen inside as ``HOME_INSIDE`` and ``IPC_INSIDE``; the engine may change their
    #: owner.
    home: Path
    ipc: Path
    #: Written below home before the command starts: relative path, permission bits, content. Only into a home
    #: that no kernel has had.
    files: tuple[tuple[str, int, bytes], ...] = field(default=(), repr=False)
    #: Host paths that are visible read-only at the same place.
    visible: tuple[Path, ...] = ()
    #: Fail rather than start with a mechanism missing.
    strict: bool = False


@dataclass(frozen=True, slots=True)
class SandboxExit:
    """How the command ended: ``code`` as a shell has it (128 + signal)."""

    code: int
    out_of_memory: bool = False


class Entered(Protocol):
    """A process that was sent into a sandbox. It is one of its: same user, limits, view, and end."""

    #: Its standard input; the terminal, when it has one.
    input: trio.abc.SendStream
    #: What it writes, on a terminal or else on standard output. Ends with the last who has that open.
    output: trio.abc.ReceiveStream
    #: Standard error, when there is no terminal.
    errors: trio.abc.ReceiveStream | None

    async def wait(self) -> int:
        """Wait until it has ended; the exit code as a shell has it. Any number may wait."""

    def wants_input(self) -> bool:
        """Whether it, or a process it has started, is blocked in reading its standard input."""

    def interrupt(self) -> None:
        """Send what Ctrl-C sends to it and the processes in its group."""

    def kill(self) -> None:
        """End it and the processes in its group; returns before they are gone."""

    def resize(self, rows: int, cols: int) -> None:
        """Change the size of its terminal."""


class Sandbox(Protocol):
    """A running sandbox. Its owner ends it by leaving the engine's context manager."""

    #: What the processes inside write to standard output and standard error; read it, or they will block.
    output: trio.abc.ReceiveStream

    @property
    def isolation(self) -> dict[str, str]:
        """Mechanism to what is in force, for ``KernelFacts.isolation``."""

    async def wait(self) -> SandboxExit:
        """Wait until the command has ended."""

    def interrupt(self) -> None:
        """Send what Ctrl-C sends to the command and the processes in its group."""

    def kill(self) -> None:
        """End every process inside at once; returns before they are gone."""

    def set_limits(self, limits: KernelLimits) -> None:
        """Apply what can be changed while running: cpu, memory, pids."""

    def measure(self) -> KernelStat:
        """Processor, memory, io and process count; ``scratch`` and ``busy`` are not the engine's to know."""

    def enter(
        self, argv: Sequence[str], *, environ: Mapping[str, str], terminal: tuple[int, int] | None = None
    ) -> AbstractAsyncContextManager[Entered]:
        """Execute a command inside, in the home directory and a session of its own.

        ``argv[0]`` is looked up inside; ``environ`` is all it gets. ``terminal`` is the size, rows and
        columns, of a new terminal to be at; without it there are pipes. Leaving ends the command and waits
        for that. Raises :class:`SandboxFailed`, also when there is no such command. At most a few
        milliseconds of it block the caller.
        """

    async def connect(self, port: int) -> trio.SocketStream:
        """TCP to 127.0.0.1:``port`` inside. Raises :class:`OSError`, or :class:`SandboxFailed`."""

    def errand(self, work: Callable[[socket.socket], None]) -> AbstractAsyncContextManager[trio.SocketStream]:
        """Have ``work`` called in a process inside, with a blocking socket whose other end this gives.

        So whatever ``work`` opens, it opens as the kernel's user in the kernel's view of the world. It must
        not touch anything of the caller but plain data. Leaving ends the process. Raises
        :class:`SandboxFailed`.
        """


class Engine(Protocol):
    def open(self, request: SandboxRequest) -> AbstractAsyncContextManager[Sandbox]:
        """Start the command; on leaving, every process and every host-side trace of it is gone.

        Raises :class:`SandboxFailed`. Leaving is shielded from cancellation and takes well under a second.
        """
