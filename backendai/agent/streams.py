"""Carries streams between the link and the runners: one task and one connection to its runner for each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog
import trio

from backendai.bridges.zmq import ZmqSocket
from backendai.runner.client import RunnerGone, RunnerRefused
from backendai.runner.stream_client import RunnerStream, open_runner_stream
from backendai.supervision.containment import Containment
from backendai.wire.link import AgentAnswer, OpenStream, Refused, StreamOpened, encode
from backendai.wire.stream_end import StreamEnd, StreamEnded, WindowBudget
from backendai.wire.streams import (
    PROBE,
    Closed,
    Data,
    Eof,
    LinkStreamFrame,
    StreamTarget,
    decode_ids,
    decode_stream_parts,
    encode_ids,
    encode_stream_parts,
)

log = structlog.get_logger(__name__)

#: Seconds of silence after which a gateway counts as gone, and between looks at it.
LOST_AFTER = 20.0
LOOK_INTERVAL = 5.0
#: Streams of one kernel, and of all; more are refused.
MOST_OF_KERNEL = 4096
MOST = 8192
#: Seconds a runner has to reach the target.
_OPEN_TIMEOUT = 30.0
#: Bytes by which all streams may widen their windows together.
_WINDOWS = 16 << 20

OpenRunner = Callable[[Path, StreamTarget], AbstractAsyncContextManager[RunnerStream]]
#: A stream is known by the gateway's connection and the call that opened it.
_Key = tuple[bytes, bytes]


class Directories(Protocol):
    """Where the runners are; what is wanted here of ``agent.kernels.Kernels``."""

    def directory_of(self, kernel_id: UUID) -> Path | Refused: ...


class _Relay:
    """One stream, from the moment it is asked for."""

    def __init__(self, kernel_id: UUID, end: StreamEnd) -> None:
        self.kernel_id = kernel_id
        self.end = end
        #: The gateway has been told that the target is reached.
        self.opened = False


class StreamRelays:
    """All streams of an agent.

    Gateways that fall silent lose their streams; what a kernel does not take is held back at its source.
    """

    def __init__(
        self, socket: ZmqSocket, kernels: Directories, open_runner: OpenRunner = open_runner_stream
    ) -> None:
        self._socket = socket
        self._kernels = kernels
        self._open_runner = open_runner
        self._budget = WindowBudget(_WINDOWS)
        self._relays: dict[_Key, _Relay] = {}
        self._of_kernel: dict[UUID, int] = {}
        #: When each gateway that has streams was last heard.
        self._heard: dict[bytes, float] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry streams until cancelled, which ends them as ``gone``."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                await trio.sleep(LOOK_INTERVAL)
                self._end_streams_of_silent()

    def open(self, peer: bytes, call_id: bytes, call: OpenStream) -> None:
        """Begin a stream; it is known at once, the answer follows. Never blocks."""
        if self._nursery is None:
            raise RuntimeError("streams live only while run() does")
        key = (peer, call_id)
        if key in self._relays:
            return self._answer(key, Refused(code="bad-request", msg="the call id is in use"))
        count = self._of_kernel.get(call.kernel_id, 0)
        if count >= MOST_OF_KERNEL or len(self._relays) >= MOST:
            return self._answer(key, Refused(code="too-many-streams", msg="close some streams first"))
        self._heard[peer] = trio.current_time()
        self._of_kernel[call.kernel_id] = count + 1
        relay = self._relays[key] = _Relay(call.kernel_id, StreamEnd(partial(self._post, key), self._budget))
        self._nursery.start_soon(self._serve, key, relay, call.target, name=f"stream of {call.kernel_id}")
        return None

    def take(self, peer: bytes, call_id: bytes, kind: bytes, payload: bytes) -> None:
        """A frame from a gateway. Raises :class:`~backendai.wire.streams.MalformedFrame`. Never blocks."""
        self._heard[peer] = trio.current_time()
        if kind == PROBE:
            return self._compare(peer, call_id, set(decode_ids(payload)))
        relay = self._relays.get((peer, call_id))
        frame = decode_stream_parts(kind, payload)
        if relay is not None:
            relay.end.take(frame)
        elif not isinstance(frame, Closed):
            self._post((peer, call_id), Closed("gone", "the agent does not know the stream"))
        return None

    # -- inside

    async def _serve(self, key: _Key, relay: _Relay, target: StreamTarget) -> None:
        closed = Closed("gone", "the agent is stopping")
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    await relay.end.wait_ended()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                closed = await self._guarded(key, relay, target)
                nursery.cancel_scope.cancel()
        finally:
            relay.end.close(closed.code, closed.msg)
            self._forget(key, relay)

    async def _guarded(self, key: _Key, relay: _Relay, target: StreamTarget) -> Closed:
        """Carry the stream to its end and tell how that was. A fault in one stream must not end the agent."""
        kernel, kind = str(relay.kernel_id), type(target).__name__
        with Containment(log.error, "agent.stream-failed", kernel=kernel, target=kind):
            return await self._serve_target(key, relay, target)
        refused = Refused(code="failed", msg="the agent failed; its log says why")
        return self._fail(key, relay, refused, "io-error")

    async def _serve_target(self, key: _Key, relay: _Relay, target: StreamTarget) -> Closed:
        directory = self._kernels.directory_of(relay.kernel_id)
        if isinstance(directory, Refused):
            return self._refuse(key, relay, directory)
        try:
            with trio.CancelScope(deadline=trio.current_time() + _OPEN_TIMEOUT) as opening:
                async with self._open_runner(directory, target) as runner:
                    opening.deadline = float("inf")
                    relay.opened = True
                    self._answer(key, StreamOpened())
                    return await _carry(relay.end, runner)
            return self._refuse(key, relay, Refused(code="failed", msg="the runner does not answer"))
        except RunnerRefused as refusal:
            return self._refuse(key, relay, Refused(code=refusal.code, msg=refusal.msg))
        except RunnerGone:
            return self._fail(key, relay, Refused(code="kernel-exited", msg="the kernel has ended"), "gone")

    def _fail(self, key: _Key, relay: _Relay, refused: Refused, closing_code: str) -> Closed:
        """Tell of a failure, in the way that fits: the stream has been opened, or is refused."""
        return Closed(closing_code, refused.msg) if relay.opened else self._refuse(key, relay, refused)

    def _refuse(self, key: _Key, relay: _Relay, refused: Refused) -> Closed:
        closed = Closed(refused.code, refused.msg)
        if relay.end.result is None:
            relay.end.end(closed)  # the answer says it all
            self._answer(key, refused)
        return closed

    def _forget(self, key: _Key, relay: _Relay) -> None:
        del self._relays[key]
        self._of_kernel[relay.kernel_id] -= 1
        if not self._of_kernel[relay.kernel_id]:
            del self._of_kernel[relay.kernel_id]

    def _compare(self, peer: bytes, call_id: bytes, theirs: set[bytes]) -> None:
        """End what the gateway has lost, name what we have."""
        ours = {key[1]: relay for key, relay in self._relays.items() if key[0] == peer}
        for lost in ours.keys() - theirs:
            ours[lost].end.end(Closed("aborted", "the gateway does not know the stream"))
        self._socket.send_nowait([peer, call_id, PROBE, encode_ids(theirs - ours.keys())])

    def _end_streams_of_silent(self) -> None:
        limit = trio.current_time() - LOST_AFTER
        silent = {peer for peer, heard in self._heard.items() if heard < limit}
        for peer in silent:
            del self._heard[peer]
        for (peer, _), relay in self._relays.items():
            if peer in silent:
                relay.end.end(Closed("aborted", "the gateway is silent"))

    def _post(self, key: _Key, frame: LinkStreamFrame) -> None:
        self._socket.send_nowait([*key, *encode_stream_parts(frame)])

    def _answer(self, key: _Key, answer: AgentAnswer) -> None:
        self._socket.send_nowait([*key, encode(answer)])


async def _carry(end: StreamEnd, runner: RunnerStream) -> Closed:
    """Pass frames both ways until the runner closes; cancelled when the gateway does."""
    results: list[Closed] = []
    async with trio.open_nursery() as nursery:

        async def to_runner() -> None:
            while True:
                frame = await end.receive_frame()
                await runner.send(frame)
                if isinstance(frame, Closed):
                    return

        async def from_runner() -> None:
            while True:
                frame = await runner.receive()
                match frame:
                    case Data():
                        await end.send(frame.payload)
                    case Eof():
                        await end.send_eof()
                    case Closed():
                        results.append(frame)
                        nursery.cancel_scope.cancel()
                        return
                    case _:
                        results.append(Closed("protocol", f"{type(frame).__name__} from the runner"))
                        nursery.cancel_scope.cancel()
                        return

        nursery.start_soon(to_runner)
        try:
            await from_runner()
        except StreamEnded as ended:  # the gateway closed: what carries on cancels us
            results.append(ended.closed)
            nursery.cancel_scope.cancel()
    return results[0]
