"""A process that has everything a runner needs loaded, and forks runners in milliseconds.

Started by the agent, one per agent. Memory that runners never change stays shared with it. It ends with the
agent; the runners it forked do not: they are detached, in sessions of their own.

Between agent and zygote: one line per request (the directory), one line per answer (``ok <pid>`` or ``failed
<why>``), strictly in turns.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

import backendai
from backendai.runner.client import RunnerClient
from backendai.wire import runner as wire
from backendai.wire.runner import RunnerSpec

#: Seconds a fork may take, with the import of everything when the zygote itself has just been started.
_SPAWN_TIMEOUT = 30.0
_MAX_LINE = 16 << 10
_PR_SET_PDEATHSIG = 1
#: Connections that may wait to be accepted; thousands of streams may be opened at once.
_BACKLOG = 4096
#: All of the agent's environment that a runner may see.
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "PYTHONWARNINGS")


class ZygoteFailed(Exception):
    """The zygote could not be started or could not fork a runner."""


class RunnerZygote:
    """The agent's handle of its zygote. A zygote that died is replaced at the next :meth:`spawn`."""

    def __init__(self) -> None:
        self._lock = trio.StrictFIFOLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: trio.SocketStream | None = None

    async def spawn(self, directory: Path, spec: RunnerSpec) -> RunnerClient:
        """Start a runner in ``directory`` (made when missing, 0700) and attach to it.

        Returns as soon as the runner can be spoken to; the kernel is ready after
        ``RunnerClient.wait_ready()``. Raises :class:`ZygoteFailed`, or ``RunnerGone`` when the runner ended
        at once. When cancelled, the runner may run all the same: the owner of the directory shuts it down or
        removes it.
        """
        place = write_spec(directory, spec)
        async with self._lock:
            answer = await self._ask(place)
        verdict, _, detail = answer.partition(" ")
        if verdict != "ok":
            raise ZygoteFailed(detail)
        return await RunnerClient.attach(directory)

    @property
    def pid(self) -> int | None:
        """Of the zygote process, when there is one."""
        return self._process.pid if self._process else None

    async def _ask(self, request: str) -> str:
        # An abandoned exchange would leave its answer to the next one, so a turn is always finished.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _SPAWN_TIMEOUT):
            stream = self._started()
            try:
                await stream.send_all(request.encode() + b"\n")
                answer = b""
                while not answer.endswith(b"\n") and (data := await stream.receive_some(_MAX_LINE)):
                    answer += data
            except trio.BrokenResourceError:
                answer = b""
            if answer.endswith(b"\n"):
                return answer.decode().rstrip("\n")
        self.close()
        raise ZygoteFailed("the zygote does not answer")

    def _started(self) -> trio.SocketStream:
        if self._process is not None and self._process.poll() is None and self._stream is not None:
            return self._stream
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            # Not through a worker thread: the kernel would take the end of that thread for the death of the
            # parent.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backendai.runner.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=[theirs.fileno()],
                cwd="/",
            )
        ours.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        return self._stream

    def close(self) -> None:
        """End the zygote; the runners stay."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def start(self) -> None:
        """Start loading now, so that the first :meth:`spawn` does not have to wait for it."""
        self._started()


@asynccontextmanager
async def open_runner_zygote() -> AsyncIterator[RunnerZygote]:
    """A zygote for as long as the block lasts."""
    zygote = RunnerZygote()
    zygote.start()
    try:
        yield zygote
    finally:
        zygote.close()


def write_spec(directory: Path, spec: RunnerSpec) -> str:
    """Lay down what the runner is to do, readable by its owner alone. Returns the absolute path."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(directory / wire.SPEC_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(msgspec.msgpack.encode(spec))
    return str(directory.absolute())


def _environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    ours = str(Path(backendai.__file__).parent.parent)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{ours}{os.pathsep}{inherited}" if inherited else ours
    return environment


# -- the zygote process: plain and synchronous, so that it can fork ------------------------------------------


def main(control_fd: int) -> None:
    """Fork a runner for each directory named on the control socket, until the agent closes it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()  # the terminal's Ctrl-C is for the agent
    os.umask(0o077)
    from backendai.runner.main import run_runner  # noqa: F401  loaded here, used by the forked

    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    gc.collect()
    gc.freeze()
    with control, control.makefile("rb") as requests:
        for line in requests:
            control.sendall(_fork_runner(line.rstrip(b"\n").decode(), control).encode() + b"\n")


def _fork_runner(directory: str, control: socket.socket) -> str:
    """Fork twice, so that the runner is nobody's child here; returns the answer line."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _become_runner(directory, control, tell)
    os.close(tell)
    with open(told, "rb") as answer:
        text = answer.read(_MAX_LINE).decode(errors="replace").replace("\n", " ")
    os.waitpid(child, 0)
    return text or "failed the runner ended before it started"


def _become_runner(directory: str, control: socket.socket, tell: int) -> NoReturn:
    """In the forked process: listen, detach, answer, and be the runner. Never returns."""
    code = 1
    try:
        control.close()
        os.setsid()
        os.chdir(directory)
        listener = _listen()
        if (runner := os.fork()) != 0:
            os.write(tell, f"ok {runner}".encode())
            code = 0
        else:
            os.close(tell)
            _redirect_output()
            from backendai.runner.main import run_runner

            code = run_runner(listener)
    except OSError as error:
        os.write(tell, f"failed {error}".encode())
    finally:
        # Whatever happened, this copy of the zygote must not go on as a second zygote.
        sys.stderr.flush()
        os._exit(code)


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    Path(wire.SOCKET_FILE).unlink(missing_ok=True)
    listener.bind(wire.SOCKET_FILE)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _redirect_output() -> None:
    log = os.open(wire.LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


if __name__ == "__main__":
    main(int(sys.argv[1]))
