"""Redis (or Valkey) for Trio: one connection of redis-py per logical database, through the asyncio loop.

The library's connections are used below its client: what we send is a handful of commands in pipelines,
and the client's pool, callbacks and retries cost more than the exchange. What is kept in Redis may be lost
at any moment, so callers expect :class:`RedisUnavailable` and go on without.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis.exceptions
import trio
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from backendai.bridges.asyncio_loop import run_in_asyncio

Argument = str | bytes | int | float
Command = Sequence[Argument]

#: Seconds for an exchange, and for connecting.
_TIMEOUT = 2.0
#: Seconds without another attempt after the server could not be reached.
_RETRY_AFTER = 0.5


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
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        # Said here because a number in the URL, even the usual /0, would win over an argument.
        pool.connection_kwargs["db"] = db
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._turn = trio.Lock()
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
            if isinstance(answer, redis.exceptions.ResponseError):
                raise RedisError(str(answer)) from answer
        return answers

    async def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """Run a script, atomically as all scripts are."""
        try:
            return await self.call("EVALSHA", script.digest, len(keys), *keys, *args)
        except RedisError as error:
            if not isinstance(error.__cause__, redis.exceptions.NoScriptError):
                raise
        return await self.call("EVAL", script.source, len(keys), *keys, *args)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        if trio.current_time() < self._retry_at:
            raise RedisUnavailable("not reachable a moment ago")
        connection = self._connection
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _TIMEOUT):
            try:
                if not connection.is_connected:
                    self._retry_at = trio.current_time() + _RETRY_AFTER
                    await run_in_asyncio(connection.connect())  # type: ignore[no-untyped-call]
                    self._retry_at = 0.0
                self.round_trips += 1
                return await run_in_asyncio(self._ask(commands))
            except (OSError, redis.exceptions.RedisError) as error:
                await self.drop()
                raise RedisUnavailable(str(error) or type(error).__name__) from error
        await self.drop()
        raise RedisUnavailable(f"no answer within {_TIMEOUT:g} s")

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip. Runs on the asyncio side; an answer may be a refusal."""
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except redis.exceptions.ResponseError as refusal:
                answers.append(refusal)
        return answers

    async def drop(self) -> None:
        """Close the connection; the next command opens another."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _TIMEOUT):
            await run_in_asyncio(self._connection.disconnect(nowait=True))


@asynccontextmanager
async def open_redis(url: str, db: int) -> AsyncIterator[RedisBridge]:
    """A bridge to logical database ``db`` of the server at ``url``; connects with the first command.

    ``url`` is ``redis://[user:password@]host[:port]``, ``rediss://`` for TLS, or ``unix:///path``. Needs the
    loop of :func:`backendai.bridges.asyncio_loop.open_asyncio_loop`. Raises :class:`ValueError` for another
    kind of address.
    """
    bridge = RedisBridge(url, db)
    try:
        yield bridge
    finally:
        await bridge.drop()
