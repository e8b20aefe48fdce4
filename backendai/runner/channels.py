"""The four Jupyter channels of one kernel, as the runner holds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from backendai.bridges.zmq import SocketType, ZmqSocket, open_socket
from backendai.engines.contract import IPC_INSIDE
from backendai.wire.jupyter import (
    SIGNATURE_SCHEME,
    JupyterCodec,
    JupyterMessage,
    MalformedJupyterMessage,
    new_key,
)

#: Relative to the runner's working directory, so that the path always fits into a socket address.
IPC_DIRECTORY = "ipc"
_CONNECTION_FILE = "connection.json"
CONNECTION_FILE_INSIDE = f"{IPC_INSIDE}/{_CONNECTION_FILE}"
_PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
#: How soon a kernel that starts to listen is noticed.
_RECONNECT = timedelta(milliseconds=4)
#: Largest frame taken from a kernel; it is disconnected past it.
_MAX_FRAME = 64 << 20
#: Shell and stdin carry the same routing id: kernels send input requests to whoever sent the execute request.
_IDENTITY = b"runner"


class Channels:
    """Sends on, and receives from, one kernel. Malformed and unsigned messages are dropped."""

    def __init__(self, codec: JupyterCodec, sockets: dict[str, ZmqSocket]) -> None:
        self._codec = codec
        self._sockets = sockets

    def prepare(self, kind: str, content: dict[str, Any]) -> tuple[str, list[bytes]]:
        """A signed message, and its id by which the reply is known."""
        return self._codec.encode(kind, content)

    async def send(self, channel: str, frames: list[bytes]) -> None:
        """Queue a message on ``shell``, ``control`` or ``stdin``."""
        await self._sockets[channel].send(frames)

    async def received(self, channel: str) -> AsyncIterator[JupyterMessage]:
        """The messages that arrive on a channel, for ever."""
        socket = self._sockets[channel]
        while True:
            try:
                message = self._codec.decode(await socket.recv())
            except MalformedJupyterMessage:
                continue
            yield message


@asynccontextmanager
async def open_channels() -> AsyncIterator[Channels]:
    """Write the connection file for a kernel that is about to start, and connect to where it will listen."""
    key = new_key()
    _write_connection_file(key)
    codec = JupyterCodec(key)
    async with AsyncExitStack() as stack:

        async def connect(name: str, kind: SocketType, **options: Any) -> ZmqSocket:
            return await stack.enter_async_context(
                open_socket(
                    kind,
                    connect=f"ipc://{IPC_DIRECTORY}/s-{_PORTS[name]}",
                    max_message=_MAX_FRAME,
                    reconnect=(_RECONNECT, _RECONNECT),
                    **options,
                )
            )

        yield Channels(
            codec,
            {
                "shell": await connect("shell", SocketType.DEALER, identity=_IDENTITY),
                "control": await connect("control", SocketType.DEALER),
                "stdin": await connect("stdin", SocketType.DEALER, identity=_IDENTITY),
                "iopub": await connect("iopub", SocketType.SUB, subscribe=b"", hwm=100_000),
            },
        )


def _write_connection_file(key: bytes) -> None:
    content = {
        "transport": "ipc",
        "ip": f"{IPC_INSIDE}/s",
        "key": key.decode("ascii"),
        "signature_scheme": SIGNATURE_SCHEME,
        "kernel_name": "",
        **{f"{name}_port": port for name, port in _PORTS.items()},
    }
    path = Path(IPC_DIRECTORY, _CONNECTION_FILE)
    path.write_bytes(msgspec.json.encode(content))
    # The kernel reads it under a user id of its own. Nobody else gets past the directory above.
    path.chmod(0o644)
