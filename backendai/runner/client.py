"""The agent's side of one runner: ask it, wait for it, detach from it.

There is no background task: whichever caller waits for an answer reads for all of them, so a client needs no
nursery and its methods may be called from any number of tasks. Cancelling a call abandons the wait only; what
was asked for still happens in the runner.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from backendai.core.execution import CompletionRequest, RunReply, RunRequest
from backendai.core.files import FileListing
from backendai.core.kernel import KernelPhase, KernelSpec, KernelStat, ServicePort
from backendai.wire import runner as wire
from backendai.wire.runner import RunnerExit, RunnerState

_READ_BYTES = 256 << 10
#: Seconds to push one request into the socket of a live runner.
_SEND_TIMEOUT = 10.0

A = TypeVar("A", bound=wire.RunnerAnswer)


class RunnerGone(Exception):
    """No runner serves the directory (any more).

    ``last`` is what it had written down of itself, ``None`` when it wrote nothing readable. When
    ``last.exit`` is ``None`` the runner was killed, and the kernel died with it.
    """

    def __init__(self, directory: Path, last: RunnerState | None) -> None:
        super().__init__(f"no runner serves {directory.name}")
        self.directory = directory
        self.last = last


class RunnerRefused(Exception):
    """The runner answered no. ``code`` is one of ``wire.runner.Refusal``'s."""

    def __init__(self, code: str, msg: str) -> None:
        super().__init__(f"{code}: {msg}" if msg else code)
        self.code = code
        self.msg = msg


class KernelNotReady(Exception):
    """The kernel ended before it was ready. ``exit.detail`` holds the tail of what it printed."""

    def __init__(self, exit: RunnerExit) -> None:
        super().__init__(exit.reason)
        self.exit = exit


