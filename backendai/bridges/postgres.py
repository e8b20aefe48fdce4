"""PostgreSQL for Trio: a small pool of asyncpg connections, transactions, and the notification feed.

The pool is our own: a stack of idle connections costs nothing per query, where asyncpg's sends a reset
statement with each release. Statements are prepared once per connection and kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import asyncpg
import msgspec
import trio

from backendai.bridges.asyncio_loop import run_in_asyncio

T = TypeVar("T")
#: A row reads like a mapping of column name to value.
Row: TypeAlias = Mapping[str, Any]
UniqueViolation = asyncpg.UniqueViolationError

#: Seconds that ending a transaction may take although its owner was cancelled.
_FINISH_TIMEOUT = 5.0
_CONNECT_TIMEOUT = 10.0
_CLOSE_TIMEOUT = 1.0
#: Notifications that may wait for the reader of a feed before the feed counts as lost.
_FEED_BUFFER = 20_000

#: What asyncpg raises when the server is out of reach or hangs up.
_GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)


class DatabaseUnavailable(Exception):
    """The server is out of reach or has cut the connection. Whether the statement took effect is unknown."""


class Connection:
    """A connection held by one task, in or outside a transaction. Placeholders in SQL are ``$1``, ``$2``,
    ...
    """

    __slots__ = ("_database", "_raw")

    def __init__(self, database: Database, raw: Any) -> None:
        self._database = database
        self._raw = raw

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        return await self._run(self._raw.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        row: Row | None = await self._run(self._raw.fetchrow(sql, *args))
        return row

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._run(self._raw.fetchval(sql, *args))

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement for its effect; answers its status, e.g. ``UPDATE 1``."""
        return await self._run(self._raw.execute(sql, *args))

    async def _run(self, query: Coroutine[Any, Any, T]) -> T:
        self._database.round_trips += 1
        return await _ask(self._raw, query)


