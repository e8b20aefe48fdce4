"""Who may deliver frames into the network of a session."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from backendai.agent import cluster_link
from backendai.agent.cluster_link import ClusterLink, open_cluster_link
from backendai.agent.settings import AgentKeys, AgentSettings
from backendai.bridges.zmq import CurveClient, SocketType, ZmqSocket, new_curve_keys, open_socket
from backendai.core.account import Secret
from backendai.core.cluster import ClusterMember, ClusterPeer
from backendai.engines.plugging import SessionNetwork

PEER, STRANGER = new_curve_keys(), new_curve_keys()


@asynccontextmanager
async def open_link(tmp_path: Path) -> AsyncIterator[tuple[ClusterLink, str]]:
    public, secret = new_curve_keys()
    settings = AgentSettings(
        agent_id="i-a",
        directory=tmp_path,
        keys=AgentKeys(public_key=public, secret_key=secret, manager_public_key=public),
        cluster_bind=f"ipc://{tmp_path}/link",
    )
    async with open_cluster_link(settings) as link, trio.open_nursery() as nursery:
        assert link is not None
        await nursery.start(link.run)
        yield link, public
        nursery.cancel_scope.cancel()


async def test_frames_count_only_from_agents_of_their_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = {key: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for key in (PEER[0], STRANGER[0])}
    waiting = iter(taps.values())

    async def open_tap(_network: SessionNetwork) -> socket.socket:
        tap = next(waiting)[0]
        tap.setblocking(False)
        return tap

    monkeypatch.setattr(cluster_link, "open_tap", open_tap)
    with trio.fail_after(30):
        async with open_link(tmp_path) as (link, server_key), trio.open_nursery() as nursery:
            sessions = {}
            for key in taps:
                sessions[key] = uuid4()
                peer = ClusterPeer(endpoint=f"ipc://{tmp_path}/nobody", public_key=key)
                members = (ClusterMember(hostname="main1", peer=peer), ClusterMember(hostname="sub1"))
                await nursery.start(link.carry, sessions[key], members, SessionNetwork(-1))
            ours, theirs = sessions[PEER[0]].bytes, sessions[STRANGER[0]].bytes
            async with (
                open_line(link, server_key, PEER) as peer_line,
                open_line(link, server_key, STRANGER) as stranger_line,
            ):
                # It is known, by a session of its own, but has no say in another one.
                for name in (ours, uuid4().bytes, b"no session"):
                    await stranger_line.send([name, b"forged"])
                await stranger_line.send([theirs, b"its own"])
                assert await receive(taps[STRANGER[0]][1]) == b"its own"
                await peer_line.send([ours, b"honest"])
                assert await receive(taps[PEER[0]][1]) == b"honest"
            nursery.cancel_scope.cancel()
    for _, far in taps.values():
        far.close()


def open_line(
    link: ClusterLink, server_key: str, keys: tuple[str, Secret]
) -> AbstractAsyncContextManager[ZmqSocket]:
    curve = CurveClient(keys[0], keys[1], server_key)
    return open_socket(SocketType.DEALER, connect=link.endpoint, curve=curve)


async def receive(end: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(end)
    return end.recv(1 << 16)
