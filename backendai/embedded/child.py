"""A child process that cannot outlive its parent.

trio's own ``open_process`` forks in a worker thread; the parent-death signal follows the *thread* that
forked, so here the fork happens on the calling (main) thread and takes a few milliseconds of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from backendai.embedded import launch


class ChildExited(Exception):
    """A child ended although nobody asked it to."""

    def __init__(self, name: str, returncode: int, log: Path | None = None) -> None:
        self.name = name
        self.returncode = returncode
        self.log = log
        super().__init__(f"{name} {describe_exit(returncode)}{log_tail(log)}")


def describe_exit(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by signal {signal.Signals(-returncode).name}"
    return f"exited with status {returncode}"


def log_tail(log: Path | None, lines: int = 8) -> str:
    """The end of a log as an addition to an error message; empty when there is none."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        tail = file.read().decode(errors="replace").splitlines()[-lines:]
    return f"; the end of {log}:\n  " + "\n  ".join(tail) if tail else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    name: str
    #: The first element is the absolute path of a program.
    command: Sequence[str]
    #: The complete environment; None inherits ours. May hold secrets, the command line may not.
    environ: Mapping[str, str] | None = field(default=None, repr=False)
    #: Takes stdout and stderr, appended; None inherits both.
    log: Path | None = None
    #: User and group to become; None stays.
    uid: int | None = None
    #: The one capability to keep as ``uid``.
    capability: int | None = None
    #: What it reads from its standard input.
    input: bytes = b""
    pass_fds: tuple[int, ...] = ()
    #: What the kernel sends the child when we die.
    death_signal: signal.Signals = signal.SIGKILL
    #: What asks it to stop, and the seconds it has before SIGKILL.
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within: float = 4.0


class Child:
    """A running child. Made by :func:`open_child` or :func:`start_child`."""

    def __init__(self, spec: ChildSpec, process: subprocess.Popen[bytes]) -> None:
        self.spec = spec
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The return code (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """Wait for the end and return the return code. Any number of tasks may wait at once."""
        waiting = os.dup(self._pidfd)  # Trio admits one waiter per descriptor
        try:
            await trio.lowlevel.wait_readable(waiting)
        finally:
            os.close(waiting)
        return self._process.wait()

    async def watch(self) -> None:
        """Run until cancelled; raises :class:`ChildExited` when the child ends."""
        returncode = await self.wait()
        raise ChildExited(self.spec.name, returncode, self.spec.log)

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the child; an ended one is left alone."""
        self._process.send_signal(number)

    async def stop(self) -> int:
        """Ask it to stop, kill it when it takes longer than its spec allows. Shielded from cancellation."""
        with trio.CancelScope(shield=True):
            self.send_signal(self.spec.stop_signal)
            with trio.move_on_after(self.spec.stop_within) as patience:
                await self.wait()
            if patience.cancelled_caught:
                self.send_signal(signal.SIGKILL)
                await self.wait()
        return self._process.wait()

    def close(self) -> None:
        """Give back the descriptor of an ended child."""
        os.close(self._pidfd)


def start_child(spec: ChildSpec) -> Child:
    """Start a child in a session of its own, so that a Ctrl-C at the terminal reaches only us.

    Must be called on the main thread, which lives as long as the process.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children die with the thread that starts them: start them on the main thread")
    command = [
        sys.executable, "-I", "-S", launch.__file__,
        str(os.getpid()), str(int(spec.death_signal)),
        "-" if spec.uid is None else str(spec.uid),
        "-" if spec.capability is None else str(spec.capability),
        *spec.command,
    ]  # fmt: skip
    log = (
        os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if spec.log else None
    )
    reading = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        os.pwrite(reading, spec.input, 0)
        process = subprocess.Popen(
            command,
            env=None if spec.environ is None else dict(spec.environ),
            stdin=reading,
            stdout=log,
            stderr=log,
            pass_fds=spec.pass_fds,
            start_new_session=True,
        )
    finally:
        os.close(reading)
        if log is not None:
            os.close(log)
    return Child(spec, process)


@asynccontextmanager
async def stopping(child: Child) -> AsyncIterator[Child]:
    """Stop a child, at worst kill it, after the body."""
    try:
        yield child
    finally:
        await child.stop()
        child.close()


@asynccontextmanager
async def open_child(spec: ChildSpec) -> AsyncIterator[Child]:
    """A child for the length of the body; stopped, at worst killed, after it."""
    async with stopping(start_child(spec)) as child:
        yield child
