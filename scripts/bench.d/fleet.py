"""Simulated agents: real sockets, real encryption, real messages; no kernels behind them.

Reads one JSON object from its standard input (see :class:`Wish`), prints ``accepted`` once the manager has
taken every agent, and sends heartbeats until its standard input is closed. Then it takes its leave and prints
what happened as one JSON object.
"""

from __future__ import annotations

import json
import select
import sys
import time
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import msgspec
import zmq

from backendai.core.kernel import KernelFacts, KernelPhase, KernelStat
from backendai.wire import link

#: Agents that say hello in a second; each makes the manager write to its database.
HELLOS_PER_SECOND = 250
#: Seconds for the manager to take all of them.
PATIENCE = 120.0


class Wish(msgspec.Struct):
    endpoint: str
    manager_key: str
    #: Id, public key, secret key and kernels of each agent.
    agents: list[tuple[str, str, str, list[UUID]]]
    interval: float = 3.0


@dataclass
class Agent:
    id: str
    socket: zmq.Socket[bytes]
    public_key: str
    kernels: list[UUID]
    boot_id: str = field(default_factory=lambda: uuid4().hex)
    seq: int = 0
    accepted: bool = False

    def hello(self) -> link.Hello:
        return link.Hello(
            agent_id=self.id,
            boot_id=self.boot_id,
            version="bench",
            address="tcp://127.0.0.1:9",
            public_key=self.public_key,
            scaling_group="bench",
            slots={"cpu": "8", "mem": str(32 << 30)},
            kernels=tuple(
                KernelFacts(kernel_id=kernel, session_id=kernel, phase=KernelPhase.RUNNING, image="bench")
                for kernel in self.kernels
            ),
        )

    def heartbeat(self) -> link.Heartbeat:
        self.seq += 1
        stats = {kernel: KernelStat(cpu_used=float(self.seq), mem=64 << 20) for kernel in self.kernels}
        return link.Heartbeat(agent_id=self.id, boot_id=self.boot_id, seq=self.seq, kernels=stats)

    def say(self, message: link.AgentMessage) -> None:
        self.socket.send(link.encode(message), zmq.NOBLOCK)

    def listen(self) -> int:
        """Take all that the manager said; answers how often it asked for a hello, which it then got."""
        asked = 0
        while self.socket.poll(0):
            match link.decode_manager_message(self.socket.recv(zmq.NOBLOCK)):
                case link.HelloAccepted():
                    self.accepted = True
                case link.HelloRefused(reason=reason):
                    raise SystemExit(f"agent {self.id} was refused: {reason}")
                case link.SayHello():
                    asked += 1
                    self.say(self.hello())
        return asked


def connect(context: zmq.Context[zmq.Socket[bytes]], wish: Wish) -> list[Agent]:
    agents = []
    for agent_id, public_key, secret_key, kernels in wish.agents:
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.curve_serverkey = wish.manager_key.encode()
        socket.curve_publickey = public_key.encode()
        socket.curve_secretkey = secret_key.encode()
        socket.connect(wish.endpoint)
        agents.append(Agent(agent_id, socket, public_key, kernels))
    return agents


def introduce(agents: list[Agent]) -> float:
    """Let every agent say hello until it is accepted; answers the seconds it took."""
    begin = time.monotonic()
    for agent in agents:
        agent.say(agent.hello())
        time.sleep(1 / HELLOS_PER_SECOND)
    while not all(agent.accepted for agent in agents):
        for agent in agents:
            agent.listen()
        if time.monotonic() - begin > PATIENCE:
            raise SystemExit(
                f"{sum(not agent.accepted for agent in agents)} agents were not accepted in time"
            )
        time.sleep(0.1)
    return time.monotonic() - begin


def beat(agents: list[Agent], interval: float) -> dict[str, float]:
    """Send every agent's heartbeats, evenly spread, until standard input ends."""
    begin = time.monotonic()
    sent = asked = 0
    latest = 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for agent in agents:
            due = begin + sent * interval / len(agents)
            late = time.monotonic() - due
            if late < 0:
                time.sleep(-late)
            latest = max(latest, late)
            agent.say(agent.heartbeat())
            asked += agent.listen()
            sent += 1
    return {"heartbeats": sent, "hellos_asked": asked, "latest_ms": round(1000 * latest, 1)}


def main() -> None:
    wish = msgspec.json.decode(sys.stdin.readline(), type=Wish)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = len(wish.agents) + 16
    agents = connect(context, wish)
    took = introduce(agents)
    print("accepted", flush=True)
    told = beat(agents, wish.interval)
    for agent in agents:
        agent.say(link.Goodbye(agent_id=agent.id, boot_id=agent.boot_id, reason="restart"))
    context.destroy(linger=2000)
    print(json.dumps({"agents": len(agents), "hello_seconds": round(took, 2), **told}))


if __name__ == "__main__":
    main()
