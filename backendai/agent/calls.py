"""Answers the calls of the gateways."""

from __future__ import annotations

import structlog
import trio

from backendai.agent.kernels import Kernels
from backendai.bridges.zmq import ZmqSocket
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    CompleteCode,
    CreateKernel,
    DestroyKernel,
    Done,
    InterruptKernel,
    MalformedMessage,
    Ping,
    ReadLogs,
    Refused,
    RestartKernel,
    RunCode,
    decode_call,
    encode,
)

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
    an interrupt reaches the kernel at once.
    """

    def __init__(self, socket: ZmqSocket, kernels: Kernels) -> None:
        self._socket = socket
        self._kernels = kernels
        self._under_way = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                frames = await self._socket.recv()
                if len(frames) != 3 or len(frames[1]) != _CALL_ID_BYTES:
                    log.warning("agent.malformed-call", frames=len(frames))
                    continue
                try:
                    call = decode_call(frames[2])
                except MalformedMessage as error:
                    log.warning("agent.malformed-call", error=str(error))
                    self._answer(frames, Refused(code="failed", msg="malformed call"))
                    continue
                if self._under_way >= _MOST_CALLS:
                    self._answer(frames, Refused(code="busy", msg="too many calls"))
                    continue
                nursery.start_soon(self._serve, frames, call)

    async def _serve(self, frames: list[bytes], call: AgentCall) -> None:
        self._under_way += 1
        answer: AgentAnswer = Refused(code="failed", msg="the runner does not answer")
        try:
            with trio.move_on_after(_CALL_TIMEOUT):
                answer = await self._carry_out(call)
        except Exception:
            # One of the two message loops: a fault in one call must not end the agent.
            kernel_id = None if isinstance(call, CreateKernel | Ping) else str(call.kernel_id)
            log.exception("agent.call-failed", call=type(call).__name__, kernel=kernel_id)
            answer = Refused(code="failed", msg="the agent failed; its log says why")
        finally:
            self._under_way -= 1
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
            case CreateKernel():
                return kernels.create(call.spec)
            case DestroyKernel():
                return await kernels.destroy(call.kernel_id, call.reason, forced=call.forced)
            case RestartKernel():
                return kernels.restart(call.kernel_id)
            case Ping():
                return Done()

    def _answer(self, frames: list[bytes], answer: AgentAnswer) -> None:
        # A ROUTER that is not mandatory never waits: what a peer cannot take is dropped.
        self._socket.send_nowait([frames[0], frames[1], encode(answer)])
