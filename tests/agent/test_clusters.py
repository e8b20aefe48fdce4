"""Sessions that have several kernels, on one agent and on two: real agents, driven as a manager does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import UUID, uuid4

import trio

from backendai.agent.images import OWN_PYTHON
from backendai.bridges.zmq import new_curve_keys
from backendai.core.cluster import ClusterMember, ClusterPeer
from backendai.core.kernel import KernelSpec
from backendai.manager.link import AgentAddress
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    CreateKernel,
    DestroyKernel,
    Done,
    Hello,
    KernelFailed,
    KernelStarted,
    KernelTerminated,
    RestartKernel,
)
from tests.agent.test_end_to_end import (
    AGENT_PUBLIC,
    MANAGER_PUBLIC,
    Manager,
    nothing_left,
    open_agent,
    open_manager,
    start_agent,
)

SECOND_PUBLIC, SECOND_SECRET = new_curve_keys()
#: Answers in a thread, so that the kernel stays free: with what it got, until that ends.
SERVE = """
import socket, threading
def serve(server):
    while True:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)
threading.Thread(target=serve, args=(socket.create_server(("", 7000)),), daemon=True).start()
"""
#: Sends some and has it come back whole; tries until the other end is there.
ASK = """
import socket, threading, time
def ask(host):
    until = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection((host, 7000), 30) as connection:
                sent = bytes(range(256)) * 1024
                threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown(1))).start()
                return connection.makefile("rb").read() == sent
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
print(ask({!r}))
"""


class Cluster:
    """A session of which the place in the list tells each kernel's agent, by its public key."""

    def __init__(self, manager: Manager, *agents: str) -> None:
        self.manager = manager
        self.agents = agents
        self.session_id = uuid4()
        self.kernels = [uuid4() for _ in agents]

    def hello(self, key: str) -> Hello:
        return next(hello for hello in reversed(self.manager.hellos) if hello.public_key == key)

    async def call(self, place: int, message: AgentCall) -> AgentAnswer:
        hello = self.hello(self.agents[place])
        address = AgentAddress(hello.address, hello.public_key)
        return await self.manager.links.call(address, message, timeout=20)

    def members(self, of: str) -> tuple[ClusterMember, ...]:
        names = ["main1", *(f"sub{number}" for number in range(1, len(self.agents)))]
        return tuple(
            ClusterMember(
                hostname=name,
                peer=None
                if agent == of
                else ClusterPeer(endpoint=self.hello(agent).cluster_endpoint, public_key=agent),
            )
            for name, agent in zip(names, self.agents, strict=True)
        )

    async def start(self) -> None:
        for place, (kernel_id, agent) in enumerate(zip(self.kernels, self.agents, strict=True)):
            members = self.members(agent)
            spec = KernelSpec(
                kernel_id=kernel_id,
                session_id=self.session_id,
                session_name="s",
                image=OWN_PYTHON,
                slots={"cpu": "1", "mem": str(1 << 30)},
                cluster=members,
                cluster_hostname=members[place].hostname,
            )
            assert await self.call(place, CreateKernel(spec=spec)) == Done()
        for kernel_id in self.kernels:
            await self.manager.event(KernelStarted, kernel_id)

    async def run(self, place: int, code: str) -> str:
        hellos = self.manager.hellos
        hellos.append(self.hello(self.agents[place]))  # the manager calls who spoke last
        try:
            return await self.manager.run(self.kernels[place], code)
        finally:
            hellos.pop()

    async def end(self) -> None:
        for place, kernel_id in enumerate(self.kernels):
            await self.call(place, DestroyKernel(kernel_id=kernel_id, reason="user-requested", forced=True))
        for kernel_id in self.kernels:
            await self.manager.event(KernelTerminated, kernel_id)


def network_of(kernel_id: UUID, directory: Path) -> set[str]:
    """The networks that the runner of a kernel keeps."""
    found = set()
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "cwd").endswith(str(kernel_id)):
                found |= {os.readlink(handle) for handle in (process / "fd").iterdir()}
        except OSError:
            continue
    return {name for name in found if name.startswith("net:")}


