"""Servers that ``up`` is told to use: seen to be reachable and fit before anything is started on them."""

from __future__ import annotations

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import DatabaseUnavailable, open_database
from backendai.bridges.redis import RedisError, RedisUnavailable, open_redis
from backendai.cli import catalogue as c
from backendai.core.account import Secret
from backendai.storage.fitness import DatabaseUnfit, check_before_migration

#: The oldest major version of Redis that this is tried with; Valkey says it is Redis 7.
_OLDEST_REDIS = 6
#: The highest of the databases that are used.
_LAST_DATABASE = 4


class ServerUnfit(Exception):
    """A server that was named cannot be used; the text is one line that says which and why."""


async def check_given_servers(database_url: Secret | None, redis_url: Secret | None) -> None:
    """Look at those that are given. Raises :class:`ServerUnfit`."""
    async with open_asyncio_loop():
        try:
            if database_url is not None:
                async with open_database(database_url.reveal(), max_size=1) as database:
                    await check_before_migration(database)
        except (DatabaseUnavailable, DatabaseUnfit) as error:
            raise ServerUnfit(f"{c.DATABASE_URL.flag}: {error}") from None
        try:
            if redis_url is not None:
                await _check_redis(redis_url)
        except (RedisUnavailable, RedisError) as error:
            raise ServerUnfit(f"{c.REDIS_URL.flag}: {error}") from None


async def _check_redis(url: Secret) -> None:
    async with open_redis(url.reveal(), _LAST_DATABASE) as redis:
        told: bytes = await redis.call("INFO", "server")
    facts = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
    version = facts.get("redis_version", "0")
    if int(version.partition(".")[0]) < _OLDEST_REDIS:
        raise RedisUnavailable(f"Redis {version} is too old: {_OLDEST_REDIS} or newer is needed")
