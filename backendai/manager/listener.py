"""Where agents' heartbeats and facts come in."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import structlog
import trio

from backendai.bridges.zmq import AllowedKeys, CurveServer, SocketType, ZmqSocket, open_socket
from backendai.manager.settings import ManagerKeys
from backendai.supervision.containment import Containment
from backendai.wire.link import (
    MAX_MESSAGE_BYTES,
    AgentMessage,
    Heartbeat,
    MalformedMessage,
    ManagerMessage,
    decode_agent_message,
    encode,
)

log = structlog.get_logger(__name__)

#: Hellos and facts of different agents are handled this many at a time; those of one agent in their order.
_LANES = 4
#: What does not fit is dropped: agents say everything but heartbeats again.
_LANE_LENGTH = 1000
#: Seconds between log lines about keys that were turned away.
_REFUSAL_INTERVAL = 10.0
_PROBE_INTERVAL = timedelta(seconds=15)


class FactHandler(Protocol):
    async def __call__(self, sender_key: str, message: AgentMessage) -> ManagerMessage | None:
        """Take one message, return what to answer.

        ``sender_key`` is the CURVE public key the sender proved to own, empty when the link is not encrypted:
        whether it may speak for ``message.agent_id`` is decided here.
        """
        ...


class FactListener:
    """Receives from all agents of the installation, on behalf of the process that holds the fleet lease.

    Heartbeats are handled one by one as they come in, so the handler must be quick with them. The rest waits
    in lanes, where it may take a database's time.
    """

    def __init__(
        self, handler: FactHandler, endpoint: str, keys: ManagerKeys | None, allowed_keys: AllowedKeys
    ) -> None:
        self._handler = handler
        self._endpoint = endpoint
        self._keys = keys
        self._allowed = allowed_keys
        self._allowed.on_refused = self._log_refused
        self._refusal_logged = float("-inf")

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; ``started`` with the endpoint. Raises :exc:`OSError` when it is taken."""
        curve = None if self._keys is None else CurveServer(self._keys.secret_key, self._allowed)
        async with (
            open_socket(
                SocketType.ROUTER,
                bind=self._endpoint,
                curve=curve,
                max_message=MAX_MESSAGE_BYTES,
                heartbeat=_PROBE_INTERVAL,
            ) as socket,
            trio.open_nursery() as nursery,
        ):
            lanes: list[trio.MemorySendChannel[_Letter]] = []
            for number in range(_LANES):
                send, receive = trio.open_memory_channel[_Letter](_LANE_LENGTH)
                lanes.append(send)
                nursery.start_soon(self._drain, socket, receive, name=f"facts lane {number}")
            task_status.started(socket.endpoint)
            while True:
                key, frames = await socket.recv_with_key()
                letter = self._open_letter(key, frames)
                if letter is None:
                    continue
                if isinstance(letter.message, Heartbeat):
                    await self._answer(socket, letter)
                    continue
                try:
                    lanes[hash(letter.message.agent_id) % _LANES].send_nowait(letter)
                except trio.WouldBlock:
                    log.warning("link.lane-full", agent=letter.message.agent_id)

    def _log_refused(self, key: str) -> None:
        """One line now and then: anybody on the network can knock as often as he likes."""
        if trio.current_time() > self._refusal_logged + _REFUSAL_INTERVAL:
            self._refusal_logged = trio.current_time()
            log.warning("link.key-refused", key=key, hint="enroll the agent")

    def _open_letter(self, key: str, frames: list[bytes]) -> _Letter | None:
        if self._keys is not None and key not in self._allowed:
            log.warning("link.key-revoked", key=key)
            return None
        if len(frames) != 2:
            log.warning("link.malformed", key=key, error=f"{len(frames)} frames")
            return None
        try:
            return _Letter(frames[0], key, decode_agent_message(frames[1]))
        except MalformedMessage as error:
            log.warning("link.malformed", key=key, error=str(error))
            return None

    async def _drain(self, socket: ZmqSocket, letters: trio.MemoryReceiveChannel[_Letter]) -> None:
        async for letter in letters:
            await self._answer(socket, letter)

    async def _answer(self, socket: ZmqSocket, letter: _Letter) -> None:
        message = letter.message
        answer = None
        kind = type(message).__name__
        # What goes wrong with one message must not end the others'. An agent without answer says it again.
        with Containment(log.error, "link.handler-failed", agent=message.agent_id, kind=kind):
            answer = await self._handler(letter.key, message)
        if answer is not None:
            # A ROUTER that is not mandatory never waits: what a peer cannot take is dropped.
            socket.send_nowait([letter.peer, encode(answer)])


class _Letter:
    __slots__ = ("key", "message", "peer")

    def __init__(self, peer: bytes, key: str, message: AgentMessage) -> None:
        self.peer = peer
        self.key = key
        self.message = message
