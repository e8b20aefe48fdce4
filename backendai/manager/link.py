"""Calls from the manager to its agents, over standing encrypted connections."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from typing import Protocol, TypeVar

import structlog
import trio

from backendai.bridges.zmq import ZmqSocket
from backendai.manager.address import AgentAddress, AgentUnreachable, open_connection
from backendai.manager.settings import ManagerKeys
from backendai.manager.stream_link import AgentStream, StreamLink, StreamRefused
from backendai.supervision.background import open_background
from backendai.wire.link import (
    MAX_MESSAGE_BYTES,
    AgentAnswer,
    AgentCall,
    MalformedMessage,
    OpenStream,
    decode_answer,
    encode,
)
from backendai.wire.stream_end import WindowBudget

__all__ = [
    "AgentAddress",
    "AgentCaller",
    "AgentLinks",
    "AgentStream",
    "AgentUnreachable",
    "StreamRefused",
    "open_agent_links",
]

log = structlog.get_logger(__name__)

#: A connection nobody has used for this long is closed.
IDLE_AFTER = timedelta(minutes=5)
#: Bytes by which the streams of a process may widen their windows together.
_WINDOWS = 2 << 20


class AgentCaller(Protocol):
    """What services know of :class:`AgentLinks`, so that its in-memory twin can take the place."""

    async def call(self, target: AgentAddress, message: AgentCall, *, timeout: float) -> AgentAnswer:
        """Ask and wait for the answer, at most ``timeout`` seconds.

        Raises :exc:`AgentUnreachable`. Cancellation abandons the wait; the call may be carried out all the
        same.
        """
        ...

    def open_stream(
        self, target: AgentAddress, message: OpenStream, *, timeout: float
    ) -> AbstractAsyncContextManager[AgentStream]:
        """Open a stream into a kernel, within ``timeout`` seconds; it is aborted on leaving unless it has
        ended.

        Entering raises :exc:`AgentUnreachable` or :exc:`StreamRefused`. When the agent is lost later, the
        stream ends as ``gone``.
        """
        ...


class _Pending:
    """A call under way; its answer is put here."""

    __slots__ = ("answer", "event", "lost")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: AgentAnswer | None = None
        #: Why there will be no answer.
        self.lost = ""


class _Link:
    """The connection to one address with one key."""

    def __init__(self, target: AgentAddress, keys: ManagerKeys | None) -> None:
        self._target = target
        self._keys = keys
        self._pending: dict[bytes, _Pending] = {}
        self._ids = itertools.count(1)
        self._order = trio.StrictFIFOLock()
        self._socket: ZmqSocket | None = None
        self._opened = trio.Event()
        self._failure = ""
        self.last_used = trio.current_time()

    async def call(self, message: AgentCall, timeout: float) -> AgentAnswer:
        frames = [next(self._ids).to_bytes(8, "big"), encode(message)]
        if len(frames[1]) > MAX_MESSAGE_BYTES:
            raise ValueError(f"{type(message).__name__} of {len(frames[1])} bytes")
        pending = self._pending[frames[0]] = _Pending()
        sent = False
        try:
            with trio.move_on_after(timeout):
                await self._send(frames)
                sent = True
                await pending.event.wait()
        finally:
            del self._pending[frames[0]]
            self.last_used = trio.current_time()
        if pending.answer is not None:
            return pending.answer
        why = (
            pending.lost
            or self._failure
            or (f"no answer within {timeout:g} s" if sent else f"no connection within {timeout:g} s")
        )
        raise AgentUnreachable(self._target, why)

    async def _send(self, frames: list[bytes]) -> None:
        """In the order of the calls, also while the connection is not there yet."""
        if self._socket is not None and not self._order.locked():
            with suppress(trio.WouldBlock):
                self._socket.send_nowait(frames)
                return
        async with self._order:
            await self._opened.wait()
            if self._socket is None:
                raise AgentUnreachable(self._target, self._failure)
            await self._socket.send(frames)

    def lose(self, why: str) -> None:
        """Give up all calls under way; the connection stays."""
        for pending in self._pending.values():
            pending.lost = why
            pending.event.set()

    async def run(self) -> None:
        """Receive answers until nothing has been asked for a while."""
        try:
            async with open_connection(self._target, self._keys) as self._socket:
                self._opened.set()
                while self._pending or trio.current_time() < self.last_used + IDLE_AFTER.total_seconds():
                    with trio.move_on_after(IDLE_AFTER.total_seconds()):
                        while True:
                            self._take(await self._socket.recv())
        except (OSError, ValueError) as error:
            self._failure = str(error)
        finally:
            self._failure = self._failure or "the link was closed"
            self._socket = None
            self._opened.set()
            for pending in self._pending.values():
                pending.event.set()

    def _take(self, frames: list[bytes]) -> None:
        pending = self._pending.get(frames[0])
        if pending is None or len(frames) != 2:  # an answer that came after its deadline
            return
        try:
            pending.answer = decode_answer(frames[1])
        except MalformedMessage as error:
            log.warning("link.malformed-answer", agent=self._target.address, error=str(error))
            return
        pending.event.set()


L = TypeVar("L", _Link, StreamLink)


class AgentLinks:
    """All connections to agents of this process. Made by :func:`open_agent_links`."""

    def __init__(self, nursery: trio.Nursery, keys: ManagerKeys | None) -> None:
        self._nursery = nursery
        self._keys = keys
        self._links: dict[AgentAddress, _Link] = {}
        self._stream_links: dict[AgentAddress, StreamLink] = {}
        self._budget = WindowBudget(_WINDOWS)

    async def call(self, target: AgentAddress, message: AgentCall, *, timeout: float) -> AgentAnswer:
        """Ask and wait for the answer, at most ``timeout`` seconds; calls leave in the order they are made.

        Raises :exc:`AgentUnreachable`. Cancellation abandons the wait; the call may be carried out all the
        same.
        """
        link = self._links.get(target)
        if link is None:
            link = self._links[target] = _Link(target, self._keys)
            self._nursery.start_soon(_keep, self._links, target, link, name=f"link to {target.address}")
        return await link.call(message, timeout)

    def forget(self, target: AgentAddress) -> None:
        """The process behind the address is gone: calls under way to it raise :exc:`AgentUnreachable` now."""
        if (link := self._links.get(target)) is not None:
            link.lose("it was started again")

    def open_stream(
        self, target: AgentAddress, message: OpenStream, *, timeout: float
    ) -> AbstractAsyncContextManager[AgentStream]:
        """Open a stream into a kernel, within ``timeout`` seconds; it is aborted on leaving unless it has
        ended.

        Entering raises :exc:`AgentUnreachable` or :exc:`StreamRefused`. When the agent is lost later, the
        stream ends as ``gone``.
        """
        link = self._stream_links.get(target)
        if link is None or link.retired:
            link = self._stream_links[target] = StreamLink(target, self._keys, self._budget)
            name = f"streams to {target.address}"
            self._nursery.start_soon(_keep, self._stream_links, target, link, name=name)
        return link.open(message, timeout)


async def _keep(links: dict[AgentAddress, L], target: AgentAddress, link: L) -> None:
    try:
        await link.run()
    finally:
        if links.get(target) is link:
            del links[target]


@asynccontextmanager
async def open_agent_links(keys: ManagerKeys | None) -> AsyncIterator[AgentLinks]:
    """Links that are made at the first call to an address and kept until unused for :data:`IDLE_AFTER`.

    Without ``keys`` nothing is encrypted. Calls still under way at the end raise :exc:`AgentUnreachable`.
    """

    async def start(nursery: trio.Nursery) -> AgentLinks:
        return AgentLinks(nursery, keys)

    async with open_background(start, name="the links to the agents") as links:
        yield links
