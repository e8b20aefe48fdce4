"""The execute WebSocket: one connection is one run (contract 03 §3)."""

from __future__ import annotations

import structlog
import trio

from backendai.core.account import Principal
from backendai.core.errors import BackendError, InvalidParameters
from backendai.core.execution import RunMode, RunRequest, RunStatus
from backendai.core.ids import new_run_id
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields, read_object
from backendai.gateway.route import VERSIONED, Gate, SocketRoute
from backendai.gateway.session_view import frame_view
from backendai.gateway.sockets import Socket

log = structlog.get_logger(__name__)

_MAX_CODE = 16 << 20
#: Seconds in which a client has to say what it wants; it does at once, unless it is gone.
_FIRST_FRAME_TIME = 30.0
#: Seconds to get an interrupt through for a client that has left.
_INTERRUPT_TIME = 5.0
_ENDS = frozenset({RunStatus.FINISHED, RunStatus.EXEC_TIMEOUT})
_FAREWELL = {"status": "server-restarting", "msg": "The server is going down, the session stays."}


async def run_stream(call: Call, socket: Socket) -> None:
    """Start the run that the first frame asks for, pass on its output, feed it the client's lines.

    Clients wait for the next frame after an error, so every way out of here ends in a closed socket.
    """
    ref = call.arguments["ref"]
    try:
        owner = await call.owner()
        request = _first_request(await _first_frame(socket))
        await _follow(call, socket, owner, request)
    except InvalidParameters as error:
        await socket.send_json({"status": "error", "msg": f"Invalid API parameters: {error.msg}"})
    except BackendError as error:
        await socket.send_json({"status": "error", "msg": f"BackendError: {error}"})
    except trio.Cancelled:
        if socket.client_gone:
            await _interrupt(call, ref)
        raise


async def _follow(call: Call, socket: Socket, owner: Principal, request: RunRequest) -> None:
    run_id = request.run_id
    while True:
        reply = await call.services.execution.run(owner, call.arguments["ref"], request)
        if reply.items or reply.status is not RunStatus.CONTINUED:
            await socket.send_json(frame_view(reply))
        if reply.status in _ENDS:
            return
        mode, code = RunMode.CONTINUE, ""
        if reply.status is RunStatus.WAITING_INPUT:
            mode, code = RunMode.INPUT, await socket.receive_text()
        request = RunRequest(run_id=run_id, mode=mode, code=code, after=reply.next_index)


async def _first_frame(socket: Socket) -> str:
    with trio.move_on_after(_FIRST_FRAME_TIME):
        return await socket.receive_text()
    raise InvalidParameters(f"no first frame within {_FIRST_FRAME_TIME:.0f} seconds")


def _first_request(text: str) -> RunRequest:
    fields = Fields(read_object(text, "first frame"))
    mode = fields.choice("mode", default="", allowed=("query", "batch"), kind="RunMode")
    if not mode:
        fields.refuse("mode", "is required, query or batch")
    code = fields.free_text("code", limit=_MAX_CODE)
    options = fields.mapping("options")
    if fields.problems:
        raise InvalidParameters("; ".join(f"{name}: {text}" for name, text in fields.problems.items()))
    return RunRequest(run_id=new_run_id(), mode=RunMode(mode), code=code, options=options, after=0)


async def _interrupt(call: Call, ref: str) -> None:
    """A client that leaves stops its run; nobody else could read on, the run's id never left this process."""
    with trio.move_on_after(_INTERRUPT_TIME, shield=True):
        try:
            await call.services.execution.interrupt(await call.owner(), ref)
        except BackendError as error:
            log.info("run of a client that left was not interrupted", code=error.code, msg=error.msg)


SOCKETS = tuple(
    SocketRoute(
        path=f"{root}/<ref>/execute",
        handler=run_stream,
        gate=Gate.READ,
        changes_state=True,
        farewell=_FAREWELL,
    )
    for root in ("/stream/session", "/stream/kernel", f"{VERSIONED}/stream/kernel")
)