class RunnerClient:
    """A connection to the runner of one kernel. Every method raises :class:`RunnerGone` when the runner is no
    more.
    """

    def __init__(self, directory: Path, stream: trio.SocketStream) -> None:
        self.directory = directory
        self._stream = stream
        self._frames = wire.FrameBuffer()
        self._last_id = 0
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, wire.RunnerAnswer] = {}
        self._send_lock = trio.StrictFIFOLock()
        self._reading = False
        self._gone = False

    @classmethod
    async def attach(cls, directory: Path) -> RunnerClient:
        """Connect to the runner of ``directory``; with the first request it drops any earlier connection.
        Raises :class:`RunnerGone`.
        """
        return cls(directory, await connect(directory))

    async def describe(self) -> RunnerState:
        return (await self._ask(wire.Describe(), wire.State)).state

    async def wait_ready(self) -> RunnerState:
        """Wait until the kernel answers. Raises :class:`KernelNotReady` when it ended instead; the runner
        bounds it.
        """
        return _ready(await self._ask(wire.AwaitReady(), wire.State))

    async def wait_exit(self) -> RunnerExit:
        """Wait until the kernel has ended for good. The runner still serves reads afterwards, until shut
        down.
        """
        return (await self._ask(wire.AwaitExit(), wire.Exited)).exit

    async def run(self, request: RunRequest) -> RunReply:
        """Start, continue or feed a run. Raises :class:`RunnerRefused`."""
        return (await self._ask(wire.Run(request=request), wire.RunAnswer)).reply

    async def interrupt(self) -> None:
        """Interrupt what runs now; nothing happens when the kernel is idle."""
        await self._ask(wire.Interrupt(), wire.Accepted)

    async def complete(self, request: CompletionRequest) -> tuple[str, ...]:
        """Completions at a place in the code; none while the kernel is busy."""
        return (await self._ask(wire.Complete(request=request), wire.Completed)).matches

    async def logs(self, limit: int) -> tuple[str, bool]:
        """The last ``limit`` bytes of everything the kernel printed, and whether there was more."""
        answer = await self._ask(wire.ReadLog(limit=limit), wire.Log)
        return answer.text, answer.truncated

    async def stat(self) -> KernelStat:
        return (await self._ask(wire.Measure(), wire.Measured)).stat

    async def assign(self, kernel: KernelSpec) -> RunnerState:
        """Give a warm kernel its session: ids, environment, limits. Raises :class:`RunnerRefused`; end it
        then.
        """
        return (await self._ask(wire.Assign(kernel=kernel), wire.State)).state

    async def restart(self) -> RunnerState:
        """New kernel process on the same scratch directory; waits until it is ready. Raises as
        ``wait_ready``.
        """
        return _ready(await self._ask(wire.Restart(), wire.State))

    async def shutdown(self, reason: str, grace: float = 0.0, *, keep_output: bool = False) -> RunnerExit:
        """End the kernel and its runner and remove the scratch, all but what it printed with ``keep_output``.
        A kernel that had ended keeps its first reason.
        """
        request = wire.Shutdown(reason=reason, grace=grace, keep_output=keep_output)
        return (await self._ask(request, wire.Exited)).exit

    async def list_files(self, path: str) -> FileListing:
        """What lies in a directory of the kernel. Raises :class:`RunnerRefused`."""
        return (await self._ask(wire.ListFiles(path=path), wire.Files)).listing

    async def start_service(
        self,
        name: str,
        port: int | None,
        environ: dict[str, str],
        arguments: dict[str, str | tuple[str, ...] | None],
    ) -> int:
        """Have a service listen; the port it listens on. Raises :class:`RunnerRefused`."""
        request = wire.StartService(name=name, port=port, environ=environ, arguments=arguments)
        return (await self._ask(request, wire.ServiceStarted)).port

    async def stop_service(self, name: str) -> None:
        """Raises :class:`RunnerRefused`."""
        await self._ask(wire.StopService(name=name), wire.Accepted)

    async def services(self) -> tuple[ServicePort, ...]:
        return (await self._ask(wire.ListServices(), wire.Services)).ports

    async def aclose(self) -> None:
        """Detach. The runner and its kernel live on. Never blocks."""
        self._end()
        await trio.lowlevel.checkpoint()

    # -- one connection, many callers ------------------------------------------------------------------------

    async def _ask(self, request: wire.RunnerRequest, expected: type[A]) -> A:
        request_id = self._last_id = self._last_id + 1
        frame = wire.encode_frame(request_id, request)
        if len(frame) > wire.MAX_FRAME_BYTES:
            raise RunnerRefused("bad-request", f"{len(frame)} bytes are too much for one request")
        woken = self._waiting[request_id] = trio.Event()
        try:
            await self._send(frame)
            answer = await self._answer_to(request_id, woken)
        finally:
            self._waiting.pop(request_id, None)
            self._answers.pop(request_id, None)
        if isinstance(answer, wire.Refusal):
            raise RunnerRefused(answer.code, answer.msg)
        if not isinstance(answer, expected):
            raise wire.BrokenFrame(f"{type(answer).__name__} in answer to {type(request).__name__}")
        return answer

    async def _send(self, frame: bytes) -> None:
        async with self._send_lock:
            if self._gone:
                raise self._goodbye()
            # Half a frame would make the rest unreadable, so cancellation waits for it.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _SEND_TIMEOUT) as scope:
                try:
                    await self._stream.send_all(frame)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    self._end()
                    raise self._goodbye() from error
            if scope.cancelled_caught:
                self._end()
                raise self._goodbye()

    async def _answer_to(self, request_id: int, woken: trio.Event) -> wire.RunnerAnswer:
        while request_id not in self._answers:
            if self._gone:
                raise self._goodbye()
            if self._reading:
                await woken.wait()
                woken = self._waiting[request_id] = trio.Event()
                continue
            self._reading = True
            try:
                while request_id not in self._answers and not self._gone:
                    await self._read_some()
            finally:
                self._reading = False
                self._wake_a_reader(request_id)
        return self._answers[request_id]

    async def _read_some(self) -> None:
        try:
            data = await self._stream.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self._end()
            return
        self._frames.feed(data)
        try:
            while (frame := self._frames.next_answer()) is not None:
                request_id, answer = frame
                # Nobody waits for the answer to a cancelled call.
                if request_id in self._waiting:
                    self._answers[request_id] = answer
                    self._waiting[request_id].set()
        except wire.BrokenFrame:
            # Whatever a kernel made its runner say: it may cost that kernel, but no other.
            self._end()

    def _wake_a_reader(self, but: int) -> None:
        for request_id, event in self._waiting.items():
            if request_id != but and request_id not in self._answers:
                event.set()
                return

    def _end(self) -> None:
        self._gone = True
        self._stream.socket.close()
        for event in self._waiting.values():
            event.set()

    def _goodbye(self) -> RunnerGone:
        return RunnerGone(self.directory, read_last_state(self.directory))


async def connect(directory: Path) -> trio.SocketStream:
    """A new connection to the runner of ``directory``. Raises :class:`RunnerGone`."""
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        # Through a directory handle, because the whole path may be longer than a socket address may be.
        handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await sock.connect(f"/proc/self/fd/{handle}/{wire.SOCKET_FILE}")
        finally:
            os.close(handle)
    except OSError as error:
        sock.close()
        raise RunnerGone(directory, read_last_state(directory)) from error
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def read_last_state(directory: Path) -> RunnerState | None:
    """What the runner of ``directory`` last wrote down of itself; ``None`` when there is nothing readable."""
    try:
        return msgspec.msgpack.decode((directory / wire.STATE_FILE).read_bytes(), type=RunnerState)
    except (OSError, msgspec.MsgspecError):
        return None


def _ready(answer: wire.State) -> RunnerState:
    state = answer.state
    if state.phase is KernelPhase.EXITED:
        raise KernelNotReady(state.exit or RunnerExit(reason="start-failed"))
    return state
