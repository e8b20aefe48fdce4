"""Calls and facts between manager and agents, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import trio
import trio.testing

from backendai.bridges.zmq import (
    AllowedKeys,
    CurveClient,
    CurveServer,
    SocketType,
    ZmqSocket,
    new_curve_keys,
    open_socket,
)
from backendai.manager.link import AgentAddress, AgentUnreachable, open_agent_links
from backendai.manager.listener import FactListener
from backendai.manager.settings import ManagerKeys
from backendai.wire.link import (
    AgentMessage,
    Done,
    Fact,
    FactAck,
    Heartbeat,
    KernelCreating,
    Logs,
    MalformedMessage,
    ManagerMessage,
    Ping,
    ReadLogs,
    SayHello,
    decode_agent_message,
    decode_call,
    decode_manager_message,
    encode,
)

MANAGER_PUBLIC, MANAGER_SECRET = new_curve_keys()
MANAGER = ManagerKeys(public_key=MANAGER_PUBLIC, secret_key=MANAGER_SECRET)
AGENT_PUBLIC, AGENT_SECRET = new_curve_keys()


@asynccontextmanager
async def agent(
    handle: Callable[[ZmqSocket, list[bytes]], Awaitable[None]], *, bind: str = "tcp://127.0.0.1:*"
) -> AsyncIterator[AgentAddress]:
    curve = CurveServer(AGENT_SECRET, AllowedKeys([MANAGER.public_key]))
    async with (
        open_socket(SocketType.ROUTER, bind=bind, curve=curve) as socket,
        trio.open_nursery() as nursery,
    ):

        async def serve() -> None:
            while True:
                await handle(socket, await socket.recv())

        nursery.start_soon(serve)
        yield AgentAddress(socket.endpoint, AGENT_PUBLIC)
        nursery.cancel_scope.cancel()


async def answer_done(socket: ZmqSocket, frames: list[bytes]) -> None:
    await socket.send([*frames[:2], encode(Done())])


async def test_calls_are_answered_each_with_its_own() -> None:
    async def handle(socket: ZmqSocket, frames: list[bytes]) -> None:
        call = decode_call(frames[2])
        assert isinstance(call, ReadLogs)
        held.append([*frames[:2], encode(Logs(text=str(call.limit)))])
        if len(held) == 10:  # answer in the opposite order
            for message in reversed(held):
                await socket.send(message)

    held: list[list[bytes]] = []
    got: dict[int, str] = {}
    with trio.fail_after(10):
        async with (
            agent(handle) as target,
            open_agent_links(MANAGER) as links,
            trio.open_nursery() as nursery,
        ):

            async def ask(limit: int) -> None:
                answer = await links.call(target, ReadLogs(kernel_id=uuid4(), limit=limit), timeout=5)
                assert isinstance(answer, Logs)
                got[limit] = answer.text

            for limit in range(10):
                nursery.start_soon(ask, limit)
    assert got == {limit: str(limit) for limit in range(10)}


async def test_calls_arrive_in_the_order_they_were_made_even_before_the_connection() -> None:
    seen: list[int] = []

    async def handle(socket: ZmqSocket, frames: list[bytes]) -> None:
        call = decode_call(frames[2])
        assert isinstance(call, ReadLogs)
        seen.append(call.limit)
        await answer_done(socket, frames)

    with trio.fail_after(10):
        async with (
            agent(handle) as target,
            open_agent_links(MANAGER) as links,
            trio.open_nursery() as nursery,
        ):

            async def ask(limit: int) -> None:
                await links.call(target, ReadLogs(kernel_id=uuid4(), limit=limit), timeout=5)

            for limit in range(50):
                nursery.start_soon(ask, limit)
                await trio.lowlevel.checkpoint()
    assert seen == list(range(50))


async def test_deadlines_say_what_was_missing_and_late_answers_are_dropped() -> None:
    held: list[list[bytes]] = []

    async def handle(socket: ZmqSocket, frames: list[bytes]) -> None:
        if not held:
            held.append(frames)
            return
        await socket.send([*held[0][:2], encode(Logs(text="late"))])
        await answer_done(socket, frames)

    with trio.fail_after(10):
        async with agent(handle) as target, open_agent_links(MANAGER) as links:
            with pytest.raises(AgentUnreachable, match=r"no answer within 0\.3 s"):
                await links.call(target, Ping(), timeout=0.3)
            assert await links.call(target, Ping(), timeout=5) == Done()
        async with open_agent_links(MANAGER) as links:
            with pytest.raises(AgentUnreachable, match=r"no connection within 0\.1 s"):
                await links.call(AgentAddress("tcp://127.0.0.1:9", AGENT_PUBLIC), Ping(), timeout=0.1)


async def test_link_heals_when_the_agent_comes_back() -> None:
    with trio.fail_after(20):
        async with open_agent_links(MANAGER) as links:
            async with agent(answer_done) as target:
                assert await links.call(target, Ping(), timeout=5) == Done()
            with pytest.raises(AgentUnreachable):
                await links.call(target, Ping(), timeout=0.1)
            async with agent(answer_done, bind=target.address) as target:
                assert await links.call(target, Ping(), timeout=10) == Done()


async def test_calls_to_an_agent_that_was_started_anew_fail_at_once() -> None:
    asked = trio.Event()

    async def ignore(socket: ZmqSocket, frames: list[bytes]) -> None:
        asked.set()

    with trio.fail_after(10):
        async with (
            agent(ignore) as target,
            open_agent_links(MANAGER) as links,
            trio.open_nursery() as nursery,
        ):

            async def call() -> None:
                with pytest.raises(AgentUnreachable, match="started again"):
                    await links.call(target, Ping(), timeout=60)

            nursery.start_soon(call)
            await asked.wait()
            links.forget(target)


async def test_nonsense_targets_are_unreachable_not_fatal() -> None:
    with trio.fail_after(10):
        async with open_agent_links(MANAGER) as links:
            for target in (
                AgentAddress("nonsense", AGENT_PUBLIC),
                AgentAddress("tcp://127.0.0.1:9", "short key"),
                AgentAddress("tcp://127.0.0.1:9"),
            ):
                with pytest.raises(AgentUnreachable):
                    await links.call(target, Ping(), timeout=1)
        async with open_agent_links(None) as links:
            with pytest.raises(AgentUnreachable, match="encryption"):
                await links.call(AgentAddress("tcp://127.0.0.1:9", AGENT_PUBLIC), Ping(), timeout=1)


async def test_closing_the_links_releases_callers() -> None:
    async def ignore(socket: ZmqSocket, frames: list[bytes]) -> None:
        asked.set()

    asked = trio.Event()
    with trio.fail_after(10):
        async with (
            agent(ignore) as target,
            trio.open_nursery() as nursery,
            open_agent_links(MANAGER) as links,
        ):

            async def ask() -> None:
                with pytest.raises(AgentUnreachable):
                    await links.call(target, Ping(), timeout=60)

            nursery.start_soon(ask)
            await asked.wait()


# -- facts


class Book:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, AgentMessage]] = []

    async def __call__(self, sender_key: str, message: AgentMessage) -> ManagerMessage | None:
        self.seen.append((sender_key, message))
        match message:
            case Heartbeat(agent_id="stranger"):
                return SayHello()
            case Heartbeat(agent_id="cursed"):
                raise LookupError("bug")
            case Fact():
                return FactAck(boot_id=message.boot_id, seq=message.seq)
        return None


def heartbeat(agent_id: str, seq: int = 1) -> bytes:
    return encode(Heartbeat(agent_id=agent_id, boot_id="b", seq=seq))


@asynccontextmanager
async def listener(book: Book, allowed: AllowedKeys) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        endpoint: str = await nursery.start(FactListener(book, "tcp://127.0.0.1:*", MANAGER, allowed).run)
        yield endpoint
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("error_logs_expected")
async def test_messages_reach_the_handler_with_the_key_and_answers_come_back() -> None:
    book = Book()
    allowed = AllowedKeys([AGENT_PUBLIC])
    curve = CurveClient(AGENT_PUBLIC, AGENT_SECRET, MANAGER.public_key)
    with trio.fail_after(10):
        async with (
            listener(book, allowed) as endpoint,
            open_socket(SocketType.DEALER, connect=endpoint, curve=curve) as socket,
        ):
            for broken in ([b"junk"], [b"a", b"b", b"c"], [heartbeat("cursed")]):
                await socket.send(broken)
            for seq in range(3):
                fact = Fact(agent_id="a", boot_id="b", seq=seq, event=KernelCreating(kernel_id=uuid4()))
                await socket.send([encode(fact)])
            answers = [decode_manager_message((await socket.recv())[0]) for _ in range(3)]
            assert answers == [FactAck(boot_id="b", seq=seq) for seq in range(3)]
            await socket.send([heartbeat("stranger")])
            assert decode_manager_message((await socket.recv())[0]) == SayHello()
            assert {key for key, _ in book.seen} == {AGENT_PUBLIC}

            allowed.discard(AGENT_PUBLIC)  # a key that is revoked is not heard any more, connected or not
            count = len(book.seen)
            await socket.send([heartbeat("stranger")])
            allowed.add(AGENT_PUBLIC)
            with trio.move_on_after(0.1):
                await socket.recv()
            assert len(book.seen) <= count + 1


async def test_a_slow_fact_does_not_hold_up_heartbeats() -> None:
    release = trio.Event()

    async def handler(sender_key: str, message: AgentMessage) -> ManagerMessage | None:
        if isinstance(message, Fact):
            await release.wait()
            return FactAck(boot_id="b", seq=message.seq)
        return SayHello()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(
                FactListener(handler, "tcp://127.0.0.1:*", None, AllowedKeys()).run
            )
            async with open_socket(SocketType.DEALER, connect=endpoint) as socket:
                fact = Fact(agent_id="a", boot_id="b", seq=1, event=KernelCreating(kernel_id=uuid4()))
                await socket.send([encode(fact)])
                await socket.send([heartbeat("a")])
                assert decode_manager_message((await socket.recv())[0]) == SayHello()
                release.set()
                assert decode_manager_message((await socket.recv())[0]) == FactAck(boot_id="b", seq=1)
            nursery.cancel_scope.cancel()


def test_unions_are_closed_to_each_other() -> None:
    """A call is no fact: each decoder refuses the other channel's messages."""
    with pytest.raises(MalformedMessage):
        decode_agent_message(encode(Ping()))
    with pytest.raises(MalformedMessage):
        decode_call(heartbeat("a"))
