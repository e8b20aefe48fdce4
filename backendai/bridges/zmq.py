"""ZeroMQ sockets for Trio, with CURVE.

A ZeroMQ socket tells of changes through one file descriptor for both directions. It becomes readable when
the state of the socket *may* have changed, and any operation at all, in either direction, takes that signal
away. Hence the two rules everything here follows: of the tasks that wait, one (the leader) watches the
descriptor for all, because Trio allows one reader; and whoever touched the socket looks at its state again
on behalf of those who wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import trio
import zmq
from zmq import SocketType
from zmq.utils import z85

from backendai.core.account import Secret
from backendai.supervision.background import open_background

__all__ = [
    "AllowedKeys",
    "CurveClient",
    "CurveServer",
    "SocketType",
    "ZmqSocket",
    "new_curve_keys",
    "open_socket",
]

T = TypeVar("T")

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
#: As many as libzmq allows: its default of 1023 is below the size of a fleet.
_most_sockets = 65_535


def limit_sockets(most: int) -> None:
    """Have no more than ``most`` sockets open at once. To be called before the first: each one that may come
    costs 12 bytes from then on, which is most of a megabyte in a process that needs a handful.
    """
    global _most_sockets
    _most_sockets = most


def new_curve_keys() -> tuple[str, Secret]:
    """A fresh CURVE key pair, public and secret, in Z85 text of 40 characters."""
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), Secret(secret.decode("ascii"))


class AllowedKeys:
    """The public keys a CURVE server admits; may change while the server runs.

    A change decides about new handshakes. Peers already connected stay, so a server that must forget them at
    once also checks ``key in allowed`` for each message. ``on_refused`` hears of every key that was turned
    away; it must not raise or block, and anybody on the network can make it be called.
    """

    def __init__(self, keys: Iterable[str] = (), *, on_refused: Callable[[str], None] | None = None) -> None:
        self._keys = set(keys)
        self.on_refused = on_refused

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        self._keys.add(key)

    def discard(self, key: str) -> None:
        self._keys.discard(key)

    def replace(self, keys: Iterable[str]) -> None:
        self._keys = set(keys)

    def admit(self, key: str) -> bool:
        if key in self._keys:
            return True
        if self.on_refused is not None:
            self.on_refused(key)
        return False


@dataclass(frozen=True, slots=True)
class CurveServer:
    """This end proves to own ``secret_key`` and admits only clients whose public key is in ``allowed``."""

    secret_key: Secret = field(repr=False)
    allowed: AllowedKeys


@dataclass(frozen=True, slots=True)
class CurveClient:
    """This end owns the key pair and talks only to the server that owns ``server_key``."""

    public_key: str
    secret_key: Secret = field(repr=False)
    server_key: str


class ZmqSocket:
    """One socket, usable by any number of tasks at once. Made by :func:`open_socket`."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._descriptor = _integer(socket, zmq.FD)
        #: Scope around the wait of the task that watches the descriptor; cancelled to make it look again.
        self._leader: trio.CancelScope | None = None
        self._followers = trio.lowlevel.ParkingLot()
        #: Tasks waiting until they can receive / send.
        self._wanted: dict[int, int] = {zmq.POLLIN: 0, zmq.POLLOUT: 0}

    @property
    def endpoint(self) -> str:
        """Where the socket was last bound or connected, with the port that was chosen for it."""
        return cast("bytes", self._socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    async def send(self, frames: list[bytes]) -> None:
        """Send one message; waits while the queue is full or, with ``immediate``, nobody is connected.

        Cancellation: the message was not sent, not even a part of it.

        Raises :exc:`trio.ClosedResourceError` when this end is closed, :exc:`trio.BrokenResourceError` when a
        ``mandatory`` ROUTER knows no such peer.
        """
        await self._do(lambda: self._socket.send_multipart(frames, zmq.NOBLOCK), zmq.POLLOUT)

    def send_nowait(self, frames: list[bytes]) -> None:
        """Like :meth:`send`, but raises :exc:`trio.WouldBlock` instead of waiting."""
        try:
            self._attempt(lambda: self._socket.send_multipart(frames, zmq.NOBLOCK))
        except zmq.Again:
            self._wake_others()
            raise trio.WouldBlock from None

    async def recv(self) -> list[bytes]:
        """The frames of the next message. Cancellation loses no message.

        Raises :exc:`trio.ClosedResourceError` when this end is closed.
        """
        return await self._do(lambda: self._socket.recv_multipart(zmq.NOBLOCK), zmq.POLLIN)

    async def recv_with_key(self) -> tuple[str, list[bytes]]:
        """Like :meth:`recv`, with the CURVE public key that the sender proved to own; empty without CURVE."""
        frames = await self._do(lambda: self._socket.recv_multipart(zmq.NOBLOCK, copy=False), zmq.POLLIN)
        return _user_id(frames[0]), [frame.bytes for frame in frames]

    async def _do(self, attempt: Callable[[], T], event: int) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            try:
                result = self._attempt(attempt)
            except zmq.Again:
                await self._wait_until(event)
                waited = True
            else:
                if not waited:  # give the others a turn, but what has succeeded cannot be cancelled any more
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return result

    def _attempt(self, attempt: Callable[[], T]) -> T:
        if self._socket.closed:
            raise trio.ClosedResourceError
        try:
            result = attempt()
        except zmq.Again:
            raise
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise trio.BrokenResourceError("no such peer") from error
            raise
        self._wake_others()
        return result

    def _wake_others(self) -> None:
        """The operation just done took the descriptor's signal: look at the state for those who wait."""
        if self._leader is not None:
            events = _integer(self._socket, zmq.EVENTS)
            if any(count and events & event for event, count in self._wanted.items()):
                self._leader.cancel()

    async def _wait_until(self, event: int) -> None:
        self._wanted[event] += 1
        try:
            while True:
                if self._socket.closed:
                    raise trio.ClosedResourceError
                events = _integer(self._socket, zmq.EVENTS)
                if events & event:
                    return
                if self._leader is None:
                    await self._watch()
                else:
                    self._wake_others()
                    await self._followers.park()
        finally:
            self._wanted[event] -= 1

    async def _watch(self) -> None:
        """Wait for the descriptor; afterwards everybody who waits looks for himself, and one watches on."""
        with trio.CancelScope() as self._leader:
            try:
                await trio.lowlevel.wait_readable(self._descriptor)
            finally:
                self._leader = None
                self._followers.unpark_all()

    def close(self) -> None:
        """Tasks that wait get :exc:`trio.ClosedResourceError`. Closing twice is harmless."""
        if not self._socket.closed:
            trio.lowlevel.notify_closing(self._descriptor)
            self._socket.close()
            self._followers.unpark_all()


def _integer(socket: zmq.Socket[bytes], option: int) -> int:
    return cast("int", socket.getsockopt(option))


def _user_id(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


@asynccontextmanager
async def open_socket(
    kind: SocketType,
    *,
    bind: str | None = None,
    connect: str | None = None,
    curve: CurveServer | CurveClient | None = None,
    hwm: int = 1000,
    max_message: int = 32 << 20,
    linger: timedelta = timedelta(0),
    reconnect: tuple[timedelta, timedelta] = (timedelta(milliseconds=100), timedelta(seconds=2)),
    heartbeat: timedelta | None = None,
    handshake: timedelta = timedelta(seconds=5),
    identity: bytes | None = None,
    subscribe: bytes | None = None,
    immediate: bool = False,
    mandatory: bool = False,
) -> AsyncIterator[ZmqSocket]:
    """A socket of ``kind``, bound to or connected with ``ipc://``, ``tcp://`` or ``inproc://`` endpoints.

    IPv6 is used where the endpoint has an address in brackets.

    ``hwm``: messages queued per peer and direction before a sender waits (a ROUTER drops instead).
    ``max_message``: bytes of one frame; a peer that sends a larger one is disconnected.
    ``linger``: how long leaving the block waits for unsent messages to go out.
    ``reconnect``: first and longest pause between attempts.
    ``heartbeat``: how often to probe an idle TCP peer; one that stays silent for three times this is dropped.
    ``handshake``: after this long without having agreed on a connection, either side drops it.
    ``subscribe``: prefix for SUB sockets. ``immediate``: queue only for completed connections.
    ``mandatory``: a ROUTER refuses messages for unknown peers instead of dropping them.

    Raises :exc:`OSError` with the endpoint in its text when it is malformed or cannot be bound, and
    :exc:`ValueError` when a key of ``curve`` is none.
    """
    async with AsyncExitStack() as stack:
        if isinstance(curve, CurveServer):
            # ZAP handlers are per context, so each server has its own.
            context = await stack.enter_async_context(_open_context())
            await stack.enter_async_context(_open_gate(context, curve.allowed))
        elif linger:
            context = await stack.enter_async_context(_open_context())
        else:
            context = _shared_context()
        raw = context.socket(kind)
        stack.callback(raw.close)
        raw.setsockopt(zmq.SNDHWM, hwm)
        raw.setsockopt(zmq.RCVHWM, hwm)
        raw.setsockopt(zmq.MAXMSGSIZE, max_message)
        raw.setsockopt(zmq.LINGER, _milliseconds(linger))
        raw.setsockopt(zmq.RECONNECT_IVL, _milliseconds(reconnect[0]))
        raw.setsockopt(zmq.RECONNECT_IVL_MAX, _milliseconds(reconnect[1]))
        raw.setsockopt(zmq.HANDSHAKE_IVL, _milliseconds(handshake))
        raw.setsockopt(zmq.IPV6, int("[" in (bind or connect or "")))
        raw.setsockopt(zmq.IMMEDIATE, int(immediate))
        if heartbeat is not None:
            raw.setsockopt(zmq.HEARTBEAT_IVL, _milliseconds(heartbeat))
            raw.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * _milliseconds(heartbeat))
        if identity is not None:
            raw.setsockopt(zmq.IDENTITY, identity)
        if subscribe is not None:
            raw.setsockopt(zmq.SUBSCRIBE, subscribe)
        if mandatory:
            raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            _apply_curve(raw, curve)
        except (zmq.ZMQError, UnicodeEncodeError):
            raise ValueError("not a CURVE key") from None  # what it is instead may be a secret
        try:
            if bind is not None:
                raw.bind(bind)
            if connect is not None:
                raw.connect(connect)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"cannot use {bind or connect}: {error.strerror}") from error
        socket = ZmqSocket(raw)
        stack.callback(socket.close)
        yield socket


