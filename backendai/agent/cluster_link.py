"""Frames between kernels of one session on different agents: read from one agent's switch, put on another's.

Each agent has one ROUTER that only receives, ``[session id, frame]``, and for each session a DEALER to each
of the session's other agents, that only sends. CURVE encrypts and tells who speaks: a frame counts only if
it comes from an agent that has kernels of the session it names. As in any network, what finds no room is
dropped.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from uuid import UUID

import structlog
import trio

from backendai.agent.settings import AgentKeys, AgentSettings
from backendai.bridges.zmq import AllowedKeys, CurveClient, CurveServer, SocketType, ZmqSocket, open_socket
from backendai.core.cluster import ClusterMember, ClusterPeer, place_of
from backendai.engines.networks import open_tap
from backendai.engines.plugging import SessionNetwork

log = structlog.get_logger(__name__)

#: A frame has a head of virtio_net_hdr's size, then the addresses, destination first.
_HEAD = 10
_MAC = slice(_HEAD, _HEAD + 6)
_GROUP_BIT = 1
_MOST_FRAME = 66 << 10
#: Frames passed on before others have their turn.
_BURST = 32
#: Frames that may wait for one peer, at most 66 KiB each.
_QUEUE = 256
_PROBE_INTERVAL = timedelta(seconds=10)
#: A peer that does not know us yet, because it learns of the session later, is asked again after this.
_HANDSHAKE = timedelta(seconds=1)


class ClusterLink:
    """``endpoint`` is what other agents are told."""

    def __init__(self, router: ZmqSocket, keys: AgentKeys, allowed: AllowedKeys, endpoint: str) -> None:
        self.endpoint = endpoint
        self._router = router
        self._keys = keys
        self._allowed = allowed
        self._taps: dict[bytes, socket.socket] = {}
        self._peers: dict[bytes, frozenset[str]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver what comes from peers, until cancelled."""
        task_status.started()
        while True:
            key, frames = await self._router.recv_with_key()
            if len(frames) == 3:
                self._deliver(key, frames[1], frames[2])

    async def carry(
        self,
        session_id: UUID,
        members: Sequence[ClusterMember],
        network: SessionNetwork,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be the session's way to its members elsewhere, until cancelled; ``started`` once there is one.

        Raises :class:`~backendai.engines.contract.SandboxFailed` before that.
        """
        name = session_id.bytes
        with await open_tap(network) as tap:
            async with AsyncExitStack() as stack:
                lines = {
                    peer: await stack.enter_async_context(self._open_line(peer))
                    for peer in {member.peer for member in members if member.peer is not None}
                }
                self._taps[name] = tap
                self._peers[name] = frozenset(peer.public_key for peer in lines)
                self._admit()
                try:
                    task_status.started()
                    await _send(name, tap, [member.peer for member in members], lines)
                finally:
                    del self._taps[name], self._peers[name]
                    self._admit()

    @asynccontextmanager
    async def _open_line(self, peer: ClusterPeer) -> AsyncIterator[ZmqSocket]:
        curve = CurveClient(self._keys.public_key, self._keys.secret_key, peer.public_key)
        async with open_socket(
            SocketType.DEALER,
            connect=peer.endpoint,
            curve=curve,
            hwm=_QUEUE,
            heartbeat=_PROBE_INTERVAL,
            handshake=_HANDSHAKE,
        ) as line:
            yield line

    def _admit(self) -> None:
        self._allowed.replace(key for keys in self._peers.values() for key in keys)

    def _deliver(self, key: str, name: bytes, frame: bytes) -> None:
        if key not in self._peers.get(name, ()):
            return  # of a session that has ended here, or none of the sender's business
        # Full, or no frame at all: a switch drops such things too, and a peer must not be able to fill logs.
        with suppress(OSError):
            self._taps[name].send(frame)


async def _send(
    name: bytes,
    tap: socket.socket,
    places: Sequence[ClusterPeer | None],
    lines: dict[ClusterPeer, ZmqSocket],
) -> None:
    """Pass frames on to where their destination is."""
    while True:
        await trio.lowlevel.wait_readable(tap)
        for _ in range(_BURST):
            try:
                frame = tap.recv(_MOST_FRAME)
            except BlockingIOError:
                break
            for peer in _destinations(frame[_MAC], places, lines):
                with suppress(trio.WouldBlock):
                    lines[peer].send_nowait([name, frame])


def _destinations(
    mac: bytes, places: Sequence[ClusterPeer | None], everybody: Iterable[ClusterPeer]
) -> Iterable[ClusterPeer]:
    if len(mac) == 6 and mac[0] & _GROUP_BIT:
        return everybody
    place = place_of(mac)
    peer = places[place] if place is not None and place < len(places) else None
    return () if peer is None else (peer,)


@asynccontextmanager
async def open_cluster_link(settings: AgentSettings) -> AsyncIterator[ClusterLink | None]:
    """The link as configured. Raises :class:`OSError` when the address is taken."""
    if settings.cluster_bind is None:
        yield None
        return
    if settings.keys is None:
        raise ValueError("a link between agents needs keys: it is always encrypted")
    allowed = AllowedKeys()
    async with open_socket(
        SocketType.ROUTER,
        bind=settings.cluster_bind,
        curve=CurveServer(settings.keys.secret_key, allowed),
        hwm=_QUEUE,
        max_message=_MOST_FRAME,
        heartbeat=_PROBE_INTERVAL,
    ) as router:
        yield ClusterLink(router, settings.keys, allowed, settings.cluster_advertise or router.endpoint)
