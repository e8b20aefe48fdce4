"""The agent's line to the manager: who we are, that we live, and what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import structlog
import trio

from backendai.agent.facts import FactOutbox
from backendai.agent.settings import AgentSettings
from backendai.bridges.zmq import CurveClient, SocketType, ZmqSocket, open_socket
from backendai.supervision.periodic import periodic
from backendai.wire.link import (
    MAX_MESSAGE_BYTES,
    AgentMessage,
    FactAck,
    Goodbye,
    Heartbeat,
    Hello,
    HelloAccepted,
    HelloRefused,
    MalformedMessage,
    SayHello,
    decode_manager_message,
    encode,
)

log = structlog.get_logger(__name__)

#: Seconds until a Hello that nobody answered, and one that was refused, is said again.
_HELLO_AGAIN = 5.0
_HELLO_AGAIN_REFUSED = 30.0
#: Seconds until facts that were not acknowledged are sent again; doubles while nothing is heard.
_FACTS_AGAIN = (2.0, 30.0)
#: Seconds a planned stop waits for the last facts to be acknowledged.
_LAST_FACTS = 0.5
_PROBE_INTERVAL = timedelta(seconds=10)
_LINGER = timedelta(milliseconds=300)


class Uplink:
    """Says Hello until accepted, then sends heartbeats and facts; starts over when the manager forgot us.

    Nothing here fails when there is no manager: facts wait, heartbeats are dropped.
    """

    def __init__(
        self,
        settings: AgentSettings,
        boot_id: str,
        outbox: FactOutbox,
        *,
        hello: Callable[[], Hello],
        heartbeat: Callable[[], Awaitable[Heartbeat]],
    ) -> None:
        self._settings = settings
        self._boot_id = boot_id
        self._outbox = outbox
        self._hello = hello
        self._heartbeat = heartbeat
        self._accepted = trio.Event()
        self._unknown = trio.Event()
        self._refused = False
        self._acknowledged = trio.Event()
        self._socket: ZmqSocket | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        keys = self._settings.keys
        curve = None
        if keys is not None:
            curve = CurveClient(keys.public_key, keys.secret_key, keys.manager_public_key)
        async with (
            open_socket(
                SocketType.DEALER,
                connect=self._settings.manager_endpoint,
                curve=curve,
                max_message=MAX_MESSAGE_BYTES,
                heartbeat=_PROBE_INTERVAL,
                linger=_LINGER,
                immediate=True,
            ) as self._socket,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._listen, self._socket)
            nursery.start_soon(self._introduce, self._socket)
            nursery.start_soon(self._send_facts, self._socket)
            nursery.start_soon(self._beat, self._socket)
            task_status.started()

    async def accepted(self) -> None:
        """Wait until the manager knows us."""
        await self._accepted.wait()

    async def say_goodbye(self, reason: str) -> None:
        """Last word of a planned stop, after the last facts if the manager takes them quickly."""
        if self._socket is None or not self._accepted.is_set():
            return
        with trio.move_on_after(_LAST_FACTS):
            while self._outbox.waiting():
                await self._acknowledged.wait()
        with suppress(trio.WouldBlock):
            self._send_now(
                self._socket,
                Goodbye(agent_id=self._settings.agent_id, boot_id=self._boot_id, reason=reason),
            )

    async def _listen(self, socket: ZmqSocket) -> None:
        while True:
            frames = await socket.recv()
            try:
                message = decode_manager_message(frames[-1])
            except MalformedMessage as error:
                log.warning("agent.malformed-message", error=str(error))
                continue
            match message:
                case FactAck():
                    self._outbox.acknowledge(message.boot_id, message.seq)
                    self._acknowledged.set()
                    self._acknowledged = trio.Event()
                case HelloAccepted(boot_id=self._boot_id):
                    if not self._accepted.is_set():
                        log.info("agent.accepted", manager=self._settings.manager_endpoint)
                    self._refused = False
                    self._accepted.set()
                    self._outbox.added.ring()  # a sender that waits for news looks up
                case HelloRefused():
                    log.error("agent.refused", manager=self._settings.manager_endpoint, why=message.reason)
                    self._refused = True
                case SayHello() if self._accepted.is_set():
                    # While a Hello is under way this is its echo, and another one would only add to the load.
                    log.info("agent.unknown-to-manager", why=message.reason)
                    self._accepted = trio.Event()
                    self._unknown.set()

    async def _introduce(self, socket: ZmqSocket) -> None:
        while True:
            self._unknown = trio.Event()
            await socket.send([encode(self._hello())])
            with trio.move_on_after(_HELLO_AGAIN_REFUSED if self._refused else _HELLO_AGAIN):
                await self._accepted.wait()
            if self._accepted.is_set():
                await self._unknown.wait()

    async def _beat(self, socket: ZmqSocket) -> None:
        async def beat() -> None:
            if self._accepted.is_set():
                message = await self._heartbeat()
                with suppress(trio.WouldBlock):  # a heartbeat that has to wait is none
                    self._send_now(socket, message)

        await periodic(self._settings.heartbeat_interval, beat, name="heartbeat")

    async def _send_facts(self, socket: ZmqSocket) -> None:
        shortest, longest = _FACTS_AGAIN
        sent, pause = 0, shortest
        sent_to: trio.Event | None = None
        while True:
            accepted = self._accepted
            await accepted.wait()
            if accepted is not sent_to:  # a manager that may not have got what we sent before
                sent_to = accepted
                sent, pause = 0, shortest
            for fact in self._outbox.waiting(after=sent):
                await socket.send([encode(fact)])
                sent = fact.seq
            acknowledged = self._acknowledged
            with trio.move_on_after(pause if self._outbox.waiting() else float("inf")) as again:
                await self._outbox.added.wait()
            if again.cancelled_caught:
                sent = 0
                pause = shortest if acknowledged.is_set() else min(2 * pause, longest)

    def _send_now(self, socket: ZmqSocket, message: AgentMessage) -> None:
        socket.send_nowait([encode(message)])