class Database:
    """A pool of connections to one database. Made by :func:`open_database`."""

    def __init__(self, dsn: str, max_size: int, application: str) -> None:
        self._dsn = dsn
        self.application = application
        self._idle: list[Any] = []
        self._places = trio.Semaphore(max_size)
        #: Statements sent so far, BEGIN and COMMIT among them; tests of hot paths count with it.
        self.round_trips = 0

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        async with self.connection() as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        async with self.connection() as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        async with self.connection() as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        async with self.connection() as connection:
            return await connection.execute(sql, *args)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Hold a connection; each statement is its own transaction. Waits while all are taken."""
        async with self._places:
            raw = await self._take()
            try:
                yield Connection(self, raw)
            except DatabaseUnavailable:
                # The server went away: what idles here is most likely dead as well.
                for other in (raw, *self._idle):
                    other.terminate()
                self._idle.clear()
                raise
            finally:
                if not raw.is_closed():
                    self._idle.append(raw)

    @asynccontextmanager
    async def transaction(
        self, *, durable: bool = True, lock: int | None = None
    ) -> AsyncIterator[Connection]:
        """Hold a connection in a transaction: committed when the block ends, rolled back when it raises.

        Cancellation inside the block rolls back. The commit itself cannot be cancelled, only time out: once
        the block has ended normally, its outcome is definite unless :class:`DatabaseUnavailable` is raised.

        Without ``durable`` the commit does not wait for the disk: a crash of the server's machine may undo it
        (whole, never in part). ``lock`` is an advisory lock to take first, held until the end.
        """
        async with self.connection() as connection:
            raw = connection._raw
            try:
                await connection.execute(_begin(durable, lock))
                yield connection
            except BaseException:
                with suppress(DatabaseUnavailable):  # then nothing was written either
                    await self._finish(connection, "ROLLBACK")
                raise
            else:
                await self._finish(connection, "COMMIT")
            finally:
                if not raw.is_closed() and raw.is_in_transaction():
                    raw.terminate()

    async def _finish(self, connection: Connection, verb: str) -> None:
        raw = connection._raw
        if raw.is_closed():
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _FINISH_TIMEOUT) as scope:
            await connection.execute(verb)
        if scope.cancelled_caught:
            raw.terminate()
            raise DatabaseUnavailable(f"{verb} took longer than {_FINISH_TIMEOUT:g} s")

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """Hear notifications on a connection of its own, as ``(channel, payload)``, from entry of the block
        on.

        The iterator raises :class:`DatabaseUnavailable` when the connection is lost or the reader has
        fallen far behind: notifications are then missing, and only a fresh read of the tables can tell what
        happened.
        """
        raw = await self._connect()
        send, receive = trio.open_memory_channel[tuple[str, str]](_FEED_BUFFER)

        def heard(_connection: object, _pid: int, channel: str, payload: object) -> None:
            try:
                send.send_nowait((channel, str(payload)))
            except trio.WouldBlock:
                send.close()
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                pass  # the reader has left, or was cut off

        async def feed() -> AsyncIterator[tuple[str, str]]:
            async for item in receive:
                yield item
            raise DatabaseUnavailable("the notification feed was lost")

        raw.add_termination_listener(lambda _connection: send.close())
        try:
            for channel in channels:
                await _ask(raw, raw.add_listener(channel, heard))
            yield feed()
        finally:
            receive.close()
            await _close(raw)

    async def _take(self) -> Any:
        while self._idle:
            raw = self._idle.pop()
            if not raw.is_closed():
                return raw
        return await self._connect()

    async def _connect(self) -> Any:
        try:
            raw = await run_in_asyncio(
                asyncpg.connect(
                    self._dsn,
                    timeout=_CONNECT_TIMEOUT,
                    max_cached_statement_lifetime=0,
                    server_settings={"application_name": self.application},
                )
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Refusals too, as of a password or of one connection too many: there is no database for us.
            raise DatabaseUnavailable(str(error) or f"no answer within {_CONNECT_TIMEOUT:g} s") from error
        codec = {"schema": "pg_catalog", "encoder": _to_json, "decoder": msgspec.json.decode}
        try:
            await _ask(raw, raw.set_type_codec("jsonb", **codec))
        except BaseException:
            raw.terminate()
            raise
        return raw


async def _ask(raw: Any, query: Coroutine[Any, Any, T]) -> T:
    """Run something on a connection, and tell its loss from other errors."""
    try:
        return await run_in_asyncio(query)
    except asyncpg.QueryCanceledError:
        raise
    except _GONE as error:
        raise DatabaseUnavailable(str(error)) from error
    except asyncpg.InternalClientError as error:
        # The server hung up in the middle of an exchange that was then cancelled.
        raw.terminate()
        raise DatabaseUnavailable(str(error)) from error
    except asyncpg.InterfaceError as error:
        if raw.is_closed():
            raise DatabaseUnavailable(str(error)) from error
        raise


def _begin(durable: bool, lock: int | None) -> str:
    """Several statements for the price of one round trip."""
    begin = "BEGIN" if durable else "BEGIN; SET LOCAL synchronous_commit = off"
    return begin if lock is None else f"{begin}; SELECT pg_advisory_xact_lock({lock:d})"


async def _close(raw: Any) -> None:
    """Say goodbye to the server, unless that takes long."""
    with (
        trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_TIMEOUT),
        suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    ):
        await run_in_asyncio(raw.close())
    raw.terminate()


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


@asynccontextmanager
async def open_database(
    dsn: str, *, min_size: int = 1, max_size: int = 8, application: str = "backendai"
) -> AsyncIterator[Database]:
    """Open a pool of up to ``max_size`` connections; ``min_size`` of them at once, which proves the address.

    ``application`` is the name of all its connections in ``pg_stat_activity``, at most 63 bytes.
    Needs the loop of :func:`backendai.bridges.asyncio_loop.open_asyncio_loop`. Raises
    :class:`DatabaseUnavailable` when the server cannot be reached.
    """
    database = Database(dsn, max_size, application)
    try:
        for _ in range(min_size):
            database._idle.append(await database._connect())
        yield database
    finally:
        for raw in database._idle:
            await _close(raw)
        database._idle.clear()
