"""Networks of sessions, from the side of who keeps them: made and tapped by a small program beside us."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

import backendai
from backendai.engines import plugging
from backendai.engines.contract import SandboxFailed
from backendai.engines.plugging import SessionNetwork

#: The program, without a channel and handles only to see whether a network can be made, and its environment.
PROGRAM = (sys.executable, "-m", plugging.__name__)
ENVIRONMENT = {"PYTHONPATH": str(Path(backendai.__file__).parent.parent)}
#: Seconds for what takes some tens of milliseconds.
_TIMEOUT = 10.0
_MOST_HANDLES = 4


async def make_network() -> SessionNetwork:
    """A network without members; the caller closes it. Raises :class:`SandboxFailed`."""
    *owner, net = await _ask(())
    return SessionNetwork(net, *owner)


async def open_tap(network: SessionNetwork) -> socket.socket:
    """A packet socket for the frames to and from the network's members on other hosts.

    Each frame has a ``virtio_net_hdr`` before it. Raises :class:`SandboxFailed`.
    """
    (handle,) = await _ask(network.handles())
    tap = socket.socket(fileno=handle)
    tap.setblocking(False)
    return tap


async def _ask(handles: Sequence[int]) -> list[int]:
    """What the program answers: new handles for those it was given."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        passed = [theirs.fileno(), *handles]
        ours.setblocking(False)
        try:
            with trio.fail_after(_TIMEOUT):
                done = await trio.run_process(
                    [*PROGRAM, *map(str, passed)],
                    stdin=subprocess.DEVNULL,
                    capture_stderr=True,
                    check=False,
                    cwd="/",
                    env=ENVIRONMENT,
                    pass_fds=passed,
                )
        except (OSError, trio.TooSlowError) as error:
            raise SandboxFailed("no-network", f"no network for the session: {error}") from error
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise SandboxFailed("no-network", f"no network for the session: {lines[-1] if lines else '?'}")
        _, received, _, _ = socket.recv_fds(ours, 1, _MOST_HANDLES, socket.MSG_CMSG_CLOEXEC)
    for handle in received:
        os.set_inheritable(handle, False)
    return received
