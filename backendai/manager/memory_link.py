"""The manager-agent channel without a network, for tests that lose, delay, double and reorder messages."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from backendai.manager.link import AgentAddress, AgentStream, AgentUnreachable, StreamRefused
from backendai.manager.listener import FactHandler
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    AgentMessage,
    ManagerMessage,
    OpenStream,
    Refused,
    decode_agent_message,
    decode_answer,
    decode_call,
    decode_manager_message,
    encode,
)
from backendai.wire.stream_end import StreamEnd, WindowBudget
from backendai.wire.streams import Closed, LinkStreamFrame, decode_stream_parts, encode_stream_parts

CallHandler = Callable[[AgentCall], Awaitable[AgentAnswer]]
AnswerHandler = Callable[[ManagerMessage], Awaitable[None]]
#: Plays the agent's end of a stream and closes it by returning.
StreamHandler = Callable[[OpenStream, StreamEnd], Awaitable[None]]
_WINDOWS = 16 << 20


@dataclass(slots=True)
class Faults:
    """What the network does to each message, each way. Probabilities from 0 to 1, delays in seconds.

    Messages overtake each other when ``max_delay`` is above 0. May be changed at any time.
    """

    drop: float = 0.0
    double: float = 0.0
    max_delay: float = 0.0


class MemoryNetwork:
    """Connects one manager with any number of agents; every message is encoded and decoded on its way.

    It has ``call`` and ``open_stream`` as :class:`~backendai.manager.link.AgentLinks`. Deliveries are tasks
    of ``nursery``; a handler that raises brings it down, as a test wants it. With an autojump clock delays
    cost no time. The same ``seed`` gives the same faults for the same messages in the same order.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        facts: FactHandler,
        *,
        faults: Faults | None = None,
        seed: int = 0,
    ) -> None:
        self.faults = faults or Faults()
        #: Addresses that nothing reaches and nothing leaves.
        self.cut_off: set[str] = set()
        self._nursery = nursery
        self._facts = facts
        self._random = random.Random(seed)  # noqa: S311  faults need to be repeatable, not secret
        self._agents: dict[str, CallHandler] = {}
        self._stream_handlers: dict[str, StreamHandler] = {}

    def join(
        self,
        address: AgentAddress,
        calls: CallHandler,
        answers: AnswerHandler,
        streams: StreamHandler | None = None,
    ) -> Callable[[AgentMessage], None]:
        """Put an agent at ``address``; returns how it sends to the manager, which never blocks."""
        self._agents[address.address] = calls
        if streams is not None:
            self._stream_handlers[address.address] = streams

        def send(message: AgentMessage) -> None:
            data = encode(message)

            async def arrive() -> None:
                answer = await self._facts(address.public_key, decode_agent_message(data))
                if answer is not None:
                    reply = encode(answer)
                    self._carry(address.address, lambda: answers(decode_manager_message(reply)))

            self._carry(address.address, arrive)

        return send

    def leave(self, address: AgentAddress) -> None:
        """The agent at ``address`` is gone; calls to it run into their time-out."""
        self._agents.pop(address.address, None)
        self._stream_handlers.pop(address.address, None)

    async def call(self, target: AgentAddress, message: AgentCall, *, timeout: float) -> AgentAnswer:
        """As :meth:`backendai.manager.link.AgentLinks.call`."""
        data = encode(message)
        answered = trio.Event()
        answers: list[bytes] = []

        async def come_back(answer: bytes) -> None:
            answers.append(answer)
            answered.set()

        async def arrive() -> None:
            handler = self._agents.get(target.address)
            if handler is not None:
                answer = encode(await handler(decode_call(data)))
                self._carry(target.address, lambda: come_back(answer))

        self._carry(target.address, arrive)
        with trio.move_on_after(timeout):
            await answered.wait()
        if not answers:
            raise AgentUnreachable(target, f"no answer within {timeout:g} s")
        return decode_answer(answers[0])

    @asynccontextmanager
    async def open_stream(
        self, target: AgentAddress, message: OpenStream, *, timeout: float
    ) -> AsyncIterator[AgentStream]:
        """As :meth:`backendai.manager.link.AgentLinks.open_stream`.

        The agent's call handler answers whether it is opened. Frames keep their order and are not lost, until
        the agent is cut off: then both ends are told at the next one.
        """
        answer = await self.call(target, message, timeout=timeout)
        if isinstance(answer, Refused):
            raise StreamRefused(answer.code, answer.msg)
        handler = self._stream_handlers[target.address]

        def carry(frame: LinkStreamFrame, to: StreamEnd) -> None:
            if target.address in self.cut_off:
                for end in (near, far):
                    end.end(Closed("gone", "the agent does not answer any more"))
                return
            kind, payload = encode_stream_parts(frame)
            to.take(decode_stream_parts(kind, payload))

        near = StreamEnd(lambda frame: carry(frame, far), WindowBudget(_WINDOWS))
        far = StreamEnd(lambda frame: carry(frame, near), WindowBudget(_WINDOWS))
        playing = trio.CancelScope()

        async def play() -> None:
            with playing:
                await handler(message, far)
                far.close()

        self._nursery.start_soon(play)
        try:
            yield near
        finally:
            near.close("aborted")
            playing.cancel()

    def _carry(self, address: str, arrive: Callable[[], Awaitable[None]]) -> None:
        copies = 1 + (self._random.random() < self.faults.double)
        for _ in range(copies):
            if self._random.random() >= self.faults.drop:
                delay = self._random.random() * self.faults.max_delay
                self._nursery.start_soon(self._travel, address, delay, arrive)

    async def _travel(self, address: str, delay: float, arrive: Callable[[], Awaitable[None]]) -> None:
        if delay:
            await trio.sleep(delay)
        if address not in self.cut_off:
            await arrive()
