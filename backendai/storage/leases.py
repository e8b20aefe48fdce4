"""Leases: who may do what only one process may do, with a fencing token against holders that slept."""

from __future__ import annotations

from datetime import timedelta

from backendai.bridges.postgres import Connection, Database


class LeaseLost(Exception):
    """Another process holds the lease now; what was to be written under it must not be."""


async def acquire(database: Database, name: str, holder: str, ttl: timedelta) -> int | None:
    """Take the lease when it is free or expired, or when no connection of its holder is left; answers its
    new token.

    ``holder`` must be the name of the asker's own connections: a process that was killed is then known to be
    gone as soon as the server has noticed, where nobody should have to wait for the lease to expire.
    """
    token: int | None = await database.fetchval(
        """
        INSERT INTO leases (name, holder, token, expires_at) VALUES ($1, $2, 1, now() + $3)
        ON CONFLICT (name) DO UPDATE
            SET holder = $2, token = leases.token + 1, expires_at = now() + $3
            WHERE leases.expires_at < now()
               OR NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = leases.holder)
        RETURNING token
        """,
        name,
        holder,
        ttl,
    )
    return token


async def renew(database: Database, name: str, token: int, ttl: timedelta) -> bool:
    """Hold the lease for another ``ttl`` from now; False when it is no longer ours."""
    found = await database.fetchval(
        "UPDATE leases SET expires_at = now() + $3 WHERE name = $1 AND token = $2 RETURNING true",
        name,
        token,
        ttl,
    )
    return found is True


async def release(database: Database, name: str, token: int) -> None:
    """Let the next one have it at once."""
    await database.execute(
        "UPDATE leases SET expires_at = '-infinity', holder = '' WHERE name = $1 AND token = $2", name, token
    )


async def check(connection: Connection, name: str, token: int) -> None:
    """Inside a transaction: raise :class:`LeaseLost` unless ``token`` is the current one, and keep it so
    until the transaction ends.
    """
    current = await connection.fetchval("SELECT token FROM leases WHERE name = $1 FOR SHARE", name)
    if current != token:
        raise LeaseLost(name)