def _apply_curve(raw: zmq.Socket[bytes], curve: CurveServer | CurveClient | None) -> None:
    match curve:
        case CurveServer():
            raw.setsockopt(zmq.CURVE_SERVER, 1)
            raw.setsockopt(zmq.CURVE_SECRETKEY, curve.secret_key.reveal().encode("ascii"))
        case CurveClient():
            raw.setsockopt(zmq.CURVE_PUBLICKEY, curve.public_key.encode("ascii"))
            raw.setsockopt(zmq.CURVE_SECRETKEY, curve.secret_key.reveal().encode("ascii"))
            raw.setsockopt(zmq.CURVE_SERVERKEY, curve.server_key.encode("ascii"))


def _shared_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The one of this process; a fork gets a new one. It is never terminated, it goes with the process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    if context.get(zmq.MAX_SOCKETS) != _most_sockets:
        context.set(zmq.MAX_SOCKETS, _most_sockets)
    return context


@asynccontextmanager
async def _open_context() -> AsyncIterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        # Blocks until the sockets' threads are done, for as long as unsent messages may linger.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(context.term)


@asynccontextmanager
async def _open_gate(context: zmq.Context[zmq.Socket[bytes]], allowed: AllowedKeys) -> AsyncIterator[None]:
    """Admit CURVE clients of the context by ``allowed``. A body's error travels out as it is."""
    raw = context.socket(SocketType.REP)
    raw.setsockopt(zmq.LINGER, 0)
    raw.bind(_ZAP_ENDPOINT)
    gate = ZmqSocket(raw)

    async def start(nursery: trio.Nursery) -> None:
        nursery.start_soon(_guard, gate, allowed)

    try:
        async with open_background(start, name="the gate of CURVE clients"):
            yield
    finally:
        gate.close()


async def _guard(gate: ZmqSocket, allowed: AllowedKeys) -> None:
    """Answer libzmq's questions about connecting clients (ZAP, RFC 27)."""
    while True:
        version, request_id, _domain, _address, _identity, mechanism, *credentials = await gate.recv()
        key = ""
        if version == _ZAP_VERSION and mechanism == b"CURVE" and credentials:
            key = z85.encode(credentials[0]).decode("ascii")
        if key and allowed.admit(key):
            verdict = [b"200", b"OK", key.encode("ascii"), b""]
        else:
            # 300, "try again", leaves the client waiting until ``handshake`` is over, then it connects anew.
            # After a 400 its libzmq would give up for good and never notice that it has been allowed since.
            verdict = [b"300", b"key not allowed", b"", b""]
        await gate.send([_ZAP_VERSION, request_id, *verdict])


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