def networks_in_use() -> set[str]:
    """By any process of this machine, open or entered."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                handles = [*(process / "fd").iterdir(), process / "ns" / "net"]
                found |= {os.readlink(handle) for handle in handles}
            except OSError:
                continue
    return found


async def test_a_network_outlives_its_agent_and_ends_with_its_session(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint):
        process = start_agent(tmp_path, endpoint)
        try:
            await manager.until(lambda: manager.hellos)
            cluster = Cluster(manager, AGENT_PUBLIC, AGENT_PUBLIC)
            await cluster.start()
            await cluster.run(1, SERVE)
            assert await cluster.run(0, ASK.format("sub1")) == "True\n"
            (network,) = network_of(cluster.kernels[0], tmp_path)
            assert network_of(cluster.kernels[1], tmp_path) == {network}
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        async with open_agent(manager, tmp_path, endpoint):
            assert await cluster.run(0, ASK.format("sub1")) == "True\n"
            assert await cluster.call(1, RestartKernel(kernel_id=cluster.kernels[1])) == Done()
            await manager.event(KernelStarted, cluster.kernels[1], count=2)
            await cluster.run(1, SERVE)
            assert await cluster.run(0, ASK.format("sub1")) == "True\n"
            await cluster.end()
            await nothing_left(tmp_path)
            with trio.fail_after(10):
                while network in networks_in_use():
                    await trio.sleep(0.05)


async def test_kernels_on_two_agents_reach_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    links = [{"cluster_bind": f"ipc://{tmp_path}/{name}"} for name in ("1", "2")]
    keys = [SECOND_PUBLIC, SECOND_SECRET.reveal(), MANAGER_PUBLIC]
    async with (
        open_manager(SECOND_PUBLIC) as (manager, endpoint),
        open_agent(manager, second, endpoint, keys=keys, agent_id="i-second", **links[1]),
    ):
        process = start_agent(first, endpoint, **links[0])
        try:
            await manager.until(lambda: len(manager.hellos) == 2)
            cluster = Cluster(manager, AGENT_PUBLIC, AGENT_PUBLIC, SECOND_PUBLIC)
            stranger = Cluster(manager, SECOND_PUBLIC, SECOND_PUBLIC)
            await cluster.start()
            await stranger.start()
            for place in (1, 2):
                await cluster.run(place, SERVE)
            await stranger.run(0, SERVE)
            assert await cluster.run(0, ASK.format("sub2")) == "True\n"
            assert await cluster.run(0, ASK.format("sub1")) == "True\n"
            assert await cluster.run(2, ASK.format("sub1")) == "True\n"
            # There is a main1 that serves on the same agent, but it is another session's.
            out = await cluster.run(2, "import socket; socket.create_connection(('main1', 7000), 5)")
            assert "ConnectionRefusedError" in out
            assert await stranger.run(1, ASK.format("main1")) == "True\n"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        async with open_agent(manager, first, endpoint, **links[0]):
            assert await cluster.run(2, ASK.format("sub1")) == "True\n"
            assert await cluster.run(0, ASK.format("sub2")) == "True\n"
            await cluster.end()
            await stranger.end()
            await nothing_left(first)
            await nothing_left(second)


async def test_an_agent_without_a_link_refuses_what_is_spread(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        cluster = Cluster(manager, AGENT_PUBLIC, SECOND_PUBLIC)
        kernel_id = cluster.kernels[0]
        peer = ClusterPeer(endpoint=f"ipc://{tmp_path}/nobody", public_key=SECOND_PUBLIC)
        spec = KernelSpec(
            kernel_id=kernel_id,
            session_id=cluster.session_id,
            session_name="s",
            image=OWN_PYTHON,
            cluster=(ClusterMember(hostname="main1"), ClusterMember(hostname="sub1", peer=peer)),
        )
        assert await manager.call(CreateKernel(spec=spec)) == Done()
        failed = await manager.event(KernelFailed, kernel_id)
        assert isinstance(failed, KernelFailed)
        assert failed.code == "no-network"
        assert "no link to other agents" in failed.detail
        await nothing_left(tmp_path)
