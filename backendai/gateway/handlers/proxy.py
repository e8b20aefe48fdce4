"""``/stream/session/{s}/httpproxy`` and ``/tcpproxy``: a tunnel to a port in a session (contract 03 §4)."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog

from backendai.core.errors import BackendError, InvalidParameters, ServiceUnavailable
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields, read_object
from backendai.gateway.relay import LINGER, Relays, tell_end
from backendai.gateway.route import VERSIONED, Gate, SocketRoute
from backendai.gateway.sockets import FAILED, TRY_LATER, Socket
from backendai.manager.streams import RunningApp

log = structlog.get_logger(__name__)

_LOWEST_PORT, _HIGHEST_PORT = 1024, 65535


async def tunnel(relays: Relays, call: Call, socket: Socket) -> None:
    """Start the app, accept the WebSocket, and carry its bytes to and from one TCP connection."""
    app = await _start(call)
    await socket.accept()
    try:
        async with call.services.streams.connect(app) as stream:

            async def to_app(message: str | bytes) -> None:
                if isinstance(message, bytes):
                    await stream.send(message)

            relay = relays.open(socket, stream, call.options.relay_idle)
            tell_end(socket, await relay.run(to_app, socket.send_bytes, linger=LINGER))
    except ServiceUnavailable as error:
        socket.close_code, socket.close_reason = TRY_LATER, error.code
    except BackendError as error:
        log.info("tunnel refused", code=error.code, msg=error.msg)
        socket.close_code, socket.close_reason = FAILED, error.code


async def _start(call: Call) -> RunningApp:
    fields = Fields(call.parameters)
    name = fields.text("app", "service", required=True, limit=64)
    port = fields.integer("port", minimum=_LOWEST_PORT, maximum=_HIGHEST_PORT)
    environ = Fields({"envs": _object(fields, "envs")})
    values = environ.text_mapping("envs")
    arguments = _arguments(fields)
    fields.problems.update(environ.problems)
    fields.check()
    return await call.services.streams.start_app(
        await call.owner(),
        call.arguments["ref"],
        name,
        port=port or None,
        environ=values,
        arguments=arguments,
    )


def _object(fields: Fields, name: str) -> dict[str, Any]:
    """A parameter whose text is a JSON object."""
    text = fields.free_text(name, limit=1 << 14)
    try:
        return read_object(text, name) if text else {}
    except InvalidParameters:
        fields.refuse(name, "value is not a JSON object without NUL characters")
        return {}


def _arguments(fields: Fields) -> dict[str, str | tuple[str, ...] | None]:
    found: dict[str, str | tuple[str, ...] | None] = {}
    for option, value in _object(fields, "arguments").items():
        match value:
            case None | str():
                found[option] = value
            case list() if all(isinstance(each, str) for each in value):
                found[option] = tuple(value)
            case _:
                fields.refuse("arguments", "options take nothing, a string or a list of strings")
    return found


def sockets(relays: Relays) -> tuple[SocketRoute, ...]:
    handler = partial(tunnel, relays)
    return tuple(
        SocketRoute(
            path=f"{root}/<ref>/{kind}", handler=handler, gate=Gate.READ, relays=True, changes_state=True
        )
        for root in ("/stream/session", "/stream/kernel", f"{VERSIONED}/stream/kernel")
        for kind in ("httpproxy", "tcpproxy")
    )
