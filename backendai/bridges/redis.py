"""Redis (or Valkey) for Trio: one connection per logical database, spoken to in RESP2.

A Trio socket and sixty lines of protocol serve a command in about a tenth of the CPU time that an asyncio
client takes through the asyncio loop, and what we send is a handful of commands. What is kept in Redis may
be lost at any moment, so callers expect :class:`RedisUnavailable` and go on without.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trio

Argument = str | bytes | int | float
Command = Sequence[Argument]

#: Seconds for an exchange, and for connecting.
_TIMEOUT = 2.0
#: Seconds without another attempt after the server could not be reached.
_RETRY_AFTER = 0.5
_RECEIVE = 65536


class RedisUnavailable(Exception):
    """The server cannot be reached or did not answer in time. Whether commands took effect is unknown."""


class RedisError(Exception):
    """The server refused a command."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent in full only to a server that does not know it yet."""

    source: str

    @property
    def digest(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class RedisBridge:
    """Commands to one logical database; concurrent callers take turns. Made by :func:`open_redis`.

    A failed exchange closes the connection and the next command opens a new one, so the bridge heals by
    itself. An exchange that has begun is finished even when its caller is cancelled: it takes well under a
    millisecond, and giving up half way would cost the connection.
    """

    def __init__(self, url: str, db: int) -> None:
        self._url = url
        self._db = db
        self._turn = trio.Lock()
        self._stream: trio.abc.Stream | None = None
        self._buffer = bytearray()
        self._retry_at = 0.0
        #: Exchanges with the server so far; tests of hot paths count with it.
        self.round_trips = 0

    async def call(self, *command: Argument) -> Any:
        """One command, one answer: ``bytes``, ``int``, ``None`` or a list of those. Raises
        :class:`RedisError`.
        """
        (answer,) = await self.pipeline([command])
        return answer

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once, answer all answers; raises the first :class:`RedisError` among them."""
        async with self._turn:
            answers = await self._exchange(commands)
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    async def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """Run a script, atomically as all scripts are."""
        try:
            return await self.call("EVALSHA", script.digest, len(keys), *keys, *args)
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.call("EVAL", script.source, len(keys), *keys, *args)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _TIMEOUT):
            try:
                stream = self._stream or await self._connect()
                self.round_trips += 1
                await stream.send_all(b"".join(map(_encode, commands)))
                return [await self._read() for _ in commands]
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ValueError) as error:
                await self._drop()
                raise RedisUnavailable(str(error) or type(error).__name__) from error
        await self._drop()
        raise RedisUnavailable(f"no answer within {_TIMEOUT:g} s")

    async def _connect(self) -> trio.abc.Stream:
        if trio.current_time() < self._retry_at:
            raise OSError("not reachable a moment ago")
        self._retry_at = trio.current_time() + _RETRY_AFTER
        self._buffer.clear()
        self._stream, greeting = await _open_stream(self._url, self._db)
        await self._stream.send_all(b"".join(map(_encode, greeting)))
        for _ in greeting:
            answer = await self._read()
            if isinstance(answer, RedisError):
                raise OSError(str(answer))
        self._retry_at = 0.0
        return self._stream

    async def _drop(self) -> None:
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)
            self._stream = None

    async def _read(self) -> Any:
        kind, rest = await self._read_line()
        match kind:
            case b"+":
                return rest
            case b"-":
                return RedisError(rest.decode(errors="replace"))
            case b":":
                return int(rest)
            case b"$":
                size = int(rest)
                return None if size < 0 else await self._read_exactly(size)
            case b"*":
                count = int(rest)
                return None if count < 0 else [await self._read() for _ in range(count)]
        raise ValueError("the server does not speak RESP2")

    async def _read_line(self) -> tuple[bytes, bytes]:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line[:1], line[1:]

    async def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size + 2:
            await self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[: size + 2]
        return data

    async def _receive(self) -> None:
        assert self._stream is not None
        data = await self._stream.receive_some(_RECEIVE)
        if not data:
            raise OSError("the server closed the connection")
        self._buffer += data


@asynccontextmanager
async def open_redis(url: str, db: int) -> AsyncIterator[RedisBridge]:
    """A bridge to logical database ``db`` of the server at ``url``; connects with the first command.

    ``url`` is ``redis://[user:password@]host[:port]``, ``rediss://`` for TLS, or ``unix:///path``.
    """
    bridge = RedisBridge(url, db)
    try:
        yield bridge
    finally:
        await bridge._drop()


def _encode(command: Command) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


async def _open_stream(url: str, db: int) -> tuple[trio.abc.Stream, list[Command]]:
    """The stream and the commands to begin with."""
    parts = urlsplit(url)
    stream: trio.abc.Stream
    if parts.scheme == "unix":
        stream = await trio.open_unix_socket(unquote(parts.path))
        password = parse_qs(parts.query).get("password", [None])[0]
    elif parts.scheme in ("redis", "rediss", "valkey"):
        host = parts.hostname or "127.0.0.1"
        tcp = await trio.open_tcp_stream(host, parts.port or 6379)
        tcp.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        secure = parts.scheme == "rediss"
        stream = trio.SSLStream(tcp, ssl.create_default_context(), server_hostname=host) if secure else tcp
        password = unquote(parts.password) if parts.password else None
    else:
        raise ValueError(f"not an address of a Redis server: {parts.scheme}://...")
    greeting: list[Command] = []
    if password is not None:
        user = [unquote(parts.username)] if parts.username else []
        greeting.append(["AUTH", *user, password])
    greeting.append(["SELECT", db])
    return stream, greeting
