"""Where an agent is, how to connect with it, and what is raised when it cannot be reached."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

from backendai.bridges.zmq import CurveClient, SocketType, ZmqSocket, open_socket
from backendai.manager.settings import ManagerKeys
from backendai.wire.link import MAX_MESSAGE_BYTES

#: How often the other end of a quiet connection is probed.
_PROBE_INTERVAL = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent takes calls, as its Hello said: ``tcp://host:port`` and its CURVE public key, if any."""

    address: str
    public_key: str = ""


class AgentUnreachable(Exception):
    """The agent gave no answer; whether it did what was asked is unknown. ``why`` is for the person."""

    def __init__(self, target: AgentAddress, why: str) -> None:
        super().__init__(f"agent at {target.address}: {why}")
        self.target = target
        self.why = why


def open_connection(
    target: AgentAddress, keys: ManagerKeys | None, *, hwm: int = 1000
) -> AbstractAsyncContextManager[ZmqSocket]:
    """A DEALER that connects with the agent, again and again if need be.

    Raises :exc:`ValueError` when only one side encrypts or a key is none, entering it also :exc:`OSError` for
    a malformed address.
    """
    if (keys is None) != (target.public_key == ""):
        raise ValueError("one side wants encryption, the other has none")
    curve = None
    if keys is not None:
        curve = CurveClient(keys.public_key, keys.secret_key, target.public_key)
    return open_socket(
        SocketType.DEALER,
        connect=target.address,
        curve=curve,
        hwm=hwm,
        max_message=MAX_MESSAGE_BYTES,
        heartbeat=_PROBE_INTERVAL,
        immediate=True,
    )
