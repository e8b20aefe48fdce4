"""Answers the calls of the gateways."""

from __future__ import annotations

import structlog
import trio

from backendai.agent.kernels import Kernels
from backendai.agent.streams import StreamRelays
from backendai.bridges.zmq import ZmqSocket
from backendai.supervision.containment import Containment
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    CompleteCode,
    CreateKernel,
    DestroyKernel,
    Done,
    ForgetOutput,
    InterruptKernel,
    ListFiles,
    ListServices,
    MalformedMessage,
    OpenStream,
    Ping,
    ReadLogs,
    ReadOutput,
    Refused,
    RestartKernel,
    RunCode,
    StartService,
    StopService,
    decode_call,
    encode,
)
from backendai.wire.streams import MalformedFrame

log = structlog.get_logger(__name__)

_CALL_ID_BYTES = 8
#: Calls under way at once; more are refused.
_MOST_CALLS = 4096
#: Seconds after which the wait for a runner that does not answer is given up. A read waits a few by design.
_CALL_TIMEOUT = 60.0


class CallServer:
    """Serves a ROUTER that admits only the manager's key.

    Calls are begun in the order they come: each gets its own task before the next is read, and what it has to
    say to a runner it says before that task first waits. So a read that waits for output holds up nobody, and
    an interrupt reaches the kernel at once. The frames of streams go to ``streams``, which never waits
    either.
    """

    def __init__(self, socket: ZmqSocket, kernels: Kernels, streams: StreamRelays) -> None:
        self._socket = socket
        self._kernels = kernels
        self._streams = streams
        self._under_way = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                frames = await self._socket.recv()
                if len(frames) not in (3, 4) or len(frames[1]) != _CALL_ID_BYTES:
                    log.warning("agent.malformed-call", frames=len(frames))
                    continue
                if len(frames) == 4:
                    self._take_stream_frame(*frames)
                    continue
                try:
                    call = decode_call(frames[2])
                except MalformedMessage as error:
                    log.warning("agent.malformed-call", error=str(error))
                    self._answer(frames, Refused(code="failed", msg="malformed call"))
                    continue
                if isinstance(call, OpenStream):
                    self._streams.open(frames[0], frames[1], call)
                    continue
                if self._under_way >= _MOST_CALLS:
                    self._answer(frames, Refused(code="busy", msg="too many calls"))
                    continue
                nursery.start_soon(self._serve, frames, call)

    def _take_stream_frame(self, peer: bytes, call_id: bytes, kind: bytes, payload: bytes) -> None:
        try:
            self._streams.take(peer, call_id, kind, payload)
        except MalformedFrame as error:
            log.warning("agent.malformed-frame", error=str(error))

    async def _serve(self, frames: list[bytes], call: AgentCall) -> None:
        self._under_way += 1
        answer: AgentAnswer = Refused(code="failed", msg="the runner does not answer")
        kernel_id = None if isinstance(call, CreateKernel | Ping) else str(call.kernel_id)
        try:
            # A fault in one call must not end the agent.
            kind = type(call).__name__
            with Containment(log.error, "agent.call-failed", call=kind, kernel=kernel_id) as contained:
                with trio.move_on_after(_CALL_TIMEOUT):
                    answer = await self._carry_out(call)
        finally:
            self._under_way -= 1
        if contained.error is not None:
            answer = Refused(code="failed", msg="the agent failed; its log says why")
        self._answer(frames, answer)

    async def _carry_out(self, call: AgentCall) -> AgentAnswer:
        kernels = self._kernels
        match call:
            case RunCode():
                return await kernels.execute(call.kernel_id, call.request)
            case InterruptKernel():
                return await kernels.interrupt(call.kernel_id)
            case CompleteCode():
                return await kernels.complete(call.kernel_id, call.request)
            case ReadLogs():
                return await kernels.logs(call.kernel_id, call.limit)
            case ReadOutput():
                return await kernels.output(call.kernel_id)
            case ForgetOutput():
                kernels.forget_output(call.kernel_id)
                return Done()
            case CreateKernel():
                return kernels.create(call.spec)
            case DestroyKernel():
                return await kernels.destroy(call.kernel_id, call.reason, forced=call.forced)
            case RestartKernel():
                return kernels.restart(call.kernel_id)
            case ListFiles():
                return await kernels.list_files(call.kernel_id, call.path)
            case StartService():
                return await kernels.start_service(call)
            case StopService():
                return await kernels.stop_service(call.kernel_id, call.name)
            case ListServices():
                return await kernels.services(call.kernel_id)
            case OpenStream():
                raise RuntimeError("streams have their own way")
            case Ping():
                return Done()

    def _answer(self, frames: list[bytes], answer: AgentAnswer) -> None:
        # A ROUTER that is not mandatory never waits: what a peer cannot take is dropped.
        self._socket.send_nowait([frames[0], frames[1], encode(answer)])
