"""``/stream/session/{s}/pty``: a terminal in a session (contract 03 §2).

Everyone who connects to the same ``terminal`` of a session (query parameter, ``main`` unless given) sees and
types into the same one; it outlives them and greets who comes back with the end of its screen.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from backendai.core.account import Principal
from backendai.core.errors import BackendError
from backendai.core.session import SessionStatus
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.relay import Finished, Relays
from backendai.gateway.route import VERSIONED, Gate, SocketRoute
from backendai.gateway.sockets import FAILED, MALFORMED, NORMAL, Socket
from backendai.manager.link import AgentStream
from backendai.wire.streams import Closed, Resize, TerminalTarget

log = structlog.get_logger(__name__)

_MOST_ROWS = 1000
#: Seconds a session that restarts is waited for, and between looks at it.
_RESTART_TIME = 60.0
_LOOK_INTERVAL = 0.5
#: Seconds a terminal has to hold to be opened again when it is lost.
_HELD_LONG_ENOUGH = 3.0


async def pty(relays: Relays, call: Call, socket: Socket) -> None:
    """Attach to the terminal, again when the session was restarted, until it or the client leaves."""
    owner = await call.owner()
    terminal = _Terminal(relays, call, socket, owner, _target(call))
    try:
        while await terminal.attend():
            pass
    except BackendError as error:
        if not socket.accepted:
            raise
        log.info("terminal lost", code=error.code, msg=error.msg)
        socket.close_code, socket.close_reason = FAILED, error.code


class _Terminal:
    def __init__(
        self, relays: Relays, call: Call, socket: Socket, owner: Principal, target: TerminalTarget
    ) -> None:
        self._relays = relays
        self._services = call.services
        self._ref = call.arguments["ref"]
        self._idle = call.options.relay_idle
        self._socket = socket
        self._owner = owner
        self._target = target
        self._restart_wanted = False

    async def attend(self) -> bool:
        """One attachment, from opening to its end; whether there should be another."""
        begun = trio.current_time()
        async with self._services.streams.open_stream(self._owner, self._ref, self._target) as stream:
            if not self._socket.accepted:
                await self._socket.accept()
            relay = self._relays.open(self._socket, stream, self._idle)
            closed = await relay.run(lambda message: self._take(stream, message), self._show)
        if self._restart_wanted:
            return await self._restart()
        if self._socket.client_gone or self._socket.close_code != NORMAL or closed is None:
            return False
        if closed.code == "gone" and trio.current_time() > begun + _HELD_LONG_ENOUGH:
            return await self._runs_again()
        return self._end(closed)

    def _end(self, closed: Closed) -> bool:
        if closed.code:
            self._socket.close_code, self._socket.close_reason = FAILED, closed.code
        return False

    async def _show(self, data: bytes) -> None:
        await self._socket.send_json({"type": "out", "data": b64encode(data).decode()})

    async def _take(self, stream: AgentStream, message: str | bytes) -> None:
        """A frame of the client. Unknown ones are ignored; one that cannot be read closes the socket."""
        if isinstance(message, bytes):
            return
        try:
            frame: Any = msgspec.json.decode(message)
            kind = frame.get("type") if isinstance(frame, dict) else None
            match kind:
                case "stdin":
                    await stream.send(b64decode(frame["chars"], validate=True))
                case "resize":
                    await self._resize(stream, int(frame["rows"]), int(frame["cols"]))
                case "restart":
                    self._restart_wanted = True
                    raise Finished
        except (msgspec.DecodeError, RecursionError, binascii.Error, KeyError, TypeError, ValueError):
            self._socket.close_code, self._socket.close_reason = MALFORMED, "malformed frame"
            raise Finished from None

    async def _resize(self, stream: AgentStream, rows: int, cols: int) -> None:
        if not (0 < rows <= _MOST_ROWS and 0 < cols <= _MOST_ROWS):
            raise ValueError("no size of a terminal")
        self._target = msgspec.structs.replace(self._target, rows=rows, cols=cols)
        await stream.control(Resize(rows, cols))

    async def _restart(self) -> bool:
        """Restart the session; what the client sends meanwhile goes nowhere. False when it leaves."""
        self._restart_wanted = False
        restarted = False
        async with trio.open_nursery() as nursery:

            async def discard() -> None:
                while await self._socket.receive() is not None:
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(discard)
            await self._guarded_restart()
            restarted = True
            nursery.cancel_scope.cancel()
        return restarted and self._socket.close_code == NORMAL

    async def _guarded_restart(self) -> None:
        # Caught here, because the nursery would wrap it.
        try:
            await self._services.sessions.restart(self._owner, self._ref)
        except BackendError as error:
            log.info("restart by terminal refused", code=error.code, msg=error.msg)
            self._socket.close_code, self._socket.close_reason = FAILED, error.code

    async def _runs_again(self) -> bool:
        """Whether the session that took the terminal with it runs, after a restart by somebody else."""
        with trio.move_on_after(_RESTART_TIME):
            while True:
                record = await self._services.sessions.info(self._owner, self._ref)
                if record.status is not SessionStatus.RESTARTING:
                    return record.status is SessionStatus.RUNNING
                await trio.sleep(_LOOK_INTERVAL)
        return False


def _target(call: Call) -> TerminalTarget:
    fields = Fields(call.parameters)
    target = TerminalTarget(
        terminal=fields.text("terminal", default="main", limit=64, pattern=r"[A-Za-z0-9_.\-]+"),
        rows=fields.integer("rows", default=24, minimum=1, maximum=_MOST_ROWS),
        cols=fields.integer("cols", default=80, minimum=1, maximum=_MOST_ROWS),
    )
    fields.check()
    return target


def sockets(relays: Relays) -> tuple[SocketRoute, ...]:
    handler = partial(pty, relays)
    return tuple(
        SocketRoute(
            path=f"{root}/<ref>/pty", handler=handler, gate=Gate.READ, relays=True, changes_state=True
        )
        for root in ("/stream/session", "/stream/kernel", f"{VERSIONED}/stream/kernel")
    )
