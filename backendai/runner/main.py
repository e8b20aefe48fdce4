"""One runner from start to end: the ladder of what it holds open."""

from __future__ import annotations

import ctypes
import resource
import socket
import sys
import traceback
from pathlib import Path

import msgspec
import trio

from backendai.bridges.zmq import limit_sockets
from backendai.engines.plugging import SessionNetwork
from backendai.engines.process import ProcessEngine
from backendai.runner.keeper import Keeper
from backendai.runner.server import RunnerServer
from backendai.supervision.descriptors import allow_many_descriptors
from backendai.wire import runner as wire
from backendai.wire.runner import RunnerSpec

#: Bytes of data a runner may allocate. A hostile kernel that floods it ends its own runner, and so itself.
_MAX_DATA = 1 << 30
#: Parameters of glibc's mallopt, and the bytes from which on a buffer is large.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 256 << 10
#: ZeroMQ sockets: those of a kernel, and of its successor when it is started anew.
_SOCKETS = 64
#: Seconds between looks whether an agent is still there.
_DESERTED_POLL = 1.0
#: Seconds for the last answer to leave.
_GOODBYE = 1.0


def run_runner(listener: socket.socket) -> int:
    """Be the runner of the kernel in the working directory; returns the exit code of the process.

    ``listener`` listens on the runner's socket. Called in a process of its own, forked by the zygote.
    """
    _give_back_memory()
    limit_sockets(_SOCKETS)
    allow_many_descriptors()  # each stream takes three
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_DATA, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    try:
        spec = msgspec.msgpack.decode(Path(wire.SPEC_FILE).read_bytes(), type=RunnerSpec)
        trio.run(_run, spec, listener)
    except BaseException:
        traceback.print_exc(file=sys.stderr)  # the runner's own log
        return 1
    return 0


def _give_back_memory() -> None:
    """Have large buffers returned to the system when they are freed, where the C library can (glibc)."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


async def _run(spec: RunnerSpec, listener: socket.socket) -> None:
    # Kept open: the network lasts as long as one of the session's runners on this host.
    network = SessionNetwork.open(spec.network) if spec.network else None
    keeper = Keeper(spec, ProcessEngine.of_this_host(), network)
    server = RunnerServer(keeper)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
        nursery.start_soon(_dispose_when_deserted, keeper, server, spec.orphan_timeout)
        await keeper.run()
        if server.deserted_since is None:
            with trio.move_on_after(_GOODBYE):
                await server.dismissed()
        nursery.cancel_scope.cancel()


async def _dispose_when_deserted(keeper: Keeper, server: RunnerServer, timeout: float) -> None:
    """Without any agent for ``timeout`` seconds, end the kernel. For a later agent the state file stays, and
    what the kernel printed.
    """
    while True:
        since = server.deserted_since
        if since is not None and trio.current_time() >= since + timeout:
            break
        await trio.sleep(_DESERTED_POLL if since is None else since + timeout - trio.current_time())
    keeper.dispose("orphaned", keep_state=True, keep_output=True)
